"""Gains: what an activation takes from the size of a signal, so that the weights before it can give it back.

The gain of f is ``1 / sqrt(E[f(z)^2])`` for z ~ N(0, 1): where pre-activations are standard normal, f(z) times the gain
has a mean square of 1. For a rectifier it is the sqrt(2) of He et al.

>>> round(gain("relu") ** 2, 12), round(gain("gelu"), 5), round(gain(lambda z: abs(z) ** 0.5), 5)
(2.0, 1.53353, 1.11952)
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import numpy as np

__all__ = ["ACTIVATIONS", "gain"]

Array = np.ndarray[Any, np.dtype[Any]]
Activation = Callable[..., Any]

# Beyond 12 standard deviations lies 4e-33 of the normal distribution.
REACH = 12.0
# Panels of 1/2, so that the kinks of every activation here lie between two of them.
PANELS = 48
NODES = 24
# The integral of a panel is accepted when that of its halves agrees to this share of the whole, or after so many cuts.
AGREEMENT = 1e-14
CUTS = 60

_erf = np.frompyfunc(math.erf, 1, 1)


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
    "gelu": lambda z: 0.5 * z * (1.0 + _erf(z / math.sqrt(2.0)).astype(float)),
    "gelu_tanh": _gelu_tanh,
    "hardshrink": _hardshrink,
    "hardsigmoid": lambda z: np.clip(z / 6.0 + 0.5, 0.0, 1.0),
    "hardswish": lambda z: z * np.clip(z / 6.0 + 0.5, 0.0, 1.0),
    "hardtanh": lambda z: np.clip(z, -1.0, 1.0),
    "identity": lambda z: z,
    "leaky_relu": _leaky_relu,
    "logsigmoid": lambda z: -_softplus(-z),
    "mish": lambda z: z * np.tanh(_softplus(z)),
    "prelu": lambda z, negative_slope=0.25: _leaky_relu(z, negative_slope),
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
"""Activations by name, each a function of an array; their parameters have the defaults of torch and Keras."""

ALIASES: Final = {"linear": "identity", "swish": "silu", "relu2": "relu_squared"} | dict.fromkeys(
    ("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu_tanh"
)


def gain(activation: str | Activation, **parameters: float) -> float:
    """The factor for the standard deviation of weights, so that the activation after them keeps the signal's size.

    Parameters
    ----------
    activation : str or callable
        One of :data:`ACTIVATIONS` or an alias (``"swish"``, ``"linear"``), or any function of a number or of an array.
    **parameters : float
        Of the activation: ``negative_slope`` of leaky_relu and prelu, ``alpha`` of elu and celu, ``beta`` of softplus,
        ``threshold`` of softshrink and hardshrink; those of a callable are passed on.

    Returns
    -------
    float
        1 / sqrt(E[f(z)^2]) for z ~ N(0, 1), with a relative error under 1e-10: kinks and jumps are found.

    Raises
    ------
    TypeError
        If the activation is neither a name nor callable, or has no such parameter.
    ValueError
        If the name is unknown, or the function gives NaN or infinity, is zero everywhere, or grows so fast that its
        mean square is infinite.

    Notes
    -----
    K. He et al., "Delving deep into rectifiers", 2015, for rectifiers; G. Klambauer et al., "Self-normalizing neural
    networks", 2017, whose SELU has the gain 1.

    Examples
    --------
    >>> round(gain("leaky_relu", negative_slope=0.2), 6), round(gain("tanh"), 6)
    (1.38675, 1.592537)
    """
    if not isinstance(activation, str):
        if not callable(activation):
            raise TypeError(f"activation must be a name or a function, not {activation!r}")
        return _gain(activation, parameters)
    return _named(activation, tuple(sorted(parameters.items())))


@lru_cache(maxsize=1024)
def _named(name: str, parameters: tuple[tuple[str, float], ...]) -> float:
    function = ACTIVATIONS.get(ALIASES.get(name, name))
    if function is None:
        raise ValueError(f"activation must be one of {', '.join(sorted({*ACTIVATIONS, *ALIASES}))}; got {name!r}")
    known = [] if isinstance(function, np.ufunc) else list(inspect.signature(function).parameters)[1:]
    for parameter, value in parameters:
        if parameter not in known:
            raise TypeError(f"{name} has no parameter {parameter}; it has {', '.join(known) or 'none'}")
        if not math.isfinite(value):
            raise ValueError(f"{parameter} must be finite, got {value}")
    return _gain(function, dict(parameters))


def _gain(function: Activation, parameters: dict[str, float]) -> float:
    def integrand(z: Array) -> Array:
        with np.errstate(all="ignore"):
            values = _values(function, z, parameters)
            if not np.isfinite(values).all():
                where = z.ravel()[~np.isfinite(values).ravel()][0]
                raise ValueError(f"the activation {_name(function)} is not finite at {where:.6g}")
            # the factors one by one: a square may overflow where the product does not
            density = np.exp(-0.25 * z * z) * values
            weighted: Array = density * density / math.sqrt(2.0 * math.pi)
            return weighted

    moment, outermost = _integral(integrand)
    if not moment > 0.0:
        raise ValueError(f"the activation {_name(function)} is zero everywhere: no weights can make up for it")
    if moment == math.inf or not outermost < 1e-12 * moment:
        raise ValueError(f"E[f(z)^2] of the activation {_name(function)} is infinite, or nearly so")
    return 1.0 / math.sqrt(moment)


def _name(function: Activation) -> str:
    return getattr(function, "__name__", None) or repr(function)


def _values(function: Activation, z: Array, parameters: dict[str, float]) -> Array:
    """f(z) of an array, of functions that take arrays and of those that take numbers only."""
    try:
        values = np.asarray(function(z.copy(), **parameters), dtype=float)
        if values.shape == z.shape:
            return values
    except (TypeError, ValueError):  # of math.tanh, or of an `if` on an array
        pass
    return np.array([float(function(one, **parameters)) for one in z.ravel().tolist()]).reshape(z.shape)


def _integral(function: Callable[[Array], Array]) -> tuple[float, float]:
    """The integral over [-REACH, REACH], and what the two outermost of its panels contribute.

    Gauss and Legendre's rule on each panel and on its halves; panels on which the two disagree are cut.
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES)

    def panels(low: Array, high: Array) -> Array:
        middle, half = 0.5 * (low + high), 0.5 * (high - low)
        return half * (function(middle[:, None] + half[:, None] * nodes) @ weights)

    edges = np.linspace(-REACH, REACH, PANELS + 1)
    low, high = edges[:-1], edges[1:]
    rough = panels(low, high)
    outermost = float(rough[0] + rough[-1])
    total = 0.0
    for _ in range(CUTS):
        middle = 0.5 * (low + high)
        left, right = panels(low, middle), panels(middle, high)
        fine = left + right
        done = abs(fine - rough) <= AGREEMENT * (total + fine.sum())
        total += float(fine[done].sum())
        if done.all():
            return total, outermost
        open_ = ~done
        low, high = np.concatenate([low[open_], middle[open_]]), np.concatenate([middle[open_], high[open_]])
        rough = np.concatenate([left[open_], right[open_]])
    # a jump is by now shut in a panel that weighs nothing; a pole still weighs more than all the rest
    rest = float(rough.sum())
    return total + rest if rest < 1e-6 * total else math.inf, outermost
