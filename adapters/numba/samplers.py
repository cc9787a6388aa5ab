"""The samplers of stream v1 as source for Numba's compiler. ``docs/stream-v1.md`` explains each line.

The code uses the operations of :mod:`fastinit.adapters.numba.arithmetic`, in the order of the specification. A draw is
a uint64: a 32-bit word or a 64-bit number. A sampler takes one draw and returns a standard value, which :func:`finish`
scales. The normal sampler takes the two draws of elements 2j and 2j + 1.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from fastinit.adapters.numba.arithmetic import (
    add,
    at_least,
    at_most,
    bits32,
    bits64,
    div,
    exact,
    float32_of_bits,
    float32_of_int,
    float64_of_bits,
    float64_of_int,
    mul,
    negated,
    polynomial,
    product32,
    shifted32,
    single,
    sqrt,
    sub,
)
from fastinit.extending import DTYPES, DType
from fastinit.extending import coefficients as table

__all__ = [
    "ENCODERS",
    "block_draws",
    "block_words",
    "finish",
    "normal",
    "normal_64",
    "philox4x32",
    "truncated",
    "truncated_2",
    "truncated_64",
    "truncated_tail_64",
    "uniform",
    "uniform_64",
    "uniform_symmetric",
    "uniform_symmetric_64",
]

f32, f64, u64 = np.float32, np.float64, np.uint64

LOW32: Final = u64(0xFFFFFFFF)
ZERO, ONE, TWO = u64(0), u64(1), u64(2)

normal_log, normal_sine, normal_cosine, truncated_2_ratio = (
    polynomial(c, f32) for c in (table.NORMAL_L, table.NORMAL_S, table.NORMAL_C, table.TRUNC2_P)
)
normal_64_log, normal_64_sine, normal_64_cosine, tail_mills = (
    polynomial(c, f64) for c in (table.NORMAL64_L, table.NORMAL64_S, table.NORMAL64_C, table.TAIL_N)
)
as241_a, as241_b, as241_c, as241_d, as241_e, as241_f = (
    polynomial(c, f64)
    for c in (table.AS241_A, table.AS241_B, table.AS241_C, table.AS241_D, table.AS241_E, table.AS241_F)
)
ICDF: Final = np.array(table.ICDF, f32)  # compiled code treats a global array as a constant
TRUNC2_SCALE, TRUNC2_SHIFT = f32(table.TRUNC2_SCALE), f32(table.TRUNC2_SHIFT)
TWO_LN2_F, TWO_LN2 = f32(table.TWO_LN2_F), f64(table.TWO_LN2)


# Words


@exact
def philox4x32(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC11): the four words of a block from its counter and key."""
    for _ in range(10):
        p0 = product32(c0, u64(0xD2511F53))
        p1 = product32(c2, u64(0xCD9E8D57))
        c0, c1, c2, c3 = (p1 >> u64(32)) ^ c1 ^ k0, p1 & LOW32, (p0 >> u64(32)) ^ c3 ^ k1, p0 & LOW32
        k0 = (k0 + u64(0x9E3779B9)) & LOW32
        k1 = (k1 + u64(0xBB67AE85)) & LOW32
    return c0, c1, c2, c3


@exact
def block_words(key: Any, block: Any) -> Any:
    """The four words of a block of a key's stream."""
    # the masks tell the compiler that 32-bit multiplications suffice
    k0, k1, c2, c3 = u64(key[0]) & LOW32, u64(key[1]) & LOW32, u64(key[2]) & LOW32, u64(key[3]) & LOW32
    return philox4x32(block & LOW32, block >> u64(32), c2, c3, k0, k1)


@exact
def block_draws(key: Any, block: Any) -> Any:
    """The two 64-bit draws of a block."""
    w0, w1, w2, w3 = block_words(key, block)
    return w0 | (w1 << u64(32)), w2 | (w3 << u64(32))


# From a word to a value in float32


@exact
def uniform_symmetric(w: Any) -> Any:
    """An odd integer in (-2**24, 2**24)."""
    return float32_of_int(shifted32(w, u64(7)) | ONE)


@exact
def uniform(w: Any) -> Any:
    """An integer in [0, 2**24)."""
    return float32_of_int(w >> u64(8))


