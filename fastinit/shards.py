"""Shards: the elements of the global tensor that a local buffer holds, as lattices of runs.

A shard is described by its `ranges`: for each axis, the global indices of the local axis, in order, as a sequence of
Python ranges. Most shards have one range per axis and are one box. A sharding that splits an axis into several pieces
gives several ranges; the shard then consists of all boxes with one range per axis.

Element ``(j0, j1, ...)`` of a box is global element ``start + sum j * index_stride``, row-major, and lies ``sum j *
byte_stride`` bytes after the first. Axes that are contiguous in both strides are merged, so that the last axis, the
run, is as long as possible.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, SupportsIndex

import numpy as np

from fastinit.buffers import Buffer, row_major_strides
from fastinit.checks import checked_shape, integer, shown

__all__ = [
    "Lattice",
    "Ranges",
    "Shard",
    "boxes",
    "check_distinct",
    "clipped",
    "dealt",
    "joined",
    "lattices",
    "tiled",
    "tiles",
]

Ranges = tuple[tuple[range, ...], ...]
"""For each axis of the global tensor, the ranges of indices that a buffer holds."""
Box = tuple[range, ...]

LARGEST_INDEX = 2**63

# Elements per piece of a strided run. Neighbouring runs share cache lines; one line per element fits the kernels'
# scratch (kernels/scatter.h).
TILE = 256


# Limit of NumPy's search for overlapping elements. Usual layouts need no search.
CANDIDATES = 10**6


class Lattice(NamedTuple):
    """Location of local elements: the global index of the first, then extents and strides per axis."""

    start: int
    extents: tuple[int, ...]
    index_strides: tuple[int, ...]
    byte_strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.extents)


def _merged(
    start: int,
    extents: tuple[int, ...],
    index_strides: tuple[int, ...],
    byte_strides: tuple[int, ...],
    itemsize: int,
) -> Lattice:
    axes: list[tuple[int, int, int]] = []
    for extent, index_stride, byte_stride in zip(extents, index_strides, byte_strides, strict=True):
        if extent == 1:
            continue
        if axes:
            outer, outer_index, outer_byte = axes[-1]
            if outer_index == extent * index_stride and outer_byte == extent * byte_stride:
                axes[-1] = (outer * extent, index_stride, byte_stride)
                continue
        axes.append((extent, index_stride, byte_stride))
    if not axes or axes[-1][1] != 1:
        axes.append((1, 1, itemsize))
    return Lattice(start, *zip(*axes, strict=True))


def box_lattice(
    global_shape: tuple[int, ...], box: tuple[range, ...], byte_strides: tuple[int, ...], itemsize: int
) -> Lattice:
    """The lattice of a box: the elements of a tensor of `global_shape` with indices in one range per axis."""
    steps = row_major_strides(global_shape)
    start = sum(indices.start * step for indices, step in zip(box, steps, strict=True))
    index_strides = tuple(indices.step * step for indices, step in zip(box, steps, strict=True))
    return _merged(start, tuple(map(len, box)), index_strides, byte_strides, itemsize)


def flat_lattice(start: int, shape: tuple[int, ...], byte_strides: tuple[int, ...], itemsize: int) -> Lattice:
    """The lattice of elements [start, start + size) of the flattened tensor, row-major in the local buffer."""
    return _merged(start, shape, row_major_strides(shape), byte_strides, itemsize)


def slice_ranges(global_shape: tuple[int, ...], offsets: tuple[int, ...], shape: tuple[int, ...]) -> Ranges:
    """Ranges of the slice of `shape` that begins at `offsets` in a tensor of `global_shape`.

    Raises
    ------
    ValueError
        If the numbers of axes differ, or the slice exceeds the tensor.
    """
    if not len(global_shape) == len(offsets) == len(shape):
        raise ValueError(
            f"the global shape {global_shape}, the offsets {offsets} and the local shape {shape} must have the same "
            "number of axes"
        )
    for axis, (whole, offset, extent) in enumerate(zip(global_shape, offsets, shape, strict=True)):
        if not 0 <= offset <= offset + extent <= whole:
            raise ValueError(
                f"the slice [{offset}, {offset + extent}) of axis {axis} is not within [0, {whole}), "
                f"the axis of the global shape {global_shape}"
            )
    return tuple((range(offset, offset + extent),) for offset, extent in zip(offsets, shape, strict=True))


def checked_ranges(global_shape: tuple[int, ...], ranges: Sequence[Sequence[range]], shape: tuple[int, ...]) -> Ranges:
    """The ranges of a shard of local `shape`, checked.

    Raises
    ------
    TypeError
        If an axis lacks a sequence of ranges.
    ValueError
        If the numbers of axes differ, a range does not ascend or exceeds its axis, the lengths do not add up to the
        local extent, or two ranges of an axis share an index.
    """
    try:
        given = [pieces if isinstance(pieces, range) else tuple(pieces) for pieces in ranges]
    except TypeError:
        raise TypeError(f"ranges must have a sequence of ranges for each axis, got {shown(ranges)}") from None
    if not len(global_shape) == len(given) == len(shape):
        raise ValueError(
            f"the global shape {global_shape}, the ranges {shown(ranges)} and the local shape {shape} must have the "
            "same number of axes"
        )
    for axis, (whole, pieces, extent) in enumerate(zip(global_shape, given, shape, strict=True)):
        if isinstance(pieces, range) or not all(isinstance(piece, range) for piece in pieces):
            raise TypeError(f"ranges must have a sequence of ranges for each axis, got {shown(pieces)} for axis {axis}")
        for piece in pieces:
            if piece.step < 1 or (piece and not 0 <= piece[0] <= piece[-1] < whole):
                raise ValueError(f"{shown(piece)} does not ascend within [0, {whole}), axis {axis} of {global_shape}")
        held = sum(map(len, pieces))
        if held != extent:
            raise ValueError(f"the ranges {shown(pieces)} hold {held} indices of axis {axis}, the local axis {extent}")
        twice = _held_twice(pieces)
        if twice is not None:
            raise ValueError(f"the ranges {shown(pieces)} of axis {axis} hold the index {twice} more than once")
    return tuple(tuple(piece for piece in pieces if piece) for pieces in given)


def _held_twice(ranges: Iterable[range]) -> int | None:
    """An index that two of these ascending ranges share, or None."""
    open_: list[range] = []
    for piece in sorted((piece for piece in ranges if piece), key=lambda piece: piece.start):
        open_ = [other for other in open_ if other[-1] >= piece.start]
        for other in open_:
            if (index := _common(other, piece)) is not None:
                return index
        open_.append(piece)
    return None


def _common(a: range, b: range) -> int | None:
    """The first common index of two ascending ranges, or None. Uses the Chinese remainder theorem."""
    divisor = math.gcd(a.step, b.step)
    steps, rest = divmod(b.start - a.start, divisor)
    if rest:
        return None
    modulus = b.step // divisor
    first = a.start + steps * pow(a.step // divisor, -1, modulus) % modulus * a.step
    period = a.step * modulus
    index = first + max(0, -((first - max(a.start, b.start)) // period)) * period
    return index if index <= min(a[-1], b[-1]) else None


def dealt(ranges: Sequence[range], rounds: int, ranks: int, rank: int) -> list[range]:
    """The indices of one of `ranks` ranks, if `rounds` chunks are split among the ranks one after the other.

    Chunks and their splits follow ``torch.chunk``.

    Parameters
    ----------
    ranges : sequence of range
        The indices, in order.
    rounds, ranks, rank : int
        Number of chunks, number of ranks, and the rank.

    Examples
    --------
    >>> dealt([range(10)], rounds=2, ranks=2, rank=1)
    [range(3, 5), range(8, 10)]
    """
    size = sum(map(len, ranges))
    held: list[range] = []
    for number in range(rounds):
        first, last = _chunk(size, rounds, number)
        begin, end = _chunk(last - first, ranks, rank)
        held += _section(ranges, first + begin, first + end)
    return held


def _chunk(size: int, chunks: int, number: int) -> tuple[int, int]:
    """Begin and end of one chunk. All have equal length, except that the last non-empty one may be shorter."""
    length = -(-size // chunks)
    return min(size, length * number), min(size, length * (number + 1))


def _section(ranges: Sequence[range], begin: int, end: int) -> Iterator[range]:
    """Yields the indices at positions [begin, end) of concatenated ranges."""
    for held in ranges:
        if section := held[max(begin, 0) : max(end, 0)]:
            yield section
        begin -= len(held)
        end -= len(held)


def joined(ranges: Sequence[range]) -> list[range]:
    """The same indices in fewer ranges.

    Parameters
    ----------
    ranges : sequence of range
        Ranges to concatenate.

    Examples
    --------
    >>> joined([range(0, 2), range(2, 5), range(7, 9)])
    [range(0, 5), range(7, 9)]
    """
    joined: list[range] = []
    for held in filter(None, ranges):
        if joined:
            last = joined[-1]
            step = held[0] - last[-1]
            if step > 0 and (len(last) == 1 or last.step == step) and (len(held) == 1 or held.step == step):
                joined[-1] = range(last[0], held[-1] + 1, step)
                continue
        joined.append(held)
    return joined


class Shard(NamedTuple):
    """The elements of a global tensor that a buffer holds, given by ranges or by a start in the flattened tensor.

    :meth:`of` builds it once from the caller's arguments.

    Parameters
    ----------
    shape : tuple of int
        Shape of the global tensor.
    ranges : tuple, optional
        For each axis, the ranges of indices that the buffer holds, in order.
    start : int, optional
        The first element in the flattened tensor, instead of ranges.

    Examples
    --------
    >>> shard = Shard.of((128, 256), global_shape=(1024, 256), offsets=(128, 0))
    >>> shard.shape, shard.ranges
    ((1024, 256), ((range(128, 256),), (range(0, 256),)))
    """

    shape: tuple[int, ...] | None
    """Shape of the global tensor; None for a flat range of a tensor of unknown shape."""
    ranges: Ranges | None
    start: int | None = None

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> Shard:
        """All elements of a tensor."""
        return cls(shape, tuple((range(extent),) for extent in shape))

    @classmethod
    def of(
        cls,
        local_shape: tuple[int, ...],
        global_shape: Sequence[SupportsIndex] | None = None,
        offsets: Sequence[SupportsIndex] | None = None,
        ranges: Sequence[Sequence[range]] | None = None,
        start: SupportsIndex | None = None,
    ) -> Shard:
        """The shard that a buffer of `local_shape` holds, checked; by default the whole tensor.

        Raises
        ------
        TypeError, ValueError
            If the arguments contradict each other or the local shape, or exceed the tensor.
        """
        if sum(given is not None for given in (offsets, ranges, start)) > 1:
            raise ValueError("expected one of offsets, ranges and start, got more than one")
        shape = None if global_shape is None else checked_shape(global_shape, "global_shape")
        if start is not None:
            first, size = integer("start", start), math.prod(local_shape)
            whole = LARGEST_INDEX if shape is None else math.prod(shape)
            if not 0 <= first <= first + size <= whole:
                raise ValueError(
                    f"elements [{first}, {first + size}) are not within [0, {whole}) of the flattened tensor"
                )
            found = cls(shape, None, first)
        elif shape is None:
            if offsets is not None or ranges is not None:
                raise ValueError(f"{'ranges' if offsets is None else 'offsets'} need a global_shape, got None")
            found = cls.whole(local_shape)
        elif ranges is not None:
            found = cls(shape, checked_ranges(shape, ranges, local_shape))
        else:
            begin = (0,) * len(shape) if offsets is None else checked_shape(offsets, "offsets")
            found = cls(shape, slice_ranges(shape, begin, local_shape))
        if found.shape is not None and math.prod(found.shape) > LARGEST_INDEX:
            raise ValueError(f"expected a tensor of at most 2**63 elements, got shape {found.shape}")
        return found

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole tensor, in order."""
        if self.shape is None or self.ranges is None:
            return False
        return all(
            joined(pieces) == list(filter(None, [range(extent)]))
            for extent, pieces in zip(self.shape, self.ranges, strict=True)
        )

    def within(self, outer: Shard) -> Shard:
        """Composes shards: `self` is a part of the tensor that `outer` holds. Both need ranges. Returns a Shard.

        Examples
        --------
        >>> rows = Shard.of((4, 6), global_shape=(16, 6), ranges=[[range(0, 2), range(8, 10)], [range(6)]])
        >>> Shard.of((2, 6), global_shape=(4, 6), offsets=(1, 0)).within(rows).ranges
        ((range(1, 9, 7),), (range(0, 6),))
        """
        assert self.ranges is not None and outer.ranges is not None
        chosen = zip(self.ranges, outer.ranges, strict=True)
        return Shard(
            outer.shape,
            tuple(tuple(joined([one for part in inner for one in _at(pieces, part)])) for inner, pieces in chosen),
        )

    def global_index(self, axis: int, position: int) -> int | None:
        """The global index at a position of a local axis; None beyond its end.

        Examples
        --------
        >>> Shard.of((4, 6), global_shape=(16, 6), offsets=(8, 0)).global_index(0, 3)
        11
        """
        assert self.ranges is not None
        found = next((one for one in _at(self.ranges[axis], range(position, position + 1))), None)
        return None if found is None else found[0]


