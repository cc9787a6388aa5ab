"""No dtype ever returns an excluded end, or a value outside the bounds: thousands of adversarial intervals."""

import math

import numpy as np
import pytest

import fastinit
from fastinit import Key
from fastinit.dtypes import DTYPES

KEY = Key("limits")
COUNT = 4096
TRIES = pytest.mark.parametrize("tries", [300, pytest.param(10_000, marks=pytest.mark.long)])
TABLES = {
    name: np.array([d.value(bits) if abs(d.value(bits)) <= d.max else np.nan for bits in range(256**d.itemsize)])
    for name, d in DTYPES.items()
    if d.itemsize <= 2
}


def values(initializer, dtype, count=COUNT, key=KEY):
    """Exact values, NaN for whatever is not finite."""
    found = DTYPES[dtype]
    raw = fastinit.fill(np.empty(count, f"u{found.itemsize}"), initializer, key, dtype=dtype)
    return TABLES[dtype][raw] if dtype in TABLES else raw.view(dtype).astype(np.float64)


def near(found, rng):
    """A number at, just beside, or between values of a format, of any size that it has in full precision."""
    x = math.ldexp(
        rng.uniform(1, 2), int(rng.integers(max(found.min_exponent, -30), min(math.frexp(found.max)[1] - 2, 30)))
    )
    x = float(found.floor(x)) * rng.choice([-1.0, 1.0])
    beside = [
        x,
        math.nextafter(x, INF),
        math.nextafter(x, -INF),
        x * (1 + 2.0**-30),
        x * (1 - 2.0**-30),
        0.5 * (x + found.above(x)),
        0.0,
    ]
    return float(beside[rng.integers(len(beside))])


INF = math.inf


def empty(error):
    return "no " in str(error) and " value lies in the interval" in str(error)


def test_uniforms_exclude_their_open_ends(dtype):
    found, rng, checked, at_end = DTYPES[dtype], np.random.default_rng(1), 0, 0
    for _ in range(1500):
        low, high = sorted((near(found, rng), near(found, rng)))
        if rng.random() < 0.3:
            low = -high
            low, high = min(low, high), max(low, high)
        if rng.random() < 0.3:
            high = float(found.above(found.above(low)))
        if not low < high:
            continue
        try:
            x = values(fastinit.Uniform(low, high), dtype)
        except ValueError as error:
            assert empty(error), (low, high)
            assert found.ceil(low) >= high or (low == -high and found.above(low) >= high)
            continue
        assert (x >= low).all() and (x < high).all(), (low, high)
        if low == -high:
            assert (x > low).all(), (low, high)
        checked += 1
        at_end += bool((x == found.below(high)).any())
    assert checked > 700 and at_end > 20


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-1.0, 1.0), (-1.0, 0.0), (0.5, 1.0), (-3.0, 7.0), (1.0, 1.5)])
def test_common_uniforms(dtype, low, high):
    x = values(fastinit.Uniform(low, high), dtype, 2**18)
    assert (x >= low).all() and (x < high).all() and (low != -high or (x > low).all())
    if DTYPES[dtype].fraction <= 10 and high != 0:
        assert x.max() == DTYPES[dtype].below(high)  # and the last value before the end is drawn
    if low == -high:
        assert (x != 0).all() or DTYPES[dtype].itemsize == 1
    assert not (np.signbit(x) & (x == 0)).any() or low < 0


def bounds(rng):
    """Windows of a normal: broad, narrow, one-sided, far out."""
    kind = rng.integers(6)
    if kind == 0:
        return sorted(rng.uniform(-4, 4, 2))
    if kind == 1:
        low = rng.uniform(-6, 6)
        return low, low + 10 ** rng.uniform(-9, 0)
    if kind == 2:
        return rng.uniform(-8, 8), INF
    if kind == 3:
        return -INF, rng.uniform(-8, 8)
    if kind == 4:
        low = rng.uniform(4, 35)
        return low, low + 10 ** rng.uniform(-3, 1)
    return sorted(-rng.uniform(4, 35, 2))


@TRIES
def test_truncated_normals_stay_within_their_bounds(dtype, tries):
    found, rng, checked = DTYPES[dtype], np.random.default_rng(2), 0
    for _ in range(tries):
        low, high = (float(x) for x in bounds(rng))
        mean = float(rng.choice([0.0, 0.0, rng.normal(), 8 * rng.normal()]))
        std = float(rng.choice([1.0, 1.0, 10 ** rng.uniform(-3, 0.5), 0.02]))
        initializer = fastinit.TruncatedNormal(mean, std, low, high)
        sampling = initializer.sampling()
        try:
            x = values(initializer, dtype, 256)
        except ValueError as error:
            assert empty(error) and found.ceil(sampling.low) > found.floor(sampling.high)
            continue
        assert np.isfinite(x).all(), initializer
        assert (x >= sampling.low).all() and (x <= sampling.high).all(), initializer
        checked += 1
    assert checked > tries // 3


@TRIES
def test_absolute_bounds(dtype, tries):
    """Given as values, they hold as given."""
    found, rng, checked = DTYPES[dtype], np.random.default_rng(3), 0
    for _ in range(tries):
        low, high = sorted((near(found, rng), near(found, rng)))
        mean, std = near(found, rng), abs(near(found, rng)) or 1.0
        try:
            x = values(fastinit.TruncatedNormal(mean, std, low, high, "absolute"), dtype, 256)
        except ValueError as error:
            assert empty(error) or low >= high or "beyond the largest" in str(error) or "must differ" in str(error), (
                mean,
                std,
                low,
                high,
            )
            continue
        assert (x >= low).all() and (x <= high).all(), (mean, std, low, high)
        checked += 1
    assert checked > tries // 4


def test_nothing_is_nan_infinite_or_a_negative_zero(distributions, dtype):
    for name, initializer in distributions.items():
        shaped = isinstance(initializer, fastinit.VarianceScaling)
        found = DTYPES[dtype]
        raw = fastinit.fill(np.empty((64, 1024), f"u{found.itemsize}"), initializer, KEY, dtype=dtype)
        x = TABLES[dtype][raw] if dtype in TABLES else raw.view(dtype).astype(np.float64)
        assert np.isfinite(x).all(), (name, shaped)
        if found.itemsize >= 4:
            assert not (np.signbit(x) & (x == 0)).any(), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_scales_are_finite_or_refused(dtype):
    """From the smallest subnormal to overflow, nothing becomes NaN or infinite without an error."""
    refused = 0
    for exponent in range(-1074, 1024, 7):
        size = math.ldexp(1.0, exponent)
        for initializer in (
            lambda s=size: fastinit.Uniform(-s, s),
            lambda s=size: fastinit.Uniform(0.0, s),
            lambda s=size: fastinit.Normal(0.0, s),
            lambda s=size: fastinit.Normal(s, 1.0),
            lambda s=size: fastinit.TruncatedNormal(0.0, s),
            lambda s=size: fastinit.TruncatedNormal(s, s, -1.0, 2.5),
            lambda s=size: fastinit.TruncatedNormal(0.0, s, 5.0, 6.0),
            lambda s=size: fastinit.TruncatedNormal(1.0, s, 0.5, 2.0, "absolute"),
        ):
            try:
                x = values(initializer(), dtype, 64)
            except ValueError:
                refused += 1
                continue
            assert np.isfinite(x).all(), (size, initializer())
    assert refused > 100 or dtype == "float64"
