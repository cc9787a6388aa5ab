"""Facts about each parameter of a torch model for rules: its layer, its layout, the following activation.

:func:`parameters` turns a model into facts (:class:`fastinit.Parameter`) without drawing. It finds the activation after
a layer only if the model's structure shows it: in an ``nn.Sequential``, in the layer itself (``nn.RNN``), or in the
attribute names that transformers, timm, torchvision and torch's own Transformer share, such as ``act_fn`` beside
``fc1``. Otherwise the activation is None, which means "unknown".
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from fastinit import Parameter, canonical_name
from fastinit.adapters.torch.internals import (
    FLAT_MARK,
    LAZY,
    PROGRAMS,
    is_flattened,
    own_buffers,
    own_modules,
    own_parameters,
    programs_of,
    transposed_linear,
)
from fastinit.adapters.torch.slices import marked_slices
from fastinit.adapters.torch.tensors import Kind
from fastinit.extending import (
    GATES,
    PRELU_SLOPE,
    WRAPPER_COMPONENTS,
    Rename,
    Shard,
    check_prefixes,
    renamed_program,
    renaming,
)

if TYPE_CHECKING:
    from fastinit.adapters.torch.shards import Piece

__all__ = [
    "NORMS",
    "Activation",
    "Place",
    "activation_of",
    "evaluating",
    "followed_by_norms",
    "originals",
    "parameters",
]


class Activation(NamedTuple):
    """An activation: its standard name, and a leaky rectifier's slope for negative inputs."""

    name: str
    negative_slope: float = 0.0


class Place(NamedTuple):
    """One parameter of a model: its facts and its location.

    Attributes
    ----------
    parameter : Parameter
        The facts, under the parameter's first name.
    tensor : torch.Tensor
        The registered tensor. For a parametrized weight, its (first) original.
    owners : tuple of (nn.Module, str)
        Every module and attribute that holds the tensor, beginning with that of the first name.
    parametrizations : ParametrizationList or None
        The parametrizations that assign the weight.
    shard : Shard or None
        Position of a piece of a flat parameter (FSDP's first version) or of a tensor marked as a slice; None for
        other tensors.
    kind : Kind
        The kind of the tensor, once the place has been checked.
    names : tuple of str
        The canonical names in this model. `parameter` has the names after a caller's renaming.
    """

    parameter: Parameter
    tensor: torch.Tensor
    owners: tuple[tuple[nn.Module, str], ...]
    parametrizations: parametrize.ParametrizationList | None = None
    shard: Shard | None = None
    kind: Kind = Kind.FOREIGN
    names: tuple[str, ...] = ()

    @property
    def is_flat(self) -> bool:
        """Whether the parameter is a piece of a flat parameter."""
        return self.shard is not None and self.shard.start is not None


# Names without underscores: of strings, functions, and classes without the suffix "Activation".
_NAMES = {
    "relu": "relu",
    "relu6": "relu6",
    "leakyrelu": "leaky_relu",
    "elu": "elu",
    "selu": "selu",
    "celu": "celu",
    "gelu": "gelu",
    "gelupython": "gelu",
    "clippedgelu": "gelu",
    "gelu10": "gelu",
    "gelutanh": "gelu_tanh",
    "newgelu": "gelu_tanh",
    "gelunew": "gelu_tanh",
    "fastgelu": "gelu_tanh",
    "gelufast": "gelu_tanh",
    "pytorchgelutanh": "gelu_tanh",
    "gelupytorchtanh": "gelu_tanh",
    "gelupythontanh": "gelu_tanh",
    "accurategelu": "gelu_tanh",
    "geluaccurate": "gelu_tanh",
    "quickgelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "mish": "mish",
    "hardswish": "hardswish",
    "hardtanh": "hardtanh",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "hardsigmoid": "hardsigmoid",
    "logsigmoid": "logsigmoid",
    "softplus": "softplus",
    "softsign": "softsign",
    "tanhshrink": "tanhshrink",
    "relusquared": "relu_squared",
    "relu2": "relu_squared",
    "squaredrelu": "relu_squared",
}
# Parameter values for which an activation is the standard one of its name.
_STANDARD = {
    "elu": {"alpha": 1.0},
    "celu": {"alpha": 1.0},
    "hardtanh": {"min_val": -1.0, "max_val": 1.0},
    "softplus": {"beta": 1.0},
}

