"""fill(): checks the arguments, finds the elements that a buffer holds, and distributes them over threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsIndex, TypeVar

import numpy as np
from numpy.lib.stride_tricks import as_strided

from fastinit import _core, targets
from fastinit.buffers import Buffer, buffer_of, new_memory, row_major_strides
from fastinit.checks import at_least, checked_shape, integer, shown
from fastinit.dtypes import DTYPES, dtype_named
from fastinit.exact import in_stream_environment
from fastinit.initializers import (
    ElementwiseInitializer,
    Initializer,
    Part,
    StructuredInitializer,
    checked_initializer,
    plan,
)
from fastinit.keys import Key, checked_key
from fastinit.shards import LARGEST_INDEX, Lattice, Shard, check_distinct, clipped, lattices, tiles
from fastinit.threads import default_num_threads, together

__all__ = ["fill", "fill_buffer", "fill_memory", "sample", "shortcut", "words"]

# NumPy dtypes of each format's working format and raw bits. Made in advance: at interpreter shutdown NumPy cannot parse
# dtype names.
_NUMPYS = {dtype.name: (np.dtype(dtype.working), np.dtype(dtype.raw)) for dtype in DTYPES.values()}
# Minimum elements per thread: about 0.1 ms of work.
ELEMENTS_PER_THREAD = 2**18
# Maximum piece size in bytes: one huge page, so that two threads never fault the same page; small enough to stay
# interruptible.
LARGEST_PIECE = 2**21
# From this many bytes on, use streaming stores: the region is larger than any cache.
STREAMED = 2**25
# From this many bytes on, ask for huge pages.
HUGE = 2**22


def _threads(num_threads: SupportsIndex | None) -> int:
    return default_num_threads() if num_threads is None else at_least(1, "num_threads", num_threads)


def _fill_lattice(
    sampling: _core.Sampling,
    key_words: tuple[int, int, int, int],
    address: int,
    lattice: Lattice,
    itemsize: int,
    num_threads: int,
    target: int,
) -> None:
    """Fills a lattice. The caller has checked the memory and keeps it alive."""
    size = lattice.size
    region = _core.Region(address, *lattice, size * itemsize >= STREAMED)
    work = _core.Fill(target, sampling, key_words, region)
    if size <= ELEMENTS_PER_THREAD:
        work.run(0, size)
    else:
        threads = min(num_threads, -(-size // ELEMENTS_PER_THREAD))
        work.share(size, threads, LARGEST_PIECE // itemsize)
        together(work, threads)


def fill_memory(
    address: int,
    size: int,
    itemsize: int,
    sampling: _core.Sampling,
    words: tuple[int, int, int, int],
    num_threads: int | None = None,
) -> None:
    """Unchecked fast path of :func:`fill` for adapters: fills contiguous memory with a whole tensor.

    Parameters
    ----------
    address : int
        Address of the first element.
    size, itemsize : int
        Number of elements, and bytes per element.
    sampling : compiled sampling
        From :func:`fastinit.extending.plan`.
    words : tuple of four int
        ``key.words``.
    num_threads : int or None
        At most this many threads.

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.extending import plan
    >>> out = np.empty(9, np.float32)
    >>> fill_memory(out.ctypes.data, 9, 4, plan(fastinit.Normal(), (9,), "float32"), fastinit.Key(0).words, None)
    >>> bool((out == fastinit.fill(np.empty(9, np.float32), fastinit.Normal(), fastinit.Key(0))).all())
    True
    """
    target = targets.current_index()
    if size <= ELEMENTS_PER_THREAD:
        _core.fill_run(target, sampling, words, address, 0, size, itemsize)
        return
    if size * itemsize >= HUGE:
        _core.advise_huge_pages(address, size * itemsize)
    lattice = Lattice(0, (size,), (1,), (itemsize,))
    _fill_lattice(sampling, words, address, lattice, itemsize, num_threads or default_num_threads(), target)


def shortcut(**how: Any) -> _core.Shortcut:
    """Compiled fast path of an adapter for small tensors: checks, random bits from a generator, fill.

    It fills contiguous host tensors of up to 2**18 elements that pass all tests and whose parameters it has learned.
    For all others it returns False and does nothing.

    Parameters
    ----------
    **how
        kinds : the two exact classes of tensors to fill.
        exchange : capsule of the classes' DLPack table; None if they have none.
        watching, odd, odd_kind : tests that must all return False. Those in `watching` take no argument, those in `odd`
        a tensor; those in `odd_kind` take a tensor and apply to the first class only.
        draw, draw_arguments, drawn : the function that draws 64 bits, its arguments, and the address of the bits.
        written : called with a tuple of the tensor before the fill; raises RuntimeError to forbid it.

    Examples
    --------
    >>> nothing, bits = (), np.zeros(1, np.int64)
    >>> kinds, tests = (np.ndarray, np.matrix), {"watching": nothing, "odd": nothing, "odd_kind": nothing}
    >>> draws = {"draw": id, "draw_arguments": (0,), "drawn": bits.ctypes.data, "written": len}
    >>> shortcut(kinds=kinds, exchange=None, **tests, **draws).fill(np.zeros(3), "NumPy has no table")
    False
    """
    return _core.Shortcut(target=targets.current_index, most=ELEMENTS_PER_THREAD, **how)


Out = TypeVar("Out")


def fill(
    out: Out,
    initializer: Initializer,
    key: Key,
    *,
    global_shape: Sequence[SupportsIndex] | None = None,
    offsets: Sequence[SupportsIndex] | None = None,
    ranges: Sequence[Sequence[range]] | None = None,
    start: SupportsIndex | None = None,
    dtype: Any = None,
    num_threads: int | None = None,
    target: str | None = None,
) -> Out:
    """Fills `out` in place: element i of the global tensor becomes ``sample(key, i)``.

    Parameters
    ----------
    out : numpy.ndarray or writable buffer
        The caller's memory, in any layout whose elements do not overlap: transposed, strided, memory-mapped or
        unaligned. Elements are numbered in logical (row-major) order.
    initializer : Initializer
        The values to write; see :mod:`fastinit.initializers` and :mod:`fastinit.structured`.
    key : Key
        The stream.
    global_shape, offsets : sequence of int, optional
        `out` is the slice of a tensor of `global_shape` that begins at `offsets`, by default [0, ...]. Fans follow from
        the global shape.
    ranges : sequence of sequences of range, optional
        For each axis of `global_shape`, the global indices along that axis of `out`, in order. For shards that consist
        of several pieces along an axis.
    start : int, optional
        `out` holds elements start, start + 1, ... of the flattened tensor. Only initializers that depend on the shape
        then need `global_shape`.
    dtype : str, optional
        Format of raw memory, for example ``"bfloat16"`` for an array of uint16. By default the dtype of `out`.
    num_threads : int, optional
        Maximum number of threads, by default :func:`fastinit.default_num_threads`. The values do not depend on it.
    target : str, optional
        The compiled instruction set, by default the best one. The values do not depend on it.

    Returns
    -------
    out
        The same object.

    Raises
    ------
    TypeError, ValueError, BufferError
        If an argument is invalid; nothing has been written then. A buffer of zero elements is checked and left alone.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> whole = fastinit.fill(np.empty((6, 8), np.float32), fastinit.Normal(), fastinit.Key(0))
    >>> right = np.empty((6, 4), np.float32)
    >>> right = fastinit.fill(right, fastinit.Normal(), fastinit.Key(0), global_shape=(6, 8), offsets=(0, 4))
    >>> bool((right == whole[:, 4:]).all())
    True
    """
    checked_key(key)
    buffer = buffer_of(out, dtype)
    shard = None
    if not (global_shape is None and offsets is None and ranges is None and start is None):
        shard = Shard.of(buffer.shape, global_shape, offsets, ranges, start)
    fill_buffer(buffer, initializer, key, shard, num_threads=num_threads, target=target)
    return out


class _How(NamedTuple):
    """Execution options. The values do not depend on them."""

    num_threads: int
    target: str | None
    target_index: int


def fill_buffer(
    buffer: Buffer,
    initializer: Initializer,
    key: Key,
    shard: Shard | None = None,
    *,
    num_threads: SupportsIndex | None = None,
    target: str | None = None,
) -> None:
    """:func:`fill` for adapters: fills memory given by its address.

    The caller has checked the key. Everything else is checked as in :func:`fill`, before anything is written.

    Parameters
    ----------
    buffer : Buffer
        The memory.
    initializer, key
        The values to write, and the stream.
    shard : Shard, optional
        The elements of the global tensor that the buffer holds; by default all.
    num_threads, target
        As in :func:`fill`.

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.extending import buffer_of
    >>> out = np.zeros((2, 3), np.float32)
    >>> fill_buffer(buffer_of(out, None), fastinit.Ones(), fastinit.Key(0))
    >>> out
    array([[1., 1., 1.],
           [1., 1., 1.]], dtype=float32)
    """
    if shard is None:
        if target is None and buffer.is_contiguous and isinstance(initializer, ElementwiseInitializer):
            # fast path for small tensors: nothing is left to check
            sampling = plan(initializer, buffer.shape, buffer.dtype.name)
            fill_memory(buffer.address, buffer.size, buffer.dtype.itemsize, sampling, key.words, _threads(num_threads))
            return
        shard = Shard.whole(buffer.shape)
    check_fill(buffer, initializer, shard)
    threads = _threads(num_threads)
    index = targets.current_index() if target is None else targets.index_of(target)
    if buffer.size:
        _fill(buffer, initializer, key, shard, _How(threads, target, index))


def check_fill(buffer: Buffer, initializer: Initializer, shard: Shard) -> None:
    """Checks that filling a buffer will succeed, before a byte is written.

    Parameters
    ----------
    buffer : Buffer
        The memory.
    initializer : Initializer
        The values to write.
    shard : Shard
        The elements of the global tensor that the buffer holds.

    Raises
    ------
    TypeError, ValueError
        As in :func:`fastinit.fill`. TypeError also for an initializer that reads the tensor, such as
        :class:`fastinit.NewRows`.

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.extending import Shard, buffer_of
    >>> buffer = buffer_of(np.zeros((3, 4), np.float16), None)
    >>> check_fill(buffer, fastinit.Normal(), Shard.of((3, 4)))
    >>> check_fill(buffer, fastinit.Normal(std=1e5), Shard.of((3, 4)))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: ... float16 ...
    """
    check_distinct(buffer)
    checked_initializer(initializer)
    if not isinstance(initializer, (ElementwiseInitializer, StructuredInitializer)):
        raise TypeError(f"{shown(initializer)} reads the tensor's present values: use fill_rows()")
    if shard.shape is not None:
        initializer.check(shard.shape, buffer.dtype.name)
    elif isinstance(initializer, ElementwiseInitializer):
        initializer.check(None, buffer.dtype.name)
    else:
        raise ValueError(f"{shown(initializer)} depends on the shape of the whole tensor: pass global_shape with start")


def _fill(buffer: Buffer, initializer: Initializer, key: Key, shard: Shard, how: _How) -> None:
    """Fills a buffer that has passed the check."""
    if isinstance(initializer, ElementwiseInitializer):
        _fill_elements(buffer, plan(initializer, shard.shape, buffer.dtype.name), key, shard, how)
        return
    assert isinstance(initializer, StructuredInitializer) and shard.shape is not None
    parts = initializer.parts(shard.shape)
    if parts is None:
        _fill_structured(buffer, initializer, key, shard, how)
    elif shard.start is None or buffer.is_contiguous:
        for part in parts:
            _fill_part(buffer, part, key, shard, how)
    else:  # the boxes of a flat range need contiguous memory
        memory = new_memory(buffer.shape, buffer.dtype)
        _fill(buffer_of(memory, buffer.dtype), initializer, key, shard, how)
        np.copyto(buffer.array(memory.dtype), memory)


def _fill_part(buffer: Buffer, part: Part, key: Key, shard: Shard, how: _How) -> None:
    """Fills the elements of a part that the buffer holds."""
    own = key if part.key_data is None else part.key_data
    own = own if isinstance(own, Key) else key.fold_in(own)
    for piece, box in clipped(buffer, shard, part.offsets, part.shape):
        _fill(piece, part.initializer, own, Shard(part.shape, tuple((indices,) for indices in box)), how)


def _fill_elements(buffer: Buffer, sampling: _core.Sampling, key: Key, shard: Shard, how: _How) -> None:
    itemsize = buffer.dtype.itemsize
    if buffer.size * itemsize >= HUGE and buffer.is_dense:
        _core.advise_huge_pages(buffer.address, buffer.size * itemsize)
    for offset, lattice in tiles(buffer, shard):
        address = buffer.address + offset
        _fill_lattice(sampling, key.words, address, lattice, itemsize, how.num_threads, how.target_index)


@in_stream_environment
def _fill_structured(buffer: Buffer, initializer: StructuredInitializer, key: Key, shard: Shard, how: _How) -> None:
    """Computes the whole tensor in float32 or float64, then copies the local part out."""
    assert shard.shape is not None
    dtype = buffer.dtype
    work, raw = _NUMPYS[dtype.name]
    in_order = shard.ranges is None or shard.ranges == Shard.whole(shard.shape).ranges
    if buffer.shape == shard.shape and in_order and dtype.name == dtype.working and buffer.is_contiguous:
        out = buffer.array(work)
        if out.flags.aligned:
            initializer.write(out, key, how.num_threads, how.target)
            return
    whole = np.empty(shard.shape, work)
    initializer.write(whole, key, how.num_threads, how.target)
    local = np.empty(buffer.shape, work)
    strides = row_major_strides(buffer.shape, work.itemsize)
    source = Buffer(_core.address(local), buffer.shape, strides, DTYPES[dtype.working])
    for offset, lattice in lattices(source, shard):
        steps = tuple(stride * work.itemsize for stride in lattice.index_strides)
        values = as_strided(whole.reshape(-1)[lattice.start :], lattice.extents, steps)
        np.copyto(_core.array_at(source.address + offset, lattice.extents, lattice.byte_strides, work.num), values)
    if dtype.name != dtype.working:
        narrow = np.empty(local.shape, raw)
        _core.narrow(_core.address(local), local.size, dtype.tag, _core.address(narrow))
        local = narrow
    np.copyto(buffer.array(local.dtype), local)


def words(key: Key, start: SupportsIndex, count: SupportsIndex, *, num_threads: int | None = None) -> np.ndarray:
    """Raw words [start, start + count) of a key's stream: Philox4x32-10, four words to a block, in natural order.

    Parameters
    ----------
    key : Key
        The stream.
    start, count : int
        The range of words.
    num_threads : int, optional
        At most this many threads. The words do not depend on it.

    Returns
    -------
    numpy.ndarray of uint32, shape (count,)

    Raises
    ------
    TypeError, ValueError
        If `key` is not a Key, or `start` and `count` are not integers >= 0 with start + count <= 2**63.

    Notes
    -----
    J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11.

    Examples
    --------
    >>> import fastinit
    >>> key = fastinit.Key.from_words(0, 0)
    >>> [hex(word) for word in fastinit.words(key, 0, 4)]  # the first block of Philox4x32-10, key 0, counter 0
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    checked_key(key)
    first, size = integer("start", start), integer("count", count)
    threads = _threads(num_threads)
    if first < 0 or size < 0 or first + size > LARGEST_INDEX:
        raise ValueError(f"expected words within [0, 2**63), got [{first}, {first + size})")
    out = np.empty(size, np.uint32)  # NumPy asks for huge pages itself
    if size:
        lattice = Lattice(first, (size,), (1,), (4,))
        _fill_lattice(_WORDS, key.words, _core.address(out), lattice, 4, threads, targets.current_index())
    return out