def _at(pieces: Sequence[range], positions: range) -> Iterator[range]:
    """Yields the indices at some positions of concatenated ranges."""
    begin = 0
    for held in pieces:
        _, inside = _overlap(positions, begin, begin + len(held))
        if inside:
            yield held[inside.start - begin : inside.stop - begin : inside.step]
        begin += len(held)


def lattices(buffer: Buffer, shard: Shard) -> Iterator[tuple[int, Lattice]]:
    """The lattices of a buffer, each with its byte offset.

    Parameters
    ----------
    buffer : Buffer
        The memory.
    shard : Shard
        The elements of the global tensor that the buffer holds.

    Examples
    --------
    >>> import numpy as np
    >>> from fastinit.extending import buffer_of
    >>> buffer, shard = buffer_of(np.zeros((3, 2)), None), Shard.of((3, 2), (3, 4), (0, 2))  # columns 2 and 3
    >>> for start, lattice in lattices(buffer, shard):
    ...     print(start, lattice.start, lattice.extents, lattice.index_strides)
    0 2 (3, 2) (4, 1)
    """
    if shard.start is not None:
        yield 0, flat_lattice(shard.start, buffer.shape, buffer.byte_strides, buffer.dtype.itemsize)
        return
    assert shard.shape is not None
    for piece, box in boxes(buffer, shard):
        yield piece.address - buffer.address, box_lattice(shard.shape, box, piece.byte_strides, buffer.dtype.itemsize)


