"""Verifying: which tensors of a model still hold what its record says, and what became of the others.

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
"""What can be said of a tensor, the best first."""

_SOUND: Final = ("equal", "rounded", "kept")
# Of a stretch so large a part differs, and of the tensor so small a part at most, that nobody trained it.
_DENSE, _LARGEST = 0.9, 0.5


@dataclass(frozen=True, slots=True)
class Verified:
    """What became of one tensor.

    Attributes
    ----------
    name : str
        Its canonical name.
    verdict : str
        A key of :data:`VERDICTS`.
    detail : str
        How far it has moved, or where it differs; empty where there is no more to say.
    comparison : Comparison or None
        The figures behind it, of what this process holds; None where nothing was compared.

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
        """Whether it is as the record says."""
        return self.verdict in _SOUND

    def __str__(self) -> str:
        return f"{self.verdict}, {self.detail}" if self.detail else self.verdict


@dataclass(frozen=True, slots=True)
class Verification:
    """What became of all tensors of a model; ``str()`` of it is a table of those that are not as recorded.

    Attributes
    ----------
    rows : tuple of Verified
        In the record's order, then those that it does not know.

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
        """Whether every tensor is as the record says."""
        return all(row.is_sound for row in self.rows)

    def __iter__(self) -> Iterator[Verified]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Verified:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no tensor is called {name!r}")

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
    """What became of the memory of a tensor: compared with what its entry says, of new rows these alone.

    Parameters
    ----------
    entry : Entry
        Of the record.
    buffer : Buffer
        The memory.
    shard : Shard, optional
        The elements of the global tensor that it holds; by default all.
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
    """What a comparison says of a tensor.

    Parameters
    ----------
    name : str
        The tensor's.
    recorded : str or None
        The dtype that it was filled in; None where that is not recorded.
    dtype : str
        That the tensor has now; the comparison was with the recorded values in this dtype.
    found : Comparison
        With those values.

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
    """What is known of a tensor that the record leaves alone: whether its bytes have the recorded digest.

    Parameters
    ----------
    entry : Entry
        Of the record.
    digest : str or None
        Of the tensor's bytes; None where the record has none, or not all of them are here.

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
    """What became of all tensors: those of a record found in a model by any of their names, and those that it lacks.

    Parameters
    ----------
    record : Record
        Of how the model was filled.
    parameters : sequence of Parameter
        The tensors that the model has now.
    look : callable
        Compares the tensor of a number, of a recorded shape, with an entry.

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
        for place, number in enumerate(found):  # more than one where tensors are tied no longer
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
