"""Kernels that fill CUDA device memory."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numba import cuda

from fastinit import ElementwiseInitializer, Initializer, Key
from fastinit.adapters.numba.arithmetic import bfloat16_pair, exact, float16_pair, single
from fastinit.adapters.numba.internals import IS_SIMULATED, simulated_array
from fastinit.adapters.numba.quads import parameters, quad, values
from fastinit.adapters.numba.regions import pieces
from fastinit.extending import (
    DTYPES,
    NATIVE,
    Buffer,
    DType,
    Shard,
    dtype_named,
    fill_buffer,
    new_memory,
    plan,
    row_major_strides,
)
from fastinit.extending import buffer_of as buffer_on_host

__all__ = ["buffer_of", "dense_kernel", "fill", "kernel"]

u64 = np.uint64

THREADS: Final = 128
# Limits of the number of blocks. The largest occupies every multiprocessor of any device; its threads then loop over
# further quads. Outside the simulator, Numba warns below the least.
LEAST_GRID: Final = 1 if IS_SIMULATED else 128
LARGEST_GRID: Final = 2**16


class _Memory:
    """Device memory as unsigned integers, described by the array interface."""

    def __init__(
        self, address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype, stream: Any = None
    ) -> None:
        description = {
            "data": (address, False),
            "shape": shape,
            "strides": strides,
            "typestr": dtype.str,
            "version": 3,
        }
        if IS_SIMULATED:
            self.__array_interface__ = description
        else:
            self.__cuda_array_interface__ = {**description, "stream": stream}

    @classmethod
    def of(cls, part: Buffer, stream: Any = None) -> _Memory:
        """The elements of a buffer as raw bits."""
        return cls(part.address, part.shape, part.byte_strides, np.dtype(part.dtype.raw), stream)

    def array(self) -> Any:
        """The array to pass to a kernel."""
        if IS_SIMULATED:
            return simulated_array(np.asarray(self))
        return cuda.as_cuda_array(self)


def _described(out: Any) -> dict[str, Any]:
    """The array interface of a device array. The simulator's arrays are host memory."""
    found = getattr(out, "__cuda_array_interface__", None)
    return dict(out.__array_interface__ if found is None else found)


def _format(held: np.dtype, dtype: Any) -> DType:
    """The format of the values to write into elements of dtype `held`."""
    if dtype is None:
        if held in NATIVE:
            return NATIVE[held]
        raise TypeError(
            f"out must have one of the dtypes {', '.join(map(str, NATIVE))}, or dtype= must name the format of its raw "
            f"memory; got an out of dtype {held}"
        )
    found = dtype_named(dtype)
    if held.name != found.name and not (held.kind in "uV" and held.itemsize == found.itemsize):
        raise TypeError(
            f"dtype={found.name} needs an out of that dtype, or raw memory of {found.itemsize}-byte unsigned integers; "
            f"got dtype {held}"
        )
    return found


def buffer_of(out: Any, dtype: Any) -> Buffer:
    """The memory of a device array, with the checks of :func:`fastinit.extending.buffer_of`."""
    description = _described(out)
    held = np.dtype(description["typestr"])
    found = _format(held, dtype)
    if not held.isnative:
        raise TypeError(f"out must be in native byte order, got dtype {held.str!r}")
    if description.get("mask") is not None:
        raise TypeError("out must not be a masked array")
    address, is_read_only = description["data"]
    if is_read_only:
        raise BufferError("out is read-only")
    shape = tuple(map(int, description["shape"]))
    strides = description.get("strides")
    strides = row_major_strides(shape, found.itemsize) if strides is None else tuple(map(int, strides))
    if any(value % found.itemsize for value in (address, *strides)):
        raise BufferError(
            f"a device cannot write {found.name} values that are not aligned to {found.itemsize} bytes: address "
            f"{address:#x}, strides {strides}"
        )
    return Buffer(address, shape, strides, found, out)


def fill(buffer: Buffer, initializer: Initializer, key: Key, shard: Shard, stream: Any) -> None:
    """Fills device memory for :func:`fastinit.adapters.numba.fill`. All arguments are checked."""
    name, others = buffer.dtype.name, _described(buffer.owner).get("stream")
    stream = 0 if stream is None else stream
    if isinstance(initializer, ElementwiseInitializer):
        kind, given = parameters(plan(initializer, shard.shape, name).parameters)
        words = tuple(map(u64, key.words))
        for part, first, steps in pieces(buffer, shard):
            quads = _whole_quads(part, int(first))
            if quads:
                size, row = part.dtype.itemsize, _Row(part.dtype.itemsize)
                memory = _Memory(part.address, (quads, row.words), (4 * size, row.dtype.itemsize), row.dtype, others)
                launch = dense_kernel(kind, name, _rounds_pairs())[_grid(quads), THREADS, stream]
                launch(memory.array(), first >> u64(2), words, tuple(given))
            rest = _after(part, 4 * quads)
            if rest.size:
                launch = kernel(kind, name)[_grid(_quads(rest)), THREADS, stream]
                launch(_Memory.of(rest, others).array(), first + u64(4 * quads), *steps, words, tuple(given))
        return
    host = new_memory(buffer.shape, buffer.dtype)
    fill_buffer(buffer_on_host(host, buffer.dtype), initializer, key, shard)
    if buffer.size:
        source = cuda.to_device(host.view(buffer.dtype.raw).reshape(-1), stream=stream)
        for part, first, steps in pieces(buffer, Shard(None, None, 0)):  # indices into the host array
            _copy[_grid(_quads(part)), THREADS, stream](_Memory.of(part, others).array(), first, *steps, source)


