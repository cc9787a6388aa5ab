"""Keras's weight files from a plan, with one piece of a tensor in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, Final

import ml_dtypes
import numpy as np

from fastinit.checkpoints import Plan, Virtual
from fastinit.extending import in_stream_environment, shown

__all__ = ["save"]

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
    ImportError
        If h5py is not installed.

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
    import h5py

    checkpoint = Virtual(plan)
    dtypes = {}
    for tensor in checkpoint.plan:
        if not _PLACE.fullmatch(tensor.name):
            raise ValueError(
                f"{shown(tensor.name)} is no place in a weight file of Keras, such as 'layers/dense/vars/0': plan a "
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


def _dtype(name: str, tensor: str) -> np.dtype[Any]:
    """NumPy's dtype of a format that Keras reads: NumPy's own and bfloat16."""
    found: np.dtype[Any] | None
    if name == "bfloat16":
        found = np.dtype(ml_dtypes.bfloat16)
        return found
    try:
        found = np.dtype(name)
    except TypeError:
        found = None
    if found is None or found.isbuiltin != 1:  # another library's
        raise TypeError(f"{tensor!r} has the dtype {name}, which a weight file of Keras lacks")
    return found
