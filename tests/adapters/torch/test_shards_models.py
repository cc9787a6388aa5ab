"""The law of shards for FSDP2, tensor parallel and FSDP1 models, on 2, 4 and 6 ranks, training included."""

import contextlib
import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch.distributed.fsdp", exc_type=ImportError)

import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard  # noqa: E402
from torch.distributed.tensor import DTensor, Shard  # noqa: E402
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch.shards import flat_pieces  # noqa: E402
from fastinit.adapters.torch.tensors import fill_  # noqa: E402

KEY = fastinit.Key(12)


class Model(nn.Module):
    """An embedding, a block of two layers, and a head that shares the embedding's weight if it is tied."""

    def __init__(self, width=6, hidden=7, tokens=11, tied=False):
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.block = nn.Sequential()
        self.block.up = nn.Linear(width, hidden)
        self.block.act = nn.GELU()
        self.block.down = nn.Linear(hidden, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens):
        hidden = self.embedding(tokens)
        return self.head(self.norm(hidden + self.block(hidden)))


def initializer_of(name):
    """Every kind of initializer, by the name of the parameter."""
    if name == "block.up.weight":
        return fastinit.Orthogonal()
    if name == "norm.weight":
        return fastinit.Uniform(0.5, 1.5)
    if name == "head.weight":
        return fastinit.Blocks(fastinit.glorot_uniform(layout="OI..."), 1, axis=1)
    return fastinit.he_normal(layout="OI...") if name.endswith("weight") else fastinit.Normal(0.0, 0.1)


def initialized(model):
    """A model filled parameter by parameter; of sharded ones each rank fills its own part."""
    for name, parameter in model.named_parameters():
        fill_(parameter, initializer_of(name), KEY.fold_in(name))
    return model


def initialized_pieces(model):
    for piece in flat_pieces(model):
        key, place = KEY.fold_in(piece.name), {"global_shape": piece.shape, "start": piece.start}
        fill_(piece.tensor, initializer_of(piece.name), key, **place)
    return model


def in_turn(rank, world, initialize, model):
    """One rank after another: one that communicated would wait for the others for ever."""
    for turn in range(world):
        if turn == rank:
            initialize(model)
        dist.barrier()


def other_values(rank, **options):
    """A model whose values differ on every rank, so that only filling can make it what it should be."""
    torch.manual_seed(100 + rank)
    return Model(**options)


def different(state, whole):
    """Names of the tensors that are not those of the whole model, to the byte."""
    if state.keys() != whole.keys():
        yield f"names {sorted(state.keys() ^ whole.keys())}"
        return
    for name, expected in whole.items():
        found = state[name].full_tensor() if isinstance(state[name], DTensor) else state[name]
        if found.shape != expected.shape or not torch.equal(found.view(torch.uint8), expected.view(torch.uint8)):
            yield f"{name}: {found} is not {expected}"


