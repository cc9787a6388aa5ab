"""Atomic file writes: a file is written completely or not at all.

The kind of the path decides how:

==========================  ===========================================================================================
a regular file              Replaced. The new file keeps the mode, and, if the system permits, the owner, group and
                            extended attributes. Other hard links keep the old contents.
a missing file              Created, with the usual mode under the umask.
a symbolic link             Followed. The target is replaced or created, and the link stays.
a pipe, a character device  Written to, never replaced. Opening a named pipe waits for its reader.
an open descriptor          Written to at its position: ``/dev/stdout``, ``/dev/fd/3``, ``/proc/self/fd/3``, including
                            pipes, sockets and redirected files.
anything else               Rejected with an OSError: folders, named sockets, block devices.
==========================  ===========================================================================================

A file is replaced by a rename. The data is written to a temporary file in the same folder (unpredictable name, opened
exclusively), synced to disk (``fsync``), and renamed over the old file in one step. So a reader sees either the old or
the new contents. A failure or Ctrl-C leaves the old file and no temporary file. If two processes write at the same
time, the last one wins. A killed process may leave a file ``.fastinit-*.part``. The folder must be writable: a writable
file in a read-only folder is rejected, and so is a read-only file in a writable folder.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

__all__ = ["Outlet", "sync_path", "write_file"]

LINKS = 40  # the limit of Linux


def write_file(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Writes `data` to `path` by the rules in this module's table. Text is encoded as UTF-8.

    Raises
    ------
    TypeError
        If `path` is not a path.
    OSError
        If it cannot be written. The error has the path, and a regular file is unchanged.
    """
    encoded = data.encode() if isinstance(data, str) else data
    with Outlet(path) as outlet:
        outlet.write(encoded)


def sync_path(path: str) -> None:
    """Sends a file or a folder to the disk, if its file system can do so."""
    with suppress(OSError):  # some file systems cannot sync folders
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Outlet:
    """A path that is opened first and written later, at once.

    Opening detects a missing or read-only folder before a long computation. It changes nothing, and neither does a
    context that ends without :meth:`write`.

    Parameters
    ----------
    path : path
        The file to write.

    Raises
    ------
    TypeError
        If `path` is not a path.
    OSError
        On entering the context, if the path cannot be written. The error has the path.

    Examples
    --------
    >>> with Outlet(path) as outlet:  # doctest: +SKIP
    ...     outlet.write(long_work())
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fsdecode(path)
        self._descriptor = -1
        self._temporary = self._target = ""

    def __enter__(self) -> Outlet:
        try:
            with self._errors():
                self._open()
            return self
        except BaseException:
            self._close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def write(self, data: bytes | str) -> None:
        """Writes `data`. Text is encoded as UTF-8. May be called once.

        Raises
        ------
        OSError
            If it cannot be written. The error has the path, and a regular file is unchanged.
        """
        rest = memoryview(data.encode() if isinstance(data, str) else data)
        with self._errors():
            if not self._target:
                for stream in (sys.stdout, sys.stderr):  # keep the order of earlier output
                    with suppress(AttributeError, OSError, ValueError):
                        stream.flush()
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:  # an inherited descriptor may be non-blocking
                    select.select([], [self._descriptor], [])
            if self._target:
                os.fsync(self._descriptor)
                self._replace()
        self._close()

    def _open(self) -> None:
        own = _own_descriptor(self.path)
        if own is not None:
            self._descriptor = os.dup(own)
            os.write(self._descriptor, b"")  # fails if it is open for reading only
            return
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            found = None
        kind = found.st_mode if found else stat.S_IFREG
        if stat.S_ISDIR(kind) or os.path.basename(self.path) in ("", ".", ".."):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if stat.S_ISBLK(kind):
            raise OSError(errno.EINVAL, "expected a file, got a block device")
        if not stat.S_ISREG(kind):
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
            return
        target = os.path.realpath(self.path)
        if found and not os.access(target, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        self._temporary = os.path.join(os.path.dirname(target), f".fastinit-{os.urandom(12).hex()}.part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self._temporary, flags, 0o600 if found else 0o666)
        except PermissionError as problem:
            raise PermissionError(problem.errno, f"{problem.strerror}: its folder must be writable") from None
        if found:
            _resemble(self._descriptor, target, found)
        self._target = target

    def _replace(self) -> None:
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(self._target).st_mode):
                raise FileExistsError(errno.EEXIST, "it is no longer a regular file")
        os.replace(self._temporary, self._target)
        self._temporary = ""
        sync_path(os.path.dirname(self._target))

    def _close(self) -> None:
        if self._temporary:
            with suppress(OSError):
                os.unlink(self._temporary)
            self._temporary = ""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Adds the caller's path to errors."""
        try:
            yield
        except OSError as problem:
            raise OSError(problem.errno, problem.strerror, self.path) from None


def _own_descriptor(name: str) -> int | None:
    """The open descriptor behind a name such as ``/dev/stdout`` or ``/proc/self/fd/3``, following links; None
    otherwise.

    Opening the name instead would start at the beginning of a redirected file, and fail for a socket.
    """
    folders = {os.path.realpath(folder) for folder in ("/dev/fd", "/proc/self/fd", "/proc/thread-self/fd")}
    for _ in range(LINKS):
        folder, base = os.path.split(name)
        folder = os.path.realpath(folder)
        if folder in folders and base.isascii() and base.isdecimal() and len(base) < 10:
            return int(base)
        name = os.path.join(folder, base)
        if not base or not os.path.islink(name):
            break
        name = os.path.join(folder, os.readlink(name))
    return None


def _resemble(descriptor: int, name: str, found: os.stat_result) -> None:
    """Copies owner, group, mode and extended attributes of the replaced file to the new file."""
    own, mode = os.fstat(descriptor), stat.S_IMODE(found.st_mode)
    if (own.st_uid, own.st_gid) != (found.st_uid, found.st_gid):
        try:
            os.fchown(descriptor, found.st_uid, found.st_gid)
        except PermissionError:
            mode &= 0o777  # drop setuid: the owner changes to this user
            try:
                os.fchown(descriptor, -1, found.st_gid)
            except PermissionError:
                mode = mode & 0o707 | (mode & 0o007) << 3  # the new group gets the rights of others
    os.fchmod(descriptor, mode)
    with suppress(AttributeError, OSError):  # unsupported on some systems; includes access control lists
        kept = os.listxattr(name)
        for attribute in {*kept, *os.listxattr(descriptor)}:
            with suppress(OSError):
                if attribute in kept:
                    os.setxattr(descriptor, attribute, os.getxattr(name, attribute))
                else:
                    os.removexattr(descriptor, attribute)
