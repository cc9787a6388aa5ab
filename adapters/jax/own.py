"""Fallback to JAX's own initializers, with one warning per reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

import jax

from fastinit import Key
from fastinit.extending import Notices

__all__ = ["EXPORTED", "KIND_OF_KEYS", "by_jax", "notices", "refusal_of_jax", "say_once"]

KIND_OF_KEYS: Final = "rbg"  # JAX's implementation with keys of four words, like a fastinit.Key

EXPORTED: Final = ("export", "an exported function cannot call fastinit")

notices: Final = Notices("jax.", "flax.", "contextlib", "functools")


def by_jax(
    own: Callable[..., jax.Array],
    kind: object,
    why: str,
    key: Any,
    shape: tuple[int, ...],
    dtype: Any,
    out_sharding: Any = None,
) -> jax.Array:
    """The array of JAX's own initializer, with one warning per kind."""
    if isinstance(key, Key):
        key = jax.random.wrap_key_data(jax.numpy.array(key.words, "uint32"), impl=KIND_OF_KEYS)
    sharding = {} if out_sharding is None else {"out_sharding": out_sharding}
    array = own(key, shape, dtype, **sharding)
    say_once(kind, why)
    return array


def refusal_of_jax(own: Callable[..., jax.Array], shape: tuple[int, ...], dtype: Any) -> Exception | None:
    """The error of JAX's own initializer for a shape and dtype, as worded by the installed JAX."""
    with warnings.catch_warnings(action="ignore"):
        try:
            jax.eval_shape(lambda: own(jax.random.key(0), shape, dtype))
        except Exception as problem:
            return problem.with_traceback(None)
    return None


def say_once(kind: object, why: str) -> None:
    """Warns at the caller's line that the numbers are JAX's own, once per kind."""
    notices.say_once(kind, f"these are JAX's own numbers, since {why}")
