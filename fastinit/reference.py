"""Executable specification of stream v1: ``docs/stream-v1.md`` in plain NumPy, written to be checked by eye.

It uses only integer arithmetic, conversions, and single IEEE operations in the precision of their operands, in written
order. It is slow and used by tests only, which compare every compiled kernel with it bit for bit.

Samplers take the key's four words and a uint64 array of global element indices, and return one value per index.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from fastinit import coefficients as table

__all__ = ["KINDS", "draws64", "fill", "finish", "narrow", "philox4x32", "values", "words"]

f32, f64 = np.float32, np.float64
u32, u64 = np.uint32, np.uint64
LOW32: Final = u64(0xFFFFFFFF)


# Words


def philox4x32(counter, key, rounds=10):
    """Philox4x32 (Salmon, Moraes, Dror and Shaw, SC11): the four words of a block, from its counter.

    `counter` is four words, as integers or uint64 arrays; `key` is two integers. Returns four uint64 arrays.
    """
    c0, c1, c2, c3 = (np.asarray(c, u64) for c in counter)
    k0, k1 = (int(k) for k in key)
    for _ in range(rounds):
        p0 = c0 * u64(0xD2511F53)
        p1 = c2 * u64(0xCD9E8D57)
        c0, c1, c2, c3 = p1 >> u64(32) ^ c1 ^ u64(k0), p1 & LOW32, p0 >> u64(32) ^ c3 ^ u64(k1), p0 & LOW32
        k0 = (k0 + 0x9E3779B9) % 2**32
        k1 = (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def _blocks(key, block):
    k0, k1, c2, c3 = key
    return philox4x32((block & LOW32, block >> u64(32), c2, c3), (k0, k1))


def words(key, index):
    """The uint32 word of each element: word ``i & 3`` of block ``i >> 2``."""
    index = np.asarray(index, u64)
    return np.choose((index & u64(3)).astype(np.intp), _blocks(key, index >> u64(2))).astype(u32)


def draws64(key, index):
    """The uint64 draw of each element: words ``2 (i & 1)`` (low) and ``2 (i & 1) + 1`` (high) of block ``i >> 1``."""
    index = np.asarray(index, u64)
    w0, w1, w2, w3 = _blocks(key, index >> u64(1))
    return np.where(index & u64(1), w2 | w3 << u64(32), w0 | w1 << u64(32))


# From a word to a value in float32


def horner(coefficients, x):
    """Evaluates a polynomial, coefficients from the lowest degree: multiply, then add, with one rounding each."""
    coefficients = np.asarray(coefficients, x.dtype)
    p = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        p = p * x + c
    return p


def uniform_symmetric(key, index):
    """Odd integers in (-2**24, 2**24)."""
    return (words(key, index).view(np.int32) >> 7 | 1).astype(f32)


def uniform(key, index):
    """Integers in [0, 2**24)."""
    return (words(key, index) >> u32(8)).astype(f32)


def normal(key, index):
    """Box and Muller (1958): the words a, b of elements 2j and 2j + 1 give both values."""
    index = np.asarray(index, u64)
    a, b = words(key, index & ~u64(1)), words(key, index | u64(1))

    v = a.view(np.int32).astype(f32) + f32(0.5)
    bits = v.view(u32)
    upper = f32(1) - (bits & u32(0x7FFFFF) | u32(0x3F000000)).view(f32)
    y = np.where(v < 0, v * f32(-(2.0**-32)), upper)
    k = np.where(v < 0, 0, 158 - (bits >> u32(23)).astype(np.int32)).astype(f32)
    r = np.sqrt(horner(table.NORMAL_L, y) * y + k * f32(table.TWO_LN2_F))

    x = (b << u32(2) | u32(2)).view(np.int32).astype(f32) * f32(2.0**-31)
    t = x * x
    sine = horner(table.NORMAL_S, t) * x
    cosine = horner(table.NORMAL_C, t) * t + f32(1)
    cosine = np.where(b >> u32(31), -cosine, cosine)
    return np.where((b >> u32(30) ^ index) & u64(1), sine, cosine) * r


def truncated_2(key, index):
    """Inverse CDF of the normal truncated to +-2, as a polynomial in a square root."""
    v = (words(key, index).view(np.int32) | 1).astype(f32) * f32(2.0**-31)
    q = np.sqrt(f32(1) - (v * v) * f32(table.TRUNC2_SCALE)) - f32(table.TRUNC2_SHIFT)
    return horner(table.TRUNC2_P, q) * v


def truncated(key, index, window):
    """Inverse normal CDF on a window (first, count) of the 2**32 cells, in octaves."""
    first, count = window
    w = (words(key, index).astype(u64) * u64(count) >> u64(32)) + u64(first)
    upper = w >= 2**31
    m = np.where(upper, LOW32 - w, w).astype(np.int32).astype(f32) + f32(0.5)
    bits = np.minimum(m, f32(2**31 - 128)).view(u32)
    octave = (bits >> u32(23)) - u32(126)
    s = (bits & u32(0x7FFFFF) | u32(0x3F800000)).view(f32) - f32(2)
    z = horner(np.array(table.ICDF, f32)[:, octave], s)
    return np.where(upper, z, -z)


# From a 64-bit draw to a value in float64


def uniform_symmetric_64(key, index):
    """Odd integers in (-2**53, 2**53)."""
    return (draws64(key, index).view(np.int64) >> 10 | 1).astype(f64)


def uniform_64(key, index):
    """Integers in [0, 2**53)."""
    return (draws64(key, index) >> u64(11)).astype(f64)


def _split(m, exponent):
    """(y, k) such that m = (1 - y) 2**(exponent - 1022 - k), y in (0, 1/2]."""
    bits = m.view(u64)
    y = f64(1) - (bits & u64(0xFFFFFFFFFFFFF) | u64(0x3FE0000000000000)).view(f64)
    return y, (exponent - (bits >> u64(52)).astype(np.int64)).astype(f64)


def _twice_neg_log(y, k):
    """-2 ln((1 - y) 2**-k)."""
    return horner(table.NORMAL64_L, y) * y + k * f64(table.TWO_LN2)


def normal_64(key, index):
    """Box and Muller, as :func:`normal`."""
    index = np.asarray(index, u64)
    a, b = draws64(key, index & ~u64(1)), draws64(key, index | u64(1))

    v = a.view(np.int64).astype(f64) + f64(0.5)
    y, k = _split(v, 1086)
    y, k = np.where(v < 0, v * f64(-(2.0**-64)), y), np.where(v < 0, f64(0), k)
    r = np.sqrt(_twice_neg_log(y, k))

    x = (b << u64(2) | u64(2)).view(np.int64).astype(f64) * f64(2.0**-63)
    t = x * x
    sine = horner(table.NORMAL64_S, t) * x
    cosine = horner(table.NORMAL64_C, t) * t + f64(1)
    cosine = np.where(b >> u64(63), -cosine, cosine)
    return np.where((b >> u64(62) ^ index) & u64(1), sine, cosine) * r


def truncated_64(key, index, window):
    """AS 241 (Wichura, Applied Statistics 37, 1988) on a window (first, count) of the 2**64 cells."""
    first, count = window
    draw = draws64(key, index).astype(object)  # integers of any size
    w = ((draw * count >> 64) + first).astype(u64)
    upper = w >= u64(2**63)
    m = np.where(upper, ~w, w).view(np.int64)
    q = (m.astype(f64) + f64(0.5)) * f64(2.0**-64)  # distance from the nearer end of the unit interval
    x = ((2**63 - 1 - m).astype(f64) + f64(0.5)) * f64(2.0**-64)  # distance from its middle

    t = np.sqrt(_twice_neg_log(*_split(q, 1022)) * f64(0.5))
    near, far = t - f64(1.6), t - f64(5)
    near = horner(table.AS241_C, near) / horner(table.AS241_D, near)
    far = horner(table.AS241_E, far) / horner(table.AS241_F, far)
    r = f64(0.180625) - x * x
    middle = (x * horner(table.AS241_A, r)) / horner(table.AS241_B, r)
    z = np.where(x <= 0.425, middle, np.where(t <= 5, near, far))
    return np.where(upper, z, -z)


def truncated_tail_64(key, index, tail):
    """The normal beyond low >= 4, tail = (low, share): Newton's method on ln Q(x), Q(x) = phi(x) N(1 / x**2) / x."""
    low, share = map(f64, tail)
    u = ((draws64(key, index) >> u64(12)).astype(f64) + f64(0.5)) * f64(2.0**-52) * share
    y, k = _split(f64(1) - u, 1022)
    y, k = np.where(u > 0.5, y, u), np.where(u > 0.5, k, f64(0))
    target = low * low + _twice_neg_log(y, k)
    mills_low = horner(table.TAIL_N, np.asarray(f64(1) / (low * low)))
    x = np.sqrt(target)
    for _ in range(3):
        mills = horner(table.TAIL_N, f64(1) / (x * x))
        excess = _twice_neg_log(*_split((low * mills) / (x * mills_low), 1022))
        x = x - (((x * x - target) + excess) * mills) / (f64(2) * x)
    return x


