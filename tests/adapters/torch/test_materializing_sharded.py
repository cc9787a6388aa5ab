"""materialize and replay of sharded models, on 2 and 4 ranks: the bytes of one process."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("torch.distributed.fsdp", exc_type=ImportError)

import torch.distributed as dist  # noqa: E402
import torch.distributed.checkpoint as dcp  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard  # noqa: E402
from torch.distributed.tensor import DTensor, Partial  # noqa: E402
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch import InitReader, deferred, materialize, verify  # noqa: E402
from fastinit.adapters.torch.models import initialize_, replay  # noqa: E402


class Mixed(nn.Module):
    """With uneven shards, gates, statistics and ties."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(13, 6, padding_idx=3)
        self.recurrent = nn.LSTM(6, 6, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 6))
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 13, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        hidden, _ = self.recurrent(self.embedding(tokens))
        return self.head(self.norm(self.mlp(hidden).transpose(1, 2)).transpose(1, 2))


AUTO = fastinit.AUTO.with_rules(fastinit.Rule("LlamaRMSNorm", "weight", fastinit.Ones()))


def llama():
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 16}
    configuration = transformers.LlamaConfig(vocab_size=19, hidden_size=16, intermediate_size=26, **sizes)
    return transformers.LlamaForCausalLM(configuration)


def logits(model):
    tokens = torch.arange(12).reshape(2, 6)
    return model(tokens) if isinstance(model, Mixed) else model(input_ids=tokens).logits


def sharded(model, mesh):
    for unit in model.model.layers if hasattr(model, "model") else [model.mlp]:
        fully_shard(unit, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def different(model, expected):
    for name, tensor in expected.state_dict().items():
        found = model.state_dict()[name]
        found = found.full_tensor() if hasattr(found, "full_tensor") else found
        if found.dtype != tensor.dtype or not torch.equal(found, tensor):
            yield f"{name}: {found} is not {tensor}"
    for (name, found), tensor in zip(model.named_buffers(), expected.buffers(), strict=True):
        if not torch.equal(found, tensor):
            yield f"{name}: {found} is not {tensor}"


def records(found, expected):
    """They are the same, but for the digests of what no rank has all of."""
    for entry, other in zip(found, expected, strict=True):
        if (entry.name, entry.shape, entry.dtype, entry.key, entry.std) != (
            (other.name, other.shape, other.dtype, other.key, other.std)
        ):
            yield f"{entry} is not {other}"
        if entry.digest not in (None, other.digest):
            yield f"{entry.name} has the digest {entry.digest}, not {other.digest}"


@pytest.mark.ranks(2, 4)
def test_fully_sharded_from_the_meta_device(rank, world):
    """With a step of training, which FSDP's own references to the parameters must survive."""
    mesh = init_device_mesh("cpu", (world,))
    for make in (Mixed, llama):
        for dtype in (None, torch.float64):
            with deferred() if make is Mixed else torch.device("meta"):
                model = make()
            sharded(model, mesh)
            record = materialize(model, AUTO, seed=3, dtype=dtype, digests=True)
            expected = make().to(dtype)
            if make is llama:
                expected.model.rotary_emb = make().model.rotary_emb
            whole = initialize_(expected, AUTO, seed=3)
            yield from different(model, expected)
            yield from records(record, whole)
            rates = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (model, expected)]
            for one, optimizer in zip((model, expected), rates, strict=True):
                logits(one).square().mean().backward()
                optimizer.step()
            found, wanted = logits(model), logits(expected)
            if not torch.allclose(found, wanted, rtol=1e-3, atol=1e-5):
                yield f"{make.__name__}: after a step {found} is not {wanted}"


