"""The truncated standard normal, against mpmath at a precision that leaves no doubt."""

import decimal
import doctest
import math
from functools import cache

import mpmath
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fastinit import truncation
from fastinit.truncation import mean_and_variance, standard_deviation, tail_ratio, window

INF = math.inf
WINDOWS = [
    (-2.0, 2.0),
    (-3.0, 3.0),
    (-1.0, 0.5),
    (-0.5, 0.0),
    (0.0, 1.0),
    (2.0, 3.0),
    (4.0, 5.01),
    (4.9, 5.2),
    (-5.0, 5.0),
    (-8.0, 7.5),
    (-100.0, 100.0),
    (-100.0, 1.0),
    (-30.0, 30.000001),
    (-INF, INF),
    (-INF, 0.25),
    (4.0, INF),
    (-INF, -5.0),
    (10.0, 11.0),
    (37.0, 40.0),
    (100.0, 101.0),
    (1e5, INF),
    (1e5, 1e5 + 1e-5),
    (0.1, 0.1 + 1e-9),
    (-1e-9, 2e-9),
    (-1e-7, 1.5),
    (1.0, math.nextafter(1.0, 2.0)),
    (6.0, math.nextafter(6.0, 7.0)),
]
TAILS = [bounds for bounds in WINDOWS if bounds[0] >= 0] + [
    (1e-9, 2e-9),
    (1e-300, 2e-300),
    (3.0, 3.0 + 1e-12),
    (40.0, 40.0 + 1e-12),
    (100.0, 200.0),
    (1e6, 1e6 + 1e-6),
    (1e6, 1e6 + 1e-9),
    (1e6, INF),
]


def upper_tail(x):
    return mpmath.erfc(mpmath.mpf(x) / mpmath.sqrt(2)) / 2


def exact_moments(low, high):
    """The textbook formulas, mirrored into the upper tail; call with hundreds of digits."""
    if -low > high:
        mean, variance = exact_moments(-high, -low)
        return -mean, variance
    area = upper_tail(low) - upper_tail(high)
    density = [mpmath.npdf(x) if math.isfinite(x) else mpmath.mpf(0) for x in (low, high)]
    edges = [x * p if math.isfinite(x) else mpmath.mpf(0) for x, p in zip((low, high), density, strict=True)]
    mean = (density[0] - density[1]) / area
    return mean, 1 + (edges[0] - edges[1]) / area - mean * mean


@cache
def probability(x):
    """Return Phi(x) with every digit that tells it from 1: Q(101) is about 1e-2217, Q(40) 1e-349."""
    with mpmath.workdps(2300 if abs(x) > 40 else 400):
        return 1 - upper_tail(x)


def exact_edges(x, bits):
    """Return floor and ceil of ``2**bits * Phi(x)``."""
    scaled = mpmath.ldexp(probability(x), bits)  # exact
    with mpmath.workdps(2300):
        return int(mpmath.floor(scaled)), int(mpmath.ceil(scaled))


def exact_window(low, high, bits):
    first, end = exact_edges(low, bits)[1], exact_edges(high, bits)[0]
    return first, max(end - first, 0)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(("low", "high"), [bounds for bounds in WINDOWS if bounds[0] < 1e4])
def test_window_is_exact(low, high, bits):
    assert window(low, high, bits) == exact_window(low, high, bits)


@pytest.mark.parametrize("bits", [32, 64])
def test_window_ends_are_reached_only_by_infinite_bounds(bits):
    total = 2**bits
    assert window(-INF, INF, bits) == (0, total)
    assert window(-1e300, 1e300, bits) == (1, total - 2)
    assert window(-INF, -1e5, bits) == (0, 0)
    assert window(1e5, INF, bits) == (total, 0)


@pytest.mark.parametrize("bits", [32, 64])
def test_window_at_the_centre_sees_the_smallest_bound(bits):
    half, tiny = 2 ** (bits - 1), 5e-324
    assert window(-INF, 0.0, bits) == (0, half)
    assert window(-INF, tiny, bits) == (0, half)
    assert window(-INF, -tiny, bits) == (0, half - 1)
    assert window(tiny, INF, bits) == (half + 1, half - 1)
    assert window(-tiny, INF, bits) == (half, half)
    assert window(1e-30, 2e-30, bits)[1] == 0


@pytest.mark.parametrize(("low", "high"), TAILS)
def test_tail_ratio_is_correctly_rounded(low, high):
    with mpmath.workdps(700):
        exact = 1 - upper_tail(high) / upper_tail(low)
        assert tail_ratio(low, high) == float(exact)


def test_tail_ratio_beyond_every_exponent():
    assert tail_ratio(1e300, 1.1e300) == 1.0
    assert tail_ratio(1e300, INF) == 1.0
    # One spacing at 2**40 is 2**-12, so the exponent is 2**28; at 2**26 it is 1, less Mills' correction of 2**-52.
    assert tail_ratio(2.0**40, math.nextafter(2.0**40, INF)) == 1.0
    assert tail_ratio(2.0**26, math.nextafter(2.0**26, INF)) == pytest.approx(-math.expm1(-1.0), rel=1e-15)


@pytest.mark.parametrize(("low", "high"), WINDOWS)
def test_moments_are_correctly_rounded(low, high):
    with mpmath.workdps(400):
        mean, variance = exact_moments(low, high)
        assert mean_and_variance(low, high) == (float(mean), float(variance))
        assert standard_deviation(low, high) == float(mpmath.sqrt(variance))


