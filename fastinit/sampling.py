"""What is drawn for an element, and which of the core's samplers draws it.

An initializer turns a shape into a :class:`Sampling`; :func:`compiled` turns a Sampling and a dtype into the numbers
that the core takes. ``docs/stream-v1.md`` defines both steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from fastinit import _core, truncation
from fastinit.dtypes import DTYPES, DType

__all__ = ["KINDS", "STREAM_VERSION", "Sampling", "compiled"]

STREAM_VERSION: Final = 1
"""The version of the definition of the values. The bytes of a version never change."""


KINDS: Final = {
    getattr(_core, name.upper()): name
    for name in (
        *("constant", "words", "uniform_symmetric", "uniform", "normal", "truncated_2", "truncated"),
        *("uniform_symmetric_64", "uniform_64", "normal_64", "truncated_64", "truncated_tail_64"),
    )
}
"""The name of each of the core's samplers, by its number in ``kernels/fastinit.h``."""

# A window of the unit interval with fewer different arguments of the 32-bit sampler is drawn from 64 bits.
FEWEST_ARGUMENTS = 2**23
# Beyond this many standard deviations a one-sided interval is drawn by its tail.
TAIL = 4.0
# Over a narrower interval the normal density is constant to 1.5e-8.
NARROW = 2.0**-28
# Nearer to infinity than this the tail is thinner than the spacing of any dtype.
FARTHEST = 2.0**500
SMALLEST_NORMAL = 2.0**-126
# The largest magnitude of a standard normal draw, rounded up.
MAX_NORMAL = {4: 6.7638, 8: 9.4941}


@dataclass(frozen=True, slots=True)
class Sampling:
    """One distribution with its parameters, free of any shape and dtype.

    Attributes
    ----------
    distribution : {"constant", "uniform", "normal", "truncated_normal"}
    mean, std : float
        Of the normal that is drawn from, before truncation; `mean` is the value of a constant.
    low, high : float
        The interval in units of the values: [low, high) for a uniform, (low, high) if low == -high, [low, high] for a
        truncated normal.
    low_sigma, high_sigma : float
        The interval of a truncated normal in standard deviations from the mean.

    Examples
    --------
    >>> import fastinit
    >>> sampling = fastinit.he_uniform().sampling((96, 64))
    >>> sampling.distribution, sampling.low, sampling.high  # sqrt(6 / 96)
    ('uniform', -0.25, 0.25)
    """

    distribution: str
    mean: float = 0.0
    std: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    low_sigma: float = -math.inf
    high_sigma: float = math.inf

    @property
    def expected_mean(self) -> float:
        """The mean of the distribution of the values."""
        if self.distribution == "uniform":
            return 0.5 * (self.low + self.high)
        if self.distribution == "truncated_normal":
            return self.mean + self.std * truncation.mean_and_variance(self.low_sigma, self.high_sigma)[0]
        return self.mean

    @property
    def expected_std(self) -> float:
        """The standard deviation of the distribution of the values."""
        if self.distribution == "uniform":
            return (self.high - self.low) / math.sqrt(12.0)
        if self.distribution == "truncated_normal":
            return self.std * truncation.standard_deviation(self.low_sigma, self.high_sigma)
        return self.std

    def reach(self, dtype: str) -> float:
        """A magnitude, in [0, inf], that no draw for a dtype goes beyond before it is rounded."""
        if self.distribution == "uniform":
            return max(abs(self.low), abs(self.high))
        if self.distribution == "constant" or self.std == 0.0:
            return abs(self.mean)
        if self.distribution == "normal" or (self.low_sigma == -math.inf and self.high_sigma == math.inf):
            return abs(self.mean) + MAX_NORMAL[8 if dtype == "float64" else 4] * self.std
        # A draw goes beyond the nearer bound, or the mean, by less than this many standard deviations.
        farthest = MAX_NORMAL[8]
        top = min(self.high, self.mean + math.hypot(max(self.low_sigma, 0.0), farthest) * self.std)
        bottom = max(self.low, self.mean - math.hypot(max(-self.high_sigma, 0.0), farthest) * self.std)
        return max(abs(top), abs(bottom))


def _check_reach(reach: float, sampling: Sampling, dtype: DType, verb: str = "reaches") -> None:
    """Raises ValueError if `reach` is beyond the largest value of a dtype."""
    if not reach <= dtype.max:
        parameters = ("low", "high") if sampling.distribution == "uniform" else ("mean", "std")
        given = ", ".join(f"{name}={getattr(sampling, name)!r}" for name in parameters)
        raise ValueError(
            f"a {sampling.distribution} with {given} {verb} {reach:.6g}, beyond the largest finite {dtype.name} value "
            f"{dtype.max:.6g}"
        )


def _interval(low: float, high: float, sampling: Sampling, dtype: DType) -> dict[str, Any]:
    if low > high:
        raise ValueError(
            f"no {dtype.name} value lies in the interval of a {sampling.distribution} with low={sampling.low!r}, "
            f"high={sampling.high!r}"
        )
    return {"clamped": True, "low": low, "high": high}