def losses(model, part, parts):
    """Of two steps and after them; each of `parts` groups of ranks has its own part of the batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(11, (12, 3), generator=generator).chunk(parts)[part]
    found = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(1, 1).flatten())
        loss.backward()
        optimizer.step()
        loss = loss.detach()
        if parts > 1:
            dist.all_reduce(loss)
            loss /= dist.get_world_size()
        found.append(loss.item())
    return found


def unequal_losses(model, part, parts, **options):
    found, expected = losses(model, part, parts), losses(initialized(Model(**options)), 0, 1)
    if not torch.allclose(torch.tensor(found), torch.tensor(expected), rtol=1e-5):
        yield f"losses {found}, in one process {expected}"
    if abs(expected[0] - expected[2]) < 1e-3:
        yield f"the model does not learn: {expected}"


def fully_sharded(model, **options):
    fully_shard(model.block, **options)
    return fully_shard(model, **options)


@pytest.mark.ranks(2, 4, 6)
def test_a_fully_sharded_model(rank, world):
    mesh = init_device_mesh("cpu", (world,))
    whole = initialized(Model()).state_dict()
    model = fully_sharded(other_values(rank), mesh=mesh)
    in_turn(rank, world, initialized, model)
    yield from different(model.state_dict(), whole)
    gathered = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=False))
    if rank == 0:
        yield from different(gathered, whole)
    yield from unequal_losses(model, rank, world)
    yield from different(initialized(model).state_dict(), whole)  # and again, after training


@pytest.mark.ranks(2, 4)
def test_a_model_without_memory_at_first(rank, world):
    """The way to models that no rank can hold: meta, shard, allocate, fill; here in bfloat16 too."""
    mesh = init_device_mesh("cpu", (world,))
    for dtype in (torch.float32, torch.bfloat16):
        with torch.device("meta"):
            model = fully_sharded(Model().to(dtype), mesh=mesh)
        initialized(initialized(model).to_empty(device="cpu"))  # on meta there is nothing to fill
        yield from different(model.state_dict(), initialized(Model().to(dtype)).state_dict())


@pytest.mark.ranks(2, 4, 6)
def test_a_model_sharded_on_another_axis(rank, world):
    mesh = init_device_mesh("cpu", (world,))
    sizes = {"width": 12, "hidden": 24}
    model = fully_sharded(
        other_values(rank, **sizes), mesh=mesh, shard_placement_fn=lambda parameter: Shard(parameter.ndim - 1)
    )
    if initialized(model).block.up.weight.placements != (Shard(1),):
        yield f"{model.block.up.weight.placements}"
    yield from different(model.state_dict(), initialized(Model(**sizes)).state_dict())
    yield from unequal_losses(model, rank, world, **sizes)


@pytest.mark.ranks(4, 6)
def test_a_model_replicated_and_sharded(rank, world):
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("replicate", "shard"))
    model = initialized(fully_sharded(other_values(rank), mesh=mesh))
    yield from different(model.state_dict(), initialized(Model()).state_dict())
    yield from unequal_losses(model, rank, world)


@pytest.mark.skipif(torch.__version__ < (2, 13), reason="needs strided shards of uneven sizes")
@pytest.mark.ranks(4, 6)
def test_tensor_parallel_and_fully_sharded(rank, world):
    for shape in {4: [(1, 2, 2), (2, 1, 2)], 6: [(1, 2, 3), (1, 3, 2), (3, 1, 2)]}[world]:
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "data", "tensor"))
        data = mesh["data"] if shape[0] == 1 else mesh["replicate", "data"]
        # of 7 rows on a 3 x 2 mesh, and of 13, the placements read one by one would tell the wrong indices
        for hidden in (1, 5, 7, 12, 13):
            model, single = other_values(rank, hidden=hidden), initialized(Model(hidden=hidden))
            plan = {"block.up": ColwiseParallel(), "block.down": RowwiseParallel(), "head": ColwiseParallel()}
            parallelize_module(model, mesh["tensor"], plan)
            initialized(fully_sharded(model, mesh=data))
            if "_StridedShard" not in str(model.block.up.weight.placements):
                yield f"{model.block.up.weight.placements}"
            for (name, parameter), whole in zip(model.named_parameters(), single.parameters(), strict=True):
                axis = {"block.up.weight": 0, "block.up.bias": 0, "block.down.weight": 1, "head.weight": 0}.get(name)
                part = whole if axis is None else part_of(whole, mesh, "tensor", axis)
                part, local = part_of(part, mesh, "data", 0), parameter.to_local()
                # torch gathers no empty parts of some shapes
                gathered = whole if hidden == 1 else parameter.detach().full_tensor()
                if not (torch.equal(local.flatten(), part.flatten()) and torch.equal(gathered, whole)):
                    yield f"{shape} {hidden} {name}: {parameter} is not {whole}"


@pytest.mark.ranks(4, 6)
def test_tensor_parallel_training(rank, world):
    mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("data", "tensor"))
    sizes = {"hidden": 12, "tokens": 12}
    model = other_values(rank, **sizes)
    plan = {"block.up": ColwiseParallel(), "block.down": RowwiseParallel()}
    parallelize_module(model, mesh["tensor"], plan)
    initialized(fully_sharded(model, mesh=mesh["data"]))
    yield from unequal_losses(model, mesh.get_local_rank("data"), world // 2, **sizes)


def part_of(tensor, mesh, name, axis):
    parts = tensor.chunk(mesh[name].size(), axis)
    rank = mesh.get_local_rank(name)
    return parts[rank] if rank < len(parts) else tensor.new_empty(0)


def _wrapped(model, **options):
    options = {"device_id": torch.device("cpu"), **options}
    model.block = FullyShardedDataParallel(model.block, **options)
    return FullyShardedDataParallel(model, **options)


@pytest.mark.ranks(2, 4)
def test_flat_parameters(rank, world):
    """The first version of FSDP, every way of sharding, with and without the original parameters."""
    strategies = [ShardingStrategy.FULL_SHARD, ShardingStrategy.SHARD_GRAD_OP, ShardingStrategy.NO_SHARD]
    for tied in (False, True):
        whole = initialized(Model(tied=tied)).state_dict()
        for strategy in strategies:
            for use_orig_params in (True, False):
                where = f"{strategy} {use_orig_params=} {tied=}: "
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FutureWarning)  # NO_SHARD is deprecated
                    model = _wrapped(
                        other_values(rank, tied=tied), sharding_strategy=strategy, use_orig_params=use_orig_params
                    )
                clear(model)
                in_turn(rank, world, initialized_pieces, model)
                yield from (where + problem for problem in different(gathered(model), whole))
                yield from (where + problem for problem in padding(model))
                yield from (where + problem for problem in unequal_losses(model, rank, world, tied=tied))
                initialized_pieces(model)  # and again, after training
                yield from (where + problem for problem in different(gathered(model), whole))


def clear(model):
    """Zeros everywhere, as FSDP's padding is; what is not filled afterwards stays zero."""
    for module in FullyShardedDataParallel.fsdp_modules(model):
        module._handle.flat_param.detach().zero_()


