"""The folders of orbax's ``StandardCheckpointer``, read by orbax and by TensorStore, which stores its arrays."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np

from fastinit.checkpoints import FORMATS, Boxes, Checkpoint, Stored
from fastinit.extending import shown

__all__ = ["Folder", "array_store", "chunks"]

_FILE: Final = "_METADATA"


class Folder(Checkpoint):
    """A folder of orbax's ``StandardCheckpointer``, saved by any number of processes.

    Tensors have the names of the keys on their way through the tree, joined by ``/``. One chunk, as orbax has stored
    it, is in memory at a time; several where chunks cut rows.

    Parameters
    ----------
    path : str
        The folder.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        With the path, if it is damaged, or holds an array that is not of numbers.

    Examples
    --------
    >>> import os, tempfile
    >>> import orbax.checkpoint as ocp
    >>> from fastinit.checkpoints import read_checkpoint
    >>> folder = os.path.join(tempfile.mkdtemp(), "out")
    >>> with ocp.StandardCheckpointer() as checkpointer:
    ...     checkpointer.save(folder, {"dense": {"kernel": jax.numpy.zeros((8, 4))}})
    >>> [(stored.name, stored.shape) for stored in read_checkpoint(folder)]
    [('dense/kernel', (8, 4))]
    """

    def __init__(self, path: str) -> None:
        import orbax.checkpoint as ocp

        where = os.path.abspath(path)
        if not os.path.isfile(os.path.join(where, _FILE)):
            items = [name for name in sorted(os.listdir(where)) if os.path.isfile(os.path.join(where, name, _FILE))]
            such = f", such as {os.path.join(path, items[0])}" if items else ""
            raise ValueError(f"{path} has no {_FILE}: name the folder of one item{such}")
        try:
            with open(os.path.join(where, _FILE), encoding="utf-8") as file:
                self._is_zarr3 = bool(json.load(file).get("use_zarr3", False))
            self._is_ocdbt = bool(ocp.type_handlers.is_ocdbt_checkpoint(Path(where)))
            with ocp.StandardCheckpointer() as checkpointer:
                tree = checkpointer.metadata(where).item_metadata.tree
            leaves = {
                _name(keys): leaf for keys, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_leaf)[0]
            }
            super().__init__(path, [Stored(name, *_described(name, leaf)) for name, leaf in leaves.items()])
        except OSError:
            raise
        except Exception as problem:  # of orbax, which raises anything for files that are damaged
            raise ValueError(f"{path} is no checkpoint of orbax: {problem}") from None
        self._leaves = dict(leaves)
        self._boxes: tuple[str, Boxes] | None = None

    def _opened(self, name: str) -> Boxes:
        """The chunks of an array."""
        store = array_store(self.path, self._leaves[name].name, is_ocdbt=self._is_ocdbt, is_zarr3=self._is_zarr3)
        stored = self[name]
        if tuple(store.shape) != stored.shape or store.dtype.name != stored.format.name:
            raise ValueError(f"it holds {store.dtype.name} of shape {tuple(store.shape)}")
        boxes = list(chunks(store))

        def load(number: int) -> np.ndarray:
            values = np.ascontiguousarray(store[boxes[number]].read().result())
            return values.view(f"u{values.itemsize}").reshape(values.shape)

        return Boxes(stored.shape, boxes, load)

    def read(self, name: str, begin: int = 0, end: int | None = None) -> np.ndarray:
        stored = self[name]
        size, last = stored.format.bits // 8, stored.nbytes if end is None else end
        if begin >= last:
            return np.empty(0, np.uint8)
        try:
            if self._boxes is None or self._boxes[0] != name:
                self._boxes = name, self._opened(name)
            return self._boxes[1].read(begin // size, last // size).view(np.uint8)
        except OSError:
            raise
        except Exception as problem:
            raise ValueError(f"{self.path}: {name!r} cannot be read: {problem}") from None

    def close(self) -> None:
        self._boxes = None


def _is_leaf(node: Any) -> bool:
    return hasattr(node, "shape")


def _name(keys: tuple[Any, ...]) -> str:
    """The name of an array by its keys in the tree."""
    return "/".join(
        str(next(getattr(key, what) for what in ("key", "idx", "name") if hasattr(key, what))) for key in keys
    )


def _described(name: str, leaf: Any) -> tuple[Any, tuple[int, ...]]:
    """Format and shape of an array."""
    found = FORMATS.get(np.dtype(leaf.dtype).name) if getattr(leaf, "dtype", None) is not None else None
    if found is None or found.bits % 8:
        raise ValueError(f"{name!r} is {shown(leaf)}, not an array of numbers")
    return found, tuple(map(int, leaf.shape))


def array_store(folder: str, name: str, *, is_ocdbt: bool = True, is_zarr3: bool = False, write: bool = False) -> Any:
    """The array of orbax's folder that has a name there, opened by TensorStore.

    Parameters
    ----------
    folder : str
        The folder.
    name : str
        The array's name in orbax's metadata.
    is_ocdbt, is_zarr3 : bool
        How orbax has stored the arrays; by default as ``StandardCheckpointer`` does.
    write : bool
        Whether its elements can be changed.
    """
    import orbax.checkpoint as ocp
    import tensorstore

    context = ocp.type_handlers.get_ts_context(use_ocdbt=is_ocdbt)
    place = {"name": name, "parent_dir": Path(os.path.abspath(folder))}
    info = ocp.type_handlers.ParamInfo(**place, use_zarr3=is_zarr3, ts_context=context)
    spec = ocp.type_handlers.get_json_tspec_read(info, use_ocdbt=is_ocdbt)
    return tensorstore.open(tensorstore.Spec(spec), read=True, write=write, open=True, context=context).result()


def chunks(store: Any) -> Iterator[tuple[slice, ...]]:
    """The boxes in which an array of TensorStore is stored, cut at its end."""
    shape = tuple(store.shape)
    steps = store.chunk_layout.read_chunk.shape or ()
    if not math.prod(shape):
        return
    sizes = [step or size for step, size in zip(steps, shape, strict=True)]
    starts = [range(0, size, step) for size, step in zip(shape, sizes, strict=True)]
    for place in itertools.product(*starts):
        yield tuple(
            slice(first, min(first + step, size)) for first, step, size in zip(place, sizes, shape, strict=True)
        )
