"""What this adapter uses of torch and transformers beyond their public names: one small thing for each use.

Read in torch 2.13.0 and transformers 5.0. A test fails, by name, when one is gone; each says what happens without it.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from operator import attrgetter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, _get_current_dispatch_mode

from fastinit import Program

if TYPE_CHECKING:
    from torch.nn import init as torch_init
else:
    torch_init = SimpleNamespace(**vars(torch.nn.init))
"""torch.nn.init as it was when this was imported: where fastinit's functions take its place, torch's stay here."""

# Private functions of torch.nn.init, which other packages import, so that the drop-in offers them too.
make_deprecate: Final = torch_init._make_deprecate
no_grad_uniform_: Final = torch_init._no_grad_uniform_
no_grad_normal_: Final = torch_init._no_grad_normal_
no_grad_fill_: Final = torch_init._no_grad_fill_
no_grad_zero_: Final = torch_init._no_grad_zero_
calculate_fan_in_and_fan_out: Final = torch_init._calculate_fan_in_and_fan_out
calculate_correct_fan: Final = torch_init._calculate_correct_fan

__all__ = [
    "FLAT_MARK",
    "LAZY",
    "MARK",
    "PROGRAMS",
    "SELF_MADE",
    "WATCHING",
    "DispatchMode",
    "FlatParameter",
    "Flattened",
    "StorageReference",
    "address_of",
    "apply",
    "base_of",
    "built_from",
    "calculate_correct_fan",
    "calculate_fan_in_and_fan_out",
    "carry_hooks",
    "compute_plainly",
    "constant_result",
    "flat_parameter",
    "has_memory_of_its_own",
    "ignored_on_save",
    "increment_version",
    "initialize_as_transformers",
    "inlined_as",
    "is_as_constructed",
    "is_convolution",
    "is_fake",
    "is_flattened",
    "is_initialized",
    "is_innermost",
    "is_pretrained",
    "is_table",
    "is_traced",
    "is_transformed",
    "is_watched",
    "keep_program",
    "kept_in_float32",
    "make_deprecate",
    "mark_as_constructed",
    "negative_view",
    "no_grad_fill_",
    "no_grad_normal_",
    "no_grad_uniform_",
    "no_grad_zero_",
    "not_traced",
    "operator_named",
    "own_buffers",
    "own_modules",
    "own_parameters",
    "parts_of_flat",
    "programs_of",
    "returned_by",
    "schema_of",
    "shape_of",
    "shard_order",
    "singular_vectors",
    "storage_behind",
    "swapped",
    "takes_configuration",
    "torch_init",
    "transposed_linear",
    "uncompiled",
    "untraced",
    "versions",
    "without_function_modes",
    "without_modes",
]

Function = TypeVar("Function", bound=Callable[..., Any])


# Tensors

increment_version: Final[Callable[[tuple[Tensor, ...]], None]] = torch._C._increment_version
"""Tells autograd that tensors were written, which would otherwise trust what it has saved.

``torch.autograd.graph.increment_version`` is the public one; it takes several times as long as a small fill may.
"""


def versions(tensor: Tensor) -> int:
    """How often a tensor was written in place, in any thread.

    It tells that code of another thread wrote where no tape looks.
    """
    return tensor._version


negative_view: Final[Callable[[Tensor], Tensor]] = torch._neg_view
"""A tensor's negatives without memory of their own, as the imaginary part of ``conj()`` is.

