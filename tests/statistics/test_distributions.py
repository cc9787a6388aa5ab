"""Quick statistics of every distribution: moments, distribution functions, tails and limits.

Keys are fixed, so a test passes always or never; limits are 6 standard errors, which chance alone would pass.
"""

import functools
import math

import numpy as np
import pytest
from scipy import stats

import fastinit
from fastinit import Key, reference

KEY = Key("statistics")
COUNT = 2**21
LIMIT = 6.0
INF = math.inf

NORMALS = {"float32": 6.7638, "float64": 9.4927}


def drawn(initializer, dtype="float32", count=COUNT, key=KEY):
    return fastinit.fill(np.empty(count, dtype), initializer, key).astype(np.float64)


@functools.cache
def moments(law, order=12):
    """The first central moments of a law in units of its deviation, by Gauss and Legendre's rule; the first is of 0."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    low, high = law.ppf(1e-25), law.isf(1e-25)
    x, weights = low + (nodes + 1) * (high - low) / 2, weights * (high - low) / 2
    z = (x - law.mean()) / law.std()
    return [float((weights * law.pdf(x) * z**n).sum()) for n in range(order + 1)]


def scores(x, law, order=6):
    """How many standard errors the first raw moments of x, in units of the law's deviation, are from the law's own."""
    z = (x - law.mean()) / law.std()
    exact = moments(law)
    result, power = [], np.ones_like(z)
    for n in range(1, order + 1):
        power *= z
        result.append((np.mean(power) - exact[n]) / math.sqrt((exact[2 * n] - exact[n] ** 2) / len(z)))
    return np.array(result)


def kolmogorov(x, law):
    """sqrt(n) times the largest distance of the distribution functions."""
    p = np.sort(law.cdf(x))
    grid = np.arange(len(p) + 1) / len(p)
    return math.sqrt(len(p)) * max((grid[1:] - p).max(), (p - grid[:-1]).max())


CASES = [
    (fastinit.Uniform(), stats.uniform()),
    (fastinit.Uniform(-0.3, 0.3), stats.uniform(-0.3, 0.6)),
    (fastinit.Uniform(1.0, 3.0), stats.uniform(1.0, 2.0)),
    (fastinit.Normal(), stats.norm()),
    (fastinit.Normal(0.5, 0.02), stats.norm(0.5, 0.02)),
    (fastinit.TruncatedNormal(), stats.truncnorm(-2, 2)),
    (fastinit.TruncatedNormal(0.1, 0.5), stats.truncnorm(-2, 2, 0.1, 0.5)),
    (fastinit.TruncatedNormal(0.0, 1.0, -1.0, 3.0), stats.truncnorm(-1, 3)),
    (fastinit.TruncatedNormal(0.0, 1.0, 0.0, INF), stats.halfnorm()),
    (fastinit.TruncatedNormal(0.0, 1.0, -8.0, 8.0), stats.norm()),
    (fastinit.TruncatedNormal(0.0, 1.0, 2.0, 4.5), stats.truncnorm(2, 4.5)),
    (fastinit.TruncatedNormal(0.0, 1.0, 3.9, 4.6), stats.truncnorm(3.9, 4.6)),
    (fastinit.TruncatedNormal(0.0, 1.0, 6.0, INF), stats.truncnorm(6, 40)),
    (fastinit.TruncatedNormal(2.0, 0.5, -INF, -5.0), stats.truncnorm(-40, -5, 2.0, 0.5)),
    (fastinit.TruncatedNormal(0.5, 0.25, 0.25, 1.0, "absolute"), stats.truncnorm(-1, 2, 0.5, 0.25)),
    (fastinit.TruncatedNormal(0.0, 1.0, 1.0, 1.0625), stats.truncnorm(1.0, 1.0625)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "initializer, law", CASES, ids=lambda x: repr(x) if isinstance(x, fastinit.Initializer) else ""
)
def test_moments_and_distribution(initializer, law, dtype):
    x = drawn(initializer, dtype)
    assert np.isfinite(x).all()
    assert np.abs(scores(x, law)).max() < LIMIT
    assert kolmogorov(x[: 2**19], law) < 2.3  # 5e-5 of all samples pass it


def test_the_moments_of_the_laws_are_right():
    assert moments(stats.norm()) == pytest.approx([1, 0, 1, 0, 3, 0, 15, 0, 105, 0, 945, 0, 10395], rel=1e-9, abs=1e-9)
    for _, law in CASES:
        assert moments(law)[:3] == pytest.approx([1, 0, 1], rel=1e-6, abs=1e-6)


def test_the_scores_see_small_errors():
    """A mean, a deviation or a tail that is off by a little."""
    x, law = drawn(fastinit.Normal()), stats.norm()
    for spoiled in (x + 0.005, x * 1.005, np.clip(x, -3.0, 3.0), np.where(np.abs(x) > 3, x * 1.1, x)):
        assert np.abs(scores(spoiled, law)).max() > LIMIT
    assert kolmogorov(x[: 2**19] + 0.01, law) > 2.3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_narrow_dtypes(dtype):
    """The rounding has no bias, and widens the deviation by what Sheppard's correction says at most."""
    x = fastinit.fill(
        np.empty(COUNT, f"u{fastinit.dtypes.DTYPES[dtype].itemsize}"), fastinit.Normal(), KEY, dtype=dtype
    )
    values = np.array(
        [fastinit.dtypes.DTYPES[dtype].value(b) if bits_finite(dtype, b) else np.nan for b in range(256**x.itemsize)]
    )[x]
    assert np.isfinite(values).all()
    assert abs(values.mean()) < LIMIT / math.sqrt(COUNT)
    relative = 2.0 ** -(fastinit.dtypes.DTYPES[dtype].fraction + 1)
    assert abs(values.std() - 1) < relative**2 / 3 + LIMIT / math.sqrt(2 * COUNT)


