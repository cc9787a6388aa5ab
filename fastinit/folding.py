"""Folding: turns arithmetic on draws into parameters of one distribution.

``Normal()`` times 0.02 is ``Normal(std=0.02)``. A uniform draw passed through erfinv, scaled, shifted and clamped is
one truncated normal. Folding lets a tensor be drawn once, in float32 or float64, and rounded once to its dtype. Each
function returns an initializer of the same distribution, or None if there is none.

>>> import fastinit
>>> times(fastinit.Normal(std=0.5), 0.25, (3, 4))
Normal(mean=0.0, std=0.125)
>>> times(fastinit.Sparse(0.5, 1.0), 2.0, (3, 4))
Sparse(sparsity=0.5, std=2.0, axis=0)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from fastinit import truncation
from fastinit.composites import Blocks, ZeroRow
from fastinit.exact import in_stream_environment
from fastinit.initializers import (
    Constant,
    ElementwiseInitializer,
    Initializer,
    Normal,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
)
from fastinit.programs import Box, Painted, disjoint
from fastinit.sampling import Sampling
from fastinit.structured import DeltaOrthogonal, Dirac, Identity, Orthogonal, Sparse, ZerO

__all__ = [
    "InverseErf",
    "box_of",
    "clamped",
    "finished",
    "inverse_erf",
    "is_random",
    "of_elements",
    "over",
    "painted",
    "plus",
    "renumbered",
    "times",
]

# Tolerance in probability between bounds that were computed in two ways.
NEGLIGIBLE = 2.0**-36


@dataclass(frozen=True, slots=True)
class InverseErf:
    """``erfinv(u) * factor + offset``, u uniform on [low, high): a truncated normal whose bounds are still approximate.

    A later clamp gives the exact bounds: code that draws truncated normals clamps to them at the end.

    Parameters
    ----------
    low, high : float
        The interval of the uniform draw.
    factor, offset : float
        Multiplied with the result, then added to it.

    Examples
    --------
    >>> InverseErf(-1.0, 1.0, factor=2.0, offset=1.0).finished()
    Normal(mean=1.0, std=1.414213562373095)
    """

    low: float
    high: float
    factor: float = 1.0
    offset: float = 0.0

    def finished(self) -> Initializer:
        """The truncated normal."""
        # erfinv(u) is normal with the standard deviation sqrt(1/2)
        mean, std = self.offset, abs(self.factor) / math.sqrt(2.0)
        low, high = _quantile(0.5 * (self.low + 1.0)), _quantile(0.5 * (self.high + 1.0))
        if self.factor < 0:
            low, high = -high, -low
        if std == 0.0:
            return Constant(mean)
        if low == -math.inf and high == math.inf:
            return Normal(mean, std)
        return TruncatedNormal(mean, std, mean + low * std, mean + high * std, bounds="absolute")


Foldable = Initializer | InverseErf


@lru_cache(maxsize=1024)
@in_stream_environment
def _quantile(probability: float) -> float:
    """Quantile of the standard normal, by bisection; infinite at 0 and 1."""
    if probability <= 0.0 or probability >= 1.0:
        return math.copysign(math.inf, probability - 0.5)
    goal = int(math.ldexp(probability, 64))
    low, high = -40.0, 40.0
    while (middle := 0.5 * (low + high)) not in (low, high):
        if truncation.window(middle, math.inf, 64)[0] < goal:
            low = middle
        else:
            high = middle
    return high


def finished(found: Foldable) -> Initializer:
    """The folded result as an initializer.

    Parameters
    ----------
    found : Initializer or InverseErf
        Result of a function of this module.

    Examples
    --------
    >>> finished(Normal()), finished(InverseErf(-1.0, 1.0, factor=0.0))
    (Normal(mean=0.0, std=1.0), Constant(value=0.0))
    """
    return found.finished() if isinstance(found, InverseErf) else found


@in_stream_environment
def inverse_erf(initializer: Foldable) -> Foldable | None:
    """The distribution of the inverse error function of a draw; None if it does not fold.

    Parameters
    ----------
    initializer : Initializer or InverseErf
        Distribution of the draw.

    Examples
    --------
    >>> finished(inverse_erf(Uniform(-1.0, 1.0)))
    Normal(mean=0.0, std=0.7071067811865475)
    """
    if isinstance(initializer, Uniform) and initializer.low >= -1.0 and initializer.high <= 1.0:
        return InverseErf(initializer.low, initializer.high)
    return None


def is_random(initializer: Initializer) -> bool:
    """Whether an initializer depends on the key. Constants and fixed matrices do not.

    Parameters
    ----------
    initializer : Initializer
        Any initializer.

    Examples
    --------
    >>> is_random(Normal()), is_random(Blocks((Constant(0.0), Constant(1.0)))), is_random(Identity())
    (True, False, False)
    """
    if isinstance(initializer, Blocks):
        return any(map(is_random, initializer.each()))
    if isinstance(initializer, Painted):
        return is_random(initializer.initializer) or any(is_random(box.initializer) for box in initializer.boxes)
    return not isinstance(initializer, (Constant, Identity, Dirac, ZerO))


def of_elements(initializer: Initializer, shape: tuple[int, ...]) -> Initializer | None:
    """An elementwise initializer in a form that does not depend on the shape.

    Parameters
    ----------
    initializer : Initializer
        Distribution of the draw. If it is not elementwise, the result is None.
    shape : tuple of int
        Shape of the tensor.

    Examples
    --------
    >>> of_elements(VarianceScaling(1.0, "fan_in", "normal", layout="OI"), (8, 16))
    Normal(mean=0.0, std=0.25)
    """
    if isinstance(initializer, (Constant, Normal, Uniform, TruncatedNormal)):
        return initializer
    return _of_sampling(initializer.sampling(shape)) if isinstance(initializer, ElementwiseInitializer) else None


def _of_sampling(sampling: Sampling) -> Initializer:
    if sampling.distribution == "uniform":
        return Uniform(sampling.low, sampling.high)
    if sampling.distribution == "normal":
        return Normal(sampling.mean, sampling.std)
    if sampling.distribution == "truncated_normal":
        return TruncatedNormal(sampling.mean, sampling.std, sampling.low, sampling.high, bounds="absolute")
    return Constant(sampling.mean)


@in_stream_environment
def times(initializer: Foldable, factor: float, shape: tuple[int, ...]) -> Foldable | None:
    """The distribution of a draw times a number; None if it does not fold.

    Parameters
    ----------
    initializer : Initializer or InverseErf
        Distribution of the draw.
    factor : float
        The number.
    shape : tuple of int
        Shape of the tensor.

    Examples
    --------
    >>> times(Normal(std=0.5), 0.25, (3,))
    Normal(mean=0.0, std=0.125)
    """
    return _scaled(initializer, lambda value: value * factor, shape)


@in_stream_environment
def over(initializer: Foldable, divisor: float, shape: tuple[int, ...]) -> Foldable | None:
    """The distribution of a draw divided by a number; None if it does not fold.

    Parameters
    ----------
    initializer : Initializer or InverseErf
        Distribution of the draw.
    divisor : float
        The number.
    shape : tuple of int
        Shape of the tensor.

    Examples
    --------
    >>> over(Uniform(-1.0, 1.0), 4.0, (3,))
    Uniform(low=-0.25, high=0.25)
    """
    return _scaled(initializer, lambda value: value / divisor, shape) if divisor else None


def _scaled(initializer: Foldable, by: Callable[[float], float], shape: tuple[int, ...]) -> Foldable | None:
    factor = by(1.0)
    if not math.isfinite(factor):
        return None
    if isinstance(initializer, InverseErf):
        return replace(initializer, factor=by(initializer.factor), offset=by(initializer.offset))
    if isinstance(initializer, Constant):
        return Constant(by(initializer.value))
    if factor == 0.0:
        return Constant(0.0) if _is_finite(initializer) else None
    if isinstance(initializer, VarianceScaling):
        scale = by(by(initializer.scale))
        return replace(initializer, scale=scale) if 0.0 < scale < math.inf else None
    if isinstance(initializer, (Identity, Dirac, Orthogonal, DeltaOrthogonal)):
        return replace(initializer, gain=by(initializer.gain))
    if isinstance(initializer, (Normal, Sparse)):
        std = abs(by(initializer.std))
        return Normal(by(initializer.mean), std) if isinstance(initializer, Normal) else replace(initializer, std=std)
    if isinstance(initializer, Uniform):
        return Uniform(*sorted((by(initializer.low), by(initializer.high))))
    if isinstance(initializer, TruncatedNormal):
        return _linear(initializer, by, factor)
    return _each(initializer, lambda inner, box: _scaled(inner, by, box), shape)


def _linear(initializer: TruncatedNormal, by: Callable[[float], float], factor: float) -> TruncatedNormal:
    low, high = initializer.low, initializer.high
    if initializer.bounds == "absolute":
        low, high = sorted((by(low), by(high)))
    elif factor < 0:
        low, high = -high, -low
    return replace(initializer, mean=by(initializer.mean), std=abs(by(initializer.std)), low=low, high=high)


def _is_finite(initializer: Initializer) -> bool:
    return isinstance(initializer, (Normal, Uniform, TruncatedNormal, VarianceScaling, Orthogonal, Sparse))


@in_stream_environment
def plus(initializer: Foldable, offset: float, shape: tuple[int, ...]) -> Foldable | None:
    """The distribution of a draw plus a number; None if it does not fold.

    Parameters
    ----------
    initializer : Initializer or InverseErf
        Distribution of the draw.
    offset : float
        The number.
    shape : tuple of int
        Shape of the tensor.

    Examples
    --------
    >>> plus(Normal(std=0.5), 1.0, (3,))
    Normal(mean=1.0, std=0.5)
    """
    if offset == 0.0:
        return initializer
    if not math.isfinite(offset):
        return None
    if isinstance(initializer, InverseErf):
        return replace(initializer, offset=initializer.offset + offset)
    if isinstance(initializer, (Blocks, ZeroRow, Painted)):
        return _each(initializer, lambda inner, box: plus(inner, offset, box), shape)
    drawn = of_elements(initializer, shape)
    if isinstance(drawn, Constant):
        return Constant(drawn.value + offset)
    if isinstance(drawn, Normal):
        return replace(drawn, mean=drawn.mean + offset)
    if isinstance(drawn, Uniform):
        return Uniform(drawn.low + offset, drawn.high + offset)
    if isinstance(drawn, TruncatedNormal):
        bounds = (offset, offset) if drawn.bounds == "absolute" else (0.0, 0.0)
        low, high = drawn.low + bounds[0], drawn.high + bounds[1]
        return replace(drawn, mean=drawn.mean + offset, low=low, high=high)
    return None


@in_stream_environment
def clamped(initializer: Foldable, low: float, high: float, shape: tuple[int, ...]) -> Foldable | None:
    """The distribution of a draw clamped to [low, high]; None if it does not fold.

    It folds if the clamp has no effect or gives the bounds of a truncated normal.

    Parameters
    ----------
    initializer : Initializer or InverseErf
        Distribution of the draw.
    low, high : float
        The bounds; infinite for none.
    shape : tuple of int
        Shape of the tensor.

    Examples
    --------
    >>> start = times(inverse_erf(Uniform(-0.9544997361036416, 0.9544997361036416)), math.sqrt(2.0), (3,))
    >>> clamped(start, -2.0, 2.0, (3,))
    TruncatedNormal(mean=0.0, std=1.0, low=-2.0, high=2.0, bounds='absolute', correct_variance=False)
    """
    if isinstance(initializer, InverseErf):
        return _cut(initializer, low, high)
    if isinstance(initializer, (Blocks, ZeroRow, Painted)):
        return _each(initializer, lambda inner, box: clamped(inner, low, high, box), shape)
    drawn = of_elements(initializer, shape)
    if isinstance(drawn, Constant) and not math.isnan(drawn.value):
        return Constant(min(max(drawn.value, low), high))
    if isinstance(drawn, (Uniform, TruncatedNormal)):
        sampling = drawn.sampling(shape)
        if low <= sampling.low and sampling.high <= high:
            return initializer
    return None


def _cut(drawn: InverseErf, low: float, high: float) -> Initializer | None:
    """The truncated normal with these bounds, if the probability that they cut off is negligible."""
    plain = drawn.finished()
    if not isinstance(plain, (Normal, TruncatedNormal)) or not low < high:
        return None
    sampling = plain.sampling()
    mean, std = sampling.mean, sampling.std
    below, above = (low - mean) / std, (high - mean) / std
    outside = _probability_between(sampling.low_sigma, below) + _probability_between(above, sampling.high_sigma)
    if outside > NEGLIGIBLE:
        return None
    # if the bounds agree, the clamp's are exact and those of erfinv approximate
    inside = _probability_between(below, sampling.low_sigma) + _probability_between(sampling.high_sigma, above)
    if inside > NEGLIGIBLE:
        return plain
    return TruncatedNormal(mean, std, low, high, bounds="absolute")


def _probability_between(low: float, high: float) -> float:
    """Probability of [low, high] under the standard normal; 0 if low >= high."""
    if not low < high or high < -40.0 or low > 40.0:
        return 0.0
    return math.ldexp(float(truncation.window(low, high, 64)[1]), -64)


def _each(
    initializer: Initializer, fold: Callable[[Initializer, tuple[int, ...]], Foldable | None], shape: tuple[int, ...]
) -> Initializer | None:
    """Folds each initializer of a composite."""

    def folded(inner: Initializer, box: tuple[int, ...]) -> Initializer | None:
        found = fold(inner, box)
        return None if found is None else finished(found)

    if isinstance(initializer, ZeroRow):
        rows, zero = folded(initializer.initializer, shape), folded(Constant(0.0), shape)
        stays = isinstance(zero, Constant) and zero.value == 0.0
        return replace(initializer, initializer=rows) if stays and rows is not None else None
    if isinstance(initializer, Painted):
        whole = folded(initializer.initializer, shape)
        inner = [folded(box.initializer, box.shape) for box in initializer.boxes]
        boxes = [replace(box, initializer=one) for box, one in zip(initializer.boxes, inner, strict=True) if one]
        if whole is None or len(boxes) < len(inner):
            return None
        return replace(initializer, initializer=whole, boxes=tuple(boxes))
    if isinstance(initializer, Blocks):
        parts = initializer.parts(shape)
        each = [folded(part.initializer, part.shape) for part in parts]
        if any(inner is None for inner in each):
            return None
        return Blocks(tuple(inner for inner in each if inner is not None), axis=initializer.axis)
    return None


@in_stream_environment
def painted(
    initializer: Initializer, boxes: Sequence[Box], shape: tuple[int, ...], draw: int = 0
) -> tuple[Initializer, int]:
    """The simplest initializer of a tensor with overwritten boxes, and the number of its first draw.

    Parameters
    ----------
    initializer : Initializer
        Initializer of the whole tensor before painting.
    boxes : sequence of Box
        Boxes to paint over it, in order.
    shape : tuple of int
        Shape of the tensor.
    draw : int
        Number of the draw of `initializer`.

    Examples
    --------
    >>> painted(Normal(), [Box((2, 0), (1, 4), Constant(0.0))], (3, 4))
    (ZeroRow(initializer=Normal(mean=0.0, std=1.0), row=2), 0)
    """
    kept: list[Box] = []
    apart = disjoint([box for box in boxes if box.shape != shape])
    for box in boxes:
        if math.prod(box.shape) == 0:
            continue
        if box.shape == shape:
            initializer, draw, kept = box.initializer, box.draw, []
            continue
        if not apart:
            kept = [other for other in kept if not box.covers(other)]
        changes_nothing = isinstance(initializer, Constant) and box.initializer == initializer
        if changes_nothing and (apart or not any(map(box.overlaps, kept))):
            continue
        kept.append(box)
    if not kept:
        return initializer, draw
    blocks = _blocks(kept, shape)
    if blocks is not None:
        return blocks, 0
    only = kept[0]
    if len(kept) == 1 and draw == 0 and only.initializer == Constant(0.0) and only.shape == (1, *shape[1:]):
        return ZeroRow(initializer, only.offsets[0]), 0
    if isinstance(initializer, Constant) and (constants := _blocks(_filled(initializer, kept, shape), shape)):
        return constants, 0
    return Painted(initializer, tuple(kept), draw), 0


def renumbered(initializer: Initializer, count: int) -> tuple[Initializer, tuple[int, ...]]:
    """An initializer with its draws renumbered without gaps, and the old numbers of the remaining draws.

    Parameters
    ----------
    initializer : Initializer
        Result of :func:`painted`, without the draws that were painted over.
    count : int
        Number of draws before painting.

    Examples
    --------
    >>> start = Painted(Constant(0.0), (Box((0,), (2,), Normal(), draw=1),))
    >>> initializer, left = renumbered(start, 2)
    >>> initializer.boxes[0].draw, left
    (0, (1,))
    """
    if not is_random(initializer):
        return initializer, ()
    if not isinstance(initializer, Painted):
        return initializer, tuple(range(count))
    parts: list[Painted | Box] = [initializer, *initializer.boxes]
    left = sorted({part.draw for part in parts if part.key is None and is_random(part.initializer)})
    numbers = {old: new for new, old in enumerate(left)}
    boxes = tuple(replace(box, draw=numbers.get(box.draw, 0)) for box in initializer.boxes)
    return replace(initializer, boxes=boxes, draw=numbers.get(initializer.draw, 0)), tuple(left)


def _filled(initializer: Constant, boxes: Sequence[Box], shape: tuple[int, ...]) -> list[Box]:
    """Boxes along the first axis, with gaps filled by a constant; empty if `boxes` do not have that form."""
    if not shape or any(box.offsets[1:] != (0,) * (len(shape) - 1) or box.shape[1:] != shape[1:] for box in boxes):
        return []
    if not disjoint(boxes):
        return []
    size = math.gcd(shape[0], *(box.offsets[0] for box in boxes), *(box.shape[0] for box in boxes))
    if shape[0] // size > 16:  # the result would be longer than the input
        return []
    found = []
    for row in range(0, shape[0], size):
        own = [box for box in boxes if box.offsets[0] <= row < box.offsets[0] + box.shape[0]]
        inner = own[0].initializer if own else initializer
        found.append(Box((row, *(0,) * (len(shape) - 1)), (size, *shape[1:]), inner))
    return found


def _blocks(boxes: Sequence[Box], shape: tuple[int, ...]) -> Blocks | None:
    """The boxes as Blocks, if they are constants in equal blocks that fill the first axis."""
    if len(boxes) < 2 or not all(isinstance(box.initializer, Constant) for box in boxes):
        return None
    size = shape[0] // len(boxes)
    ordered = sorted(boxes, key=lambda box: box.offsets)
    for number, box in enumerate(ordered):
        if box.offsets != (number * size, *(0,) * (len(shape) - 1)) or box.shape != (size, *shape[1:]):
            return None
    return Blocks(tuple(box.initializer for box in ordered)) if size * len(boxes) == shape[0] else None


def box_of(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    view_shape: tuple[int, ...],
    view_strides: tuple[int, ...],
    offset: int,
) -> tuple[tuple[int, ...], tuple[int, ...], bool] | None:
    """The box of a tensor that a view of its memory covers; None if the view is not a box.

    Parameters
    ----------
    shape, strides : tuple of int
        Shape and strides of the tensor, in elements.
    view_shape, view_strides : tuple of int
        Shape and strides of the view, in elements.
    offset : int
        Start of the view, in elements from the tensor's first.

    Returns
    -------
    offsets, shape, in_order
        Start and shape of the box, and whether the view has the row-major order of the box.

    Examples
    --------
    >>> box_of((4, 6), (6, 1), (4, 2), (6, 1), 3)
    ((0, 3), (4, 2), True)
    >>> box_of((4, 6), (6, 1), (6,), (1,), 12)
    ((2, 0), (1, 6), True)
    >>> box_of((4, 6), (6, 1), (4, 3), (6, 2), 0) is None
    True
    """
    if 0 in view_shape or offset < 0 or any(stride < 0 for stride in view_strides):
        return None
    last = offset + sum((extent - 1) * stride for extent, stride in zip(view_shape, view_strides, strict=True))
    first_index, last_index = _index_of(offset, shape, strides), _index_of(last, shape, strides)
    if first_index is None or last_index is None:
        return None
    extents = tuple(end - begin + 1 for begin, end in zip(first_index, last_index, strict=True))
    if any(extent < 1 for extent in extents) or math.prod(extents) != math.prod(view_shape):
        return None
    own, theirs = _merged(extents, strides), _merged(view_shape, view_strides)
    if _merged(*_descending(extents, strides)) != _merged(*_descending(view_shape, view_strides)):
        return None
    return first_index, extents, own == theirs


def _index_of(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    index = [0] * len(shape)
    for axis in sorted(range(len(shape)), key=lambda axis: (-strides[axis], shape[axis] == 1)):
        if shape[axis] > 1 and strides[axis] > 0:
            index[axis], offset = divmod(offset, strides[axis])
        if index[axis] >= max(shape[axis], 1):
            return None
    return None if offset else tuple(index)


def _descending(shape: Sequence[int], strides: Sequence[int]) -> tuple[list[int], list[int]]:
    order = sorted(range(len(shape)), key=lambda axis: -strides[axis])
    return [shape[axis] for axis in order], [strides[axis] for axis in order]


def _merged(shape: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Extents and strides with axes of one element removed and contiguous neighbours merged."""
    axes: list[tuple[int, int]] = []
    for extent, stride in zip(shape, strides, strict=True):
        if extent == 1:
            continue
        if axes and axes[-1][1] == extent * stride:
            axes[-1] = (axes[-1][0] * extent, stride)
        else:
            axes.append((extent, stride))
    return axes
