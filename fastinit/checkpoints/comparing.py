"""Differences of two checkpoints, and statistics of one, computed in pieces of bounded size."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from fastinit import _core
from fastinit.buffers import Buffer
from fastinit.checkpoints.contents import Checkpoint
from fastinit.checkpoints.formats import Stored
from fastinit.checkpoints.reading import read_checkpoint
from fastinit.checkpoints.sources import Filled
from fastinit.comparing import compare_made, numbers, together
from fastinit.dtypes import DTYPES, dtype_named
from fastinit.initializers import expected_std
from fastinit.progress import progress_bar
from fastinit.threads import default_num_threads

__all__ = ["Difference", "Statistics", "diff", "statistics"]

# Elements of which statistics are computed together, in float64.
PIECE: Final = 2**20


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference between a tensor of one checkpoint and that of another.

    Attributes
    ----------
    name : str
    verdict : str
        ``"equal"``, ``"differs"``, ``"shape"``, ``"dtype"``, ``"only in the first"``, ``"only in the second"``.
    detail : str
        Number and place of the elements that differ.

    Examples
    --------
    >>> Difference("step", "equal").verdict
    'equal'
    """

    name: str
    verdict: str
    detail: str = ""


def diff(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> list[Difference]:
    """Compare the tensors of two checkpoints, bit by bit.

    Parameters
    ----------
    first, second : path
        As in :func:`fastinit.checkpoints.read_checkpoint`.

    Returns
    -------
    list of Difference
        One for each tensor of either.

    Raises
    ------
    OSError, ValueError
        As :func:`fastinit.checkpoints.read_checkpoint`.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastinit.checkpoints import Plan, Tensor, Values, diff, write
    >>> folder = tempfile.mkdtemp()
    >>> paths = [os.path.join(folder, f"{number}.safetensors") for number in (1, 2)]
    >>> for number, path in enumerate(paths):
    ...     data = np.int64(number).tobytes()
    ...     written = write(Plan((Tensor("step", Values("int64", (), data)),)), path)
    >>> [one.verdict for one in diff(*paths)]
    ['differs']
    """
    rows = []
    with read_checkpoint(first) as ours, read_checkpoint(second) as theirs:
        for stored in ours:
            if stored.name not in theirs:
                rows.append(Difference(stored.name, "only in the first"))
                continue
            other = theirs[stored.name]
            if stored.shape != other.shape:
                rows.append(Difference(stored.name, "shape", f"{stored.shape} and {other.shape}"))
            elif stored.format != other.format:
                rows.append(Difference(stored.name, "dtype", f"{stored.format.name} and {other.format.name}"))
            else:
                rows.append(_difference(stored, ours, theirs))
        rows += [Difference(stored.name, "only in the second") for stored in theirs if stored.name not in ours]
    return rows


def _difference(stored: Stored, ours: Checkpoint, theirs: Checkpoint) -> Difference:
    """The difference of a tensor that has the same shape and format in both."""
    name, piece = stored.name, min(ours.PIECE, theirs.PIECE)
    places = [(begin, min(stored.nbytes, begin + piece)) for begin in range(0, stored.nbytes, piece)]
    if stored.format.name not in DTYPES:
        different = sum(int(np.count_nonzero(ours.read(name, *place) != theirs.read(name, *place))) for place in places)
        detail = f"{different:,} of {stored.nbytes:,} bytes differ"
        return Difference(name, "differs", detail) if different else Difference(name, "equal")
    dtype, threads = dtype_named(stored.format.name), default_num_threads()
    pieces = []
    for place in places:
        left, right = ours.read(name, *place), theirs.read(name, *place)
        buffer = Buffer(_core.address(left), (left.size // dtype.itemsize,), (dtype.itemsize,), dtype, left)

        def make(out: np.ndarray, begin: int, right: np.ndarray = right) -> None:
            out[:] = right[begin * dtype.itemsize : begin * dtype.itemsize + out.size]

        pieces.append((place[0] // dtype.itemsize, compare_made(buffer, make, dtype, 1, threads)))
    found = together(pieces)
    if found.is_equal:
        return Difference(name, "equal")
    return Difference(
        name,
        "differs",
        f"{found.different:,} of {found.size:,} elements, from {found.first:,} to {found.last:,}, by "
        f"{found.change:.2g} of their size",
    )


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of a tensor of a checkpoint.

    Attributes
    ----------
    stored : Stored
        Name, format and shape.
    mean, std, low, high : float
        Statistics of the finite values; NaN if there are none, and for packed formats.
    expected_std : float or None
        Standard deviation expected by the plan; None if no formula is known.
    not_finite : int
        Number of values that are NaN or infinite.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastinit.checkpoints import Plan, Tensor, Values, statistics, write
    >>> path = os.path.join(tempfile.mkdtemp(), "steps.safetensors")
    >>> written = write(Plan((Tensor("steps", Values("int64", (2,), np.arange(2).tobytes())),)), path)
    >>> (found,) = statistics(path)
    >>> found.stored.name, found.low, found.high
    ('steps', 0.0, 1.0)
    """

    stored: Stored
    mean: float
    std: float
    low: float
    high: float
    expected_std: float | None
    not_finite: int


def statistics(checkpoint: str | os.PathLike[str], *, progress: bool | None = None) -> Iterator[Statistics]:
    """Statistics of every tensor of a checkpoint, one after another, beside the expectation of its plan.

    Parameters
    ----------
    checkpoint : path
        As in :func:`fastinit.checkpoints.read_checkpoint`.
    progress : bool, optional
        Whether to show the progress on stderr; by default if it is a terminal.

    Returns
    -------
    iterator of Statistics
        In the order of the files.

    Raises
    ------
    OSError, ValueError
        As :func:`fastinit.checkpoints.read_checkpoint`.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastinit.checkpoints import Plan, Tensor, Values, statistics, write
    >>> path = os.path.join(tempfile.mkdtemp(), "steps.safetensors")
    >>> written = write(Plan((Tensor("steps", Values("int64", (2,), np.arange(2).tobytes())),)), path)
    >>> [(one.mean, one.std) for one in statistics(path)]
    [(0.5, 0.5)]
    """
    with read_checkpoint(checkpoint) as found:
        expected = _expected(found)
        with progress_bar(found.nbytes, "show", progress) as advance:
            for stored in found:
                yield _statistics(stored, found, expected.get(stored.name))
                advance(stored.nbytes)


def _expected(found: Checkpoint) -> dict[str, float]:
    """The standard deviations that the plan of a checkpoint's files expects, of tensors that are filled whole."""
    expected = {}
    for tensor in found.plan or ():
        source = tensor.source
        if isinstance(source, Filled) and source.is_whole:
            std = source.entry.std
            if std is None:
                std = expected_std(source.entry.initializer, source.entry.shape)
            if std is not None:
                expected[tensor.name] = std
    return expected


def _statistics(stored: Stored, found: Checkpoint, expected: float | None) -> Statistics:
    name = stored.format.name
    known = name in DTYPES or (stored.format.bits % 8 == 0 and hasattr(np, name)) or name == "bool"
    if not known or not stored.nbytes or name.startswith("complex"):
        return Statistics(stored, math.nan, math.nan, math.nan, math.nan, expected, 0)
    itemsize = stored.format.bits // 8
    count, not_finite, shift = 0, 0, 0.0
    sums, squares, low, high = 0.0, 0.0, math.inf, -math.inf
    for at in range(0, stored.nbytes, PIECE * itemsize):
        piece = found.read(stored.name, at, min(stored.nbytes, at + PIECE * itemsize))
        if name in DTYPES:
            dtype = dtype_named(name)
            values = numbers(piece.view(dtype.raw), dtype)
        else:
            values = piece.view(name).astype(np.float64)
        finite = np.isfinite(values)
        if not finite.all():
            not_finite += int(values.size - np.count_nonzero(finite))
            values = values[finite]
        if not values.size:
            continue
        if not count:
            shift = float(values[0])  # so that a small spread about a large mean is not lost
        count += values.size
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        values = values - shift
        sums += float(values.sum())
        squares += float(np.dot(values, values))
    if not count:
        return Statistics(stored, math.nan, math.nan, math.nan, math.nan, expected, not_finite)
    mean = sums / count
    return Statistics(
        stored, mean + shift, math.sqrt(max(squares / count - mean * mean, 0.0)), low, high, expected, not_finite
    )
