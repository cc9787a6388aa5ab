"""A checkpoint without a file: the bytes of the materialized model, whole, by slices and through torch's loader."""

import builtins
import copy
import io
import os

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
dcp = pytest.importorskip("torch.distributed.checkpoint", exc_type=ImportError)
from torch import nn  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch import InitReader, deferred, materialize, state_dict  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


class Model(nn.Module):
    """Draws, parts, a copy, a replayed table, a tie, buffers that are drawn and others."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 16, padding_idx=0)
        self.mlp = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.Linear(64, 16))
        self.recurrent = nn.GRU(16, 16)
        self.steps = nn.Parameter(torch.rand(16, 16).exp().log1p())
        self.two = copy.deepcopy(self.mlp[0])
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.words.weight
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
        self.register_buffer("noise", torch.randn(40))
        self.register_buffer("shared", self.mlp[0].weight.detach() * 2)
        self.register_buffer("frequencies", torch.arange(8) ** 0.5)
        nn.init.orthogonal_(self.mlp[2].weight)


def pair():
    with deferred():
        return Model(), Model()


@pytest.mark.parametrize("recipe", [None, "auto", "fans"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_every_tensor_is_that_of_the_materialized_model(recipe, dtype):
    source, model = pair()
    weights = state_dict(source, recipe, seed=3, dtype=dtype)
    materialize(model, recipe, seed=3, dtype=dtype)
    expected = model.state_dict()
    assert list(weights) == list(expected) and len(weights) == len(expected)
    for name, tensor in weights.items():
        if dtype is not None and "running" in name:
            continue  # statistics follow the dtype in materialize
        assert (weights.shape(name), weights.dtype(name)) == (tuple(tensor.shape), tensor.dtype)
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), name
    assert all(parameter.is_meta for parameter in source.parameters())


def test_every_slice_is_that_of_the_whole():
    weights = state_dict(pair()[0], seed=3)
    for name, whole in weights.items():
        if whole.dim() == 2 and whole.shape[1] > 6:
            rows = len(whole)
            for offsets, shape in (((1, 2), (3, 4)), ((0, 0), (rows, 1)), ((rows - 1, 0), None), ((2, 2), (0, 5))):
                part = weights.slice(name, offsets, shape)
                extent = part.shape if shape is None else shape
                box = tuple(slice(first, first + size) for first, size in zip(offsets, extent, strict=True))
                assert torch.equal(part, whole[box]), name


def test_a_model_loads_it():
    source, model = pair()
    weights = state_dict(source, seed=3)
    other = Model()
    other.load_state_dict({name: weights[name] for name in weights})
    materialize(model, seed=3)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


@pytest.mark.parametrize("prefix", ["", "model."])
def test_torchs_loader_computes_it(prefix, monkeypatch):
    source, model = pair()
    materialize(model, seed=3)
    other = Model()
    state = other.state_dict()
    whole = {"model": state} if prefix else state
    reader = InitReader(source, seed=3, prefix=prefix)
    dcp.load({}, storage_reader=reader, no_dist=True)  # what is imported late
    opened = []
    with monkeypatch.context() as listening:  # no audit hook: it would stay, and run in every step of other tests
        for module, name in ((builtins, "open"), (io, "open"), (os, "open")):
            listening.setattr(module, name, lambda *given, **named: opened.append(given))
        dcp.load(whole, storage_reader=reader, no_dist=True)
    assert not opened
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_in_the_dtype_that_the_state_has():
    source, model = pair()
    materialize(model, seed=3, dtype=torch.bfloat16)
    state = {"mlp.0.weight": torch.empty(64, 16, dtype=torch.bfloat16)}
    dcp.load(state, storage_reader=InitReader(source, seed=3), no_dist=True)
    assert torch.equal(state["mlp.0.weight"], model.mlp[0].weight)


def test_what_cannot_be_computed_is_refused_before_anything_is_written():
    source, _ = pair()
    reader = InitReader(source)
    weight = torch.full((64, 16), 7.0)
    for name, value, match in (
        ("nothing", torch.empty(3), "Missing key in checkpoint state_dict: nothing"),
        ("mlp.2.weight", torch.empty(16, 64, dtype=torch.int64), "'mlp.2.weight' is to be loaded in torch.int64"),
        ("mlp.2.bias", torch.empty(17), "mlp.2.bias"),
    ):
        with pytest.raises(dcp.api.CheckpointException, match=match):
            dcp.load({"mlp.0.weight": weight, name: value}, storage_reader=reader, no_dist=True)
        assert (weight == 7).all()


def test_a_mapping_says_what_is_wrong():
    weights = state_dict(pair()[0])
    with pytest.raises(KeyError, match="no tensor 'nothing'"):
        weights["nothing"]
    with pytest.raises(ValueError, match=r"extends beyond 'mlp.0.weight' of shape \(64, 16\)"):
        weights.slice("mlp.0.weight", (60, 0), (5, 16))
    with pytest.raises(ValueError, match="offsets"):
        weights.slice("mlp.0.weight", (60,))
    with pytest.raises(TypeError, match="int64"):
        state_dict(pair()[0], dtype=torch.int64)
    with torch.device("meta"):
        unknown = Model()
    with pytest.raises(fastinit.UnmatchedParameter, match="steps"):
        state_dict(unknown)


def test_a_large_models_slices_take_no_memory_of_the_whole():
    import resource

    with deferred():
        model = nn.Linear(2**17, 2**17)  # 64 GiB
    weights = state_dict(model, seed=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    part = weights.slice("weight", (2**16, 5), (3, 100))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**14  # KiB
    record_key = fastinit.Key(1).fold_in("weight")
    bound = (1 / 2**17) ** 0.5
    expected = fastinit.fill(
        torch.empty(3, 100).numpy(),
        fastinit.VarianceScaling(1 / 3, "fan_in", "uniform", "OI"),
        record_key,
        global_shape=(2**17, 2**17),
        offsets=(2**16, 5),
    )
    assert (part.numpy() == expected).all() and part.abs().max() <= bound


def test_buffers_that_lost_their_values_are_made_again():
    class Rotary(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Linear(4, 4)
            self.norm = nn.BatchNorm1d(4)
            self.register_buffer("steps", torch.arange(5) * 2.5)

    with deferred():
        model, other = Rotary(), Rotary()
    materialize(other, seed=1)
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(9)
    weights = state_dict(model, seed=1)
    for name, tensor in other.state_dict().items():
        assert torch.equal(weights[name], tensor), name
