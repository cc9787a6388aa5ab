"""Planning for whole models, shared by all adapters: checks entries before anything is written, and matches records.

An adapter describes the parameters of its model (:class:`fastinit.Parameter`) and fills the planned entries.
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
    """A checked entry for each parameter, in its dtype.

    Parameters
    ----------
    parameters : sequence of Parameter
        The parameters of one model.
    dtypes : sequence of str
        The dtype of each parameter.
    recipe : Recipe or None
        The rules.
    seed : int or str
        Seed of all keys.
    unmatched, frozen, in_memory, asked
        As in :func:`fastinit.assigned`.
    rows : sequence of NewRows or None, optional
        For each parameter the new rows to fill, or None for the whole tensor. Only rows with ``"own"`` use the recipe.

    Raises
    ------
    TypeError, ValueError, UnmatchedParameter
        As in :func:`fastinit.assigned` and :func:`check_entry`. ValueError also if the recipe keeps a parameter with
        new rows, or a tensor with new rows has no values.

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
            raise ValueError(
                f"new rows of {entry.name!r} need its old rows, got a tensor without values: fill all of it"
            )
        check_entry(entry)
    return entries


_WAYS = {"mean": "the mean of the old", "mean_covariance": "drawn with the mean and covariance of the old"}


def _with_rows(entry: Entry, rows: NewRows) -> Entry:
    """Restricts an entry to new rows."""
    if rows.is_open and isinstance(entry.initializer, Keep):
        raise ValueError(f"new rows of {entry.name!r} need an initializer from the recipe, got {entry.rule!r}")
    if rows.is_open:
        title, rows = entry.rule, replace(rows, initializer=entry.initializer)
    else:
        title = _WAYS.get(str(rows.initializer), "as given")
    return replace(entry, rule=f"rows from {rows.first} on: {title}", initializer=rows, std=None)


def check_entry(entry: Entry) -> None:
    """Checks that filling an entry will succeed. Writes nothing.

    Parameters
    ----------
    entry : Entry
        The entry to check.

    Raises
    ------
    TypeError, ValueError
        The errors of filling, with the parameter's name.

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
        raise TypeError(f"{entry.name!r}: expected a dtype among {', '.join(DTYPES)}, got {entry.dtype}")
    try:
        entry.initializer.check(entry.shape, entry.dtype)
    except ValueError as problem:
        raise ValueError(f"{entry.name!r}, {entry.rule!r}: {problem}") from None


def read_record(record: Record | str | os.PathLike[str]) -> Record:
    """A record, from its JSON or from the path of its file.

    Parameters
    ----------
    record : Record, str or path
        The record, its JSON, or the path of its file.

    Raises
    ------
    TypeError, ValueError, OSError
        If `record` has another type; as in :meth:`fastinit.Record.from_json`; or if the file cannot be read.

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
        The record to fill the model from.
    parameters : iterable of Parameter
        The parameters of one model.
    dtypes : iterable of str or None
        The dtype of each parameter, to compare with the entry's.

    Raises
    ------
    ValueError
        If the model has other names, shapes or dtypes, or an entry's initializer does not support its parameter.

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
                f"{entry.name!r}: expected shape {entry.shape} in {entry.dtype} as recorded, got shape "
                f"{parameter.shape} in {dtype}"
            )
        check_entry(entry)
    return [entries[parameter.name] for parameter, _ in found]


def compare_digests(before: Iterable[Entry], after: Iterable[Entry]) -> None:
    """Raises ValueError if a parameter's bytes differ from the record's.

    Parameters
    ----------
    before, after : iterable of Entry
        The record's entries, and those of the filled parameters, in the same order.

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