def padding(model):
    for module in FullyShardedDataParallel.fsdp_modules(model):
        flat = module._handle.flat_param.detach().clone()
        for piece in flat_pieces(model):
            begin = piece.tensor.storage_offset()
            if piece.tensor.untyped_storage().data_ptr() == module._handle.flat_param.untyped_storage().data_ptr():
                flat[begin : begin + piece.tensor.numel()] = 0
        if flat.any():
            yield f"padding was written: {flat}"


def gathered(model):
    """The whole state, by FSDP itself."""
    with FullyShardedDataParallel.summon_full_params(model, writeback=False):
        return {fastinit.canonical_name(name): value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.ranks(2, 4, 6)
def test_pieces_of_flat_parameters(rank, world):
    """They name every parameter on every rank, and cover each element once."""
    single = Model(tied=True)
    model = _wrapped(other_values(rank, tied=True), use_orig_params=True)
    pieces = list(flat_pieces(model))
    expected = {name: tuple(parameter.shape) for name, parameter in single.named_parameters()}
    if {piece.name: tuple(piece.shape) for piece in pieces} != expected:
        yield f"{[(piece.name, piece.shape) for piece in pieces]}"
    for piece in pieces:
        if tuple(getattr(piece.module, piece.parameter).shape) != tuple(piece.tensor.shape):
            yield f"{piece.name}: {piece.parameter} of {piece.module} is another parameter"
        if piece.tensor.numel() and getattr(piece.module, piece.parameter).data_ptr() != piece.tensor.data_ptr():
            yield f"{piece.name} lies elsewhere"
    (embedding,) = (piece for piece in pieces if piece.name == "embedding.weight")
    if [(name, attribute) for name, _, attribute in embedding.others] != [("head.weight", "weight")]:
        yield f"{embedding.others}"
    held = [None] * world
    dist.all_gather_object(held, [(piece.name, piece.start, piece.tensor.numel()) for piece in pieces])
    for name, parameter in single.named_parameters():
        runs = sorted((start, count) for rows in held for found, start, count in rows if found == name and count)
        ends = [0, *(start + count for start, count in runs)]
        if [start for start, _ in runs] != ends[:-1] or ends[-1] != parameter.numel():
            yield f"{name}: {runs}"


@pytest.mark.ranks(2)
def test_flat_parameters_that_cannot_be_filled(rank, world):
    model = _wrapped(other_values(rank), use_orig_params=True)
    with FullyShardedDataParallel.summon_full_params(model):
        yield from refused("is gathered now", model)
    convolution = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    model = FullyShardedDataParallel(convolution, device_id=torch.device("cpu"), use_orig_params=True)
    yield from refused("weight of shape (4, 3, 3, 3) was expected to be contiguous", model)
    convolution = nn.Conv2d(3, 4, 1).to(memory_format=torch.channels_last)  # which is row-major too
    model = FullyShardedDataParallel(convolution, device_id=torch.device("cpu"), use_orig_params=True)
    if [tuple(piece.shape) for piece in flat_pieces(model)] != [(4, 3, 1, 1), (4,)]:
        yield "a row-major parameter was refused"
    if list(flat_pieces(Model())):
        yield "a model without FSDP has pieces"


def refused(message, model):
    complaint = f"{message!r} was not refused"
    with contextlib.suppress(StopIteration):
        try:
            for _ in flat_pieces(model):
                pass
        except ValueError as error:
            complaint = "" if message in str(error) else f"expected {message!r}, got {error}"
    if complaint:
        yield complaint