Without it a parameter that is computed from such a part would have the other sign.
"""

is_transformed: Final[Callable[[Tensor], bool]] = torch._C._functorch.is_functorch_wrapped_tensor
"""Whether a function transform (``torch.func.vmap``, ``grad``) wraps a tensor. Without it their levels are not seen."""

_dispatch_modes: Final[Callable[[], int]] = torch._C._len_torch_dispatch_stack
_function_modes: Final[Callable[[], int]] = torch._C._len_torch_function_stack
_function_mode_at: Final[Callable[[int], Any]] = torch._C._get_function_stack_at


_tracing_state: Final[Callable[[], object]] = torch._C._get_tracing_state
_set_tracing_state: Final[Callable[[Any], None]] = torch._C._set_tracing_state  # type: ignore[attr-defined]


WATCHING: Final = (_dispatch_modes, _function_modes, _tracing_state)
"""Functions that are all false where no mode and no tracer wants to see an operation."""


def is_watched() -> bool:
    """Whether a mode or ``torch.jit.trace`` wants to see every operation.

    Without it a tracer or a fake mode would miss that memory changed. Default devices are modes too, and concern only
    tensors that are not yet made.
    """
    if _dispatch_modes() or _tracing_state() is not None:
        return True
    count = _function_modes()
    return count > 0 and any(type(_function_mode_at(number)) is not DeviceContext for number in range(count))


def is_traced() -> bool:
    """Whether a graph is being made of what runs: by ``torch.jit.trace``, ``make_fx`` or ``torch.export``.

    Without it the graph would have the memory that a fill found, or torch's numbers.
    """
    if _tracing_state() is not None:
        return True
    proxies = sys.modules.get("torch.fx.experimental.proxy_tensor")  # without which there is none
    return proxies is not None and proxies.get_proxy_mode() is not None


@contextmanager
def not_traced() -> Iterator[None]:
    """Inside, ``torch.jit.trace`` does not follow sizes: it would warn of each that becomes a number."""
    state = _tracing_state()
    if state is None:
        yield
        return
    _set_tracing_state(None)
    try:
        yield
    finally:
        _set_tracing_state(state)


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """The shape of a tensor, in numbers also where ``torch.jit.trace`` follows sizes."""
    if _tracing_state() is None:
        return tuple(tensor.shape)
    with not_traced():
        return tuple(tensor.shape)


def base_of(tensor: Tensor) -> Tensor:
    """The tensor that another is a view of; the tensor itself if it is not a view."""
    base: Tensor | None = tensor._base
    return tensor if base is None else base


def is_fake(tensor: Tensor) -> bool:
    """Whether a tensor is a FakeTensor, which has no memory. Without it one would be taken for an unknown subclass."""
    module = sys.modules.get("torch._subclasses.fake_tensor")  # without which there can be none
    return module is not None and isinstance(tensor, module.FakeTensor)


def shard_order(tensor: Any) -> Any:
    """Which mesh axis split a DTensor's axis first; None where the DTensor does not say.

    Only ``redistribute`` knows it, and keeps it in the private specification. Without it mesh axes are taken from left
    to right, which is right for all that ``distribute_tensor`` and ``fully_shard`` make.
    """
    return getattr(getattr(tensor, "_spec", None), "shard_order", None)


# Storages and operators


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that sees every operator. Its base has no public name, and would be wrapped by torch.compile.

    Without it no constructor can be recorded.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class StorageReference:
    """A weak reference to a storage: while it lives, no other storage has the same address.

    Without it the tape of a deferred model would take a new tensor for one that was freed.
    """

    __slots__ = ("_pointer",)

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self._pointer: Any = storage._weak_ref()

    def expired(self) -> bool:
        """Whether the storage was freed."""
        return bool(torch.UntypedStorage._expired(self._pointer))

    def __del__(self) -> None:
        torch.UntypedStorage._free_weak_ref(self._pointer)  # type: ignore[no-untyped-call]


def address_of(memory: Tensor | torch.UntypedStorage) -> int:
    """What tells a storage from all others that live."""
    storage = memory.untyped_storage() if isinstance(memory, Tensor) else memory
    return int(storage._cdata)


def storage_behind(reference: StorageReference) -> torch.UntypedStorage | None:
    """The storage of a weak reference; None if it was freed."""
    if reference.expired():
        return None
    found: torch.UntypedStorage | None = torch.UntypedStorage._new_with_weak_ptr(reference._pointer)
    return found


def carry_hooks(tensor: Tensor, other: Tensor) -> None:
    """Gives the gradient hooks of a tensor to another, which takes its place. Without it they would be lost."""
    for name in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        hooks = getattr(tensor, name, None)
        if hooks and other.requires_grad:
            setattr(other, name, hooks)


def swapped(tensor: Tensor, other: Tensor) -> bool:
    """Exchanges two tensors' memory, so that everybody who holds one has the other's; whether that was possible.

    Who refers to it weakly, as RNNs to their flat weights, has the same object still, so that torch's own function,
    which refuses this, is too strict.
    """
    uses = [one._use_count() for one in (tensor, other)]  # type: ignore[attr-defined]
    if weakref.getweakrefs(tensor) and type(tensor) is type(other) and uses == [1, 1]:
        tensor.__dict__, other.__dict__ = vars(other), vars(tensor)
        torch._C._swap_tensor_impl(tensor, other)
        return True
    try:
        torch.utils.swap_tensors(tensor, other)  # type: ignore[no-untyped-call]
    except RuntimeError:  # autograd holds the tensor
        return False
    return True


def without_modes() -> AbstractContextManager[Any]:
    """Inside, no dispatch mode sees what runs. Without it a tape would record what computes the values on it."""
    context: AbstractContextManager[Any] = _disable_current_modes()
    return context


without_function_modes: Final[Callable[[], AbstractContextManager[None]]] = torch._C.DisableTorchFunction
"""Inside, no function mode sees what is called. Without it each look at a tensor on a tape is a call of Python's."""