class Authors(nn.Module):
    """Draws, parts, copies, tables and random buffers, as authors make them."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 9, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).layers
        self.table = nn.Parameter(torch.arange(30.0).reshape(5, 6).log1p(), requires_grad=False)
        self.steps = nn.Parameter(torch.exp(torch.rand(11) * 2 - 1))
        self.packed = nn.Parameter(torch.empty(9, 6))
        for part in self.packed.chunk(3):
            nn.init.xavier_uniform_(part)
        nn.init.zeros_(self.packed[-1])
        self.embedding = nn.Embedding(7, 6, padding_idx=2)
        nn.init.trunc_normal_(self.embedding.weight, std=0.02)
        nn.init.orthogonal_(self.layers[0].linear1.weight)
        self.register_buffer("noise", torch.randn(8))
        self.register_buffer("frequencies", 10000 ** (-torch.arange(0, 8, 2) / 8))


@pytest.mark.ranks(2, 4)
def test_the_authors_own_on_any_number_of_processes(rank, world):
    mesh = init_device_mesh("cpu", (world,))
    for make in (Authors, llama):
        for dtype in (None, torch.bfloat16):
            with deferred():
                model, expected = make(), make()
            torch.manual_seed(rank)
            for layer in model.layers if make is Authors else model.model.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            record = materialize(model, seed=5, dtype=dtype, digests=True)
            whole = materialize(expected, seed=5, dtype=dtype, digests=True)
            if record.recipe != "own":
                yield f"the recipe is {record.recipe}"
            yield from different(model, expected)
            yield from records(record, whole)
            again = make().to(dtype)
            replay(whole.to_json(), again)
            for name, tensor in again.named_parameters():
                if not torch.equal(tensor, expected.get_parameter(name)):
                    yield f"{name}: the record gives {tensor}, not {expected.get_parameter(name)}"


@pytest.mark.ranks(2, 4)
def test_a_checkpoint_that_is_computed(rank, world):
    """By one rank after another: if loading communicated, the one whose turn it is would wait for ever."""
    mesh = init_device_mesh("cpu", (world,))
    for make in (Authors, llama):
        with deferred():
            model, source, expected = make(), make(), make()
        materialize(expected, seed=5)
        for layer in model.model.layers if make is llama else model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        model.to_empty(device="cpu")
        state = model.state_dict()
        for turn in range(world):
            if turn == rank:
                dcp.load(state, storage_reader=InitReader(source, seed=5), no_dist=True)
            dist.barrier()
        for name, tensor in expected.state_dict().items():
            found = state[name].full_tensor() if isinstance(state[name], DTensor) else state[name]
            if not torch.equal(found, tensor):
                yield f"{name}: {found} is not {tensor}"
        record = materialize(source, seed=5)
        unsound = [row for row in verify(record, model) if not row.is_sound]
        if unsound:
            yield f"verify: {unsound}"


@pytest.mark.skipif(torch.__version__ < (2, 13), reason="needs strided shards of uneven sizes")
@pytest.mark.ranks(2, 4)
def test_tensor_parallel_from_the_meta_device(rank, world):
    mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("data", "tensor"))
    with torch.device("meta"):
        model = llama()
    plan = {"mlp.gate_proj": ColwiseParallel(), "mlp.up_proj": ColwiseParallel(), "mlp.down_proj": RowwiseParallel()}
    for layer in model.model.layers:
        parallelize_module(layer, mesh["tensor"], plan)
        fully_shard(layer, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])
    materialize(model, AUTO)
    expected = llama()
    initialize_(expected, AUTO)
    yield from different(model, expected)


@pytest.mark.ranks(2, 4)
def test_records_replay_on_any_number_of_processes(rank, world):
    whole = initialize_(expected := Mixed())
    torch.manual_seed(rank)
    model = sharded(Mixed(), init_device_mesh("cpu", (world,)))
    found = replay(whole.to_json(), model)
    yield from different(model, expected)
    yield from records(found, whole)
    if not any(entry.digest is None for entry in found):
        yield "a digest of a shard"
    again = Mixed()
    replay(found, again)
    yield from different(again, expected)


@pytest.mark.ranks(2, 4)
def test_flat_parameters_are_materialized_by_fsdp(rank, world):
    with torch.device("meta"):
        model = nn.Linear(4, 4)
    whole = nn.Linear(4, 4)
    initialize_(whole)

    def give_memory(module):
        module.to_empty(device="cpu", recurse=False)

    model = FullyShardedDataParallel(model, device_id=torch.device("cpu"), param_init_fn=give_memory)
    initialize_(model)
    with FullyShardedDataParallel.summon_full_params(model, writeback=False):
        for found, expected in zip(model.parameters(), whole.parameters(), strict=True):
            if not torch.equal(found.flatten(), expected.flatten()):
                yield f"{found} is not {expected}"
    dist.barrier()


@pytest.mark.ranks(2, 4)
def test_gathered_parameters_are_let_go(rank, world):
    """After a forward pass FSDP leaves the root's parameters gathered: what is written into those is lost."""
    model, expected = sharded(llama(), init_device_mesh("cpu", (world,))), llama()
    with torch.no_grad():
        logits(model)
    if any(hasattr(parameter, "placements") for parameter in model.lm_head.parameters()):
        yield "nothing is gathered"
    initialize_(model, AUTO)
    initialize_(expected, AUTO)
    yield from different(model, expected)


@pytest.mark.ranks(2, 4)
def test_partial_tensors_are_refused_before_anything_is_written(rank, world):
    mesh = init_device_mesh("cpu", (world,))
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    partial = DTensor.from_local(torch.ones(4, 4), mesh, [Partial()], run_check=False)
    model[1].weight = nn.Parameter(partial)
    before = model[0].weight.detach().clone()
    try:
        initialize_(model)
        yield "not refused"
    except ValueError as error:
        if "'1.weight'" not in str(error) or "partial" not in str(error):
            yield str(error)
    if not torch.equal(model[0].weight, before):
        yield "written"


@pytest.mark.skipif(torch.__version__ < (2, 13), reason="this torch cannot normalize the weights of DTensors")
@pytest.mark.ranks(2, 4)
def test_parametrized_weights_are_for_before_sharding(rank, world):
    """Through a parametrization a shard could become the whole."""
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    initialize_(layer)
    fully_shard(layer, mesh=init_device_mesh("cpu", (world,)))
    before = [parameter.to_local().clone() for parameter in layer.parameters()]
    try:
        initialize_(layer, seed=9)
        yield "not refused"
    except ValueError as error:
        if "'weight' is parametrized and sharded" not in str(error):
            yield str(error)
    for parameter, values in zip(layer.parameters(), before, strict=True):
        if not torch.equal(parameter.to_local(), values):
            yield f"{parameter} was written"
