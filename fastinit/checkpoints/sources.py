"""Sources of a tensor's bytes: an initializer, a slice of another tensor, or given bytes.

A source computes any range of its tensor's elements, so files are written, verified and read in pieces of any size.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from fastinit import _core
from fastinit.buffers import Buffer, new_memory, row_major_strides
from fastinit.checkpoints.formats import Format, format_named
from fastinit.checks import checked_shape, sequence_of, shown
from fastinit.dtypes import DTYPES, DType, dtype_named
from fastinit.filling import fill_buffer
from fastinit.initializers import ElementwiseInitializer, Initializer, StructuredInitializer
from fastinit.models.planning import check_entry
from fastinit.models.records import Entry, Record
from fastinit.programs import Keep
from fastinit.shards import Shard, flat_boxes

__all__ = ["Filled", "Source", "Values", "check_fields"]

# A plan is small: what would unpack to more than this was not written by one.
_LARGEST: Final = 2**30
_DIGEST: Final = re.compile("[0-9a-f]{64}")


class Source(ABC):
    """The source of a tensor's bytes: :class:`Filled` or :class:`Values`.

    Examples
    --------
    >>> from fastinit.checkpoints import Source, Values
    >>> step = Values("int64", (), bytes(8))
    >>> isinstance(step, Source), step.shape, step.format.name
    (True, (), 'int64')
    """

    KIND: ClassVar[str]
    """Name of the kind of source in a plan."""

    @property
    def entry(self) -> Entry | None:
        """The record's entry behind it, if any."""
        return None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""

    @property
    @abstractmethod
    def format(self) -> Format:
        """The format of its elements."""

    @property
    def granule(self) -> int:
        """Elements that are made together: a range must begin and end at multiples of it, or at the end."""
        return 1

    @property
    def working_memory(self) -> int:
        """Bytes that making a range takes beside the range itself."""
        return 0

    @abstractmethod
    def check(self) -> None:
        """Raises ValueError or TypeError where the bytes cannot be made."""

    @abstractmethod
    def write(self, out: np.ndarray, begin: int, num_threads: int | None = None) -> None:
        """Gives memory the elements from `begin` on.

        Parameters
        ----------
        out : numpy.ndarray of uint8
            C-contiguous; its size says how many elements.
        begin : int
            The first element, row-major.
        num_threads : int, optional
            At most this many threads.
        """

    @abstractmethod
    def config(self, name: str) -> dict[str, Any]:
        """The source as JSON, for a tensor of this name. Entries are referred to by name."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any], name: str, record: Record) -> Source:
        """The source that :meth:`config` described. Raises KeyError, TypeError or ValueError for anything else."""


def check_fields(config: dict[str, Any], needed: Collection[str], allowed: Collection[str], name: str) -> None:
    """Raises ValueError where a source's JSON lacks a field or has one that is not known."""
    if not set(needed) <= set(config) <= {*needed, *allowed}:
        raise ValueError(
            f"the source of {shown(name)} has the fields {sorted({*needed, *allowed})}, got {sorted(config)}"
        )


