"""Does a tensor hold what an initializer gives? Constants are compared by value, draws by their moments.

>>> import numpy as np, fastinit
>>> drawn = fastinit.fill(np.empty((64, 64), np.float32), fastinit.Normal(std=0.02), fastinit.Key(0))
>>> differs(fastinit.Normal(std=0.02), drawn, drawn.shape)
''
>>> differs(fastinit.Normal(std=0.03), drawn, drawn.shape)
'std 0.01994, expected 0.03'
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from fastinit.composites import Composite
from fastinit.filling import fill
from fastinit.initializers import ElementwiseInitializer, Initializer
from fastinit.keys import Key
from fastinit.programs import Keep
from fastinit.structured import Orthogonal

__all__ = ["differs"]

Array = np.ndarray[Any, np.dtype[Any]]

# By how many standard errors a moment may be off.
SIGMAS: Final = 6.0
# How far apart two standard deviations are at least: a narrow dtype rounds them.
CLOSEST: Final = 0.005
# Bits in which the operators of two libraries agree.
OPERATORS: Final = 20
# Larger tensors of initializers without known moments are not drawn for comparison.
LARGEST: Final = 2**24
SAMPLE_KEY: Final = Key("fastinit.audit.agreement")


def differs(initializer: Initializer, values: Array, shape: tuple[int, ...], precision: int = 24) -> str:
    """In what values differ from what an initializer gives, in a few words; empty where they do not.

    Parameters
    ----------
    initializer : Initializer
        What should have made them, such as a program's.
    values : array of float
        Of this shape; or some of the tensor's values in any shape, of which only elementwise initializers are judged.
    shape : tuple of int
        Of the whole tensor.
    precision : int
        Bits of the significand of the dtype that the values were rounded to.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> differs(fastinit.Zeros(), np.array([0.0, 0.5]), (2,))
    '1 of 2 elements are not 0'
    """
    try:
        if values.shape != shape and not isinstance(initializer, ElementwiseInitializer):
            return ""  # which elements a shard holds is unknown
        return _differs(initializer, values, shape, precision)
    except ValueError:  # an initializer that cannot be run here: operators of a framework that is not imported
        return ""


def _differs(initializer: Initializer, values: Array, shape: tuple[int, ...], precision: int) -> str:
    if not values.size or isinstance(initializer, Keep):
        return ""
    if isinstance(initializer, ElementwiseInitializer):
        sampling = initializer.sampling(shape)
        if sampling.distribution == "constant":
            return _other_constant(values, sampling.mean, precision)
        return _other_moments(values, sampling.expected_mean, sampling.expected_std)
    if isinstance(initializer, Composite):
        return _other_part(initializer, values, precision)
    if isinstance(initializer, Orthogonal):
        moments = initializer.moments(shape)
        return "" if moments is None else _other_moments(values, *moments)
    return _other_sample(initializer, values, precision)


def _other_constant(values: Array, expected: float, precision: int) -> str:
    wrong = ~_close(values, expected, precision)
    return f"{int(wrong.sum())} of {values.size} elements are not {expected:.4g}" if wrong.any() else ""


def _close(values: Array, expected: Any, precision: int) -> Array:
    """Whether values are what was expected, rounded to a dtype; infinities and NaN are equal to themselves."""
    with np.errstate(invalid="ignore"):
        near = (np.abs(values - expected) <= np.abs(expected) * 2.0 ** (1 - precision)) & np.isfinite(expected)
    found: Array = near | (values == expected) | (np.isnan(values) & np.isnan(expected))
    return found


def _other_moments(values: Array, mean: float, std: float, error: float = 0.0) -> str:
    """`error` is that of the expected moments, as a share of std, where they were measured themselves."""
    found, size = values.astype(np.float64, copy=False), values.size
    if not np.isfinite(found).all():
        return "not all its elements are finite"
    spread = float(found.std())
    if abs(float(found.mean()) - mean) > SIGMAS * std * (1 / math.sqrt(size) + error):
        return f"mean {float(found.mean()):.4g}, expected {mean:.4g}"
    if abs(spread - std) > std * max(CLOSEST, SIGMAS * (1 / math.sqrt(2 * size) + error)):
        return f"std {spread:.4g}, expected {std:.4g}"
    return ""


def _other_part(initializer: Composite, values: Array, precision: int) -> str:
    """The first part that differs, each without what later ones paint over."""
    parts = initializer.parts(values.shape)
    owner = np.full(values.shape, -1)
    for number, part in enumerate(parts):
        owner[_box(part.offsets, part.shape)] = number
    for number, part in enumerate(parts):
        box = _box(part.offsets, part.shape)
        mine = owner[box] == number
        if mine.all():
            text = _differs(part.initializer, values[box], part.shape, precision)
        else:
            text = differs(part.initializer, values[box][mine], part.shape, precision)
        if text:
            return f"{text}, in the part of shape {part.shape} at {part.offsets}" if len(parts) > 1 else text
    return ""


def _box(offsets: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(offsets, shape, strict=True))


def _other_sample(initializer: Initializer, values: Array, precision: int) -> str:
    """Compares with two draws: with their values where they are the same, and else with their moments."""
    if values.size > LARGEST:
        return ""
    one, two = (fill(np.empty(values.shape), initializer, SAMPLE_KEY.fold_in(number)) for number in (0, 1))
    if np.array_equal(one, two, equal_nan=True):
        wrong = ~_close(values, one, min(precision, OPERATORS))
        return f"{int(wrong.sum())} of {values.size} elements are not as computed" if wrong.any() else ""
    sample = np.concatenate([one, two])
    spread = float(sample.std())
    variance = max(float(np.mean((sample - sample.mean()) ** 4)) - spread**4, 0.0)  # of a square
    heavy = math.sqrt(variance) / (2 * spread * spread)
    return _other_moments(values, float(sample.mean()), spread, max(heavy, 1.0) / math.sqrt(values.size))