_ACTIVATION_ATTRIBUTES = (
    "activation",
    "act",
    "act_fn",
    "activation_fn",
    "activation_function",
    "intermediate_act_fn",
    "transform_act_fn",
    "nonlinearity",
    "non_linearity",
    "relu",
)
# Layers that such an attribute is applied to, if a module has both.
_ACTIVATED = frozenset(
    {
        "fc1",
        "fc_in",
        "c_fc",
        "linear1",
        "linear_1",
        "lin1",
        "lin_1",
        "linear_fc1",
        "wi",
        "wi_0",
        "gate_proj",
        "dense",
        "intermediate_dense",
        "dense_h_to_4h",
        "conv",
        "convolution",
        "ffn_1",
        "lin_in",
    }
)
# These count only with, or without, another layer: w1 and w3 are the gate and the other half of a gated MLP.
_ACTIVATED_WITH = {"w1": "w3", "conv1": "bn1"}
_ACTIVATED_WITHOUT = {"up_proj": "gate_proj"}

NORMS: Final = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)
"""The framework's normalization layers, which rescale their input."""

_PASSED_THROUGH = (
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    *NORMS,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)


def activation_of(value: Any) -> Activation | None:
    """The activation that a module, a function or a name stands for; None for anything else.

    Classes and functions are identified by name, so that transformers' ``NewGELUActivation`` and similar classes need
    no import. With non-standard parameters, such as ``nn.ELU(alpha=2)``, the result is None.

    >>> activation_of(nn.GELU(approximate="tanh"))
    Activation(name='gelu_tanh', negative_slope=0.0)
    """
    if isinstance(value, str):
        return _named(value, {})
    if isinstance(value, functools.partial):
        return None if value.args else _named(getattr(value.func, "__name__", ""), value.keywords)
    if isinstance(value, nn.PReLU):
        return Activation("prelu", PRELU_SLOPE)  # the slope in every recipe's initialization
    if isinstance(value, nn.Module):
        return _named(type(value).__name__.removesuffix("Activation"), vars(value))
    return _named(getattr(value, "__name__", ""), {}) if callable(value) else None


def _named(spelling: str, settings: dict[str, Any]) -> Activation | None:
    name = _NAMES.get(spelling.replace("_", "").lower())
    if name is None or any(settings.get(key, value) != value for key, value in _STANDARD.get(name, {}).items()):
        return None
    if name == "leaky_relu":
        return Activation(name, float(settings.get("negative_slope", 0.01)))
    return Activation("gelu_tanh") if name == "gelu" and settings.get("approximate") == "tanh" else Activation(name)


def _is_wrapper(module: nn.Module) -> bool:
    children = own_modules(module)
    return len(children) == 1 and next(iter(children)) in WRAPPER_COMPONENTS


def _unwrapped(module: nn.Module) -> nn.Module:
    return _unwrapped(next(module.children())) if _is_wrapper(module) else module


def _first_activation(modules: Iterable[nn.Module]) -> tuple[bool, Activation | None]:
    """Whether the module computes anything, and the activation if it is one."""
    for module in map(_unwrapped, modules):
        if _is_chain(module):
            computes, found = _first_activation(module.children())
            if computes:
                return True, found
        elif not isinstance(module, _PASSED_THROUGH):
            return True, activation_of(module)
    return False, None


