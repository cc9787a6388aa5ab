"""explain: what each recipe would do to a model of torch."""

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
from torch import nn  # noqa: E402

from fastinit.adapters.torch import deferred, explain, initialize_, materialize  # noqa: E402


def build():
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
    nn.init.normal_(model[2].weight, std=0.02)
    nn.init.zeros_(model[2].bias)
    return model


def test_explain_says_what_filling_does():
    with deferred():
        model = build()
    found = explain(model)
    assert all(parameter.is_meta for parameter in model.parameters())
    differences = [row.difference for row in found]
    assert differences == ["auto and fans: distribution", "auto: constant instead of drawn", "fans: scale", "same"]
    for recipe in ("own", "auto", "fans"):
        with deferred():
            other = build()
        record = materialize(other, recipe)
        assert [entry.initializer for entry in record] == [getattr(row, recipe) for row in found]


def test_explain_without_programs():
    model = build()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    found = explain(model)
    assert all(map(torch.equal, model.parameters(), before))
    assert {row.difference for row in found} == {"no program"} and {row.own for row in found} == {None}
    record = initialize_(model, "auto")
    assert [row.auto for row in found] == [entry.initializer for entry in record]
    assert "0.weight   (32, 64)  -    normal 0.177" in str(found)
