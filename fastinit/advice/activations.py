"""Activations and their slopes, by name."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from fastinit.checks import any_number, finite_number, shown, text

__all__ = [
    "ACTIVATIONS",
    "ALIASES",
    "PRELU_SLOPE",
    "SLOPES",
    "activation_named",
    "checked_parameters",
    "default_parameters",
    "derivative",
    "evaluated",
]

Array = np.ndarray[Any, np.dtype[Any]]
Activation = Callable[..., Any]

PRELU_SLOPE: Final = 0.25
"""Initial negative slope of a parametric rectifier, in every framework and recipe."""

# Grid for erf. Cubic interpolation with exact slopes has an error below 4e-15.
ERF_STEP, ERF_REACH = 2.0**-11, 6.0


@lru_cache(maxsize=1)
def _erf_table() -> tuple[Array, Array]:
    grid = np.arange(-ERF_REACH, ERF_REACH + 2 * ERF_STEP, ERF_STEP)
    slopes = 2.0 / math.sqrt(math.pi) * np.exp(-grid * grid)
    return np.array([math.erf(x) for x in grid.tolist()]), slopes * ERF_STEP


def _erf(z: Array) -> Array:
    values, slopes = _erf_table()
    place = (np.clip(z, -ERF_REACH, ERF_REACH) + ERF_REACH) / ERF_STEP
    index = place.astype(np.int64)
    t = place - index
    low, high = values[index], values[index + 1]
    across = high - low
    bend = (1.0 - t) * (slopes[index] - across) + t * (across - slopes[index + 1])
    found: Array = low + t * across + t * (1.0 - t) * bend
    return found


def _sigmoid(z: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * z))


def _softplus(z: Array, beta: float = 1.0) -> Array:
    values: Array = np.logaddexp(0.0, beta * z) / beta
    return values


def _gelu_tanh(z: Array) -> Array:
    return 0.5 * z * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3)))


def _leaky_relu(z: Array, negative_slope: float = 0.01) -> Array:
    return np.where(z > 0, z, negative_slope * z)


def _elu(z: Array, alpha: float = 1.0) -> Array:
    return np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0.0)))


def _celu(z: Array, alpha: float = 1.0) -> Array:
    return np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0.0) / alpha))


def _softshrink(z: Array, threshold: float = 0.5) -> Array:
    return np.where(abs(z) > threshold, z - np.copysign(threshold, z), 0.0)


def _hardshrink(z: Array, threshold: float = 0.5) -> Array:
    return np.where(abs(z) > threshold, z, 0.0)


ACTIVATIONS: Final[dict[str, Activation]] = {
    "celu": _celu,
    "elu": _elu,
    "gelu": lambda z: 0.5 * z * (1.0 + _erf(z / math.sqrt(2.0))),
    "gelu_tanh": _gelu_tanh,
    "hardshrink": _hardshrink,
    "hardsigmoid": lambda z: np.clip(z / 6.0 + 0.5, 0.0, 1.0),
    "hardswish": lambda z: z * np.clip(z / 6.0 + 0.5, 0.0, 1.0),
    "hardtanh": lambda z: np.clip(z, -1.0, 1.0),
    "identity": lambda z: z,
    "leaky_relu": _leaky_relu,
    "logsigmoid": lambda z: -_softplus(-z),
    "mish": lambda z: z * np.tanh(_softplus(z)),
    "prelu": lambda z, negative_slope=PRELU_SLOPE: _leaky_relu(z, negative_slope),
    "quick_gelu": lambda z: z * _sigmoid(1.702 * z),
    "relu": lambda z: np.maximum(z, 0.0),
    "relu6": lambda z: np.clip(z, 0.0, 6.0),
    "relu_squared": lambda z: np.maximum(z, 0.0) ** 2,
    "selu": lambda z: 1.0507009873554805 * _elu(z, 1.6732632423543772),
    "sigmoid": _sigmoid,
    "silu": lambda z: z * _sigmoid(z),
    "sin": np.sin,
    "softplus": _softplus,
    "softshrink": _softshrink,
    "softsign": lambda z: z / (1.0 + abs(z)),
    "tanh": np.tanh,
    "tanhshrink": lambda z: z - np.tanh(z),
}
"""Activations by name, as functions of an array. Their parameters have the defaults of torch and Keras."""

ALIASES: Final = {"linear": "identity", "swish": "silu", "relu2": "relu_squared"} | dict.fromkeys(
    ("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu_tanh"
)


def _sech2(z: Array) -> Array:
    found: Array = 1.0 - np.tanh(z) ** 2
    return found


def _bell(z: Array) -> Array:
    found: Array = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return found


def _gelu_tanh_slope(z: Array) -> Array:
    scale = math.sqrt(2.0 / math.pi)
    inner = scale * (z + 0.044715 * z**3)
    return 0.5 * (1.0 + np.tanh(inner)) + 0.5 * z * _sech2(inner) * scale * (1.0 + 3 * 0.044715 * z * z)


def _swish_slope(z: Array, beta: float = 1.0) -> Array:
    share = _sigmoid(beta * z)
    found: Array = share + beta * z * share * (1.0 - share)
    return found


def _mish_slope(z: Array) -> Array:
    inner = _softplus(z)
    found: Array = np.tanh(inner) + z * _sech2(inner) * _sigmoid(z)
    return found


def _elu_slope(z: Array, alpha: float = 1.0) -> Array:
    return np.where(z > 0, 1.0, alpha * np.exp(np.minimum(z, 0.0)))


def _celu_slope(z: Array, alpha: float = 1.0) -> Array:
    return np.where(z > 0, 1.0, np.exp(np.minimum(z, 0.0) / alpha))


def _shrink_slope(z: Array, threshold: float = 0.5) -> Array:
    return (abs(z) > threshold) + 0.0


SLOPES: Final[dict[str, Activation]] = {
    "celu": _celu_slope,
    "elu": _elu_slope,
    "gelu": lambda z: 0.5 * (1.0 + _erf(z / math.sqrt(2.0))) + z * _bell(z),
    "gelu_tanh": _gelu_tanh_slope,
    "hardshrink": _shrink_slope,
    "hardsigmoid": lambda z: (abs(z) < 3.0) / 6.0,
    "hardswish": lambda z: np.where(abs(z) < 3.0, z / 3.0 + 0.5, (z >= 3.0) + 0.0),
    "hardtanh": lambda z: (abs(z) < 1.0) + 0.0,
    "identity": np.ones_like,
    "leaky_relu": lambda z, negative_slope=0.01: np.where(z > 0, 1.0, negative_slope),
    "logsigmoid": lambda z: _sigmoid(-z),
    "mish": _mish_slope,
    "prelu": lambda z, negative_slope=PRELU_SLOPE: np.where(z > 0, 1.0, negative_slope),
    "quick_gelu": lambda z: _swish_slope(z, 1.702),
    "relu": lambda z: (z > 0) + 0.0,
    "relu6": lambda z: ((z > 0) & (z < 6.0)) + 0.0,
    "relu_squared": lambda z: 2.0 * np.maximum(z, 0.0),
    "selu": lambda z: 1.0507009873554805 * _elu_slope(z, 1.6732632423543772),
    "sigmoid": lambda z: _sigmoid(z) * _sigmoid(-z),
    "silu": _swish_slope,
    "sin": np.cos,
    "softplus": lambda z, beta=1.0: _sigmoid(beta * z),
    "softshrink": _shrink_slope,
    "softsign": lambda z: 1.0 / (1.0 + abs(z)) ** 2,
    "tanh": _sech2,
    "tanhshrink": lambda z: np.tanh(z) ** 2,
}
"""Slopes of the activations. At a kink it is the left slope, like that of rectifiers at 0 in every framework."""


def activation_named(activation: str | Activation) -> tuple[str, Activation]:
    """Standard name and function of an activation. A function is returned with its own name.

    Raises
    ------
    TypeError
        If `activation` is neither a name nor callable.
    ValueError
        If the name is unknown. The error suggests similar names.
    """
    if not isinstance(activation, str):
        if not callable(activation):
            raise TypeError(f"activation must be a name or a function, not {shown(activation)}")
        return name_of(activation), activation
    name = ALIASES.get(activation, text(activation))
    if name not in ACTIVATIONS:
        known = sorted({*ACTIVATIONS, *ALIASES})
        near = difflib.get_close_matches(activation[:64].lower(), known, 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"activation must be one of {', '.join(known)}; got {shown(activation)}{hint}")
    return name, ACTIVATIONS[name]


def name_of(function: Activation) -> str:
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) and name else shown(function)


def default_parameters(name: str) -> dict[str, float]:
    """Parameters of the activation with this standard name, with their defaults."""
    function = ACTIVATIONS[name]
    if isinstance(function, np.ufunc):
        return {}
    return {one.name: one.default for one in list(inspect.signature(function).parameters.values())[1:]}


def checked_parameters(name: str, parameters: Mapping[str, Any]) -> dict[str, float]:
    """Given parameters of the activation with this standard name, as finite floats.

    Raises
    ------
    TypeError
        If the activation lacks a parameter, or a value is not a number.
    ValueError
        If a value is not finite.
    """
    known = default_parameters(name)
    for parameter in parameters:
        if parameter not in known:
            raise TypeError(f"expected parameters of {name} ({', '.join(known) or 'none'}), got {parameter}")
    return {parameter: finite_number(value, parameter) for parameter, value in parameters.items()}


def evaluated(function: Activation, what: str, z: Array, parameters: Mapping[str, Any]) -> Array:
    """f(z) for an array, as float64. The function may take arrays, or single numbers only.

    Raises
    ------
    TypeError
        If the function does not return real numbers.
    ValueError
        If it changes the shape.
    """
    try:
        values = _real_numbers(function(z.copy(), **parameters))  # a copy: the function may write into it
    except (TypeError, ValueError):  # raised by math.tanh, or by `if` on an array
        values = None
    if values is not None and values.shape == z.shape:
        return values
    if values is not None and values.ndim:
        raise ValueError(f"{what} changes the shape: {z.shape} to {values.shape}")

    def at(one: float) -> float:
        try:
            return any_number(function(one, **parameters), f"the value of {what} at {one:.6g}")
        except OverflowError:  # raised by math.exp
            return math.inf

    found = np.array([at(one) for one in z.ravel().tolist()]).reshape(z.shape)
    if values is not None and not ((found == values) | np.isnan(found)).all():
        raise ValueError(f"{what} must act elementwise, got one number for an array and others for its elements")
    return found


def _real_numbers(values: Any) -> Array:
    """Converts to an array of float64. Raises TypeError for complex numbers, texts and other non-real values."""
    found = np.asarray(values)
    if found.dtype.kind == "O":
        own = [any_number(one, "a value") for one in found.ravel().tolist()]
        return np.array(own, dtype=float).reshape(found.shape)
    if found.dtype.kind in "cSUmM":
        raise TypeError(f"expected real numbers, got {found.dtype}")
    real: Array = np.array(found, dtype=float)
    return real


# Step of the differences, in units of the signal's size, and the relative difference of slopes that marks a kink.
STEP, KINK = 1e-6, 1e-3


def derivative(
    activation: str | Activation, parameters: Mapping[str, Any] = MappingProxyType({}), *, size: float | None = None
) -> Activation:
    """Slope of an activation: exact for a name, by finite differences for a function, the left slope at a kink.

    Steps scale with the root mean square of the array, or with `size`, so that slopes of a vanishing signal are right.
    """
    if isinstance(activation, str):
        name = activation_named(activation)[0]
        return partial(SLOPES[name], **checked_parameters(name, parameters)) if parameters else SLOPES[name]
    name, function = activation_named(activation)

    def at(z: Array) -> Array:
        return evaluated(function, f"the activation {name}", z, parameters)

    def slope(z: Array) -> Array:
        z = np.asarray(z, dtype=float)
        unit = size or (math.sqrt(float(np.mean(z * z))) if z.size else 1.0)
        step = STEP * np.maximum(unit if 0.0 < unit < math.inf else 1.0, np.abs(z))
        middle = at(z)
        left, right = (middle - at(z - step)) / step, (at(z + step) - middle) / step
        kink = np.abs(right - left) > KINK * (np.abs(left) + np.abs(right) + 0.1)
        found: Array = np.where(kink, left, 0.5 * (left + right))
        return found

    return slope