def is_innermost(mode: TorchDispatchMode) -> bool:
    """Whether a dispatch mode is the next to see an operator. Without it a tape would not know of others within it."""
    return _get_current_dispatch_mode() is mode


def schema_of(operator: Any) -> Any:
    """The names and the types of an operator's arguments, and which of them it writes."""
    return operator._schema


def returned_by(operator: Any) -> int:
    """How many values an operator returns."""
    return len(operator._schema.returns)


def operator_named(name: str) -> Any:
    """An operator of torch by its name: ``"aten.mul.Tensor"``; None if there is none."""
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, torch._ops.OpOverload) else None


def has_memory_of_its_own(tensor: Tensor) -> bool:
    """Whether a tensor is strided memory of a class without dispatch of its own: a tape can follow it."""
    return (
        tensor.layout is torch.strided
        and not tensor.is_quantized
        and type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__
        and not isinstance(tensor, LAZY)
    )


LAZY: Final[type] = nn.parameter.UninitializedTensorMixin  # type: ignore[attr-defined]
"""The class of tensors that have no shape yet. Asking a public one of its kind runs code of Python's, each time."""


# torch.compile


def untraced(function: Function) -> Function:
    """Keeps torch.compile out of a function: a graph breaks at its call, and it runs as it is written.

    As ``torch.compiler.disable``, which would wrap the function, and import the compiler. Without it the compiler
    traces into the adapter, and fails at the first address.
    """
    with suppress(AttributeError):
        frames = torch._C._dynamo.eval_frame
        skip = frames._FrameAction.SKIP
        frames.set_code_exec_strategy(function.__code__, frames._FrameExecStrategy(skip, skip))
        function._torchdynamo_disable = True  # type: ignore[attr-defined]
        function._torchdynamo_disable_msg = "fastinit writes to memory"  # type: ignore[attr-defined]
    return function


def inlined_as(function: Function, other: Callable[..., Any]) -> Function:
    """Makes torch.compile trace another function in the place of this one, which remains what it is.

    Without it a graph breaks at every call.
    """
    function._torchdynamo_inline = other  # type: ignore[attr-defined]
    return function


def constant_result(function: Function) -> Function:
    """Makes torch.compile call a function while it traces, and take its result for a constant.

    As ``torch.compiler.assume_constant_result``, which would import the compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


# Modules: their own tables, which ``parameters(recurse=False)`` and the like show without None and without repetitions


own_parameters: Final[Callable[[nn.Module], dict[str, nn.Parameter | None]]] = attrgetter("_parameters")
"""A module's table of its own parameters, by attribute, to read and to write."""

