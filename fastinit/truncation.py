"""The standard normal distribution truncated to an interval: exact, and the same on every machine.

The truncated samplers draw inside a window of the unit interval, and variance correction divides by the standard
deviation of the truncated normal. Both depend on the bounds only, and the window is part of stream v1. So they are
computed here in 60-digit decimal arithmetic, whose ``exp`` is correctly rounded everywhere, not with the platform's
mathematics library.

Bounds are in standard deviations and may be infinite. The functions neither depend on nor change the caller's decimal
context. Notation: Phi is the cumulative distribution, Q = 1 - Phi the upper tail, and for x >= 0

    T_n(x) = integral of t^n exp(-x t - t^2 / 2) over t in [0, inf)        T_0 = Mills' ratio = Q / density

which stays in range where Q itself underflows any float.
"""

import decimal
import math
from decimal import Decimal
from functools import lru_cache

from fastinit.checks import any_number, shown
from fastinit.exact import in_stream_environment

__all__ = ["farthest", "mean_and_variance", "standard_deviation", "tail_ratio", "window"]

_CONTEXT = decimal.Context(
    prec=60,
    rounding=decimal.ROUND_HALF_EVEN,
    Emin=-999999,
    Emax=999999,
    clamp=0,
    traps=[decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow],
)
_SQRT_2PI = Decimal("2.50662827463100050241576528481104525300698674060993831662992357634229")
_HALF_SQRT_2PI = Decimal("1.25331413731550025120788264240552262650349337030496915831496178817115")
_SERIES_BELOW = 5.0  # here the power series and the continued fraction cost about the same
_NEGLIGIBLE = Decimal("1e-65")
_UNDECIDED = Decimal("1e-20")


@lru_cache(maxsize=1024)
@in_stream_environment
def window(low: float, high: float, bits: int) -> tuple[int, int]:
    """Return the cells of width ``2**-bits`` that lie entirely inside ``[Phi(low), Phi(high)]``.

    Parameters
    ----------
    low, high : float
        Bounds in standard deviations, ``low < high``; either may be infinite.
    bits : {32, 64}
        Width of the random word.

    Returns
    -------
    first, count : int
        ``first = ceil(2**bits * Phi(low))`` and ``first + count = floor(2**bits * Phi(high))``: the cells
        ``{first, ..., first + count - 1}``, with ``0 <= first`` and ``first + count <= 2**bits``. ``count`` is 0
        if no whole cell fits.

    Raises
    ------
    ValueError
        If a bound is NaN, ``low >= high``, or ``bits`` is neither 32 nor 64.

    Notes
    -----
    Mirrored bounds give mirrored cells: if ``count > 0``, ``window(-high, -low, bits)`` is exactly ``(2**bits - (first
    + count), count)``.

    Examples
    --------
    >>> window(-2.0, 2.0, 32)
    (97711073, 4099545150)
    >>> window(-math.inf, 0.0, 32)
    (0, 2147483648)
    >>> window(-100.0, 100.0, 32)  # a finite bound never reaches 0 or 1
    (1, 4294967294)
    """
    low, high = _checked(low, high)
    if bits not in (32, 64):
        raise ValueError(f"expected bits to be 32 or 64, got {shown(bits)}")
    first = _scaled_probability(low, bits)[1]
    end = _scaled_probability(high, bits)[0]
    return first, max(end - first, 0)


@lru_cache(maxsize=1024)
@in_stream_environment
def tail_ratio(low: float, high: float) -> float:
    """Return ``1 - Q(high) / Q(low)``, the fraction of the upper tail beyond `low` that lies below `high`.

    Parameters
    ----------
    low, high : float
        Bounds in standard deviations, ``0 <= low < high``; `high` may be infinite.

    Returns
    -------
    float
        In (0, 1], correctly rounded even in far tails and narrow windows; exactly 1 for an infinite `high`.

    Raises
    ------
    ValueError
        If a bound is NaN or not ``0 <= low < high``.

    Examples
    --------
    >>> tail_ratio(4.0, 5.0)
    0.9909491527553734
    >>> tail_ratio(1e6, 1e6 + 1e-6)
    0.6321233600340104
    >>> tail_ratio(1e6, math.inf)
    1.0
    """
    low, high = _checked(low, high)
    if low < 0:
        raise ValueError(f"expected 0 <= low < high, got low={low!r}, high={high!r}")
    if math.isinf(high):
        return 1.0
    with decimal.localcontext(_CONTEXT):
        mills = _tail_moments(low)[0]
        if _is_narrow(low, high):
            middle, half = _middle_and_half(low, high)
            area = half * _moments_around(middle, half)[0]
            return float(area * (-half * (middle + Decimal(low)) / 2).exp() / mills)
        return float(1 - _density_ratio(low, high) * _tail_moments(high)[0] / mills)


