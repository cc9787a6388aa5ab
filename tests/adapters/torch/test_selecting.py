"""Parts of models: what is not named keeps its bytes, and what is named has those of the whole."""

import copy
import math

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch import deferred, fill_, initialize_, materialize, verify  # noqa: E402


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.copy = copy.deepcopy(self.body[3])
        self.head = nn.Linear(8, 3)
        self.register_buffer("noise", torch.randn(9))
        self.odd = nn.Parameter(torch.ones(3))  # which torch's layers know nothing of


def bytes_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def trained():
    """A model that holds other numbers than its initialization everywhere."""
    with deferred():
        model = Model()
    materialize(model, seed=9)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(3)
    return model


@pytest.mark.parametrize(
    ("only", "skip", "changed"),
    [
        ("head.*", None, {"head.weight", "head.bias"}),
        (
            "body.4.*",
            None,
            {f"body.4.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")},
        ),
        ("copy.weight", None, {"copy.weight"}),
        (lambda parameter: parameter.name.startswith("head"), "*.bias", {"head.weight"}),
    ],
    ids=["head", "norm", "copy", "function"],
)
@pytest.mark.parametrize("recipe", ["own", "auto"])
def test_what_is_not_named_keeps_its_bytes(recipe, only, skip, changed):
    with deferred():
        whole = Model()
    materialize(whole, recipe, seed=3)
    model = trained()
    before, expected = bytes_of(model), bytes_of(whole)
    record = initialize_(model, recipe, seed=3, only=only, skip=skip)
    assert {entry.name for entry in record} == {name for name in changed if "running" not in name and "num" not in name}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (expected if name in changed else before)[name]), name
    assert {row.verdict for row in verify(record, model)} == {"equal", "unknown"}


def test_what_lacks_in_a_checkpoint():
    with deferred():
        model, whole = Model(), Model()
    materialize(whole, seed=3)
    there = {name: tensor + 3 for name, tensor in bytes_of(whole).items() if not name.startswith("head")}
    materialize(model, seed=3, only=lambda parameter: parameter.name not in there)
    assert model.body[0].weight.is_meta and torch.equal(model.head.weight, whole.head.weight)
    model.load_state_dict(there, strict=False, assign=True)
    assert torch.equal(model.body[0].weight, whole.body[0].weight + 3)
    assert torch.equal(model.head.bias, whole.head.bias)


def test_a_part_after_the_other_is_the_whole():
    with deferred():
        model, whole = Model(), Model()
    materialize(model, seed=3, skip="body.*", dtype=torch.bfloat16)
    materialize(model, seed=3, only="body.*", dtype=torch.bfloat16)
    materialize(whole, seed=3, dtype=torch.bfloat16)
    for name, tensor in whole.named_parameters():
        assert torch.equal(model.get_parameter(name), tensor), name


def test_what_no_rule_knows_need_not_be_known_if_it_is_not_meant():
    model = Model()
    with pytest.raises(fastinit.UnmatchedParameter, match="odd"):
        initialize_(model, "auto")
    before = bytes_of(model)
    initialize_(model, "auto", seed=1, skip="odd")
    assert torch.equal(model.odd, before["odd"]) and not torch.equal(model.head.weight, before["head.weight"])


def test_lora_beside_a_trained_base():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    base = trained()
    before = bytes_of(base)
    with deferred():
        model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["head"], r=2))
    assert all(tensor.is_meta == ("lora" in name) for name, tensor in model.named_parameters())
    record = materialize(model, seed=4, only="*lora*")
    for name, tensor in before.items():
        found = model.get_base_model().state_dict()
        assert torch.equal(found.get(name, found.get(name.replace("head.", "head.base_layer."))), tensor), name
    assert all(not tensor.any() for name, tensor in model.named_parameters() if "lora_B" in name)
    (name,) = (entry.name for entry in record if "lora_A" in entry.name)
    bound = 1 / math.sqrt(8)  # of PEFT's kaiming_uniform_(a=sqrt(5)), for 8 inputs
    given = fill_(torch.empty(2, 8), fastinit.Uniform(-bound, bound), fastinit.Key(4).fold_in(name))
    torch.testing.assert_close(model.get_parameter(name), nn.Parameter(given), rtol=1e-6, atol=0)
    assert verify(record, model)[name].verdict == "equal"


def test_what_means_nothing_is_said_before_anything_is_written():
    model = trained()
    before = bytes_of(model)
    with pytest.raises(ValueError, match=r"only='hed.\*' matches no parameter"):
        initialize_(model, only="hed.*")
    with pytest.raises(ValueError, match="none of the parameters that are meant is on the meta device"):
        materialize(model, only="head.*")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