own_buffers: Final[Callable[[nn.Module], dict[str, Tensor | None]]] = attrgetter("_buffers")
"""A module's table of its own buffers."""


def is_table(module: nn.Module, value: object) -> bool:
    """Whether an attribute of a module is one of its tables of parameters, buffers and children."""
    return value is own_parameters(module) or value is own_buffers(module) or value is own_modules(module)


own_modules: Final[Callable[[nn.Module], dict[str, nn.Module | None]]] = attrgetter("_modules")
"""A module's table of its children; one that is registered twice stands there twice."""


PROGRAMS: Final = "_fastinit_programs"
"""The attribute in which a module keeps the programs of its own parameters and buffers, by their names within it."""


def programs_of(module: nn.Module) -> dict[str, Program]:
    """The programs of a module's own parameters and buffers; empty where it was not built under ``deferred()``."""
    found: dict[str, Program] = vars(module).get(PROGRAMS, {})
    return found


def keep_program(module: nn.Module, role: str, program: Program) -> None:
    """Has a module carry the program of one of its own parameters, buffers or plain tensors."""
    vars(module)[PROGRAMS] = programs_of(module) | {role: program}


_CONSTRUCTED: Final = "_fastinit_constructed"


def mark_as_constructed(buffer: Tensor) -> None:
    """Says of a buffer that it has the memory in which ``deferred()`` left it."""
    setattr(buffer, _CONSTRUCTED, True)


def is_as_constructed(buffer: Tensor) -> bool:
    """Whether a buffer has that memory still: ``to_empty`` and ``to`` make new ones."""
    return bool(getattr(buffer, _CONSTRUCTED, False))


def is_initialized(module: nn.Module) -> bool:
    """Whether the constructor of nn.Module has run."""
    return "_parameters" in vars(module)


