"""What keeps values exact: the floating-point environment of stream v1, equality by bits, memories that join nothing.

A caller may have changed how its thread rounds, or have subnormals flushed to zero: a program of graphics or of signals
does, and so does code compiled with -ffast-math when it is loaded. NumPy and Python compute as they are told, so
everything that makes values runs in the environment that the stream is defined in (:func:`in_stream_environment`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np

from fastinit import _core
from fastinit._core import same

__all__ = ["equal_by_bits", "in_stream_environment", "recalled", "remembered", "same"]

P = ParamSpec("P")
R = TypeVar("R")


def in_stream_environment(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run in the floating-point environment of stream v1: round to nearest even, subnormals kept.

    The caller's environment is restored when it returns or raises. Calls may be nested. What the function starts in
    other threads runs in theirs.

    Parameters
    ----------
    function : callable
        What is to be run so.

    Examples
    --------
    >>> @in_stream_environment
    ... def third():
    ...     return 1.0 / float("3")
    >>> third()
    0.3333333333333333
    """
    if getattr(function, "runs_in_stream_environment", False):
        return function

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        result: R = _core.call_in_environment(function, args, kwargs)
        return result

    inside.runs_in_stream_environment = True  # type: ignore[attr-defined]
    return inside


@functools.cache
def _fields_of(kind: Any) -> Callable[[Any], tuple[Any, ...]] | None:
    """What reads the fields of a dataclass; None of another class."""
    if not hasattr(kind, "__dataclass_fields__"):
        return None
    names = tuple(kind.__dataclass_fields__)
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


def equal_by_bits(self: Any, other: Any) -> Any:
    """The ``__eq__`` of dataclasses whose equals are interchangeable: by type and by the bits of every field."""
    if type(self) is not type(other):
        return NotImplemented
    read = _fields_of(type(self))  # type: ignore[arg-type]
    if read is None:
        return self is other
    return same(read(self), read(other))


_ONE_SPELLING: Final = frozenset({bool, int, str, type(None)})


def _has_two_spellings(value: Any) -> bool:
    """Whether an equal value of the same type may differ in a bit."""
    if value.__class__ is float:
        return value == 0.0 and math.copysign(1.0, value) < 0.0
    return value.__class__ is tuple or isinstance(value, (np.generic, Decimal))


def remembered(make: Callable[..., R], maxsize: int = 4096) -> Callable[..., R]:
    """A function of parameters that remembers what it made, and joins no two calls that differ in a type or in a bit.

    It runs in the environment of the stream. A call with a tuple, a negative zero or a number other than Python's
    int and float is made anew. Raises TypeError for arguments that cannot be hashed, besides what `make` raises.

    Parameters
    ----------
    make : callable
        The function; its results are shared, so they must not change.
    maxsize : int
        How many results are kept, the latest used.

    Examples
    --------
    >>> from fastinit.extending import remembered
    >>> kind = remembered(lambda value: (type(value), value))
    >>> kind(1) is kind(1), kind(1), kind(True)
    (True, (<class 'int'>, 1), (<class 'bool'>, True))
    """
    make = in_stream_environment(make)
    recall = functools.lru_cache(maxsize=maxsize, typed=True)(make)

    def made(*values: Any, **named: Any) -> R:
        for value in values:
            if value.__class__ not in _ONE_SPELLING and _has_two_spellings(value):
                return make(*values, **named)
        for value in named.values():
            if value.__class__ not in _ONE_SPELLING and _has_two_spellings(value):
                return make(*values, **named)
        return recall(*values, **named)

    return made


def recalled(make: Callable[..., R], otherwise: Callable[..., R], maxsize: int = 4096) -> Callable[..., R]:
    """:func:`remembered` in as little time as can be: for plain arguments alone, and by their positions.

    Parameters
    ----------
    make : callable
        The function, of bools, ints, strs, None and floats; its results are shared, so they must not change.
    otherwise : callable
        What is called with other arguments, and where one is a negative zero.
    maxsize : int
        How many results are kept, the latest used.

    Examples
    --------
    >>> from fastinit.extending import recalled
    >>> kind = recalled(lambda value: (type(value), value), lambda value: "another")
    >>> kind(1) is kind(1), kind(1), kind(True), kind(-0.0)
    (True, (<class 'int'>, 1), (<class 'bool'>, True), 'another')
    """
    return _core.Recalled(functools.lru_cache(maxsize=maxsize, typed=True)(in_stream_environment(make)), otherwise)
