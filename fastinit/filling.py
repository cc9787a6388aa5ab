"""fill(): checks what it is given, finds the elements that a buffer holds, and spreads them over threads."""

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

# Of each format, NumPy's dtypes of its working format and of its bits: it reads no names while the interpreter ends.
_NUMPYS = {dtype.name: (np.dtype(dtype.working), np.dtype(dtype.raw)) for dtype in DTYPES.values()}
# A thread is worth starting for this many elements: about 0.1 ms of work.
ELEMENTS_PER_THREAD = 2**18
# Bytes of the largest pieces: a huge page, which two threads would else touch first at the same time; short enough to
# answer Ctrl-C at once.
LARGEST_PIECE = 2**21
# A region of so many bytes is not found in a cache later, so its stores go past them.
STREAMED = 2**25
# From this many bytes on, fresh memory is worth huge pages.
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
    """Fills a lattice of memory that stays alive and has been checked."""
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
    """The fast path of :func:`fill` for adapters: consecutive memory gets a whole tensor. Nothing is checked.

    `sampling` is a :func:`plan`, and `words` are those of the key.

    Parameters
    ----------
    address : int
        Where the memory begins.
    size, itemsize : int
        Number of elements, and bytes of one.
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
    """One call for what an adapter does for small tensors, which are many: checks, bits from a generator, the fill.

    It fills tensors of up to 2**18 elements in consecutive memory of the host about which nothing is odd, and only
    those whose numbers it was taught. Of all others it says that it did not.

    Parameters
    ----------
    **how
        kinds : the two classes of tensors that it fills, exactly;
        exchange : the capsule of DLPack's table for them, None if there is none;
        watching : functions of nothing, odd : functions of a tensor, odd_kind : the same for the first class alone,
        each of them false where the tensor may be filled;
        draw, draw_arguments : what is called to draw 64 bits, and drawn : their address;
        written : called with a tuple of the tensor before it is filled; RuntimeError if it may not be.

    Examples
    --------
    >>> nothing, bits = (), np.zeros(1, np.int64)
    >>> kinds, tests = (np.ndarray, np.matrix), {"watching": nothing, "odd": nothing, "odd_kind": nothing}
    >>> draws = {"draw": id, "draw_arguments": (0,), "drawn": bits.ctypes.data, "written": len}
    >>> shortcut(kinds=kinds, exchange=None, **tests, **draws).fill(np.zeros(3), "what NumPy has no table for")
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
    """Fills `out` with an initializer's values: element i of the global tensor gets ``sample(key, i)``.

    Parameters
    ----------
    out : numpy.ndarray or writable buffer
        Memory that the caller owns, of any layout whose elements do not overlap: transposed, strided, memory-mapped,
        unaligned. Its logical (row-major) elements get the values.
    initializer : Initializer
        What to draw; see :mod:`fastinit.initializers` and :mod:`fastinit.structured`.
    key : Key
        The stream.
    global_shape, offsets : sequence of int, optional
        `out` is the slice of a tensor of `global_shape` that begins at `offsets`, [0, ...] by default. Fans come from
        the global shape.
    ranges : sequence of sequences of range, optional
        For each axis of `global_shape`, the global indices that the axis of `out` holds, in their order: for shards
        dealt out in several pieces along an axis.
    start : int, optional
        `out` holds elements start, start + 1, ... of the flattened tensor. `global_shape` is then only needed by
        initializers that depend on the shape.
    dtype : str, optional
        What raw memory holds: ``"bfloat16"`` for an array of uint16, for example. By default the dtype of `out`.
    num_threads : int, optional
        At most so many threads, by default :func:`fastinit.default_num_threads`. The values do not depend on it.
    target : str, optional
        The compiled instruction set to use, by default the best one. The values do not depend on it.

    Returns
    -------
    out
        The same object.

    Raises
    ------
    TypeError, ValueError, BufferError
        Before anything is written, saying what was expected and what came. A buffer of zero elements is checked and
        left alone.

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
    """What the values do not depend on."""

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
    """:func:`fill` for adapters: memory given by its address, and the shard that it holds, by default the whole tensor.

    The key has been checked. Raises what :func:`fill` raises of everything else, before anything is written.

    Parameters
    ----------
    buffer : Buffer
        The memory.
    initializer, key
        What to draw, and the stream.
    shard : Shard, optional
        The elements of the global tensor that it holds; by default all.
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
            # nothing is left to check, and small tensors are many
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
        What it is to be filled with.
    shard : Shard
        The elements of the global tensor that it holds.

    Raises
    ------
    TypeError, ValueError
        As :func:`fastinit.fill`; TypeError also for an initializer that reads the tensor, such as
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
        raise TypeError(f"{shown(initializer)} depends on what a tensor holds: fill_rows() fills it")
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
    else:  # a flat range has boxes only in consecutive memory
        memory = new_memory(buffer.shape, buffer.dtype)
        _fill(buffer_of(memory, buffer.dtype), initializer, key, shard, how)
        np.copyto(buffer.array(memory.dtype), memory)


def _fill_part(buffer: Buffer, part: Part, key: Key, shard: Shard, how: _How) -> None:
    """The elements of a part that the buffer holds."""
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
    """A structured tensor is computed whole, in float32 or float64, and its local part copied out."""
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
        If key is no Key, or start and count are no integers >= 0 with start + count <= 2**63.

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
        raise ValueError(f"words [{first}, {first + size}) are not within [0, 2**63)")
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
    """Element `index` of the flattened tensor, in constant time: what :func:`fill` would write there.

    `shape` is the tensor's, where the initializer depends on it.

    Parameters
    ----------
    key : Key
        The stream.
    index : int
        In [0, the tensor's size), row-major.
    initializer : ElementwiseInitializer
        What each element is drawn from.
    shape : sequence of int, optional
        Shape of the whole tensor, for initializers that scale by the fans.
    dtype : str or dtype
        The tensor's dtype, to which the value is rounded.

    Raises
    ------
    TypeError, ValueError
        As :func:`fill`; structured initializers have no elements of their own.

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
        raise TypeError(f"sample needs an elementwise initializer, and {shown(initializer)} is none")
    whole = None if shape is None else checked_shape(shape)
    bits = np.empty(1, found.raw)
    fill(bits, initializer, key, start=integer("index", index), global_shape=whole, dtype=found.name, num_threads=1)
    return found.value(int(bits[0]))