def tiles(buffer: Buffer, shard: Shard) -> Iterator[tuple[int, Lattice]]:
    """The lattices of :func:`lattices`, cut and ordered by :func:`tiled`.

    Parameters
    ----------
    buffer : Buffer
        The memory.
    shard : Shard
        The elements of the global tensor that the buffer holds.

    Examples
    --------
    >>> import numpy as np
    >>> from fastinit.extending import buffer_of
    >>> [lattice.extents for _, lattice in tiles(buffer_of(np.zeros((3, 4)).T, None), Shard.of((4, 3)))]
    [(4, 3)]
    """
    for outset, whole in lattices(buffer, shard):
        for offset, lattice in tiled(whole, buffer.dtype.itemsize):
            yield outset + offset, lattice


def boxes(buffer: Buffer, shard: Shard) -> Iterator[tuple[Buffer, Box]]:
    """Yields the boxes of a shard, each with its piece of the buffer."""
    if shard.ranges is not None:
        placed = [
            list(zip(itertools.accumulate(map(len, pieces), initial=0), pieces, strict=False))
            for pieces in shard.ranges
        ]
        for chosen in itertools.product(*placed):
            box = tuple(indices for _, indices in chosen)
            begin = sum(first * stride for (first, _), stride in zip(chosen, buffer.byte_strides, strict=True))
            yield Buffer(buffer.address + begin, tuple(map(len, box)), buffer.byte_strides, buffer.dtype), box
        return
    assert shard.shape is not None and shard.start is not None
    for first, box in flat_boxes(shard.shape, shard.start, shard.start + buffer.size):
        shape, itemsize = tuple(map(len, box)), buffer.dtype.itemsize
        address = buffer.address + (first - shard.start) * itemsize
        yield Buffer(address, shape, row_major_strides(shape, itemsize), buffer.dtype), box


