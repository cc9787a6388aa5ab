"""Regions of three axes: the units that host loops and device kernels fill."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastinit.extending import Buffer, Shard, lattices, tiles

__all__ = ["pieces"]

u64 = np.uint64


def pieces(buffer: Buffer, shard: Shard, in_tiles: bool = False) -> Iterator[tuple[Buffer, Any, tuple[Any, Any]]]:
    """Splits a buffer into buffers of three axes, whose last axis is a run of consecutive elements of the tensor.

    Yields each buffer with the index of its first element and the index steps along the first two axes. `in_tiles`
    cuts strided runs into columns, in a cache-friendly order.
    """
    if not buffer.size:
        return
    dtype = buffer.dtype
    for offset, lattice in tiles(buffer, shard) if in_tiles else lattices(buffer, shard):
        missing = max(3 - len(lattice.extents), 0)
        extents = (1,) * missing + lattice.extents
        index_strides = (0,) * missing + lattice.index_strides
        byte_strides = (dtype.itemsize,) * missing + lattice.byte_strides
        for outer in itertools.product(*map(range, extents[:-3])):
            address = sum(map(int.__mul__, outer, byte_strides), buffer.address + offset)
            index = sum(map(int.__mul__, outer, index_strides), lattice.start)
            part = Buffer(address, extents[-3:], byte_strides[-3:], dtype)
            yield part, u64(index), (u64(index_strides[-3]), u64(index_strides[-2]))
