"""The staging folder of a checkpoint: hidden beside the target until all files are complete.

Its name is derived from the contents, so a later run, or another process, finds it and continues:

==============  =======================================================================================================
``new/``        What will be at the target. A file that is being written is called ``NAME.part`` and is locked by its
                process; ``NAME.journal`` says how many of its bytes have reached the disk. A complete file has its own
                name.
``making/``     Where a library of its own writes; ``new/`` is made of it at once.
``old/``        What the new files replace, while they move.
``moves.json``  Lists the new files while they move. The next writer that finds it moves everything back.
==============  =======================================================================================================

A process that writes locks the folder, for itself or, where several write a part each, together with them.

When all are complete they move to the target:

=======================================  ==============================================================================
the target                               what happens
=======================================  ==============================================================================
does not exist, or an empty folder       ``new/`` takes its name, in one step.
a folder with none of these files        The files move into it, what makes the rest a checkpoint last.
a folder with some of these files        Refused, or with `overwrite` replaced: old files are moved aside first, and
                                         come back where that fails. Files of other names stay.
a folder with another format's files     Refused: it would hold two checkpoints.
a file, for a single file                Refused, or with `overwrite` replaced in one step.
=======================================  ==============================================================================

A process that is killed while files move leaves ``moves.json``. The next one that writes to the target, whatever it
writes, moves the new files back to ``new/`` and the old ones to the target before it begins.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from fastinit.files import sync_path, write_file

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Claim", "Staging", "check_room", "partial_names"]

_INDEX: Final = ".index.json"
_MOVES: Final = "moves.json"


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
    """The folder in which a checkpoint grows.

    Parameters
    ----------
    target : str
        Path of the checkpoint.
    digest : str
        Digest of everything that the bytes depend on.
    names : collection of str
        Names of all its files, as far as they are known.
    single : bool
        Whether the target is the only file itself.
    pattern : str
        What the names of other files of such a checkpoint match, which it replaces.
    marks : collection of str
        Names that make the rest a checkpoint, besides indices.
    foreign : collection of str
        Names of which a checkpoint of another format has one.
    """

    def __init__(
        self,
        target: str,
        digest: str,
        names: Collection[str],
        *,
        single: bool,
        pattern: str = "",
        marks: Collection[str] = (),
        foreign: Collection[str] = (),
    ) -> None:
        self.target = os.path.abspath(target)
        self.names = tuple(names)
        self.single = single
        self._pattern, self._marks, self._foreign = pattern, marks, foreign
        self._folder, self._base = os.path.split(self.target)
        self.path = os.path.join(self._folder, f".{self._base}.{digest[:16]}.part")
        self.new = os.path.join(self.path, "new")

    def prepare(self, overwrite: bool) -> None:
        """Moves back what a killed process was moving, removes what it cannot go on with, and checks the target.

        Raises
        ------
        OSError
            If the target's folder is missing, or the target may not be replaced.
        """
        with self._errors(), self._alone():
            for path in self._left():
                try:
                    descriptor = _locked_folder(path)
                except (FileNotFoundError, BlockingIOError):  # a process writes in it
                    continue
                try:
                    if descriptor >= 0 or path == self.path:  # without locks only what is written again
                        self._move_back(path)
                        _sweep(path)
                finally:
                    _close(descriptor)
        self._check_target(overwrite)

    def _left(self) -> list[str]:
        """The staging folders of this target, whatever is written in them."""
        name = re.compile(re.escape(f".{self._base}.") + r"[0-9a-f]{16}\.part")
        with suppress(FileNotFoundError, NotADirectoryError):
            return [os.path.join(self._folder, one) for one in os.listdir(self._folder) if name.fullmatch(one)]
        return []

    def _check_target(self, overwrite: bool) -> None:
        if not os.path.isdir(self._folder):
            raise FileNotFoundError(errno.ENOENT, "its folder does not exist", self.target)
        if self.single:
            if os.path.isdir(self.target):
                raise IsADirectoryError(errno.EISDIR, "expected the name of a file, got a folder", self.target)
            if os.path.lexists(self.target) and not (overwrite and os.path.isfile(self.target)):
                raise FileExistsError(errno.EEXIST, "it exists: overwrite replaces it", self.target)
            return
        if os.path.lexists(self.target) and not os.path.isdir(self.target):
            raise NotADirectoryError(errno.ENOTDIR, "expected the name of a folder, got a file", self.target)
        other = sorted(set(self._foreign) & set(_names(self.target)))
        if other:
            raise FileExistsError(errno.EEXIST, f"it holds {other[0]}, a checkpoint of another format", self.target)
        old = self._replaced()
        if old and not overwrite:
            raise FileExistsError(errno.EEXIST, f"it holds {old[0]}: overwrite replaces it", self.target)

    def _replaced(self) -> list[str]:
        """The names that the checkpoint replaces: its own, those of its format, and those of an old index."""
        found, own = _names(self.target), {*self.names, *_names(self.new)}
        old = {name for name in found if name in own or re.fullmatch(self._pattern, name)}
        for name in [name for name in old if name.endswith(_INDEX)]:
            with (
                suppress(OSError, ValueError, AttributeError, TypeError, KeyError),
                open(os.path.join(self.target, name), encoding="utf-8") as file,
            ):
                old |= set(json.load(file)["weight_map"].values()) & set(found)
        return sorted(old)

    @contextmanager
    def opened(self, resume: bool) -> Iterator[None]:
        """A context in which the folder is there. Without `resume` what an earlier run left is removed first.

        Processes with `resume` share the folder; without it, it is of one process alone.

        Raises
        ------
        OSError
            If the folder cannot be made; BlockingIOError if another process writes in it.
        """
        descriptor = -1
        try:
            with self._errors(), self._alone():
                if not resume and os.path.isdir(self.path):
                    descriptor = _locked_folder(self.path)
                    shutil.rmtree(self.path)
                    _close(descriptor)
                os.makedirs(self.new, exist_ok=True)
                descriptor = _locked_folder(self.path, shared=resume)
            yield
        finally:
            _close(descriptor)

    def discard(self) -> None:
        """Removes the folder, if no file is on its way."""
        if not os.path.exists(os.path.join(self.path, _MOVES)):
            shutil.rmtree(self.path, ignore_errors=True)

    def is_complete(self, name: str) -> bool:
        """Whether the file has been written."""
        return os.path.exists(os.path.join(self.new, name))

    def allocated(self) -> int:
        """Bytes of the disk that the folder takes already."""
        with suppress(FileNotFoundError):
            return sum(os.stat(entry.path).st_blocks * 512 for entry in os.scandir(self.new))
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
        part, journal = (os.path.join(self.new, one) for one in partial_names(name))
        with self._errors():
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        notes = -1
        try:
            with self._errors():
                _lock(descriptor)
                durable = _durable(journal, descriptor, size, head)
                notes = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
                if not durable:
                    os.ftruncate(notes, 0)
                    os.ftruncate(descriptor, 0)
                _allocate(descriptor, size)
            yield Claim(part, descriptor, notes, durable)
            with self._errors():
                os.fsync(descriptor)
                os.rename(part, os.path.join(self.new, name))
                os.unlink(journal)
                sync_path(self.new)
        finally:
            for one in (notes, descriptor):
                if one >= 0:
                    os.close(one)

    @contextmanager
    def filled(self) -> Iterator[str]:
        """A path that does not exist, where a library writes the file or the folder.

        It is complete and on the disk when the context ends. Nothing is left where that fails.
        """
        making = os.path.join(self.path, "making")
        made = os.path.join(making, self._base)
        try:
            with self._errors():
                os.mkdir(making)
            yield made
            with self._errors():
                for folder, _, names in os.walk(making):
                    for name in names:
                        sync_path(os.path.join(folder, name))
                    sync_path(folder)
                os.rmdir(self.new)
                os.rename(making if self.single else made, self.new)
        except BaseException:
            self.discard()
            raise

    def publish(self, texts: Mapping[str, str], overwrite: bool) -> None:
        """Adds the small files and moves all to the target, unless another process has just done so.

        Raises
        ------
        OSError
            As :meth:`prepare`, or if they cannot be moved; the target is then as it was.
        """
        with self._errors(), self._alone():
            if not os.path.isdir(self.new) and os.path.exists(self.target):
                return
            for name, content in texts.items():
                write_file(os.path.join(self.new, name), content)
            for name in _names(self.new) if self.names else ():
                if name not in self.names:  # of a process that writes a file again that another has completed
                    os.unlink(os.path.join(self.new, name))
            self._check_target(overwrite)
            if self.single:
                (name,) = self.names
                os.replace(os.path.join(self.new, name), self.target)
            else:
                with suppress(OSError):  # into a folder that holds something
                    os.rename(self.new, self.target)
                if os.path.isdir(self.new):
                    self._move_in()
            sync_path(self._folder)
            shutil.rmtree(self.path)

    def _move_in(self) -> None:
        """Moves the files into a folder that exists; old ones wait aside until that has worked."""
        moves, aside = os.path.join(self.path, _MOVES), os.path.join(self.path, "old")
        names, old = os.listdir(self.new), self._replaced()
        write_file(moves, json.dumps(names))
        try:
            os.mkdir(aside)
            # what makes the rest a checkpoint goes first and comes last
            for name in sorted(old, key=self._rank, reverse=True):
                os.rename(os.path.join(self.target, name), os.path.join(aside, name))
            for name in sorted(names, key=self._rank):
                os.rename(os.path.join(self.new, name), os.path.join(self.target, name))
            sync_path(self.target)
            os.unlink(moves)  # from here on the new files count
        except BaseException:
            self._move_back(self.path)
            raise

    def _rank(self, name: str) -> tuple[bool, bool, str]:
        return name.endswith(_INDEX) or name in self._marks, name.endswith(".json"), name

    def _move_back(self, path: str) -> None:
        """Undoes what was moved by a staging folder, this one or that of a process that was killed."""
        moves, new, aside = (os.path.join(path, name) for name in (_MOVES, "new", "old"))
        try:
            with open(moves, encoding="utf-8") as file:
                names = json.load(file)
        except FileNotFoundError:
            return
        os.makedirs(self.target, exist_ok=True)
        for name in names:
            if not os.path.lexists(os.path.join(new, name)) and os.path.lexists(os.path.join(self.target, name)):
                os.rename(os.path.join(self.target, name), os.path.join(new, name))
        for name in _names(aside):
            os.rename(os.path.join(aside, name), os.path.join(self.target, name))
        sync_path(self.target)
        with suppress(FileNotFoundError):
            os.rmdir(aside)
        os.unlink(moves)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lets one process at a time move files in the target's folder. Others wait for a few renames."""
        descriptor = -1
        with suppress(OSError):  # not every file system locks folders
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors name the target, of which the caller knows."""
        try:
            yield
        except BlockingIOError:
            raise BlockingIOError(errno.EAGAIN, "another process is writing it", self.target) from None
        except OSError as problem:
            raise type(problem)(problem.errno, problem.strerror, self.target) from None


def partial_names(name: str) -> tuple[str, str]:
    """The names of a file that is not complete, and of the note of how far it has come."""
    return f"{name}.part", f"{name}.journal"


def _names(folder: str) -> list[str]:
    """The names in a folder; none where it does not exist."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _sweep(path: str) -> None:
    """Removes a staging folder with which nothing can go on.

    Its files have moved to the target, or a library wrote in it, or it holds nothing.
    """
    is_over = any(os.path.exists(os.path.join(path, name)) for name in ("making", "old"))
    if is_over or not _names(os.path.join(path, "new")):
        shutil.rmtree(path, ignore_errors=True)


def _locked_folder(path: str, *, shared: bool = False) -> int:
    """A descriptor of a folder that holds its lock, or -1 where folders have none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:  # on Windows
        return -1
    try:
        _lock(descriptor, shared=shared)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # not every file system locks folders
        os.close(descriptor)
        return -1
    return descriptor


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        with suppress(OSError):
            os.close(descriptor)


def _lock(descriptor: int, *, shared: bool = False) -> None:
    """Locks an open file or folder for this process. Raises BlockingIOError if another process holds it."""
    if fcntl is not None:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


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
