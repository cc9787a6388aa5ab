"""initialize_ and materialize of whole models, transformers too, on 2 and 4 ranks: the bytes of one process."""

import copy
import functools
import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("torch.distributed.fsdp", exc_type=ImportError)

import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard  # noqa: E402
from torch.distributed.fsdp.wrap import lambda_auto_wrap_policy  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch.materializing import materialize  # noqa: E402
from fastinit.adapters.torch.models import initialize_  # noqa: E402


class Mixed(nn.Module):
    """Layers whose fans, blocks and padding rows a shard must not lose sight of."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(13, 6, padding_idx=3)
        self.convolution = nn.Conv1d(6, 6, 3, padding=1, groups=2)
        self.recurrent = nn.LSTM(6, 5, batch_first=True)
        self.attention = nn.MultiheadAttention(5, 1, batch_first=True)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def gpt2():
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=12, n_head=2, n_positions=7, vocab_size=19))


def llama():
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 16}
    return LlamaForCausalLM(LlamaConfig(vocab_size=19, hidden_size=16, intermediate_size=26, **sizes))


MODELS = [Mixed, gpt2, llama]
NORM = fastinit.Rule("LlamaRMSNorm", "weight", fastinit.Ones())
AUTO, TORCH = (fastinit.RECIPES[name].with_rules(NORM, name=name) for name in ("auto", "torch"))


@functools.cache
def whole(make, recipe):
    """The state that one process gives, and the record."""
    torch.manual_seed(1)
    model = make()
    record = initialize_(model, recipe, seed=5, digests=True)
    return copy.deepcopy(model.state_dict()), record


def spoiled(make, rank):
    """A model whose values differ on every rank, so that only initialize_ can make it what it should be."""
    torch.manual_seed(100 + rank)
    return make()


def units(model):
    """Each layer of a transformer, which is how models are sharded."""
    return [
        *getattr(getattr(model, "transformer", None), "h", []),
        *getattr(getattr(model, "model", None), "layers", []),
    ]


def differences(make, recipe, record, state):
    expected, single = whole(make, recipe)
    where = f"{make.__name__} {recipe.name}: "
    if state.keys() != expected.keys():
        yield where + f"names {sorted(state.keys() ^ expected.keys())}"
        return
    for name, tensor in expected.items():
        if not torch.equal(state[name].contiguous().view(torch.uint8), tensor.contiguous().view(torch.uint8)):
            yield where + f"{name}: {state[name]} is not {tensor}"
    for entry, other in zip(record, single, strict=True):
        if (entry.name, entry.shape, entry.rule, entry.key) != (other.name, other.shape, other.rule, other.key):
            yield where + f"{entry} is not {other}"
        if entry.digest not in (None, other.digest):
            yield where + f"digest of {entry.name}"


def full(state):
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}


def in_turn(rank, world, model, recipe):
    """One rank after another: one that communicated would wait for the others for ever."""
    for turn in range(world):
        if turn == rank:
            record = initialize_(model, recipe, seed=5, digests=True)
        dist.barrier()
    return record


@pytest.mark.ranks(2, 4)
def test_fully_sharded(rank, world):
    mesh = init_device_mesh("cpu", (world,))
    for make in MODELS:
        for recipe in (AUTO, TORCH):
            model = spoiled(make, rank)
            for unit in units(model):
                fully_shard(unit, mesh=mesh)
            fully_shard(model, mesh=mesh)
            record = in_turn(rank, world, model, recipe)
            yield from differences(make, recipe, record, full(model.state_dict()))


@pytest.mark.ranks(2, 4)
def test_materialized(rank, world):
    """Sharded on the meta device: each rank allocates and fills its own part and nothing else."""
    mesh = init_device_mesh("cpu", (world,))
    for make in MODELS:
        with torch.device("meta"):
            model = make()
        for unit in units(model):
            fully_shard(unit, mesh=mesh)
        fully_shard(model, mesh=mesh)
        record = materialize(model, AUTO, seed=5)
        yield from differences(make, AUTO, record, full(model.state_dict()))


@pytest.mark.skipif(torch.__version__ < (2, 13), reason="needs strided shards of uneven sizes")
@pytest.mark.ranks(2, 4)
def test_tensor_parallel_and_fully_sharded(rank, world):
    mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("data", "tensor"))
    model = spoiled(llama, rank)
    columns = {f"self_attn.{name}_proj": ColwiseParallel() for name in "qkv"}
    columns |= {"mlp.gate_proj": ColwiseParallel(), "mlp.up_proj": ColwiseParallel()}
    rows = {"self_attn.o_proj": RowwiseParallel(), "mlp.down_proj": RowwiseParallel()}
    for unit in units(model):
        parallelize_module(unit, mesh["tensor"], columns | rows)
        fully_shard(unit, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])
    record = in_turn(rank, world, model, AUTO)
    yield from differences(llama, AUTO, record, full(model.state_dict()))


@pytest.mark.ranks(2, 4)
def test_flat_parameters(rank, world):
    for make in MODELS:
        for recipe, use_orig_params in ((AUTO, True), (AUTO, False), (TORCH, True)):
            model = spoiled(make, rank)
            model = FullyShardedDataParallel(
                model,
                device_id=torch.device("cpu"),
                use_orig_params=use_orig_params,
                auto_wrap_policy=functools.partial(lambda_auto_wrap_policy, lambda_fn=units(model).__contains__),
            )
            record = in_turn(rank, world, model, recipe)
            with FullyShardedDataParallel.summon_full_params(model, writeback=False), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                state = {fastinit.canonical_name(name): value.clone() for name, value in model.state_dict().items()}
            yield from differences(make, recipe, record, state)
