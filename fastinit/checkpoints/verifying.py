"""Verifying checkpoints: recompute every tensor from its plan and compare it with the file, in bounded memory."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from typing import SupportsIndex

import numpy as np

from fastinit import Record, Verification, Verified, _core
from fastinit.buffers import Buffer
from fastinit.checkpoints.contents import Checkpoint
from fastinit.checkpoints.libraries import run_operators
from fastinit.checkpoints.plans import Plan, Tensor
from fastinit.checkpoints.reading import read_checkpoint
from fastinit.checkpoints.sources import Filled, Source, Values
from fastinit.checks import at_least
from fastinit.comparing import Comparison, compare_buffer, compare_made, together
from fastinit.dtypes import DTYPES, dtype_named
from fastinit.exact import in_stream_environment
from fastinit.models.records import parsed
from fastinit.models.verifying import judged
from fastinit.progress import progress_bar
from fastinit.shards import Shard
from fastinit.threads import default_num_threads

__all__ = ["verify"]


@in_stream_environment
def verify(
    checkpoint: str | os.PathLike[str],
    plan: Plan | Record | str | os.PathLike[str] | None = None,
    *,
    num_threads: SupportsIndex | None = None,
    progress: bool | None = None,
) -> Verification:
    """Recompute the tensors of a checkpoint from its plan and compare them bit by bit.

    Parameters
    ----------
    checkpoint : path
        As in :func:`fastinit.checkpoints.read_checkpoint`.
    plan : Plan, Record or path, optional
        The expected contents; by default the plan stored in the files.
    num_threads : int, optional
        At most this many threads, by default :func:`fastinit.default_num_threads`.
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
    OSError, ValueError, ModuleNotFoundError
        As :func:`fastinit.checkpoints.read_checkpoint`; ValueError also where the files carry no plan and none is
        given: safetensors files, weight files of Keras and folders carry what they were written from, NumPy's files do
        not.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastinit.checkpoints import Plan, Tensor, Values, verify, write
    >>> out = os.path.join(tempfile.mkdtemp(), "step.safetensors")
    >>> written = write(Plan((Tensor("step", Values("int64", (), bytes(8))),)), out)
    >>> print(verify(out))
    1 tensors: 1 equal
    """
    threads = default_num_threads() if num_threads is None else at_least(1, "num_threads", num_threads)
    with read_checkpoint(checkpoint) as found:
        expected = _plan_of(found, plan)
        run_operators(expected.frameworks)
        with progress_bar(found.nbytes, "verify", progress) as advance:
            rows = [_verified(tensor, found, threads, advance) for tensor in expected]
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
                f"{found.path} carries no plan of fastinit: give the plan or the record that it was written by (the "
                "argument plan, or --record)"
            )
        return carried
    with open(os.fspath(given), encoding="utf-8") as file:
        text = file.read()
    return (
        Plan.from_json(text)
        if "plan_version" in parsed(text, "a plan or a record")
        else Plan.of(Record.from_json(text))
    )


def _verified(tensor: Tensor, found: Checkpoint, threads: int, advance: Callable[[int], object]) -> Verified:
    source, name = tensor.source, tensor.name
    if name not in found:
        return Verified(name, "missing")
    stored = found[name]
    if stored.shape != tensor.shape:
        return Verified(name, "missing", f"shape {stored.shape}, recorded {tensor.shape}")
    both = {stored.format.name, tensor.format.name}
    if stored.format != tensor.format and (isinstance(source, Values) or not both <= set(DTYPES)):
        return Verified(name, "missing", f"dtype {stored.format.name}, recorded {tensor.format.name}")
    if isinstance(source, Values):
        return _of_values(source, name, found, advance)
    if tensor.format.name not in DTYPES:
        return _of_bits(source, name, found, threads, advance)
    dtype = dtype_named(stored.format.name)
    size = math.prod(tensor.shape)
    step = max(1, found.PIECE // dtype.itemsize // source.granule) * source.granule
    pieces = []
    for begin in range(0, size, step):
        count = min(step, size - begin)
        data = found.read(name, begin * dtype.itemsize, (begin + count) * dtype.itemsize)
        buffer = Buffer(_core.address(data), (count,), (dtype.itemsize,), dtype, data)
        pieces.append((begin, _compared(source, buffer, begin, threads)))
        advance(data.size)
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


def _of_values(source: Values, name: str, found: Checkpoint, advance: Callable[[int], object]) -> Verified:
    digest, size = hashlib.sha256(), found[name].nbytes
    for begin in range(0, size, found.PIECE):
        data = found.read(name, begin, min(size, begin + found.PIECE))
        digest.update(data.data)
        advance(data.size)
    if digest.hexdigest() == source.digest:
        return Verified(name, "equal")
    return Verified(name, "trained", "other bytes than those of the plan")


def _of_bits(source: Source, name: str, found: Checkpoint, threads: int, advance: Callable[[int], object]) -> Verified:
    """Packed elements, which are compared byte by byte."""
    bits, size = source.format.bits, math.prod(source.shape)
    step = max(1, found.PIECE * 8 // bits // source.granule) * source.granule
    different, first, last = 0, None, None
    for begin in range(0, size, step):
        count = min(step, size - begin)
        at, nbytes = begin * bits // 8, -(-count * bits // 8)
        expected = np.empty(nbytes, np.uint8)
        source.write(expected, begin, threads)
        places = np.flatnonzero(expected != found.read(name, at, at + nbytes))
        if places.size:
            different += places.size
            first = at + int(places[0]) if first is None else first
            last = at + int(places[-1])
        advance(nbytes)
    if first is None or last is None:
        return Verified(name, "equal")
    return Verified(
        name, "damaged", f"{different:,} of {found[name].nbytes:,} bytes differ, from {first:,} to {last:,}"
    )
