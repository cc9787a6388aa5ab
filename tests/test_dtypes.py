"""The law of dtypes: narrow fills are the float32 fill, rounded once; and the formats' functions against ml_dtypes."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fastinit
from fastinit import Key
from fastinit.dtypes import DTYPES, dtype_named

ml_dtypes = pytest.importorskip("ml_dtypes")

KEY = Key("dtypes")
NARROW = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
COUNT = 200_003


def numpy_type(name):
    return np.dtype(getattr(np, name, None) or getattr(ml_dtypes, name))


@pytest.mark.parametrize("narrow", NARROW)
@pytest.mark.parametrize(
    "initializer",
    [
        fastinit.Normal(),
        fastinit.Normal(0.0, 0.02),
        fastinit.Normal(1.0, 1e-3),
        fastinit.Normal(-3.0, 0.5),
        fastinit.Normal(0.0, 1e-4),
        fastinit.Normal(0.0, 2e-6),
        fastinit.Normal(0.0, 1e-9),
        fastinit.Normal(0.0, 60.0),
        fastinit.Constant(0.3),
        fastinit.Ones(),
    ],
    ids=repr,
)
def test_unbounded_distributions(filled, narrow, initializer):
    """Subnormals of every format are among them."""
    wide = filled(COUNT, initializer, KEY)
    local = filled(COUNT, initializer, KEY, narrow).view(numpy_type(narrow))
    assert local.tobytes() == wide.astype(numpy_type(narrow)).tobytes()


BOUNDED = [
    fastinit.Uniform(-0.1, 0.1), fastinit.Uniform(-1.0, 1.0), fastinit.Uniform(0.0, 1.0), fastinit.Uniform(-0.3, 7.1),
    fastinit.Uniform(1.0, 3.0), fastinit.Uniform(-1e-6, 1e-6), fastinit.Uniform(-2.0, 0.0),
    fastinit.TruncatedNormal(), fastinit.TruncatedNormal(0.0, 0.02), fastinit.TruncatedNormal(0.0, 1.0, -1.0, 3.0),
    fastinit.TruncatedNormal(0.3, 0.2, 0.0, 1.0, "absolute"), fastinit.TruncatedNormal(0.0, 1.0, 3.3, 5.0),
    fastinit.TruncatedNormal(0.0, 1.0, 6.0, math.inf), fastinit.TruncatedNormal(0.0, 1e-5),
]  # fmt: skip


@pytest.mark.parametrize("narrow", NARROW)
@pytest.mark.parametrize("initializer", BOUNDED, ids=repr)
def test_bounded_distributions_stay_inside(filled, narrow, initializer):
    """The float32 fill, clamped to the format's values in the interval and rounded."""
    found, sampling = DTYPES[narrow], initializer.sampling()
    least, most = found.ceil(sampling.low), found.floor(sampling.high)
    if sampling.distribution == "uniform":
        least = found.above(sampling.low) if sampling.low == -sampling.high else least
        most = found.below(sampling.high)
    try:
        local = filled(COUNT, initializer, KEY, narrow).view(numpy_type(narrow))
    except ValueError as error:
        assert "no " in str(error) and least > most
        return
    wide = filled(COUNT, initializer, KEY)
    wanted = np.clip(wide, np.float32(least), np.float32(most)).astype(numpy_type(narrow))
    assert local.tobytes() == wanted.tobytes()
    # and the clamp changes only what rounding would have carried outside or next to the end
    free = wide.astype(numpy_type(narrow)).astype(np.float64)
    inside = (free >= least) & (free <= most)
    assert (free[inside] == local.astype(np.float64)[inside]).all()


@pytest.mark.parametrize("narrow", NARROW)
def test_structured(filled, narrow):
    for initializer, shape in [
        (fastinit.Orthogonal(), (90, 70)),
        (fastinit.Sparse(0.4, 0.02), (90, 70)),
        (fastinit.Identity(0.3), (9, 8)),
    ]:
        wide = filled(shape, initializer, KEY)
        assert filled(shape, initializer, KEY, narrow).tobytes() == wide.astype(numpy_type(narrow)).tobytes()


