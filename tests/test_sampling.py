"""How far samplers reach, and that what is refused is what a dtype cannot hold: no more and no less."""

import math

import numpy as np
import pytest

import fastinit
from fastinit import Key, reference, sampling, truncation
from fastinit.dtypes import DTYPES

KEY = Key("reach")
INF = math.inf


def accepts(initializer, dtype):
    try:
        initializer.check((3, 4), dtype)
    except ValueError as error:
        assert "beyond the largest finite" in str(error) or "no finite" in str(error), error
        return False
    return True


def largest(make, dtype, low, high):
    """The largest float64 parameter that a dtype takes; bisected between one that it takes and one that it does not."""
    assert accepts(make(low), dtype) and not accepts(make(high), dtype)
    while (middle := low + (high - low) / 2) not in (low, high):
        low, high = (middle, high) if accepts(make(middle), dtype) else (low, middle)
    return low


def is_finite(values, dtype):
    """Whether these float32 or float64 values are finite once they are rounded to a dtype, by the reference."""
    found, values = DTYPES[dtype], np.asarray(values)
    if dtype == "float64" or (dtype == "float32" and values.dtype == np.float32):
        return bool(np.isfinite(values).all())
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    if dtype == "float32":
        return bool(np.isfinite(single).all())
    limit = {"float8_e4m3fn": 464.0}.get(dtype, found.max + found._grid(found.max) / 2)
    inside = np.abs(single) <= limit if dtype == "float8_e4m3fn" else np.abs(single) < limit
    return bool(inside.all())


def farthest_normal(dtype):
    """The normal of the words that are 0: the smallest u, and a cosine of 1."""
    if dtype == "float64":
        y, k = reference._split(np.array([0.5]), 1086)
        return np.sqrt(reference._twice_neg_log(y, k))[0]
    from fastinit import coefficients as table

    y = np.float32([0.5])
    k = np.float32(158 - 126)
    return np.sqrt(reference.horner(table.NORMAL_L, y) * y + k * np.float32(table.TWO_LN2_F))[0]


def test_the_largest_normals_are_those_of_the_reference():
    assert farthest_normal("float32") == sampling.LARGEST_NORMAL[fastinit._core.NORMAL]
    assert farthest_normal("float64") == sampling.LARGEST_NORMAL[fastinit._core.NORMAL_64]


@pytest.mark.parametrize("mean", [0.0, 100.0, -100.0])
def test_normals_are_refused_where_they_would_overflow(dtype, mean):
    real = np.float64 if dtype == "float64" else np.float32
    limit = DTYPES[dtype].max

    def extremes(std):
        with np.errstate(over="ignore"):
            z = farthest_normal(dtype) * real(std)
            return np.array([z + real(mean), -z + real(mean)])

    std = largest(lambda std: fastinit.Normal(mean, std), dtype, limit / 100, limit / 2)
    assert is_finite(extremes(std), dtype)
    beyond = math.nextafter(std, INF)
    with np.errstate(over="ignore"):
        assert not is_finite(extremes(beyond), dtype)
    out = fastinit.fill(np.empty(4000, DTYPES[dtype].raw), fastinit.Normal(mean, std), KEY, dtype=dtype)
    assert all(math.isfinite(DTYPES[dtype].value(int(bits))) for bits in out)


