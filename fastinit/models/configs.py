"""Configurations: what JSON holds of an initializer, and the initializer that a configuration describes.

>>> import fastinit
>>> initializer_config(fastinit.Normal(std=0.02))
{'class': 'Normal', 'mean': 0.0, 'std': 0.02}
>>> initializer_from_config({"class": "Normal", "std": 0.02})
Normal(mean=0.0, std=0.02)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from fractions import Fraction
from typing import Any, Final

from fastinit import composites, initializers, structured
from fastinit.initializers import Initializer
from fastinit.keys import Key
from fastinit.layouts import Axes, Fans

__all__ = ["CLASSES", "brief", "decoded", "encoded", "initializer_config", "initializer_from_config"]


def _classes() -> Iterator[Any]:
    """Every initializer that the library's modules export."""
    for module in (initializers, structured, composites):
        for name in module.__all__:
            value = getattr(module, name)
            if isinstance(value, type) and issubclass(value, Initializer) and is_dataclass(value):
                yield value


CLASSES: Final[Mapping[str, Any]] = {kind.__name__: kind for kind in (Axes, Fans, *_classes())}
"""What a configuration may hold, by name."""


def encoded(value: Any) -> Any:
    """A field's value as JSON holds it. Objects are told apart by their one special key."""
    if CLASSES.get(type(value).__name__) is type(value):
        return {"class": type(value).__name__} | {f.name: encoded(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Key):
        return {"key": list(value.words)}
    if isinstance(value, Fraction):
        return {"fraction": [value.numerator, value.denominator]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, tuple):
        return [encoded(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} cannot be written to a record: {type(value).__name__} is no class of the library")


def decoded(value: Any) -> Any:
    """A value as :func:`encoded` wrote it. Raises ValueError for anything else."""
    if isinstance(value, list):
        return tuple(decoded(one) for one in value)
    if not isinstance(value, dict):
        return value
    match value:
        case {"class": name, **own}:
            kind = CLASSES.get(name)
            if kind is None:
                raise ValueError(f"unknown class {name!r}; the library has {', '.join(CLASSES)}")
            unknown = sorted(set(own) - {field.name for field in fields(kind)})
            if unknown:
                raise ValueError(f"{name} has no field {', '.join(unknown)}")
            return kind(**{field: decoded(one) for field, one in own.items()})
        case {"key": [*words], **others} if not others:
            return Key.from_words(*words)
        case {"fraction": [int(numerator), int(denominator)], **others} if not others and denominator:
            return Fraction(numerator, denominator)
        case {"float": ("inf" | "-inf" | "nan") as text, **others} if not others:
            return float(text)
    raise ValueError(f"expected a class, a key, a fraction or a float, got {value!r}")


def initializer_config(initializer: Initializer) -> dict[str, Any]:
    """An initializer as a dict for JSON: ``{"class": "Normal", "mean": 0.0, "std": 0.02}``.

    Raises
    ------
    TypeError
        If it, or one within it, is no initializer of the library.

    Examples
    --------
    >>> import fastinit
    >>> fastinit.initializer_config(fastinit.Normal(std=0.02))
    {'class': 'Normal', 'mean': 0.0, 'std': 0.02}
    """
    if not isinstance(initializer, Initializer):
        raise TypeError(f"initializer must be an Initializer, not {initializer!r}")
    config: dict[str, Any] = encoded(initializer)
    return config


def initializer_from_config(config: Mapping[str, Any]) -> Initializer:
    """The initializer of an :func:`initializer_config`. Fields that are missing have their defaults.

    Parameters
    ----------
    config : mapping
        ``"class"``, and the fields of that class.

    Raises
    ------
    ValueError
        If the class is unknown or no initializer, or a field is unknown, missing or out of range.

    Examples
    --------
    >>> import fastinit
    >>> fastinit.initializer_from_config({"class": "Normal", "std": 0.02})
    Normal(mean=0.0, std=0.02)
    """
    try:
        found = decoded(dict(config))
    except TypeError as problem:
        raise ValueError(f"{config!r} describes no initializer: {problem}") from None
    if not isinstance(found, Initializer):
        raise ValueError(f"{config!r} describes no initializer")
    return found


def brief(value: Any) -> str:
    """The repr of an initializer without the fields that have their defaults."""
    if CLASSES.get(type(value).__name__) is not type(value):
        return f"({', '.join(map(brief, value))})" if isinstance(value, tuple) else repr(value)
    given = [f"{f.name}={brief(getattr(value, f.name))}" for f in fields(value) if getattr(value, f.name) != f.default]
    return f"{type(value).__name__}({', '.join(given)})"
