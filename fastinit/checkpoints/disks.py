"""Large files written past the page cache, where the system can: a cached byte is copied, kept, and written later.

A checkpoint is written once and often larger than memory. ``docs/checkpoints.md`` has the figures of both ways.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Any, Final

import numpy as np

from fastinit import _core

__all__ = ["SLACK", "DirectFile", "memory_for"]

# Offsets, sizes and addresses of direct writes are multiples of this: of every usual disk's block.
_BLOCK: Final = 4096
SLACK: Final = _BLOCK
"""Bytes that memory for direct writes takes beside its contents."""
# Smaller parts are quicker through the cache, which puts neighbours together.
_LEAST: Final = 2**20


def memory_for(nbytes: int, offset: int = 0, itemsize: int = 1, *, room: np.ndarray | None = None) -> np.ndarray:
    """Memory from which bytes can be written directly at an offset of a file.

    Parameters
    ----------
    nbytes : int, >= 0
    offset : int, >= 0
    itemsize : int, >= 1
        Bytes of an element, to which the memory is aligned: an offset that is not cannot be written directly.
    room : numpy.ndarray of uint8, optional
        Memory to be used, of at least ``nbytes + SLACK`` bytes; by default new memory.

    Returns
    -------
    numpy.ndarray of uint8
        Its address and the offset leave the same remainder when divided by a block.

    Examples
    --------
    >>> memory_for(100, 5000).ctypes.data % 4096
    904
    """
    room = np.empty(nbytes + SLACK, np.uint8) if room is None else room
    begin = ((0 if offset % itemsize else offset) - _core.address(room)) % _BLOCK
    return room[begin : begin + nbytes]


class DirectFile:
    """An open file that is written at given offsets, its large parts past the page cache.

    The whole blocks of a part go directly to the disk, and what is left at its ends through the cache. A block that two
    parts share is therefore never written directly, so parts can be written in any order and by several threads.

    Parameters
    ----------
    path : str
        The file, which exists.
    descriptor : int
        Its file descriptor, open for writing. It stays open.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file, DirectFile(file.name, file.fileno()) as out:
    ...     out.write(memory_for(2**20, 10), 10)
    ...     os.path.getsize(file.name)
    1048586
    """

    def __init__(self, path: str, descriptor: int) -> None:
        self._cached = descriptor
        self._direct = -1
        with suppress(OSError, AttributeError):  # a file system or a system that has no direct writes
            self._direct = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)

    def __enter__(self) -> DirectFile:
        return self

    def __exit__(self, *problem: object) -> None:
        if self._direct >= 0:
            os.close(self._direct)

    def write(self, data: Any, offset: int) -> None:
        """Writes bytes at an offset: directly if they are many and in memory of :func:`memory_for` this offset.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        rest = memoryview(data).cast("B")
        head = -offset % _BLOCK
        whole = (len(rest) - head) // _BLOCK * _BLOCK
        if self._direct >= 0 and whole >= _LEAST and _is_aligned(rest[head:]):
            _write(self._cached, rest[:head], offset)
            written = self._write_blocks(rest[head : head + whole], offset + head)
            rest, offset = rest[head + written :], offset + head + written
        _write(self._cached, rest, offset)

    def _write_blocks(self, data: memoryview, offset: int) -> int:
        """Writes blocks directly, and says how many bytes it has written: fewer where the disk refuses it."""
        written = 0
        while written < len(data):
            try:
                count = os.pwrite(self._direct, data[written:], offset + written)
            except OSError as problem:
                if problem.errno != errno.EINVAL:
                    raise
                break  # this disk's blocks are larger
            written += count
            if count % _BLOCK:
                break
        return written


def _is_aligned(data: memoryview) -> bool:
    return _core.address(np.frombuffer(data, np.uint8)) % _BLOCK == 0


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
