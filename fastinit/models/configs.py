"""Configurations: the JSON form of initializers, and back.

>>> import fastinit
>>> initializer_config(fastinit.Normal(std=0.02))
{'class': 'Normal', 'mean': 0.0, 'std': 0.02}
>>> initializer_from_config({"class": "Normal", "std": 0.02})
Normal(mean=0.0, std=0.02)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from fractions import Fraction
from typing import Any, Final

from fastinit import composites, initializers, programs, rows, structured
from fastinit.checks import any_integer, shown
from fastinit.exact import in_stream_environment
from fastinit.initializers import MOST_NESTED, Initializer
from fastinit.keys import Key
from fastinit.layouts import Axes, Fans

__all__ = ["CLASSES", "brief", "decoded", "encoded", "initializer_config", "initializer_from_config"]


# Maximum depth of lists and objects: each level of nested initializers takes up to three.
DEPTH: Final = 3 * MOST_NESTED
HEXADECIMAL: Final = re.compile("-?0x[0-9a-f]+")


def _classes() -> Iterator[Any]:
    """Yields every initializer class that the library's modules export."""
    for module in (initializers, structured, composites, programs, rows):
        for name in module.__all__:
            value = getattr(module, name)
            if isinstance(value, type) and issubclass(value, Initializer) and is_dataclass(value):
                yield value


CLASSES: Final[Mapping[str, Any]] = {kind.__name__: kind for kind in (Axes, Fans, programs.Box, *_classes())}
"""Classes that a configuration may contain, by name."""


# Longer integers are written in hexadecimal. Python limits decimal conversion, possibly to as few as 640 digits.
DECIMAL_BITS: Final = 2048


def encoded(value: Any) -> Any:
    """Encodes a field's value for JSON. A special key identifies each kind of object."""
    if CLASSES.get(type(value).__name__) is type(value):
        return {"class": type(value).__name__} | {f.name: encoded(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Key):
        return {"key": list(value.words)}
    if isinstance(value, Fraction):
        return {"fraction": [encoded(value.numerator), encoded(value.denominator)]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, int) and value.bit_length() > DECIMAL_BITS:
        return {"integer": hex(value)}
    if isinstance(value, tuple):
        return [encoded(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{shown(value)} cannot be written to a record: {type(value).__name__} is not a class of fastinit")


def decoded(value: Any, depth: int = 0) -> Any:
    """Decodes a value written by :func:`encoded`. Raises TypeError or ValueError for anything else."""
    if depth > DEPTH:
        raise ValueError(f"expected a configuration nested at most {DEPTH} levels deep, got more")
    if isinstance(value, list):
        return tuple(decoded(one, depth + 1) for one in value)
    if not isinstance(value, dict):
        return value
    match value:
        case {"class": name, **own}:
            kind = CLASSES.get(name) if isinstance(name, str) else None
            if kind is None:
                raise ValueError(f"expected a class among {', '.join(CLASSES)}, got {shown(name)}")
            unknown = sorted(map(str, set(own) - {field.name for field in fields(kind)}))
            if unknown:
                raise ValueError(f"{name} has no field {', '.join(unknown)}")
            made = kind(**{field: decoded(one, depth + 1) for field, one in own.items()})
            for field, one in own.items():  # int and float are interchangeable, bool is not
                if isinstance(one, bool) != isinstance(getattr(made, field), bool):
                    raise ValueError(f"{field} of {name} has the wrong type: {shown(one)}")
            return made
        case {"key": [_, _, _, _] as words, **others} if not others:
            return Key.from_words(*words)
        case {"fraction": [numerator, denominator], **others} if not others:
            return _fraction(decoded(numerator, depth + 1), decoded(denominator, depth + 1))
        case {"float": ("inf" | "-inf" | "nan") as text, **others} if not others:
            return float(text)
        case {"integer": str(text), **others} if not others and HEXADECIMAL.fullmatch(text):
            return int(text, 16)
    raise ValueError(f"expected a class, a key, a fraction, a float or an integer, got {shown(value)}")


def _fraction(numerator: Any, denominator: Any) -> Fraction:
    if any_integer("denominator", denominator) < 1:
        raise ValueError(f"expected a fraction with a denominator of at least 1, got {shown(denominator)}")
    return Fraction(any_integer("numerator", numerator), denominator)


def initializer_config(initializer: Initializer) -> dict[str, Any]:
    """An initializer as a dict for JSON: ``{"class": "Normal", "mean": 0.0, "std": 0.02}``.

    Parameters
    ----------
    initializer : Initializer
        An initializer of the library, including composites and programs.

    Raises
    ------
    TypeError
        If it, or an initializer nested in it, is not from the library.

    Examples
    --------
    >>> import fastinit
    >>> fastinit.initializer_config(fastinit.Normal(std=0.02))
    {'class': 'Normal', 'mean': 0.0, 'std': 0.02}
    """
    if not isinstance(initializer, Initializer):
        raise TypeError(f"initializer must be an Initializer, not {shown(initializer)}")
    config: dict[str, Any] = encoded(initializer)
    return config


@in_stream_environment
def initializer_from_config(config: Mapping[str, Any]) -> Initializer:
    """The initializer of an :func:`initializer_config`. Missing fields get their defaults.

    Parameters
    ----------
    config : mapping
        ``"class"``, and the fields of that class.

    Raises
    ------
    TypeError
        If `config` is not a mapping.
    ValueError
        If the class is unknown or not an initializer; if a field is unknown, of the wrong type or out of range, or is
        missing and has no default; or if initializers are nested more than 32 deep.

    Examples
    --------
    >>> import fastinit
    >>> fastinit.initializer_from_config({"class": "Normal", "std": 0.02})
    Normal(mean=0.0, std=0.02)
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"config must be a dict from initializer_config(), not {shown(config)}")
    try:
        found = decoded(dict(config))
    except TypeError as problem:
        raise ValueError(f"expected the config of an initializer, got {shown(config)}: {problem}") from None
    if not isinstance(found, Initializer):
        raise ValueError(f"expected the config of an initializer, got {shown(config)}")
    return found


def brief(value: Any) -> str:
    """The repr of an initializer, without fields that have their default values."""
    if isinstance(value, programs.Replayed):  # the graph may be long
        return f"Replayed({', '.join(value.operators)})"
    if CLASSES.get(type(value).__name__) is not type(value):
        return f"({', '.join(map(brief, value))})" if isinstance(value, tuple) else repr(value)
    given = [f"{f.name}={brief(getattr(value, f.name))}" for f in fields(value) if getattr(value, f.name) != f.default]
    return f"{type(value).__name__}({', '.join(given)})"
