"""Checkpoints in the formats of other libraries, written by those libraries from the slices of a plan.

A format is an adapter's function ``save(plan, path, advance=...)``. The checkpoint grows in a hidden folder beside the
target and takes the target's place when it is complete.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastinit.checkpoints.libraries import LIBRARIES, saving
from fastinit.checkpoints.plans import Plan
from fastinit.checkpoints.staging import check_room, lock
from fastinit.checkpoints.writing import Written
from fastinit.checks import shown
from fastinit.exact import in_stream_environment
from fastinit.files import sync_path
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
        What it holds: its tensors. Its other files and its metadata have no place in these formats.
    out : path
        The folder, or the file that ends in ``.weights.h5``.
    format : {"dcp", "orbax", "keras"}
        ``torch.distributed.checkpoint``, orbax's ``StandardCheckpointer``, or Keras's weight files.
    overwrite : bool
        Whether a checkpoint of the same format is replaced. It stays until the new one is complete.
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
        If the target exists, holds anything else than a checkpoint of this format, its folder is missing or read-only,
        the disk has too little room, or another process is writing the same. The target is as it was.
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
    names = LIBRARIES[format].names
    target = os.path.abspath(os.fsdecode(os.fspath(out)))
    plan.check()
    _check_target(target, format, names, overwrite)
    check_room(plan.nbytes, target)
    save = saving(format)
    begin = time.perf_counter()
    with _growing(target) as path, progress_bar(plan.nbytes, "write", progress) as advance:
        save(plan, path, advance=advance)
        _check_target(target, format, names, overwrite)
    files = tuple(sorted(_files(target))) or (os.path.basename(target),)
    size = sum(os.path.getsize(os.path.join(target, name)) for name in files) if names else os.path.getsize(target)
    return Written(os.fsdecode(os.fspath(out)), files, size, 0, time.perf_counter() - begin, True)


def _files(folder: str) -> Iterator[str]:
    """The files below a folder, by their paths in it."""
    for path, _, names in os.walk(folder):
        for name in names:
            yield os.path.relpath(os.path.join(path, name), folder)


def _check_target(target: str, format: str, names: str | None, overwrite: bool) -> None:
    """Raises OSError where the target's folder is missing or the target may not be replaced."""
    if not os.path.isdir(os.path.dirname(target)):
        raise FileNotFoundError(errno.ENOENT, "its folder does not exist", target)
    if names is None:
        if os.path.isdir(target):
            raise IsADirectoryError(errno.EISDIR, "expected the name of a file, got a folder", target)
        if os.path.lexists(target) and not overwrite:
            raise FileExistsError(errno.EEXIST, "it exists: overwrite replaces it", target)
        return
    if os.path.lexists(target) and not os.path.isdir(target):
        raise NotADirectoryError(errno.ENOTDIR, "expected the name of a folder, got a file", target)
    found = sorted(os.listdir(target)) if os.path.isdir(target) else []
    other = [name for name in found if not re.fullmatch(names, name)]
    if other:  # replacing the folder would remove it
        raise FileExistsError(
            errno.EEXIST, f"it holds {other[0]}, which does not belong to a checkpoint of {format}", target
        )
    if found and not overwrite:
        raise FileExistsError(errno.EEXIST, f"it holds {found[0]}: overwrite replaces it", target)


@contextmanager
def _growing(target: str) -> Iterator[str]:
    """A path that takes the target's place when the context ends; nothing is left where it fails."""
    folder, base = os.path.split(target)
    staging = os.path.join(folder, f".{base}.part")
    new, old = os.path.join(staging, "new", base), os.path.join(staging, "old")
    with _locked(staging, target):
        if os.path.lexists(old) and not os.path.lexists(target):  # a run was killed between two renames
            os.rename(old, target)
        for name in ("new", "old"):
            shutil.rmtree(os.path.join(staging, name), ignore_errors=True)
        try:
            os.makedirs(os.path.dirname(new))
            yield new
            for name in [*_files(new)] if os.path.isdir(new) else [""]:
                sync_path(os.path.join(new, name) if name else new)
            if os.path.isdir(target):
                os.rename(target, old)
            try:
                os.replace(new, target)
            except BaseException:
                if os.path.isdir(old):
                    os.rename(old, target)
                raise
            sync_path(folder)
        finally:
            if os.path.lexists(target) or not os.path.lexists(old):
                shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked(staging: str, target: str) -> Iterator[None]:
    """A folder for this process alone."""
    try:
        os.makedirs(staging, exist_ok=True)
        descriptor = os.open(os.path.join(staging, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as problem:
        raise type(problem)(problem.errno, problem.strerror, target) from None
    try:
        try:
            lock(descriptor)
        except BlockingIOError:
            raise BlockingIOError(errno.EAGAIN, "another process is writing it", target) from None
        yield
    finally:
        os.close(descriptor)
