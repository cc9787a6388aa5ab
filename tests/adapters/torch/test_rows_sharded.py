"""New rows of sharded parameters, on 2 and 4 ranks: the bytes of one process, and no rank waits for another."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch.distributed.fsdp", exc_type=ImportError)

import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard  # noqa: E402
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor  # noqa: E402

from fastinit import NewRows, Normal  # noqa: E402
from fastinit.adapters.torch import initialize_, verify  # noqa: E402

OLD, NEW = 21, 27  # of two and of four ranks, one holds old and new rows


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(NEW, 10)
        self.norm = nn.LayerNorm(10)
        self.head = nn.Linear(10, NEW)


def trained():
    """A model of the same values on every rank."""
    torch.manual_seed(1)
    return Model()


ROWS = {"words.weight": OLD, "head.weight": NewRows(OLD, Normal(0.0, 0.02)), "head.bias": OLD}


def in_turn(rank, world, model, rows):
    """One rank after another: one that communicated would wait for the others for ever. Gives errors by their text."""
    found = None
    for turn in range(world):
        if turn == rank:
            try:
                record = initialize_(model, "auto", seed=5, rows=rows)
                found = [row.verdict for row in verify(record, model) if row.name in ("words.weight", "head.weight")]
            except ValueError as problem:
                found = str(problem)
        dist.barrier()
    return found


def full(state):
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}


def differences(state, rows, where):
    model = trained()
    initialize_(model, "auto", seed=5, rows=rows)
    for name, expected in model.state_dict().items():
        if not torch.equal(state[name], expected):
            yield f"{where}, {name}: {state[name]} is not {expected}"


@pytest.mark.ranks(2, 4)
def test_fully_sharded(rank, world):
    model = trained()
    fully_shard(model.words)
    fully_shard(model)
    if in_turn(rank, world, model, ROWS) != ["equal", "equal"]:
        yield "not verified"
    yield from differences(full(model.state_dict()), ROWS, "fully_shard")


@pytest.mark.ranks(2, 4)
def test_the_mean_needs_all_rows(rank, world):
    model = trained()
    fully_shard(model)
    before = {name: tensor.to_local().clone() for name, tensor in model.state_dict().items()}
    for way in ("mean", "mean_covariance"):
        said = in_turn(rank, world, model, {"words.weight": NewRows(OLD, way), "head.bias": OLD})
        if "'words.weight': the mean of old rows needs all 27 rows, got a part" not in str(said):
            yield f"said {said}"
    for name, tensor in model.state_dict().items():
        if not torch.equal(tensor.to_local(), before[name]):
            yield f"{name} was written"


@pytest.mark.ranks(2, 4)
def test_by_columns_and_replicated(rank, world):
    """A column's new values follow from that column alone."""
    mesh = init_device_mesh("cpu", (world,))
    for placement in (Shard(1), Replicate()):
        for way in ("mean", "mean_covariance"):
            model = trained()
            for module in (model.words, model.head):
                module.weight = nn.Parameter(distribute_tensor(module.weight.detach(), mesh, [placement]))
            rows = {"words.weight": NewRows(OLD, way, 1.0), "head.weight": NewRows(OLD, way, 1.0)}
            found = in_turn(rank, world, model, rows)
            if found != ["equal", "equal"]:
                yield f"{placement} {way}: {found}"
            yield from differences(full(model.state_dict()), rows, f"{placement} {way}")


@pytest.mark.ranks(2, 4)
def test_more_ranks_than_rows(rank, world):
    """A rank that holds no row refuses as the others do."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.tensor([[1.0, 2.0], [0.0, 0.0]][: max(2, world - 2)]))
    fully_shard(model)
    said = in_turn(rank, world, model, {"weight": NewRows(1, "mean")})
    if "needs all 2 rows" not in str(said):
        yield f"said {said}"


@pytest.mark.ranks(2, 4)
def test_flat_parameters(rank, world):
    """Of the first version of FSDP: a process that happens to hold all of a tensor can know its mean."""
    for original in (True, False):
        model = FullyShardedDataParallel(trained(), use_orig_params=original, device_id=torch.device("cpu"))
        if in_turn(rank, world, model, ROWS) != ["equal", "equal"]:
            yield "not verified"
        with FullyShardedDataParallel.summon_full_params(model):
            yield from differences(dict(model.module.named_parameters()), ROWS, f"flat, {original}")
        said = in_turn(rank, world, model, {"words.weight": NewRows(OLD, "mean")})
        refused = "needs all 27 rows" in str(said)
        if refused != (world == 4 and rank < 2):  # 270 of 587 elements: on the first of two, on two of four
            yield f"said {said}"
        with FullyShardedDataParallel.summon_full_params(model):
            words = model.module.words.weight
            is_mean = torch.allclose(words[OLD:], words[:OLD].mean(0).expand(NEW - OLD, 10))
            if is_mean != (world == 2):
                yield f"mean {is_mean}"
