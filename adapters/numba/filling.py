"""fill(): a compiled loop for NumPy arrays, a kernel for device arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, SupportsIndex, TypeVar

import numpy as np
from numba import njit

from fastinit import ElementwiseInitializer, Initializer, Key, default_num_threads
from fastinit.adapters.numba.internals import is_simulated_array
from fastinit.adapters.numba.quads import parameters, quad
from fastinit.adapters.numba.regions import pieces
from fastinit.extending import (
    DTYPES,
    Shard,
    at_least,
    buffer_of,
    check_fill,
    checked_initializer,
    checked_key,
    fill_buffer,
    for_each,
    in_stream_environment,
    plan,
    shown,
)

__all__ = ["fill"]

u64 = np.uint64

# Elements drawn into a buffer before they are copied: whole quads that stay in the first-level cache.
TILE = 2048
# Tiles per task: a few tenths of a millisecond of work. Fewer tiles do not justify a second thread.
TILES_AT_A_TIME = 64

Out = TypeVar("Out")


@in_stream_environment
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
    num_threads: SupportsIndex | None = None,
    stream: Any = None,
) -> Out:
    """:func:`fastinit.fill` with code that Numba compiles, for host arrays and CUDA device arrays.

    The values are the same.

    Parameters
    ----------
    out : numpy.ndarray, writable buffer or device array
        A device array has ``__cuda_array_interface__``, such as Numba's, CuPy's and CUDA tensors of torch. Its memory
        must be on Numba's current device (``with numba.cuda.gpus[1]:``) and its elements aligned. Every layout without
        overlapping elements works.
    initializer : Initializer
        The distribution. The core computes structured initializers on the host and copies them to a device.
    key : Key
        The stream.
    global_shape, offsets, ranges, start : optional
        Position of `out` in a larger tensor, see :func:`fastinit.fill`.
    dtype : str, optional
        Format of the values in raw memory of unsigned integers. The interface cannot express the dtypes of bfloat16 and
        float8 tensors of torch, so pass a view: ``fill(tensor.view(torch.uint16), ..., dtype="bfloat16")``.
    num_threads : int, optional
        Maximum number of threads for host memory, by default :func:`fastinit.default_num_threads`.
    stream : optional
        Numba's CUDA stream for the kernel, by default the default stream. Device memory only. The call returns before
        the kernel has run.

    Returns
    -------
    out
        The same object.

    Raises
    ------
    TypeError, ValueError, BufferError
        As in :func:`fastinit.fill`, before anything is written.

    Notes
    -----
    The first fill with a sampler and dtype compiles a loop for them, which takes about a second.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> from fastinit.adapters import numba as adapter
    >>> ours = adapter.fill(np.empty((6, 8), np.float32), fastinit.he_normal(), fastinit.Key(0))
    >>> core = fastinit.fill(np.empty((6, 8), np.float32), fastinit.he_normal(), fastinit.Key(0))
    >>> bool((ours == core).all())
    True
    """
    checked_key(key)
    checked_initializer(initializer)
    if hasattr(out, "__cuda_array_interface__") or is_simulated_array(out):
        from fastinit.adapters.numba import devices

        if num_threads is not None:
            raise ValueError(f"num_threads applies to host memory, not to a device array; got {shown(num_threads)}")
        buffer = devices.buffer_of(out, dtype)
        shard = Shard.of(buffer.shape, global_shape, offsets, ranges, start)
        check_fill(buffer, initializer, shard)
        devices.fill(buffer, initializer, key, shard, stream)
        return out
    if stream is not None:
        raise ValueError(f"stream applies to device arrays, not to host memory; got {shown(stream)}")
    buffer = buffer_of(out, dtype)
    shard = Shard.of(buffer.shape, global_shape, offsets, ranges, start)
    if not isinstance(initializer, ElementwiseInitializer):
        fill_buffer(buffer, initializer, key, shard, num_threads=num_threads)
        return out
    check_fill(buffer, initializer, shard)
    threads = default_num_threads() if num_threads is None else at_least(1, "num_threads", num_threads)
    kind, given = parameters(plan(initializer, shard.shape, buffer.dtype.name).parameters)
    loop = _loop(kind, buffer.dtype.name)
    for part, first, strides in pieces(buffer, shard, in_tiles=True):
        array = part.array(buffer.dtype.raw)
        count = math.prod(array.shape[:2]) * -(-array.shape[2] // TILE)

        @in_stream_environment  # also on each helper thread
        def work(
            number: int, array: np.ndarray = array, count: int = count, first: Any = first, strides: Any = strides
        ) -> None:
            begin = number * TILES_AT_A_TIME
            loop(array, first, *strides, begin, min(begin + TILES_AT_A_TIME, count), key.words, tuple(given))

        for_each(-(-count // TILES_AT_A_TIME), work, threads)
    return out


@cache
def _loop(kind: str, dtype: str) -> Any:
    """The compiled loop over the tiles of an array of three axes."""
    four, bits = quad(kind, dtype), np.dtype(DTYPES[dtype].raw).type

    # The GIL is released, and Python threads share the tiles. Numba's own threads do not survive a fork, and several
    # threads cannot call them at once.
    @njit(nogil=True, fastmath=False, error_model="numpy")
    def loop(
        out: Any, start: Any, outer_step: Any, inner_step: Any, first_tile: int, last_tile: int, key: Any, p: Any
    ) -> None:
        drawn = np.empty(TILE + 4, bits)
        _, inner, run = out.shape
        per_run = (run + TILE - 1) // TILE
        for tile in range(first_tile, last_tile):
            row, column = tile // per_run, tile % per_run * TILE
            count = min(run - column, TILE)
            i, j = row // inner, row % inner
            index = start + u64(i) * outer_step + u64(j) * inner_step + u64(column)
            number, skipped = index >> u64(2), np.intp(index & u64(3))
            for n in range((skipped + count + 3) // 4):
                b0, b1, b2, b3 = four(number + u64(n), key, p)
                drawn[4 * n] = b0
                drawn[4 * n + 1] = b1
                drawn[4 * n + 2] = b2
                drawn[4 * n + 3] = b3
            for n in range(count):
                out[i, j, column + n] = drawn[skipped + n]

    return loop