@exact
def normal(a: Any, b: Any) -> Any:
    """Box and Muller (1958): two values from two words."""
    v = add(float32_of_int(a), f32(0.5))
    bits = bits32(v)
    is_lower = a >= u64(0x80000000)  # where v < 0
    upper = sub(f32(1), float32_of_bits((bits & u64(0x7FFFFF)) | u64(0x3F000000)))
    y = mul(v, f32(-(2.0**-32))) if is_lower else upper
    k = float32_of_int(ZERO if is_lower else u64(158) - (bits >> u64(23)))
    r = sqrt(add(mul(normal_log(y), y), mul(k, TWO_LN2_F)))

    x = mul(float32_of_int((b << u64(2)) | TWO), f32(2.0**-31))
    t = mul(x, x)
    sine = mul(normal_sine(t), x)
    cosine = add(mul(normal_cosine(t), t), f32(1))
    cosine = float32_of_bits(bits32(cosine) ^ (b & u64(0x80000000)))
    is_turned = b & u64(0x40000000) != ZERO
    first, second = (sine, cosine) if is_turned else (cosine, sine)
    return mul(first, r), mul(second, r)


@exact
def truncated_2(w: Any) -> Any:
    """The normal truncated to +-2: its inverse distribution function, smooth in a square root."""
    v = mul(float32_of_int(w | ONE), f32(2.0**-31))
    q = sub(sqrt(sub(f32(1), mul(mul(v, v), TRUNC2_SCALE))), TRUNC2_SHIFT)
    return mul(truncated_2_ratio(q), v)


@exact
def truncated(w: Any, first: Any, count: Any) -> Any:
    """The inverse normal distribution function on a window (first, count) of the 2**32 cells, in octaves."""
    cell = (w * count >> u64(32)) + first
    is_upper = cell >= u64(0x80000000)
    m = add(float32_of_int(LOW32 - cell if is_upper else cell), f32(0.5))
    bits = bits32(at_most(m, f32(2.0**31 - 128)))
    octave = np.intp((bits >> u64(23)) - u64(126))
    s = sub(float32_of_bits((bits & u64(0x7FFFFF)) | u64(0x3F800000)), f32(2))
    z = ICDF[ICDF.shape[0] - 1, octave]
    for degree in range(ICDF.shape[0] - 2, -1, -1):
        z = add(mul(z, s), ICDF[degree, octave])
    return z if is_upper else negated(z)


# From a 64-bit draw to a value in float64


@exact
def uniform_symmetric_64(d: Any) -> Any:
    """An odd integer in (-2**53, 2**53)."""
    return float64_of_int((d >> u64(10)) | (d >> u64(63)) * u64(0xFFC0000000000000) | ONE)


@exact
def uniform_64(d: Any) -> Any:
    """An integer in [0, 2**53)."""
    return float64_of_int(d >> u64(11))


@exact
def _split(m: Any, exponent: Any) -> Any:
    """(y, k) such that m = (1 - y) 2**(exponent - 1022 - k), y in (0, 1/2]."""
    bits = bits64(m)
    y = sub(f64(1), float64_of_bits((bits & u64(0xFFFFFFFFFFFFF)) | u64(0x3FE0000000000000)))
    return y, sub(f64(exponent), float64_of_int(bits >> u64(52)))


@exact
def _twice_neg_log(y: Any, k: Any) -> Any:
    """-2 ln((1 - y) 2**-k)."""
    return add(mul(normal_64_log(y), y), mul(k, TWO_LN2))


@exact
def normal_64(a: Any, b: Any) -> Any:
    """Box and Muller, as in :func:`normal`."""
    v = add(float64_of_int(a), f64(0.5))
    is_lower = a >= u64(1 << 63)  # where v < 0
    bits = bits64(v)
    upper = sub(f64(1), float64_of_bits((bits & u64(0xFFFFFFFFFFFFF)) | u64(0x3FE0000000000000)))
    y = mul(v, f64(-(2.0**-64))) if is_lower else upper
    k = float64_of_int(ZERO if is_lower else u64(1086) - (bits >> u64(52)))
    r = sqrt(_twice_neg_log(y, k))

    x = mul(float64_of_int((b << u64(2)) | TWO), f64(2.0**-63))
    t = mul(x, x)
    sine = mul(normal_64_sine(t), x)
    cosine = add(mul(normal_64_cosine(t), t), f64(1))
    cosine = float64_of_bits(bits64(cosine) ^ (b & u64(1 << 63)))
    is_turned = b & u64(1 << 62) != ZERO
    first, second = (sine, cosine) if is_turned else (cosine, sine)
    return mul(first, r), mul(second, r)


@exact
def _high_product(a: Any, b: Any) -> Any:
    """The upper half of the 128-bit product a b."""
    a0, a1, b0, b1 = a & LOW32, a >> u64(32), b & LOW32, b >> u64(32)
    middle = a1 * b0 + (a0 * b0 >> u64(32))
    other = a0 * b1 + (middle & LOW32)
    return a1 * b1 + (middle >> u64(32)) + (other >> u64(32))