def _is_chain(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _following(parent: nn.Module, key: str, after_parent: Activation | None) -> Activation | None:
    """The activation of the output of the child `key`, given that of its parent's output."""
    if _is_wrapper(parent):
        return after_parent
    if _is_chain(parent):
        children = own_modules(parent)
        keys = list(children)
        rest = (children[later] for later in keys[keys.index(key) + 1 :])
        computes, found = _first_activation(module for module in rest if module is not None)
        return found if computes else after_parent
    beside = _ACTIVATED_WITH.get(key)
    without = _ACTIVATED_WITHOUT.get(key)
    if key in _ACTIVATED or (beside and hasattr(parent, beside)) or (without and not hasattr(parent, without)):
        for attribute in _ACTIVATION_ATTRIBUTES:
            found = activation_of(getattr(parent, attribute, None))
            if found:
                return found
    return None


def followed_by_norms(model: nn.Module) -> dict[int, bool]:
    """For the modules in chains, by id: whether a norm follows, possibly after layers that preserve scales.

    Modules with an unknown successor are left out.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.ReLU())
    >>> found = followed_by_norms(model)
    >>> [found.get(id(layer)) for layer in model]
    [True, True, False, False, False]
    """
    found: dict[int, bool] = {}
    for chain in filter(_is_chain, model.modules()):
        following = False if chain is model else None  # the model ends here
        for module in reversed(list(_leaves_of(chain))):
            if following is not None:
                found[id(module)] = found.get(id(module), True) and following
            if isinstance(module, NORMS):
                following = True
            elif not (_layer(module) or activation_of(module)):
                following = None
    return found


def _leaves_of(chain: nn.Module) -> Iterator[nn.Module]:
    """The modules that a chain runs in order, with nested chains flattened."""
    for module in map(_unwrapped, chain.children()):
        if _is_chain(module):
            yield from _leaves_of(module)
        else:
            yield module


def _visited(
    module: nn.Module, name: str, key: str, following: Activation | None
) -> Iterator[tuple[str, str, nn.Module, Activation | None]]:
    """Every module under each of its names, in the order of registration: (name, key in its parent, module, ...)."""
    yield name, key, module, following
    for child_key, child in own_modules(module).items():
        if child is not None:
            own_key = key if child_key in WRAPPER_COMPONENTS and _is_wrapper(module) else child_key
            yield from _visited(child, f"{name}{child_key}.", own_key, _following(module, child_key, following))


def _layer(module: nn.Module, transposed: type[nn.Module] | None = None) -> str:
    """The module's class among torch's own layers and transformers' Conv1D; empty for other modules."""
    if transposed is not None and isinstance(module, transposed):
        return "Conv1D"
    kind: Any = type(module)
    return _layer_of(kind)


@functools.lru_cache
def _layer_of(kind: type[nn.Module]) -> str:
    own = (cls.__name__ for cls in kind.__mro__ if cls.__module__.startswith("torch.nn.modules."))
    found = next(own, "")
    return "" if found == "Module" else found


@functools.lru_cache
def _types(kind: type[nn.Module]) -> tuple[str, ...]:
    """Class names, most derived first, without the classes added by parametrizing or sharding."""
    added = ("torch.nn.utils.parametrize", "torch.distributed.")
    return tuple(cls.__name__ for cls in kind.__mro__[:-1] if not cls.__module__.startswith(added))


@contextmanager
def evaluating(parametrizations: parametrize.ParametrizationList) -> Iterator[None]:
    """A context in evaluation mode: in training mode, each access to a spectral norm updates its buffers."""
    training = [module for module in parametrizations.modules() if module.training]
    try:
        parametrizations.eval()
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def originals(parametrizations: parametrize.ParametrizationList) -> list[torch.Tensor]:
    """The original tensors of a parametrized weight."""
    several = (f"original{number}" for number in range(parametrizations.ntensors))
    return [getattr(parametrizations, name) for name in (("original",) if parametrizations.is_tensor else several)]


def _shape_of(parametrizations: parametrize.ParametrizationList) -> tuple[int, ...]:
    with evaluating(parametrizations):
        return tuple(parametrizations().shape)


class _Own(NamedTuple):
    """A parameter that a module itself holds."""

    role: str
    tensor: torch.Tensor
    shape: tuple[int, ...]
    identity: Hashable
    parametrizations: parametrize.ParametrizationList | None = None
    shard: Shard | None = None
    requires_grad: bool = True


def _own(module: nn.Module, flat: dict[str, tuple[Piece, Hashable]], slices: dict[int, Shard]) -> Iterator[_Own]:
    for role, (piece, identity) in flat.items():
        shape = tuple(piece.shape)
        shard = Shard(shape, None, piece.start)
        yield _Own(role, piece.tensor, shape, identity, shard=shard, requires_grad=piece.requires_grad)
    # originals created inside deferred() have their own programs
    if not isinstance(module, parametrize.ParametrizationList) or programs_of(module):
        for role, tensor in own_parameters(module).items():
            if tensor is not None and role not in flat and not getattr(tensor, FLAT_MARK, False):
                lazy = isinstance(tensor, LAZY)
                shape = () if lazy else tuple(tensor.shape)
                part = slices.get(id(tensor))
                shape = shape if part is None or part.shape is None else part.shape
                yield _Own(role, tensor, shape, id(tensor), shard=part, requires_grad=tensor.requires_grad)
    if parametrize.is_parametrized(module):
        for role, chain in module.parametrizations.items():  # type: ignore[union-attr, operator]
            if programs_of(chain):
                continue
            original = originals(chain)[0]
            if isinstance(original, nn.Parameter):
                shape = _shape_of(chain)
                yield _Own(role, original, shape, id(original), chain, requires_grad=original.requires_grad)


def _reshard(model: nn.Module) -> None:
    """Frees the parameters that FSDP gathered for a forward pass, so that modules hold the sharded ones."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    for module in model.modules() if fsdp is not None else ():
        if isinstance(module, fsdp.FSDPModule):  # type: ignore[union-attr]
            module.reshard()


def _flattened(model: nn.Module) -> dict[int, dict[str, tuple[Piece, Hashable]]]:
    """The parameters flattened by FSDP's first version, by owning module and role."""
    if not is_flattened(model):
        return {}
    from fastinit.adapters.torch.shards import flat_pieces

    found: dict[int, dict[str, tuple[Piece, Hashable]]] = {}
    for piece in flat_pieces(model):
        identity = (id(piece.module), piece.parameter)
        for module, role in ((piece.module, piece.parameter), *(other[1:] for other in piece.others)):
            found.setdefault(id(module), {})[role] = (piece, identity)
    return found


def _conv(module: nn.Module, **_: Any) -> dict[str, Any]:
    return {"groups": module.groups}


def _conv_transpose(module: nn.Module, **_: Any) -> dict[str, Any]:
    stride = tuple(module.stride)  # type: ignore[arg-type]
    return {"layout": "IO...", "groups": module.groups, "transposed": True, "stride": stride}


def _bilinear(module: nn.Module, **_: Any) -> dict[str, Any]:
    return {"layout": "OII"}  # an output sums over all pairs of inputs


def _embedding(module: nn.Module, role: str, **_: Any) -> dict[str, Any]:
    return {"layout": "VD", "zero_row": module.padding_idx} if role == "weight" else {}


def _attention(module: nn.Module, role: str, **_: Any) -> dict[str, Any]:
    if role in ("bias_k", "bias_v"):  # an additional key and value, not a linear map
        return {"layout": None}
    return {"blocks": 3} if role.startswith("in_proj") else {}


def _recurrent(module: nn.Module, role: str, **_: Any) -> dict[str, Any]:
    gates = GATES.get(_layer(module), 1)
    facts: dict[str, Any] = {"blocks": 1 if role.startswith("weight_hr") else gates}
    if gates == 1:
        facts["activation"] = module.nonlinearity
    return facts


_EMBEDDINGS: Final = (nn.Embedding, nn.EmbeddingBag)
_GEOMETRY: tuple[tuple[tuple[type, ...], Callable[..., dict[str, Any]]], ...] = (
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv),
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _conv_transpose),
    ((nn.Bilinear,), _bilinear),
    (_EMBEDDINGS, _embedding),
    ((nn.MultiheadAttention,), _attention),
    ((nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell), _recurrent),
)