def test_uniforms_are_refused_where_they_would_overflow(dtype):
    found = DTYPES[dtype]
    half = found._grid(found.max) / 2
    if dtype == "float64":
        assert accepts(fastinit.Uniform(0.0, found.max), dtype)
        return
    first = 464.0 if dtype == "float8_e4m3fn" else found.max + half  # that float8 has a tie there, which is even
    for make in (
        lambda x: fastinit.Uniform(0.0, x),
        lambda x: fastinit.Uniform(-x, x),
        lambda x: fastinit.Uniform(-1, x),
    ):
        end = largest(make, dtype, found.max / 2, found.max * 2)
        assert end == (math.nextafter(first, INF) if dtype == "float8_e4m3fn" else first)
    lowest = largest(lambda x: fastinit.Uniform(-x, 1.0), dtype, found.max / 2, found.max * 2)
    assert lowest == (first if dtype == "float8_e4m3fn" else math.nextafter(first, 0.0))
    for low, high in ((-lowest, first), (-found.max, 0.5 * found.max), (0.0, first)):
        out = fastinit.fill(np.empty(4000, found.raw), fastinit.Uniform(low, high), KEY, dtype=dtype)
        values = np.array([found.value(int(bits)) for bits in out])
        assert (values >= found.ceil(low)).all() and (values <= found.below(high)).all()
        middle, width = 0.5 * low + 0.5 * high, high / 2 - low / 2
        assert abs(values.mean() / width - middle / width) < 0.05 and abs(values.std() / width - 3**-0.5) < 0.03


def test_a_span_beyond_float32_is_drawn_in_float64():
    plan = sampling.compiled(fastinit.Uniform(-3e38, 3e38 * (1 + 1e-9)).sampling(), "float32").parameters
    assert sampling.KINDS[plan["kind"]] == "uniform_64"
    plan = sampling.compiled(fastinit.Uniform(-1e38, 1.1e38).sampling(), "float32").parameters
    assert sampling.KINDS[plan["kind"]] == "uniform"


BOUNDS = [
    (-2.0, 2.0),
    (-2.0, INF),
    (-INF, 1.0),
    (0.5, INF),
    (-1.0, 30.0),
    (3.0, INF),
    (4.0, INF),
    (5.5, 1e6),
    (-INF, -7.0),
]


def draws(dtype, low, high):
    """The first and the last draw of the sampler of [low, high], by the reference and by the definition of the tail."""
    plan = sampling.compiled(fastinit.TruncatedNormal(0.0, 1.0, low, high).sampling(), dtype).parameters
    kind = sampling.KINDS[plan["kind"]]
    if kind == "truncated_2":
        return low, high
    if kind == "truncated_tail_64":
        near = plan["tail_low"]
        far = min(max(abs(low), abs(high)), truncation.farthest(near))
        return (near, far) if low > 0 else (-far, -near)
    sampler = getattr(reference, kind)
    cells = plan["first"], plan["first"] + plan["count"] - 1
    return tuple(float(sampler(KEY.words, np.arange(1), (cell, 1))[0]) for cell in cells)


@pytest.mark.parametrize("low, high", BOUNDS, ids=str)
def test_truncated_normals_are_refused_where_they_would_overflow(dtype, low, high):
    found = DTYPES[dtype]

    def make(std):
        return fastinit.TruncatedNormal(0.0, std, low, high)

    std = largest(make, dtype, found.max / 100, found.max / 1.5)
    reach = max(map(abs, draws(dtype, low, high)))
    first = found.max if dtype == "float64" else found.max + found._grid(found.max) / 2  # that is rounded to infinity
    assert math.isfinite(found.nearest(std * reach)) and math.isclose(std * reach, first, rel_tol=1e-12)
    out = fastinit.fill(np.empty(4000, found.raw), make(std), KEY, dtype=dtype)
    values = np.array([found.value(int(bits)) for bits in out])
    assert np.isfinite(values).all()
    assert math.isclose(make(std).reach((3,), dtype), std * reach, rel_tol=1e-6)


def test_the_farthest_draw_of_a_tail_is_that_of_the_largest_number():
    for near in (4.0, 5.5, 10.0, 35.0, 1000.0):
        far = truncation.farthest(near)
        exact = truncation.tail_ratio(near, far)
        assert exact in (1 - 2.0**-53, 1.0) and truncation.tail_ratio(near, near + (far - near) * 0.9) < 1 - 2.0**-53
        u = np.float64(1 - 2.0**-53)
        y, k = reference._split(np.float64([1 - u]), 1022)
        target = near * near + reference._twice_neg_log(y, k)[0]
        assert far <= math.sqrt(target)


