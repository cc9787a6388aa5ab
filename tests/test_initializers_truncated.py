"""The truncated normal: its bounds in both spellings, its variance and the correction, and what is never drawn."""

import math

import numpy as np
import pytest

from fastinit import Key, Normal, TruncatedNormal, fill


def close(a, b, tolerance=1e-12):
    return math.isclose(a, b, rel_tol=tolerance)


def expected_std_by_quadrature(mean, std, low, high):
    """The standard deviation of N(mean, std) cut to [low, high], summed on a grid: by no formula of the library's."""
    low, high = max(low, mean - 12 * std), min(high, mean + 12 * std)
    if low > mean + 12 * std or high < mean - 12 * std:
        raise AssertionError("the grid does not reach")
    x = np.linspace(low, high, 400_001)
    x = 0.5 * (x[1:] + x[:-1])
    p = np.exp(-0.5 * ((x - mean) / std) ** 2)
    p /= p.sum()
    centre = (x * p).sum()
    return math.sqrt((p * (x - centre) ** 2).sum())


@pytest.mark.parametrize(
    "low, high", [(-2, 2), (-1, 3), (0, 1), (-0.5, math.inf), (-math.inf, 1.5), (1.0, 1.25), (2, 5)]
)
@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (0.7, 0.02)])
def test_sigma_bounds_and_their_correction(mean, std, low, high):
    plain = TruncatedNormal(mean, std, low, high).sampling()
    assert (plain.mean, plain.std, plain.low_sigma, plain.high_sigma) == (mean, std, low, high)
    assert close(plain.low, mean + low * std) and close(plain.high, mean + high * std)
    assert close(plain.expected_std, expected_std_by_quadrature(mean, std, plain.low, plain.high), 1e-8)
    corrected = TruncatedNormal(mean, std, low, high, correct_variance=True).sampling()
    assert (corrected.low_sigma, corrected.high_sigma) == (low, high)  # the bounds grow along
    assert close(corrected.expected_std, std)
    assert close(corrected.high, mean + high * corrected.std) and corrected.std >= std


@pytest.mark.parametrize(
    "mean, std, low, high",
    [
        (0.0, 0.5, -1.0, 1.0),
        (0.0, 0.02, -2.0, 2.0),  # torch's trunc_normal_(std=.02): bounds so wide that nothing is cut
        (0.3, 0.4, -1.0, 1.0),
        (0.9, 0.4, -1.0, 1.0),
        (-1.5, 0.3, -1.0, 1.0),  # a mean outside the interval
        (0.0, 0.1, 0.25, 0.75),
        (1.0, 0.5, 0.0, math.inf),
        (1.0, 0.5, -math.inf, 1.1),
    ],
)
def test_absolute_bounds_and_their_correction(mean, std, low, high):
    plain = TruncatedNormal(mean, std, low, high, bounds="absolute").sampling()
    assert (plain.mean, plain.std, plain.low, plain.high) == (mean, std, low, high)
    assert close(plain.expected_std, expected_std_by_quadrature(mean, std, low, high), 1e-7)
    corrected = TruncatedNormal(mean, std, low, high, bounds="absolute", correct_variance=True).sampling()
    assert (corrected.mean, corrected.low, corrected.high) == (mean, low, high)  # the bounds stay
    assert close(corrected.expected_std, std, 1e-9)
    assert close(expected_std_by_quadrature(mean, corrected.std, low, high), std, 1e-7)


def test_an_asked_std_beyond_that_of_the_uniform_is_an_error():
    limit = 2 / math.sqrt(12)
    TruncatedNormal(0.0, 0.999 * limit, -1.0, 1.0, "absolute", correct_variance=True)
    for std in (limit, 1.001 * limit, 5.0):
        with pytest.raises(ValueError, match=r"no normal truncated to \[-1.0, 1.0\] has a standard deviation of"):
            TruncatedNormal(0.0, std, -1.0, 1.0, "absolute", correct_variance=True)


def test_both_spellings_of_one_interval_are_one_distribution():
    key = Key(5)
    a = fill(np.empty(1000, np.float32), TruncatedNormal(0.5, 0.25, -1.0, 2.0), key)
    b = fill(np.empty(1000, np.float32), TruncatedNormal(0.5, 0.25, 0.25, 1.0, bounds="absolute"), key)
    assert np.array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_no_value_lies_outside(dtype):
    for low, high in [(-2.0, 2.0), (-0.3, 1.1), (4.5, 4.6), (-math.inf, 0.0), (0.0, math.inf)]:
        for mean, std in [(0.0, 1.0), (0.1, 0.3)]:
            values = fill(np.empty(100_000, dtype), TruncatedNormal(mean, std, low, high), Key(1)).astype(np.float64)
            sampling = TruncatedNormal(mean, std, low, high).sampling()
            assert sampling.low <= values.min() and values.max() <= sampling.high


