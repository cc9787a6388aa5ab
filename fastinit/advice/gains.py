"""Gains: factors for weights that compensate an activation's effect on the size of the signal.

The gain of f is ``1 / sqrt(E[f(z)^2])`` for z ~ N(0, 1): for standard normal pre-activations, f(z) times the gain has a
mean square of 1. For a rectifier it is the sqrt(2) of He et al.

>>> round(gain("relu") ** 2, 12), round(gain("gelu"), 5), round(gain(lambda z: abs(z) ** 0.5), 5)
(2.0, 1.53353, 1.11952)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import numpy as np

from fastinit.advice.activations import (
    Activation,
    Array,
    activation_named,
    checked_parameters,
    default_parameters,
    derivative,
    evaluated,
)
from fastinit.exact import in_stream_environment

__all__ = ["GAINS", "backward_gain", "gain", "second_moment"]

GAINS: Final = {
    "celu": 1.2451983007007066,
    "elu": 1.2451983007007066,
    "gelu": 1.5335304411955353,
    "gelu_tanh": 1.533580521666147,
    "hardshrink": 1.015796354719734,
    "hardsigmoid": 1.897840424729559,
    "hardswish": 1.7366572127665416,
    "hardtanh": 1.3920361404483097,
    "identity": 1.0,
    "leaky_relu": 1.4141428569978354,
    "logsigmoid": 1.0418668355353018,
    "mish": 1.486847581273208,
    "prelu": 1.3719886811400708,
    "quick_gelu": 1.5394587622988314,
    "relu": 1.4142135623730951,
    "relu6": 1.4142135650950736,
    "relu_squared": 0.816496580927726,
    "selu": 1.0,
    "sigmoid": 1.8462285453386054,
    "silu": 1.676532470331091,
    "sin": 1.5208666231788148,
    "softplus": 1.0418668355353018,
    "softshrink": 1.5443605282801334,
    "softsign": 2.3375333631085398,
    "tanh": 1.5925374197228315,
    "tanhshrink": 2.3383675301021216,
}
"""Gain of every activation by name, with its default parameters, exact to the last bit.

