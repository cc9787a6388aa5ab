"""Facts about each variable of a Keras model for rules: its layer, its axes, the following activation.

:func:`parameters` turns a model into facts (:class:`fastinit.Parameter`) without drawing. The following activation is
the layer's own (``Dense(activation="relu")``), or the next operation on its output in a Sequential or Functional model.
Otherwise it is None, which means "unknown".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import keras
from keras import layers  # noqa: PLW0406 (another file of that name)

from fastinit import Axes, Parameter
from fastinit.adapters.keras.internals import (
    CONVOLUTION,
    DEPTHWISE,
    SEPARABLE,
    TRANSPOSED,
    consumers,
    inner_layers,
    is_neural_operation,
    layers_of,
    own_variables,
    statistics_of,
)
from fastinit.adapters.keras.names import canonical_names, role_of
from fastinit.adapters.keras.programs import programs_of
from fastinit.extending import GATES, PRELU_SLOPE

__all__ = ["Place", "activation_after", "known", "parameters", "statistics", "with_programs"]


class Place(NamedTuple):
    """One variable of a model, its facts, and the layer that created it."""

    parameter: Parameter
    variable: Any
    layer: Any


# Keras's names of activations that differ from those of fastinit.advice.activations
_NAMES: Final = {
    "linear": None,
    "swish": "silu",
    "hard_swish": "hardswish",
    "hard_silu": "hardswish",
    "hard_sigmoid": "hardsigmoid",
    "hard_tanh": "hardtanh",
    "log_sigmoid": "logsigmoid",
    "tanh_shrink": "tanhshrink",
}
_KNOWN: Final = {
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "mish",
    "tanh",
    "sigmoid",
    "softplus",
    "softsign",
}
# Classes of keras.ops.nn.
_OPERATIONS: Final = {
    "Relu": "relu",
    "Relu6": "relu6",
    "LeakyRelu": "leaky_relu",
    "Elu": "elu",
    "Selu": "selu",
    "Gelu": "gelu",
    "Silu": "silu",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Softsign": "softsign",
}
_FUNCTION_SLOPE = 0.2  # of keras.activations.leaky_relu

_PASSED_THROUGH = (
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.AlphaDropout,
    layers.Flatten,
    layers.Reshape,
    layers.Permute,
    layers.Identity,
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.RMSNormalization,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
)


def _named(function: Any) -> tuple[str, float] | None:
    """The name and negative slope of an activation function; None for the identity and unknown functions."""
    name = getattr(function, "__name__", "")
    name = _NAMES.get(name, name)
    if name not in _KNOWN and name not in _NAMES.values():
        return None
    return None if name is None else (name, _FUNCTION_SLOPE if name == "leaky_relu" else 0.0)


def _of_layer(layer: Any) -> tuple[str, float] | None:
    """The activation of an activation layer; None for other layers and for non-standard parameters."""
    if isinstance(layer, layers.Activation):
        return _named(layer.activation)
    if isinstance(layer, layers.PReLU):
        return "prelu", PRELU_SLOPE
    if isinstance(layer, layers.LeakyReLU):
        return "leaky_relu", float(layer.negative_slope)
    if isinstance(layer, layers.ELU):
        return ("elu", 0.0) if layer.alpha == 1 else None
    if isinstance(layer, layers.ReLU) and layer.threshold == 0:
        if layer.negative_slope:
            return ("leaky_relu", float(layer.negative_slope)) if layer.max_value is None else None
        return {None: ("relu", 0.0), 6: ("relu6", 0.0)}.get(layer.max_value)
    return None


def _of_operation(operation: Any) -> tuple[str, float] | None:
    """The activation of an operation of keras.ops, such as ``keras.ops.relu(x)``."""
    if not is_neural_operation(operation):
        return None
    name = _OPERATIONS.get(type(operation).__name__)
    if name == "gelu" and operation.approximate:
        name = "gelu_tanh"
    if name == "elu" and operation.alpha != 1:
        name = None
    return None if name is None else (name, float(getattr(operation, "negative_slope", 0.0)))


def activation_after(layer: Any) -> tuple[str, float] | None:
    """Name and negative slope of the activation after a layer; None if unknown."""
    function = getattr(layer, "activation", None)
    own = _named(function)
    if own is not None or (callable(function) and function is not keras.activations.linear):
        return own
    found = {_next(operation) for operation in consumers(layer)}
    return found.pop() if len(found) == 1 else None


def _next(operation: Any) -> tuple[str, float] | None:
    if isinstance(operation, _PASSED_THROUGH):
        found = {_next(later) for later in consumers(operation)}
        return found.pop() if len(found) == 1 else None
    return _of_layer(operation) or _of_operation(operation)


def _einsum_axes(equation: str) -> Axes:
    """Axes of an EinsumDense kernel: summed axes are inputs, new axes are outputs, shared axes are neither."""
    operands, _, result = equation.replace("...", "").replace(" ", "").partition("->")
    source, _, kernel = operands.partition(",")
    ins = tuple(i for i, letter in enumerate(kernel) if letter in source and letter not in result)
    outs = tuple(i for i, letter in enumerate(kernel) if letter not in source)
    return Axes(ins, outs, tuple(i for i in range(len(kernel)) if i not in ins + outs))


def _layer(layer: Any) -> str:
    """The layer's class among Keras's own layers; empty for custom layers."""
    own = (cls.__name__ for cls in type(layer).__mro__ if cls.__module__.partition(".")[0] == "keras")
    found = next(own, "")
    return "" if found == "Layer" else found


def _convolution(layer: Any, role: str) -> dict[str, Any]:
    return {"layout": "...IO", "groups": layer.groups}


def _depthwise(layer: Any, role: str) -> dict[str, Any]:
    return {"layout": "...IM"}


def _separable(layer: Any, role: str) -> dict[str, Any]:
    if role == "depthwise_kernel":  # the other kernel follows it
        return {"layout": "...IM", "activation": None}
    return {"layout": "...IO"}


def _transposed(layer: Any, role: str) -> dict[str, Any]:
    groups = getattr(layer, "groups", 1)
    return {"layout": "...OI", "groups": groups, "transposed": True, "stride": tuple(layer.strides)}


def _recurrent(layer: Any, role: str) -> dict[str, Any]:
    return {"layout": "...IO", "blocks": GATES.get(_layer(layer), 1)}


_ROLES: Final = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel")


def _geometry(layer: Any, role: str) -> dict[str, Any]:
    """The meaning of a variable's axes; layout None if it is not a linear map."""
    names = {cls.__name__ for cls in type(layer).__mro__}
    if isinstance(layer, layers.Embedding):
        return {"layout": "VD" if role == "embeddings" else None}
    if role not in _ROLES:
        return {"layout": None}
    if isinstance(layer, layers.EinsumDense):
        return {"layout": _einsum_axes(layer.equation)}
    if isinstance(layer, layers.Dense):
        return {"layout": "IO"}
    for base, facts in _GEOMETRY.items():
        if base in names:
            return facts(layer, role)
    return {"layout": None}


