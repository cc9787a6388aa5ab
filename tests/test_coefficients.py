"""The polynomial coefficients of stream v1: what they approximate, and that the generator still writes them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastinit import coefficients

mpmath = pytest.importorskip("mpmath")
mp, mpf = mpmath.mp, mpmath.mpf

KERNELS = Path(__file__).resolve().parents[1] / "fastinit" / "kernels"


@pytest.fixture(autouse=True)
def precision():
    with mp.workprec(140):
        yield


def horner(table, x):
    """Highest degree first, one rounding per operation, in the dtype of x."""
    table = np.asarray(table, x.dtype)
    result = np.full_like(x, table[-1])
    for coefficient in table[-2::-1]:
        result = result * x + coefficient
    return result


def spread(low, high, real, count=1000):
    """Points of [low, high] in the target precision, denser at the ends."""
    return ((low + high) / 2 - (high - low) / 2 * np.cos(np.linspace(0, np.pi, count))).astype(real)


def ulps(value, true):
    """The largest error in units in the last place of the true value."""
    units = np.spacing(np.abs(np.array([float(t) for t in true])).astype(value.dtype)).astype(float)
    return max(abs(float((mpf(float(v)) - t) / float(u))) for v, t, u in zip(value, true, units, strict=True))


def quantile_ulps(z, p, q):
    """The same for |z| = -Phi^-1(p), q = 1/2 - p, by going back through the distribution function."""
    errors = []
    for value, tail, middle in zip(z, p, q, strict=True):
        x = mpf(float(value))
        excess = mpmath.erf(x / mpmath.sqrt(2)) / 2 - middle if x < 1 else tail - mpmath.erfc(x / mpmath.sqrt(2)) / 2
        errors.append(abs(excess) * mpmath.sqrt(2 * mp.pi) * mpmath.exp(x * x / 2) / float(np.spacing(abs(value))))
    return float(max(errors))


def logarithm(table, real):
    y = spread(1e-9, 0.5, real)
    return ulps(horner(table, y) * y, [-2 * mpmath.log1p(-mpf(float(v))) for v in y])


def sine(table, real):
    x = spread(1e-9, 1, real)
    return ulps(horner(table, x * x) * x, [mpmath.sin(mp.pi * mpf(float(v)) / 4) for v in x])


def cosine(table, real):
    x = spread(1e-9, 1, real)
    t = x * x
    return ulps(horner(table, t) * t + real(1), [mpmath.cos(mp.pi * mpf(float(v)) / 4) for v in x])


def truncated(table, real):
    v = spread(2.0**-31, 1, real, 500)
    root = np.sqrt(real(1) - (v * v) * real(coefficients.TRUNC2_SCALE))
    z = horner(table, root - real(coefficients.TRUNC2_SHIFT)) * v
    q = [mpmath.erf(mpmath.sqrt(2)) * mpf(float(value)) / 2 for value in v]
    return quantile_ulps(z, [mpf(1) / 2 - value for value in q], q)


def icdf(f, table):
    """|z| for float32 distances f from the end of the unit interval, in cells of 2^-32."""
    bits = f.view(np.uint32)
    s = ((bits & 0x7FFFFF) | 0x3F800000).view(np.float32) - np.float32(2)
    return horner(np.asarray(table, np.float32)[:, (bits >> 23) - 126], s)


def cells(m):
    return np.minimum(np.asarray(m).astype(np.int32).astype(np.float32) + np.float32(0.5), np.float32(2**31 - 128))


def inverse_cdf(table, _):
    f = cells(np.unique(np.exp2(np.linspace(0, 31, 1500)[:-1]).astype(np.int64) - 1))
    p = [mpf(float(value)) / 2**32 for value in f]
    return quantile_ulps(icdf(f, table), p, [mpf(1) / 2 - value for value in p])


def mills(table, real):
    t = spread(1e-9, 1 / 16, real, 500)
    x = [1 / mpmath.sqrt(mpf(float(value))) for value in t]
    true = [v * mpmath.sqrt(mp.pi / 2) * mpmath.exp(v * v / 2) * mpmath.erfc(v / mpmath.sqrt(2)) for v in x]
    return ulps(horner(table, t), true)


def ratio(numerator, denominator, p, argument, factor=1):
    z = factor * horner(numerator, argument) / horner(denominator, argument)
    tails = [mpf(float(value)) for value in p]
    return quantile_ulps(z, tails, [mpf(1) / 2 - value for value in tails])


def as241_middle(table, _):
    p = spread(0.075, 0.5 - 1e-9, float, 500)
    q = 0.5 - p
    return ratio(table, coefficients.AS241_B, p, 0.180625 - q * q, q)


def as241_tail(table, _):
    p = np.exp(-(spread(1.62, 5, float, 500) ** 2))
    return ratio(table, coefficients.AS241_D, p, np.sqrt(-np.log(p)) - 1.6)


def as241_far_tail(table, _):
    p = np.exp(-(spread(5, 26, float, 500) ** 2))
    return ratio(table, coefficients.AS241_F, p, np.sqrt(-np.log(p)) - 5)


# table, its error function, precision, bound in ulp
POLYNOMIALS = [
    ("NORMAL_L", logarithm, np.float32, 2.5),
    ("NORMAL_S", sine, np.float32, 2),
    ("NORMAL_C", cosine, np.float32, 1.5),
    ("TRUNC2_P", truncated, np.float32, 4),
    ("ICDF", inverse_cdf, np.float32, 2.9),
    ("NORMAL64_L", logarithm, np.float64, 2.5),
    ("NORMAL64_S", sine, np.float64, 2),
    ("NORMAL64_C", cosine, np.float64, 1.5),
    ("TAIL_N", mills, np.float64, 2),
    ("AS241_A", as241_middle, np.float64, 6),
    ("AS241_C", as241_tail, np.float64, 6),
    ("AS241_E", as241_far_tail, np.float64, 6),
]
NAMES = [row[0] for row in POLYNOMIALS]


@pytest.mark.parametrize(("name", "error", "real", "bound"), POLYNOMIALS, ids=NAMES)
def test_accuracy(name, error, real, bound):
    assert error(getattr(coefficients, name), real) <= bound


@pytest.mark.parametrize(("name", "error", "real", "bound"), POLYNOMIALS, ids=NAMES)
def test_a_rotated_table_is_noticed(name, error, real, bound):
    table = getattr(coefficients, name)
    assert error(table[1:] + table[:1], real) > bound


def test_rotated_octaves_are_noticed():
    rotated = tuple(row[1:] + row[:1] for row in coefficients.ICDF)
    assert inverse_cdf(rotated, None) > 2.9


def test_constants():
    assert float(2 * mpmath.log(2)) == coefficients.TWO_LN2
    assert np.float32(coefficients.TWO_LN2) == coefficients.TWO_LN2_F
    assert np.float32(float(mpmath.erf(mpmath.sqrt(2)) ** 2)) == coefficients.TRUNC2_SCALE


@pytest.mark.parametrize("border", [1 << k for k in range(1, 32)])
def test_inverse_cdf_never_increases_across_a_border(border):
    m = np.arange(max(border - 3000, 0), min(border + 3000, 1 << 31), dtype=np.int64)
    z = icdf(cells(m), coefficients.ICDF)
    assert (np.diff(z) <= 0).all()
    assert z.min() > 0


@pytest.mark.long  # their accuracy and their digests are tested above and in test_version.py
def test_generator_writes_these_files():
    done = subprocess.run(
        [sys.executable, str(KERNELS / "coefficients.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
