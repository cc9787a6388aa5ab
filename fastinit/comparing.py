"""Comparison of memory with the values of a fill, at the speed of a fill.

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

# Elements generated and compared at a time; they fit a core's first-level cache.
BLOCK: Final = 2**10
# Elements per call of the core, and per slice of other memory.
PIECE: Final = 2**20
# Minimum of a nonzero distance, so that it does not vanish by scaling.
TINY: Final = 5e-324
# Scale of float64 values, so that their squares do not overflow. A power of two is exact.
SHRINK: Final = 2.0**-40


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences between a tensor, or its local part, and the values of a fill.

    Attributes
    ----------
    size : int, >= 0
        Number of compared elements.
    different : int, in [0, size]
        Number of elements with other bits.
    first, last : int or None
        Index of the first and the last of these, row-major in the local memory; None if all are equal.
    change : float, >= 0 or nan
        Root mean square of the differences of these elements, divided by that of their expected values: 0 if nothing
        differs, nan if a value is not finite, infinite if all expected values are 0.

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
        """Whether all bits are equal."""
        return not self.different


class _Found(NamedTuple):
    """Differences in a piece."""

    different: int
    first: int
    last: int
    distance: float
    """Root of the sum of squared differences."""
    expected: float
    """Root of the sum of squared expected values, in the same scale."""


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
    """Compares memory with the values of :func:`fastinit.fill`. Writes nothing.

    Parameters
    ----------
    values : numpy.ndarray or buffer
        Memory in any layout that :func:`fastinit.fill` accepts; it may be read-only.
    initializer, key, global_shape, offsets, ranges, start, dtype, num_threads
        As in :func:`fastinit.fill`.

    Returns
    -------
    Comparison

    Raises
    ------
    TypeError, ValueError, BufferError
        As in :func:`fastinit.fill`.

    Notes
    -----
    The expected values are generated piece by piece, so it takes about the time of a fill and a few megabytes.
    Structured initializers such as Orthogonal take the memory of the whole tensor.

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
    """:func:`compare` for adapters: compares memory given by its address, and returns a Comparison.

    Parameters
    ----------
    buffer : Buffer
        The memory.
    initializer, key
        The initializer of the expected values, and the stream.
    shard : Shard, optional
        The elements of the global tensor that the buffer holds; by default all.
    drawn_in : str, optional
        Dtype of the fill, if the values were converted to the buffer's dtype afterwards; by default the buffer's.
    num_threads : int, optional
        Maximum number of threads.

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
    """Compares contiguous memory that holds consecutive elements, in blocks that fit a core's first-level cache."""
    size, dtype, target = buffer.size, buffer.dtype, targets.current_index()
    blocks = np.zeros(-(-size // BLOCK), np.uint8)
    scratch: list[np.ndarray] = []  # memory of threads between two pieces

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
    """Compares any other memory, one slice at a time."""
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
    """Yields slices along the first axis: the memory, its shard, and the number of elements before it."""
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
    """Differences in a piece that begins after `before` elements; None if it is equal."""
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
    """Root of the sum of squares; nan if a value is not finite."""
    largest = float(np.abs(values).max())
    if not math.isfinite(largest) or not largest:
        return largest if largest == 0 else math.nan
    return largest * math.sqrt(float(np.square(values / largest).sum()))


def numbers(bits: np.ndarray, dtype: DType) -> np.ndarray:
    """Decodes bits to float64."""
    found: np.ndarray
    if dtype.itemsize == 1:
        found = _table(dtype)[bits]
    elif dtype.storage == dtype.name:
        found = bits.view(dtype.name).astype(np.float64)
    else:  # bfloat16
        found = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return found


def _converted(values: np.ndarray, made: DType, dtype: DType) -> np.ndarray:
    """Converts values between formats as frameworks do: to narrow formats through float32."""
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
    """Values of all 256 bit patterns of a format."""
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
