"""One warning where what is filled is lost, and none where it is not."""

import gc
import sys
import warnings

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize, prune  # noqa: E402

from fastinit.adapters.torch import drawing, init, parametrized  # noqa: E402
from fastinit.adapters.torch.patching import patched  # noqa: E402

LOST = "the output of a parametrization.* what is filled into it is lost"


@pytest.fixture(autouse=True)
def nothing_said_or_searched_yet(monkeypatch):
    drawing.notices.said.clear()
    monkeypatch.setattr(parametrized, "_searched", iter(range(10**6)))


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).mT


class Transposed(nn.Module):
    def forward(self, weight):
        return weight.mT


def old_style(norm):
    with warnings.catch_warnings(action="ignore"):
        return norm(nn.Linear(4, 4))


COMPUTED = {
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
    "one's own": lambda: parametrize.register_parametrization(nn.Linear(4, 4), "weight", Symmetric()) or None,
    "old weight norm": lambda: old_style(nn.utils.weight_norm),
    "old spectral norm": lambda: old_style(nn.utils.spectral_norm),
    "pruned": lambda: prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5),
}


@pytest.mark.parametrize("make", COMPUTED.values(), ids=COMPUTED)
def test_what_is_lost_is_said_once(make):
    layer = make()
    layer(torch.zeros(1, 4))  # before which an old spectral norm has computed nothing
    with pytest.warns(UserWarning, match=LOST) as said:
        for fill in (init.uniform_, init.kaiming_normal_, init.orthogonal_, init.zero_init_):
            fill(layer.weight)
    assert len(said) == 1 and said[0].filename == __file__


def searches(function):
    """How many times a function looks through all objects of the process."""
    calls = []
    sys.setprofile(lambda frame, event, called: calls.append(called) if event == "c_call" else None)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls.count(gc.get_referrers)


def test_objects_are_searched_seldom():
    layers = [parametrizations.weight_norm(nn.Linear(4, 4)) for _ in range(5)]
    with pytest.warns(UserWarning, match=LOST):
        assert searches(lambda: [init.normal_(layer.weight) for layer in layers]) == 1


def test_objects_are_searched_a_few_times_at_most():
    weight = nn.Parameter(torch.zeros(4, 4))
    assert searches(lambda: [init.normal_(weight * 2.0) for _ in range(30)]) <= 10


def test_every_way_to_fill_says_it():
    layer = parametrizations.weight_norm(nn.Conv1d(4, 4, 3))
    for fill in (init.dirac_, init.delta_orthogonal_, init.normal_, lambda weight: init.icnr_(weight, key=1)):
        drawing.notices.said.clear()
        with pytest.warns(UserWarning, match=LOST):
            fill(layer.weight)


def test_layers_that_are_reset_under_patched():
    layer = parametrizations.weight_norm(nn.Linear(4, 4))
    with patched(), pytest.warns(UserWarning, match=LOST):
        layer.reset_parameters()


def test_nothing_is_said_of_what_is_not_lost():
    """Warnings are errors here."""
    layer = nn.Linear(4, 4)
    transposed = nn.Linear(4, 4)
    parametrize.register_parametrization(transposed, "weight", Transposed(), unsafe=True)
    normed = parametrizations.weight_norm(nn.Linear(4, 4))
    given = torch.zeros(4, 4, requires_grad=True)
    for tensor in (
        *(layer.weight, layer.weight[:2], layer.weight.T, layer.weight.view(2, 2, 4), *layer.weight.chunk(2)),
        *(layer.weight.data, layer.weight.detach(), torch.zeros(4, 4), nn.Parameter(torch.zeros(4, 4))),
        *(given, given * 1, given.clone(), given.double(), torch.zeros_like(given)),
        *(transposed.weight, normed.parametrizations.weight.original1, normed.weight.clone(), normed.weight.double()),
        *(normed(given), normed.weight @ given, normed.weight.detach(), torch.empty_like(normed.weight)),
    ):
        init.normal_(tensor)
        init.kaiming_uniform_(tensor)
    assert not drawing.notices.said
    before = transposed.weight.clone()
    assert not torch.equal(init.normal_(transposed.weight), before) and torch.equal(
        transposed(torch.eye(4)), transposed(torch.eye(4))
    )


def test_the_search_ends():
    """Of a graph that is long, and after a number of them."""
    tensor = torch.zeros(4, 4, requires_grad=True)
    for _ in range(2000):
        tensor = tensor + 1
    init.normal_(tensor)
    layer = parametrizations.weight_norm(nn.Linear(4, 4))
    parametrized._searched = iter(range(10**6, 10**7))
    init.normal_(layer.weight)
    assert not drawing.notices.said
