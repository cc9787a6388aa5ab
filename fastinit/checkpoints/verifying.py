"""Verifying checkpoints: recompute every tensor from its plan and compare it with the file, in bounded memory."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from fastinit import Record, Verification, Verified, _core
from fastinit.buffers import Buffer
from fastinit.checkpoints.headers import Stored
from fastinit.checkpoints.plans import Plan, Tensor
from fastinit.checkpoints.reading import Checkpoint, Mapped, read_checkpoint
from fastinit.checkpoints.sources import Filled, Source, Values
from fastinit.comparing import Comparison, compare_buffer, compare_made, together
from fastinit.dtypes import DTYPES, dtype_named
from fastinit.exact import in_stream_environment
from fastinit.models.verifying import judged
from fastinit.progress import progress_bar
from fastinit.shards import Shard
from fastinit.threads import default_num_threads

__all__ = ["verify"]

# Elements that are compared at a time: the bytes of a file that are in memory at once.
PIECE: Final = 2**25


@in_stream_environment
def verify(
    checkpoint: str | os.PathLike[str],
    plan: Plan | Record | str | os.PathLike[str] | None = None,
    *,
    num_threads: int | None = None,
    progress: bool | None = None,
) -> Verification:
    """Recompute the tensors of a checkpoint from its plan and compare them bit by bit.

    Parameters
    ----------
    checkpoint : path
        A safetensors file, an index, or the folder of either.
    plan : Plan, Record or path, optional
        The expected contents; by default the plan stored in the files.
    num_threads : int, optional
        At most this many threads.
    progress : bool, optional
        Whether to show the progress on stderr; by default if it is a terminal.

    Returns
    -------
    fastinit.Verification
        A row for each tensor: ``"equal"``; ``"rounded"``, equal after the conversion to the file's dtype;
        ``"trained"``, with how far it has moved; ``"damaged"``, with the range; ``"missing"`` from the file;
        ``"unknown"`` to the plan.

    Raises
    ------
    OSError, ValueError
        As :func:`fastinit.checkpoints.read_checkpoint`; ValueError also where the files carry no plan and none is
        given.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastinit.checkpoints import Plan, Tensor, Values, verify, write
    >>> out = os.path.join(tempfile.mkdtemp(), "step.safetensors")
    >>> written = write(Plan((Tensor("step", Values("int64", (), bytes(8))),)), out)
    >>> print(verify(out))
    1 tensors: 1 equal
    """
    found = read_checkpoint(checkpoint)
    expected = _plan_of(found, plan)
    threads = default_num_threads() if num_threads is None else num_threads
    rows = []
    with Mapped(found) as files, progress_bar(sum(one.nbytes for one in found), "verify", progress) as advance:
        for tensor in expected:
            rows.append(_verified(tensor, found, files, threads, advance))
    known = {tensor.name for tensor in expected}
    rows += [Verified(stored.name, "unknown") for stored in found if stored.name not in known]
    return Verification(tuple(rows))


def _plan_of(found: Checkpoint, given: Plan | Record | str | os.PathLike[str] | None) -> Plan:
    if isinstance(given, Plan):
        return given
    if isinstance(given, Record):
        return Plan.of(given)
    if given is None:
        carried = found.plan
        if carried is None:
            raise ValueError(
                f"{found.path} carries no plan of fastinit: give the plan or the record that it was written by"
            )
        return carried
    with open(os.fspath(given), encoding="utf-8") as file:
        text = file.read()
    return Plan.from_json(text) if '"plan_version"' in text else Plan.of(Record.from_json(text))


def _verified(
    tensor: Tensor, found: Checkpoint, files: Mapped, threads: int, advance: Callable[[int], object]
) -> Verified:
    source, name = tensor.source, tensor.name
    if name not in found:
        return Verified(name, "missing")
    stored = found[name]
    if stored.shape != tensor.shape:
        return Verified(name, "missing", f"shape {stored.shape}, recorded {tensor.shape}")
    data = files.bytes_of(name)
    if isinstance(source, Values):
        advance(data.size)
        return _of_values(stored, source, data)
    if stored.format != tensor.format and not {stored.format.name, tensor.format.name} <= set(DTYPES):
        return Verified(name, "missing", f"dtype {stored.format.name}, recorded {tensor.format.name}")
    if tensor.format.name not in DTYPES:
        return _of_bits(name, source, data, threads, advance)
    dtype = dtype_named(stored.format.name)
    size = math.prod(tensor.shape)
    step = max(1, PIECE // source.granule) * source.granule
    pieces = []
    for begin in range(0, size, step):
        count = min(step, size - begin)
        address = _core.address(data) + begin * dtype.itemsize
        buffer = Buffer(address, (count,), (dtype.itemsize,), dtype, data)
        pieces.append((begin, _compared(source, buffer, begin, threads)))
        files.forget()
        advance(count * dtype.itemsize)
    return judged(name, tensor.format.name, dtype.name, together(pieces))


def _compared(source: Source, buffer: Buffer, begin: int, threads: int) -> Comparison:
    """Compare memory that holds consecutive elements of a tensor."""
    if isinstance(source, Filled) and source.is_whole:
        entry = source.entry
        shard = Shard(entry.shape, None, begin)
        return compare_buffer(buffer, entry.initializer, entry.key, shard, drawn_in=entry.dtype, num_threads=threads)

    def make(out: np.ndarray, first: int) -> None:
        source.write(out, begin + first, 1)

    return compare_made(buffer, make, dtype_named(source.format.name), source.granule, threads)


def _of_values(stored: Stored, source: Values, data: Any) -> Verified:
    if stored.format != source.format:
        return Verified(stored.name, "missing", f"dtype {stored.format.name}, recorded {source.format.name}")
    if hashlib.sha256(data).hexdigest() == source.digest:
        return Verified(stored.name, "equal")
    return Verified(stored.name, "trained", "other bytes than those of the plan")


def _of_bits(name: str, source: Source, data: np.ndarray, threads: int, advance: Callable[[int], object]) -> Verified:
    """Packed elements, which are compared byte by byte."""
    bits, size = source.format.bits, math.prod(source.shape)
    step = max(1, PIECE // source.granule) * source.granule
    different, first, last = 0, None, None
    for begin in range(0, size, step):
        count = min(step, size - begin)
        at, nbytes = begin * bits // 8, -(-count * bits // 8)
        expected = np.empty(nbytes, np.uint8)
        source.write(expected, begin, threads)
        places = np.flatnonzero(expected != data[at : at + nbytes])
        if places.size:
            different += places.size
            first = at + int(places[0]) if first is None else first
            last = at + int(places[-1])
        advance(nbytes)
    if first is None or last is None:
        return Verified(name, "equal")
    return Verified(name, "damaged", f"{different:,} of {data.size:,} bytes differ, from {first:,} to {last:,}")
