"""Writing checkpoints: all threads compute pieces of tensors and write them to their places.

A piece has a few mebibytes, except for tensors that can only be made whole, so memory does not grow with the
checkpoint. Pieces are written roughly in the order of the file; another thread flushes them to the disk. A few threads
more than compute keep the disk busy.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import threading
import time
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, SupportsIndex

import numpy as np

from fastinit.checkpoints.disks import SLACK, DirectFile, memory_for
from fastinit.checkpoints.layouts import SHARD_SIZE, File, npy_file, npy_head, safetensors_files, safetensors_index
from fastinit.checkpoints.libraries import SAFETENSORS, foreign_marks
from fastinit.checkpoints.plans import Plan
from fastinit.checkpoints.sources import Source
from fastinit.checkpoints.staging import Claim, Staging, check_room, partial_names
from fastinit.checks import at_least, shown
from fastinit.exact import in_stream_environment
from fastinit.progress import progress_bar
from fastinit.threads import default_num_threads, for_each

__all__ = ["Written", "write"]

# Bytes of a piece: large enough that neither the call nor the write costs, small enough for many threads.
PIECE: Final = 2**23
_LEAST_PIECE: Final = 2**18
# Threads at most that wait for the disk while others compute.
_WAITING: Final = 4
# Suffixes of single files.
_SINGLE: Final = (".safetensors", ".npz", ".npy")
# What an old checkpoint in the folder is known by; its index says which other files are replaced.
_OLD: Final = "|".join((*map(re.escape, SAFETENSORS), r".*\.safetensors\.index\.json"))
# Bytes between two notes of what has reached the disk: what a run that was killed has to write again.
_NOTE: Final = 2**28


@dataclass(frozen=True, slots=True)
class Written:
    """The result of a write.

    Attributes
    ----------
    path : str
        The file or the folder.
    files : tuple of str
        Names of its files.
    nbytes : int
        Bytes of all files of tensors.
    resumed : int
        Bytes of them that an earlier run had written.
    seconds : float
        How long it took.
    is_complete : bool
        Whether the checkpoint is at its place; False where another process writes a part of it still.

    Examples
    --------
    >>> Written("out", ("model.safetensors",), 10**9, 0, 2.0, True).nbytes
    1000000000
    """

    path: str
    files: tuple[str, ...]
    nbytes: int
    resumed: int
    seconds: float
    is_complete: bool


@in_stream_environment
def write(
    plan: Plan,
    out: str | os.PathLike[str],
    *,
    shard_size: int = SHARD_SIZE,
    max_memory: int | None = None,
    num_threads: SupportsIndex | None = None,
    overwrite: bool = False,
    resume: bool = False,
    part: tuple[int, int] | None = None,
    progress: bool | None = None,
) -> Written:
    """Writes the checkpoint of a plan, complete or not at all.

    Parameters
    ----------
    plan : Plan
        The contents.
    out : path
        A file that ends in ``.safetensors``, ``.npz`` or, for a single tensor, ``.npy``; or a folder, which gets
        ``model.safetensors`` or several files with an index, and the plan's other files.
    shard_size : int, >= 1
        Most bytes of tensors in one file of a folder.
    max_memory : int, optional
        Bytes of memory that the process may take. By default no tensor is too large.
    num_threads : int, optional
        At most this many threads compute, by default :func:`fastinit.default_num_threads`. A few others wait for the
        disk.
    overwrite : bool
        Whether files that exist are replaced. They stay as they are until the new ones are complete.
    resume : bool
        Whether to go on with what an interrupted run of the same plan has left. An ``.npz`` is written anew.
    part : tuple of (int, int), optional
        ``(k, n)`` with k in [0, n): this process writes every n-th file from the k-th on. The process that sees all
        files complete moves them to their place.
    progress : bool, optional
        Whether to show the progress on stderr; by default if it is a terminal.

    Returns
    -------
    Written

    Raises
    ------
    TypeError, ValueError
        For arguments out of range; with its name, for a tensor whose bytes cannot be made, whose making takes more than
        `max_memory`, or whose dtype NumPy does not have. Nothing has been written.
    OSError
        With the path, if the target exists, its folder is missing or read-only, the disk has no room, or another
        process is writing the same. The target is as it was.

    Notes
    -----
    The bytes depend on the plan and `shard_size` alone. The checkpoint grows in a hidden folder beside `out`, which
    stays after an interruption, for `resume`.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastinit.checkpoints import Plan, Tensor, Values, write
    >>> out = os.path.join(tempfile.mkdtemp(), "step.safetensors")
    >>> write(Plan((Tensor("step", Values("int64", (), bytes(8))),)), out).files
    ('step.safetensors',)
    """
    target = os.fsdecode(os.fspath(out)).rstrip(os.sep) or os.sep
    kind, base = Path(target).suffix, os.path.basename(target)
    single = base if kind in _SINGLE else None
    threads = default_num_threads() if num_threads is None else at_least(1, "num_threads", num_threads)
    first, step = (0, 1) if part is None else _checked_part(part)
    plan.check()
    if kind == ".npz":
        return _write_archive(plan, target, threads, max_memory, overwrite, progress)
    files = [npy_file(plan, base)] if kind == ".npy" else safetensors_files(plan, shard_size, single=single)
    index = safetensors_index(files, plan.stem)
    texts = {} if single else {**_checked_files(plan, files, index), **index}
    piece = _piece_size(files, _workers(threads), max_memory)
    digest = hashlib.sha256(f"{plan.digest} {[(file.name, file.size) for file in files]}".encode()).hexdigest()
    names = (*(file.name for file in files), *texts)
    staging = Staging(
        target,
        digest,
        names,
        single=single is not None,
        pattern=_OLD,
        foreign=() if single else foreign_marks("safetensors"),
    )
    staging.prepare(overwrite)
    check_room(sum(file.size for file in files) - staging.allocated(), target)
    begin, resumed = time.perf_counter(), 0
    own = files[first::step]
    with staging.opened(resume or part is not None):
        with progress_bar(sum(file.size for file in own), "write", progress) as advance:
            for file in own:
                if staging.is_complete(file.name):
                    resumed += file.size
                    advance(file.size)
                    continue
                with staging.claimed(file.name, file.size, file.head) as claim:
                    resumed += claim.durable
                    _write_file(file, claim, piece, threads, advance)
        is_complete = all(staging.is_complete(file.name) for file in files)
        if is_complete:
            staging.publish(texts, overwrite)
    nbytes = sum(file.size for file in own)
    return Written(target, names, nbytes, resumed, time.perf_counter() - begin, is_complete or os.path.exists(target))


def _write_archive(
    plan: Plan, target: str, threads: int, max_memory: int | None, overwrite: bool, progress: bool | None
) -> Written:
    """Writes an ``.npz``, whose checksums need all bytes in their order: so it is written from the start to the end."""
    heads = [npy_head(tensor) for tensor in plan]
    base, begin = os.path.basename(target), time.perf_counter()
    whole = File(base, b"", tuple((0, tensor) for tensor in plan))
    piece = _piece_size([whole], threads, max_memory) * threads
    staging = Staging(target, plan.digest, [base], single=True)
    staging.prepare(overwrite)
    check_room(plan.nbytes - staging.allocated(), target)
    with staging.opened(resume=False):
        _write_members(plan, heads, staging, piece, threads, progress)
        staging.publish({}, overwrite)
    return Written(target, (base,), plan.nbytes, 0, time.perf_counter() - begin, True)


def _write_members(
    plan: Plan, heads: Sequence[bytes], staging: Staging, piece: int, threads: int, progress: bool | None
) -> None:
    """Writes the members of an archive, one after another."""
    (base,) = staging.names
    with (
        progress_bar(plan.nbytes, "write", progress) as advance,
        staging.claimed(base, 0, b"") as claim,
        os.fdopen(os.dup(claim.descriptor), "wb") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        memory = np.empty(min(piece, max((tensor.nbytes for tensor in plan), default=0)), np.uint8)
        for tensor, head in zip(plan, heads, strict=True):
            member = zipfile.ZipInfo(f"{tensor.name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(member, "w", force_zip64=True) as out:
                out.write(head)
                for own in _pieces(File(base, b"", ((0, tensor),)), piece, 0):
                    room = np.empty(own.nbytes, np.uint8) if own.is_large else memory[: own.nbytes]
                    own.source.write(room, own.begin, threads)
                    out.write(room.data)
                    advance(own.nbytes)


def _checked_files(plan: Plan, files: Sequence[File], index: Collection[str]) -> Mapping[str, str]:
    """The plan's other files, none of which has the name of one that is written for the tensors."""
    own = {name for file in files for name in (file.name, *partial_names(file.name))}
    for name in plan.files:
        if name in own or name in index:
            raise ValueError(f"the plan has a file {shown(name)}, which is a name of the files of its tensors")
    return plan.files