@lru_cache(maxsize=1024)
@in_stream_environment
def mean_and_variance(low: float, high: float) -> tuple[float, float]:
    """Return the mean and the variance of the standard normal truncated to ``[low, high]``.

    Parameters
    ----------
    low, high : float
        Bounds in standard deviations, ``low < high``; either may be infinite.

    Returns
    -------
    mean : float
        In [low, high]. Mirrored bounds give exactly the negated mean.
    variance : float
        In [0, 1]; tends to ``(high - low)**2 / 12`` as the window narrows, and is 0 only where that underflows.
        Both are rounded once, from at least 40 digits, in far tails and narrow windows too.

    Raises
    ------
    ValueError
        If a bound is NaN or ``low >= high``.

    Examples
    --------
    >>> mean_and_variance(-2.0, 2.0)
    (0.0, 0.7737413035499232)
    >>> mean_and_variance(0.0, math.inf)  # sqrt(2 / pi), 1 - 2 / pi
    (0.7978845608028654, 0.3633802276324187)
    >>> mean_and_variance(1e5, math.inf)
    (100000.00001, 9.999999994e-11)
    """
    low, high = _checked(low, high)
    with decimal.localcontext(_CONTEXT):
        mean, variance = _mean_and_variance(low, high)
        return float(mean), float(variance)


@lru_cache(maxsize=1024)
@in_stream_environment
def standard_deviation(low: float, high: float) -> float:
    """Return the standard deviation of the standard normal truncated to ``[low, high]``.

    It is rounded once, not computed from a rounded variance, so it stays accurate where the variance underflows.

    Parameters
    ----------
    low, high : float
        Bounds in standard deviations, ``low < high``; either may be infinite.

    Returns
    -------
    float
        In [0, 1]; 0 only for windows as narrow as a few of the smallest subnormals.

    Raises
    ------
    ValueError
        If a bound is NaN or ``low >= high``.

    Examples
    --------
    >>> standard_deviation(-2.0, 2.0)  # the .87962566103423978 of Keras and JAX
    0.8796256610342398
    """
    low, high = _checked(low, high)
    with decimal.localcontext(_CONTEXT):
        return float(_mean_and_variance(low, high)[1].sqrt())


@lru_cache(maxsize=1024)
@in_stream_environment
def farthest(low: float) -> float:
    """Return the x with ``Q(x) = 2**-53 * Q(low)``.

    It is the largest draw of the tail sampler, whose uniform numbers end at ``1 - 2**-53``.

    Parameters
    ----------
    low : float
        Start of the tail in standard deviations, finite and >= 0.

    Returns
    -------
    float
        The smallest float whose tail is at most that large.

    Examples
    --------
    >>> farthest(4.0)
    9.373262752137236
    """
    with decimal.localcontext(_CONTEXT):
        mills = _tail_moments(low)[0]
        limit = Decimal(2) ** -53
        below, above = low, math.nextafter(math.hypot(low, 8.58), math.inf)  # 8.58^2 is more than 2 * 53 ln 2
        while (middle := below + (above - below) / 2) not in (below, above):
            is_beyond = _density_ratio(low, middle) * _tail_moments(middle)[0] <= limit * mills
            below, above = (below, middle) if is_beyond else (middle, above)
        return above


def _checked(low: float, high: float) -> tuple[float, float]:
    low, high = any_number(low, "low"), any_number(high, "high")
    if not low < high:  # false for NaN as well
        raise ValueError(f"expected low < high, neither NaN, in standard deviations; got low={low!r}, high={high!r}")
    return low, high


# Everything below runs inside _CONTEXT, except _scaled_probability, which enters it.


def _scaled_probability(x: float, bits: int) -> tuple[int, int]:
    """Return floor and ceil of ``2**bits * Phi(x)``.

    Phi is split into 0, 1/2 or 1 and a remainder of full relative precision. So even a tiny remainder has the right
    sign, and mirrored arguments give mirrored integers.
    """
    total = 1 << bits
    if x == 0:
        return total // 2, total // 2
    if math.isinf(x):
        return (total, total) if x > 0 else (0, 0)
    with decimal.localcontext(_CONTEXT):
        # Beyond 100 the tail is far below one cell and only its sign counts; the limit keeps exponents from
        # underflowing.
        distance = min(abs(x), 100.0)
        if distance < 1:
            base, remainder = total // 2, _area_from_zero(distance).copy_sign(Decimal(x))
        else:
            base, remainder = total if x > 0 else 0, _tail_moments(distance)[0] * _weight(distance)
            remainder = remainder.copy_sign(Decimal(-x))
        remainder = remainder * total / _SQRT_2PI
        nearest = remainder.to_integral_value()
        if nearest and abs(remainder - nearest) < _UNDECIDED:
            raise ArithmeticError(f"2**{bits} * Phi({x!r}) is too close to an integer for {_CONTEXT.prec} digits")
        below = int(remainder.to_integral_value(decimal.ROUND_FLOOR))
        return base + below, base + below + 1