def test_infinite_bounds_are_the_normal():
    key = Key(2)
    cut = fill(np.empty(100, np.float32), TruncatedNormal(0.1, 0.2, -math.inf, math.inf), key)
    assert np.array_equal(cut, fill(np.empty(100, np.float32), Normal(0.1, 0.2), key))


@pytest.mark.parametrize(
    "initializer", [Normal(0.1, 0.0), TruncatedNormal(0.1, 0.0), TruncatedNormal(0.1, 0.0, 0.0, 1.0, "absolute")]
)
def test_a_std_of_zero_is_the_constant_mean(initializer):
    assert np.all(fill(np.empty(9, np.float32), initializer, Key(0)) == np.float32(0.1))
    assert initializer.sampling().expected_std == 0.0


def test_a_std_of_zero_around_zero_has_no_negative_zeros():
    for initializer in (Normal(0.0, 0.0), TruncatedNormal(0.0, 0.0)):
        assert not np.signbit(fill(np.empty(100, np.float32), initializer, Key(0))).any()


# Bounds and deviations of any size


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(
    "mean, std, low, high, value",
    [
        (0.0, 1e-300, 1.0, 2.0, 1.0),
        (0.0, 1e-300, -2.0, -1.0, -1.0),
        (0.0, 5e-324, 1.0, 2.0, 1.0),  # more deviations than float64 can count
        (0.0, 5e-324, -math.inf, -1.0, -1.0),
        (0.0, 1e-320, 0.5, math.inf, 0.5),
        (0.0, 1e-200, 0.1, 0.2, 0.1),
        (1e300, 1e-10, 1.0, 2.0, 2.0),
        (-1e308, 5e-324, 1.0, 2.0, 1.0),
    ],
)
def test_bounds_far_out_are_all_there_is(mean, std, low, high, value, dtype):
    initializer = TruncatedNormal(mean, std, low, high, "absolute")
    out = fill(np.empty(50, dtype), initializer, Key(3))
    nearest = np.array(value, dtype)
    inside = (
        nearest
        if low <= float(nearest) <= high
        else np.nextafter(nearest, np.array(math.copysign(1.0, low - mean) * 9, dtype))
    )
    assert (out == inside).all()
    found = initializer.moments((3,))
    assert math.isclose(found.mean, value, rel_tol=1e-9) and 0.0 <= found.std < 1e-99
    assert initializer.reach((3,), dtype) == abs(value)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bounds_that_float64_cannot_tell_apart_in_deviations(dtype):
    """Near the mean the density is constant between them."""
    low = 0.5
    high = math.nextafter(low, 1.0) if dtype == "float64" else low + 2.0**-24
    std = 1.0 if dtype == "float64" else 1e30
    initializer = TruncatedNormal(0.1, std, low, high, "absolute")
    out = fill(np.empty(4000, dtype), initializer, Key(4))
    assert set(out.tolist()) <= {low, high}
    assert math.isclose(initializer.moments((3,)).std, (high - low) / math.sqrt(12), rel_tol=1e-6)
    with pytest.raises(ValueError, match="must differ in standard deviations"):
        fill(np.empty(3, dtype), TruncatedNormal(1e20, 1.0, 0.0, 1.0, "absolute"), Key(0))


@pytest.mark.parametrize("std", [5e-324, 1e-300, 1e-3])
@pytest.mark.parametrize("low, high", [(1.0, 2.0), (-2.0, -1.0), (0.5, math.inf)])
def test_the_deviation_of_far_bounds_is_found(std, low, high):
    initializer = TruncatedNormal(0.0, std, low, high, "absolute", correct_variance=True)
    assert math.isclose(initializer.moments((3,)).std, std, rel_tol=1e-6)
    out = fill(np.empty(100), initializer, Key(5))
    assert (out >= low).all() and (out <= high).all()


EXTREME = [0.0, 5e-324, 1e-310, 1e-300, 1e-45, 1e-8, 1.0, 1e4, 3e38, 1e150, 1e300, 1.7e308, math.inf]


@pytest.mark.parametrize("bounds", ["sigma", "absolute"])
def test_any_parameters_are_drawn_or_refused_in_words(bounds):
    rng, drawn = np.random.default_rng(6), 0
    for _ in range(1500):
        mean, std, low, high = (
            float(rng.choice(EXTREME)) * sign for sign in (rng.choice([-1, 1]), 1, *rng.choice([-1, 1], 2))
        )
        dtype = str(rng.choice(["float32", "float64", "float16"]))
        try:
            initializer = TruncatedNormal(mean, std, low, high, bounds)
            out = fill(np.empty(8, dtype), initializer, Key(7)).astype(np.float64)
            found = initializer.moments((8,))
        except ValueError as error:
            assert "truncated" in str(error) or "must" in str(error) or "has no finite" in str(error), error
            continue
        sampling = initializer.sampling()
        assert np.isfinite(out).all()
        if std:
            assert (out >= sampling.low).all() and (out <= sampling.high).all(), initializer
            assert not math.isnan(found.mean) and found.std >= 0
        drawn += 1
    assert drawn > 300