# From a value to the bits of a dtype


def finish(z, scale, shift=0.0, clamp=None):
    """z * scale, then + shift unless it is 0, then clamped into the closed interval `clamp`, in the precision of z."""
    real = z.dtype.type
    x = z * real(scale)
    if real(shift) != 0:
        x = x + real(shift)
    if clamp is not None:
        low, high = real(clamp[0]), real(clamp[1])
        x = np.where(x < low, low, x)
        x = np.where(x > high, high, x)
    return x


# dtype: bits of the exponent, bits of the fraction
FORMATS: Final = {"float16": (5, 10), "bfloat16": (8, 7), "float8_e4m3fn": (4, 3), "float8_e5m2": (5, 2)}


def narrow(x, dtype):
    """Bits of float32 values in a narrower dtype, rounded to nearest even. Values must be within its range."""
    exponent_bits, fraction_bits = FORMATS[dtype]
    bits = np.asarray(x, f32).view(u32).astype(np.int64)
    sign, exponent, significand = bits >> 31, bits >> 23 & 0xFF, bits & 0x7FFFFF
    significand = np.where(exponent > 0, significand | 1 << 23, significand)
    exponent = np.maximum(exponent, 1)  # |x| = significand * 2**(exponent - 150)

    exponent = exponent - 127 + (2 ** (exponent_bits - 1) - 1)  # below 1 the result is subnormal
    surplus = np.minimum(23 - fraction_bits + np.maximum(1 - exponent, 0), 30)
    kept, rest, half = significand >> surplus, significand & (1 << surplus) - 1, 1 << surplus - 1
    kept = kept + ((rest > half) | (rest == half) & (kept & 1 == 1))

    # the leading bit of kept (if normal) adds 1 to the exponent field, and so does a carry
    magnitude = (np.maximum(exponent, 1) - 1 << fraction_bits) + kept
    width = 1 + exponent_bits + fraction_bits
    return (sign << width - 1 | magnitude).astype(np.uint16 if width == 16 else np.uint8)