@pytest.mark.parametrize("narrow", NARROW)
def test_real_dtypes_and_raw_memory_agree(filled, narrow):
    out = fastinit.fill(np.empty((30, 41), numpy_type(narrow)), fastinit.Normal(), KEY)
    assert out.tobytes() == filled((30, 41), fastinit.Normal(), KEY, narrow).tobytes()


# The formats


@pytest.mark.parametrize("name", NARROW)
def test_every_bit_pattern(name):
    found, kind = DTYPES[name], numpy_type(name)
    patterns = np.arange(1 << 8 * found.itemsize, dtype=f"u{found.itemsize}")
    with np.errstate(all="ignore"):
        numbers = patterns.view(kind).astype(np.float64)
    finite = np.isfinite(numbers)
    for bits, number in zip(patterns[finite].tolist(), numbers[finite].tolist(), strict=True):
        value = found.value(bits)
        assert value == number and math.copysign(1, value) == math.copysign(1, number)
        assert found.bits(number) == bits
        assert found.floor(number) == found.ceil(number) == number
    ordered = np.unique(numbers[finite])
    assert found.max == ordered[-1]
    for lower, upper in zip(ordered[:-1].tolist(), ordered[1:].tolist(), strict=True):
        assert found.above(lower) == upper and found.below(upper) == lower
        middle = 0.5 * (lower + upper)
        assert found.floor(middle) == lower and found.ceil(middle) == upper
        # one rounding, ties to the even pattern (ml_dtypes rounds a float64 twice, through float32)
        even = lower if found.bits(lower) % 2 == 0 else upper
        for x, nearest in (
            (math.nextafter(middle, lower), lower),
            (middle, even),
            (math.nextafter(middle, upper), upper),
        ):
            assert found.value(found.bits(x)) == nearest and math.copysign(
                1, found.value(found.bits(x))
            ) == math.copysign(1, x)


def test_infinities_and_nan():
    for name in [*NARROW, "float32", "float64"]:
        found, kind = DTYPES[name], numpy_type(name)
        unsigned = f"u{found.itemsize}"
        pattern = found.bits(math.nan)
        assert np.isnan(np.array([pattern], unsigned).view(kind).astype(np.float64))[0]
        if name == "float8_e4m3fn":
            with pytest.raises(ValueError, match="no finite float8_e4m3fn value"):
                found.bits(math.inf)
        else:
            for x in (math.inf, -math.inf):
                assert np.array([found.bits(x)], unsigned).view(kind).astype(np.float64)[0] == x
        with np.errstate(over="ignore"):
            beyond = {"float64": None}.get(name, 2 * found.max)
        if beyond is not None:
            with pytest.raises(ValueError, match="no finite"):
                found.bits(beyond)
        assert found.below(math.inf) == found.floor(math.inf) == found.max
        assert found.above(-math.inf) == found.ceil(-math.inf) == -found.max


@pytest.mark.parametrize("name", ["float32", "float64"])
@settings(max_examples=1000, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
@example(5e-324)
@example(-5e-324)
@example(0.0)
@example(-0.0)
@example(2.0**-149)
@example(2.0**-126)
@example(1.0)
@example(float.fromhex("0x1.fffffefp127"))
def test_wide_formats(name, x):
    found, kind = DTYPES[name], np.dtype(name).type
    with np.errstate(over="ignore", under="ignore"):
        rounded = kind(x)
    if math.isfinite(rounded):
        assert found.bits(x) == int(rounded.view(f"u{found.itemsize}"))
        assert found.value(found.bits(x)) == rounded
    if abs(x) <= found.max:
        down = rounded if float(rounded) <= x else np.nextafter(rounded, kind(-math.inf))
        up = rounded if float(rounded) >= x else np.nextafter(rounded, kind(math.inf))
        assert found.floor(x) == down and found.ceil(x) == up
        assert -found.max <= found.below(x) < x or x == -found.max
        assert found.below(x) <= down and found.above(x) >= up
    else:
        assert (found.floor(x), found.ceil(-x)) == ((found.max, -found.max) if x > 0 else (-math.inf, math.inf))


def test_names():
    for name in DTYPES:
        assert dtype_named(name) is dtype_named(numpy_type(name)) is DTYPES[name]
    for wrong in ("int32", "float", np.dtype("i4"), None, 3, ""):
        with pytest.raises(TypeError, match="dtype must be one of float32"):
            dtype_named(wrong)