# By the names of base classes.
_GEOMETRY: Final[dict[str, Callable[[Any, str], dict[str, Any]]]] = {
    DEPTHWISE: _depthwise,
    SEPARABLE: _separable,
    TRANSPOSED: _transposed,
    CONVOLUTION: _convolution,
    "SimpleRNNCell": _recurrent,
    "GRUCell": _recurrent,
    "LSTMCell": _recurrent,
    "ConvLSTMCell": _recurrent,
}


def parameters(model: Any) -> list[Place]:
    """Every trainable variable of a model once, in the model's order, including frozen ones.

    A variable that a layer shares with an inner layer, as in SpectralNormalization, is described as the inner layer's.
    Names come from :func:`fastinit.adapters.keras.names.canonical_names`.

    Raises
    ------
    TypeError
        If `model` is not a Keras model or layer.
    ValueError
        If it has no variables yet, or two variables have the same name.
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"model must be a keras.Model or a layer, not {type(model).__name__}")
    found: dict[int, tuple[Any, Any, dict[str, Any]]] = {}
    holders: dict[int, Any] = {}
    for layer in layers_of(model):
        following = None
        for number, variable in enumerate(own_variables(layer)):
            holder = holders.get(id(variable))
            if holder is not None and not any(layer is inner for inner in inner_layers(holder)):
                continue
            holders[id(variable)] = layer
            following = activation_after(layer) if number == 0 else following
            types = tuple(cls.__name__ for cls in type(layer).__mro__[:-1])
            facts: dict[str, Any] = {"types": types, "role": role_of(variable), "layer": _layer(layer)}
            facts["frozen"] = not variable.trainable
            if following is not None:
                facts |= {"activation": following[0], "negative_slope": following[1]}
            found[id(variable)] = variable, layer, facts | _geometry(layer, variable.name)
    if not found:
        raise ValueError(f"{model.name} has no variables: build it first, by an Input, build() or a call")
    order = {id(variable): number for number, variable in enumerate(model.variables)}
    described = sorted(found.values(), key=lambda one: order[id(one[0])])
    names = _names(model, [(variable, layer) for variable, layer, _ in described])
    return [
        Place(Parameter(name, tuple(variable.shape), **facts), variable, layer)
        for name, (variable, layer, facts) in zip(names, described, strict=True)
    ]


def _names(model: Any, made: Sequence[tuple[Any, Any]]) -> list[str]:
    """The names of variables, from pairs of a variable and its layer.

    Layers built before their parents, such as the two encoders of a CLIP, may have variables with the same path. Their
    parents' names are put in front, one at a time, until the names differ.
    """
    within = _holders_by_name(model)
    paths = [variable.path for variable, _ in made]
    for depth in range(1, 2 + max(map(len, within.values()), default=0)):
        names = canonical_names(model, layers_of(model), paths)
        often = Counter(names)
        if len(often) == len(names):
            return names
        paths = [
            "/".join((*within[id(layer)][:depth], variable.path)) if often[name] > 1 else path
            for name, path, (variable, layer) in zip(names, paths, made, strict=True)
        ]
    twice = next(path for path in paths if paths.count(path) > 1)
    raise ValueError(f"two variables have the path {twice!r}: give their layers different names")


def _holders_by_name(model: Any) -> dict[int, tuple[str, ...]]:
    """The names of the parents of each layer within a model, outermost first, by the layer's identity."""
    found: dict[int, tuple[str, ...]] = {id(model): ()}
    pending = [model]
    while pending:
        holder = pending.pop(0)
        names = found[id(holder)] if holder is model else (*found[id(holder)], holder.name)
        for layer in inner_layers(holder, direct=True):
            if id(layer) not in found:
                found[id(layer)] = names
                pending.append(layer)
    return found


def with_programs(model: Any, places: Sequence[Place]) -> list[Place]:
    """The places of a model with their layers' own initializers, if known."""
    names = {id(place.variable): place.parameter.name for place in places}
    found = programs_of(model, list({id(place.layer): place.layer for place in places}.values()), names)
    return [
        place._replace(parameter=replace(place.parameter, program=found.get(id(place.variable)))) for place in places
    ]


def known(model: Any, places: Sequence[Place], frozen: bool = False) -> list[Place]:
    """The places with their programs. Frozen ones have none, so that they stay, unless they should be filled."""
    return [
        place
        if frozen or not place.parameter.frozen
        else place._replace(parameter=replace(place.parameter, program=None))
        for place in with_programs(model, places)
    ]


def statistics(model: Any) -> Iterator[tuple[Any, Any, float]]:
    """Each norm of a model with its running statistics and their initial values."""
    for layer in layers_of(model):
        if isinstance(layer, layers.BatchNormalization):
            for variable, value in statistics_of(layer):
                yield layer, variable, value
