"""Which elements of the global tensor a local buffer holds: a lattice of runs.

Element ``(j0, j1, ...)`` of a rectangular slice is global element ``start + sum j * index_stride``, row-major, and lies
``sum j * byte_stride`` bytes after the first. Axes that continue each other in both are merged, so that the last axis,
the run, is as long as it can be.
"""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["Lattice", "flat_lattice", "slice_lattice", "tiled"]

# Elements of one piece of a strided run: 256 cache lines stay in the first cache while the neighbouring runs fill them
# up.
TILE = 256


class Lattice(NamedTuple):
    """Where local elements lie: the global index of the first, then extents and strides, axis by axis."""

    start: int
    extents: tuple[int, ...]
    index_strides: tuple[int, ...]
    byte_strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many elements."""
        return math.prod(self.extents)


def row_major_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Elements from one index of each axis to the next, the last axis varying fastest."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


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


def slice_lattice(
    global_shape: tuple[int, ...],
    offsets: tuple[int, ...],
    shape: tuple[int, ...],
    byte_strides: tuple[int, ...],
    itemsize: int,
) -> Lattice:
    """The rectangular slice of `shape` that begins at `offsets` of a tensor of `global_shape`.

    Raises
    ------
    ValueError
        If the numbers of axes differ or the slice leaves the tensor.
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
    index_strides = row_major_strides(global_shape)
    start = sum(offset * stride for offset, stride in zip(offsets, index_strides, strict=True))
    return _merged(start, shape, index_strides, byte_strides, itemsize)


def flat_lattice(start: int, shape: tuple[int, ...], byte_strides: tuple[int, ...], itemsize: int) -> Lattice:
    """Elements [start, start + size) of the flattened tensor, in the row-major order of the local buffer."""
    return _merged(start, shape, row_major_strides(shape), byte_strides, itemsize)


def tiled(lattice: Lattice, itemsize: int) -> list[tuple[int, Lattice]]:
    """The lattice in an order that is kind to the caches, as (byte offset, lattice) pieces.

    Consecutive runs stay as they are. Strided ones, of a transposed or channels-last buffer, are cut into columns of
    TILE elements that are filled one after the other.
    """
    run, stride = lattice.extents[-1], lattice.byte_strides[-1]
    if stride == itemsize or run <= TILE or len(lattice.extents) == 1:
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


def overlaps_itself(shape: tuple[int, ...], byte_strides: tuple[int, ...], itemsize: int) -> bool:
    """Whether two elements may share memory: strides that do not step over all smaller ones."""
    reach = itemsize
    for stride, extent in sorted(
        (abs(stride), extent) for extent, stride in zip(shape, byte_strides, strict=True) if extent > 1
    ):
        if stride < reach:
            return True
        reach = stride * (extent - 1) + reach
    return False
