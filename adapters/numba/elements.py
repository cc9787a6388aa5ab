"""Functions that compute one element of a stream, for Python, ``@njit`` and ``@cuda.jit``.

Parameters are float64, and derived quantities are computed as in the core, so the value equals that of
:func:`fastinit.sample` bit for bit. The functions do not check for parameters that the core refuses (a negative or NaN
`std`, ``low >= high``, an interval without values, a reach beyond the largest value); then the value is meaningless.
They run in the floating-point environment of the calling code.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from fastinit.adapters.numba import samplers
from fastinit.adapters.numba.arithmetic import (
    add,
    bits32,
    bits64,
    double,
    exact,
    float32_of_bits,
    float64_of_bits,
    mul,
    negated,
    single,
    sub,
)
from fastinit.adapters.numba.samplers import block_draws, block_words, finish
from fastinit.extending import window

__all__ = [
    "normal",
    "normal_float64",
    "truncated_normal",
    "truncated_normal_float64",
    "uniform",
    "uniform_float64",
    "words",
]

f32, f64, u64 = np.float32, np.float64, np.uint64

ZERO, ONE, TWO = u64(0), u64(1), u64(2)
SIGN32, SIGN64 = u64(1 << 31), u64(1 << 63)
# From this step on, float32 holds the steps of a uniform distribution exactly.
SMALLEST_NORMAL: Final = f64(2.0**-126)
# From this step on, 2^24 steps rounded to float32 are infinite.
LARGEST_STEP: Final = f64(2.0**104 - 2.0**79)
FIRST, COUNT = map(u64, window(-2.0, 2.0, 64))

_uniform, _uniform_symmetric = samplers.uniform, samplers.uniform_symmetric
_uniform_64, _uniform_symmetric_64 = samplers.uniform_64, samplers.uniform_symmetric_64
_normal, _normal_64 = samplers.normal, samplers.normal_64
_truncated_2, _truncated_64 = samplers.truncated_2, samplers.truncated_64


# The values of a dtype nearest to a number


@exact
def _down32(x: Any) -> Any:
    """The float32 before x."""
    bits = bits32(x)
    magnitude = bits & (SIGN32 - ONE)
    if bits < SIGN32 and magnitude != ZERO:
        return float32_of_bits(bits - ONE)
    return float32_of_bits(SIGN32 | (magnitude + ONE))


@exact
def _below32(x: Any) -> Any:
    """The largest float32 < x."""
    nearest = single(x)
    return nearest if double(nearest) < x else _down32(nearest)


@exact
def _floor32(x: Any) -> Any:
    """The largest float32 <= x, never -0.0."""
    nearest = single(x)
    return add(nearest if double(nearest) <= x else _down32(nearest), f32(0))


@exact
def _ceil32(x: Any) -> Any:
    """The smallest float32 >= x, never -0.0."""
    return add(negated(_floor32(negated(x))), f32(0))


@exact
def _below64(x: Any) -> Any:
    """The float64 before x."""
    bits = bits64(x)
    magnitude = bits & (SIGN64 - ONE)
    if bits < SIGN64 and magnitude != ZERO:
        return float64_of_bits(bits - ONE)
    return float64_of_bits(SIGN64 | (magnitude + ONE))


@exact
def _shift32(x: Any) -> Any:
    """x for :func:`finish` in float32, with -0.0 instead of a zero."""
    nearest = single(x)
    return nearest if bits32(nearest) & (SIGN32 - ONE) != ZERO else f32(-0.0)


@exact
def _shift64(x: Any) -> Any:
    return x if x != f64(0) else f64(-0.0)


# The draws of an element


@exact
def _word(key: Any, index: Any) -> Any:
    w0, w1, w2, w3 = block_words(key, index >> TWO)
    first, second = (w0, w1) if index & TWO == ZERO else (w2, w3)
    return first if index & ONE == ZERO else second


@exact
def _draw(key: Any, index: Any) -> Any:
    d0, d1 = block_draws(key, index >> ONE)
    return d0 if index & ONE == ZERO else d1


@exact
def words(key: Any, index: Any) -> Any:
    """Word `index` of a key's stream.

    Parameters
    ----------
    key : tuple of four integers
        ``Key.words``. In compiled code, any integer type.
    index : int
        In [0, 2**63).

    Returns
    -------
    uint32

    Examples
    --------
    >>> import fastinit
    >>> key = fastinit.Key(0)
    >>> bool(words(key.words, 5) == fastinit.words(key, 5, 1)[0])
    True
    """
    return np.uint32(_word(key, u64(index)))


# float32


@exact
def uniform(key: Any, index: Any, low: Any = 0.0, high: Any = 1.0) -> Any:
    """Element `index` of ``fastinit.Uniform(low, high)``.

    Parameters
    ----------
    key : tuple of four integers
        ``Key.words``.
    index : int
        In [0, 2**63).
    low, high : float
        The interval [low, high), or (low, high) if low == -high.

    Returns
    -------
    float32

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.adapters.numba import uniform
    >>> key = fastinit.Key(0)
    >>> float(uniform(key.words, 7)) == fastinit.sample(key, 7, fastinit.Uniform())
    True
    """
    a, b, i = f64(low), f64(high), u64(index)
    is_symmetric = a == negated(b)
    span = b if is_symmetric else sub(b, a)
    top = _below32(b)
    bottom = negated(top) if is_symmetric else _ceil32(a)
    step = mul(span, f64(2.0**-24))
    if step < SMALLEST_NORMAL or step >= LARGEST_STEP:
        d = _draw(key, i)
        z = _uniform_symmetric_64(d) if is_symmetric else _uniform_64(d)
        shift = f64(-0.0) if is_symmetric else _shift64(a)
        return single(finish(z, mul(span, f64(2.0**-53)), shift, double(bottom), double(top)))
    w = _word(key, i)
    x = _uniform_symmetric(w) if is_symmetric else _uniform(w)
    return finish(x, single(step), f32(-0.0) if is_symmetric else _shift32(a), bottom, top)


@exact
def normal(key: Any, index: Any, mean: Any = 0.0, std: Any = 1.0) -> Any:
    """Element `index` of ``fastinit.Normal(mean, std)``.

    Parameters
    ----------
    key : tuple of four integers
        ``Key.words``.
    index : int
        In [0, 2**63).
    mean, std : float
        std in [0, inf).

    Returns
    -------
    float32

    Notes
    -----
    Elements 2j and 2j + 1 come from the same two words, so each call computes one value too many.
    :func:`fastinit.adapters.numba.fill` takes half the time per element.

    G. E. P. Box and M. E. Muller, "A note on the generation of random normal deviates", 1958.

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.adapters.numba import normal
    >>> key = fastinit.Key(0)
    >>> float(normal(key.words, 7)) == fastinit.sample(key, 7, fastinit.Normal())
    True
    """
    m, s, i = f64(mean), f64(std), u64(index)
    if s == f64(0):
        return single(m)
    w0, w1, w2, w3 = block_words(key, i >> TWO)
    a, b = (w0, w1) if i & TWO == ZERO else (w2, w3)
    first, second = _normal(a, b)
    z = first if i & ONE == ZERO else second
    return add(mul(z, single(s)), _shift32(m))


@exact
def truncated_normal(key: Any, index: Any, mean: Any = 0.0, std: Any = 1.0) -> Any:
    """Element `index` of ``fastinit.TruncatedNormal(mean, std)``, truncated at two standard deviations.

    Parameters
    ----------
    key : tuple of four integers
        ``Key.words``.
    index : int
        In [0, 2**63).
    mean, std : float
        Mean and std of the normal before truncation, std in [0, inf).

    Returns
    -------
    float32
        In [mean - 2 std, mean + 2 std].

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.adapters.numba import truncated_normal
    >>> key = fastinit.Key(0)
    >>> float(truncated_normal(key.words, 7)) == fastinit.sample(key, 7, fastinit.TruncatedNormal())
    True
    """
    m, s = f64(mean), f64(std)
    if s == f64(0):
        return single(m)
    bottom, top = _ceil32(add(m, mul(f64(-2), s))), _floor32(add(m, mul(f64(2), s)))
    return finish(_truncated_2(_word(key, u64(index))), single(s), _shift32(m), bottom, top)


# float64


@exact
def uniform_float64(key: Any, index: Any, low: Any = 0.0, high: Any = 1.0) -> Any:
    """:func:`uniform` in float64, equal to ``fastinit.sample(..., dtype="float64")``.

    Parameters
    ----------
    key, index, low, high
        As in :func:`uniform`.

    Returns
    -------
    float64

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.adapters.numba import uniform_float64
    >>> key, law = fastinit.Key(0), fastinit.Uniform()
    >>> float(uniform_float64(key.words, 7)) == fastinit.sample(key, 7, law, dtype="float64")
    True
    """
    a, b, d = f64(low), f64(high), _draw(key, u64(index))
    top = _below64(b)
    if a == negated(b):
        return finish(_uniform_symmetric_64(d), mul(b, f64(2.0**-53)), f64(-0.0), negated(top), top)
    return finish(_uniform_64(d), mul(sub(b, a), f64(2.0**-53)), _shift64(a), add(a, f64(0)), top)


@exact
def normal_float64(key: Any, index: Any, mean: Any = 0.0, std: Any = 1.0) -> Any:
    """:func:`normal` in float64: draws reach 9.49 standard deviations.

    Parameters
    ----------
    key, index, mean, std
        As in :func:`normal`.

    Returns
    -------
    float64

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.adapters.numba import normal_float64
    >>> key, law = fastinit.Key(0), fastinit.Normal()
    >>> float(normal_float64(key.words, 7)) == fastinit.sample(key, 7, law, dtype="float64")
    True
    """
    m, s, i = f64(mean), f64(std), u64(index)
    if s == f64(0):
        return m
    d0, d1 = block_draws(key, i >> ONE)
    first, second = _normal_64(d0, d1)
    return add(mul(first if i & ONE == ZERO else second, s), _shift64(m))


@exact
def truncated_normal_float64(key: Any, index: Any, mean: Any = 0.0, std: Any = 1.0) -> Any:
    """:func:`truncated_normal` in float64.

    Parameters
    ----------
    key, index, mean, std
        As in :func:`truncated_normal`.

    Returns
    -------
    float64

    Notes
    -----
    M. J. Wichura, "Algorithm AS 241: the percentage points of the normal distribution", 1988.

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.adapters.numba import truncated_normal_float64
    >>> key, law = fastinit.Key(0), fastinit.TruncatedNormal()
    >>> float(truncated_normal_float64(key.words, 7)) == fastinit.sample(key, 7, law, dtype="float64")
    True
    """
    m, s, i = f64(mean), f64(std), u64(index)
    if s == f64(0):
        return m
    bottom, top = add(add(m, mul(f64(-2), s)), f64(0)), add(add(m, mul(f64(2), s)), f64(0))
    return finish(_truncated_64(_draw(key, i), FIRST, COUNT), s, _shift64(m), bottom, top)
