"""The staging folder of a checkpoint: hidden beside the target until all files are complete.

Its name is derived from the contents, so a later run, or another process, finds it and continues. A file that is
being written is called ``NAME.part`` and is locked by its process; ``NAME.journal`` says how many of its bytes have
reached the disk. A complete file has its own name. When all are complete they move to the target:

====================================  =================================================================================
the target                            what happens
====================================  =================================================================================
does not exist, or an empty folder    The folder takes its name, in one step.
a folder with none of these files     The files move into it, the index last.
a folder with some of these files     Refused, or with `overwrite` replaced: old files are moved aside first, and come
                                      back where that fails. Files of other names stay.
a file, for a single file             Refused, or with `overwrite` replaced in one step.
====================================  =================================================================================
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from fastinit.files import sync_path, write_file

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Claim", "Staging", "check_room", "lock"]

_INDEX: Final = ".index.json"
_ASIDE: Final = "old"


class Claim:
    """A file that this process writes.

    Attributes
    ----------
    path : str
        Its path while it grows.
    descriptor : int
        File descriptor, open for reading and writing.
    durable : int
        Number of bytes from the beginning that are known to be on the disk.
    """

    def __init__(self, path: str, descriptor: int, journal: int, durable: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.durable = durable
        self._journal = journal

    def sync(self, end: int) -> None:
        """Sends all that was written to the disk, and remembers that the bytes before `end` are there."""
        _to_disk(self.descriptor)
        if end > self.durable:
            os.write(self._journal, b"%d\n" % end)
            _to_disk(self._journal)
            self.durable = end


def _to_disk(descriptor: int) -> None:
    getattr(os, "fdatasync", os.fsync)(descriptor)


class Staging:
    """The folder in which the files of one checkpoint grow.

    Parameters
    ----------
    target : str
        Path of the checkpoint.
    digest : str
        Digest of everything that the bytes depend on.
    names : collection of str
        Names of all its files.
    single : bool
        Whether the target is the only file itself.
    """

    def __init__(self, target: str, digest: str, names: Collection[str], *, single: bool) -> None:
        self.target = os.path.abspath(target)
        self.names = tuple(names)
        self.single = single
        folder, base = os.path.split(self.target)
        self.path = os.path.join(folder, f".{base}.{digest[:16]}.part")

    def check_target(self, overwrite: bool) -> None:
        """Raises OSError where the target's folder is missing or the target may not be replaced."""
        folder = os.path.dirname(self.target)
        if not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, "its folder does not exist", self.target)
        if self.single:
            if os.path.isdir(self.target):
                raise IsADirectoryError(errno.EISDIR, "expected the name of a file, got a folder", self.target)
            if os.path.lexists(self.target) and not (overwrite and os.path.isfile(self.target)):
                raise FileExistsError(errno.EEXIST, "it exists: overwrite replaces it", self.target)
            return
        if os.path.lexists(self.target) and not os.path.isdir(self.target):
            raise NotADirectoryError(errno.ENOTDIR, "expected the name of a folder, got a file", self.target)
        old = self._replaced()
        if old and not overwrite:
            raise FileExistsError(errno.EEXIST, f"it holds {old[0]}: overwrite replaces it", self.target)

    def _replaced(self) -> list[str]:
        """The files of the target's folder that the checkpoint replaces: those of its names, and of an old index."""
        try:
            found = os.listdir(self.target)
        except FileNotFoundError:
            return []
        old = {name for name in found if name in self.names or name.endswith(".safetensors" + _INDEX)}
        for name in [name for name in old if name.endswith(_INDEX)]:
            with (
                suppress(OSError, ValueError, AttributeError, TypeError, KeyError),
                open(os.path.join(self.target, name), encoding="utf-8") as file,
            ):
                old |= set(json.load(file)["weight_map"].values()) & set(found)
        return sorted(old)

    def open(self, resume: bool) -> None:
        """Makes the folder; without `resume` what an earlier run left there is removed.

        Raises
        ------
        OSError
            If the folder cannot be made; BlockingIOError if another process writes in it.
        """
        with self._errors():
            self._bring_back()
            if not resume and os.path.isdir(self.path):
                for name in os.listdir(self.path):
                    if name.endswith(".part"):
                        with open(os.path.join(self.path, name), "rb+") as file:
                            lock(file.fileno())
                shutil.rmtree(self.path)
            with suppress(FileExistsError):
                os.mkdir(self.path)

    def is_complete(self, name: str) -> bool:
        """Whether the file has been written."""
        return os.path.exists(os.path.join(self.path, name))

    def allocated(self) -> int:
        """Bytes of the disk that the folder takes already."""
        with suppress(FileNotFoundError):
            return sum(os.stat(entry.path).st_blocks * 512 for entry in os.scandir(self.path))
        return 0

    @contextmanager
    def claimed(self, name: str, size: int, head: bytes) -> Iterator[Claim]:
        """A file of `size` bytes that begins with `head`, for this process alone; complete when the context ends.

        Raises
        ------
        BlockingIOError
            If another process writes it.
        OSError
            With the path, if the disk has no room for it.
        """
        part, journal = (os.path.join(self.path, f"{name}.{suffix}") for suffix in ("part", "journal"))
        with self._errors():
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        notes = -1
        try:
            with self._errors():
                lock(descriptor)
                durable = _durable(journal, descriptor, size, head)
                notes = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
                if not durable:
                    os.ftruncate(notes, 0)
                    os.ftruncate(descriptor, 0)
                _allocate(descriptor, size)
            yield Claim(part, descriptor, notes, durable)
            with self._errors():
                os.fsync(descriptor)
                os.rename(part, os.path.join(self.path, name))
                os.unlink(journal)
                sync_path(self.path)
        finally:
            for one in (notes, descriptor):
                if one >= 0:
                    os.close(one)

    def publish(self, texts: Mapping[str, str], overwrite: bool) -> None:
        """Adds the small files and moves all to the target, unless another process has just done so.

        Raises
        ------
        OSError
            As :meth:`check_target`, or if they cannot be moved; the target is then as it was.
        """
        with self._errors():
            try:
                for name, content in texts.items():
                    write_file(os.path.join(self.path, name), content)
                self._publish(overwrite)
            except FileNotFoundError:
                if os.path.isdir(self.path) or not os.path.exists(self.target):
                    raise

    def _publish(self, overwrite: bool) -> None:
        if self.single:
            self.check_target(overwrite)
            (name,) = self.names
            os.replace(os.path.join(self.path, name), self.target)
            os.rmdir(self.path)
        else:
            with suppress(OSError):  # into a folder that holds something
                os.rename(self.path, self.target)
            if os.path.isdir(self.path):
                self.check_target(overwrite)
                self._move_in()
        sync_path(os.path.dirname(self.target))

    def _move_in(self) -> None:
        """Moves the files into a folder that exists; old ones of the same names wait aside until that has worked."""
        aside = os.path.join(self.path, _ASIDE)
        with suppress(FileExistsError):
            os.mkdir(aside)
        moved, old = [], self._replaced()
        try:
            for name in old:
                os.rename(os.path.join(self.target, name), os.path.join(aside, name))
            # what makes the rest a checkpoint comes last
            for name in sorted(self.names, key=lambda name: (name.endswith(".json"), name.endswith(_INDEX), name)):
                os.rename(os.path.join(self.path, name), os.path.join(self.target, name))
                moved.append(name)
        except BaseException:
            for name in moved:
                with suppress(OSError):
                    os.rename(os.path.join(self.target, name), os.path.join(self.path, name))
            self._bring_back()
            raise
        sync_path(self.target)
        shutil.rmtree(self.path)

    def _bring_back(self) -> None:
        """Moves old files back that were moved aside and not replaced, also those that a killed run has left."""
        with suppress(FileNotFoundError):
            for name in os.listdir(os.path.join(self.path, _ASIDE)):
                if not os.path.lexists(os.path.join(self.target, name)):
                    os.rename(os.path.join(self.path, _ASIDE, name), os.path.join(self.target, name))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors name the target, of which the caller knows."""
        try:
            yield
        except BlockingIOError:
            raise BlockingIOError(errno.EAGAIN, "another process is writing it", self.target) from None
        except OSError as problem:
            raise type(problem)(problem.errno, problem.strerror, self.target) from None


def lock(descriptor: int) -> None:
    """Locks an open file for this process. Raises BlockingIOError if another process holds it."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_room(needed: int, target: str) -> None:
    """Raises OSError if the disk of a target has less room than the given number of bytes."""
    with suppress(FileNotFoundError):
        free = shutil.disk_usage(os.path.dirname(os.path.abspath(target))).free
        if needed > free:
            raise OSError(
                errno.ENOSPC, f"it takes {needed / 2**30:,.2f} GiB and the disk has {free / 2**30:,.2f} left", target
            )


def _durable(journal: str, descriptor: int, size: int, head: bytes) -> int:
    """How many bytes of an unfinished file have reached the disk; 0 where that is unknown."""
    try:
        with open(journal, "rb") as file:
            lines = file.read().split(b"\n")[:-1]  # a line that was not ended was not written
        durable = int(lines[-1]) if lines else 0
    except (OSError, ValueError):
        return 0
    is_ours = os.fstat(descriptor).st_size == size and os.pread(descriptor, len(head), 0) == head
    return durable if is_ours and len(head) <= durable <= size else 0


def _allocate(descriptor: int, size: int) -> None:
    """Reserves the room of a file, so that a full disk shows before anything is computed."""
    if size:
        try:
            os.posix_fallocate(descriptor, 0, size)
        except (AttributeError, OSError) as problem:
            if getattr(problem, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            os.ftruncate(descriptor, size)
