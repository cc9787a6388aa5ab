"""Selection of parameters by patterns of their names or by a function, and of new rows.

>>> import fastinit
>>> names = ("encoder.up.weight", "encoder.up.bias", "head.weight")
>>> parameters = [fastinit.Parameter(name, (3,)) for name in names]
>>> selected(parameters, only="encoder.*", skip="*.bias")
[True, False, False]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from fastinit.checks import shown
from fastinit.models.rules import Parameter
from fastinit.rows import NewRows

__all__ = ["Selection", "meant", "selected"]

Selection = str | Sequence[str] | Callable[[Parameter], bool]
"""Shell patterns of canonical names (``"encoder.*.weight"``), or a function of a parameter."""

# Names shown in an error message.
SHOWN = 5


def selected(
    parameters: Sequence[Parameter], only: Selection | None = None, skip: Selection | None = None
) -> list[bool]:
    """Which parameters are selected: those in `only` (by default all) that are not in `skip`.

    Parameters
    ----------
    parameters : sequence of Parameter
        The parameters of one model.
    only, skip : str, sequence of str, callable or None
        Patterns that match one of a parameter's names, or a function of a parameter that returns a bool.

    Raises
    ------
    TypeError
        If a selection has another type.
    ValueError
        If a pattern matches no parameter, or no parameter is left.

    Examples
    --------
    >>> import fastinit
    >>> there = {"up.weight"}
    >>> parameters = [fastinit.Parameter(name, (3,)) for name in ("up.weight", "up.bias")]
    >>> selected(parameters, only=lambda parameter: parameter.name not in there)
    [False, True]
    """
    return meant(parameters, only, skip)[0]


def meant(
    parameters: Sequence[Parameter],
    only: Selection | None = None,
    skip: Selection | None = None,
    rows: Mapping[str, int | NewRows] | None = None,
) -> tuple[list[bool], list[NewRows | None]]:
    """Which parameters are selected, and the new rows of those restricted to new rows.

    Parameters
    ----------
    parameters : sequence of Parameter
        The parameters of one model.
    only, skip
        As in :func:`selected`. If `rows` is given, `only` selects nothing by default.
    rows : mapping of str to int or NewRows, optional
        Maps patterns of names to the first new row or to NewRows. Selects these parameters in addition to `only`.

    Raises
    ------
    TypeError, ValueError
        As in :func:`selected`. Also if `rows` is not such a mapping, one of its patterns matches no parameter, or two
        patterns disagree about a parameter.

    Examples
    --------
    >>> import fastinit
    >>> parameters = [fastinit.Parameter(name, (9,)) for name in ("words", "head", "norm")]
    >>> meant(parameters, only="head", rows={"w*": 7})
    ([True, True, False], [NewRows(first=7, initializer='own', scale=1e-05), None, None])
    """
    new = [None] * len(parameters) if rows is None else _new_rows(parameters, rows)
    wanted = [only is None and rows is None] * len(parameters)
    if only is not None:
        wanted = _matches(parameters, only, "only")
    unwanted = [False] * len(parameters) if skip is None else _matches(parameters, skip, "skip")
    found = [(one or some is not None) and not other for one, some, other in zip(wanted, new, unwanted, strict=True)]
    if not (only is None and skip is None and rows is None) and not any(found):
        also = "" if rows is None else f", rows={shown(rows)}"
        raise ValueError(f"only={shown(only)}{also} and skip={shown(skip)} leave none of {len(parameters)} parameters")
    return found, [some if one else None for one, some in zip(found, new, strict=True)]


def _new_rows(parameters: Sequence[Parameter], rows: Any) -> list[NewRows | None]:
    """The new rows of each parameter, or None."""
    if not isinstance(rows, Mapping):
        raise TypeError(f"rows must be a mapping of patterns of names to the first new row, got {shown(rows)}")
    found: list[NewRows | None] = [None] * len(parameters)
    for pattern, given in rows.items():
        if not isinstance(pattern, str):
            raise TypeError(f"the patterns in rows must be str, got {shown(pattern)}")
        new = given if isinstance(given, NewRows) else NewRows(given)
        for number, matches in enumerate(_matches(parameters, pattern, "rows")):
            if matches and found[number] not in (None, new):
                name = parameters[number].name
                raise ValueError(f"rows must agree about {name!r}, got {shown(found[number])} and {shown(new)}")
            found[number] = new if matches else found[number]
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
