"""fill(): checks what it is given, finds the elements that a buffer holds, and spreads them over threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, SupportsIndex, TypeVar

import numpy as np

from fastinit import _core, shards, targets
from fastinit.dtypes import DTYPES, DType, dtype_named
from fastinit.fans import integer, integers
from fastinit.initializers import Initializer, StructuredInitializer
from fastinit.keys import Key
from fastinit.sampling import compiled
from fastinit.threads import default_num_threads, for_each

__all__ = ["fill", "sample", "words"]

LARGEST_INDEX = 2**63
# A thread is worth starting for this many elements: about 0.1 ms of work.
ELEMENTS_PER_THREAD = 2**18
# Each thread gets so many pieces of the work, to even out the threads' speed, each of which takes from a tenth of a
# millisecond to a few: short enough to answer Ctrl-C at once. Multiples of 64.
PIECES_PER_THREAD = 16
LEAST_PIECE, LARGEST_PIECE = 2**16, 2**20
# A region of so many bytes is not found in a cache later, so its stores go past them.
STREAMED = 2**25
# From this many bytes on, fresh memory is worth huge pages.
HUGE = 2**22

_NATIVE = {np.dtype(name): DTYPES[name] for name in ("float32", "float64", "float16")}


def checked_shape(value: Any, what: str = "shape") -> tuple[int, ...]:
    """A shape, or one number for a shape of one axis, as a tuple of integers >= 0."""
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{what} must be a sequence of integers, got {value!r}")
    shape = integers(what, value)
    if any(size < 0 for size in shape):
        raise ValueError(f"{what} must not be negative, got {shape}")
    return shape


def _num_threads(num_threads: SupportsIndex | None) -> int:
    if num_threads is None:
        return default_num_threads()
    number = integer("num_threads", num_threads)
    if number < 1:
        raise ValueError(f"num_threads must be at least 1, got {number}")
    return number


def _memory(out: Any, dtype: Any) -> tuple[np.ndarray, DType]:
    """The buffer as an array that shares its memory, and the format to write."""
    if isinstance(out, np.ndarray):
        array = out
    else:
        try:
            array = np.asarray(memoryview(out))
        except TypeError:
            raise TypeError(f"out must be a NumPy array or a writable buffer, not {type(out).__name__}") from None
    found = _NATIVE.get(array.dtype) if dtype is None else dtype_named(dtype)
    if found is None:
        found = DTYPES.get(array.dtype.name)
        if found is None:
            raise TypeError(
                f"out must have one of the dtypes {', '.join(DTYPES)}, or dtype= must say which of them its raw memory "
                f"holds; got an out of dtype {array.dtype}"
            )
    elif dtype is not None and array.dtype.name != found.name:
        array = _reinterpreted(array, found)
    if not array.dtype.isnative:
        raise TypeError(f"out must be in native byte order, got dtype {array.dtype.str!r}")
    if not array.flags.writeable:
        raise BufferError("out is read-only")
    return array, found


def _reinterpreted(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Raw memory as elements of a format: unsigned integers or void of its size, or consecutive bytes."""
    # ml_dtypes are of kind V too, and records may hold pointers to objects: neither is raw memory
    raw = array.dtype.kind == "u" or (array.dtype.type is np.void and array.dtype.fields is None)
    if raw and array.dtype.itemsize == dtype.itemsize:
        return array
    if raw and array.dtype.itemsize == 1 and array.ndim == 1 and array.flags.c_contiguous:
        if array.size % dtype.itemsize:
            raise ValueError(f"{array.size} bytes are no whole number of {dtype.name} values of {dtype.itemsize} bytes")
        return array.view(f"V{dtype.itemsize}")
    raise TypeError(
        f"dtype={dtype.name} needs an out of that dtype, or raw memory of {dtype.itemsize}-byte unsigned integers; "
        f"got dtype {array.dtype}"
    )