def test_standard_deviation_is_the_constant_of_the_frameworks():
    assert standard_deviation(-2.0, 2.0) == 0.87962566103423978


def test_moments_of_extreme_windows():
    assert mean_and_variance(-INF, INF) == (0.0, 1.0)
    assert mean_and_variance(-1e300, 1e300) == (0.0, 1.0)
    assert mean_and_variance(1e300, INF) == (1e300, 0.0)
    assert standard_deviation(1e300, INF) == 1e-300
    assert standard_deviation(1e-200, 3e-200) == pytest.approx(2e-200 / math.sqrt(12), rel=1e-15)
    assert mean_and_variance(0.1, 0.1 + 1e-9)[1] == pytest.approx(((0.1 + 1e-9) - 0.1) ** 2 / 12, rel=1e-14)


@pytest.mark.parametrize("function", [mean_and_variance, standard_deviation, tail_ratio, lambda a, b: window(a, b, 32)])
@pytest.mark.parametrize(
    ("low", "high"), [(math.nan, 1.0), (0.0, math.nan), (1.0, 1.0), (2.0, 1.0), (INF, INF), (-INF, -INF), (-0.0, 0.0)]
)
def test_bounds_out_of_order_are_refused(function, low, high):
    with pytest.raises(ValueError, match=r"expected low < high.*got low=.*high="):
        function(low, high)


def test_other_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"expected 0 <= low < high, got low=-1\.0, high=1\.0"):
        tail_ratio(-1.0, 1.0)
    with pytest.raises(ValueError, match="expected bits to be 32 or 64, got 16"):
        window(-1.0, 1.0, 16)


def test_an_undecided_integer_is_an_error_not_a_guess(monkeypatch):
    monkeypatch.setattr(truncation, "_UNDECIDED", decimal.Decimal(1))
    with pytest.raises(ArithmeticError, match=r"2\*\*64 \* Phi\(0\.123\) is too close to an integer"):
        window(0.123, 4.0, 64)


def test_the_callers_decimal_context_is_neither_used_nor_changed():
    arguments = [(-2.0, 2.0), (2.0, 3.0), (100.0, 101.0)]

    def results():
        for function in (window, mean_and_variance, tail_ratio, standard_deviation):
            function.cache_clear()
        moments = [(mean_and_variance(*bounds), standard_deviation(*bounds)) for bounds in arguments]
        return moments, [window(*bounds, 64) for bounds in arguments], tail_ratio(2.0, 3.0)

    expected = results()
    hostile = decimal.Context(prec=3, rounding=decimal.ROUND_UP, Emax=9, Emin=-9, traps=[decimal.Inexact])
    with decimal.localcontext(hostile) as current:
        before = repr(current)
        assert results() == expected
        assert repr(decimal.getcontext()) == before


def test_examples_in_the_docstrings():
    outcome = doctest.testmod(truncation)
    assert outcome.attempted >= 10
    assert outcome.failed == 0


# Bounds with few bits, so that 250 digits settle every cancellation of the textbook formulas ...
COARSE = st.integers(-(2**25), 2**25).map(lambda n: n / 2**20)
# ... and any bounds at all.
ANY = st.floats(allow_nan=False) | st.floats(-10, 10)


def ordered(bounds, size=2):
    return st.lists(bounds, min_size=size, max_size=size, unique=True).map(sorted)


@settings(max_examples=150, deadline=None)
@given(ordered(COARSE))
def test_random_windows_agree_with_mpmath(bounds):
    low, high = bounds
    with mpmath.workdps(1000):
        mean, variance = exact_moments(low, high)
        assert mean_and_variance(low, high) == (float(mean), float(variance))
        if low >= 0:
            assert tail_ratio(low, high) == float(1 - upper_tail(high) / upper_tail(low))
        assert window(low, high, 64) == exact_window(low, high, 64)


@settings(max_examples=300, deadline=None)
@given(ordered(ANY), st.sampled_from([32, 64]))
@example([-INF, INF], 64)
@example([0.0, 5e-324], 64)
def test_mirrored_bounds_give_mirrored_results(bounds, bits):
    low, high = bounds
    assume(low < high)
    first, count = window(low, high, bits)
    mirrored_first, mirrored_count = window(-high, -low, bits)
    assert mirrored_count == count
    if count:
        assert mirrored_first == 2**bits - (first + count)
    mean, variance = mean_and_variance(low, high)
    assert mean_and_variance(-high, -low) == (-mean, variance)
    assert low <= mean <= high
    assert 0 <= variance <= 1
    assert standard_deviation(low, high) == pytest.approx(math.sqrt(variance), rel=1e-15, abs=1e-160)


@settings(max_examples=300, deadline=None)
@given(ordered(ANY, 3), st.sampled_from([32, 64]))
def test_windows_grow_with_their_bounds(bounds, bits):
    low, middle, high = bounds
    assume(low < middle < high)
    whole, left, right = window(low, high, bits), window(low, middle, bits), window(middle, high, bits)
    assert whole[0] >= 0 and sum(whole) <= 2**bits
    # The parts lose at most the one cell that the middle bound cuts.
    assert whole[1] - 1 <= left[1] + right[1] <= whole[1]
    if left[1] and right[1]:
        assert left[0] == whole[0] and sum(right) == sum(whole) and 0 <= right[0] - sum(left) <= 1
    means = [mean_and_variance(*pair)[0] for pair in ((low, middle), (low, high), (middle, high))]
    assert means == sorted(means)
    if low >= 0:
        assert 0 < tail_ratio(low, middle) <= tail_ratio(low, high) <= 1
