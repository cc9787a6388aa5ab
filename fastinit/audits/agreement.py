"""Agreement of a tensor with an initializer. Constants are compared by value, draws by their moments.

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

# Tolerance of a moment in standard errors.
SIGMAS: Final = 6.0
# Minimum relative tolerance of a standard deviation: narrow dtypes round.
CLOSEST: Final = 0.005
# Bits to which operators of two libraries agree.
OPERATORS: Final = 20
# Maximum size of a tensor that is drawn for comparison, if its initializer's moments are unknown.
LARGEST: Final = 2**24
SAMPLE_KEY: Final = Key("fastinit.audit.agreement")


def differs(initializer: Initializer, values: Array, shape: tuple[int, ...], precision: int = 24) -> str:
    """Short description of how values differ from an initializer's; empty if they agree.

    Parameters
    ----------
    initializer : Initializer
        The expected initializer, such as that of a program.
    values : array of float
        All values, in the given shape; or a part of them in any shape, which is checked for elementwise initializers
        only.
    shape : tuple of int
        Shape of the whole tensor.
    precision : int
        Bits of the significand of the values' dtype.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> differs(fastinit.Zeros(), np.array([0.0, 0.5]), (2,))
    '1 of 2 elements are not 0'
    """
    try:
        if values.shape != shape and not isinstance(initializer, ElementwiseInitializer):
            return ""  # the shard's position is unknown
        return _differs(initializer, values, shape, precision)
    except ValueError:  # the initializer cannot run: its framework is not imported
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
    """Whether values equal the expected ones up to rounding. Infinities and NaN equal themselves."""
    with np.errstate(invalid="ignore"):
        near = (np.abs(values - expected) <= np.abs(expected) * 2.0 ** (1 - precision)) & np.isfinite(expected)
    found: Array = near | (values == expected) | (np.isnan(values) & np.isnan(expected))
    return found


def _other_moments(values: Array, mean: float, std: float, error: float = 0.0) -> str:
    """Compares moments. `error` is the standard error of measured expected moments, relative to std."""
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
    """Describes the first part that differs. Elements that later parts paint over are excluded."""
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
    """Compares with two draws: by value if the draws are equal, otherwise by moments."""
    if values.size > LARGEST:
        return ""
    one, two = (fill(np.empty(values.shape), initializer, SAMPLE_KEY.fold_in(number)) for number in (0, 1))
    if np.array_equal(one, two, equal_nan=True):
        wrong = ~_close(values, one, min(precision, OPERATORS))
        return f"{int(wrong.sum())} of {values.size} elements are not as computed" if wrong.any() else ""
    sample = np.concatenate([one, two])
    spread = float(sample.std())
    variance = max(float(np.mean((sample - sample.mean()) ** 4)) - spread**4, 0.0)  # of the squares
    heavy = math.sqrt(variance) / (2 * spread * spread)
    return _other_moments(values, float(sample.mean()), spread, max(heavy, 1.0) / math.sqrt(values.size))
