"""One definition, three doors, equal bytes: on every mesh, in real processes, without a collective and without a file.

The doors are a deferred constructor, init code that runs late, and a checkpoint that is computed. One rank after the
other goes through them: if one communicated, it would wait for ever.
"""

import contextlib
import ctypes
import functools
import gc
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch.distributed.fsdp", exc_type=ImportError)

import torch.distributed as dist  # noqa: E402
import torch.distributed.checkpoint as dcp  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.distributed.tensor import DTensor, Shard, distribute_tensor  # noqa: E402
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module  # noqa: E402

from fastinit.adapters.torch import InitReader, deferred, keyed, materialize, verify  # noqa: E402
from fastinit.extending import renaming  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))  # where a group of ranks begins to look
from engines import ColumnParallelLinear, Transformer, gathered, normal  # noqa: E402

SEED = 5
LAYERS = 8


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(6, 8), nn.RMSNorm(8), nn.Linear(8, 6)
        self.register_buffer("noise", torch.empty(5))

    def init_weights(self):
        nn.init.trunc_normal_(self.up.weight, std=0.02)
        nn.init.orthogonal_(self.down.weight)
        self.norm.reset_parameters()
        nn.init.zeros_(self.up.bias)
        nn.init.uniform_(self.down.bias, -0.5, 0.5)
        with torch.no_grad():
            self.noise.copy_(torch.randn(5))


