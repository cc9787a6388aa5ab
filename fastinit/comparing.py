"""Comparing: where memory holds what a fill would write, at the speed of a fill, and where it does not.

>>> import numpy as np, fastinit
>>> weight = fastinit.fill(np.empty((64, 32), np.float32), fastinit.Normal(), fastinit.Key(0))
>>> fastinit.compare(weight, fastinit.Normal(), fastinit.Key(0)).different
0
>>> weight[3, 7] += 1
>>> found = fastinit.compare(weight, fastinit.Normal(), fastinit.Key(0))
>>> found.different, found.first == found.last == 3 * 32 + 7
(1, True)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple, SupportsIndex

import numpy as np

from fastinit import _core, targets
from fastinit.buffers import Buffer, buffer_of, new_memory
from fastinit.checks import at_least
from fastinit.dtypes import DType, dtype_named
from fastinit.filling import check_fill, fill_buffer
from fastinit.initializers import ElementwiseInitializer, Initializer, StructuredInitializer, plan
from fastinit.keys import Key, checked_key
from fastinit.shards import Ranges, Shard
from fastinit.threads import default_num_threads, for_each

__all__ = ["Comparison", "compare", "compare_buffer"]

# Elements that are made and compared at a time: a core's first cache holds them, and what they are compared with passes
# through.
BLOCK: Final = 2**10
# Elements of one call of the core, and of one slice of other memory.
PIECE: Final = 2**20
# A distance that is 0 once it is scaled is a distance all the same.
TINY: Final = 5e-324
# What float64 values are scaled by, so that their squares stay within float64: a power of two, so that it is exact.
SHRINK: Final = 2.0**-40


@dataclass(frozen=True, slots=True)
class Comparison:
    """Where a tensor, or what this process holds of it, is other than a fill would write it.

    Attributes
    ----------
    size : int, >= 0
        How many elements were compared.
    different : int, in [0, size]
        How many have other bits.
    first, last : int or None
        The first and the last of those, counted row-major in the local memory; None where there are none.
    change : float, >= 0 or nan
        The root mean square of how far they are from what they would be, over that of what they would be: 0 where
        nothing differs; nan where something is not finite, infinite where something stands for zeros.

    Examples
    --------
    >>> Comparison(100, 0, None, None, 0.0).is_equal
    True
    """

    size: int
    different: int
    first: int | None
    last: int | None
    change: float

    @property
    def is_equal(self) -> bool:
        """Whether every bit is as a fill would write it."""
        return not self.different


class _Found(NamedTuple):
    """What differs in a piece."""

    different: int
    first: int
    last: int
    distance: float
    """Root of the sum of the squares of the distances."""
    expected: float
    """Root of the sum of the squares of what should be there, scaled by the same."""


def compare(
    values: Any,
    initializer: Initializer,
    key: Key,
    *,
    global_shape: Sequence[SupportsIndex] | None = None,
    offsets: Sequence[SupportsIndex] | None = None,
    ranges: Sequence[Sequence[range]] | None = None,
    start: SupportsIndex | None = None,
    dtype: Any = None,
    num_threads: int | None = None,
) -> Comparison:
    """Compares memory with what :func:`fastinit.fill` would write there, and writes nothing.

    Parameters
    ----------
    values : numpy.ndarray or buffer
        Memory of any layout that :func:`fastinit.fill` takes; it may be read-only.
    initializer, key, global_shape, offsets, ranges, start, dtype, num_threads
        As in :func:`fastinit.fill`.

    Returns
    -------
    Comparison

    Raises
    ------
    TypeError, ValueError, BufferError
        As :func:`fastinit.fill`.

    Notes
    -----
    The values are made anew, a piece at a time, so it takes about the time of a fill and a few megabytes; structured
    initializers (orthogonal) take the memory of the whole tensor.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> weight = fastinit.fill(np.empty((64, 32), np.float32), fastinit.Normal(), fastinit.Key(0))
    >>> lower = {"global_shape": (64, 32), "offsets": (16, 0)}
    >>> fastinit.compare(weight[16:], fastinit.Normal(), fastinit.Key(0), **lower).is_equal
    True
    """
    checked_key(key)
    buffer = buffer_of(values, dtype, read_only=True)
    shard = Shard.of(buffer.shape, global_shape, offsets, ranges, start)
    return compare_buffer(buffer, initializer, key, shard, num_threads=num_threads)


def compare_buffer(
    buffer: Buffer,
    initializer: Initializer,
    key: Key,
    shard: Shard | None = None,
    *,
    drawn_in: str | None = None,
    num_threads: int | None = None,
) -> Comparison:
    """:func:`compare` for adapters: memory given by its address, and the shard that it holds.

    Parameters
    ----------
    buffer : Buffer
        The memory.
    initializer, key
        What it would be filled with, and the stream.
    shard : Shard, optional
        The elements of the global tensor that it holds; by default the whole tensor.
    drawn_in : str, optional
        The dtype that the values were made in before they were converted to the buffer's; by default that.
    num_threads : int, optional
        At most so many threads.

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.extending import buffer_of
    >>> compare_buffer(buffer_of(np.zeros((2, 3), np.float32), None), fastinit.Zeros(), fastinit.Key(0)).is_equal
    True
    """
    whole = Shard.whole(buffer.shape)
    shard = whole if shard is None else shard
    made = buffer.dtype if drawn_in in (None, buffer.dtype.name) else dtype_named(drawn_in)
    check_fill(buffer, initializer, shard)
    if made is not buffer.dtype and shard.shape is not None:
        initializer.check(shard.shape, made.name)
    threads = default_num_threads() if num_threads is None else at_least(1, "num_threads", num_threads)
    is_run = buffer.is_contiguous and (shard.start is not None or shard == whole) and made is buffer.dtype
    if is_run and isinstance(initializer, ElementwiseInitializer):
        sampling = plan(initializer, shard.shape, buffer.dtype.name)
        found = _of_run(buffer, sampling, key, shard.start or 0, threads)
    else:
        found = _of_slices(buffer, initializer, key, shard, made, threads)
    return _joined(buffer.size, found)


def _of_run(buffer: Buffer, sampling: _core.Sampling, key: Key, start: int, num_threads: int) -> list[_Found]:
    """What differs of consecutive memory that holds consecutive elements: blocks that fit a core's first cache."""
    size, dtype, target = buffer.size, buffer.dtype, targets.current_index()
    blocks = np.zeros(-(-size // BLOCK), np.uint8)
    scratch: list[np.ndarray] = []  # of threads that are between two pieces

    def look(number: int) -> None:
        memory = scratch.pop() if scratch else new_memory((BLOCK,), dtype)
        begin = number * PIECE
        count, marks = min(PIECE, size - begin), _core.address(blocks) + begin // BLOCK
        address = buffer.address + begin * dtype.itemsize
        run = (address, start + begin, count, dtype.itemsize, BLOCK, _core.address(memory), marks)
        _core.compare_run(target, sampling, key.words, *run)
        scratch.append(memory)

    for_each(-(-size // PIECE), look, num_threads)
    found = []
    for number in np.flatnonzero(blocks).tolist():
        begin = number * BLOCK
        expected = new_memory((min(BLOCK, size - begin),), dtype)
        _core.fill_run(
            target, sampling, key.words, _core.address(expected), start + begin, expected.size, dtype.itemsize
        )
        here = Buffer(buffer.address + begin * dtype.itemsize, expected.shape, (dtype.itemsize,), dtype)
        found.append(_difference(here, expected, begin))
    return [one for one in found if one is not None]


def _of_slices(
    buffer: Buffer, initializer: Initializer, key: Key, shard: Shard, made: DType, num_threads: int
) -> list[_Found]:
    """What differs of any other memory, a slice of it at a time."""
    slices = list(_slices(buffer, initializer, shard))
    found: list[_Found | None] = [None] * len(slices)

    def look(number: int) -> None:
        piece, part, begin = slices[number]
        expected = new_memory(piece.shape, made)
        threads = num_threads if len(slices) == 1 else 1
        fill_buffer(buffer_of(expected, made), initializer, key, part, num_threads=threads)
        found[number] = _difference(piece, _converted(expected, made, buffer.dtype), begin)

    for_each(len(slices), look, num_threads)
    return [one for one in found if one is not None]


def _slices(buffer: Buffer, initializer: Initializer, shard: Shard) -> Iterator[tuple[Buffer, Shard, int]]:
    """Parts of the memory, what each holds, and how many elements come before it: slices along the first axis."""
    axis = next((axis for axis, extent in enumerate(buffer.shape) if extent > 1), None)
    whole_at_once = isinstance(initializer, StructuredInitializer) and (
        shard.shape is None or initializer.parts(shard.shape) is None
    )
    if not buffer.size:
        return
    if axis is None or whole_at_once:
        yield buffer, shard, 0
        return
    extent, row = buffer.shape[axis], buffer.size // buffer.shape[axis]
    step = max(1, PIECE // row)
    for begin in range(0, extent, step):
        end = min(begin + step, extent)
        shape = (*buffer.shape[:axis], end - begin, *buffer.shape[axis + 1 :])
        address = buffer.address + begin * buffer.byte_strides[axis]
        piece = Buffer(address, shape, buffer.byte_strides, buffer.dtype, buffer.owner)
        yield piece, _part(shard, axis, begin, end, row), begin * row


def _part(shard: Shard, axis: int, begin: int, end: int, row: int) -> Shard:
    """The slice [begin, end) of a shard along an axis."""
    if shard.ranges is None:
        assert shard.start is not None
        return shard._replace(start=shard.start + begin * row)
    found, place = [], 0
    for indices in shard.ranges[axis]:
        first, last = max(begin - place, 0), min(end - place, len(indices))
        if first < last:
            found.append(indices[first:last])
        place += len(indices)
    ranges: Ranges = (*shard.ranges[:axis], tuple(found), *shard.ranges[axis + 1 :])
    return shard._replace(ranges=ranges)


def _difference(piece: Buffer, expected: np.ndarray, before: int) -> _Found | None:
    """What differs of a piece that begins after `before` elements; None where nothing does."""
    raw = np.dtype(piece.dtype.raw)
    if piece.is_contiguous and _core.equal_memory(piece.address, _core.address(expected), expected.nbytes):
        return None
    here, there = piece.array(raw).reshape(-1), expected.view(raw).reshape(-1)
    places = np.flatnonzero(here != there)
    if not places.size:
        return None
    own, wanted = (numbers(bits[places], piece.dtype) for bits in (here, there))
    least = TINY * bool((own != wanted).any())
    if piece.dtype.name == "float64":
        own, wanted = own * SHRINK, wanted * SHRINK
    with np.errstate(invalid="ignore"):
        distance = _norm(own - wanted) or least
    first, last = int(places[0]) + before, int(places[-1]) + before
    return _Found(len(places), first, last, distance, _norm(wanted))


def _norm(values: np.ndarray) -> float:
    """The root of the sum of the squares; nan where something is not finite."""
    largest = float(np.abs(values).max())
    if not math.isfinite(largest) or not largest:
        return largest if largest == 0 else math.nan
    return largest * math.sqrt(float(np.square(values / largest).sum()))


def numbers(bits: np.ndarray, dtype: DType) -> np.ndarray:
    """The numbers in float64 that bits stand for."""
    found: np.ndarray
    if dtype.itemsize == 1:
        found = _table(dtype)[bits]
    elif dtype.storage == dtype.name:
        found = bits.view(dtype.name).astype(np.float64)
    else:  # bfloat16
        found = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return found


def _converted(values: np.ndarray, made: DType, dtype: DType) -> np.ndarray:
    """Values of one format in another, as frameworks convert them: narrow ones by way of float32."""
    if made is dtype:
        return values
    exact = numbers(values.reshape(-1).view(made.raw), made)
    if dtype.name == dtype.working:
        return exact.astype(dtype.name).reshape(values.shape)
    between, found = exact.astype(np.float32), new_memory(values.shape, dtype)
    _core.narrow(_core.address(between), between.size, dtype.tag, _core.address(found))
    return found


@cache
def _table(dtype: DType) -> np.ndarray:
    """The numbers of all 256 bit patterns of a format."""
    return np.array([dtype.value(bits) for bits in range(256)])


def together(pieces: Sequence[tuple[int, Comparison]]) -> Comparison:
    """The comparison of a tensor from those of its pieces.

    Parameters
    ----------
    pieces : sequence of (int, Comparison)
        Each with the number of elements before it, in ascending order.

    Examples
    --------
    >>> together([(0, Comparison(8, 0, None, None, 0.0)), (8, Comparison(8, 2, 1, 5, 0.5))])
    Comparison(size=16, different=2, first=9, last=13, change=0.5)
    """
    size = sum(one.size for _, one in pieces)
    different = [(before, one) for before, one in pieces if one.different]
    if not different:
        return Comparison(size, 0, None, None, 0.0)
    count = sum(one.different for _, one in different)
    change = math.hypot(*(one.change * math.sqrt(one.different / count) for _, one in different))
    (before, first), (after, last) = different[0], different[-1]
    assert first.first is not None and last.last is not None
    return Comparison(size, count, before + first.first, after + last.last, change)


def compare_made(
    buffer: Buffer, make: Callable[[np.ndarray, int], None], made: DType, granule: int, num_threads: int
) -> Comparison:
    """Compares consecutive memory with what a function makes, a piece at a time.

    Parameters
    ----------
    buffer : Buffer
        The memory, of one axis.
    make : callable
        Called with memory, bytes as uint8, and the number of its first element.
    made : DType
        The format that it makes; the memory may hold the same values converted.
    granule : int
        A piece begins at a multiple of this number of elements.
    num_threads : int
        At most this many threads.

    Examples
    --------
    >>> from fastinit.extending import buffer_of, dtype_named
    >>> def make(out, begin):
    ...     out.view(np.float32)[:] = np.arange(begin, begin + out.size // 4)
    >>> memory = np.arange(10, dtype=np.float32)
    >>> compare_made(buffer_of(memory, None), make, dtype_named("float32"), 2, num_threads=1).is_equal
    True
    """
    size, itemsize = buffer.size, buffer.dtype.itemsize
    step = max(1, PIECE // granule) * granule
    found: list[_Found | None] = [None] * -(-size // step)

    def look(number: int) -> None:
        begin = number * step
        count = min(step, size - begin)
        expected = new_memory((count,), made)
        make(expected.view(np.uint8), begin)
        piece = Buffer(buffer.address + begin * itemsize, (count,), (itemsize,), buffer.dtype, buffer.owner)
        found[number] = _difference(piece, _converted(expected, made, buffer.dtype), begin)

    for_each(len(found), look, num_threads)
    return _joined(size, [one for one in found if one is not None])


def _joined(size: int, found: Sequence[_Found]) -> Comparison:
    if not found:
        return Comparison(size, 0, None, None, 0.0)
    distance, expected = (math.hypot(*(getattr(one, what) for one in found)) for what in ("distance", "expected"))
    change = distance / expected if expected else math.inf if distance else 0.0
    if math.isnan(distance):
        change = math.nan
    different = sum(one.different for one in found)
    return Comparison(size, different, min(one.first for one in found), max(one.last for one in found), change)
