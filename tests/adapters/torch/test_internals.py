"""Everything private that the torch adapter uses is there, and does what internals.py says: each fails by its name."""

import copy
import inspect
import sys
import types
import warnings
import weakref

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from fastinit import Program, Zeros  # noqa: E402
from fastinit.adapters.torch import internals  # noqa: E402


@pytest.mark.parametrize(
    "name",
    [
        *("_no_grad_uniform_", "_no_grad_normal_", "_no_grad_trunc_normal_", "_no_grad_fill_", "_no_grad_zero_"),
        *("_make_deprecate", "_calculate_fan_in_and_fan_out", "_calculate_correct_fan"),
    ],
)
def test_torch_init_has(name):
    assert callable(getattr(torch.nn.init, name, None)), f"torch.nn.init.{name} is gone"


def test_increment_version():
    tensor = torch.zeros(3)
    before = tensor._version
    internals.increment_version((tensor,))
    assert tensor._version == before + 1 == internals.versions(tensor)


def test_function_transforms_are_seen():
    seen = []
    torch.vmap(lambda row: seen.append(internals.is_transformed(row)) or row)(torch.zeros(2, 3))
    assert seen == [True] and not internals.is_transformed(torch.zeros(3))


def test_untraced_functions_break_the_graph():
    @internals.untraced
    def named(tensor):
        return tensor

    assert named._torchdynamo_disable, "torch._C._dynamo.eval_frame no longer has its strategies"


def test_functions_that_stand_in_compiled_code():
    @internals.constant_result
    def half(number):
        return number // 2  # a shift, if it were traced

    def other(tensor):
        return tensor + half(6)

    named = internals.inlined_as(lambda tensor: tensor.numpy(), other)

    def call(tensor):
        return named(tensor) * 1

    compiled = torch.compile(call, backend="eager", fullgraph=True)
    assert compiled(torch.zeros(2)).tolist() == [3, 3], "torch.compile no longer knows _torchdynamo_inline"
    assert half._dynamo_marked_constant


def test_views_and_their_bases():
    weight = torch.nn.Parameter(torch.zeros(4, 4))
    assert internals.base_of(weight[:2].T) is weight and internals.base_of(weight) is weight


def test_tracers_are_seen():
    seen = []

    def body(tensor):
        with internals.not_traced():
            seen.append((internals.is_traced(), type(tensor.shape[0])))
        seen.append((internals.is_traced(), internals.shape_of(tensor)))
        return tensor + 1

    with warnings.catch_warnings(action="ignore"):
        torch.jit.trace(body, (torch.zeros(2),), check_trace=False)
    assert seen == [(False, int), (True, (2,))]
    torch.fx.experimental.proxy_tensor.make_fx(body)(torch.zeros(2))
    assert seen[3] == (True, (2,)) and not internals.is_traced()


def test_shard_order_of_a_dtensor():
    from torch.distributed.tensor import _dtensor_spec

    known = inspect.signature(_dtensor_spec.DTensorSpec).parameters
    if hasattr(_dtensor_spec, "ShardOrderEntry"):  # elsewhere every order is from left to right
        assert "shard_order" in known, "DTensorSpec.shard_order is gone"
    else:
        assert "shard_order" not in known
    assert internals.shard_order(torch.zeros(3)) is None


def test_tables_of_a_module():
    module = torch.nn.BatchNorm1d(3)
    assert list(internals.own_parameters(module)) == ["weight", "bias"]
    assert list(internals.own_buffers(module)) == ["running_mean", "running_var", "num_batches_tracked"]
    assert list(internals.own_modules(torch.nn.Sequential(module, module))) == ["0", "1"]


def test_apply_exchanges_every_tensor():
    module = torch.nn.Sequential(torch.nn.LSTM(2, 3), torch.nn.BatchNorm1d(3))
    internals.apply(module, lambda tensor: tensor.to("meta"))
    assert all(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))


def test_a_compiled_module_is_unwrapped():
    module = torch.nn.Linear(2, 2)
    with warnings.catch_warnings(action="ignore"):  # the compiler's own
        compiled = torch.compile(module)
    assert internals.uncompiled(compiled) is internals.uncompiled(module) is module


def test_the_base_class_of_convolutions():
    assert internals.is_convolution(torch.nn.Conv2d(1, 1, 1)), "torch.nn.modules.conv._ConvNd is gone"
    assert internals.is_convolution(torch.nn.ConvTranspose1d(1, 1, 1))
    assert not internals.is_convolution(torch.nn.Linear(1, 1))


def test_spectral_norms_and_their_estimates():
    from torch.nn.utils import parametrizations

    spectral = parametrizations.spectral_norm(torch.nn.Linear(3, 2)).parametrizations.weight[0]
    orthogonal = parametrizations.orthogonal(torch.nn.Linear(3, 2)).parametrizations.weight[0]
    assert {type(spectral).__name__, type(orthogonal).__name__} == internals.SELF_MADE
    first, second = internals.singular_vectors(spectral)
    assert (first.shape, second.shape) == ((2,), (3,))
    assert internals.singular_vectors(orthogonal) is None


def test_what_a_flat_parameter_says():
    # of a process group there are tests with ranks; here the names alone
    from torch.distributed.fsdp import _flat_param

    text = inspect.getsource(_flat_param)
    for name in (
        *("_fqns", "_param_infos", "_shapes", "_strides", "_param_extensions", "_shard_param_infos"),
        *("_shared_param_infos", "_sharded_size", "_is_flat_param"),
    ):
        assert name in text, f"FlatParameter.{name} is gone"
    assert {"offset_in_shard", "numel_in_shard", "intra_param_start_idx"} <= set(_flat_param._ShardParamInfo._fields)
    assert {"prim_module", "prim_param_name", "module_name"} <= set(_flat_param.SharedParamInfo._fields)
    assert internals.FLAT_MARK == "_is_flat_param" and not internals.is_flattened(torch.nn.Linear(2, 2))


