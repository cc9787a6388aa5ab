"""What a caller may give: the one place that says no to integers, numbers, shapes and layouts.

Each function returns the value in the one form that the library uses inside, or raises an error that says what was
expected and what came.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from functools import lru_cache
from itertools import islice
from operator import attrgetter, index
from typing import Any, Final, TypeVar

__all__ = [
    "MOST_AXES",
    "any_integer",
    "any_number",
    "at_least",
    "changed",
    "checked_shape",
    "finite_number",
    "integer",
    "integer_or_integers",
    "integers",
    "one_of",
    "seed",
    "sequence_of",
    "shown",
    "text",
]

Item = TypeVar("Item")
Value = TypeVar("Value")

# Beyond every size, index and count; Python writes longer ones in decimal only up to a limit (4300 digits by default).
BITS: Final = 128
MOST: Final = 2**20  # elements of a sequence; an endless iterable has more
MOST_AXES: Final = 64  # of a tensor, as in NumPy and torch
# No sequences of integers: texts and bytes are read by their codes, and the others have no order of their own.
NO_SEQUENCES: Final = (str, bytes, bytearray, memoryview, Mapping, Set)


class _Shown(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxtuple = self.maxlist = self.maxarray = self.maxset = self.maxfrozenset = self.maxdeque = 12
        self.maxdict = 8
        self.maxstring = self.maxother = 200

    def repr_int(self, x: int, level: int) -> str:
        bits = x.bit_length()
        return repr(x) if bits <= 2 * BITS else f"an integer of {bits} bits"

    def repr_instance(self, x: Any, level: int) -> str:
        text = repr(x)
        return text if len(text) <= self.maxother else f"{text[: self.maxother - 3]}..."


_SHOWN: Final = _Shown()


def shown(value: Any) -> str:
    """A value as an error shows it: its repr, shortened; its type where it has no repr that can be had.

    Parameters
    ----------
    value : object
        What the caller gave, of any kind and size.

    Examples
    --------
    >>> shown("fan_max"), shown(10**5000), shown([0] * 1000)
    ("'fan_max'", 'an integer of 16610 bits', '[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ...]')
    """
    try:
        return _SHOWN.repr(value)
    except Exception:  # what came need not be able to show itself
        return f"<{type(value).__name__}>"


def integer(name: str, value: Any) -> int:
    """Anything that is an integer of at most 128 bits, except a bool, as an int."""
    number = value if type(value) is int else any_integer(name, value)
    if number.bit_length() > BITS:
        raise ValueError(f"{name}: expected an integer of at most {BITS} bits, got {shown(number)}")
    return number


def any_integer(name: str, value: Any) -> int:
    """Anything that is an integer of any size, except a bool, as an int."""
    try:
        # the index of a truth value is 0 or 1, and never what was meant
        if not isinstance(value, bool) and "bool" not in str(getattr(value, "dtype", "")):
            found = index(value)
            return found if type(found) is int else int.__index__(found)  # a member of an enumeration, for one
    except Exception:  # what came may raise what it likes
        pass
    raise TypeError(f"{name}: expected an integer, got {shown(value)}")


def integers(name: str, value: Any, most: int = MOST) -> tuple[int, ...]:
    """An integer or an iterable of them as a tuple of ints: not a text or bytes, not a dict or a set."""
    if not isinstance(value, (tuple, list)):
        if not _has_several(value):
            return (integer(name, value),)
        if isinstance(value, NO_SEQUENCES):
            raise TypeError(f"{name} must be a sequence of integers, got {shown(value)}")
        value = tuple(islice(value, most + 1))
    if len(value) > most:
        raise ValueError(f"{name} must be at most {most} integers, got more")
    return tuple([integer(name, one) for one in value])


def integer_or_integers(name: str, value: Any) -> int | tuple[int, ...]:
    """An integer as an int, an iterable of them as a tuple of ints."""
    return integers(name, value) if type(value) is not int and _has_several(value) else integer(name, value)


def _has_several(value: Any) -> bool:
    """Whether a value can be asked for its elements: an array without axes says so, and then has none."""
    try:
        return isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0
    except Exception:  # what came may raise what it likes
        return False


def sequence_of(kind: type[Item], expected: str, value: Any) -> tuple[Item, ...]:
    """An iterable of these as a tuple; a text is no sequence of texts, and a dict or a set none of anything."""
    if type(value) is tuple and len(value) <= MOST and {kind}.issuperset(map(type, value)):
        return value
    try:
        ahead = iter(() if isinstance(value, NO_SEQUENCES) else value)
    except TypeError:
        raise TypeError(f"{expected}, got {shown(value)}") from None
    if isinstance(value, NO_SEQUENCES):
        raise TypeError(f"{expected}, got {shown(value)}")
    found: list[Any] = []
    for one in islice(ahead, MOST + 1):
        if not isinstance(one, kind):
            raise TypeError(f"{expected}, got {shown(one)}")
        found.append(text(one) if isinstance(one, str) else one)
    if len(found) > MOST:
        raise ValueError(f"{expected}, at most {MOST} of them, got more")
    return tuple(found)


def text(value: str) -> str:
    """A text as a plain str: a member of an enumeration or a string of NumPy's is equal to one, and shows itself so."""
    return value if type(value) is str else str.__str__(value)


def one_of(name: str, value: Any, known: Collection[str]) -> str:
    """A text that is one of these."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {shown(value)}")
    return text(value)


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
    if type(value) is float:
        return value
    try:
        if not isinstance(value, (str, bytes, bytearray)) and not getattr(value, "ndim", 0):
            return float(value)
    except OverflowError:
        raise ValueError(f"{what} must be within the range of float64, got {shown(value)}") from None
    except Exception:  # what came may raise what it likes
        pass
    raise TypeError(f"{what} must be a number, not {type(value).__name__} ({shown(value)})")


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
    usual = type(value) is tuple and len(value) <= MOST_AXES and {int}.issuperset(map(type, value))
    if usual and (not value or (min(value) >= 0 and max(value).bit_length() <= BITS)):
        return value  # type: ignore[no-any-return]
    shape = integers(what, value, MOST_AXES)
    if any(size < 0 for size in shape):
        raise ValueError(f"{what} must not be negative, got {shown(shape)}")
    return shape


def seed(value: Any) -> int | str:
    """A seed that a record can hold: an int of any size or a str."""
    return text(value) if isinstance(value, str) else any_integer("seed", value)


def changed(value: Value, **fields: Any) -> Value:
    """A frozen dataclass with slots, with other values of some fields, which its maker has checked: nothing is again.

    Parameters
    ----------
    value : dataclass
        An instance of a frozen dataclass with slots of its own and at least two fields.
    **fields
        The values that differ, in the form in which the class keeps them.

    Examples
    --------
    >>> import fastinit
    >>> changed(fastinit.Normal(), std=0.02)
    Normal(mean=0.0, std=0.02)
    """
    names, read = _fields_of(type(value))  # type: ignore[arg-type]
    found = object.__new__(type(value))
    for name, one in zip(names, read(value), strict=True):
        object.__setattr__(found, name, one)
    for name, one in fields.items():
        object.__setattr__(found, name, one)
    return found


@lru_cache
def _fields_of(kind: Any) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    """The names of a dataclass's fields, of which it has several, and what reads them."""
    names = tuple(kind.__dataclass_fields__)
    return names, attrgetter(*names)
