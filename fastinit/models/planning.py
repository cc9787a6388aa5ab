"""Whole models, the part that every adapter shares: entries checked before anything is written, records matched again.

An adapter describes the parameters of its model (:class:`fastinit.Parameter`) and fills what is planned here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from fastinit.checks import changed
from fastinit.dtypes import DTYPES
from fastinit.models.recipes import Recipe, assigned
from fastinit.models.records import Entry, Record
from fastinit.models.rules import Parameter
from fastinit.programs import Keep
from fastinit.rows import NewRows

__all__ = ["check_entry", "compare_digests", "planned", "read_record", "recorded_entries"]


def planned(
    parameters: Sequence[Parameter],
    dtypes: Sequence[str],
    recipe: Recipe | None,
    seed: int | str,
    unmatched: str = "error",
    *,
    frozen: bool = False,
    in_memory: bool = True,
    asked: Sequence[bool] | None = None,
    rows: Sequence[NewRows | None] | None = None,
) -> list[Entry]:
    """What each parameter is to be filled with in its dtype, checked.

    Parameters
    ----------
    parameters : sequence of Parameter
        Those of one model.
    dtypes : sequence of str
        The dtype of each.
    recipe : Recipe or None
        The rules.
    seed : int or str
        Seed of all keys.
    unmatched, frozen, in_memory, asked
        As in :func:`fastinit.assigned`.
    rows : sequence of NewRows or None, optional
        Of which parameters new rows alone are meant; only where they are ``"own"`` the recipe is asked.

    Raises
    ------
    TypeError, ValueError, UnmatchedParameter
        As :func:`fastinit.assigned` and :func:`check_entry`; ValueError also where the recipe keeps a parameter whose
        rows are meant, or new rows are meant of a tensor without values.

    Examples
    --------
    >>> import fastinit
    >>> weight = fastinit.Parameter("up.weight", (64, 128), layer="Linear")
    >>> (entry,) = planned([weight], ["bfloat16"], fastinit.AUTO, seed=0)
    >>> entry.dtype
    'bfloat16'
    """
    new = [None] * len(parameters) if rows is None else rows
    everything = [True] * len(parameters) if asked is None else asked
    open_ = [one and (some is None or some.is_open) for one, some in zip(everything, new, strict=True)]
    found = assigned(parameters, recipe, seed, unmatched, frozen=frozen, in_memory=in_memory, asked=open_)
    found = [entry if some is None else _with_rows(entry, some) for entry, some in zip(found, new, strict=True)]
    entries = [changed(entry, dtype=dtype) for entry, dtype in zip(found, dtypes, strict=True)]
    for entry in entries:
        if isinstance(entry.initializer, NewRows) and not in_memory:
            raise ValueError(f"{entry.name!r} has no values, and so no old rows to keep: fill all of it")
        check_entry(entry)
    return entries


_WAYS = {"mean": "the mean of the old", "mean_covariance": "drawn with the mean and covariance of the old"}


def _with_rows(entry: Entry, rows: NewRows) -> Entry:
    """An entry of new rows alone."""
    if rows.is_open and isinstance(entry.initializer, Keep):
        raise ValueError(f"new rows of {entry.name!r} are to be its own, and the recipe leaves it alone: {entry.rule}")
    if rows.is_open:
        title, rows = entry.rule, replace(rows, initializer=entry.initializer)
    else:
        title = _WAYS.get(str(rows.initializer), "as given")
    return replace(entry, rule=f"rows from {rows.first} on: {title}", initializer=rows, std=None)


def check_entry(entry: Entry) -> None:
    """Checks that filling as the entry says will succeed; writes nothing.

    Parameters
    ----------
    entry : Entry
        What is to be filled.

    Raises
    ------
    TypeError, ValueError
        What filling would raise, with the parameter's name.

    Examples
    --------
    >>> from dataclasses import replace
    >>> import fastinit
    >>> bias = fastinit.Parameter("up.bias", (64,), layer="Linear")
    >>> (entry,) = planned([bias], ["float32"], fastinit.AUTO, seed=0)
    >>> check_entry(entry)
    >>> check_entry(replace(entry, initializer=fastinit.Orthogonal()))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: ...up.bias... an orthogonal matrix needs at least 2 axes, got shape (64,)
    """
    if isinstance(entry.initializer, Keep):
        return
    if entry.dtype not in DTYPES:
        raise TypeError(f"{entry.name!r} is of {entry.dtype}, and fastinit fills {', '.join(DTYPES)}")
    try:
        entry.initializer.check(entry.shape, entry.dtype)
    except ValueError as problem:
        raise ValueError(f"{entry.name!r}, {entry.rule!r}: {problem}") from None


def read_record(record: Record | str | os.PathLike[str]) -> Record:
    """A record, from its JSON or from the path of a file that holds it.

    Parameters
    ----------
    record : Record, str or path
        The record, its JSON, or where it is.

    Raises
    ------
    TypeError, ValueError, OSError
        For anything else; what :meth:`fastinit.Record.from_json` raises; where the file cannot be read.

    Examples
    --------
    >>> import fastinit
    >>> record = fastinit.Record((), 0, "auto", fastinit.__version__)
    >>> read_record(record.to_json()) == record
    True
    """
    if isinstance(record, Record):
        return record
    if isinstance(record, str) and record.lstrip().startswith("{"):
        return Record.from_json(record)
    if isinstance(record, (str, os.PathLike)):
        return Record.load(record)
    raise TypeError(f"record must be a Record, its JSON or a path, not {type(record).__name__}")


def recorded_entries(record: Record, parameters: Iterable[Parameter], dtypes: Iterable[str | None]) -> list[Entry]:
    """The record's entry of each parameter of a model, checked.

    Parameters
    ----------
    record : Record
        What the model is filled by.
    parameters : iterable of Parameter
        Those of one model.
    dtypes : iterable of str or None
        The dtype of each; None where any will do.

    Raises
    ------
    ValueError
        If the model has other names, shapes or dtypes, or an entry's initializer cannot fill its parameter.

    Examples
    --------
    >>> import fastinit
    >>> weight = fastinit.Parameter("up.weight", (64, 128), layer="Linear")
    >>> record = fastinit.Record(tuple(planned([weight], ["float32"], fastinit.AUTO, 0)), 0, "auto", "0.1.0")
    >>> recorded_entries(record, [weight], ["float32"]) == list(record)
    True
    """
    found = list(zip(parameters, dtypes, strict=True))
    entries = {entry.name: entry for entry in record}
    names = {parameter.name for parameter, _ in found}
    for missing, where in ((names - set(entries), "the record"), (set(entries) - names, "the model")):
        if missing:
            raise ValueError(f"{where} lacks the parameters {', '.join(sorted(missing))}")
    for parameter, dtype in found:
        entry = entries[parameter.name]
        if (parameter.shape, dtype) != (entry.shape, entry.dtype):
            raise ValueError(
                f"{entry.name!r} was recorded with shape {entry.shape} in {entry.dtype}, and the model has shape "
                f"{parameter.shape} in {dtype}"
            )
        check_entry(entry)
    return [entries[parameter.name] for parameter, _ in found]


def compare_digests(before: Iterable[Entry], after: Iterable[Entry]) -> None:
    """Raises ValueError where a parameter was filled with other bytes than those that a record says.

    Parameters
    ----------
    before, after : iterable of Entry
        The record's entries, and those of the parameters as filled, in one order.

    Examples
    --------
    >>> from dataclasses import replace
    >>> import fastinit
    >>> (entry,) = fastinit.assigned([fastinit.Parameter("up.bias", (64,), layer="Linear")], "auto", seed=0)
    >>> compare_digests([replace(entry, digest="00")], [replace(entry, digest="ff")])
    Traceback (most recent call last):
        ...
    ValueError: 'up.bias' was filled with other bytes than the record's: expected the digest 00, got ff
    """
    for expected, got in zip(before, after, strict=True):
        if expected.digest and got.digest and expected.digest != got.digest:
            raise ValueError(
                f"{expected.name!r} was filled with other bytes than the record's: expected the digest "
                f"{expected.digest}, got {got.digest}"
            )