def flat_boxes(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[int, Box]]:
    """Yields elements [start, stop) of a flattened tensor as boxes: partial rows at both ends, whole rows between.

    Each box comes with the flat index of its first element.
    """
    if start >= stop:
        return
    if len(shape) < 2:
        yield start, (range(start, stop),) * len(shape)
        return
    row = math.prod(shape[1:])
    first, last = -(-start // row), stop // row  # range of the whole rows
    if first > last:  # within one row
        for begin, box in flat_boxes(shape[1:], start - last * row, stop - last * row):
            yield last * row + begin, (range(last, last + 1), *box)
        return
    for begin, box in flat_boxes(shape[1:], start - (first - 1) * row, row) if start < first * row else ():
        yield (first - 1) * row + begin, (range(first - 1, first), *box)
    if first < last:
        yield first * row, (range(first, last), *map(range, shape[1:]))
    for begin, box in flat_boxes(shape[1:], 0, stop - last * row):
        yield last * row + begin, (range(last, last + 1), *box)


def clipped(
    buffer: Buffer, shard: Shard, offsets: tuple[int, ...], shape: tuple[int, ...]
) -> Iterator[tuple[Buffer, Box]]:
    """Yields the boxes of :func:`boxes` clipped to the box of `shape` at `offsets`, with indices relative to it."""
    for piece, box in boxes(buffer, shard):
        address, inside = piece.address, []
        for indices, offset, extent, stride in zip(box, offsets, shape, piece.byte_strides, strict=True):
            skipped, kept = _overlap(indices, offset, offset + extent)
            address += skipped * stride
            inside.append(range(kept.start - offset, kept.stop - offset, kept.step))
        if all(inside):
            yield Buffer(address, tuple(map(len, inside)), piece.byte_strides, piece.dtype), tuple(inside)


def _overlap(indices: range, low: int, high: int) -> tuple[int, range]:
    """The indices of an ascending range within [low, high), preceded by the number of indices before them."""
    step = indices.step
    before = min(max(0, -((indices.start - low) // step)), len(indices))
    until = min(max(0, -((indices.start - high) // step)), len(indices))
    return before, indices[before:until]


def tiled(lattice: Lattice, itemsize: int) -> list[tuple[int, Lattice]]:
    """The lattice in a cache-friendly order, as (byte offset, lattice) pieces.

    Contiguous runs stay unchanged. Strided runs (transposed or channels-last buffers) are reordered so that runs side
    by side in memory follow each other, because the kernels write several of them at once. They are cut into columns of
    TILE elements, which are filled one after the other.
    """
    run, stride = lattice.extents[-1], lattice.byte_strides[-1]
    if stride == itemsize or len(lattice.extents) == 1:
        return [(0, lattice)]
    axes = list(zip(*lattice[1:], strict=True))
    nearest = min(range(len(axes) - 1), key=lambda axis: abs(lattice.byte_strides[axis]))
    axes.insert(-1, axes.pop(nearest))
    lattice = Lattice(lattice.start, *zip(*axes, strict=True))
    if run <= TILE:
        return [(0, lattice)]
    columns, rest = divmod(run, TILE)
    start, extents, index_strides, byte_strides = lattice
    pieces = [
        (
            0,
            Lattice(
                start,
                (columns, *extents[:-1], TILE),
                (TILE, *index_strides),
                (TILE * stride, *byte_strides),
            ),
        )
    ]
    if rest:
        done = columns * TILE
        pieces.append((done * stride, Lattice(start + done, (*extents[:-1], rest), index_strides, byte_strides)))
    return pieces


def check_distinct(buffer: Buffer) -> None:
    """Raises BufferError if two elements of a buffer share memory.

    Parameters
    ----------
    buffer : Buffer
        The memory.

    Raises
    ------
    BufferError
        If two elements share memory.

    Examples
    --------
    >>> import numpy as np
    >>> from fastinit.extending import buffer_of
    >>> check_distinct(buffer_of(np.zeros((3, 4)), None))
    >>> twice = np.lib.stride_tricks.as_strided(np.zeros(4), (2, 3), (8, 8))
    >>> check_distinct(buffer_of(twice, None))
    Traceback (most recent call last):
        ...
    BufferError: the elements of out overlap: shape (2, 3), strides (8, 8) bytes
    """
    if buffer.is_contiguous or _is_nested(buffer):
        return
    about = f"shape {buffer.shape}, strides {buffer.byte_strides} bytes"
    array = buffer.array(buffer.dtype.raw)
    try:
        # if two elements overlap, shift both so that the first axis where they differ starts at 0 for one of them
        for axis in range(array.ndim):
            first, beyond = ((slice(None),) * axis + (part,) for part in (slice(1), slice(1, None)))
            if np.shares_memory(array[first], array[beyond], max_work=CANDIDATES):  # type: ignore[arg-type]
                raise BufferError(f"the elements of out overlap: {about}")
            array = array[first]
    except np.exceptions.TooHardError:
        raise BufferError(f"cannot tell whether the elements of out overlap: {about}") from None


def _is_nested(buffer: Buffer) -> bool:
    """Whether every stride exceeds the extent of all smaller strides, as in all usual layouts."""
    reach = buffer.dtype.itemsize
    for stride, extent in sorted(
        (abs(stride), extent) for extent, stride in zip(buffer.shape, buffer.byte_strides, strict=True) if extent > 1
    ):
        if stride < reach:
            return False
        reach = stride * (extent - 1) + reach
    return True
