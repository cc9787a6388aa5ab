"""Functions that compute four elements at a time, of any sampler in any dtype, for CPU loops and GPU kernels."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastinit.adapters.numba import samplers
from fastinit.adapters.numba.arithmetic import add, exact, mul
from fastinit.adapters.numba.samplers import ENCODERS, block_draws, block_words, finish
from fastinit.extending import KINDS

__all__ = ["Parameters", "parameters", "quad", "values"]

f32, f64, u64 = np.float32, np.float64, np.uint64

ZERO, ONE = u64(0), u64(1)


class Parameters(NamedTuple):
    """Parameters of a sampler. The first four have the sampler's precision."""

    scale: Any
    shift: Any
    low: Any
    high: Any
    first: Any
    count: Any
    tail_low: Any
    tail_share: Any
    bits: Any
    is_clamped: Any


def parameters(given: dict[str, int | float]) -> tuple[str, Parameters]:
    """The kind of one of the core's samplings, and its parameters for :func:`quad`."""
    kind = KINDS[int(given["kind"])]
    real: Any = f64 if kind.endswith("_64") else f32
    shift = real(given["shift"])
    return kind, Parameters(
        real(given["scale"]),
        shift if shift != 0 else real(-0.0),  # adding -0.0 leaves every number unchanged
        real(given["low"]),
        real(given["high"]),
        u64(given["first"]),
        u64(given["count"]),
        f64(given["tail_low"]),
        f64(given["tail_share"]),
        u64(given["bits"]),
        u64(bool(given["clamped"])),
    )


def _pair_of(kind: str) -> Any:
    """A function of two draws and the parameters that returns two standard values."""
    if kind in ("normal", "normal_64"):
        of_both = getattr(samplers, kind)

        @exact
        def normal(a: Any, b: Any, p: Any) -> Any:
            return of_both(a, b)

        return normal

    of_one = getattr(samplers, kind)
    if kind in ("truncated", "truncated_64"):

        @exact
        def truncated(a: Any, b: Any, p: Any) -> Any:
            return of_one(a, p[4], p[5]), of_one(b, p[4], p[5])

        return truncated

    if kind == "truncated_tail_64":

        @exact
        def tail(a: Any, b: Any, p: Any) -> Any:
            return of_one(a, p[6], p[7]), of_one(b, p[6], p[7])

        return tail

    @exact
    def simple(a: Any, b: Any, p: Any) -> Any:
        return of_one(a), of_one(b)

    return simple


@cache
def values(kind: str) -> Any:
    """A function that computes four elements before rounding to a dtype, for all kinds except constants.

    Its arguments are the number of the quad, the four words of a key, and :class:`Parameters` as a plain tuple. It
    returns elements 4 number to 4 number + 3, in the sampler's precision.
    """
    pair = _pair_of(kind)

    @exact
    def finished(z: Any, p: Any) -> Any:
        if p[9] != ZERO:  # the same for all elements, so a device skips the bounds
            return finish(z, p[0], p[1], p[2], p[3])
        return add(mul(z, p[0]), p[1])

    if kind.endswith("_64"):

        @exact
        def of_two_blocks(number: Any, key: Any, p: Any) -> Any:
            d0, d1 = block_draws(key, number << ONE)
            d2, d3 = block_draws(key, (number << ONE) | ONE)
            z0, z1 = pair(d0, d1, p)
            z2, z3 = pair(d2, d3, p)
            return finished(z0, p), finished(z1, p), finished(z2, p), finished(z3, p)

        return of_two_blocks

    @exact
    def of_one_block(number: Any, key: Any, p: Any) -> Any:
        w0, w1, w2, w3 = block_words(key, number)
        z0, z1 = pair(w0, w1, p)
        z2, z3 = pair(w2, w3, p)
        return finished(z0, p), finished(z1, p), finished(z2, p), finished(z3, p)

    return of_one_block


@cache
def quad(kind: str, dtype: str) -> Any:
    """A function for the bits of four elements in a dtype, as uint64, with the arguments of :func:`values`."""
    if kind == "constant":

        @exact
        def constant(number: Any, key: Any, p: Any) -> Any:
            return p[8], p[8], p[8], p[8]

        return constant

    four, encoded = values(kind), ENCODERS[dtype]

    @exact
    def bits(number: Any, key: Any, p: Any) -> Any:
        x0, x1, x2, x3 = four(number, key, p)
        return encoded(x0), encoded(x1), encoded(x2), encoded(x3)

    return bits
