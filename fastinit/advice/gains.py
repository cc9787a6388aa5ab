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
from typing import Any

import numpy as np

from fastinit.advice.activations import SLOPES, Activation, Array, activation_named, derivative, name_of

__all__ = ["backward_gain", "gain", "second_moment"]

# Beyond 12 standard deviations lies 4e-33 of the normal distribution.
REACH = 12.0
# Panels of 1/2, so that the kinks of every activation here lie between two of them.
PANELS = 48
NODES = 24
# The integral of a panel is accepted when that of its halves agrees to this share of the whole, or after so many cuts.
AGREEMENT = 1e-14
CUTS = 60


def gain(activation: str | Activation, **parameters: float) -> float:
    """The factor for the standard deviation of weights, so that the activation after them keeps the signal's size.

    Parameters
    ----------
    activation : str or callable
        One of :data:`fastinit.advice.activations.ACTIVATIONS` or an alias (``"swish"``, ``"linear"``), or any function
        of a number or of an array.
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


def backward_gain(activation: str | Activation, **parameters: float) -> float:
    """The factor for the standard deviation of weights that keeps the size of gradients: 1 / sqrt(E[f'(z)^2]).

    For a rectifier it is sqrt(2), as forward; for tanh, whose slope falls off, it is more than forward. Parameters and
    errors are those of :func:`gain`.

    Parameters
    ----------
    activation : str or callable
        As in :func:`gain`.
    **parameters : float
        Of the activation, as in :func:`gain`.

    >>> round(backward_gain("relu") ** 2, 6), round(backward_gain("tanh"), 5)
    (2.0, 1.46741)
    """
    if isinstance(activation, str):
        name = activation_named(activation)[0]
        return _gain(_renamed(SLOPES[name], name), parameters)
    return _gain(_renamed(derivative(lambda z: activation(z, **parameters)), name_of(activation)), {})


def second_moment(function: Activation, std: float) -> float:
    """E[f(std z)^2], z ~ N(0, 1), to three digits and more: by the trapezoidal rule on a fine grid."""
    if not math.isfinite(std):
        return math.nan
    z, weights = _grid()
    values = np.asarray(function(std * z), dtype=float)
    return float(np.sum(weights * values * values))


@lru_cache(maxsize=1)
def _grid() -> tuple[Array, Array]:
    z = np.linspace(-8.0, 8.0, 8193)[:, None] + 1e-3  # no node on, nor a step away from, a kink at 0
    weights = np.exp(-0.5 * z * z)
    return z, weights / weights.sum()


def _renamed(slope: Activation, name: str) -> Activation:
    def renamed(z: Array, **parameters: float) -> Any:
        return slope(z, **parameters)

    renamed.__name__ = f"the slope of {name}"
    return renamed


@lru_cache(maxsize=1024)
def _named(name: str, parameters: tuple[tuple[str, float], ...]) -> float:
    name, function = activation_named(name)
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
                raise ValueError(f"the activation {name_of(function)} is not finite at {where:.6g}")
            # the factors one by one: a square may overflow where the product does not
            density = np.exp(-0.25 * z * z) * values
            weighted: Array = density * density / math.sqrt(2.0 * math.pi)
            return weighted

    moment, outermost = _integral(integrand)
    if not moment > 0.0:
        raise ValueError(f"the activation {name_of(function)} is zero everywhere: no weights can make up for it")
    if moment == math.inf or not outermost < 1e-12 * moment:
        raise ValueError(f"E[f(z)^2] of the activation {name_of(function)} is infinite, or nearly so")
    return 1.0 / math.sqrt(moment)


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
