"""materialize and deferred: from the meta device to memory, each parameter allocated and filled once."""

import sys

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
from torch import nn  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch import (  # noqa: E402
    deferred,
    materialize,
)
from fastinit.adapters.torch.models import initialize_  # noqa: E402
from fastinit.models.recipes import Recipe, Rule, UnmatchedParameter  # noqa: E402


class Model(nn.Module):
    """A tied embedding, an LSTM, norms with and without statistics, and a buffer that is computed."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(40, 16, padding_idx=0)
        self.recurrent = nn.LSTM(16, 16, batch_first=True)
        self.block = nn.Sequential(nn.Conv1d(16, 16, 3, padding=1), nn.BatchNorm1d(16), nn.GELU())
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("ramp", torch.linspace(0, 1, 16), persistent=False)

    def forward(self, tokens):
        hidden, _ = self.recurrent(self.embedding(tokens) + self.ramp.to(self.norm.weight.dtype))
        hidden = self.block(hidden.transpose(1, 2)).transpose(1, 2)
        return self.head(self.norm(hidden))


def built():
    with deferred():
        return Model()


def same(model, expected):
    found, wanted = (dict([*one.named_parameters(), *one.named_buffers()]) for one in (model, expected))
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        assert tensor.dtype == wanted[name].dtype and torch.equal(tensor, wanted[name]), name


TOKENS = torch.arange(24).reshape(2, 12)


def test_the_bytes_are_those_of_initialize():
    model, expected = built(), Model()
    record = materialize(model, "auto", seed=4, digests=True)
    assert record == initialize_(expected, seed=4, digests=True)
    same(model, expected)
    assert torch.equal(model(TOKENS), expected(TOKENS))
    assert {entry.digest for entry in materialize(built())} == {None}
    assert materialize(built(), "auto", num_threads=2, digests=True, seed=4) == record


def test_ties_gradients_and_attributes_are_kept():
    model = built()
    assert model.head.weight is model.embedding.weight
    model.norm.bias.requires_grad_(False)
    model.norm.bias.note = "kept"
    model.recurrent.weight_hh_l0.note = "too"
    model.norm.weight.grad = torch.ones(16, device="meta")
    materialize(model, frozen=True)
    assert model.norm.weight.grad is None
    assert model.head.weight is model.embedding.weight
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["norm.bias"]
    assert (model.norm.bias.note, model.recurrent.weight_hh_l0.note) == ("kept", "too")
    assert all(type(parameter) is nn.Parameter and parameter.is_leaf for parameter in model.parameters())
    model(TOKENS).sum().backward()
    assert model.embedding.weight.grad is not None and model.recurrent.weight_hh_l0.grad is not None


def test_recurrent_weights_tied_across_layers():
    with deferred():
        model = nn.ModuleList([nn.GRU(8, 8), nn.GRU(8, 8)])
        model[1].weight_hh_l0 = model[0].weight_hh_l0
    materialize(model)
    assert model[1].weight_hh_l0 is model[0].weight_hh_l0
    outputs, _ = model[1](torch.ones(3, 2, 8))
    outputs.sum().backward()
    assert model[0].weight_hh_l0.grad.any()


def test_a_module_under_two_names():
    with deferred():
        layer = nn.Linear(4, 4)
        model = nn.Sequential(layer, nn.ReLU(), layer)
    materialize(model)
    assert model[0].weight is model[2].weight and model(torch.ones(1, 4)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_in_another_dtype(dtype):
    model, expected = built(), Model().to(dtype)
    materialize(model, "auto", dtype=dtype)
    initialize_(expected)
    expected.ramp = model.ramp  # buffers that are no statistics stay as they are
    assert model.ramp.dtype == torch.float32 and model.block[1].num_batches_tracked.dtype == torch.int64
    same(model, expected)
    assert model(TOKENS).isfinite().all()


def test_parameters_that_have_memory_keep_it():
    model = built()
    model.norm.weight = nn.Parameter(torch.full((16,), 3.0))
    kept = model.norm.weight
    record = materialize(model, dtype=torch.bfloat16)
    assert model.norm.weight is kept and kept.dtype == torch.float32 and (kept == 3).all()
    assert "norm.weight" not in record and "norm.bias" in record


def test_statistics_are_reset_wherever_they_are():
    with torch.device("meta"):
        lost = nn.BatchNorm2d(4)
    with deferred():
        kept = nn.BatchNorm2d(4)
    kept.running_mean.fill_(9)
    for norm in (lost, kept):
        materialize(norm, dtype=torch.bfloat16)
        same(norm, nn.BatchNorm2d(4).to(torch.bfloat16))


def test_lazy_modules_pass_through_deferred():
    with deferred():
        layer = nn.LazyLinear(3)
    assert isinstance(layer.weight, nn.parameter.UninitializedParameter)
    with pytest.raises(ValueError, match="run a forward pass first"):
        materialize(layer)


# Errors, all of them before anything is allocated


def refused(model, error, match, *arguments, **options):
    before = {name: tensor for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    with pytest.raises(error, match=match):
        materialize(model, *arguments, **options)
    after = {name: tensor for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)


def test_buffers_without_values_are_named():
    with torch.device("meta"):
        model = Model()
        model.block.register_buffer("table", torch.arange(3))
        model.scale = torch.ones(1)  # computed, and held by no register
    refused(model, ValueError, r"cannot be known: scale, ramp, block\.table\. Build the model under deferred\(\)")
    model.ramp, model.block.table, model.scale = torch.linspace(0, 1, 16), torch.arange(3), torch.ones(1)
    materialize(model)
    assert model(TOKENS).isfinite().all()


def test_of_a_frozen_norm_only_the_statistics_are_known():
    class FrozenNorm(nn.BatchNorm1d):
        def __init__(self):
            super().__init__(4, affine=False)
            self.register_buffer("scale", torch.ones(4))
            self.linear = nn.Linear(2, 2)

    with torch.device("meta"):
        model = FrozenNorm()
    refused(model, ValueError, r"cannot be known: scale\. ")


def test_parameters_without_rules_or_of_other_dtypes_are_named():
    model = built()
    model.custom = nn.Parameter(torch.empty(3, device="meta"))
    refused(model, UnmatchedParameter, "'custom'")
    model.custom = nn.Parameter(torch.empty(3, dtype=torch.complex64, device="meta"))
    refused(
        model,
        TypeError,
        r"'custom': expected a dtype among .*got complex64",
        Recipe([Rule("*", "*", fastinit.Zeros())]),
    )
    del model.custom
    loud = Recipe([Rule("*", "*", fastinit.Normal(0.0, 1e5))])
    refused(model, ValueError, "'embedding.weight'.*float16", loud, dtype=torch.float16)


def test_wrong_arguments():
    refused(built(), TypeError, "dtype must be one of", dtype=torch.int8)
    refused(built(), TypeError, "dtype must be one of", dtype="bfloat16")
    refused(built(), ValueError, "the meta device has none", device="meta")
    refused(Model(), ValueError, "no parameter is on the meta device")
    refused(built(), ValueError, "own, auto, fans, torch", "fancy")


# Progress


def test_a_progress_bar_if_it_is_asked_for(capsys):
    pytest.importorskip("tqdm")
    materialize(built())
    assert capsys.readouterr().err == ""
    materialize(built(), progress=True)
    assert "materialize: 100%" in capsys.readouterr().err


def test_without_tqdm(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    materialize(built(), progress=True)
    assert "100%" in capsys.readouterr().err
    materialize(built())
    assert capsys.readouterr().err == ""


MEMORY = """
import gc, resource, sys
import torch
from torch import nn
from fastinit.adapters.torch import deferred, materialize