They are stored because recipes compute standard deviations from them, and the last bits of a quadrature depend on the
processor and on mathematics libraries (NumPy's ``exp`` and ``tanh``, the sums of a BLAS).
"""

# Beyond 12 standard deviations lies 4e-33 of the normal distribution.
REACH = 12.0
# Panels of width 1/2: the kinks of every activation here lie on their edges.
PANELS = 48
NODES = 24
# The integral of a panel is accepted if that of its halves agrees to this fraction of the whole, or after CUTS cuts.
AGREEMENT = 1e-14
# The same for a function that computes in float32, like those of JAX.
AGREEMENT_OF_FLOAT32 = 1e-7
CUTS = 60
# Maximum number of open panels. A kink affects one or two, a sine of 10,000 z 20,000; noise affects all, and every cut
# doubles them. AT_ONCE panels are evaluated at once.
MOST_OPEN, AT_ONCE = 2**15, 2**11


@in_stream_environment
def gain(activation: str | Activation, **parameters: float) -> float:
    """Factor for the standard deviation of weights that keeps the signal's size through the following activation.

    Parameters
    ----------
    activation : str or callable
        A name in :data:`fastinit.advice.activations.ACTIVATIONS`, an alias (``"swish"``, ``"linear"``), or any function
        of a number or an array.
    **parameters : float
        Parameters of the activation: ``negative_slope`` of leaky_relu and prelu, ``alpha`` of elu and celu, ``beta`` of
        softplus, ``threshold`` of softshrink and hardshrink. They are passed on to a callable.

    Returns
    -------
    float
        1 / sqrt(E[f(z)^2]) for z ~ N(0, 1). Exact to the last bit for a named activation with default parameters;
        otherwise computed with a relative error below 1e-10, also for functions with kinks and jumps. The last bits of
        a computed gain may differ between machines; a record stores the number itself.

    Raises
    ------
    TypeError
        If the activation is neither a name nor callable, lacks a parameter, or does not return real numbers.
    ValueError
        If the name is unknown; or if the function gives NaN or infinity, is zero everywhere, changes the shape, depends
        on more than z (noise; a softmax), changes too fast to integrate, or grows so fast that its mean square is
        infinite.

    Notes
    -----
    K. He et al., "Delving deep into rectifiers", 2015, for rectifiers; G. Klambauer et al., "Self-normalizing neural
    networks", 2017, whose SELU has the gain 1.

    Examples
    --------
    >>> round(gain("leaky_relu", negative_slope=0.2), 6), round(gain("tanh"), 6)
    (1.38675, 1.592537)
    """
    name, function = activation_named(activation)
    if not isinstance(activation, str):
        return _gain(_at(function, name, parameters), f"the activation {name}")
    own = checked_parameters(name, parameters)
    if own.items() <= default_parameters(name).items():
        return GAINS[name]
    return _named(name, tuple(sorted(own.items())))


@in_stream_environment
def backward_gain(activation: str | Activation, **parameters: float) -> float:
    """Factor for the standard deviation of weights that keeps the size of gradients: 1 / sqrt(E[f'(z)^2]).

    For a rectifier it is sqrt(2), as in the forward direction. For tanh it is 1.46741, and forward 1.59254.

    Parameters
    ----------
    activation : str or callable
        As in :func:`gain`.
    **parameters : float
        Parameters of the activation, as in :func:`gain`.

    Raises
    ------
    TypeError, ValueError
        As in :func:`gain`. ValueError also for a function that computes in float32, which is too coarse for a slope.

    Examples
    --------
    >>> round(backward_gain("relu") ** 2, 6), round(backward_gain("tanh"), 5)
    (2.0, 1.46741)
    """
    name, function = activation_named(activation)
    if not isinstance(activation, str) and _is_float32(_at(function, name, parameters)):
        raise ValueError(f"the activation {name} computes in float32, which is too coarse for a slope: use float64")
    return _gain(derivative(activation, parameters, size=1.0), f"the slope of the activation {name}")


@in_stream_environment
def second_moment(function: Activation, std: float) -> float:
    """E[f(std z)^2], z ~ N(0, 1), to at least three digits, by the trapezoidal rule on a fine grid."""
    if not math.isfinite(std):
        return math.nan
    z, weights = _grid()
    values = evaluated(function, "the function", std * z, {})
    return float(np.sum(weights * values * values))


@lru_cache(maxsize=1)
def _grid() -> tuple[Array, Array]:
    z = np.linspace(-8.0, 8.0, 8193)[:, None] + 1e-3  # shifted, so that no node is at or within a step of a kink at 0
    weights = np.exp(-0.5 * z * z)
    return z, weights / weights.sum()


@lru_cache(maxsize=1024)
def _named(name: str, parameters: tuple[tuple[str, float], ...]) -> float:
    return _gain(_at(activation_named(name)[1], name, dict(parameters)), f"the activation {name}")


def _at(function: Activation, name: str, parameters: dict[str, Any]) -> Callable[[Array], Array]:
    return lambda z: evaluated(function, f"the activation {name}", z, parameters)


def _gain(function: Callable[[Array], Array], what: str) -> float:
    def integrand(z: Array) -> Array:
        with np.errstate(all="ignore"):
            values = function(z)
            if not np.isfinite(values).all():
                where = z.ravel()[~np.isfinite(values).ravel()][0]
                raise ValueError(f"{what} is not finite at {where:.6g}")
            # multiply before squaring: the square alone may overflow
            density = np.exp(-0.25 * z * z) * values
            weighted: Array = density * density / math.sqrt(2.0 * math.pi)
            return weighted

    with np.errstate(all="ignore"):
        _check_function(function, what)
        agreement = AGREEMENT_OF_FLOAT32 if _is_float32(function) else AGREEMENT
    moment, outermost = _integral(integrand, what, agreement)
    if not moment > 0.0:
        raise ValueError(f"{what} is zero everywhere: no weights can compensate it")
    if moment == math.inf or not outermost < 1e-12 * moment:
        raise ValueError(f"E[f(z)^2] of {what} is infinite, or nearly so")
    return 1.0 / math.sqrt(moment)


def _is_float32(function: Callable[[Array], Array]) -> bool:
    """Whether a function computes in float32 or less: all its values are float32 numbers, and many are distinct."""
    with np.errstate(all="ignore"):
        values = function(np.linspace(-3.1, 3.3, 4 * NODES).reshape(4, NODES))
        return bool((values == values.astype(np.float32)).all()) and np.unique(values).size > NODES


def _check_function(function: Callable[[Array], Array], what: str) -> None:
    """Raises ValueError unless the function acts elementwise and deterministically."""
    z = np.linspace(-3.1, 3.3, 4 * NODES).reshape(4, NODES)
    whole, part = function(z), function(z[:2, : NODES // 2])
    apart = np.abs(whole[:2, : NODES // 2] - part) > 1e-3 * np.abs(whole).max()
    if apart.any():  # NaN and infinities are rejected later
        raise ValueError(
            f"{what} must be a function of z alone, got other values for a part of the numbers, first at "
            f"{z[:2, : NODES // 2][apart][0]:.6g}: remove noise, and sums over an axis"
        )


def _integral(function: Callable[[Array], Array], what: str, agreement: float) -> tuple[float, float]:
    """The integral over [-REACH, REACH], and the contribution of the two outermost panels.

    Applies the Gauss-Legendre rule to each panel and to its halves, and cuts panels where the two disagree.
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES)

    def panels(low: Array, high: Array) -> Array:
        found = np.empty_like(low)
        for first in range(0, low.size, AT_ONCE):
            some = slice(first, first + AT_ONCE)
            middle, half = 0.5 * (low[some] + high[some]), 0.5 * (high[some] - low[some])
            found[some] = half * (function(middle[:, None] + half[:, None] * nodes) @ weights)
        return found

    edges = np.linspace(-REACH, REACH, PANELS + 1)
    low, high = edges[:-1], edges[1:]
    rough = panels(low, high)
    outermost = float(rough[0] + rough[-1])
    total, repeated = 0.0, False
    for _ in range(CUTS):
        middle = 0.5 * (low + high)
        left, right = panels(low, middle), panels(middle, high)
        fine = left + right
        done = abs(fine - rough) <= agreement * (total + fine.sum())
        total += float(fine[done].sum())
        if done.all():
            return total, outermost
        open_ = ~done
        low, high = np.concatenate([low[open_], middle[open_]]), np.concatenate([middle[open_], high[open_]])
        rough = np.concatenate([left[open_], right[open_]])
        if low.size > AT_ONCE and not repeated:
            repeated = True
            if not np.array_equal(panels(low[:AT_ONCE], high[:AT_ONCE]), panels(low[:AT_ONCE], high[:AT_ONCE])):
                raise ValueError(f"{what} must be a function of z, got other values for the same numbers")
        if low.size > MOST_OPEN:
            raise ValueError(f"{what} changes too fast with z: E[f(z)^2] cannot be integrated to ten digits")
    # by now a jump lies in a panel of negligible weight; a pole still dominates the integral
    rest = float(rough.sum())
    return total + rest if rest < 1e-6 * total else math.inf, outermost