class _Counting(torch.overrides.TorchFunctionMode):
    calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_storages_and_operators():
    tensor = torch.ones(3)
    reference = internals.StorageReference(tensor.untyped_storage())
    address = internals.address_of(tensor)
    assert internals.address_of(internals.storage_behind(reference)) == address == internals.address_of(tensor[1:])
    assert not reference.expired() and internals.address_of(tensor.clone()) != address
    del tensor
    assert reference.expired() and internals.storage_behind(reference) is None
    assert internals.operator_named("aten.mul.Tensor") is torch.ops.aten.mul.Tensor
    arguments = internals.schema_of(torch.ops.aten.mul_.Tensor).arguments
    assert [one.alias_info is not None and one.alias_info.is_write for one in arguments] == [True, False]
    assert internals.returned_by(torch.ops.aten.split.Tensor) == 1
    assert issubclass(internals.DispatchMode, torch.utils._python_dispatch.TorchDispatchMode)
    assert internals.is_initialized(torch.nn.Linear(2, 2)) and not internals.is_initialized(
        object.__new__(torch.nn.Linear)
    )
    assert internals.operator_named("aten.nothing.at_all") is None and internals.operator_named("aten") is None
    assert internals.has_memory_of_its_own(torch.nn.Linear(2, 2).weight)
    assert not internals.has_memory_of_its_own(torch.ones(2).to_sparse())
    assert not internals.has_memory_of_its_own(torch.nn.LazyLinear(2).weight)
    assert isinstance(torch.nn.LazyLinear(2).weight, internals.LAZY)
    assert not isinstance(torch.nn.Linear(2, 2).weight, internals.LAZY)
    kept, other = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.empty(2, device="meta"))
    held = [kept]
    assert internals.swapped(kept, other) and held[0].is_meta and not other.is_meta
    reference = weakref.ref(kept)
    assert internals.swapped(kept, other) and not kept.is_meta and reference() is kept
    with torch._subclasses.FakeTensorMode(), internals.without_modes():
        assert torch.ones(2).tolist() == [1.0, 1.0]
    with torch._subclasses.FakeTensorMode() as outer:
        assert internals.is_innermost(outer)
        with torch._subclasses.FakeTensorMode() as inner:
            assert internals.is_innermost(inner) and not internals.is_innermost(outer)
    assert not any(one() for one in internals.WATCHING)
    with outer:
        assert any(one() for one in internals.WATCHING)
    with _Counting() as seen, internals.without_function_modes():
        torch.ones(2).add(1).reshape(2)
    assert seen.calls == 0
    layer, zeros = torch.nn.Linear(2, 2), Program(Zeros())
    internals.keep_program(layer, "weight", zeros)
    internals.keep_program(layer, "bias", zeros)
    assert internals.programs_of(layer) == {"weight": zeros, "bias": zeros}
    assert internals.programs_of(torch.nn.Linear(2, 2)) == {} and internals.PROGRAMS == "_fastinit_programs"


def test_transformers():
    modeling = pytest.importorskip("transformers.modeling_utils", reason="transformers is not installed")
    assert callable(modeling.PreTrainedModel._init_weights), "PreTrainedModel._init_weights is gone"
    assert internals.MARK in inspect.getsource(modeling), f"transformers no longer knows {internals.MARK}"
    assert not internals.is_pretrained(torch.nn.Linear(2, 2))


def test_transposed_linear_layers_of_transformers(monkeypatch):
    class Conv1D(torch.nn.Module):
        pass

    monkeypatch.setitem(sys.modules, "transformers.pytorch_utils", types.SimpleNamespace(Conv1D=Conv1D))
    assert internals.transposed_linear() is Conv1D
    monkeypatch.delitem(sys.modules, "transformers.pytorch_utils")
    assert internals.transposed_linear() is None


def test_hooks_and_signs():
    one, two = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    one.register_hook(lambda grad: grad * 2)
    internals.carry_hooks(one, two)
    two.sum().backward()
    assert two.grad.tolist() == [2.0, 2.0]
    assert internals.negative_view(torch.ones(2)).tolist() == [-1.0, -1.0]


def test_what_transformers_says_of_its_models():
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(num_layers=1, d_model=8, d_ff=8, d_kv=4, num_heads=2, vocab_size=16)
    with torch.device("meta"):
        model = internals.built_from(transformers.T5ForConditionalGeneration, config, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert internals.takes_configuration(transformers.AutoModel, config)
    assert not internals.takes_configuration(transformers.AutoModelForCausalLM, config)
    assert not internals.takes_configuration(torch.nn.Linear, config)
    assert "wo" in internals.kept_in_float32(model)
    model._keys_to_ignore_on_save = ["shared.weight"]
    assert internals.ignored_on_save(model) == ("shared.weight",)
    assert internals.ignored_on_save(torch.nn.Linear(1, 1)) == internals.kept_in_float32(torch.nn.Linear(1, 1)) == ()
    internals.compute_plainly(config)
    assert config._attn_implementation == "eager"


def test_every_name_is_tested():
    text = inspect.getsource(inspect.getmodule(test_every_name_is_tested))
    left = {"Flattened", "FlatParameter", "initialize_as_transformers", "is_fake", "is_watched"}
    left |= {"is_table", "mark_as_constructed", "is_as_constructed"}  # in test_buffers.py and test_deferring.py
    left |= {"parts_of_flat"}  # in test_tensors.py and test_shards_models.py
    assert {name for name in internals.__all__ if name not in text} <= left
    assert copy.copy(internals.torch_init)
