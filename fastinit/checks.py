"""Argument checks: integers, numbers, texts and shapes.

Each function returns the value in the library's internal form, or raises an error of the form "expected X, got Y".
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
    "distinct",
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

# Limit of integers: larger than any size, index or count, and short enough for Python to print in decimal (its default
# limit is 4300 digits).
BITS: Final = 128
MOST: Final = 2**20  # limit of a sequence's length; stops endless iterables
MOST_AXES: Final = 64  # of a tensor, as in NumPy and torch
# Iterables that are not sequences of integers: texts and bytes would be read as character codes; mappings and sets have
# no order.
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
    """Text of a value for error messages: its shortened repr, or its type if repr fails.

    Parameters
    ----------
    value : object
        A value of any kind and size.

    Examples
    --------
    >>> shown("fan_max"), shown(10**5000), shown([0] * 1000)
    ("'fan_max'", 'an integer of 16610 bits', '[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ...]')
    """
    try:
        return _SHOWN.repr(value)
    except Exception:  # repr() of a foreign object may raise anything
        return f"<{type(value).__name__}>"


def integer(name: str, value: Any) -> int:
    """Converts an integer of at most 128 bits to int. Rejects bool."""
    number = value if type(value) is int else any_integer(name, value)
    if number.bit_length() > BITS:
        raise ValueError(f"{name}: expected an integer of at most {BITS} bits, got {shown(number)}")
    return number


def any_integer(name: str, value: Any) -> int:
    """Converts an integer of any size to int. Rejects bool."""
    try:
        # bools have an index (0 or 1), which is never meant
        if not isinstance(value, bool) and "bool" not in str(getattr(value, "dtype", "")):
            found = index(value)
            return found if type(found) is int else int.__index__(found)  # an IntEnum becomes an int
    except Exception:  # a foreign object may raise anything
        pass
    raise TypeError(f"{name}: expected an integer, got {shown(value)}")


def integers(name: str, value: Any, most: int = MOST) -> tuple[int, ...]:
    """Converts an integer or an iterable of integers to a tuple of ints. Rejects texts, bytes, dicts and sets."""
    if not isinstance(value, (tuple, list)):
        if not _has_several(value):
            return (integer(name, value),)
        if isinstance(value, NO_SEQUENCES):
            raise TypeError(f"{name} must be a sequence of integers, got {shown(value)}")
        value = tuple(islice(value, most + 1))
    if len(value) > most:
        raise ValueError(f"{name} must have at most {most} integers, got more")
    return tuple([integer(name, one) for one in value])


def integer_or_integers(name: str, value: Any) -> int | tuple[int, ...]:
    """Converts an integer to int, and an iterable of integers to a tuple of ints."""
    return integers(name, value) if type(value) is not int and _has_several(value) else integer(name, value)


def _has_several(value: Any) -> bool:
    """Whether a value has elements. A 0-d array is an Iterable but cannot be iterated."""
    try:
        return isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0
    except Exception:  # a foreign object may raise anything
        return False


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, as ``object_pairs_hook``. Raises ValueError where a name stands twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"expected distinct names in an object, got {shown(name)} twice")
        found[name] = value
    return found


def sequence_of(kind: type[Item], expected: str, value: Any) -> tuple[Item, ...]:
    """Converts an iterable of `kind` to a tuple. Rejects texts, bytes, dicts and sets."""
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
    """Converts a subclass of str (StrEnum, numpy.str_) to a plain str."""
    return value if type(value) is str else str.__str__(value)


def one_of(name: str, value: Any, known: Collection[str]) -> str:
    """Checks that a text is one of `known`."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {shown(value)}")
    return text(value)


def at_least(least: int, name: str, value: Any) -> int:
    """An integer >= `least`, as an int.

    Parameters
    ----------
    least : int
        The smallest allowed value.
    name : str
        Name of the argument in the error message.
    value : object
        The caller's argument.

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
    """Converts a number to float. Rejects texts and arrays."""
    if type(value) is float:
        return value
    try:
        if not isinstance(value, (str, bytes, bytearray)) and not getattr(value, "ndim", 0):
            return float(value)
    except OverflowError:
        raise ValueError(f"{what} must be within the range of float64, got {shown(value)}") from None
    except Exception:  # a foreign object may raise anything
        pass
    raise TypeError(f"{what} must be a number, not {type(value).__name__} ({shown(value)})")


def finite_number(value: Any, what: str) -> float:
    """Converts a number to a finite float."""
    number = any_number(value, what)
    if not math.isfinite(number):
        raise ValueError(f"{what} must be finite, got {number}")
    return number


def checked_shape(value: Any, what: str = "shape") -> tuple[int, ...]:
    """A shape as a tuple of ints >= 0. An integer is a shape of one axis.

    Parameters
    ----------
    value : int or sequence of int
        The caller's argument.
    what : str
        Name of the argument in the error message.

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
    """Checks a seed that a record can store: an int of any size or a str."""
    return text(value) if isinstance(value, str) else any_integer("seed", value)


def changed(value: Value, **fields: Any) -> Value:
    """Copy of a frozen dataclass with some fields replaced. Skips ``__post_init__``: the values are already checked.

    Parameters
    ----------
    value : dataclass
        An instance of a frozen dataclass with slots and at least two fields.
    **fields
        The replaced fields, in the form that ``__post_init__`` would give them.

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
    """Names of a dataclass's fields (at least two), and a function that reads them as a tuple."""
    names = tuple(kind.__dataclass_fields__)
    return names, attrgetter(*names)
