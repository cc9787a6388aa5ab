"""Virtual checkpoints: the interface of ``safetensors.safe_open`` with computed tensors."""

from __future__ import annotations

import importlib
import math
import operator
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from fastinit.checkpoints.plans import Plan, Tensor
from fastinit.checkpoints.sources import Filled, Source
from fastinit.checks import shown
from fastinit.dtypes import DTYPES
from fastinit.exact import in_stream_environment

__all__ = ["Virtual", "VirtualSlice"]


class VirtualSlice:
    """A tensor of a virtual checkpoint of which slices are asked: an index computes that slice alone.

    Made by :meth:`Virtual.get_slice`.

    Parameters
    ----------
    checkpoint : Virtual
        Makes the tensors.
    tensor : Tensor
        A tensor of its plan.

    Examples
    --------
    >>> from fastinit.checkpoints import Plan, Tensor, Values, Virtual
    >>> steps = Tensor("steps", Values("int64", (2, 3), np.arange(6).tobytes()))
    >>> part = Virtual(Plan((steps,))).get_slice("steps")
    >>> part.get_shape(), part.get_dtype(), part[1, 1:]
    ([2, 3], 'I64', array([4, 5]))
    """

    def __init__(self, checkpoint: Virtual, tensor: Tensor) -> None:
        self._checkpoint, self._tensor = checkpoint, tensor

    def get_shape(self) -> list[int]:
        """The shape of the whole tensor."""
        return list(self._tensor.shape)

    def get_dtype(self) -> str:
        """The dtype, as safetensors names it: ``"BF16"``."""
        return self._tensor.format.tag

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole tensor."""
        return self._tensor.shape

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return len(self._tensor.shape)

    def __len__(self) -> int:
        if not self._tensor.shape:
            raise TypeError("a tensor without axes has no length")
        return self._tensor.shape[0]

    def boxes(
        self, largest: int, offsets: tuple[int, ...] | None = None, extent: tuple[int, ...] | None = None
    ) -> Iterator[tuple[slice, ...]]:
        """Indices of boxes that make up a box of the tensor, cut along its first axes.

        Parameters
        ----------
        largest : int
            Most bytes of a box. A tensor that can only be made whole is not cut.
        offsets, extent : tuple of int, optional
            Where the box to cut begins, and its shape; by default the whole tensor.
        """
        source = self._tensor.source
        begin = (0,) * self.ndim if offsets is None else offsets
        sizes = self.shape if extent is None else extent
        room = math.prod(sizes) if source.granule > 1 else max(1, largest * 8 // source.format.bits)
        for first, shape in _cut(begin, sizes, room):
            yield tuple(slice(start, start + size) for start, size in zip(first, shape, strict=True))

    @in_stream_environment
    def __getitem__(self, index: Any) -> Any:
        """The slice as an array or a tensor.

        Parameters
        ----------
        index : int, slice, Ellipsis or a tuple of them
            As of an array; steps are positive.

        Raises
        ------
        IndexError
            If it leaves the tensor or has too many axes.
        TypeError
            For any other index.
        """
        offsets, extent, rest = _box(index, self._tensor.shape)
        source = self._tensor.source
        whole = _made(source, offsets, extent)
        return self._checkpoint.wrapped(whole, self._tensor)[rest]


class Virtual:
    """A checkpoint without a file: tensors are computed on access, through the interface of an open safetensors file.

    The values equal those of the file that :func:`fastinit.checkpoints.write` writes from the same plan.

    Parameters
    ----------
    plan : Plan or path
        The plan, or the path of its JSON.

    Raises
    ------
    TypeError, ValueError
        As :meth:`Plan.check`.
    OSError
        If the plan's file cannot be read.

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.checkpoints import Filled, Plan, Tensor, Virtual
    >>> normal = fastinit.Normal(std=0.02)
    >>> entry = fastinit.Entry("embed", (128256, 16384), "given", normal, fastinit.Key(0), dtype="float32")
    >>> with Virtual(Plan((Tensor("embed", Filled(entry)),))) as checkpoint:
    ...     checkpoint.get_slice("embed")[100_000, :2]
    array([-0.00435006,  0.03191314], dtype=float32)
    """

    SLICE: type[VirtualSlice] = VirtualSlice
    """Class of the results of :meth:`get_slice`."""

    def __init__(self, plan: Plan | str | os.PathLike[str]) -> None:
        self.plan = plan if isinstance(plan, Plan) else Plan.load(plan)
        self.plan.check()
        self._tensors = {tensor.name: tensor for tensor in self.plan}

    def __enter__(self) -> Virtual:
        return self

    def __exit__(self, *problem: object) -> None:
        """There is nothing to close."""

    def keys(self) -> list[str]:
        """The names of the tensors."""
        return list(self._tensors)

    def offset_keys(self) -> list[str]:
        """The names in the order of a file's bytes."""
        return [tensor.name for tensor in sorted(self.plan, key=lambda tensor: -tensor.format.bits)]

    def metadata(self) -> dict[str, str]:
        """The metadata of a file of this checkpoint."""
        return self.plan.described(self.plan.tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def get_slice(self, name: str) -> VirtualSlice:
        """A tensor of which slices are to be computed.

        Raises
        ------
        KeyError
            If there is none of this name.
        """
        if name not in self._tensors:
            raise KeyError(f"the checkpoint has no tensor {shown(name)}")
        return self.SLICE(self, self._tensors[name])

    def get_tensor(self, name: str) -> Any:
        """A tensor, computed whole. Raises KeyError if there is none of this name."""
        return self.get_slice(name)[...]

    def wrapped(self, memory: np.ndarray, tensor: Tensor) -> Any:
        """Memory of a tensor's elements as what this checkpoint gives: a NumPy array.

        Formats that NumPy lacks are those of ml_dtypes where it is installed, and else their bits.
        """
        name = tensor.format.name
        if memory.dtype.name == name:
            return memory
        if tensor.format.bits % 8:
            return memory
        try:
            return memory.view(name)
        except TypeError:
            with suppress(ModuleNotFoundError, AttributeError):
                return memory.view(getattr(importlib.import_module("ml_dtypes"), name))
            return memory


def _cut(
    offsets: tuple[int, ...], sizes: tuple[int, ...], room: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Offsets and sizes of boxes of at most `room` elements that make up a box."""
    if math.prod(sizes) <= room:
        yield offsets, sizes
        return
    axis = next(axis for axis, size in enumerate(sizes) if size > 1)
    step = max(1, room * sizes[axis] // math.prod(sizes))
    for first in range(0, sizes[axis], step):
        begin = (*offsets[:axis], offsets[axis] + first, *offsets[axis + 1 :])
        extent = (*sizes[:axis], min(step, sizes[axis] - first), *sizes[axis + 1 :])
        yield from _cut(begin, extent, room)


def _made(source: Source, offsets: tuple[int, ...], extent: tuple[int, ...]) -> np.ndarray:
    """A box of a tensor: the elements' bits, or bytes of the whole tensor where they are packed."""
    if source.format.bits % 8:
        if extent != source.shape:
            raise TypeError(f"elements of {source.format.name} are packed: only the whole tensor can be asked for")
        packed = np.empty(source.format.nbytes(source.shape), np.uint8)
        source.write(packed, 0)
        return packed
    if isinstance(source, Filled) and source.granule == 1:
        return source.box(offsets, extent)
    # the range of the flattened tensor from the box's first element to its last
    shape, itemsize = source.shape, source.format.bits // 8
    if not math.prod(extent):
        return np.empty(extent, _storage(source))
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    first = sum(map(operator.mul, offsets, steps))
    last = sum((start + size - 1) * step for start, size, step in zip(offsets, extent, steps, strict=True))
    begin = first // source.granule * source.granule
    end = min(-(-(last + 1) // source.granule) * source.granule, math.prod(shape))
    memory = np.empty((end - begin) * itemsize, np.uint8)
    source.write(memory, begin)
    flat = memory.view(_storage(source))[first - begin :]
    strides = tuple(step * itemsize for step in steps)
    return np.array(np.lib.stride_tricks.as_strided(flat, extent, strides))


def _storage(source: Source) -> np.dtype[Any]:
    """NumPy's dtype of the elements' memory."""
    name = source.format.name
    if name in DTYPES:
        return np.dtype(DTYPES[name].storage)
    try:
        return np.dtype(name)
    except TypeError:
        return np.dtype(f"u{source.format.bits // 8}")


def _box(index: Any, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[Any, ...]]:
    """The smallest box of a tensor that holds what an index asks for, and what is to be taken of the box."""
    asked = index if isinstance(index, tuple) else (index,)
    dots = [place for place, one in enumerate(asked) if one is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index has at most one ellipsis")
    missing = (slice(None),) * (len(shape) - len(asked) + len(dots))
    place = dots[0] if dots else len(asked)
    asked = (*asked[:place], *missing, *asked[place + len(dots) :])
    if len(asked) > len(shape):
        raise IndexError(f"too many indices, {len(asked)}, for a tensor of shape {shape}")
    offsets: list[int] = []
    extent: list[int] = []
    rest: list[int | slice] = []
    for axis, (one, size) in enumerate(zip(asked, shape, strict=True)):
        if isinstance(one, slice):
            indices = range(size)[one]
            if indices.step < 0:
                raise IndexError(f"the step of a slice must be at least 1, got {one.step}")
            offsets.append(indices.start if indices else 0)
            extent.append(indices[-1] - indices.start + 1 if indices else 0)
            rest.append(slice(None, None, indices.step))
        else:
            try:
                number = operator.index(one)
            except TypeError:
                raise TypeError(f"an index is made of integers and slices, got {shown(one)}") from None
            if not -size <= number < size:
                raise IndexError(f"index {number} leaves axis {axis} of a tensor of shape {shape}")
            offsets.append(number % size)
            extent.append(1)
            rest.append(0)
    return tuple(offsets), tuple(extent), tuple(rest)