def apply(module: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
    """Exchanges all tensors of a module and its children: RNNs, FSDP and others know how to follow it.

    Without it flat weights and shards would keep the old memory.
    """
    module._apply(function)  # type: ignore[no-untyped-call]


def uncompiled(module: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` wraps: compiled code calls no hooks."""
    return getattr(module, "_orig_mod", module)


def is_convolution(module: nn.Module) -> bool:
    """Whether a module is a convolution, transposed or not; their common base class is private."""
    return isinstance(module, nn.modules.conv._ConvNd)


SELF_MADE: Final = frozenset({"_SpectralNorm", "_Orthogonal"})
"""Parametrizations of torch, by the names of their private classes, whose buffers follow from the weight assigned."""


def singular_vectors(parametrization: nn.Module) -> tuple[Tensor, Tensor] | None:
    """The estimates of a spectral norm; None of any other parametrization."""
    buffers = own_buffers(parametrization)
    first, second = buffers.get("_u"), buffers.get("_v")
    return None if first is None or second is None else (first, second)


# FSDP, first version


FLAT_MARK: Final = "_is_flat_param"
"""The attribute of a flat parameter, in which FSDP keeps several."""


class Flattened(NamedTuple):
    """What a flat parameter says of one of the parameters in it."""

    fqn: str
    module: nn.Module
    name: str
    shape: torch.Size
    stride: tuple[int, ...]
    extension: Any
    """What it was before, if it was no plain tensor (a DTensor)."""
    first: int
    """Where its elements lie in this rank's part of the flat parameter,"""
    size: int
    """how many they are,"""
    start: int
    """and the index of the first of them in the flattened parameter."""


class FlatParameter(NamedTuple):
    """A flat parameter of an FSDP module. Without these names a model that FSDP flattened cannot be filled."""

    tensor: Tensor
    sharded_size: torch.Size
    parameters: tuple[Flattened, ...]
    shared: tuple[tuple[tuple[nn.Module, str], str, nn.Module, str], ...]
    """Owner and name of a tensor, and the module's name, module and name where it is used again."""


def flat_parameter(module: nn.Module) -> FlatParameter | None:
    """What an FSDP module of the first version has flattened; None of any other module."""
    fsdp = sys.modules.get("torch.distributed.fsdp.fully_sharded_data_parallel")  # without which there can be none
    if fsdp is None or not isinstance(module, fsdp.FullyShardedDataParallel) or module._handle is None:
        return None
    flat = module._handle.flat_param
    rows = zip(
        flat._fqns,
        flat._param_infos,
        flat._shapes,
        flat._strides,
        flat._param_extensions,
        flat._shard_param_infos,
        strict=True,
    )
    found = []
    for fqn, (own_name, owner, _), shape, stride, extension, shard in rows:
        held = (
            (shard.offset_in_shard, shard.numel_in_shard, shard.intra_param_start_idx) if shard.in_shard else (0,) * 3
        )
        found.append(Flattened(fqn, owner, own_name, shape, stride, extension, *held))
    shared = tuple(
        ((info.prim_module, info.prim_param_name), info.module_name, info.module, info.param_name)
        for info in flat._shared_param_infos
    )
    return FlatParameter(flat, flat._sharded_size, tuple(found), shared)


def is_flattened(model: nn.Module) -> bool:
    """Whether FSDP's first version has flattened parameters anywhere in a model."""
    return any(flat_parameter(module) is not None for module in model.modules())


# transformers

MARK: Final = "_is_hf_initialized"
"""The attribute by which transformers marks a parameter that its own initialization must leave alone."""


def is_pretrained(module: nn.Module) -> bool:
    """Whether a module is a model of transformers."""
    modeling = sys.modules.get("transformers.modeling_utils")  # without which there can be none
    return modeling is not None and isinstance(module, modeling.PreTrainedModel)


def transposed_linear() -> type[nn.Module] | None:
    """transformers' Conv1D, a Linear with the weight the other way round, where transformers is imported.

    Without it such layers are unknown, and their parameters need programs or rules of their own.
    """
    own = sys.modules.get("transformers.pytorch_utils")  # without which there can be none
    return None if own is None else own.Conv1D


def initialize_as_transformers(model: nn.Module, module: nn.Module) -> None:
    """Initializes a module of a transformers model as that does where it loads a checkpoint.

    Without it buffers on the meta device that a model computes by itself stay unknown, and are refused by name.
    """
    model._init_weights(module)  # type: ignore[operator]


def built_from(kind: Any, config: Any, **options: Any) -> nn.Module:
    """A model of a class of transformers from its configuration, as ``AutoModel.from_config`` builds it.

    Without it the dtype of the configuration would have no effect.
    """
    model: nn.Module = kind._from_config(config, **options)
    return model


def takes_configuration(auto: Any, config: Any) -> bool:
    """Whether an auto class of transformers has a model for a configuration. Without it the class's error says so."""
    return type(config) in getattr(auto, "_model_mapping", ())


def ignored_on_save(model: Any) -> tuple[str, ...]:
    """Names of the state dict that ``save_pretrained`` leaves out. Without it the checkpoint holds them, too."""
    return tuple(getattr(model, "_keys_to_ignore_on_save", None) or ())


def kept_in_float32(model: Any) -> tuple[str, ...]:
    """Parts of names whose modules transformers keeps in float32. Without it they are quantized, too."""
    return tuple(getattr(model, "_keep_in_fp32_modules", None) or ())


def compute_plainly(config: Any) -> None:
    """Has a configuration choose the implementations that run on the meta device. Without it some models do not."""
    config._attn_implementation, config._experts_implementation = "eager", "batched_mm"


def parts_of_flat(model: nn.Module) -> Iterator[tuple[str, FlatParameter]]:
    """Every flat parameter of a model, with the name of the FSDP module that has it."""
    for prefix, module in model.named_modules():
        found = flat_parameter(module)
        if found is not None:
            yield prefix, found
