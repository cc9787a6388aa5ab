"""Targets: the instruction sets that the core was compiled for, those that this processor supports, and the current
one.

Every target gives the same bytes. ``FASTINIT_TARGET`` overrides the choice of the best target; it is read once, at the
first fill.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from functools import cache, lru_cache

import numpy as np

from fastinit import _core
from fastinit.checks import shown

__all__ = ["compiled", "current", "supported"]

# Digests of a fill of VERIFIED elements from VERIFIED_START on, by sampler: BLAKE2b-64 of little-endian bytes. Tests
# recompute them from reference.py.
VERIFIED = 500
VERIFIED_START = 3
VERIFIED_WORDS = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
DIGESTS = {
    "WORDS": "6a2385a5959dcacc",
    "UNIFORM_SYMMETRIC": "431091ed01489ca0",
    "NORMAL": "9c07c8f238c33334",
    "TRUNCATED_2": "e97957269362535b",
    "TRUNCATED": "2ad8228b7ac34f6c",
    "NORMAL_64": "37693b9c581eabf6",
    "TRUNCATED_64": "d3ba8d19b73b47cf",
}


def compiled() -> tuple[str, ...]:
    """Names of the targets in this build, the best one first.

    ``x86_v4`` needs AVX-512, ``x86_v4_intel`` AVX-512 on an Intel processor, ``x86_v3`` AVX2, ``baseline`` SSE4.2
    (x86-64-v2), ``neon`` any 64-bit Arm; ``generic`` is plain C.
    """
    return tuple(name for name, _ in _core.targets())


def supported() -> tuple[str, ...]:
    """Names of the compiled targets that this processor and operating system support, the best one first."""
    return tuple(name for name, supported in _core.targets() if supported)


@lru_cache(maxsize=1)
def current() -> str:
    """The target used by fills: ``FASTINIT_TARGET``, or the best supported one.

    Raises
    ------
    ValueError
        If ``FASTINIT_TARGET`` is not a supported target.
    RuntimeError
        If no target, or not the requested one, gives the right values.
    """
    wanted = os.environ.get("FASTINIT_TARGET")
    if wanted:
        try:
            index_of(wanted)
        except ValueError as error:
            raise ValueError(f"FASTINIT_TARGET: {error}") from None
    for name in (wanted,) if wanted else supported():
        if verified(name):
            return name
        message = f"the compiled target {name} gives wrong values on this machine and is not used"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    raise RuntimeError("no compiled target gives the values of stream v1 on this machine")


def index_of(name: str) -> int:
    """The core's number of a target.

    Raises
    ------
    ValueError
        If the target was not compiled, or this processor does not support it.
    """
    known = isinstance(name, str) and name in compiled()
    if not known or name not in supported():
        state = "not supported by this processor" if known else "not compiled"
        raise ValueError(f"target must be one of {', '.join(supported())}; got {shown(name)} ({state})")
    return compiled().index(name)


@lru_cache(maxsize=1)
def current_index() -> int:
    """The core's number of the current target."""
    return index_of(current())


def digest(name: str, sampler: str) -> str:
    """Digest of a short fill by a sampler on a target."""
    double = sampler.endswith("_64")
    dtype, array = (1, np.empty(VERIFIED, np.float64)) if double else (0, np.empty(VERIFIED, np.float32))
    first, count = (2**62, 3 * 2**61) if double else (2**30, 3 * 2**29)
    sampling = _core.Sampling(
        kind=getattr(_core, sampler), dtype=dtype, scale=0.75, shift=0.25, first=first, count=count
    )
    _core.fill_run(
        index_of(name), sampling, VERIFIED_WORDS, _core.address(array), VERIFIED_START, VERIFIED, array.itemsize
    )
    little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return hashlib.blake2b(little_endian.tobytes(), digest_size=8).hexdigest()


@cache
def verified(name: str) -> bool:
    """Whether a target gives the right values. Detects miscompiled kernels."""
    return all(digest(name, sampler) == expected for sampler, expected in DIGESTS.items())
