"""Signal propagation: runs a fully connected stack forward and backward, and compares every layer with theory.

:func:`propagate` draws the weights of a stack, sends a batch of standard normal inputs through it and a standard normal
gradient back, and measures every layer. It also gives the mean-field prediction. With n inputs per unit, the variance q
of the pre-activations follows ``q' = n E[w^2] E[f(sqrt(q) z)^2]`` from layer to layer, and that of the gradients
changes by the factor ``n_out E[w^2] E[f'(sqrt(q) z)^2]``, z ~ N(0, 1).

>>> import fastinit
>>> found = propagate([256] * 21, "relu", fastinit.he_normal(), key=fastinit.Key(0))
>>> found.verdict, propagate([256] * 21, "relu", fastinit.glorot_normal(), key=fastinit.Key(0)).verdict
('healthy', 'vanishing')

X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010; S. S.
Schoenholz et al., "Deep information propagation", 2017.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Final, SupportsIndex

import numpy as np

from fastinit.advice.activations import Activation, activation_named, checked_parameters, derivative, evaluated
from fastinit.advice.gains import second_moment
from fastinit.checks import at_least, integers
from fastinit.exact import in_stream_environment
from fastinit.filling import fill
from fastinit.initializers import ElementwiseInitializer, Initializer, Normal
from fastinit.keys import Key, checked_key

__all__ = ["Layer", "Propagation", "judged", "propagate"]

Array = np.ndarray[Any, np.dtype[Any]]

# Maximum change of the variance from end to end for a signal to survive. A healthy network of 50 rectifier layers
# changes by a factor of about ten; one of tanh at the edge of chaos falls like 1 / depth.
LIMIT: Final = 1000.0
# A unit is saturated if its slope is below the first fraction of the steepest possible slope, linear above the second.
SATURATED, LINEAR = 0.1, 0.9
# Histograms: bins of a sixth of the first layer's root mean square, one centred on 0, and one open bin at each end.
BINS, BINS_PER_UNIT = 49, 6
VERDICTS: Final = ("healthy", "vanishing", "exploding", "symmetric")


@dataclass(frozen=True, slots=True)
class Layer:
    """Measurements of one layer, over all units and the whole batch, and predictions by theory.

    Attributes
    ----------
    width : int
        Number of units.
    pre_mean, pre_variance, mean, variance : float
        Moments of the pre-activations and of the activations.
    gradient_mean, gradient_variance : float
        Moments of the gradient with respect to the pre-activations.
    dead, saturated, linear : float
        Fractions in [0, 1]. `dead`: units with slope 0 for the whole batch. `saturated` and `linear`: (unit, example)
        pairs with a slope below a tenth, or above nine tenths, of the steepest.
    identical : bool
        Whether all units compute the same value for every example. They then always learn the same.
    factor : float
        n Var(W) E[f'^2]: predicted factor of a gradient's variance on its way back through the layer.
    predicted_variance, predicted_gradient_variance : float
        Mean-field predictions of `pre_variance` and `gradient_variance`.
    histogram : tuple of int
        Counts of activations below the first of the stack's `edges`, between neighbouring edges, and above the last.
        NaN is not counted.
    """

    width: int
    pre_mean: float
    pre_variance: float
    mean: float
    variance: float
    gradient_mean: float
    gradient_variance: float
    dead: float
    saturated: float
    linear: float
    identical: bool
    factor: float
    predicted_variance: float
    predicted_gradient_variance: float
    histogram: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Propagation:
    """Result of running a stack: its arguments, its layers, and whether the signal survives.

    ``str(found)`` gives a table. Iteration yields the layers.

    Attributes
    ----------
    layers : tuple of Layer
        The layers, from the first hidden layer to the last.
    activation : str
        Name of the activation.
    initializer : Initializer
        Initializer of the weights.
    verdict : {"healthy", "vanishing", "exploding", "symmetric"}
        Whether the signal survives.
    reason : str
        The verdict in words.
    edges : tuple of float
        Edges of the bins of every `histogram`. They cover four times the first layer's root mean square on either side
        of 0.
    negative_slope : float, optional
        Slope of the activation, if given.

    Examples
    --------
    >>> import fastinit
    >>> found = fastinit.propagate([64] * 21, "tanh", fastinit.glorot_uniform(), key=fastinit.Key(0))
    >>> len(found.layers), found.verdict
    (20, 'healthy')
    """

    layers: tuple[Layer, ...]
    activation: str
    initializer: Initializer
    verdict: str
    reason: str
    edges: tuple[float, ...] = ()
    negative_slope: float | None = None

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def as_dict(self) -> dict[str, Any]:
        """The result in a form that JSON can hold. Numbers that are not finite become None."""
        rows = [{f.name: finite(getattr(layer, f.name)) for f in fields(Layer)} for layer in self.layers]
        return {
            "activation": self.activation,
            "negative_slope": self.negative_slope,
            "initializer": repr(self.initializer),
            "verdict": self.verdict,
            "reason": self.reason,
            "edges": list(self.edges),
            "layers": rows,
        }

    def __str__(self) -> str:
        names = ("layer", "width", "Var(z)", "predicted", "Var(a)", "Var(grad)", "predicted", "dead", "saturated")
        rows: list[tuple[str, ...]] = [names]
        shown = range(len(self.layers))
        if len(shown) > 24:  # show both ends, and some layers of the middle
            step = len(shown) // 12
            shown = [
                *range(4),
                *range(4 + step, len(self.layers) - 4, step),
                *range(len(self.layers) - 4, len(self.layers)),
            ]  # type: ignore[assignment]
        for number in shown:
            layer = self.layers[number]
            values = (layer.pre_variance, layer.predicted_variance, layer.variance, layer.gradient_variance)
            shares = (f"{layer.dead:.0%}", f"{layer.saturated:.0%}")
            numbers = (*values, layer.predicted_gradient_variance)
            rows.append((str(number + 1), str(layer.width), *(f"{value:.3g}" for value in numbers), *shares))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        gap = "  " if sum(widths) + 2 * len(widths) <= 80 else " "  # the usual width of a terminal
        lines = (gap.join(map(str.rjust, row, widths)) for row in rows)
        return "\n".join((*lines, f"{self.verdict}: {self.reason}"))


def finite(value: Any) -> Any:
    """The value, with None for floats that are not finite, which JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@in_stream_environment
def propagate(
    widths: Sequence[SupportsIndex],
    activation: str | Activation,
    initializer: Initializer,
    *,
    key: Key,
    batch: SupportsIndex | Array = 256,
    negative_slope: float | None = None,
) -> Propagation:
    """Runs a fully connected stack forward and backward, and measures every layer.

    Layer l has weights (widths[l], widths[l + 1]) drawn with the key ``key.fold_in(l)``, no bias, and the activation.

    Parameters
    ----------
    widths : sequence of int
        Widths of the input and of every layer: at least two, each at least 1.
    activation : str or callable
        A name from :func:`fastinit.gain`, or a function of an array that keeps its shape.
    initializer : Initializer
        Initializer of the weights (in, out). Leave its layout at ``"...IO"``.
    key : Key
        Key of all draws.
    batch : int or array
        Number of standard normal inputs, or the inputs themselves, of shape (examples, widths[0]).
    negative_slope : float, optional
        Slope of ``"leaky_relu"`` or ``"prelu"``; by default 0.01 and 0.25.

    Returns
    -------
    Propagation

    Raises
    ------
    TypeError, ValueError
        If widths or batch are not positive integers; if inputs do not fit or are not finite; if the activation is
        unknown, gives NaN, changes the shape or has no negative slope; or if the initializer does not support a layer.

    Examples
    --------
    >>> import fastinit
    >>> found = fastinit.propagate([64] * 21, "relu", fastinit.he_normal(), key=fastinit.Key(0))
    >>> found.verdict
    'healthy'
    >>> fastinit.propagate([64] * 21, "relu", fastinit.naive_uniform(), key=fastinit.Key(0)).verdict
    'vanishing'
    """
    sizes = integers("widths", widths)
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"widths must have an input and at least one layer, each at least 1, got {sizes}")
    checked_key(key)
    name, function = activation_named(activation)
    parameters = {} if negative_slope is None else {"negative_slope": negative_slope}
    if parameters:
        if not isinstance(activation, str):
            raise TypeError("negative_slope needs an activation given by name, got a function")
        parameters = checked_parameters(name, parameters)
        function = partial(function, **parameters)
    inputs = _inputs(batch, sizes[0], key)
    shapes = list(itertools.pairwise(sizes))

    def weight(number: int) -> Array:
        # drawn again for the backward pass, to save memory
        return fill(np.empty(shapes[number]), initializer, key.fold_in(number))

    with np.errstate(all="ignore"):
        some = np.linspace(-3.0, 3.0, 2 * sizes[1]).reshape(2, sizes[1])
        _after(function, some, name)
        slope = derivative(activation, parameters)
        before, after, slopes, squares = [], [inputs], [], []
        for number in range(len(shapes)):
            own = weight(number)
            squares.append(_square(initializer, own))
            before.append(after[-1] @ own)
            after.append(_after(function, before[-1], name))
            slopes.append(slope(before[-1]))
        gradients = [fill(np.empty((len(inputs), sizes[-1])), Normal(), key.fold_in("gradient")) * slopes[-1]]
        for number in range(len(shapes) - 1, 0, -1):
            gradients.append((gradients[-1] @ weight(number).T) * slopes[number - 1])
        gradients.reverse()
        forward = _forward(sizes, squares, function, float(np.mean(inputs * inputs)))
        factors, backward = _backward(sizes, squares, slope, forward)
        steepest = float(np.max(np.abs(slope(np.linspace(-6.0, 6.0, 2401)[:, None]))))
        edges = _edges(after[1])
        layers = tuple(
            _measured(edges, steepest, *found)
            for found in zip(before, after[1:], gradients, slopes, factors, forward, backward, strict=True)
        )
    verdict, reason = judged(
        [layer.pre_variance for layer in layers],
        [layer.gradient_variance for layer in layers],
        [layer.identical for layer in layers[:-1]] or [False],
    )
    return Propagation(
        layers, name, initializer, verdict, reason, tuple(edges.tolist()), parameters.get("negative_slope")
    )