class Definition(nn.Module):
    """Draws, padding rows, parts, chains that are replayed, tables, and buffers, as authors make them."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(13, 6, padding_idx=3)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.steps = nn.Parameter(torch.empty(11))
        self.packed = nn.Parameter(torch.empty(9, 6))
        self.table = nn.Parameter(torch.empty(5, 6), requires_grad=False)
        self.register_buffer("frequencies", torch.empty(4))
        self.init_weights()

    def init_weights(self):
        if self.words is not None:
            nn.init.normal_(self.words.weight, std=0.02)
            nn.init.zeros_(self.words.weight[3])
        for layer in self.layers:
            layer.init_weights()
        with torch.no_grad():
            if self.steps is not None:
                self.steps.copy_(torch.exp(torch.rand(11) * 2 - 1))
                self.table.copy_(torch.arange(30.0).reshape(5, 6).log1p())
                for part in self.packed.chunk(3):
                    nn.init.xavier_uniform_(part)
            self.frequencies.copy_(10000 ** (-torch.arange(0, 8, 2) / 8))


class Experts(nn.Module):
    """Experts as modules of their own, dealt to ranks, after a router that all have."""

    def __init__(self, count=8):
        super().__init__()
        self.router = nn.Linear(6, 8)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 6)) for _ in range(count))

    def init_weights(self):
        self.router.reset_parameters()
        for expert in self.experts:
            expert[0].reset_parameters()
            expert[2].reset_parameters()


# Layouts: what a rank constructs, how it is sharded, and what its names are in the definition


def _whole(rank, world):
    return Definition()


def _stage(rank, world):
    """A pipeline stage: the layers of others are deleted, and its own numbered from 0."""
    model = Definition()
    count = LAYERS // world
    model.layers = nn.ModuleList(list(model.layers)[rank * count : (rank + 1) * count])
    if rank:
        model.words = None
    if rank < world - 1:
        model.steps = model.packed = model.table = None
    return model


def _names_of_a_stage(rank, world):
    count = LAYERS // world
    return {f"layers.{number}": f"layers.{rank * count + number}" for number in range(count)}


def _experts(rank, world):
    return Experts(8 // world)


def _names_of_experts(rank, world):
    first = 8 // world * rank
    return lambda name: ".".join(
        str(int(part) + first) if number == 1 and name.startswith("experts") else part
        for number, part in enumerate(name.split("."))
    )


def _engine(rank, world):
    return Transformer(rank, world)


def _engine_of_two(rank, world):
    """Tensor-parallel over pairs of ranks, which are replicas of each other until FSDP shards them."""
    ranks = min(2, world)
    return Transformer(rank % ranks, ranks)


def _as_it_is(model, world):
    pass


def _units(model, **options):
    for layer in model.layers:
        fully_shard(layer, **options)
    fully_shard(model, **options)


def _rows(model, world):
    _units(model, mesh=init_device_mesh("cpu", (world,)))


def _columns(model, world):
    """Shard(1), uneven and empty: of six columns on eight ranks."""
    mesh = init_device_mesh("cpu", (world,))
    for module in model.modules():
        for role, tensor in list(module._parameters.items()):
            if tensor is not None:
                placed = distribute_tensor(tensor.data, mesh, [Shard(tensor.dim() - 1)], src_data_rank=None)
                module.register_parameter(role, nn.Parameter(placed, requires_grad=tensor.requires_grad))


def _replicated(model, world):
    _units(model, mesh=init_device_mesh("cpu", _axes(world), mesh_dim_names=("replicate", "shard")))


def _strided(model, world):
    """Tensor parallel and then fully sharded, on one axis of the tensor."""
    mesh = init_device_mesh("cpu", _axes(world)[::-1], mesh_dim_names=("data", "tensor"))
    for layer in model.layers:
        parallelize_module(layer, mesh["tensor"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        fully_shard(layer, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])


def _data_of_pairs(model, world):
    """The ranks that hold one slice of the engine shard it among them."""
    ranks = min(2, world)
    mesh = init_device_mesh("cpu", (world // ranks, ranks), mesh_dim_names=("data", "tensor"))
    _units(model, mesh=mesh["data"])


def _axes(world):
    return (1, 1) if world == 1 else (world // 2, 2)


class Layout(NamedTuple):
    name: str
    make: object = _whole
    shard: object = _as_it_is
    rename: object = lambda rank, world: None

    def __str__(self):
        return self.name


LAYOUTS = (
    Layout("rows", shard=_rows),
    Layout("columns", shard=_columns),
    Layout("replicated", shard=_replicated),
    Layout("strided", shard=_strided),
    Layout("stage", _stage, rename=_names_of_a_stage),
    Layout("experts", _experts, rename=_names_of_experts),
    Layout("slices", _engine),
    Layout("sharded slices", _engine_of_two, _data_of_pairs),
)


# Doors


def _emptied(model):
    """Memory, as trainers give it; engines tie once more what it unties."""
    model.to_empty(device="cpu")
    if hasattr(model, "tie"):
        model.tie()


def constructed(make, shard, rename):
    with deferred():
        model = make()
    shard(model)

    def fill():
        materialize(model, seed=SEED, rename=rename)

    return model, fill


def late(make, shard, rename):
    with torch.device("meta"):
        model = make()
    shard(model)
    _emptied(model)

    def fill():
        with keyed(model, seed=SEED, rename=rename):
            model.init_weights()

    return model, fill


def computed(make, shard, rename):
    with deferred():
        model, source = make(), make()
    shard(model)
    _emptied(model)
    state = model.state_dict()

    def fill():
        dcp.load(state, storage_reader=InitReader(source, seed=SEED, rename=rename), no_dist=True)

    return model, fill


class Door(NamedTuple):
    name: str
    prepared: object

    def __str__(self):
        return self.name


DOORS = (Door("deferred", constructed), Door("keyed", late), Door("InitReader", computed))


# Listening

_opened = None


def _listen(event, arguments):
    if _opened is not None and event == "open" and not str(arguments[0]).endswith((".py", ".pyc", ".so")):
        _opened.append(str(arguments[0]))


@contextlib.contextmanager
def listening():
    """Inside, the files that are opened are written down; what is imported late is none."""
    global _opened  # noqa: PLW0603
    if not hasattr(sys, "_fastinit_listens"):
        sys.addaudithook(_listen)  # of this rank's process, which ends with its group
        sys._fastinit_listens = True
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


@functools.cache
def one_process(make, dtype):
    """The definition as one process has it, and its record."""
    with deferred():
        model = make(0, 1).to(dtype)
    return model, materialize(model, seed=SEED)


def differences(model, layout, rank, world, expected):
    """Where what the ranks hold together is not what one process has."""
    state = {name: tensor.detach() for name, tensor in expected.state_dict().items()}
    name_of = renaming(layout.rename(rank, world))
    held = {}
    for name, tensor in model.state_dict().items():
        held[name] = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()
    if isinstance(model, Transformer):
        found = [None] * world
        dist.all_gather_object(found, held)
        held = gathered(model, found if layout.shard is _as_it_is else found[: min(2, world)])
    for name, tensor in held.items():
        wanted = state[name_of(name)]
        if tensor.dtype != wanted.dtype or not torch.equal(tensor, wanted):
            yield f"{name}: {tensor} is not {wanted}"


@pytest.mark.ranks(1, 2, 4, 8)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.long)])
def test_one_definition_three_doors_equal_bytes(rank, world, door, layout, dtype):
    rename = layout.rename(rank, world)
    expected, record = one_process(layout.make, dtype)
    torch.manual_seed(rank)
    model, fill = door.prepared(
        lambda: layout.make(rank, world).to(dtype), lambda one: layout.shard(one, world), rename
    )
    for turn in range(world):
        if turn == rank:
            with listening() as opened:
                fill()
            if opened:
                yield f"files were opened: {opened}"
        dist.barrier()
    yield from differences(model, layout, rank, world, expected)
    unsound = [row for row in verify(record, model, rename=rename) if not row.is_sound and row.verdict != "missing"]
    if unsound:
        yield f"verify: {unsound}"


# Memory

WIDTH, DEPTH = 4096, 4  # 64 MiB each


class Wide(nn.Module):
    def __init__(self, rank=0, ranks=1):
        super().__init__()
        made = (ColumnParallelLinear(WIDTH, WIDTH, rank, ranks, normal(0.02)) for _ in range(DEPTH))
        self.layers = nn.ModuleList(made)

    def init_weights(self):
        for layer in self.layers:
            layer.reset_parameters()


def resident(which):
    """What the system counts of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(which)).split()[1])