def _checked_part(part: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(part, tuple) or len(part) != 2:
        raise TypeError(f"part must be a tuple (k, n), got {shown(part)}")
    k, n = at_least(0, "part[0]", part[0]), at_least(1, "part[1]", part[1])
    if k >= n:
        raise ValueError(f"part must be (k, n) with k in [0, n), got {part}")
    return k, n


def _workers(threads: int) -> int:
    """The number of threads, those that wait for the disk included."""
    return threads + min(threads, _WAITING)


def _piece_size(files: Sequence[File], pieces: int, max_memory: int | None) -> int:
    """Bytes of a piece, so that so many pieces, and what their computation takes, fit in `max_memory`."""
    if max_memory is None:
        return PIECE
    left = at_least(1, "max_memory", max_memory) - _taken()
    largest, name = 0, ""
    for file in files:
        for _, tensor in file.places:
            source = tensor.source
            whole = source.working_memory + _bytes_of(source, source.granule)
            if (source.granule > 1 or source.working_memory) and whole > largest:
                largest, name = whole, tensor.name
    largest += pieces * SLACK
    least = pieces * _LEAST_PIECE
    if largest + least > left:
        what = f"{name!r} can only be made whole, in {largest / 2**20:,.0f} MiB" if name else "it is too little"
        raise ValueError(
            f"max_memory is {max_memory / 2**20:,.0f} MiB, of which the process has taken "
            f"{_taken() / 2**20:,.0f}: {what}"
        )
    return min(PIECE, (left - largest) // pieces)


def _taken() -> int:
    """Bytes of memory that this process has."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _bytes_of(source: Source, elements: int) -> int:
    return -(-min(elements, math.prod(source.shape)) * source.format.bits // 8)


class _Piece(NamedTuple):
    """A range of a tensor's elements, and where a file has it."""

    offset: int
    nbytes: int
    source: Source
    begin: int
    is_large: bool
    """Whether it may be larger than the memory that is kept for pieces."""


def _pieces(file: File, piece: int, durable: int) -> list[_Piece]:
    """The pieces of a file that are not yet on the disk, in the order of the file."""
    found = []
    for offset, tensor in file.places:
        source, size = tensor.source, math.prod(tensor.shape)
        step = max(1, piece * 8 // source.format.bits // source.granule) * source.granule
        for begin in range(0, size, step):
            at, count = offset + begin * source.format.bits // 8, min(step, size - begin)
            nbytes = -(-count * source.format.bits // 8)
            if at + nbytes > durable:
                found.append(_Piece(at, nbytes, source, begin, nbytes > piece or source.working_memory > 0))
    return found


def _write_file(file: File, claim: Claim, piece: int, threads: int, advance: Callable[[int], object]) -> None:
    """Writes what a file lacks."""
    advance(claim.durable)
    pieces = _pieces(file, piece, claim.durable)
    spare: list[np.ndarray] = []
    one_at_a_time, computing = threading.Lock(), threading.Semaphore(threads)
    with DirectFile(claim.path, claim.descriptor) as out, _Syncing(claim, pieces) as syncing:
        if not claim.durable:
            out.write(file.head, 0)

        def make(number: int) -> None:
            own = pieces[number]
            itemsize = max(1, own.source.format.bits // 8)
            if own.is_large:
                with one_at_a_time:
                    memory = memory_for(own.nbytes, own.offset, itemsize)
                    own.source.write(memory, own.begin, threads)
                    out.write(memory, own.offset)
            else:
                room = spare.pop() if spare else np.empty(piece + SLACK, np.uint8)
                memory = memory_for(own.nbytes, own.offset, itemsize, room=room)
                with computing:
                    own.source.write(memory, own.begin, 1)
                out.write(memory, own.offset)
                spare.append(room)
            advance(own.nbytes)
            syncing.done(number)

        for_each(len(pieces), make, _workers(threads))


class _Syncing:
    """A thread that sends to the disk what was written, and notes how far it has come."""

    def __init__(self, claim: Claim, pieces: Sequence[_Piece]) -> None:
        self._claim, self._pieces = claim, pieces
        self._written = [False] * len(pieces)
        self._first = 0  # of the pieces that are not written
        self._change = threading.Condition()
        self._is_over = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fastinit-sync", daemon=True)

    def __enter__(self) -> _Syncing:
        self._thread.start()
        return self

    def __exit__(self, kind: object, problem: object, trace: object) -> None:
        with self._change:
            self._is_over = True
            self._change.notify()
        self._thread.join()
        if kind is None and self._failure is not None:
            raise self._failure

    def done(self, number: int) -> None:
        """The piece of this number has been written."""
        if self._failure is not None:
            raise self._failure
        with self._change:
            self._written[number] = True
            while self._first < len(self._pieces) and self._written[self._first]:
                self._first += 1
            if self._end() - self._claim.durable >= _NOTE:
                self._change.notify()

    def _end(self) -> int:
        """All bytes of the file before this one have been written."""
        if not self._first:
            return self._claim.durable
        last = self._pieces[self._first - 1]
        return last.offset + last.nbytes

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._is_over or self._end() - self._claim.durable >= _NOTE)
                is_over, end = self._is_over, self._end()
            try:
                self._claim.sync(end)
            except BaseException as failure:
                self._failure = failure
                return
            if is_over:
                return