def _inputs(batch: SupportsIndex | Array, width: int, key: Key) -> Array:
    if not isinstance(batch, np.ndarray):
        size = at_least(1, "batch", batch)
        return fill(np.empty((size, width)), Normal(), key.fold_in("inputs"))
    if batch.ndim != 2 or batch.shape[1] != width or not len(batch):
        raise ValueError(f"inputs must be of shape (examples, {width}), got {batch.shape}")
    inputs = np.asarray(batch, dtype=float)
    if not np.isfinite(inputs).all():
        raise ValueError("inputs must be finite, got NaN or infinity")
    return inputs


def _after(function: Activation, given: Array, name: str) -> Array:
    """The activations, checked for NaN."""
    found = evaluated(function, f"the activation {name}", given, {})
    if np.isnan(found[np.isfinite(given)]).any():
        raise ValueError(f"the activation {name} gives NaN for a finite pre-activation")
    return found


def _square(initializer: Initializer, weight: Array) -> float:
    """E[w^2] of the distribution; of the drawn weight if its elements depend on each other."""
    if not isinstance(initializer, ElementwiseInitializer):
        return float(np.mean(weight * weight))
    mean, std = initializer.moments(weight.shape)
    return mean * mean + std * std  # ** would raise OverflowError, * gives infinity