WIDE = (
    Layout("rows", lambda rank, world: Wide(), _rows),
    pytest.param(Layout("columns", lambda rank, world: Wide(), _columns), marks=pytest.mark.long),
    Layout("slices", Wide),
)


@pytest.mark.ranks(2, 4)
@pytest.mark.parametrize("layout", WIDE)
@pytest.mark.parametrize("door", DOORS)
def test_a_rank_takes_its_part_and_64_mib_at_most(rank, world, door, layout):
    if sys.platform != "linux":
        return
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or what an earlier test gave back is taken without being counted
    model, fill = door.prepared(lambda: layout.make(rank, world), lambda one: layout.shard(one, world), None)
    part = sum(4 * tensor.numel() for tensor in model.parameters()) // (1 if layout.name == "slices" else world)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    fill()
    grown = resident("VmHWM") - before
    whole = 4 * DEPTH * (WIDTH + 1) * WIDTH
    if abs(part * world - whole) > WIDTH * world or not part / 2 < grown < part + 2**26 < whole:
        yield f"{grown / 2**20:.0f} MiB for a part of {part / 2**20:.0f} MiB"
    dist.barrier()


# Checkpoints


@pytest.mark.ranks(1, 2, 4, 8)
def test_a_saved_a_loaded_and_a_computed_checkpoint_agree(rank, world):
    """Saved from one mesh, loaded on another, and computed on a third."""
    saved, _ = constructed(Definition, lambda model: _rows(model, world), None)
    materialize(saved, seed=SEED)
    folder = [tempfile.mkdtemp() if rank == 0 else None]
    dist.broadcast_object_list(folder)
    try:
        dcp.save(saved.state_dict(), checkpoint_id=folder[0])
        loaded, _ = late(Definition, lambda model: _strided(model, world), None)
        for parameter in loaded.parameters():
            nn.init.constant_(parameter, 7.0)
        dcp.load(loaded.state_dict(), checkpoint_id=folder[0])
    finally:
        dist.barrier()
        if rank == 0:
            shutil.rmtree(folder[0])
    model, fill = computed(Definition, lambda model: _columns(model, world), None)
    fill()
    expected, record = one_process(_whole, torch.float32)
    layout = Layout("")
    for one in (saved, loaded, model):
        yield from differences(one, layout, rank, world, expected)
        if not verify(record, one).is_sound:
            yield str(verify(record, one))
