"""The distribution of an element, and the choice of the core's sampler for it.

An initializer turns a shape into a :class:`Sampling`. :func:`compiled` turns a Sampling and a dtype into the core's
parameters. ``docs/stream-v1.md`` defines both steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from fastinit import _core, truncation
from fastinit.checks import one_of
from fastinit.dtypes import DTYPES, DType

__all__ = ["KINDS", "STREAM_VERSION", "Sampling", "compiled"]

STREAM_VERSION: Final = 1
"""Version of the stream. The bytes of a version never change."""


KINDS: Final = {
    getattr(_core, name.upper()): name
    for name in (
        *("constant", "words", "uniform_symmetric", "uniform", "normal", "truncated_2", "truncated"),
        *("uniform_symmetric_64", "uniform_64", "normal_64", "truncated_64", "truncated_tail_64"),
    )
}
"""Names of the core's samplers, as in stream v1, by their number in ``kernels/fastinit.h``."""

# A window of the unit interval in which the 32-bit sampler has fewer distinct arguments than this uses 64-bit draws.
FEWEST_ARGUMENTS = 2**23
# Intervals that begin at least this many standard deviations from the mean use the tail sampler.
TAIL = 4.0
# Over an interval narrower than this (in standard deviations) the normal density is constant to 1.5e-8.
NARROW = 2.0**-28
# Beyond this many standard deviations the tail is thinner than the spacing of any dtype.
FARTHEST = 2.0**500
SMALLEST_NORMAL = 2.0**-126
# Largest magnitudes of standard normal draws: radius word 0 and an angle next to 0.
LARGEST_NORMAL = {_core.NORMAL: float.fromhex("0x1.b0e08ep+2"), _core.NORMAL_64: float.fromhex("0x1.2fc33d95c1fdfp+3")}


@dataclass(frozen=True, slots=True)
class Sampling:
    """One distribution with its parameters, independent of shape and dtype.

    Attributes
    ----------
    distribution : {"constant", "uniform", "normal", "truncated_normal"}
    mean, std : float
        Mean and standard deviation of the normal, before truncation; `mean` is also the value of a constant.
    low, high : float
        The interval of the values: [low, high) for a uniform, or (low, high) if low == -high; [low, high] for a
        truncated normal.
    low_sigma, high_sigma : float
        The interval of a truncated normal, in standard deviations from the mean.

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
        """Mean of the distribution."""
        if self.distribution == "uniform":
            return 0.5 * (self.low + self.high)
        if self.distribution == "truncated_normal":
            if self.near_sigma > FARTHEST or self._is_narrowest:
                return self.near_bound
            return self.mean + self.std * truncation.mean_and_variance(self.low_sigma, self.high_sigma)[0]
        return self.mean

    @property
    def expected_std(self) -> float:
        """Standard deviation of the distribution."""
        if self.distribution == "uniform":
            return (self.high - self.low) / math.sqrt(12.0)
        if self.distribution == "truncated_normal":
            if self._is_narrowest:
                return 0.0 if self.near_sigma > FARTHEST else (self.high - self.low) / math.sqrt(12.0)
            return self.std * truncation.standard_deviation(self.low_sigma, self.high_sigma)
        return self.std

    @property
    def near_sigma(self) -> float:
        """Distance of the mean from the interval, in standard deviations; negative if the mean is inside."""
        return self.low_sigma if self.low_sigma > 0 else -self.high_sigma

    @property
    def near_bound(self) -> float:
        """The bound of a truncated normal that is nearer to a mean outside the interval."""
        return self.low if self.low_sigma > 0 else self.high

    @property
    def _is_narrowest(self) -> bool:
        """Whether both bounds of a truncated normal are the same number of standard deviations."""
        return self.std > 0.0 and self.low_sigma == self.high_sigma

    def reach(self, dtype: str) -> float:
        """Largest magnitude, in [0, inf], of a draw for a dtype before rounding."""
        if self.distribution == "constant" or (self.distribution != "uniform" and self.std == 0.0):
            return abs(self.mean)
        return max(map(abs, _rule(self, DTYPES[dtype]).extremes))


class _Rule(NamedTuple):
    """The core's sampler for a sampling in a dtype."""

    parameters: dict[str, Any]
    """Arguments of the core's Sampling."""
    extremes: tuple[float, float]
    """Smallest and largest value before rounding, within the bounds of a bounded distribution."""