def _forward(sizes: Sequence[int], squares: Sequence[float], function: Activation, first: float) -> list[float]:
    """Predicted variances of the pre-activations of every layer. `first` is the mean square of the inputs."""
    predicted, moment = [], first
    for width, square in zip(sizes, squares, strict=False):
        predicted.append(width * square * moment)
        moment = second_moment(function, math.sqrt(predicted[-1]))
    return predicted


def _backward(
    sizes: Sequence[int], squares: Sequence[float], slope: Activation, forward: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Factor of every layer, and predicted variance of the gradients with respect to its pre-activations."""
    moments = [second_moment(slope, math.sqrt(variance)) for variance in forward]
    factors = [width * square * moment for width, square, moment in zip(sizes, squares, moments, strict=False)]
    predicted = [moments[-1]]
    for number in range(len(forward) - 2, -1, -1):
        predicted.append(predicted[-1] * sizes[number + 2] * squares[number + 1] * moments[number])
    return factors, predicted[::-1]


def _measured(
    edges: Array,
    steepest: float,
    before: Array,
    after: Array,
    gradient: Array,
    slope: Array,
    factor: float,
    forward: float,
    backward: float,
) -> Layer:
    size = np.abs(slope)
    return Layer(
        width=before.shape[1],
        pre_mean=float(before.mean()),
        pre_variance=float(before.var()),
        mean=float(after.mean()),
        variance=float(after.var()),
        gradient_mean=float(gradient.mean()),
        gradient_variance=float(gradient.var()),
        dead=float((size == 0).all(axis=0).mean()),
        saturated=float((size < SATURATED * steepest).mean()),
        linear=float((size > LINEAR * steepest).mean()),
        identical=before.shape[1] > 1 and bool((before == before[:, :1]).all()),
        factor=factor,
        predicted_variance=forward,
        predicted_gradient_variance=backward,
        histogram=_histogram(after, edges),
    )


def _edges(activations: Array) -> Array:
    """Edges of the bins that all layers share, from the first layer's root mean square."""
    size = math.sqrt(float(np.mean(activations * activations)))
    unit = size if 0.0 < size < math.inf else 1.0
    return (np.arange(BINS + 1) - BINS / 2) * (unit / BINS_PER_UNIT)


def _histogram(values: Array, edges: Array) -> tuple[int, ...]:
    # bins of equal size allow arithmetic instead of numpy.histogram's search, which is several times slower
    place = np.clip((values - edges[0]) * (1.0 / (edges[1] - edges[0])) + 1.0, 0.0, BINS + 1.0)
    known = place if np.isfinite(place.sum()) else place[~np.isnan(place)]
    return tuple(np.bincount(known.astype(np.uint8).ravel(), minlength=BINS + 2).tolist())


def judged(forward: Sequence[float], backward: Sequence[float], identical: Sequence[bool]) -> tuple[str, str]:
    """Verdict on a network from the variances of its layers, forward and backward, in layer order; with the reason.

    Compares both ends of the network. The reason includes LIMIT and counts layers from 1. A single backward variance
    carries no information, so the reason omits it. Used by every audit of a network.
    """
    if any(identical):
        number = list(identical).index(True) + 1
        return "symmetric", f"all units of layer {number} compute the same, and always learn the same"
    for what, first, last, where in (
        ("activations", forward[0], forward[-1], "the last layer"),
        ("gradients", backward[-1], backward[0], "the first layer"),
    ):
        if not (math.isfinite(first) and math.isfinite(last)):
            return "exploding", f"the {what} overflow before they reach {where}"
        if last <= first / LIMIT:
            ratio = "0" if last == 0 else f"{last / first:.2g}"
            reason = f"the variance of the {what} falls to {ratio} of its size by {where}"
            return "vanishing", f"{reason} (limit 1/{LIMIT:g})"
        if last >= first * LIMIT:
            reason = f"the variance of the {what} grows by {_plain(last / first)} by {where}"
            return "exploding", f"{reason} (limit {LIMIT:g})"
    changes = f"{_change(forward)} forward" + (f" and {_change(backward)} backward" if len(backward) > 1 else "")
    reason = f"the variance changes by a factor of {changes} through {len(forward)} layers"
    return "healthy", f"{reason} (limit {LIMIT:g})"


def _change(variances: Sequence[float]) -> str:
    """Factor between both ends, at least 1."""
    first, last = variances[0], variances[-1]
    return _plain(max(first / last, last / first) if first != last else 1.0)


def _plain(factor: float) -> str:
    """Formats a factor with two digits, without an exponent if it is short enough."""
    return f"{float(f'{factor:.2g}'):g}"