def _run(
    sampling: _core.Sampling,
    key: Key,
    address: int,
    lattice: shards.Lattice,
    itemsize: int,
    num_threads: int,
    target: int,
) -> None:
    """Fills a lattice of memory that stays alive and has been checked."""
    for offset, (start, extents, index_strides, byte_strides) in shards.tiled(lattice, itemsize):
        size = math.prod(extents)
        region = _core.Region(
            address + offset, start, extents, index_strides, byte_strides, size * itemsize >= STREAMED
        )
        if size <= ELEMENTS_PER_THREAD:
            _core.fill(target, sampling, key.words, region, 0, size)
            continue
        threads = min(num_threads, -(-size // ELEMENTS_PER_THREAD))
        step = -(-size // (PIECES_PER_THREAD * threads) // 64) * 64
        step = min(max(step, LEAST_PIECE), LARGEST_PIECE)

        def piece(number: int, region: _core.Region = region, size: int = size, step: int = step) -> None:
            position = number * step
            _core.fill(target, sampling, key.words, region, position, min(step, size - position))

        for_each(-(-size // step), piece, threads)


Buffer = TypeVar("Buffer")


def fill(
    out: Buffer,
    initializer: Initializer | StructuredInitializer,
    key: Key,
    *,
    global_shape: Sequence[SupportsIndex] | None = None,
    offsets: Sequence[SupportsIndex] | None = None,
    start: SupportsIndex | None = None,
    dtype: Any = None,
    num_threads: int | None = None,
    target: str | None = None,
) -> Buffer:
    """Fills `out` with an initializer's values: element i of the global tensor gets ``sample(key, i)``, whoever asks.

    Parameters
    ----------
    out : numpy.ndarray or writable buffer
        Memory that the caller owns, of any layout whose elements do not overlap: transposed, strided, memory-mapped,
        unaligned. Its logical (row-major) elements get the values.
    initializer : Initializer or StructuredInitializer
        What to draw; see :mod:`fastinit.initializers` and :mod:`fastinit.structured`.
    key : Key
        The stream.
    global_shape, offsets : sequence of int, optional
        `out` is the slice of a tensor of `global_shape` that begins at `offsets`, [0, ...] by default. Fans come from
        the global shape.
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
    if not isinstance(key, Key):
        raise TypeError(f"key must be a fastinit.Key, not {type(key).__name__}; Key(seed) makes one")
    array, found = _memory(out, dtype)
    itemsize = found.itemsize
    shape, strides = array.shape, array.strides
    threads = _num_threads(num_threads)
    target_index = targets.current_index() if target is None else targets.index_of(target)

    if start is None and global_shape is None and offsets is None:
        tensor_shape: tuple[int, ...] | None = shape
        if array.flags.c_contiguous:
            size = array.size
            lattice = shards.Lattice(0, (size,), (1,), (itemsize,))
        else:
            lattice = shards.slice_lattice(shape, (0,) * len(shape), shape, strides, itemsize)
            size = array.size
    else:
        tensor_shape = None if global_shape is None else checked_shape(global_shape, "global_shape")
        lattice = _shard_lattice(array, itemsize, tensor_shape, offsets, start)
        size = array.size
    if not array.flags.c_contiguous and shards.overlaps_itself(shape, strides, itemsize):
        raise BufferError(f"the elements of out overlap: shape {shape}, strides {strides} bytes")

    if isinstance(initializer, Initializer):
        plan = _plan(initializer, tensor_shape, found.name)
        if size:
            address = _core.address(array)
            if size * itemsize >= HUGE and array.flags.forc:
                _core.advise_huge_pages(address, size * itemsize)
            _run(plan, key, address, lattice, itemsize, threads, target_index)
    elif isinstance(initializer, StructuredInitializer):
        if tensor_shape is None:
            raise ValueError(f"{initializer!r} depends on the shape of the whole tensor: pass global_shape with start")
        initializer.check(tensor_shape)
        if size:
            _fill_structured(array, found, initializer, key, tensor_shape, lattice, threads, target)
    else:
        raise TypeError(f"initializer must be an Initializer such as fastinit.he_normal(), not {initializer!r}")
    return out


@lru_cache(maxsize=4096)
def _plan(initializer: Initializer, shape: tuple[int, ...] | None, dtype_name: str) -> _core.Sampling:
    # parameters must not depend on the caller's rounding mode either
    environment = _core.enter_environment()
    try:
        return compiled(initializer.sampling(shape), dtype_name)
    finally:
        _core.leave_environment(environment)


def _shard_lattice(
    array: np.ndarray,
    itemsize: int,
    global_shape: tuple[int, ...] | None,
    offsets: Sequence[SupportsIndex] | None,
    start: SupportsIndex | None,
) -> shards.Lattice:
    """The lattice of a slice (global_shape, offsets) or of a flat range (start)."""
    if start is None:
        if global_shape is None:
            raise ValueError("offsets need the global_shape that they lie in")
        begin = (0,) * len(global_shape) if offsets is None else checked_shape(offsets, "offsets")
        lattice = shards.slice_lattice(global_shape, begin, array.shape, array.strides, itemsize)
    else:
        if offsets is not None:
            raise ValueError("a shard is given by offsets or by start, not by both")
        first = integer("start", start)
        whole = LARGEST_INDEX if global_shape is None else math.prod(global_shape)
        if not 0 <= first <= first + array.size <= whole:
            raise ValueError(
                f"elements [{first}, {first + array.size}) are not within [0, {whole}) of the flattened tensor"
            )
        lattice = shards.flat_lattice(first, array.shape, array.strides, itemsize)
    if global_shape is not None and math.prod(global_shape) > LARGEST_INDEX:
        raise ValueError(f"a tensor of shape {global_shape} has more than 2**63 elements")
    return lattice


def _fill_structured(
    array: np.ndarray,
    dtype: DType,
    initializer: StructuredInitializer,
    key: Key,
    shape: tuple[int, ...],
    lattice: shards.Lattice,
    num_threads: int,
    target: str | None,
) -> None:
    """A structured tensor is computed whole, in float32 or float64, and its local part copied out."""
    work = np.dtype("float64" if dtype.name == "float64" else "float32")
    gain, largest = getattr(initializer, "gain", 0.0), DTYPES[work.name].max
    if abs(gain) > largest:
        raise ValueError(f"the gain of {initializer!r} is beyond the largest finite {work.name} {largest:.6g}")
    if array.shape == shape and array.dtype == work and array.flags.c_contiguous and array.flags.aligned:
        initializer.write(array, key, num_threads, target)
        return
    whole = np.empty(shape, work)
    initializer.write(whole, key, num_threads, target)
    index_strides = tuple(stride * work.itemsize for stride in lattice.index_strides)
    local = np.lib.stride_tricks.as_strided(whole.reshape(-1)[lattice.start :], lattice.extents, index_strides)
    local = np.ascontiguousarray(local).reshape(-1)
    if dtype.name not in ("float32", "float64"):
        largest = float(np.abs(local).max())
        if largest > dtype.max:
            raise ValueError(
                f"{initializer!r} has the value {largest:.6g}, beyond the largest finite {dtype.name} {dtype.max:.6g}"
            )
        narrow = np.empty(local.size, f"u{dtype.itemsize}")
        _core.narrow(_core.address(local), local.size, dtype.tag, _core.address(narrow))
        local = narrow
    np.copyto(array, local.view(array.dtype).reshape(array.shape))


def words(key: Key, start: SupportsIndex, count: SupportsIndex, *, num_threads: int | None = None) -> np.ndarray:
    """Raw words [start, start + count) of a key's stream: Philox4x32-10, four words to a block, in natural order.

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
    """
    if not isinstance(key, Key):
        raise TypeError(f"key must be a fastinit.Key, not {type(key).__name__}; Key(seed) makes one")
    first, size = integer("start", start), integer("count", count)
    threads = _num_threads(num_threads)
    if first < 0 or size < 0 or first + size > LARGEST_INDEX:
        raise ValueError(f"words [{first}, {first + size}) are not within [0, 2**63)")
    out = np.empty(size, np.uint32)  # NumPy asks for huge pages itself
    if size:
        lattice = shards.Lattice(first, (size,), (1,), (4,))
        _run(_WORDS, key, _core.address(out), lattice, 4, threads, targets.current_index())
    return out


_WORDS = _core.Sampling(kind=_core.WORDS, dtype=_core.UINT32)


def sample(
    key: Key,
    index: SupportsIndex,
    initializer: Initializer,
    *,
    shape: Sequence[SupportsIndex] | None = None,
    dtype: Any = "float32",
) -> float:
    """Element `index` of the flattened tensor, in constant time: what :func:`fill` would write there.

    `shape` is the tensor's, where the initializer depends on it.

    Raises
    ------
    TypeError, ValueError
        As :func:`fill`; structured initializers have no elements of their own.
    """
    found = dtype_named(dtype)
    if not isinstance(initializer, Initializer):
        raise TypeError(f"sample needs an elementwise initializer, and {initializer!r} is none")
    whole = None if shape is None else checked_shape(shape)
    bits = np.empty(1, f"u{found.itemsize}")
    fill(bits, initializer, key, start=integer("index", index), global_shape=whole, dtype=found.name, num_threads=1)
    return found.value(int(bits[0]))