def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

def build(width, depth):
    return nn.Sequential(*(layer for _ in range(depth) for layer in (nn.Linear(width, width, bias=False), nn.GELU())))

with deferred():
    small, model = build(64, 1), build(4096, 16)
materialize(small, dtype=torch.bfloat16)  # libraries are loaded, threads have their buffers
gc.collect()
before = status("VmRSS")
materialize(model, dtype=torch.bfloat16, digests=bool(int(sys.argv[1])))
size = sum(parameter.nbytes for parameter in model.parameters())
assert all(parameter.dtype == torch.bfloat16 and parameter.std() > 0.008 for parameter in model[::15].parameters())
print(size, status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("digests", [pytest.param(0, marks=pytest.mark.long), 1])
def test_the_peak_of_memory_is_the_model(run_python, digests):
    result = run_python(MEMORY, str(digests))
    assert result.returncode == 0, result.stderr
    size, grown = map(int, result.stdout.split())
    assert size == 2**29
    assert size <= grown < size + 2**26


@pytest.mark.parametrize("number", [0, -3, "a", 1.5])
def test_a_wrong_number_of_threads_is_refused_before_anything_is_allocated(number):
    with torch.device("meta"):
        model = nn.Linear(4, 4)
    with pytest.raises((TypeError, ValueError), match="num_threads"):
        materialize(model, num_threads=number)
    assert model.weight.is_meta


def test_a_device_that_is_none():
    with deferred():
        model = nn.Linear(3, 2)
    for device in (None, 1.5, [], object()):
        with pytest.raises(TypeError, match=r"device must be a torch\.device or its name, got"):
            materialize(model, device=device)
    assert model.weight.is_meta
