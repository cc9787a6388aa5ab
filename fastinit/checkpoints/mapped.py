"""Checkpoints of safetensors files, which are mapped into memory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastinit import _core
from fastinit.checkpoints.contents import Checkpoint
from fastinit.checkpoints.headers import LONGEST_HEADER, Header, Placed, read_header
from fastinit.checkpoints.plans import METADATA_KEY
from fastinit.checks import distinct, shown

__all__ = ["Safetensors", "aligned", "forget", "safetensors_of", "safetensors_of_index", "will_need"]


class Safetensors(Checkpoint):
    """A safetensors file, or several with an index.

    Parameters
    ----------
    path : str
        The file, or the index.
    files : mapping of str to Header
        The header of each file, by its path.

    Attributes
    ----------
    files : mapping of str to Header
        The header of each file, by its path.
    places : mapping of str to str
        The path of the file that holds each tensor.

    Raises
    ------
    ValueError
        If two files hold a tensor of the same name.

    Examples
    --------
    >>> Safetensors("empty.safetensors", {"empty.safetensors": Header({}, {}, 88)}).places
    {}
    """

    PIECE = 2**27  # it is mapped, so a piece is not copied

    def __init__(self, path: str, files: Mapping[str, Header]) -> None:
        super().__init__(path, (placed for header in files.values() for placed in header.tensors.values()))
        self.files = files
        self.places = {name: file for file, header in files.items() for name in header.tensors}
        self._maps: dict[str, np.memmap[Any, Any]] = {}
        self._ahead: dict[str, int] = {}  # up to which byte of each file the disk has been asked

    def __getitem__(self, name: str) -> Placed:
        found = super().__getitem__(name)
        assert isinstance(found, Placed)
        return found

    def read(self, name: str, begin: int = 0, end: int | None = None) -> np.ndarray:
        placed = self[name]
        path = self.places[name]
        for mapped in self._maps.values():
            forget(mapped)
        if path not in self._maps:
            self._maps[path] = np.memmap(path, np.uint8, "r")
        last = placed.nbytes if end is None else end
        self._read_ahead(path, placed.offset + begin, placed.offset + last)
        return aligned(self._maps[path][placed.offset + begin : placed.offset + last], placed.format.bits // 8)

    def _read_ahead(self, path: str, begin: int, end: int) -> None:
        """Has the disk read a range and what follows it: else each page is waited for when it is looked at."""
        asked = self._ahead.get(path, 0)
        if end + self.PIECE // 2 > asked:
            self._ahead[path] = end + self.PIECE
            will_need(self._maps[path], max(begin, asked), end + self.PIECE)

    def close(self) -> None:
        self._maps.clear()
        self._ahead.clear()

    def carried(self) -> Sequence[tuple[str, str]]:
        texts = [(path, header.metadata.get(METADATA_KEY)) for path, header in self.files.items()]
        known = [(path, text) for path, text in texts if text is not None]
        return known if len(known) == len(texts) else ()


def forget(mapped: np.memmap[Any, Any]) -> None:
    """Gives back the memory of what was read of a file; it is read again where it is looked at again."""
    import mmap

    own = getattr(mapped, "_mmap", None)
    if own is not None and hasattr(mmap, "MADV_DONTNEED"):
        own.madvise(mmap.MADV_DONTNEED)


def will_need(mapped: np.memmap[Any, Any], begin: int, end: int) -> None:
    """Has the system read bytes of a file that are looked at soon, without waiting for them."""
    import mmap

    own = getattr(mapped, "_mmap", None)
    first, last = begin // mmap.PAGESIZE * mmap.PAGESIZE, min(end, mapped.size)
    if own is not None and hasattr(mmap, "MADV_WILLNEED") and first < last:
        own.madvise(mmap.MADV_WILLNEED, first, last - first)


def aligned(data: np.ndarray, itemsize: int) -> np.ndarray:
    """The bytes themselves where they begin at a multiple of an element's size, and otherwise a copy of them."""
    return data if itemsize < 2 or _core.address(data) % itemsize == 0 else data.copy()


def safetensors_of(path: str) -> Safetensors:
    """The checkpoint of a safetensors file.

    Parameters
    ----------
    path : str
        The file.

    Raises
    ------
    OSError, ValueError
        As :func:`fastinit.checkpoints.read_header`.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastinit.checkpoints.headers import header_bytes
    >>> path = os.path.join(tempfile.mkdtemp(), "empty.safetensors")
    >>> with open(path, "wb") as file:
    ...     _ = file.write(header_bytes([]))
    >>> len(safetensors_of(path))
    0
    """
    return Safetensors(path, {path: read_header(path)})


def safetensors_of_index(path: str) -> Safetensors:
    """The checkpoint of an index.

    Parameters
    ----------
    path : str
        A JSON file with a ``weight_map`` of names to files beside it.

    Raises
    ------
    OSError
        If a file cannot be read.
    ValueError
        With the path, if it is not such an index, names files outside its folder, or tensors that its files lack, or if
        the files have other tensors.
    """
    folder = os.path.dirname(path)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(LONGEST_HEADER + 1)
        if len(text) > LONGEST_HEADER:
            raise ValueError(f"it is longer than {LONGEST_HEADER:,} characters")
        index = json.loads(text, object_pairs_hook=distinct)
        places = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise ValueError("expected a weight_map of names to files")
        for name in places.values():
            if os.path.basename(name) != name or name in ("", ".", ".."):
                raise ValueError(f"a file of an index lies in its folder, got {shown(name)}")
    except RecursionError:
        raise ValueError(f"{path} is not an index: it is nested too deep") from None
    except ValueError as problem:
        raise ValueError(f"{path} is not an index: {problem}") from None
    headers = {name: read_header(name) for name in (os.path.join(folder, one) for one in sorted(set(places.values())))}
    for name, file in places.items():
        if name not in headers[os.path.join(folder, file)].tensors:
            raise ValueError(f"{path} says that {file} holds {shown(name)}, which it does not")
    extra = sorted({name for header in headers.values() for name in header.tensors} - set(places))
    if extra:
        raise ValueError(f"{path} does not say where {shown(extra[0])} is")
    return Safetensors(path, headers)
