"""Does the signal survive? A fully connected stack run forward and backward, layer by layer, with what theory predicts.

:func:`propagate` draws the weights of a stack, sends a batch of standard normal inputs through it and a standard normal
gradient back, and measures every layer. Beside it stands the mean-field prediction: with n inputs to each unit, the
variance q of its pre-activations goes from layer to layer as ``q' = n E[w^2] E[f(sqrt(q) z)^2]``, and that of the
gradients by the factor ``n_out E[w^2] E[f'(sqrt(q) z)^2]``, z ~ N(0, 1).

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

# A signal whose variance grows, or shrinks, by more than this from end to end does not survive. A healthy network of 50
# rectifier layers strays by a factor of ten or so, and one of tanh at the edge of chaos falls like 1 / depth.
LIMIT: Final = 1000.0
# A unit is saturated where its slope is below this share of the steepest slope it can have, linear above that one.
SATURATED, LINEAR = 0.1, 0.9
# Histograms: bins of a sixth of the first layer's root mean square, one of them around 0, and one more at each end.
BINS, BINS_PER_UNIT = 49, 6
VERDICTS: Final = ("healthy", "vanishing", "exploding", "symmetric")


@dataclass(frozen=True, slots=True)
class Layer:
    """What was measured in one layer, over all its units and the whole batch, and what theory predicts.

    Attributes
    ----------
    width : int
        Its units.
    pre_mean, pre_variance, mean, variance : float
        Of the pre-activations and of the activations.
    gradient_mean, gradient_variance : float
        Of the gradient with respect to the pre-activations.
    dead, saturated, linear : float
        Shares in [0, 1]: of units with slope 0 for the whole batch; of (unit, example) pairs whose slope is below a
        tenth, or above nine tenths, of the steepest.
    identical : bool
        Whether all its units compute the same, for every example. They then always learn the same.
    factor : float
        n Var(W) E[f'^2], predicted: by what the variance of a gradient is multiplied on its way back through the layer.
    predicted_variance, predicted_gradient_variance : float
        Mean-field predictions of `pre_variance` and `gradient_variance`.
    histogram : tuple of int
        How many activations lie below the first of the stack's `edges`, between each two of them, and above the last.
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
    """A stack that was run: what went in, the layers, and whether the signal survives.

    ``str(found)`` is a table. Iterating gives the layers.

    Attributes
    ----------
    layers : tuple of Layer
        From the first hidden layer to the last.
    activation : str
    initializer : Initializer
    verdict : {"healthy", "vanishing", "exploding", "symmetric"}
    reason : str
        The verdict in words.
    edges : tuple of float
        Of the bins of every layer's `histogram`: four times the size of the first layer's activations to either side.
    negative_slope : float, optional
        Of the activation, where it was given.

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
        """Everything as JSON can hold it, numbers that are not finite as None."""
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
        if len(shown) > 24:  # both ends, and the middle by steps
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
        gap = "  " if sum(widths) + 2 * len(widths) <= 80 else " "  # a terminal's usual width
        lines = (gap.join(map(str.rjust, row, widths)) for row in rows)
        return "\n".join((*lines, f"{self.verdict}: {self.reason}"))


def finite(value: Any) -> Any:
    """The value; None for a float that is not finite, which JSON cannot hold."""
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
    """Runs a fully connected stack forward and backward and measures every layer.

    Layer l has weights (widths[l], widths[l + 1]), drawn with the key ``key.fold_in(l)``, no bias, and the activation.

    Parameters
    ----------
    widths : sequence of int
        The width of the input, then of every layer: at least two, each at least 1.
    activation : str or callable
        A name that :func:`fastinit.gain` knows, or a function of an array that keeps its shape.
    initializer : Initializer
        Of weights (in, out): leave its layout at ``"...IO"``.
    key : Key
        The stream of everything that is drawn.
    batch : int or array
        How many standard normal inputs, or the inputs themselves, (examples, widths[0]).
    negative_slope : float, optional
        Of ``"leaky_relu"`` and ``"prelu"``; by default 0.01 and 0.25.

    Returns
    -------
    Propagation

    Raises
    ------
    TypeError, ValueError
        Widths or a batch that are not positive integers, inputs that do not fit or are not finite, an activation that
        is unknown, gives NaN, changes the shape or has no negative slope, an initializer that a layer refuses.

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
        raise ValueError(f"widths must be of the input and at least one layer, each at least 1; got {sizes}")
    checked_key(key)
    name, function = activation_named(activation)
    parameters = {} if negative_slope is None else {"negative_slope": negative_slope}
    if parameters:
        if not isinstance(activation, str):
            raise TypeError("negative_slope is for an activation that is given by its name")
        parameters = checked_parameters(name, parameters)
        function = partial(function, **parameters)
    inputs = _inputs(batch, sizes[0], key)
    shapes = list(itertools.pairwise(sizes))

    def weight(number: int) -> Array:
        # drawn again when it is needed again: that takes less time than memory
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
        raise ValueError("inputs must be finite")
    return inputs


def _after(function: Activation, given: Array, name: str) -> Array:
    """The activations; the function may write into its argument."""
    found = evaluated(function, f"the activation {name}", given, {})
    if np.isnan(found[np.isfinite(given)]).any():
        raise ValueError(f"the activation {name} gives NaN for a finite pre-activation")
    return found


def _square(initializer: Initializer, weight: Array) -> float:
    """E[w^2]: of the distribution, or, where elements depend on each other, as drawn."""
    if not isinstance(initializer, ElementwiseInitializer):
        return float(np.mean(weight * weight))
    mean, std = initializer.moments(weight.shape)
    return mean * mean + std * std  # infinite where a power would raise


def _forward(sizes: Sequence[int], squares: Sequence[float], function: Activation, first: float) -> list[float]:
    """The predicted variance of every layer's pre-activations; `first` is the mean square of the inputs."""
    predicted, moment = [], first
    for width, square in zip(sizes, squares, strict=False):
        predicted.append(width * square * moment)
        moment = second_moment(function, math.sqrt(predicted[-1]))
    return predicted


def _backward(
    sizes: Sequence[int], squares: Sequence[float], slope: Activation, forward: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Each layer's factor, and the predicted variance of the gradients with respect to its pre-activations."""
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
    """Of bins that all layers share, by the size of the first layer's activations."""
    size = math.sqrt(float(np.mean(activations * activations)))
    unit = size if 0.0 < size < math.inf else 1.0
    return (np.arange(BINS + 1) - BINS / 2) * (unit / BINS_PER_UNIT)


def _histogram(values: Array, edges: Array) -> tuple[int, ...]:
    # bins of one size need no search, which takes several times as long
    place = np.clip((values - edges[0]) * (1.0 / (edges[1] - edges[0])) + 1.0, 0.0, BINS + 1.0)
    known = place if np.isfinite(place.sum()) else place[~np.isnan(place)]
    return tuple(np.bincount(known.astype(np.uint8).ravel(), minlength=BINS + 2).tolist())


def judged(forward: Sequence[float], backward: Sequence[float], identical: Sequence[bool]) -> tuple[str, str]:
    """The verdict on the variances of a network's layers, forward and backward, in the order of the layers; and why.

    It compares both ends of the network with LIMIT, which the reason names. Layers are counted from 1. One backward
    variance says nothing, and the reason leaves it out. Shared by everything that measures a network.
    """
    if any(identical):
        number = list(identical).index(True) + 1
        return "symmetric", f"all units of layer {number} compute the same, and will learn the same for ever"
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
    """The factor between both ends, at least 1."""
    first, last = variances[0], variances[-1]
    return _plain(max(first / last, last / first) if first != last else 1.0)


def _plain(factor: float) -> str:
    """Two digits, and no exponent where a person would write none."""
    return f"{float(f'{factor:.2g}'):g}"