# in the order of the kernels' enumeration
KINDS: Final[dict[str, Any]] = {
    "constant": None,
    "words": words,
    "uniform_symmetric": uniform_symmetric,
    "uniform": uniform,
    "normal": normal,
    "truncated_2": truncated_2,
    "truncated": truncated,
    "uniform_symmetric_64": uniform_symmetric_64,
    "uniform_64": uniform_64,
    "normal_64": normal_64,
    "truncated_64": truncated_64,
    "truncated_tail_64": truncated_tail_64,
}
STORAGE: Final = {"float32": u32, "float64": u64, "float16": np.uint16, "bfloat16": np.uint16, "uint32": u32}


def values(key, kind, index, dtype="float32", scale=1.0, shift=0.0, clamp=None, **parameters):
    """Values of the elements with these indices: float32 and float64 directly, narrower dtypes as bits (uint16, uint8).

    `parameters` depend on the kind: `window`, `tail`, or the `bits` of a constant.
    """
    if kind == "constant":
        return np.full(np.shape(index), parameters["bits"], STORAGE.get(dtype, np.uint8))
    z = KINDS[kind](key, index, **parameters)
    if kind == "words":
        return z
    x = finish(z, scale, shift, clamp)
    if dtype == "float64":
        assert x.dtype == f64, f"{kind} does not draw float64"
        return x
    x = x.astype(f32)
    return x if dtype == "float32" else narrow(x, dtype)


def fill(key, kind, start, count, dtype="float32", scale=1.0, shift=0.0, clamp=None, **parameters):
    """The `count` elements from `start` on, as written by the kernels; see :func:`values`."""
    return values(key, kind, np.arange(count, dtype=u64) + u64(start), dtype, scale, shift, clamp, **parameters)