def _mean_and_variance(low: float, high: float) -> tuple[Decimal, Decimal]:
    """Return both moments, each to at least 40 digits. Three regimes avoid cancellation."""
    if -low > high:
        mean, variance = _mean_and_variance(-high, -low)
        return -mean, variance

    if _is_narrow(low, high):
        middle, half = _middle_and_half(low, high)
        area, first, second = _moments_around(middle, half)
        shift = first / area
        return middle + half * shift, half * half * (second / area - shift * shift)

    if low < 0:
        # The area is at least 0.4 here and the variance at least 0.1, so the textbook formulas are accurate.
        area = _area_from_zero(-low) + _area_from_zero(high)
        weight_low, weight_high = _weight(low), _weight(high)
        mean = (weight_low - weight_high) / area
        edges = _times(low, weight_low) - _times(high, weight_high)
        return mean, 1 + edges / area - mean * mean

    # Moments of t = x - low over [0, inf), minus those over [high - low, inf).
    area, first, second = _tail_moments(low)
    if not math.isinf(high):
        ratio, width = _density_ratio(low, high), Decimal(high) - Decimal(low)
        t0, t1, t2 = _tail_moments(high)
        area -= ratio * t0
        first -= ratio * (t1 + width * t0)
        second -= ratio * (t2 + 2 * width * t1 + width * width * t0)
    shift = first / area
    return Decimal(low) + shift, second / area - shift * shift


def _is_narrow(low: float, high: float) -> bool:
    """Return whether the density varies little enough over the window for its Taylor series; needs high >= |low|."""
    return (high - low) * high <= 2.0


def _middle_and_half(low: float, high: float) -> tuple[Decimal, Decimal]:
    return (Decimal(high) + Decimal(low)) / 2, (Decimal(high) - Decimal(low)) / 2


def _moments_around(middle: Decimal, half: Decimal) -> tuple[Decimal, Decimal, Decimal]:
    """Return the integrals of ``s**j * f(s)`` over s in [-1, 1], j = 0, 1, 2, where f(0) = 1.

    f is the density at ``middle + half * s`` over that at `middle`. Its Taylor coefficients, scaled Hermite
    polynomials, obey ``(n + 1) d[n+1] = -(middle * half * d[n] + half**2 * d[n-1])``.
    """
    slope, curvature = middle * half, half * half
    area = first = second = Decimal(0)
    even, odd, n = Decimal(1), -slope, 0
    while even.copy_abs() + odd.copy_abs() > _NEGLIGIBLE:
        area += even / (n + 1)
        second += even / (n + 3)
        first += odd / (n + 3)
        even = -(slope * odd + curvature * even) / (n + 2)
        odd = -(slope * even + curvature * odd) / (n + 3)
        n += 2
    return 2 * area, 2 * first, 2 * second


def _tail_moments(x: float) -> tuple[Decimal, Decimal, Decimal]:
    """Return T_0, T_1 and T_2 at a finite x >= 0, each to at least 50 digits."""
    exact = Decimal(x)
    if x < _SERIES_BELOW:
        t0 = _HALF_SQRT_2PI / _weight(x) - _odd_series(exact)
        t1 = 1 - exact * t0
        return t0, t1, t0 - exact * t1
    # Laplace's continued fraction, T_n / T_(n-1) = n / (x + T_(n+1) / T_n), from a depth that gives 60 digits: step n
    # shrinks the error of its tail by exp(-2 asinh(x / (2 sqrt(n)))), in total by about exp(-2 x sqrt(depth)).
    ratio = Decimal(0)
    for n in range(60 + int((72.0 / x) * (72.0 / x)), 2, -1):
        ratio = n / (exact + ratio)
    second = 2 / (exact + ratio)
    first = 1 / (exact + second)
    t0 = 1 / (exact + first)
    return t0, t0 * first, t0 * first * second


def _odd_series(x: Decimal) -> Decimal:
    """Return ``x + x**3 / 3 + x**5 / (3 * 5) + ...``, the area from 0 to x over the weight at x."""
    square, total, term, n = x * x, x, x, 1
    while True:
        n += 2
        term = term * square / n
        if total + term == total:
            return total
        total += term


def _area_from_zero(x: float) -> Decimal:
    """Return the integral of ``exp(-t**2 / 2)`` over [0, x]; x >= 0 may be infinite."""
    if math.isinf(x):
        return _HALF_SQRT_2PI
    if x < _SERIES_BELOW:
        return _odd_series(Decimal(x)) * _weight(x)
    return _HALF_SQRT_2PI - _tail_moments(x)[0] * _weight(x)


def _weight(x: float) -> Decimal:
    """Return ``exp(-x**2 / 2)``; 0 at infinity."""
    exact = Decimal(x)
    return (-exact * exact / 2).exp()


def _density_ratio(low: float, high: float) -> Decimal:
    """Return ``exp(-(high**2 - low**2) / 2)`` without cancellation."""
    a, b = Decimal(low), Decimal(high)
    return ((a - b) * (a + b) / 2).exp()


def _times(x: float, weight: Decimal) -> Decimal:
    """Return ``x * weight``, which is 0 at infinity."""
    return weight if math.isinf(x) else Decimal(x) * weight