def _after(part: Buffer, count: int) -> Buffer:
    """A part without its first `count` elements. A positive count requires a part that is a single run."""
    outer, inner, run = part.shape
    return part._replace(address=part.address + count * part.byte_strides[2], shape=(outer, inner, run - count))


def _quads(part: Buffer) -> int:
    """Maximum number of quads of a part. A run may begin and end within a quad."""
    outer, inner, run = part.shape
    return outer * inner * ((run + 3) // 4 + 1)


def _grid(quads: int) -> int:
    """Number of thread blocks for a number of quads."""
    return min(max(-(-quads // THREADS), LEAST_GRID), LARGEST_GRID)


class _Row:
    """A quad as the widest integers that a thread can store, at most 8 bytes each."""

    def __init__(self, itemsize: int) -> None:
        self.dtype = np.dtype(f"u{min(4 * itemsize, 8)}")
        self.words = 4 * itemsize // self.dtype.itemsize


def _whole_quads(part: Buffer, first: int) -> int:
    """Number of quads at the start of a part that can be stored as rows: consecutive, whole and aligned."""
    outer, inner, run = part.shape
    itemsize = part.dtype.itemsize
    is_one_run = outer == inner == 1 and (part.byte_strides[2] == itemsize or run == 1)
    return run // 4 if is_one_run and first % 4 == 0 and part.address % _Row(itemsize).dtype.itemsize == 0 else 0


def _rounds_pairs() -> bool:
    """Whether the device has an instruction that rounds two float32 values to a 16-bit format."""
    return bool(IS_SIMULATED or cuda.get_current_device().compute_capability >= (8, 0))


_PAIRS: Final = {"float16": float16_pair, "bfloat16": bfloat16_pair}


@cache
def _rows(kind: str, dtype: str, in_pairs: bool) -> Any:
    """A function for the words of a quad's row, first word first, with the arguments of :func:`quads.quad`."""
    if in_pairs and dtype in _PAIRS and kind != "constant":
        of, pair = values(kind), _PAIRS[dtype]

        @exact
        def of_pairs(number: Any, key: Any, p: Any) -> Any:
            x0, x1, x2, x3 = of(number, key, p)
            return (pair(single(x0), single(x1)) | (pair(single(x2), single(x3)) << u64(32)),)

        return of_pairs

    four, itemsize = quad(kind, dtype), DTYPES[dtype].itemsize
    bits = u64(8 * itemsize)

    @exact
    def of_bits(number: Any, key: Any, p: Any) -> Any:
        b0, b1, b2, b3 = four(number, key, p)
        if itemsize == 8:
            return b0, b1, b2, b3
        if itemsize == 4:
            return b0 | (b1 << bits), b2 | (b3 << bits)
        return (b0 | (b1 << bits) | (b2 << (bits + bits)) | (b3 << (bits + bits + bits)),)

    return of_bits


@cache
def dense_kernel(kind: str, dtype: str, in_pairs: bool) -> Any:
    """A kernel that fills rows of whole quads (:class:`_Row`), starting at quad `first`; see :func:`_rounds_pairs`."""
    row_of, words = _rows(kind, dtype, in_pairs), _Row(DTYPES[dtype].itemsize).words

    @cuda.jit
    def fill_rows(out: Any, first: Any, key: Any, p: Any) -> None:
        # unsigned, because a signed index could be negative and count from the end
        threads = u64(cuda.gridDim.x) * u64(cuda.blockDim.x)
        task = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
        while task < u64(out.shape[0]):
            row = row_of(first + task, key, p)
            for word in range(words):
                out[task, word] = row[word]
            task += threads

    return fill_rows


@cache
def kernel(kind: str, dtype: str) -> Any:
    """A kernel that fills an array of three axes with a sampler's values in a dtype, one quad at a time."""
    four = quad(kind, dtype)

    @cuda.jit
    def fill_elements(out: Any, start: Any, outer_step: Any, inner_step: Any, key: Any, p: Any) -> None:
        outer, inner, run = out.shape
        per_run = (run + 3) // 4 + 1
        threads = np.int64(cuda.gridDim.x) * np.int64(cuda.blockDim.x)
        task = np.int64(cuda.blockIdx.x) * np.int64(cuda.blockDim.x) + np.int64(cuda.threadIdx.x)
        while task < outer * inner * per_run:
            i, j, part = np.int64(0), np.int64(0), task
            if outer * inner > 1:  # a division on the device is slower than a draw
                row = task // per_run
                part = task - row * per_run
                i = row // inner
                j = row - i * inner
            index = start + u64(i) * outer_step + u64(j) * inner_step
            column = 4 * part - np.int64(index & u64(3))
            if column < run:
                b0, b1, b2, b3 = four((index >> u64(2)) + u64(part), key, p)
                if column >= 0:
                    out[i, j, column] = b0
                if 0 <= column + 1 < run:
                    out[i, j, column + 1] = b1
                if 0 <= column + 2 < run:
                    out[i, j, column + 2] = b2
                if column + 3 < run:
                    out[i, j, column + 3] = b3
            task += threads

    return fill_elements


@cuda.jit
def _copy(out: Any, start: Any, outer_step: Any, inner_step: Any, source: Any) -> None:
    outer, inner, run = out.shape
    threads = np.int64(cuda.gridDim.x) * np.int64(cuda.blockDim.x)
    task = np.int64(cuda.blockIdx.x) * np.int64(cuda.blockDim.x) + np.int64(cuda.threadIdx.x)
    while task < outer * inner * run:
        i, j, column = task // run // inner, task // run % inner, task % run
        index = start + u64(i) * outer_step + u64(j) * inner_step + u64(column)
        out[i, j, column] = source[np.int64(index)]
        task += threads
