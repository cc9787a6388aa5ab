"""Keras's weight files: written from a plan and read, with one piece of a tensor in memory and without Keras.

The plan is a dataset ``fastinit.json`` of such a file, its text as bytes. Keras looks for the groups of its layers and
does not see it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import h5py
import numpy as np

from fastinit.checkpoints import FORMATS, PLAN_FILE, Checkpoint, Plan, Stored, Virtual, gathered
from fastinit.extending import in_stream_environment, shown

__all__ = ["File", "save"]

_PIECE: Final = 2**24
_PLACE: Final = re.compile(r"(.+/)?vars/[^/]+")


@in_stream_environment
def save(
    plan: Plan | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    largest: int = _PIECE,
    advance: Callable[[int], object] | None = None,
) -> None:
    """Saves a plan as the weight file of a Keras model, which ``model.load_weights`` reads.

    Parameters
    ----------
    plan : Plan or path
        The tensors, by their places in the file, as :func:`~fastinit.adapters.keras.plan` names them.
    path : path
        Ends in ``.weights.h5``; no file of this name exists.
    largest : int
        Bytes that are computed and written at once. A tensor that is only made whole, such as an orthogonal matrix,
        takes its own size and what its computation takes.
    advance : callable, optional
        Called with the number of bytes of each piece that was written.

    Raises
    ------
    TypeError, ValueError
        For names that are not paths of such a file, tensors without values, and dtypes other than NumPy's and
        bfloat16, by name. Nothing has been written.
    FileExistsError
        If the file exists.

    Examples
    --------
    >>> import os, tempfile
    >>> import keras
    >>> from fastinit.adapters.keras import plan, save
    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(8, name="logits")], name="net")
    >>> path = os.path.join(tempfile.mkdtemp(), "net.weights.h5")
    >>> save(plan(model, seed=0), path)
    >>> model.load_weights(path)
    """
    checkpoint = Virtual(plan)
    dtypes = {}
    for tensor in checkpoint.plan:
        if not _PLACE.fullmatch(tensor.name):
            raise ValueError(
                f"{shown(tensor.name)} is not a path in a Keras weight file, such as 'layers/dense/vars/0': plan a "
                "Keras model"
            )
        dtypes[tensor.name] = _dtype(tensor.format.name, tensor.name)
    with h5py.File(path, "x", locking=False) as file:
        for tensor in checkpoint.plan:
            dtype = dtypes[tensor.name]
            data = file.create_dataset(tensor.name, tensor.shape, dtype)
            if tensor.format.name == "bfloat16":
                data.attrs["dtype"] = "bfloat16"  # the bits are opaque to HDF5, and Keras reads this
            part = checkpoint.get_slice(tensor.name)
            for box in part.boxes(largest):
                values = part[box]
                if values.size:
                    data[box] = values
                if advance is not None:
                    advance(values.nbytes)
        text = checkpoint.plan.without_values().to_json().encode()
        file.create_dataset(PLAN_FILE, data=np.frombuffer(text, np.uint8))


def _dtype(name: str, tensor: str) -> np.dtype[Any]:
    """NumPy's dtype of a format that Keras reads: NumPy's own and bfloat16."""
    found: np.dtype[Any] | None
    if name == "bfloat16":
        import ml_dtypes

        found = np.dtype(ml_dtypes.bfloat16)
        return found
    try:
        found = np.dtype(name)
    except TypeError:
        found = None
    if found is None or found.isbuiltin != 1:  # another library's
        raise TypeError(f"{tensor!r} has the dtype {name}, which a weight file of Keras lacks")
    return found


# Bytes of a plan that are read: as many as of the header of a safetensors file.
_LONGEST: Final = 100_000_000


class File(Checkpoint):
    """A file of HDF5, such as the weight files of Keras: its datasets by their paths.

    Parameters
    ----------
    path : str
        The file.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        With the path, if it is damaged, holds anything but numbers, or data of other files by a link.

    Examples
    --------
    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "net.weights.h5")
    >>> with h5py.File(path, "w") as file:
    ...     file["layers/dense/vars/0"] = np.zeros((64, 8), np.float32)
    >>> [(stored.name, stored.shape) for stored in File(path)]
    [('layers/dense/vars/0', (64, 8))]
    """

    def __init__(self, path: str) -> None:
        try:
            self._file: h5py.File | None = h5py.File(path, "r", locking=False)
            self._datasets = dict(_datasets(self._file))
            self._text = self._datasets.pop(PLAN_FILE, None)
            super().__init__(path, [_stored(name, data) for name, data in self._datasets.items()])
        except Exception as problem:  # of HDF5, whose errors of damaged files are of any kind
            if isinstance(problem, OSError) and problem.errno:
                raise
            raise ValueError(f"{path} is no weight file: {problem}") from None

    def read(self, name: str, begin: int = 0, end: int | None = None) -> np.ndarray:
        stored = self[name]
        size, last = stored.format.bits // 8, stored.nbytes if end is None else end
        data = self._datasets[name]
        try:
            return gathered(stored.shape, data.dtype, begin // size, last // size, lambda box: data[box])
        except Exception as problem:
            if isinstance(problem, OSError) and problem.errno:
                raise
            raise ValueError(f"{self.path}: {name!r} cannot be read: {problem}") from None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def carried(self) -> Sequence[tuple[str, str]]:
        data = self._text
        if data is None:
            return ()
        if data.dtype != np.uint8 or data.ndim != 1 or data.size > _LONGEST:
            raise ValueError(f"{self.path} carries no plan: its {PLAN_FILE} is no text")
        try:
            return ((self.path, bytes(data[()]).decode()),)
        except ValueError as problem:
            raise ValueError(f"{self.path} carries no plan: {problem}") from None


def _datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """The datasets of a file by their paths. Links to other files are refused, and groups that hold themselves."""
    ahead, known = [("", file)], set()
    while ahead:
        prefix, group = ahead.pop()
        place = h5py.h5o.get_info(group.id).addr
        if place in known:
            raise ValueError(f"the group {shown(prefix)} is there twice")
        known.add(place)
        below = []
        for key in group:
            name = f"{prefix}{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise ValueError(f"{shown(name)} is a link: only what the file holds itself is read")
            node = group[key]
            if isinstance(node, h5py.Group):
                below.append((f"{name}/", node))
            elif isinstance(node, h5py.Dataset):
                if node.external or node.is_virtual:
                    raise ValueError(f"{shown(name)} is in other files: only what the file holds itself is read")
                yield name, node
        ahead += reversed(below)


def _stored(name: str, data: h5py.Dataset) -> Stored:
    is_bfloat16 = data.dtype.itemsize == 2 and data.dtype.kind == "V" and data.attrs.get("dtype") == "bfloat16"
    found = FORMATS.get("bfloat16" if is_bfloat16 else data.dtype.name)
    if found is None or data.shape is None:
        raise ValueError(f"{shown(name)} has the dtype {shown(str(data.dtype))}: only numbers are read")
    return Stored(name, found, tuple(map(int, data.shape)))