def bits_finite(dtype, bits):
    found = fastinit.dtypes.DTYPES[dtype]
    return abs(found.value(bits)) <= found.max


def test_a_symmetric_uniform_has_mean_zero_exactly():
    """Its values are odd multiples of one step: each has its negative, and none is 0 or an end."""
    a = 0.25
    x = drawn(fastinit.Uniform(-a, a))
    steps = x / (a * 2.0**-24)
    assert (steps == np.rint(steps)).all() and (steps % 2 == 1).all()
    assert np.abs(x).min() > 0 and np.abs(x).max() < a
    # over all words, the sum is 0: a word and its complement give opposite values
    word = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    value, opposite = ((w.view(np.int32) >> 7 | 1).astype(np.float32) for w in (word, ~word))
    assert (value == -opposite).all()


@pytest.mark.parametrize("name", ["normal", "normal_64"])
def test_the_largest_normal_can_be_drawn(name):
    """The words that give the longest radius and the axis of the angle, through the reference's own formula."""
    double = name.endswith("64")
    bits = 64 if double else 32
    extremes = {}
    for label, a in {"longest": 0, "shortest": 2**bits - 1}.items():
        index = np.arange(2, dtype=np.uint64)
        words = np.array([a, 0], np.uint64)

        def chosen(key, i, words=words):
            return words[(i & np.uint64(1)).astype(int)].astype(np.uint64 if double else np.uint32)

        original = reference.draws64 if double else reference.words
        try:
            setattr(reference, original.__name__, chosen)
            extremes[label] = np.abs(reference.KINDS[name](None, index)).max()
        finally:
            setattr(reference, original.__name__, original)
    assert extremes["longest"] == pytest.approx(math.sqrt(2 * math.log(2) * (bits + 1)), rel=1e-6)
    assert 6.3 < extremes["longest"] <= NORMALS["float64" if double else "float32"]
    assert 0 < extremes["shortest"] < 2.0 ** -(bits // 2 - 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normals_stay_within_their_limit(dtype):
    x = fastinit.fill(np.empty(COUNT, dtype), fastinit.Normal(), KEY)
    assert np.isfinite(x).all() and (x != 0).all()
    assert np.abs(x).max() <= NORMALS[dtype]
    for limit in (1.0, 2.0, 3.0, 4.0, 4.5):
        p = 2 * stats.norm.sf(limit)
        found = np.count_nonzero(np.abs(x) > limit)
        assert abs(found - COUNT * p) < LIMIT * math.sqrt(COUNT * p) + 1
    # signs, and the pair that shares its words
    assert abs(np.count_nonzero(x > 0) - COUNT / 2) < LIMIT * math.sqrt(COUNT) / 2
    even, odd = x[0::2].astype(np.float64), x[1::2].astype(np.float64)
    for f in (lambda t: t, np.abs, np.square):
        assert abs(np.corrcoef(f(even), f(odd))[0, 1]) < LIMIT / math.sqrt(COUNT / 2)


def test_neighbours_are_uncorrelated():
    for initializer in (
        fastinit.Normal(),
        fastinit.Uniform(-1.0, 1.0),
        fastinit.TruncatedNormal(),
        fastinit.TruncatedNormal(low=-3.0),
    ):
        x = drawn(initializer)
        x = (x - x.mean()) / x.std()
        for lag in (1, 2, 3, 4, 5, 8, 64, 96, 192, 1024):
            for f in (lambda t: t, np.abs):
                assert abs(np.corrcoef(f(x[lag:]), f(x[:-lag]))[0, 1]) < LIMIT / math.sqrt(COUNT)


def test_keys_are_uncorrelated():
    base = drawn(fastinit.Normal(), count=2**18)
    others = [Key("statistics").fold_in(i) for i in range(20)] + [
        Key.from_words(KEY.words[0] ^ 1 << bit, *KEY.words[1:]) for bit in range(32)
    ]
    for key in others:
        assert abs(np.corrcoef(base, drawn(fastinit.Normal(), count=2**18, key=key))[0, 1]) < LIMIT / 2**9


def test_expected_moments_are_those_of_the_values():
    """What Sampling says of itself."""
    for initializer, law in CASES:
        sampling = initializer.sampling()
        assert sampling.expected_mean == pytest.approx(law.mean(), rel=1e-6, abs=1e-9)
        assert sampling.expected_std == pytest.approx(law.std(), rel=2e-5)
