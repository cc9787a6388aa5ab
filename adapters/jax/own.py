"""Falls back to JAX's own initializers, with one warning for each reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

import jax

from fastinit import Key
from fastinit.extending import Notices

__all__ = ["EXPORTED", "by_jax", "key_of_jax", "notices", "refusal_of_jax", "say_once"]

EXPORTED: Final = ("export", "an exported function cannot call fastinit")

notices: Final = Notices("jax.", "flax.", "contextlib", "functools")


def key_of_jax(key: Any) -> Any:
    """A key that JAX's own functions take: a :class:`fastinit.Key` has four words, as a key of JAX's ``rbg`` has."""
    if not isinstance(key, Key):
        return key
    return jax.random.wrap_key_data(jax.numpy.array(key.words, "uint32"), impl="rbg")


def by_jax(
    own: Callable[..., jax.Array],
    kind: object,
    why: str,
    key: Any,
    shape: tuple[int, ...],
    dtype: Any,
    out_sharding: Any = None,
) -> jax.Array:
    """The array that JAX's own initializer makes, with one warning for each kind."""
    sharding = {} if out_sharding is None else {"out_sharding": out_sharding}
    array = own(key_of_jax(key), shape, dtype, **sharding)
    say_once(kind, why)
    return array


def refusal_of_jax(own: Callable[..., jax.Array], shape: tuple[int, ...], dtype: Any) -> Exception | None:
    """The error that JAX's own initializer raises for a shape and dtype, in the words of this version of JAX."""
    with warnings.catch_warnings(action="ignore"):
        try:
            jax.eval_shape(lambda: own(jax.random.key(0), shape, dtype))
        except Exception as problem:
            return problem.with_traceback(None)
    return None


def say_once(kind: object, why: str) -> None:
    """Warns, in the caller's line, that the numbers are JAX's own, once for each kind."""
    notices.say_once(kind, f"these are JAX's own numbers, since {why}")
