"""Headers of safetensors files: reading them with checks, and writing them.

A file begins with the length of its header (8 bytes, little-endian) and the header, JSON that says of each tensor the
dtype, the shape and the place of its bytes behind the header. Files from elsewhere may be damaged or hostile, so every
field is checked against the file before it is used.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastinit.checkpoints.formats import Format, Stored, format_named
from fastinit.checks import distinct, shown

__all__ = ["LONGEST_HEADER", "Header", "Placed", "header_bytes", "read_header"]

LONGEST_HEADER: Final = 100_000_000
"""The longest header that readers of safetensors accept, in bytes."""
# Memory maps of tensors are aligned where the data begins at a multiple of the widest element.
_ALIGNMENT: Final = 8
_METADATA: Final = "__metadata__"


@dataclass(frozen=True, slots=True)
class Placed(Stored):
    """A tensor of a safetensors file, and its place.

    Attributes
    ----------
    name, format, shape
        As of :class:`Stored`.
    offset : int
        Its first byte, counted from the beginning of the file.

    Examples
    --------
    >>> Placed("step", format_named("int64"), (3,), 88).offset
    88
    """

    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """The contents of a safetensors file.

    Attributes
    ----------
    tensors : mapping of str to Placed
        The tensors, in the order of their bytes.
    metadata : mapping of str to str
        Texts that describe the file.
    size : int
        Bytes of the whole file.

    Examples
    --------
    >>> Header({}, {"format": "pt"}, 88).metadata["format"]
    'pt'
    """

    tensors: Mapping[str, Placed]
    metadata: Mapping[str, str]
    size: int


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the header of a safetensors file and check it against the file.

    Parameters
    ----------
    path : path
        The file.

    Raises
    ------
    OSError
        If the file cannot be read or is not a regular file.
    ValueError
        With the path, if it is not a safetensors file: a header that is too long or not JSON, a name twice, an unknown
        dtype, a shape that does not fit its bytes, tensors that overlap, leave gaps or lie beyond the end.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "empty.safetensors")
    >>> with open(path, "wb") as file:
    ...     _ = file.write(header_bytes([], {"made": "here"}))
    >>> read_header(path).metadata
    {'made': 'here'}
    """
    where = os.fspath(path)
    with open(where, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{where} is not a regular file")
        try:
            start = file.read(8)
            if len(start) < 8:
                raise ValueError(f"expected at least 8 bytes, got {len(start)}")
            length = int.from_bytes(start, "little")
            if length > min(LONGEST_HEADER, found.st_size - 8):
                raise ValueError(
                    f"a header of {length:,} bytes is longer than the file of {found.st_size:,} bytes, or than the "
                    f"{LONGEST_HEADER:,} that are allowed"
                )
            return _checked(file.read(length), 8 + length, found.st_size)
        except RecursionError:
            raise ValueError(f"{where} is not a safetensors file: its header is nested too deep") from None
        except (TypeError, ValueError) as problem:
            raise ValueError(f"{where} is not a safetensors file: {problem}") from None


def _checked(text: bytes, begin: int, size: int) -> Header:
    found = json.loads(text.decode(), object_pairs_hook=distinct, parse_constant=_no_constant)
    if not isinstance(found, dict):
        raise ValueError(f"expected an object, got {shown(found)}")
    metadata = found.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{_METADATA} must hold texts, got {shown(metadata)}")
    tensors = sorted(
        (_stored(name, own, begin) for name, own in found.items()), key=lambda one: (one[0].offset, one[1])
    )
    end = begin
    for stored, last in tensors:
        if stored.offset != end:
            what = "overlaps the one before it" if stored.offset < end else "leaves a gap before it"
            raise ValueError(f"{stored.name!r} begins at byte {stored.offset - begin:,} and {what}")
        end = last
    if end != size:
        raise ValueError(f"the tensors end at byte {end:,} of a file of {size:,} bytes")
    return Header({stored.name: stored for stored, _ in tensors}, metadata, size)


def _stored(name: str, own: Any, begin: int) -> tuple[Placed, int]:
    """A tensor of a header, and the end of its bytes in the file."""
    if not isinstance(own, dict) or set(own) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} must have a dtype, a shape and data_offsets, got {shown(own)}")
    kind, shape, offsets = format_named(own["dtype"]), own["shape"], own["data_offsets"]
    for what, value in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(value, list) or not all(type(one) is int and 0 <= one < 2**63 for one in value):
            raise ValueError(f"{what} of {name!r} must be a list of integers in [0, 2**63), got {shown(value)}")
    if len(offsets) != 2 or len(shape) > 64:
        raise ValueError(f"{name!r} must have two data_offsets and at most 64 axes, got {shown(own)}")
    stored = Placed(name, kind, tuple(shape), begin + offsets[0])
    if math.prod(shape) * kind.bits != 8 * (offsets[1] - offsets[0]):
        raise ValueError(
            f"{name!r} of shape {tuple(shape)} in {kind.name} takes {stored.nbytes:,} bytes, its data_offsets "
            f"{offsets} hold {offsets[1] - offsets[0]:,}"
        )
    return stored, begin + offsets[1]


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def header_bytes(
    tensors: Iterable[tuple[str, Format, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The first bytes of a safetensors file whose tensors follow in this order, without gaps.

    Parameters
    ----------
    tensors : iterable of (str, Format, tuple of int)
        Name, format and shape of each.
    metadata : mapping of str to str, optional
        Texts that describe the file.

    Raises
    ------
    ValueError
        If two tensors have the same name, one is called ``"__metadata__"``, or the header is too long for readers.

    Examples
    --------
    >>> from fastinit.checkpoints.formats import format_named
    >>> header = header_bytes([("bias", format_named("float32"), (4,))])
    >>> header[8:].rstrip()
    b'{"bias":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    """
    entries: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name, kind, shape in tensors:
        if name in entries or name == _METADATA:
            raise ValueError(f"a file cannot hold two tensors called {shown(name)}")
        begin, end = end, end + kind.nbytes(shape)
        entries[name] = {"dtype": kind.tag, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > LONGEST_HEADER:
        raise ValueError(f"a header of {len(text):,} bytes is too long: readers accept {LONGEST_HEADER:,}")
    return len(text).to_bytes(8, "little") + text
