"""NumPy's files as checkpoints: ``.npy``, and ``.npz`` archives of them.

Arrays are mapped into memory where the file holds their bytes as they are, and unpacked piece by piece where the
archive compresses them. Arrays of Python objects are refused: reading them would run a pickle.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final, NamedTuple

import numpy as np

from fastinit.checkpoints.contents import Boxes, Checkpoint, gathered
from fastinit.checkpoints.formats import Stored, format_named
from fastinit.checkpoints.mapped import aligned, forget
from fastinit.checks import checked_shape, shown

__all__ = ["Arrays", "npy_of", "npz_of"]

# The fixed part of the header before a member of a zip archive: its last two fields are the lengths of name and extra.
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_SUFFIX: Final = ".npy"


class _Array(NamedTuple):
    """An array of a file."""

    stored: Stored
    dtype: np.dtype[Any]
    fortran: bool
    """Whether its elements are stored in the order of columns."""
    head: int
    """Bytes before the elements, of the file or of the member of an archive."""
    start: int | None
    """The first byte of the elements in the file; None where the archive compresses them."""
    member: zipfile.ZipInfo | None = None


class Arrays(Checkpoint):
    """The arrays of a ``.npy`` or ``.npz`` file.

    Parameters
    ----------
    path : str
        The file.
    arrays : list of _Array
        Its arrays.

    Examples
    --------
    >>> len(Arrays("empty.npz", []))
    0
    """

    def __init__(self, path: str, arrays: list[_Array]) -> None:
        super().__init__(path, (array.stored for array in arrays))
        self._arrays = {array.stored.name: array for array in arrays}
        self._map: np.memmap[Any, Any] | None = None
        self._whole: tuple[str, Boxes] | None = None  # of an array that can only be unpacked whole
        self._archive: zipfile.ZipFile | None = None
        self._stream: tuple[str, int, IO[bytes]] | None = None  # the member that is being unpacked, and how far

    def read(self, name: str, begin: int = 0, end: int | None = None) -> np.ndarray:
        stored = self[name]
        array, size = self._arrays[name], stored.format.bits // 8
        last = stored.nbytes if end is None else end
        if begin >= last:
            return np.empty(0, np.uint8)
        is_plain = not array.fortran and array.dtype.isnative
        if array.start is not None:
            data = self._mapped()[array.start : array.start + stored.nbytes]
            if is_plain:
                return aligned(data[begin:last], size)
            whole = _of_bytes(data, array)
            return gathered(stored.shape, array.dtype, begin // size, last // size, lambda box: whole[box])
        if array.fortran:
            if self._whole is None or self._whole[0] != name:
                boxes = [tuple(slice(0, extent) for extent in stored.shape)]
                self._whole = name, Boxes(stored.shape, boxes, lambda _: self._unpacked_whole(array))
            return self._whole[1].read(begin // size, last // size).view(np.uint8)
        data = self._unpacked(array, begin, last)
        return data if is_plain else _native(data.view(array.dtype)).view(np.uint8)

    def close(self) -> None:
        self._map, self._whole, self._stream = None, None, None
        if self._archive is not None:
            self._archive.close()
            self._archive = None

    def _mapped(self) -> np.memmap[Any, Any]:
        if self._map is None:
            self._map = np.memmap(self.path, np.uint8, "r")
        forget(self._map)
        return self._map

    def _unpacked_whole(self, array: _Array) -> np.ndarray:
        whole = _of_bytes(self._unpacked(array, 0, array.stored.nbytes), array)
        return _native(np.ascontiguousarray(whole)).view(f"u{whole.itemsize}")

    def _unpacked(self, array: _Array, begin: int, end: int) -> np.ndarray:
        """Bytes of a compressed member, which is unpacked from its start or from where the last read has ended."""
        name, out = array.stored.name, np.empty(end - begin, np.uint8)
        with _damage(self.path, name):
            if self._archive is None:
                self._archive = zipfile.ZipFile(self.path)
            if self._stream is None or self._stream[0] != name or self._stream[1] > begin:
                assert array.member is not None
                stream = self._archive.open(array.member)
                _skip(stream, array.head)
                self._stream = name, 0, stream
            _, at, stream = self._stream
            self._stream = None  # it is unknown how far a read that fails has come
            _skip(stream, begin - at)
            rest = memoryview(out.data)
            while rest:
                count = stream.readinto(rest)  # type: ignore[attr-defined]
                if not count:
                    raise ValueError("it ends too early")
                rest = rest[count:]
            if end == array.stored.nbytes:
                stream.read(1)  # the checksum is compared at the end
            self._stream = name, end, stream
        return out


def npy_of(path: str) -> Arrays:
    """The array of a ``.npy`` file, called as the file without its suffix.

    Parameters
    ----------
    path : str
        The file.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        With the path, if it is damaged or holds anything but numbers.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "table.npy")
    >>> np.save(path, np.zeros((2, 3)))
    >>> [(stored.name, stored.shape) for stored in npy_of(path)]
    [('table', (2, 3))]
    """
    name, _ = os.path.splitext(os.path.basename(path))
    with open(path, "rb") as file, _damage(path, name):
        array = _array(file, name)
        size = os.fstat(file.fileno()).st_size
        if array.head + array.stored.nbytes != size:
            raise ValueError(f"its elements end at byte {array.head + array.stored.nbytes:,} of {size:,}")
        return Arrays(path, [array._replace(start=array.head)])


def npz_of(path: str) -> Arrays:
    """The arrays of an ``.npz`` archive, by their names in ``numpy.load``.

    Parameters
    ----------
    path : str
        The file.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        With the path, if it is damaged, or holds anything but arrays of numbers.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "two.npz")
    >>> np.savez_compressed(path, a=np.zeros(3), b=np.ones((), np.int8))
    >>> [(stored.name, stored.format.name) for stored in npz_of(path)]
    [('a', 'float64'), ('b', 'int8')]
    """
    arrays = []
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        with _damage(path):
            archive = zipfile.ZipFile(file)
        for member in archive.infolist():
            with _damage(path, member.filename):
                if not member.filename.endswith(_SUFFIX):
                    raise ValueError("it is no .npy file")
                if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError("it is encrypted, or compressed in another way than deflated")
                if not 0 <= member.header_offset < size:
                    raise ValueError(f"it begins at byte {member.header_offset:,} of {size:,}")
                name = member.filename.removesuffix(_SUFFIX)
                if member.compress_type == zipfile.ZIP_STORED:
                    start = _start(file, member, size)
                    file.seek(start)
                    array = _array(file, name)
                    array = array._replace(head=array.head - start, start=array.head)
                else:
                    with archive.open(member) as stream:
                        array = _array(stream, name)
                if array.head + array.stored.nbytes != member.file_size:
                    raise ValueError(f"its elements take {array.stored.nbytes:,} bytes of {member.file_size:,}")
                arrays.append(array._replace(member=member))
    return Arrays(path, arrays)


def _array(file: IO[bytes], name: str) -> _Array:
    """The array whose ``.npy`` file begins here."""
    version = np.lib.format.read_magic(file)
    known = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in known:
        raise ValueError(f"version {version} of .npy files holds no numbers")
    shape, fortran, dtype = known[version](file)
    if dtype.hasobject or dtype.fields is not None or dtype.kind not in "biufc":
        raise ValueError(f"its dtype is {shown(dtype.str)}: only numbers are read")
    stored = Stored(name, format_named(dtype.name), checked_shape(shape))
    return _Array(stored, dtype, bool(fortran) and len(shape) > 1, file.tell(), None)


def _start(file: IO[bytes], member: zipfile.ZipInfo, size: int) -> int:
    """The first byte of a member that is not compressed.

    It is found here, because a reader of :mod:`zipfile` compares the checksum of a small member at once, and damage is
    to be told from training by the values.
    """
    file.seek(member.header_offset)
    *_, name, extra = _LOCAL.unpack(file.read(_LOCAL.size))
    start: int = member.header_offset + _LOCAL.size + name + extra
    if start + member.file_size > size or member.file_size != member.compress_size:
        raise ValueError(f"it ends behind the {size:,} bytes of the file")
    return start


def _skip(stream: IO[bytes], count: int) -> None:
    while count:
        found = len(stream.read(min(count, 2**20)))
        if not found:
            raise ValueError("it ends too early")
        count -= found


def _of_bytes(data: np.ndarray, array: _Array) -> np.ndarray:
    """Bytes as the array that they are."""
    return data.view(array.dtype).reshape(array.stored.shape, order="F" if array.fortran else "C")


def _native(values: np.ndarray) -> np.ndarray:
    """The values in the processor's order of bytes."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


@contextmanager
def _damage(path: str, name: str | None = None) -> Iterator[None]:
    """Errors of a damaged file name it."""
    where = path if name is None else f"{path}: {shown(name)}"
    try:
        yield
    except OSError:
        raise
    except Exception as problem:  # of NumPy's and zip's readers, which raise a dozen kinds for damaged files
        kind = "" if isinstance(problem, ValueError) else f"{type(problem).__name__}: "
        raise ValueError(f"{where} cannot be read: {kind}{problem}") from None
