"""The law of shards for DTensors, on 2, 4 and 6 ranks: every rank fills its part of one process's tensor."""

import itertools

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch.distributed.fsdp", exc_type=ImportError)

import torch.distributed as dist  # noqa: E402
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh  # noqa: E402
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor  # noqa: E402
from torch.distributed.tensor import _dtensor_spec as specifications  # noqa: E402
from torch.distributed.tensor.debug import CommDebugMode  # noqa: E402
from torch.distributed.tensor.placement_types import _StridedShard  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch.shards import local_ranges  # noqa: E402
from fastinit.adapters.torch.tensors import fill_  # noqa: E402
from fastinit.composites import Blocks  # noqa: E402

KEY = fastinit.Key(11)
SHAPES = [(7, 5), (5, 7), (1, 9), (12, 6), (24, 12), (13,), (1,), (5, 4, 3), (0, 4)]
FLOATS = [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.float64]
MESHES = {2: [(2,), (1, 2)], 4: [(4,), (2, 2)], 6: [(6,), (2, 3), (3, 2), (1, 3, 2)]}


def meshes(world):
    return [init_device_mesh("cpu", shape) for shape in MESHES[world]]


def initializers(shape):
    """Elementwise, scaled by the fans of the whole tensor, computed as a whole, and made of blocks."""
    found = [fastinit.Normal(0.0, 0.5), fastinit.TruncatedNormal(0.0, 0.5)]
    if len(shape) >= 2:
        found += [fastinit.he_normal(layout="OI..."), fastinit.glorot_uniform(layout="OI...")]
    if len(shape) == 2 and shape[0]:
        found.append(fastinit.Orthogonal())
        for count in (n for n in (5, 3) if shape[0] % n == 0):
            found.append(Blocks(fastinit.lecun_normal(layout="OI..."), count))
            if shape == (24, 12):
                found.append(Blocks(fastinit.Orthogonal(), count))
    return found


def placements_of(mesh, shape):
    """Every placement that torch can put a tensor of this shape in."""
    axes = [Replicate(), *(Shard(axis) for axis in range(len(shape) if mesh.ndim < 3 else 1)), Shard(-1)]
    yield from itertools.product(axes, repeat=mesh.ndim)
    for split_factor in (2, 3):
        strided = _StridedShard(0, split_factor=split_factor)
        if torch.__version__ < (2, 13) and shape[0] % (split_factor * mesh.size()):
            continue  # another split of uneven sizes, which is refused, or none
        if mesh.ndim == 1:
            yield (strided,)
        if mesh.ndim == 2:
            yield strided, Replicate()
            yield Replicate(), strided
            if len(shape) == 2:
                yield strided, Shard(1)
                yield Shard(1), strided
    # which torch distributes in even parts only; fully_shard makes uneven ones
    if mesh.ndim == 2 and shape[0] % 12 == 0:
        yield _StridedShard(0, split_factor=mesh.size(1)), Shard(0)


def cases(mesh, shape):
    """Placements with initializers: each with each on meshes of one axis, and with two in turn on larger ones."""
    initializer, each = initializers(shape), range(len(initializers(shape)))
    for number, placements in enumerate(placements_of(mesh, shape)):
        for chosen in each if mesh.ndim == 1 else {number % len(each), number * 2 % len(each)}:
            yield placements, initializer[chosen]


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8) if tensor.numel() else tensor.new_empty(0, dtype=torch.uint8)


def same(one, other):
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(bits(one), bits(other))


def spoiled(whole, mesh, placements):
    """A DTensor as torch would distribute `whole`, full of another value, and the local part that torch gives it."""
    expected = distribute_tensor(whole, mesh, placements, src_data_rank=None)
    local = torch.full_like(expected.to_local(), 3.0)
    options = {"run_check": False, "shape": whole.shape, "stride": whole.stride()}
    return DTensor.from_local(local, mesh, expected.placements, **options), expected.to_local()