def _geometry(module: nn.Module, role: str, transposed: type[nn.Module] | None) -> dict[str, Any]:
    for classes, facts in _GEOMETRY:
        if isinstance(module, classes):
            return facts(module, role=role)
    # transformers' Linear with a transposed weight
    return {"layout": "IO"} if transposed is not None and isinstance(module, transposed) else {}


def parameters(model: nn.Module, rename: Rename | None = None) -> list[Place]:
    """Every parameter of a model once, under its first canonical name, with its facts for rules.

    Names are those of ``named_parameters`` without the components that wrappers add (:func:`fastinit.canonical_name`).
    Shapes are global, so a sharded model gives the facts of the whole one. A parametrized weight appears as the weight
    (``"layer.weight"``), and its originals do not appear. A tensor's later names are its `other_names`, and it is
    ``tied`` unless every layer that shares it is an embedding. Parameters gathered by ``fully_shard`` are freed first.
    `rename` maps to the names of the definition, see :func:`fastinit.extending.renaming`.

    Raises
    ------
    TypeError
        If the model is not a module.
    ValueError
        For two different tensors under one canonical name, parameters of lazy modules, whose shapes are unknown, and a
        `rename` that gives two tensors (or buffers) one name or has a prefix without a match.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    _reshard(model)
    found: dict[Hashable, Place] = {}
    holders, naming = _Holders(rename is not None), renaming(rename)
    lazy: list[str] = []
    flattened, transposed = _flattened(model), transposed_linear()
    slices = marked_slices(model, flattened)
    for prefix, _, module, following in _visited(model, "", "", None):
        own = list(_own(module, flattened.get(id(module), {}), slices))
        kind: Any = type(module)
        types, layer = (_types(kind), _layer(module, transposed)) if own else ((), "")
        programs = vars(module).get(PROGRAMS, {})
        shapes = {role: shape for role, _, shape, *_ in own}
        sliced = {one.role for one in own if id(one.tensor) in slices}
        for role, tensor, shape, identity, chain, shard, requires_grad in own:
            before = canonical_name(prefix + role)
            name = naming(before)
            if isinstance(tensor, LAZY):
                lazy.append(before)
                continue
            holders.see(name, before, identity)
            if identity in found:
                found[identity] = _shared(found[identity], name, before, module, role)
                continue
            facts: dict[str, Any] = {}
            if following is not None:
                facts = {"activation": following.name, "negative_slope": following.negative_slope}
            facts |= _geometry(module, role, transposed)
            facts["sliced"] = role in sliced
            if facts.get("zero_row") is not None:
                facts["zero_row"] = _global_row(facts["zero_row"], shard)
            if "bias" in role:
                weight = next(
                    (one for one in (role.replace("bias", "weight"), role.removesuffix("_bias")) if one in shapes), ""
                )
                facts["weight_shape"] = shapes.get(weight)
                facts["sliced"] |= weight in sliced
            program = renamed_program(programs.get(role), before, name, naming)
            facts |= {"layer": layer, "program": program, "frozen": not requires_grad}
            parameter = Parameter(name=name, shape=shape, types=types, role=role, **facts)
            found[identity] = Place(parameter, tensor, ((module, role),), chain, shard, names=(before,))
        if rename is not None:
            for role, identity in _beside(module, programs):
                before = canonical_name(prefix + role)
                holders.see(naming(before), before, identity)
    if lazy:
        raise ValueError(f"lazy modules have no shapes yet: run a forward pass first, for {', '.join(lazy)}")
    check_prefixes(rename, holders.names)
    return list(found.values())


def _global_row(row: int | None, shard: Shard | None) -> int | None:
    """A row of a module's table, as its index in the whole table."""
    return row if row is None or shard is None or shard.ranges is None else shard.global_index(0, row)