def _check_extremes(extremes: tuple[float, float], sampling: Sampling, dtype: DType) -> None:
    """Raises ValueError if an extreme rounds to infinity in the dtype."""
    if not all(math.isfinite(dtype.nearest(x)) for x in extremes):
        parameters = ("low", "high") if sampling.distribution == "uniform" else ("mean", "std")
        given = ", ".join(f"{name}={getattr(sampling, name)!r}" for name in parameters)
        raise ValueError(
            f"a {sampling.distribution} with {given} reaches {max(map(abs, extremes)):.6g}, beyond the largest finite "
            f"{dtype.name} value {dtype.max:.6g}"
        )


def _interval(low: float, high: float, sampling: Sampling, dtype: DType) -> dict[str, Any]:
    if low > high:
        raise ValueError(
            f"no {dtype.name} value lies in the interval of a {sampling.distribution} with low={sampling.low!r}, "
            f"high={sampling.high!r}"
        )
    return {"clamped": True, "low": low, "high": high}


def _uniform(sampling: Sampling, dtype: DType) -> _Rule:
    low, high = sampling.low, sampling.high
    symmetric = low == -high
    # an excluded finite end is never drawn, so the value next to it is the extreme
    inner_low, inner_high = math.nextafter(low, 0.0), math.nextafter(high, -math.inf)
    extremes = inner_low if symmetric and high < math.inf else low, inner_high if high < math.inf else high
    _check_extremes(extremes, sampling, dtype)
    # use float64 if float32 would round the step to a subnormal or overflow in the sum
    step = math.ldexp(high if symmetric else high - low, -24)
    double = dtype.name == "float64" or step < SMALLEST_NORMAL or not math.isfinite(_float32(_float32(step) * 2.0**24))
    inside = _interval(dtype.above(low) if symmetric else dtype.ceil(low), dtype.below(high), sampling, dtype)
    bits = 53 if double else 24
    if symmetric:
        kind = _core.UNIFORM_SYMMETRIC_64 if double else _core.UNIFORM_SYMMETRIC
        return _Rule({"kind": kind, "scale": math.ldexp(high, -bits), **inside}, extremes)
    kind = _core.UNIFORM_64 if double else _core.UNIFORM
    return _Rule({"kind": kind, "scale": math.ldexp(high - low, -bits), "shift": low, **inside}, extremes)


def _normal(sampling: Sampling, dtype: DType) -> _Rule:
    double = dtype.name == "float64"
    kind = _core.NORMAL_64 if double else _core.NORMAL
    extremes = _affine(kind, -LARGEST_NORMAL[kind], sampling), _affine(kind, LARGEST_NORMAL[kind], sampling)
    _check_extremes(extremes, sampling, dtype)
    return _Rule({"kind": kind, "scale": sampling.std, "shift": sampling.mean}, extremes)


def _affine(kind: int, z: float, sampling: Sampling) -> float:
    """Value of a standard normal draw z, computed as in the kernel."""
    if kind == _core.NORMAL_64:
        return z * sampling.std + sampling.mean
    return _float32(_float32(z * _float32(sampling.std)) + _float32(sampling.mean))


def _different_arguments(first: int, count: int) -> int:
    """Number of distinct float32 arguments (distances from an end of [0, 1]) in the cells [first, first + count)."""

    def below(distance: int) -> int:
        exponent = max(distance.bit_length() - 24, 0)
        return (exponent << 23) + (distance >> exponent)

    half, end = 2**31, first + count
    lower = below(min(end, half)) - below(min(first, half))
    upper = below(2**32 - max(first, half)) - below(2**32 - max(end, half))
    return lower + upper


def _truncated_normal(sampling: Sampling, dtype: DType) -> _Rule:
    if sampling.low_sigma == -math.inf and sampling.high_sigma == math.inf:
        return _normal(sampling, dtype)
    if sampling.near_sigma > FARTHEST:
        parameters = {"kind": _core.UNIFORM_64, "scale": 0.0, "shift": sampling.near_bound}
        extremes = sampling.near_bound, sampling.near_bound
    else:
        parameters, draws = _truncated_sampler(sampling, dtype)
        smallest, largest = (sampling.mean + z * sampling.std for z in draws)
        extremes = max(sampling.low, smallest), min(sampling.high, largest)
    _check_extremes(extremes, sampling, dtype)
    inside = _interval(dtype.ceil(sampling.low), dtype.floor(sampling.high), sampling, dtype)
    return _Rule({"scale": sampling.std, "shift": sampling.mean, **inside, **parameters}, extremes)