_WORDS = _core.Sampling(kind=_core.WORDS, dtype=_core.UINT32)


@in_stream_environment
def sample(
    key: Key,
    index: SupportsIndex,
    initializer: ElementwiseInitializer,
    *,
    shape: Sequence[SupportsIndex] | None = None,
    dtype: Any = "float32",
) -> float:
    """Element `index` of the flattened tensor, as :func:`fill` would write it, in constant time.

    Parameters
    ----------
    key : Key
        The stream.
    index : int
        Row-major index, in [0, size of the tensor).
    initializer : ElementwiseInitializer
        Distribution of each element.
    shape : sequence of int, optional
        Shape of the whole tensor. Required by initializers that depend on the fans.
    dtype : str or dtype
        The tensor's dtype. The value is rounded to it.

    Raises
    ------
    TypeError, ValueError
        As in :func:`fill`. TypeError also for structured initializers, whose elements depend on each other.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> key, initializer = fastinit.Key(0), fastinit.Normal(std=0.02)
    >>> values = fastinit.fill(np.empty(1000, np.float32), initializer, key)
    >>> fastinit.sample(key, 999, initializer) == float(values[999])
    True
    """
    found = dtype_named(dtype)
    if not isinstance(initializer, ElementwiseInitializer):
        raise TypeError(f"sample() expects an elementwise initializer, got {shown(initializer)}")
    whole = None if shape is None else checked_shape(shape)
    bits = np.empty(1, found.raw)
    fill(bits, initializer, key, start=integer("index", index), global_shape=whole, dtype=found.name, num_threads=1)
    return found.value(int(bits[0]))
