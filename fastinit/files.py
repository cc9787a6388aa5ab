"""Files that are replaced whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """The name of a new file beside `path`, which takes its place when the block ends, and is removed if it fails.

    Raises
    ------
    OSError
        With the path, before the block is entered, if its folder is missing or read-only or it is a folder itself.
    """
    name = os.path.realpath(path)
    if os.path.isdir(name):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    stem, suffix = os.path.splitext(name)
    temporary = f"{stem}.{os.getpid()}.part{suffix}"  # of the same suffix: it may say the format
    try:
        with open(temporary, "w"):  # with the permissions that any new file would have
            pass
    except OSError as problem:
        raise type(problem)(problem.errno, problem.strerror, os.fspath(path)) from None
    try:
        yield temporary
        os.replace(temporary, name)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
