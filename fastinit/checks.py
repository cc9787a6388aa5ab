"""What a caller may give: the one place that says no to integers, numbers, shapes and layouts.

Each function returns the value in the one form that the library uses inside, or raises an error that says what was
expected and what came.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from operator import index
from typing import Any

__all__ = ["any_number", "at_least", "checked_shape", "finite_number", "integer", "integers", "seed"]


def integer(name: str, value: Any) -> int:
    """Anything that is an integer, except a bool, as an int."""
    try:
        if not isinstance(value, bool):  # index(True) is 1, and never what was meant
            return index(value)
    except TypeError:
        pass
    raise TypeError(f"{name}: expected an integer, got {value!r}")


def integers(name: str, value: Any) -> tuple[int, ...]:
    """An integer or an iterable of them as a tuple of ints."""
    return tuple(integer(name, v) for v in value) if isinstance(value, Iterable) else (integer(name, value),)


def at_least(least: int, name: str, value: Any) -> int:
    """An integer that is not below `least`.

    Parameters
    ----------
    least : int
        The smallest value that passes.
    name : str
        What the errors call it.
    value : object
        What the caller gave.

    Examples
    --------
    >>> at_least(1, "rounds", 3)
    3
    >>> at_least(1, "rounds", 0)
    Traceback (most recent call last):
        ...
    ValueError: rounds must be at least 1, got 0
    """
    number = integer(name, value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def any_number(value: Any, what: str) -> float:
    """A number as a float: not a text of one, not an array of them."""
    try:
        if not isinstance(value, (str, bytes, bytearray)) and not getattr(value, "ndim", 0):
            return float(value)
    except OverflowError:
        raise ValueError(f"{what} must be within the range of float64, got {value!r:.40}...") from None
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{what} must be a number, not {type(value).__name__} ({value!r})")


def finite_number(value: Any, what: str) -> float:
    """A number as a float, neither infinite nor NaN."""
    number = any_number(value, what)
    if not math.isfinite(number):
        raise ValueError(f"{what} must be finite, got {number}")
    return number


def checked_shape(value: Any, what: str = "shape") -> tuple[int, ...]:
    """A shape, or one number for a shape of one axis, as a tuple of integers >= 0.

    Parameters
    ----------
    value : int or sequence of int
        What the caller gave.
    what : str
        What the errors call it.

    Examples
    --------
    >>> checked_shape([3, 4]), checked_shape(5)
    ((3, 4), (5,))
    >>> checked_shape((3, -1))
    Traceback (most recent call last):
        ...
    ValueError: shape must not be negative, got (3, -1)
    """
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{what} must be a sequence of integers, got {value!r}")
    shape = integers(what, value)
    if any(size < 0 for size in shape):
        raise ValueError(f"{what} must not be negative, got {shape}")
    return shape


def seed(value: Any) -> int | str:
    """A seed that a record can hold: an int or a str."""
    return value if isinstance(value, str) else integer("seed", value)