class _Holders:
    """The tensor of each name. Two tensors of one name are refused."""

    def __init__(self, is_renamed: bool) -> None:
        self._found: dict[str, tuple[Hashable, str]] = {}
        self._is_renamed = is_renamed
        self.names: list[str] = []
        """The names before renaming."""

    def see(self, name: str, before: str, identity: Hashable) -> None:
        """Adds a tensor of this name, which is called `before` in the model."""
        self.names.append(before)
        other, others = self._found.setdefault(name, (identity, before))
        if other == identity:
            return
        if self._is_renamed:
            raise ValueError(f"rename joins two tensors under one name: {others!r} and {before!r} become {name!r}")
        raise ValueError(f"two parameters have the canonical name {name!r}: values could not tell them apart")


def _beside(module: nn.Module, programs: Iterable[str]) -> Iterator[tuple[str, Hashable]]:
    """The module's other tensors whose names may determine values: buffers, and tensors with programs."""
    own, buffers = own_parameters(module), own_buffers(module)
    for role, buffer in buffers.items():
        if buffer is not None:
            yield role, id(buffer)
    for role in programs:
        if role not in own and role not in buffers:
            yield role, (id(module), role)


def _shared(place: Place, name: str, before: str, module: nn.Module, role: str) -> Place:
    """The place of a tensor found under another name."""
    if before not in place.names:
        place = place._replace(names=(*place.names, before))
    names = (place.parameter.name, *place.parameter.other_names)
    if name in names:
        return place
    owners = (*place.owners, (module, role))
    tied = not all(isinstance(owner, _EMBEDDINGS) for owner, _ in owners)
    zero_row = place.parameter.zero_row
    if zero_row is None and role == "weight":  # a padding row applies to all layers that share the tensor
        zero_row = getattr(module, "padding_idx", None) if isinstance(module, _EMBEDDINGS) else None
        zero_row = _global_row(zero_row, place.shard)
    parameter = replace(place.parameter, tied=tied, zero_row=zero_row, other_names=(*names[1:], name))
    return place._replace(parameter=parameter, owners=owners)
