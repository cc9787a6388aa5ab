"""Verification: compares the tensors of a model with its record.

>>> import numpy as np, fastinit
>>> (entry,) = fastinit.assigned([fastinit.Parameter("up.weight", (64, 32), layer="Linear")], "auto", seed=0)
>>> weight = fastinit.fill(np.empty((64, 32), np.float32), entry.initializer, entry.key)
>>> judged(entry.name, "float32", "float32", fastinit.compare(weight, entry.initializer, entry.key)).verdict
'equal'
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fastinit.buffers import Buffer
from fastinit.comparing import Comparison, compare_buffer
from fastinit.models.records import Entry, Record
from fastinit.models.rules import Parameter
from fastinit.rows import NewRows, compare_rows, uncompared
from fastinit.shards import Shard

__all__ = ["VERDICTS", "Verification", "Verified", "judged", "judged_kept", "judged_memory", "verify_each"]

VERDICTS: Final = {
    "equal": "every bit is as recorded",
    "rounded": "every bit is as recorded, in another dtype",
    "kept": "the record leaves the values alone: nothing to compare with",
    "trained": "most elements have moved",
    "damaged": "a stretch has other values, or some are not finite",
    "missing": "the model has no such tensor, or one of another shape",
    "unknown": "the record has no such tensor",
}
"""The verdicts about a tensor, from best to worst."""

_SOUND: Final = ("equal", "rounded", "kept")
# Damage rather than training: at least this fraction of a stretch differs, and the stretch is at most this fraction of
# the tensor.
_DENSE, _LARGEST = 0.9, 0.5


@dataclass(frozen=True, slots=True)
class Verified:
    """Result of comparing one tensor with its record.

    Attributes
    ----------
    name : str
        Canonical name of the tensor.
    verdict : str
        A key of :data:`VERDICTS`.
    detail : str
        How far the values have moved, or where they differ; may be empty.
    comparison : Comparison or None
        The comparison of the elements that this process holds; None if nothing was compared.

    Examples
    --------
    >>> Verified("up.weight", "equal").is_sound
    True
    """

    name: str
    verdict: str
    detail: str = ""
    comparison: Comparison | None = None

    @property
    def is_sound(self) -> bool:
        """Whether the tensor is as recorded."""
        return self.verdict in _SOUND

    def __str__(self) -> str:
        return f"{self.verdict}, {self.detail}" if self.detail else self.verdict


@dataclass(frozen=True, slots=True)
class Verification:
    """Results for all tensors of a model. ``str()`` gives a table of those that are not as recorded.

    Attributes
    ----------
    rows : tuple of Verified
        Results in the record's order, then those of tensors that it lacks.

    Examples
    --------
    >>> found = Verification((Verified("up.weight", "equal"), Verified("up.bias", "trained", "by 0.1")))
    >>> found.is_sound, found["up.bias"].verdict
    (False, 'trained')
    >>> print(found)
    2 tensors: 1 equal, 1 trained
    up.bias  trained  by 0.1
    """

    rows: tuple[Verified, ...]

    @property
    def is_sound(self) -> bool:
        """Whether every tensor is as recorded."""
        return all(row.is_sound for row in self.rows)

    def __iter__(self) -> Iterator[Verified]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Verified:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no tensor has the name {name!r}")

    def __str__(self) -> str:
        counts = Counter(row.verdict for row in self.rows)
        said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
        head = f"{len(self.rows)} tensors: {said}" if self.rows else "no tensors"
        others = [(row.name, row.verdict, row.detail) for row in self.rows if not row.is_sound]
        widths = [max(map(len, column)) for column in zip(*others, strict=True)]
        return "\n".join([head, *("  ".join(map(str.ljust, row, widths)).rstrip() for row in others)])


def judged_memory(
    entry: Entry, buffer: Buffer, shard: Shard | None = None, *, num_threads: int | None = None
) -> Verified:
    """The verdict about a tensor's memory, compared with its entry. For new rows only these are compared.

    Parameters
    ----------
    entry : Entry
        The tensor's entry in the record.
    buffer : Buffer
        The memory.
    shard : Shard, optional
        The elements of the global tensor that the buffer holds; by default all.
    num_threads : int, optional
        At most this many threads.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> from fastinit.extending import buffer_of
    >>> (entry,) = fastinit.assigned([fastinit.Parameter("up.bias", (9,), layer="Linear")], "auto", seed=0)
    >>> judged_memory(entry, buffer_of(np.zeros(9, np.float32), None)).verdict
    'equal'
    """
    rows = entry.initializer
    if not isinstance(rows, NewRows):
        found = compare_buffer(buffer, rows, entry.key, shard, drawn_in=entry.dtype, num_threads=num_threads)
    elif reason := uncompared(buffer, rows, shard, entry.dtype):
        return Verified(entry.name, "kept", reason)
    else:
        found = compare_rows(buffer, rows, entry.key, shard, drawn_in=entry.dtype, num_threads=num_threads)
    return judged(entry.name, entry.dtype, buffer.dtype.name, found)


def judged(name: str, recorded: str | None, dtype: str, found: Comparison) -> Verified:
    """The verdict that follows from a comparison.

    Parameters
    ----------
    name : str
        Name of the tensor.
    recorded : str or None
        The dtype that it was filled in; None if it is not recorded.
    dtype : str
        The tensor's present dtype, in which it was compared with the recorded values.
    found : Comparison
        The comparison with those values.

    Examples
    --------
    >>> import fastinit
    >>> found = fastinit.compare(bytes(400), fastinit.Zeros(), fastinit.Key(0), dtype="float32")
    >>> judged("up.bias", "float32", "float32", found).verdict
    'equal'
    """
    if found.is_equal:
        rounded = recorded is not None and dtype != recorded
        return Verified(name, "rounded" if rounded else "equal", f"in {dtype}" if rounded else "", found)
    assert found.first is not None and found.last is not None
    where = f"{found.different:,} of {found.size:,} elements differ, from {found.first:,} to {found.last:,}"
    stretch = found.last - found.first + 1
    is_stretch = found.different >= _DENSE * stretch and stretch <= _LARGEST * found.size
    if math.isnan(found.change):
        return Verified(name, "damaged", f"{where}; some are not finite", found)
    if is_stretch:
        return Verified(name, "damaged", where, found)
    moved = "from zero" if math.isinf(found.change) else f"by {found.change:.2g} of their size"
    share = "" if found.different == found.size else f"{found.different / found.size:.0%} of the elements "
    return Verified(name, "trained", f"{share}{moved}", found)


def judged_kept(entry: Entry, digest: str | None) -> Verified:
    """The verdict about a tensor that the record keeps: whether its bytes have the recorded digest.

    Parameters
    ----------
    entry : Entry
        The tensor's entry in the record.
    digest : str or None
        Digest of the tensor's bytes; None if the record has none, or this process lacks some of the bytes.

    Examples
    --------
    >>> import fastinit
    >>> entry = fastinit.Entry("up.bias", (3,), "kept", fastinit.Keep(), fastinit.Key(0), digest="00")
    >>> judged_kept(entry, None).verdict, judged_kept(entry, "00").verdict, judged_kept(entry, "ff").verdict
    ('kept', 'equal', 'trained')
    """
    if entry.digest is None or digest is None:
        return Verified(entry.name, "kept")
    if digest == entry.digest:
        return Verified(entry.name, "equal")
    return Verified(entry.name, "trained", "other bytes than those that were kept")


def verify_each(
    record: Record, parameters: Sequence[Parameter], look: Callable[[Entry, int], Verified]
) -> Verification:
    """The verdicts about all tensors of a record, found in the model by any of their names, and about unrecorded ones.

    Parameters
    ----------
    record : Record
        Record of the fill.
    parameters : sequence of Parameter
        The model's present tensors.
    look : callable
        Function of an entry and the number of a tensor with the recorded shape. Returns a Verified.

    Examples
    --------
    >>> import fastinit
    >>> parameters = [fastinit.Parameter(name, (3,), layer="Linear") for name in ("up.bias", "down.bias")]
    >>> record = fastinit.Record(tuple(fastinit.assigned(parameters[:1], "auto", seed=0)), 0, "auto", "0.1.0")
    >>> print(verify_each(record, parameters, lambda entry, number: Verified(entry.name, "equal")))
    2 tensors: 1 equal, 1 unknown
    down.bias  unknown
    """
    first = {parameter.name: number for number, parameter in enumerate(parameters)}
    others = {name: number for number, parameter in enumerate(parameters) for name in parameter.other_names}
    rows = []
    seen: set[str] = set()
    for entry in record:
        names = (entry.name, *entry.other_names)
        seen.update(names)
        found = dict.fromkeys(known[name] for known in (first, others) for name in names if name in known)
        if not found:
            rows.append(Verified(entry.name, "missing"))
        for place, number in enumerate(found):  # several if tensors are no longer tied
            parameter = parameters[number]
            if parameter.shape == entry.shape:
                row = look(entry, number)
            else:
                row = Verified(entry.name, "missing", f"shape {parameter.shape}, recorded {entry.shape}")
            rows.append(replace(row, name=parameter.name) if place else row)
    for parameter in parameters:
        if seen.isdisjoint((parameter.name, *parameter.other_names)):
            rows.append(Verified(parameter.name, "unknown"))
    return Verification(tuple(rows))
