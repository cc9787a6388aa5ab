"""Measure the errors of stream v1's coefficients, evaluated in the target precision.

Run by hand, with NumPy and mpmath installed, where long double is longer than double (x86)::

    python fastinit/kernels/accuracy.py

Every function is evaluated in the written order of the stream and compared with the exact function of the same
rounded argument, so a row shows the error of the polynomial and of its evaluation, not that of rounding the word.
"""

import runpy

import numpy as np
from coefficients import PRECISION, PYTHON_FILE, horner, mills, normal_quantile
from mpmath import mp, mpf

TABLES = runpy.run_path(str(PYTHON_FILE))
COUNT = 1 << 21


def main():
    mp.prec = PRECISION
    rng = np.random.default_rng(1)
    print(f"{'function':32} {'points':>9} {'max ulp':>8} {'rms ulp':>8} {'max rel.':>10}")
    for kind in (np.uint32, np.uint64):
        bits = 8 * np.dtype(kind).itemsize
        words = rng.integers(0, 2**bits, COUNT, dtype=kind)
        words[::2] >>= rng.integers(0, bits, COUNT // 2, dtype=kind)  # spread half of them over the octaves
        for part, value, true in normal_parts(words):
            report(f"float{bits} normal: {part}", value, true)
    report("float32 truncated to 2 sigma", *truncated(rng.integers(0, 2**32, COUNT, dtype=np.uint32)))
    f = np.floor(np.exp2(rng.uniform(-1, 31, COUNT))).astype(np.float32) + np.float32(0.5)
    report("float32 inverse CDF", *inverse_cdf(np.minimum(f, np.float32(2**31 - 128))))
    t = rng.uniform(0, 1 / 16, 4000)
    report("float64 Mills ratio, x >= 4", horner(np.array(TABLES["TAIL_N"]), t), high_precision(mills, t))
    p = np.concatenate([rng.uniform(0, 0.5, 3000), np.exp(-(rng.uniform(2, 37, 3000) ** 2) / 2)])
    value, region = as241(p, 0.5 - p)
    for index, name in enumerate(("|q| <= 0.425", "r <= 5", "r > 5")):
        part = region == index
        report(f"float64 AS 241, {name}", value[part], high_precision(normal_quantile, p[part]))


def normal_parts(words):
    """(name, computed, true) of the radius, sine and cosine, and of sine times radius of another word."""
    bits = 8 * words.itemsize
    real, signed, mantissa = (np.float32, np.int32, 23) if bits == 32 else (np.float64, np.int64, 52)
    name = "NORMAL" if bits == 32 else "NORMAL64"
    logarithm, sine, cosine = (np.array(TABLES[f"{name}_{part}"], real) for part in "LSC")
    two_ln2 = real(TABLES["TWO_LN2_F" if bits == 32 else "TWO_LN2"])
    v = words.view(signed).astype(real) + real(0.5)
    half = np.array(0.5, real).view(words.dtype)
    y = (v.view(words.dtype) & words.dtype.type(2**mantissa - 1)) | half
    y = np.where(v < 0, v * -real(0.5**bits), 1 - y.view(real))
    k = np.where(v < 0, 0, bits + (half >> mantissa).astype(signed) - (v.view(words.dtype) >> mantissa).astype(signed))
    radius = np.sqrt(horner(logarithm, y) * y + k.astype(real) * two_ln2)
    x = ((words << 2) | 2).view(signed).astype(real) * real(0.5 ** (bits - 1))
    t = x * x
    s, c = horner(sine, t) * x, horner(cosine, t) * t + 1
    exact = np.abs(v).astype(np.longdouble) * np.longdouble(0.5**bits)
    turn = x.astype(np.longdouble) * np.arctan(np.longdouble(1))
    true_radius = np.sqrt(-2 * np.where(v < 0, np.log1p(-exact), np.log(exact)))
    yield "radius", radius, true_radius
    yield "sine", s, np.sin(turn)
    yield "cosine", c, np.cos(turn)
    yield "sine * radius", s * radius[::-1], np.sin(turn) * true_radius[::-1]
    yield "cosine * radius", c * radius[::-1], np.cos(turn) * true_radius[::-1]


def truncated(words):
    """Computed and true value of the normal truncated to +-2 sigma."""
    scale, shift = np.float32(TABLES["TRUNC2_SCALE"]), np.float32(TABLES["TRUNC2_SHIFT"])
    v = (words.view(np.int32) | 1).astype(np.float32) * np.float32(2**-31)
    q = np.sqrt(1 - v * v * scale) - shift
    mass = np.abs(v.astype(float)) * (float(mp.erf(mp.sqrt(2))) / 2)
    return horner(np.array(TABLES["TRUNC2_P"], np.float32), q) * v, np.copysign(as241(0.5 - mass, mass)[0], v)


def inverse_cdf(f):
    """Computed and true |z| of the float32 values f in [0.5, 2^31), distances in cells of 2^-32."""
    bits = f.view(np.uint32)
    s = ((bits & 0x7FFFFF) | 0x3F800000).view(np.float32) - np.float32(2)
    value = horner(np.array(TABLES["ICDF"], np.float32)[:, (bits >> 23) - 126], s)
    p = f.astype(float) * 2.0**-32
    return value, as241(p, 0.5 - p)[0]


def as241(p, q):
    """-Phi^-1(p) for p in (0, 1/2), q = 1/2 - p, in float64, and the region of each value."""
    a, b, c, d, e, f = (np.array(TABLES[f"AS241_{letter}"]) for letter in "ABCDEF")
    r = 0.180625 - q * q
    s = np.sqrt(-np.log(p))
    region = np.where(q <= 0.425, 0, np.where(s <= 5, 1, 2))
    tail = horner(c, s - 1.6) / horner(d, s - 1.6), horner(e, s - 5) / horner(f, s - 5)
    return np.choose(region, (q * horner(a, r) / horner(b, r), *tail)), region


def high_precision(function, x):
    """Long double values of an mpmath function."""
    values = [function(mpf(float(value))) for value in x]
    high = [float(value) for value in values]
    low = [float(value - mpf(part)) for value, part in zip(values, high, strict=True)]
    return np.array(high, np.longdouble) + np.array(low, np.longdouble)


def report(name, value, true):
    """Print the largest and rms error, in units in the last place of the true value, and the largest relative one."""
    error = value.astype(np.longdouble) - true
    ulps = error / np.spacing(np.abs(true).astype(value.dtype))
    relative = np.abs(error / true).max()
    print(f"{name:32} {len(value):9} {np.abs(ulps).max():8.2f} {np.sqrt((ulps**2).mean()):8.3f} {relative:10.1e}")


if __name__ == "__main__":
    main()
