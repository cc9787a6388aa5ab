"""What a checkpoint on disk holds, in any format: the tensors, the bytes of any range of one, and the plan it carries.

A format is a class that derives from :class:`Checkpoint`. It knows all tensors once it is made, and reads their bytes
when they are asked for, in bounded memory.
"""

from __future__ import annotations

import math
import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Final

import numpy as np

from fastinit.checkpoints.formats import Stored
from fastinit.checkpoints.headers import LONGEST_HEADER
from fastinit.checkpoints.plans import PLAN_FILE, Plan
from fastinit.checks import shown
from fastinit.shards import flat_boxes

__all__ = ["Boxes", "Checkpoint", "gathered"]

# Metadata of a plan that says nothing: what transformers expects of a file.
_METADATA: Final = {"format": "pt"}


class Checkpoint(ABC):
    """A checkpoint on disk, from :func:`fastinit.checkpoints.read_checkpoint`.

    It is a context that closes the files at its end. A format is a class that derives from it.

    Parameters
    ----------
    path : str
        The file or the folder.
    tensors : iterable of Stored
        Its tensors, in the order of the files.

    Attributes
    ----------
    path : str
        The file or the folder.

    Raises
    ------
    ValueError
        If two tensors have the same name.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastinit.checkpoints import Plan, Tensor, Values, read_checkpoint, write
    >>> out = os.path.join(tempfile.mkdtemp(), "tiny.npz")
    >>> written = write(Plan((Tensor("step", Values("int64", (2,), bytes(range(16)))),)), out)
    >>> with read_checkpoint(out) as found:
    ...     "step" in found, found["step"].shape, found.read("step", 8, 16).tolist()
    (True, (2,), [8, 9, 10, 11, 12, 13, 14, 15])
    """

    PIECE: ClassVar[int] = 2**24
    """Bytes that are best read at once: what a copy of them takes in memory."""

    def __init__(self, path: str, tensors: Iterable[Stored]) -> None:
        self.path = path
        self._tensors: dict[str, Stored] = {}
        for stored in tensors:
            if stored.name in self._tensors:
                raise ValueError(f"{path} holds two tensors called {shown(stored.name)}")
            self._tensors[stored.name] = stored

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Stored]:
        return iter(self._tensors.values())

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Stored:
        if name not in self._tensors:
            raise KeyError(f"{self.path} has no tensor {shown(name)}")
        return self._tensors[name]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(stored.nbytes for stored in self)

    @abstractmethod
    def read(self, name: str, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Bytes of a tensor: its elements are row-major and little-endian.

        Parameters
        ----------
        name : str
            The tensor's name.
        begin, end : int
            The first byte, and the one after the last; by default all. Both are multiples of an element's size.

        Returns
        -------
        numpy.ndarray of uint8
            Read-only, and valid until the checkpoint is closed. Ranges that ascend are read once.

        Raises
        ------
        KeyError
            If there is no tensor of this name.
        OSError, ValueError
            With the path, if the files cannot be read or are damaged.
        """

    @abstractmethod
    def close(self) -> None:
        """Closes the files."""

    def carried(self) -> Sequence[tuple[str, str]]:
        """The plans that the files carry, as pairs of a path and a text. Together they describe all tensors."""
        path = os.path.join(self.path, PLAN_FILE)
        if not os.path.isfile(path):
            return ()
        with open(path, encoding="utf-8") as file:
            try:
                text = file.read(LONGEST_HEADER + 1)
            except ValueError as problem:
                raise ValueError(f"{path} is not a plan: {problem}") from None
        if len(text) > LONGEST_HEADER:
            raise ValueError(f"{path} is not a plan: it is longer than {LONGEST_HEADER:,} characters")
        return ((path, text),)

    @property
    def plan(self) -> Plan | None:
        """The plan that the files carry; None where they carry none.

        Raises
        ------
        ValueError
            With the path, if what a file carries is not a plan, or not one of this library's stream version.
        """
        plans = []
        for path, text in self.carried():
            try:
                plans.append(Plan.from_json(text))
            except ValueError as problem:
                raise ValueError(f"{path}: {problem}") from None
        if not plans:
            return None
        first = plans[0]
        tensors = tuple(tensor for plan in plans for tensor in plan)
        try:
            return Plan(tensors, first.seed, first.recipe, first.metadata or _METADATA, first.files, first.stem)
        except ValueError as problem:
            raise ValueError(f"{self.path}: its files carry plans that contradict each other: {problem}") from None


Box = tuple[slice, ...]


class Boxes:
    """A tensor that is stored in boxes, of which each can only be loaded whole.

    Ranges of it are put together in its row-major order. A box stays in memory as long as ascending ranges need it:
    boxes of whole rows one or two at a time, boxes of columns all at once.

    Parameters
    ----------
    shape : tuple of int
        The tensor's.
    boxes : sequence of tuple of slice
        The boxes.
    load : callable
        Gives the elements of the box of a number, as an array of any dtype of the element's size.

    Raises
    ------
    ValueError
        If a box leaves the tensor, or they are not as many elements as the tensor has.

    Examples
    --------
    >>> whole = np.arange(12, dtype=np.uint8).reshape(3, 4)
    >>> boxes = [(slice(0, 3), slice(0, 2)), (slice(0, 3), slice(2, 4))]
    >>> Boxes((3, 4), boxes, lambda number: whole[boxes[number]]).read(2, 7).tolist()
    [2, 3, 4, 5, 6]
    """

    def __init__(self, shape: tuple[int, ...], boxes: Sequence[Box], load: Callable[[int], np.ndarray]) -> None:
        for box in boxes:
            inside = (0 <= one.start <= one.stop <= size for one, size in zip(box, shape, strict=False))
            if len(box) != len(shape) or not all(inside):
                raise ValueError(f"the box {_shown(box)} leaves the tensor of shape {shape}")
        self._shape, self._boxes, self._load = shape, boxes, load
        volumes = [math.prod(one.stop - one.start for one in box) for box in boxes]
        if sum(volumes) != math.prod(shape):
            raise ValueError(f"the tensor of shape {shape} is stored in boxes of {sum(volumes):,} elements")
        steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        # the first element of each box, and the one after the last, in the flattened tensor
        self._hulls = [
            (
                sum(map(operator.mul, (one.start for one in box), steps)),
                sum(map(operator.mul, (one.stop - 1 for one in box), steps)) + 1,
            )
            if volume
            else (0, 0)
            for box, volume in zip(boxes, volumes, strict=True)
        ]
        self._loaded: dict[int, np.ndarray] = {}

    def read(self, begin: int, end: int) -> np.ndarray:
        """The elements [begin, end) of the flattened tensor. Raises ValueError where boxes overlap or leave gaps."""
        needed = [number for number, (first, last) in enumerate(self._hulls) if first < end and begin < last]
        self._loaded = {number: one for number, one in self._loaded.items() if number in needed}
        for number in needed:
            if number not in self._loaded:
                self._loaded[number] = self._load(number)
        if len(needed) == 1 and self._hulls[needed[0]][0] <= begin and end <= self._hulls[needed[0]][1]:
            (number,) = needed
            first, last = self._hulls[number]
            if self._loaded[number].size == last - first:  # consecutive elements of the tensor
                return self._loaded[number].reshape(-1)[begin - first : end - first]
        out = np.empty(end - begin, self._loaded[needed[0]].dtype if needed else np.uint8)
        is_known = np.zeros(end - begin, bool)
        for first, ranges in flat_boxes(self._shape, begin, end):
            extent = tuple(map(len, ranges))
            part = slice(first - begin, first - begin + math.prod(extent))
            here, known = out[part].reshape(extent), is_known[part].reshape(extent)
            for number in needed:
                both = [
                    (max(own.start, one.start), min(own.stop, one.stop))
                    for own, one in zip(ranges, self._boxes[number], strict=True)
                ]
                if any(low >= high for low, high in both):
                    continue
                place, source = _from(both, ranges), _from(both, self._boxes[number])
                here[place], known[place] = self._loaded[number][source], True
        if not is_known.all():
            raise ValueError(f"the boxes of the tensor of shape {self._shape} overlap and leave gaps")
        return out

    def forget(self) -> None:
        """Gives back the memory of the boxes that are loaded."""
        self._loaded = {}


def gathered(
    shape: tuple[int, ...], dtype: np.dtype[Any], begin: int, end: int, read: Callable[[Box], np.ndarray]
) -> np.ndarray:
    """The bytes of the elements [begin, end) of a flattened tensor of which boxes can be read.

    Parameters
    ----------
    shape : tuple of int
        The tensor's.
    dtype : numpy.dtype
        Of the elements; the bytes are little-endian.
    begin, end : int
        The elements.
    read : callable
        Gives the elements of a box, as an array.

    Examples
    --------
    >>> columns = np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    >>> gathered((2, 3), columns.dtype, 1, 5, lambda box: columns[box]).tolist()
    [1, 2, 3, 4]
    """
    out = np.empty(end - begin, dtype.newbyteorder("="))
    for first, box in flat_boxes(shape, begin, end):
        extent = tuple(map(len, box))
        here = out[first - begin : first - begin + math.prod(extent)].reshape(extent)
        here[...] = read(tuple(slice(one.start, one.stop) for one in box))
    return out.view(np.uint8)


def _from(box: Sequence[tuple[int, int]], outer: Sequence[slice | range]) -> Box:
    """The index of a box within another one that holds it."""
    return tuple(slice(low - one.start, high - one.start) for (low, high), one in zip(box, outer, strict=True))


def _shown(box: Box) -> str:
    return f"[{', '.join(f'{one.start}:{one.stop}' for one in box)}]"