def _truncated_sampler(sampling: Sampling, dtype: DType) -> tuple[dict[str, Any], tuple[float, float]]:
    """The sampler with its specific parameters, and its smallest and largest draw."""
    low, high = sampling.low_sigma, sampling.high_sigma
    near, far = sampling.near_sigma, high if low > 0 else -low
    if low < high and dtype.name != "float64":
        if low == -2.0 and high == 2.0:
            return {"kind": _core.TRUNCATED_2}, (low, high)
        first, count = truncation.window(low, high, 32)
        if _different_arguments(first, count) >= FEWEST_ARGUMENTS:
            return {"kind": _core.TRUNCATED, "first": first, "count": count}, _ends(_core.TRUNCATED, first, count)
    if low < high and near >= TAIL:
        sign = math.copysign(1.0, low)
        share = truncation.tail_ratio(near, far)
        own = {"kind": _core.TRUNCATED_TAIL_64, "scale": sign * sampling.std, "tail_low": near, "tail_share": share}
        end = min(far, truncation.farthest(near))
        return own, (near, end) if sign > 0 else (-end, -near)
    if high - low < NARROW:
        return _narrow(sampling), (low, high)
    first, count = truncation.window(low, high, 64)
    return {"kind": _core.TRUNCATED_64, "first": first, "count": count}, _ends(_core.TRUNCATED_64, first, count)


def _narrow(sampling: Sampling) -> dict[str, Any]:
    """Sampler of a normal between bounds so close that its density is constant there."""
    low, high, width = sampling.low_sigma, sampling.high_sigma, sampling.high - sampling.low
    # bounds that round to the same sigma may still differ; far out, by more than the tail's width
    if low == high and abs(low) * width >= NARROW * sampling.std:
        raise ValueError(
            f"the bounds of a truncated normal must differ in standard deviations, got low={sampling.low!r} and "
            f"high={sampling.high!r}, both {low!r} standard deviations from the mean"
        )
    return {"kind": _core.UNIFORM_64, "scale": math.ldexp(width, -53), "shift": sampling.low}


def _ends(kind: int, first: int, count: int) -> tuple[float, float]:
    """The kernel's draws of the first and the last cell of a window."""
    dtype = DTYPES["float32" if kind == _core.TRUNCATED else "float64"]
    found = []
    for cell in (first, first + count - 1):
        only = _core.Sampling(kind=kind, dtype=dtype.tag, scale=1.0, first=cell, count=1)
        out = np.empty(1, dtype.name)
        _core.fill_run(len(_core.targets()) - 1, only, (0, 0, 0, 0), _core.address(out), 0, 1, dtype.itemsize)
        found.append(float(out[0]))
    return found[0], found[1]


_RULES = {"uniform": _uniform, "normal": _normal, "truncated_normal": _truncated_normal}


# Smallest and largest draw, for the samplers where both are known exactly.
_EXTREMES = {
    _core.UNIFORM_SYMMETRIC: (1 - 2.0**24, 2.0**24 - 1),
    _core.UNIFORM: (0.0, 2.0**24 - 1),
    _core.TRUNCATED_2: (-2.0, 2.0),
}


def _float32(x: float) -> float:
    """x rounded to float32."""
    return DTYPES["float32"].nearest(x)


def _stays_inside(kind: int, scale: float, low: float, high: float, shift: float = 0.0, **_: Any) -> bool:
    """Whether all values of a float32 sampler lie in [low, high]. Its steps are monotone, so testing the extremes is
    enough.
    """
    if kind not in _EXTREMES:
        return False
    smallest, largest = (_float32(_float32(draw * _float32(scale)) + _float32(shift)) for draw in _EXTREMES[kind])
    return low <= smallest and largest <= high


def _rule(sampling: Sampling, dtype: DType) -> _Rule:
    """The sampler of a non-constant sampling. Raises ValueError if its distribution is unknown."""
    known = one_of("the distribution of a sampling", sampling.distribution, _RULES)
    return _RULES[known](sampling, dtype)


def compiled(sampling: Sampling, dtype_name: str) -> _core.Sampling:
    """The core's form of a sampling in a dtype.

    Raises
    ------
    ValueError
        If the dtype has no value in the distribution's interval, or if draws could round to infinity in the dtype.
    """
    dtype = DTYPES[dtype_name]
    if sampling.distribution == "constant" or (sampling.distribution != "uniform" and sampling.std == 0.0):
        return _core.Sampling(kind=_core.CONSTANT, dtype=dtype.tag, bits=dtype.bits(sampling.mean))
    parameters = _rule(sampling, dtype).parameters
    if parameters.get("clamped") and _stays_inside(**parameters):
        parameters["clamped"] = False
    return _core.Sampling(dtype=dtype.tag, **parameters)