@pytest.mark.ranks(2, 4, 6)
def test_each_rank_fills_what_torch_would_give_it(rank, world):
    for mesh, shape in itertools.product(meshes(world), SHAPES):
        for placements, initializer in cases(mesh, shape):
            whole = fill_(torch.empty(shape), initializer, KEY)
            tensor, expected = spoiled(whole, mesh, placements)
            version = tensor._version
            assert fill_(tensor, initializer, KEY) is tensor
            if not same(tensor.to_local(), expected):
                yield f"{mesh.shape} {placements} {shape} {initializer}: {tensor.to_local()} is not {expected}"
            if tensor._version != version + 1:
                yield f"version {tensor._version} after {version}"


@pytest.mark.ranks(2, 4, 6)
def test_the_gathered_tensor_is_that_of_one_process(rank, world):
    for mesh, shape in itertools.product(meshes(world), [(7, 5), (12, 6), (13,)]):
        for placements in placements_of(mesh, shape):
            initializer = initializers(shape)[-1]
            whole = fill_(torch.empty(shape), initializer, KEY)
            tensor, _ = spoiled(whole, mesh, placements)
            if not same(fill_(tensor, initializer, KEY).full_tensor(), whole):
                yield f"{mesh.shape} {placements} {shape} {initializer}"


@pytest.mark.ranks(2, 4, 6)
def test_every_dtype(rank, world):
    mesh = meshes(world)[-1]
    for dtype, shape in itertools.product(FLOATS, [(7, 5), (12, 6)]):
        for placements, initializer in cases(mesh, shape):
            whole = fill_(torch.empty(shape, dtype=dtype), initializer, KEY)
            tensor, expected = spoiled(whole, mesh, placements)
            if not same(fill_(tensor, initializer, KEY).to_local(), expected):
                yield f"{dtype} {mesh.shape} {placements} {shape} {initializer}"


@pytest.mark.ranks(2, 4, 6)
def test_ranks_fill_one_after_another(rank, world):
    """If filling communicated, the rank whose turn it is would wait for the others for ever."""
    prepared = []
    for mesh, shape in itertools.product(meshes(world), [(7, 5), (12, 6)]):
        for placements, initializer in cases(mesh, shape):
            whole = fill_(torch.empty(shape), initializer, KEY)
            prepared.append((initializer, *spoiled(whole, mesh, placements)))
    for turn in range(world):
        if turn == rank:
            with CommDebugMode() as communication:
                local_ranges(prepared[0][1])
            for initializer, tensor, _ in prepared:
                fill_(tensor, initializer, KEY)
        dist.barrier()
    if communication.get_total_counts():
        yield f"communicated: {communication.get_comm_counts()}"
    yield from (f"{tensor}" for _, tensor, expected in prepared if not same(tensor.to_local(), expected))


@pytest.mark.ranks(2, 4, 6)
def test_parameters_that_require_gradients(rank, world):
    mesh = meshes(world)[0]
    tensor = distribute_tensor(torch.zeros(7, 5), mesh, [Shard(0)], src_data_rank=None)
    parameter = torch.nn.Parameter(tensor)
    fill_(parameter, fastinit.he_normal(layout="OI..."), KEY)
    whole = fill_(torch.empty(7, 5), fastinit.he_normal(layout="OI..."), KEY)
    if not parameter.is_leaf or parameter.grad_fn is not None:
        yield "autograd recorded the fill"
    if not same(parameter.detach().full_tensor(), whole):
        yield f"{parameter}"


@pytest.mark.ranks(2, 4, 6)
def test_a_redistributed_tensor_keeps_the_law(rank, world):
    """Placements that torch arrived at by itself."""
    mesh = meshes(world)[-1]
    initializer = fastinit.he_normal(layout="OI...")
    for shape, target in itertools.product([(7, 5), (12, 6)], [Shard(0), Shard(1), Replicate()]):
        whole = fill_(torch.empty(shape), initializer, KEY)
        tensor, _ = spoiled(whole, mesh, [Shard(0)] * mesh.ndim)
        tensor = fill_(tensor.redistribute(placements=[target] * mesh.ndim), initializer, KEY)
        if not same(tensor.full_tensor(), whole):
            yield f"{shape} {target}: {tensor}"


