"""Parts of models: which parameters a caller means by patterns of their names, or by a function.

>>> import fastinit
>>> names = ("encoder.up.weight", "encoder.up.bias", "head.weight")
>>> parameters = [fastinit.Parameter(name, (3,)) for name in names]
>>> selected(parameters, only="encoder.*", skip="*.bias")
[True, False, False]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from fastinit.checks import shown
from fastinit.models.rules import Parameter

__all__ = ["Selection", "selected"]

Selection = str | Sequence[str] | Callable[[Parameter], bool]
"""Patterns of canonical names as the shell has them (``"encoder.*.weight"``), or a function of a parameter."""

# So many names an error shows.
SHOWN = 5


def selected(
    parameters: Sequence[Parameter], only: Selection | None = None, skip: Selection | None = None
) -> list[bool]:
    """Which parameters are meant: those of `only`, by default all, without those of `skip`.

    Parameters
    ----------
    parameters : sequence of Parameter
        Those of one model.
    only, skip : str, sequence of str, callable or None
        A parameter is among them if one of its names matches a pattern, or the function says so.

    Raises
    ------
    TypeError
        If a selection is neither.
    ValueError
        If a pattern matches no parameter, or none is left.

    Examples
    --------
    >>> import fastinit
    >>> there = {"up.weight"}
    >>> parameters = [fastinit.Parameter(name, (3,)) for name in ("up.weight", "up.bias")]
    >>> selected(parameters, only=lambda parameter: parameter.name not in there)
    [False, True]
    """
    wanted = [True] * len(parameters) if only is None else _matches(parameters, only, "only")
    unwanted = [False] * len(parameters) if skip is None else _matches(parameters, skip, "skip")
    found = [one and not other for one, other in zip(wanted, unwanted, strict=True)]
    if (only is not None or skip is not None) and not any(found):
        raise ValueError(f"only={shown(only)} and skip={shown(skip)} leave none of {len(parameters)} parameters")
    return found


def _matches(parameters: Sequence[Parameter], selection: Any, what: str) -> list[bool]:
    if callable(selection):
        return [bool(selection(parameter)) for parameter in parameters]
    try:
        patterns = [selection] if isinstance(selection, str) else list(selection)
    except TypeError:
        patterns = [None]
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"{what} must be patterns of names, or a function of a Parameter; got {shown(selection)}")
    names = [(parameter.name, *parameter.other_names) for parameter in parameters]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for own in names for name in own):
            examples = ", ".join(own[0] for own in names[:SHOWN])
            raise ValueError(f"{what}={pattern!r} matches no parameter; there are {len(names)}: {examples}...")
    return [any(fnmatchcase(name, pattern) for name in own for pattern in patterns) for own in names]
