"""verify: what became of each tensor since the record was written."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch import deferred, initialize_, materialize, verify  # noqa: E402


class Model(nn.Module):
    """A bit of every kind of program, and a tie."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 16, padding_idx=0)
        self.mlp = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
        self.recurrent = nn.GRU(16, 16)
        self.decay = nn.Parameter(torch.rand(16, 16).exp().log1p())
        self.two = copy.deepcopy(self.mlp[0])
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.words.weight
        nn.init.trunc_normal_(self.mlp[2].weight, std=0.02)
        self.scale = nn.Parameter(torch.full((3,), 1e-5))


@pytest.fixture(params=[None, "auto"], ids=["own", "auto"])
def made(request):
    with deferred():
        model = Model()
    return materialize(model, request.param, seed=3), model


def test_what_was_filled_is_equal(made):
    record, model = made
    found = verify(record, model)
    assert found.is_sound and {row.verdict for row in found} == {"equal"} and len(found) == len(record)
    assert all(row.comparison.size == model.get_parameter(row.name).numel() for row in found)
    assert str(found) == f"{len(record)} tensors: {len(record)} equal"
    assert verify(record.to_json(), model).is_sound


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_another_dtype_is_rounded(made, dtype):
    record, model = made
    found = verify(record, model.to(dtype))
    assert found.is_sound and {row.verdict for row in found} == {"rounded"}
    assert found["decay"].detail == f"in {str(dtype).removeprefix('torch.')}"


def test_a_narrow_model_that_was_widened():
    with deferred():
        model = Model()
    record = materialize(model, seed=3, dtype=torch.bfloat16)
    assert {row.verdict for row in verify(record, model)} == {"equal"}
    assert {row.verdict for row in verify(record, model.float())} == {"rounded"}


def test_what_was_trained_damaged_or_exchanged_is_said(made):
    record, model = made
    with torch.no_grad():
        model.mlp[0].weight.mul_(1.1)
        model.mlp[2].weight.view(-1)[100:140] = 7
        model.decay[3, 3] = float("nan")
        model.words.weight[7] += 1
    model.scale = nn.Parameter(torch.ones(4))
    model.more = nn.Linear(3, 3)
    del model.two
    found = {row.name: row for row in verify(record, model)}
    verdicts = {name: row.verdict for name, row in found.items() if not row.is_sound}
    assert verdicts == {
        "mlp.0.weight": "trained",
        "mlp.2.weight": "damaged",
        "decay": "damaged",
        "words.weight": "damaged",
        "scale": "missing",
        "two.weight": "missing",
        "two.bias": "missing",
        "more.weight": "unknown",
        "more.bias": "unknown",
    }
    assert found["mlp.0.weight"].detail == "by 0.1 of their size"
    assert found["mlp.2.weight"].detail.endswith("from 100 to 139")
    assert found["scale"].detail == "shape (4,), recorded (3,)"
    with pytest.raises(KeyError, match="nothing"):
        verify(record, model)["nothing"]


def test_training_that_moves_a_few_rows_is_no_damage(made):
    record, model = made
    with torch.no_grad():
        model.words.weight[::3] += 0.01
    row = verify(record, model)["words.weight"]
    assert row.verdict == "trained" and row.detail.startswith("34% of the elements")


def test_nothing_is_written(made):
    record, model = made
    before = {name: (tensor.clone(), tensor._version) for name, tensor in model.named_parameters()}
    verify(record, model)
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, before[name][0]) and tensor._version == before[name][1]


def test_parametrized_and_kept_parameters():
    model = nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(6, 6)), nn.Linear(6, 6))
    recipe = fastinit.AUTO.with_rules(fastinit.Rule("Linear", "1.bias", fastinit.Keep()))
    record = initialize_(model, recipe)
    found = {row.name: row.verdict for row in verify(record, model)}
    assert found["1.weight"] == "equal" and found["1.bias"] == "kept"
    assert found["0.weight"] in ("equal", "trained")  # what a parametrization makes of it, not what it was given


def test_kept_parameters_are_known_by_their_digests_only():
    model = nn.Linear(6, 6)
    recipe = fastinit.AUTO.with_rules(fastinit.Rule("Linear", "bias", fastinit.Keep()))
    record = initialize_(model, recipe, digests=True)
    assert verify(record, model)["bias"].verdict == "equal"
    with torch.no_grad():
        model.bias[3] += 1
    assert verify(record, model)["bias"].verdict == "trained" and not verify(record, model).is_sound


def test_tensors_that_are_no_longer_tied_are_verified_each(made):
    record, model = made
    assert verify(record, model).is_sound
    model.head.weight = nn.Parameter(model.words.weight.detach().clone())
    found = verify(record, model)
    assert found.is_sound and found["head.weight"].verdict == "equal"
    with torch.no_grad():
        model.head.weight.mul_(1.5)
    found = verify(record, model)
    assert found["words.weight"].verdict == "equal" and found["head.weight"].verdict == "trained"


def test_memory_that_cannot_be_compared_is_said(made):
    record, model = made
    model.mlp[0].weight = nn.Parameter(model.mlp[0].weight.detach().to_sparse())
    model.mlp[2].weight.untyped_storage().resize_(0)
    model.decay = nn.Parameter(torch.zeros(1).expand(16, 16))
    found = verify(record, model)
    assert [found[f"mlp.{number}.weight"].verdict for number in (0, 2)] == ["missing", "missing"]
    assert "sparse" in found["mlp.0.weight"].detail and "without memory" in found["mlp.2.weight"].detail
    assert found["decay"].verdict == "trained"


def test_a_model_on_the_meta_device_has_nothing_to_verify():
    with deferred():
        model = Model()
    record = materialize(copy.deepcopy(model))
    assert {row.verdict for row in verify(record, model)} == {"missing"}