@pytest.mark.skipif(not hasattr(specifications, "ShardOrderEntry"), reason="this torch has one order of mesh axes only")
@pytest.mark.ranks(2, 4, 6)
def test_an_order_of_the_mesh_axes_that_only_the_specification_tells(rank, world):
    mesh = meshes(world)[-1]
    order, placements = tuple(reversed(range(mesh.ndim))), (Shard(0),) * mesh.ndim
    for size in (7, 12, 13):
        part = whole = fill_(torch.empty(size, 2), fastinit.Normal(), KEY)
        for axis in order:
            parts = part.chunk(mesh.size(axis))
            position = mesh.get_local_rank(axis)
            part = parts[position] if position < len(parts) else part[:0]
        meta = specifications.TensorMeta(whole.shape, whole.stride(), whole.dtype)
        entries = (specifications.ShardOrderEntry(0, order),)
        specification = specifications.DTensorSpec(mesh, placements, meta, shard_order=entries)
        tensor = fill_(DTensor(torch.zeros_like(part), specification, requires_grad=False), fastinit.Normal(), KEY)
        if not same(tensor.to_local(), part) or not same(tensor.full_tensor(), whole):
            yield f"{size}: {tensor.to_local()} is not {part}"


@pytest.mark.ranks(2, 4, 6)
def test_ranks_outside_the_mesh_hold_nothing(rank, world):
    mesh = DeviceMesh("cpu", list(range(world - 1)))
    whole = fill_(torch.empty(7, 5), fastinit.Normal(), KEY)
    tensor, expected = spoiled(whole, mesh, [Shard(0)])
    ranges = local_ranges(tensor)
    fill_(tensor, fastinit.Normal(), KEY)
    if rank == world - 1:
        if ranges is not None or tensor.to_local().numel():
            yield f"{ranges}"
        claimed = DTensor.from_local(torch.zeros(2, 5), mesh, [Shard(0)], run_check=False, shape=(7, 5), stride=(5, 1))
        if claimed.to_local().numel():
            yield from refusal("must hold nothing", local_ranges, claimed)
    elif not same(tensor.to_local(), expected):
        yield f"{tensor}"


@pytest.mark.ranks(2, 4, 6)
def test_what_does_not_fit_is_refused(rank, world):
    mesh = meshes(world)[0]
    options = {"run_check": False, "shape": (7, 5), "stride": (5, 1)}
    for shape in [(6, 5), (7, 4), (8, 5)]:
        tensor = DTensor.from_local(torch.zeros(shape), mesh, [Shard(0)], **options)
        yield from refusal("local tensor of shape", fill_, tensor, fastinit.Normal(), KEY)
        if tensor.to_local().any():
            yield "something was written"
    partial = DTensor.from_local(torch.zeros(7, 5), mesh, [Partial()], run_check=False)
    yield from refusal("no rank holds the values of a partial tensor", fill_, partial, fastinit.Normal(), KEY)
    tensor = distribute_tensor(torch.zeros(7, 5), mesh, [Shard(0)], src_data_rank=None)
    yield from refusal("a DTensor knows", fill_, tensor, fastinit.Normal(), KEY, start=0)
    if tensor.to_local().any() or partial.to_local().any():
        yield "something was written"


def refusal(message, call, *arguments, **options):
    """No complaint if the call is refused with this message."""
    try:
        call(*arguments, **options)
    except ValueError as error:
        if message not in str(error):
            yield f"expected {message!r}, got {error}"
    else:
        yield f"{call.__name__} did not refuse {arguments[0]}"