STRUCTURED = {
    "identity": (fastinit.Identity, (6, 8)),
    "dirac": (lambda gain: fastinit.Dirac(gain=gain), (3, 3, 4, 8)),
    "orthogonal": (fastinit.Orthogonal, (6, 8)),
    "delta orthogonal": (fastinit.DeltaOrthogonal, (3, 3, 4, 8)),
    "sparse": (lambda std: fastinit.Sparse(0.1, std), (6, 8)),
    "ICNR": (lambda std: fastinit.ICNR(fastinit.Normal(0.0, std)), (3, 3, 4, 8)),
    "ICNR of blocks": (
        lambda x: fastinit.ICNR(fastinit.Blocks((fastinit.Ones(), fastinit.Uniform(0.0, x)), axis=-1)),
        (3, 3, 4, 8),
    ),
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_tensors_are_refused_where_they_would_overflow(dtype, name):
    make, shape = STRUCTURED[name]
    found = DTYPES[dtype]

    def taken(size):
        try:
            make(size).check(shape, dtype)
        except ValueError as error:
            assert "beyond the largest finite" in str(error)
            return False
        return True

    low, high = found.max / 100, found.max
    assert taken(low)
    while math.isfinite(high) and taken(high):
        high *= 1.001
    while math.isfinite(high) and (middle := low + (high - low) / 2) not in (low, high):
        low, high = (middle, high) if taken(middle) else (low, middle)
    for number in range(40):
        out = fastinit.fill(np.empty(shape, found.raw), make(low), KEY.fold_in(number), dtype=dtype)
        assert all(math.isfinite(found.value(int(bits))) for bits in set(out.ravel().tolist()))
    if dtype == "float16":
        exact = {"sparse": 65520 / 6.7637057, "ICNR": 65520 / 6.7637057}.get(name, 65520.0)
        assert math.isclose(low, exact, rel_tol=1e-7)


REFUSED = [
    (lambda x: fastinit.Blocks((fastinit.Normal(), fastinit.Identity(x)), axis=0), (12, 8)),
    (lambda x: fastinit.Blocks((fastinit.Normal(), fastinit.Sparse(0.1, x)), axis=1), (12, 8)),
    (lambda x: fastinit.Blocks((fastinit.Normal(), fastinit.Constant(x)), axis=1), (12, 8)),
    (lambda x: fastinit.Blocks((fastinit.Normal(), fastinit.Uniform(-x, x)), axis=1), (12, 8)),
    (lambda x: fastinit.Blocks((fastinit.Normal(), fastinit.TruncatedNormal(0.0, x)), axis=1), (12, 8)),
    (lambda x: fastinit.ZeroRow(fastinit.Blocks((fastinit.Normal(), fastinit.Orthogonal(x))), 0), (12, 8)),
    (lambda x: fastinit.Blocks((fastinit.Normal(), fastinit.ZeroRow(fastinit.Normal(0.0, x), 1))), (12, 8)),
    (lambda x: fastinit.ICNR(fastinit.Normal(x, 0.1)), (3, 3, 4, 8)),
    *((make, shape) for make, shape in STRUCTURED.values()),
]


@pytest.mark.parametrize("make, shape", REFUSED)
@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "float64"])  # beyond which no parameter lies
def test_a_range_is_known_before_the_first_byte(dtype, make, shape):
    found = DTYPES[dtype]
    initializer = make(1.5 * found.max)
    pieces = [(shape, {}), ([n - 1 for n in shape], {"global_shape": shape, "offsets": [1] * len(shape)})]
    pieces.append(((17,), {"global_shape": shape, "start": 3}))
    for local, place in pieces:
        out = np.full(local, 0x55, found.raw)
        with pytest.raises(ValueError, match=r"beyond the largest finite|has no finite"):
            fastinit.fill(out, initializer, KEY, dtype=dtype, **place)
        assert (out == 0x55).all()
