"""Exactness: the floating-point environment of stream v1, equality by bits, and caches that distinguish all bits.

A caller may have changed its thread's rounding mode, or enabled flush-to-zero for subnormals. Graphics and signal
processing programs do so, and so does loading code compiled with -ffast-math. It affects NumPy and Python. Therefore
all code that computes values runs in the stream's floating-point environment (:func:`in_stream_environment`).
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
    """Decorator: runs a function in the floating-point environment of stream v1 (nearest even, subnormals kept).

    Returns the wrapped function. It restores the caller's environment on return or exception. Calls may be nested.
    Other threads that the function starts keep their own environment.

    Parameters
    ----------
    function : callable
        The function to run.

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
    """A function that reads the fields of a dataclass as a tuple; None for other classes."""
    if not hasattr(kind, "__dataclass_fields__"):
        return None
    names = tuple(kind.__dataclass_fields__)
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


def equal_by_bits(self: Any, other: Any) -> Any:
    """``__eq__`` for dataclasses that compares types and the bits of all fields: equal values are interchangeable."""
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
    """A cached version of a function. Calls that differ in a type or in a bit never share a result.

    The function runs in the stream's floating-point environment. Calls with a tuple, a negative zero, or a number other
    than Python's int and float are not cached. Raises TypeError for unhashable arguments, and the errors of `make`.

    Parameters
    ----------
    make : callable
        The function. Its results are shared, so they must be immutable.
    maxsize : int
        Number of results to keep (least recently used are dropped).

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
    """A faster :func:`remembered` for plain positional arguments.

    Parameters
    ----------
    make : callable
        A function of bools, ints, strs, None and floats. Its results are shared, so they must be immutable.
    otherwise : callable
        Called instead if an argument has another type or is a negative zero.
    maxsize : int
        Number of results to keep (least recently used are dropped).

    Examples
    --------
    >>> from fastinit.extending import recalled
    >>> kind = recalled(lambda value: (type(value), value), lambda value: "another")
    >>> kind(1) is kind(1), kind(1), kind(True), kind(-0.0)
    (True, (<class 'int'>, 1), (<class 'bool'>, True), 'another')
    """
    return _core.Recalled(functools.lru_cache(maxsize=maxsize, typed=True)(in_stream_environment(make)), otherwise)
