"""Checkpoints in the formats of other libraries, written by those libraries from the slices of a plan.

A format is an adapter's function ``save(plan, path, advance=...)``. The checkpoint grows in a hidden folder beside the
target and takes the target's place when it is complete.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator

from fastinit.checkpoints.libraries import LIBRARIES, foreign_marks, saving
from fastinit.checkpoints.plans import Plan
from fastinit.checkpoints.staging import Staging, check_room
from fastinit.checkpoints.writing import Written
from fastinit.checks import shown
from fastinit.exact import in_stream_environment
from fastinit.progress import progress_bar

__all__ = ["export", "format_of"]


def format_of(out: str) -> str:
    """The format that the name of a target says."""
    found = (name for name, one in LIBRARIES.items() if one.suffix and out.endswith(one.suffix))
    return next(found, "safetensors")


@in_stream_environment
def export(
    plan: Plan,
    out: str | os.PathLike[str],
    format: str,
    *,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Written:
    """Writes the checkpoint of a plan in the format of another library, complete or not at all.

    Parameters
    ----------
    plan : Plan
        What it holds: its tensors. Its other files have no place in these formats.
    out : path
        The folder, or the file that ends in ``.weights.h5``.
    format : {"dcp", "orbax", "keras"}
        ``torch.distributed.checkpoint``, orbax's ``StandardCheckpointer``, or Keras's weight files.
    overwrite : bool
        Whether a checkpoint of the same format is replaced. It stays until the new one is complete. Files of other
        names stay.
    progress : bool, optional
        Whether to show the progress on stderr; by default if it is a terminal.

    Returns
    -------
    Written

    Raises
    ------
    TypeError, ValueError
        For an unknown format, and with its name, for a tensor whose bytes cannot be made or whose dtype the library
        lacks. Nothing is at `out`.
    OSError
        If the target exists, holds a checkpoint of another format, its folder is missing or read-only, the disk has too
        little room, another process is writing the same, or the library fails. The target is as it was.
    ImportError
        If the library is not installed.

    Examples
    --------
    >>> from fastinit.checkpoints import Plan, export
    >>> export(Plan(()), "out", "tar")
    Traceback (most recent call last):
    ValueError: format must be one of dcp, orbax, keras, got 'tar'
    """
    if format not in LIBRARIES:
        raise ValueError(f"format must be one of {', '.join(LIBRARIES)}, got {shown(format)}")
    library, target = LIBRARIES[format], os.path.abspath(os.fsdecode(os.fspath(out)))
    plan.check()
    digest = hashlib.sha256(f"{plan.digest} {format}".encode()).hexdigest()
    staging = Staging(
        target,
        digest,
        () if library.names else (os.path.basename(target),),
        single=library.names is None,
        pattern=library.names or "",
        marks=library.marks,
        foreign=foreign_marks(format),
    )
    staging.prepare(overwrite)
    check_room(plan.nbytes, target)
    save = saving(format)
    begin = time.perf_counter()
    with staging.opened(resume=False):
        with progress_bar(plan.nbytes, "write", progress) as advance, staging.filled() as path:
            try:
                save(plan, path, advance=advance)
            except RuntimeError as problem:  # what torch raises where a disk is full
                raise OSError(f"{target}: the library of {format} could not write it: {problem}") from problem
        sizes = dict(_sizes(staging.new))
        try:
            staging.publish({}, overwrite)
        except BaseException:
            staging.discard()
            raise
    files = tuple(sorted(sizes))
    return Written(os.fsdecode(os.fspath(out)), files, sum(sizes.values()), 0, time.perf_counter() - begin, True)


def _sizes(folder: str) -> Iterator[tuple[str, int]]:
    """The files below a folder, by their paths in it, with their sizes."""
    for path, _, names in os.walk(folder):
        for name in names:
            whole = os.path.join(path, name)
            yield os.path.relpath(whole, folder), os.path.getsize(whole)