def _uniform(sampling: Sampling, dtype: DType) -> dict[str, Any]:
    low, high = sampling.low, sampling.high
    symmetric = low == -high
    _check_reach(sampling.reach(dtype.name), sampling, dtype)
    # steps that float32 cannot hold in full are taken in float64
    double = dtype.name == "float64" or math.ldexp(high if symmetric else high - low, -24) < SMALLEST_NORMAL
    inside = _interval(dtype.above(low) if symmetric else dtype.ceil(low), dtype.below(high), sampling, dtype)
    bits = 53 if double else 24
    if symmetric:
        kind = _core.UNIFORM_SYMMETRIC_64 if double else _core.UNIFORM_SYMMETRIC
        return {"kind": kind, "scale": math.ldexp(high, -bits), **inside}
    if not double:
        _check_reach(high - low, sampling, DTYPES["float32"], "spans")
    return {
        "kind": _core.UNIFORM_64 if double else _core.UNIFORM,
        "scale": math.ldexp(high - low, -bits),
        "shift": low,
        **inside,
    }


def _normal(sampling: Sampling, dtype: DType) -> dict[str, Any]:
    double = dtype.name == "float64"
    _check_reach(sampling.reach(dtype.name), sampling, dtype)
    return {"kind": _core.NORMAL_64 if double else _core.NORMAL, "scale": sampling.std, "shift": sampling.mean}


def _different_arguments(first: int, count: int) -> int:
    """How many float32 values the cells [first, first + count) of 2^32 have as distances from an end of [0, 1]."""

    def below(distance: int) -> int:
        exponent = max(distance.bit_length() - 24, 0)
        return (exponent << 23) + (distance >> exponent)

    half, end = 2**31, first + count
    lower = below(min(end, half)) - below(min(first, half))
    upper = below(2**32 - max(first, half)) - below(2**32 - max(end, half))
    return lower + upper


def _truncated_normal(sampling: Sampling, dtype: DType) -> dict[str, Any]:
    low, high = sampling.low_sigma, sampling.high_sigma
    if low == -math.inf and high == math.inf:
        return _normal(sampling, dtype)
    _check_reach(sampling.reach(dtype.name), sampling, dtype)
    inside = _interval(dtype.ceil(sampling.low), dtype.floor(sampling.high), sampling, dtype)
    affine = {"scale": sampling.std, "shift": sampling.mean, **inside}
    near, far = (low, high) if low > 0 else (-high, -low)
    if near > FARTHEST:
        return {"kind": _core.UNIFORM_64, "shift": sampling.low if low > 0 else sampling.high, **inside}
    if low == high:
        raise ValueError(
            f"the bounds of a truncated normal must differ in standard deviations; low={sampling.low!r} and "
            f"high={sampling.high!r} are both {low!r} of them from the mean"
        )
    if dtype.name != "float64":
        if low == -2.0 and high == 2.0:
            return {"kind": _core.TRUNCATED_2, **affine}
        first, count = truncation.window(low, high, 32)
        if _different_arguments(first, count) >= FEWEST_ARGUMENTS:
            return {"kind": _core.TRUNCATED, "first": first, "count": count, **affine}
    if low >= TAIL or high <= -TAIL:
        affine["scale"] = math.copysign(sampling.std, low if low > 0 else high)
        share = truncation.tail_ratio(near, far)
        return {"kind": _core.TRUNCATED_TAIL_64, "tail_low": near, "tail_share": share, **affine}
    if high - low < NARROW:
        affine.update(scale=math.ldexp(sampling.high - sampling.low, -53), shift=sampling.low)
        return {"kind": _core.UNIFORM_64, **affine}
    first, count = truncation.window(low, high, 64)
    return {"kind": _core.TRUNCATED_64, "first": first, "count": count, **affine}


_RULES = {"uniform": _uniform, "normal": _normal, "truncated_normal": _truncated_normal}


# The smallest and the largest draw of the samplers of which both are known exactly.
_EXTREMES = {
    _core.UNIFORM_SYMMETRIC: (1 - 2.0**24, 2.0**24 - 1),
    _core.UNIFORM: (0.0, 2.0**24 - 1),
    _core.TRUNCATED_2: (-2.0, 2.0),
}


def _float32(x: float) -> float:
    """x, rounded to float32."""
    float32 = DTYPES["float32"]
    return float32.value(float32.bits(x))


def _stays_inside(kind: int, scale: float, low: float, high: float, shift: float = 0.0, **_: Any) -> bool:
    """Whether no value of a float32 sampler leaves [low, high]: every step of it is monotone, so its extremes tell."""
    if kind not in _EXTREMES:
        return False
    smallest, largest = (_float32(_float32(draw * _float32(scale)) + _float32(shift)) for draw in _EXTREMES[kind])
    return low <= smallest and largest <= high


def compiled(sampling: Sampling, dtype_name: str) -> _core.Sampling:
    """The core's form of a sampling in a dtype.

    Raises
    ------
    ValueError
        If the dtype has no value in the distribution's interval, or if the distribution reaches beyond the dtype's
        largest finite value.
    """
    dtype = DTYPES[dtype_name]
    if sampling.distribution == "constant" or (sampling.distribution != "uniform" and sampling.std == 0.0):
        return _core.Sampling(kind=_core.CONSTANT, dtype=dtype.tag, bits=dtype.bits(sampling.mean))
    parameters = _RULES[sampling.distribution](sampling, dtype)
    if parameters.get("clamped") and _stays_inside(**parameters):
        parameters["clamped"] = False
    return _core.Sampling(dtype=dtype.tag, **parameters)