@dataclass(frozen=True, slots=True)
class Filled(Source):
    """A tensor that an entry of a record fills, or a slice of one, with its axes in another order.

    Parameters
    ----------
    entry : Entry
        How the whole tensor is filled; it has a dtype.
    offsets, extent : tuple of int, optional
        Where the slice begins in the whole tensor, and its shape there; by default all of it.
    axes : tuple of int, optional
        Axis `axes[n]` of the slice is axis n of this tensor; by default they keep their order.
    dropped : tuple of int
        Axes of extent 1 of the slice that this tensor does not have.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another type, or the slice leaves the tensor.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> entry = fastinit.Entry("up", (4, 6, 8), "given", fastinit.Normal(), fastinit.Key(0), dtype="float32")
    >>> third = Filled(entry, (2, 0, 0), (1, 6, 8), axes=(0, 2, 1), dropped=(0,))
    >>> third.shape
    (8, 6)
    >>> out = np.empty(8 * 6 * 4, np.uint8)
    >>> third.write(out, 0)
    >>> whole = fastinit.fill(np.empty((4, 6, 8), np.float32), fastinit.Normal(), fastinit.Key(0))
    >>> bool((out.view(np.float32).reshape(8, 6) == whole[2].T).all())
    True
    """

    KIND = "filled"

    entry: Entry
    offsets: tuple[int, ...] | None = None
    extent: tuple[int, ...] | None = None
    axes: tuple[int, ...] | None = None
    dropped: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.entry, Entry):
            raise TypeError(f"entry must be an Entry, got {shown(self.entry)}")
        whole = self.entry.shape
        begin = (0,) * len(whole) if self.offsets is None else checked_shape(self.offsets, "offsets")
        rest = tuple(size - first for size, first in zip(whole, begin, strict=False))
        extent = rest if self.extent is None else checked_shape(self.extent, "extent")
        Shard.of(extent, whole, begin)
        axes = tuple(range(len(whole))) if self.axes is None else sequence_of(int, "axes must be integers", self.axes)
        if sorted(axes) != list(range(len(whole))):
            raise ValueError(f"axes must order the {len(whole)} axes of {self.entry.name!r}, got {axes}")
        dropped = sequence_of(int, "dropped must be integers", self.dropped)
        if any(not 0 <= axis < len(whole) or extent[axis] != 1 for axis in dropped):
            raise ValueError(f"only axes of extent 1 can be dropped of a slice of {extent}, got {dropped}")
        for name, value in (("offsets", begin), ("extent", extent), ("axes", axes), ("dropped", dropped)):
            object.__setattr__(self, name, value)

    @property
    def shape(self) -> tuple[int, ...]:
        assert self.extent is not None and self.axes is not None
        return tuple(self.extent[axis] for axis in self.axes if axis not in self.dropped)

    @property
    def format(self) -> Format:
        return format_named(self.entry.dtype)

    @property
    def _is_in_order(self) -> bool:
        """Whether the axes have the entry's order."""
        return self.axes == tuple(range(len(self.entry.shape)))

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the entry's tensor, in its order."""
        return self.extent == self.entry.shape and self._is_in_order

    @property
    def granule(self) -> int:
        return max(1, math.prod(self.shape)) if _is_made_whole(self.entry.initializer, self.entry.shape) else 1

    @property
    def working_memory(self) -> int:
        if self.granule == 1:
            return 0
        # a structured tensor in its working format, and as much again for its intermediate values
        return 2 * math.prod(self.entry.shape) * dtype_named(dtype_named(self.entry.dtype).working).itemsize

    def check(self) -> None:
        if isinstance(self.entry.initializer, Keep):
            raise ValueError(f"{self.entry.name!r} has no values: its entry keeps what a tensor held")
        if self.entry.dtype not in DTYPES:
            raise TypeError(
                f"{self.entry.name!r} has the dtype {shown(self.entry.dtype)}: expected one of {', '.join(DTYPES)}"
            )
        check_entry(self.entry)

    def write(self, out: np.ndarray, begin: int, num_threads: int | None = None) -> None:
        dtype = dtype_named(self.entry.dtype)
        count, address = out.size // dtype.itemsize, _core.address(out)
        entry, threads = self.entry, num_threads
        if self.is_whole and count == math.prod(entry.shape):
            strides = row_major_strides(entry.shape, dtype.itemsize)
            buffer = Buffer(address, entry.shape, strides, dtype, out)
            fill_buffer(buffer, entry.initializer, entry.key, num_threads=threads)
            return
        start = self._start()
        if start is not None:
            buffer = Buffer(address, (count,), (dtype.itemsize,), dtype, out)
            shard = Shard(entry.shape, None, start + begin)
            fill_buffer(buffer, entry.initializer, entry.key, shard, num_threads=threads)
            return
        local = self._extents()
        for first, box in flat_boxes(local, begin, begin + count):
            self._fill(address + (first - begin) * dtype.itemsize, box, dtype, threads)

    def _start(self) -> int | None:
        """The slice's first element in the flattened tensor; None where the slice is not consecutive there."""
        return self._start_of((0,) * len(self.entry.shape), self._extents())

    def _start_of(self, offsets: tuple[int, ...], extent: tuple[int, ...]) -> int | None:
        """The same of a box of the slice, whose axes have this tensor's order."""
        assert self.offsets is not None
        if not self._is_in_order:
            return None
        whole, is_run, step, start = self.entry.shape, True, 1, 0
        for axis in range(len(whole) - 1, -1, -1):
            start += (self.offsets[axis] + offsets[axis]) * step
            if extent[axis] != 1:
                if not is_run:
                    return None
                is_run = extent[axis] == whole[axis]
            elif whole[axis] != 1:
                is_run = False
            step *= whole[axis]
        return start

    def box(self, offsets: tuple[int, ...], extent: tuple[int, ...], num_threads: int | None = None) -> np.ndarray:
        """A box of this tensor, computed alone; its dtype is the format's storage.

        Parameters
        ----------
        offsets, extent : tuple of int
            Where the box begins, and its shape.
        num_threads : int, optional
            At most this many threads.
        """
        dtype, entry = dtype_named(self.entry.dtype), self.entry
        memory = new_memory(extent, dtype)
        found = iter([range(first, first + size) for first, size in zip(offsets, extent, strict=True)])
        assert self.axes is not None
        ranges = tuple(range(1) if axis in self.dropped else next(found) for axis in self.axes)
        start = self._start_of(tuple(one.start for one in ranges), tuple(map(len, ranges)))
        if start is not None and memory.size:
            buffer = Buffer(_core.address(memory), (memory.size,), (dtype.itemsize,), dtype, memory)
            fill_buffer(buffer, entry.initializer, entry.key, Shard(entry.shape, None, start), num_threads=num_threads)
        elif memory.size:
            self._fill(_core.address(memory), ranges, dtype, num_threads)
        return memory

    def _extents(self) -> tuple[int, ...]:
        """The shape of the slice in this tensor's order, dropped axes included."""
        assert self.extent is not None and self.axes is not None
        return tuple(self.extent[axis] for axis in self.axes)

    def _fill(self, address: int, box: tuple[range, ...], dtype: DType, threads: int | None) -> None:
        """Fills consecutive memory with a box of the slice: memory in this tensor's order, the entry's in its own."""
        assert self.offsets is not None and self.axes is not None
        strides = row_major_strides(tuple(map(len, box)), dtype.itemsize)
        places = sorted(zip(self.axes, box, strides, strict=True), key=lambda place: place[0])
        shape = tuple(len(indices) for _, indices, _ in places)
        offsets = tuple(start + indices.start for start, (_, indices, _) in zip(self.offsets, places, strict=True))
        buffer = Buffer(address, shape, tuple(stride for _, _, stride in places), dtype)
        shard = Shard.of(shape, self.entry.shape, offsets)
        fill_buffer(buffer, self.entry.initializer, self.entry.key, shard, num_threads=threads)

    def config(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {} if self.entry.name == name else {"entry": self.entry.name}
        if not self.is_whole or self.dropped:
            found |= {what: list(getattr(self, what)) for what in _SLICE}
        return found

    @classmethod
    def from_config(cls, config: dict[str, Any], name: str, record: Record) -> Filled:
        check_fields(config, (), ("entry", *_SLICE), name)
        given = {what: tuple(value) for what, value in config.items() if what != "entry"}
        return cls(record[config.get("entry", name)], **given)


_SLICE: Final = ("offsets", "extent", "axes", "dropped")


def _is_made_whole(initializer: Initializer, shape: tuple[int, ...]) -> bool:
    """Whether any part of a tensor has to be computed from all of it."""
    if isinstance(initializer, ElementwiseInitializer) or not isinstance(initializer, StructuredInitializer):
        return False
    parts = initializer.parts(shape)
    return parts is None or any(_is_made_whole(part.initializer, part.shape) for part in parts)


@dataclass(frozen=True, slots=True)
class Values(Source):
    """A tensor whose bytes are known: a buffer of the model that no initializer describes.

    Parameters
    ----------
    kind : str
        The name of the format.
    extents : tuple of int
        The shape.
    data : bytes or None
        The elements, row-major and little-endian; None where only their digest is known.
    digest : str, optional
        The SHA-256 of the bytes, in hexadecimal; computed where `data` is given.

    Raises
    ------
    ValueError
        If the format is unknown, the bytes do not fit the shape, or the digest is not one.

    Examples
    --------
    >>> import numpy as np
    >>> positions = Values("int64", (1, 3), np.arange(3).tobytes())
    >>> out = np.empty(16, np.uint8)
    >>> positions.write(out, 1)
    >>> out.view(np.int64)
    array([1, 2])
    """

    KIND = "values"

    kind: str
    extents: tuple[int, ...]
    data: bytes | None
    digest: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "extents", checked_shape(self.extents))
        object.__setattr__(self, "kind", format_named(self.kind).name)
        if self.data is None:
            if not isinstance(self.digest, str) or not _DIGEST.fullmatch(self.digest):
                raise ValueError(f"digest must be a SHA-256 in hexadecimal, got {shown(self.digest)}")
            return
        expected = self.format.nbytes(self.extents)
        if not isinstance(self.data, bytes) or len(self.data) != expected:
            got = f"{len(self.data)} bytes" if isinstance(self.data, bytes) else shown(self.data)
            raise ValueError(f"values of shape {self.extents} in {self.kind} take {expected} bytes, got {got}")
        object.__setattr__(self, "digest", hashlib.sha256(self.data).hexdigest())

    @property
    def shape(self) -> tuple[int, ...]:
        return self.extents

    @property
    def format(self) -> Format:
        return format_named(self.kind)

    @property
    def granule(self) -> int:
        return 1 if self.format.bits % 8 == 0 else max(1, math.prod(self.extents))

    def without_data(self) -> Values:
        """The same with its digest alone."""
        return Values(self.kind, self.extents, None, self.digest)

    def check(self) -> None:
        if self.data is None:
            raise ValueError("only the digest of its values is known, not the values")

    def write(self, out: np.ndarray, begin: int, num_threads: int | None = None) -> None:
        assert self.data is not None
        out[:] = np.frombuffer(self.data, np.uint8, out.size, begin * self.format.bits // 8)

    def config(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {"dtype": self.kind, "shape": list(self.extents)}
        if self.data is None:
            return {**found, "digest": self.digest}
        return {**found, "data": base64.b64encode(zlib.compress(self.data, 9)).decode()}

    @classmethod
    def from_config(cls, config: dict[str, Any], name: str, record: Record) -> Values:
        check_fields(config, ("dtype", "shape"), ("data", "digest"), name)
        kind, shape = config["dtype"], checked_shape(config["shape"])
        if "data" not in config:
            return cls(kind, shape, None, config.get("digest", ""))
        size = format_named(kind).nbytes(shape)
        if size > _LARGEST:
            raise ValueError(f"the values of {shown(name)} take {size:,} bytes, too many for a plan")
        try:
            packed = base64.b64decode(config["data"], validate=True)
            return cls(kind, shape, zlib.decompressobj().decompress(packed, size + 1))
        except (binascii.Error, zlib.error) as problem:
            raise ValueError(f"the values of {shown(name)} are damaged: {problem}") from None