@exact
def truncated_64(d: Any, first: Any, count: Any) -> Any:
    """AS 241 (Wichura, Applied Statistics 37, 1988) on a window (first, count) of the 2**64 cells."""
    cell = _high_product(d, count) + first
    is_upper = cell >= u64(1 << 63)
    m = ~cell if is_upper else cell
    q = mul(add(float64_of_int(m), f64(0.5)), f64(2.0**-64))  # from the nearer end of the unit interval
    x = mul(add(float64_of_int(u64((1 << 63) - 1) - m), f64(0.5)), f64(2.0**-64))  # from its middle
    if x <= f64(0.425):
        r = sub(f64(0.180625), mul(x, x))
        z = div(mul(x, as241_a(r)), as241_b(r))
    else:
        y, k = _split(q, 1022)
        t = sqrt(mul(_twice_neg_log(y, k), f64(0.5)))
        if t <= f64(5):
            t = sub(t, f64(1.6))
            z = div(as241_c(t), as241_d(t))
        else:
            t = sub(t, f64(5))
            z = div(as241_e(t), as241_f(t))
    return z if is_upper else negated(z)


@exact
def truncated_tail_64(d: Any, low: Any, share: Any) -> Any:
    """The normal beyond low >= 4: Newton's method on ln Q(x), Q(x) = phi(x) N(1 / x**2) / x."""
    u = mul(mul(add(float64_of_int(d >> u64(12)), f64(0.5)), f64(2.0**-52)), share)
    y, k = _split(sub(f64(1), u), 1022)
    if not u > f64(0.5):
        y, k = u, f64(0)
    target = add(mul(low, low), _twice_neg_log(y, k))
    mills_low = tail_mills(div(f64(1), mul(low, low)))
    x = sqrt(target)
    for _ in range(3):
        mills = tail_mills(div(f64(1), mul(x, x)))
        y, k = _split(div(mul(low, mills), mul(x, mills_low)), 1022)
        excess = add(sub(mul(x, x), target), _twice_neg_log(y, k))
        x = sub(x, div(mul(excess, mills), mul(f64(2), x)))
    return x


# From a value to the bits of a dtype


@exact
def finish(z: Any, scale: Any, shift: Any, low: Any, high: Any) -> Any:
    """z * scale + shift, clamped into [low, high], in the precision of z.

    A `shift` of -0.0 leaves the value unchanged, and infinite bounds disable the clamp.
    """
    return at_most(at_least(add(mul(z, scale), shift), low), high)


def _narrower(exponent_bits: int, fraction_bits: int) -> Any:
    """A function that rounds a float32 to a narrower format, to nearest, ties to even. The result is finite."""
    lost, fraction = u64(23 - fraction_bits), u64(fraction_bits)
    below_half = u64(2 ** (22 - fraction_bits) - 1)
    sign, sign_shift = u64(1 << 31), u64(31 - exponent_bits - fraction_bits)

    @exact
    def rounded(bits: Any) -> Any:
        """A carry out of the significand adds one to the exponent."""
        return ((bits + below_half + ((bits >> lost) & ONE)) & LOW32) >> lost  # 32 bits, for the compiler

    if exponent_bits == 8:  # subnormals too have float32's exponent

        @exact
        def of_all(x: Any) -> Any:
            return rounded(bits32(x))

        return of_all

    bias = 2 ** (exponent_bits - 1) - 1
    rebias = u64(127 - bias)
    least_normal = (rebias + ONE) << u64(23)
    # the last bit of this float32 has the weight of the subnormals' last bit, so adding it rounds as they do
    aligned = f32(2.0 ** (24 - bias - fraction_bits))
    aligned_bits = u64(np.float32(aligned).view(np.uint32))

    @exact
    def narrowed(x: Any) -> Any:
        bits = bits32(x)
        magnitude = bits & (sign - ONE)
        if magnitude < least_normal:
            kept = bits32(add(float32_of_bits(magnitude), aligned)) - aligned_bits
        else:
            kept = rounded(magnitude) - (rebias << fraction)
        return kept | ((bits & sign) >> sign_shift)

    return narrowed


@exact
def _single_bits(x: Any) -> Any:
    return bits32(single(x))


@exact
def _double_bits(x: Any) -> Any:
    return bits64(x)


def _encoder(dtype: DType) -> Any:
    if dtype.itemsize == 8:
        return _double_bits
    if dtype.itemsize == 4:
        return _single_bits
    narrowed = _narrower(8 * dtype.itemsize - 1 - dtype.fraction, dtype.fraction)

    @exact
    def encoded(x: Any) -> Any:
        return narrowed(single(x))

    return encoded


ENCODERS: Final = {name: _encoder(dtype) for name, dtype in DTYPES.items()}
"""For each dtype, the function that returns the bits of a float32 or float64 value in it, as a uint64."""
