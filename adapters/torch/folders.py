"""The folders of ``torch.distributed.checkpoint``, read by its own reader, but without running what they hold.

The metadata of such a folder is a pickle. It is read by an unpickler that knows the classes of checkpoints alone, and
checked; only then is it given to torch's reader, whose own way to read it would run any code.
"""

from __future__ import annotations

import io
import math
import os
import pickle
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, ReadItem

from fastinit.checkpoints import FORMATS, Boxes, Checkpoint, Stored
from fastinit.extending import checked_shape, shown

__all__ = ["Folder"]

_FILE: Final = ".metadata"
_CLASSES: Final = {
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties"),
        *("MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING"),
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch": ("Size", "device"),
    "torch.serialization": ("_get_layout",),
    "pathlib": ("PosixPath", "PurePosixPath"),
    "collections": ("OrderedDict",),
}
"""What the metadata of a checkpoint is made of, besides dtypes."""


class _Unpickler(pickle.Unpickler):
    """Reads the metadata of a checkpoint, which is a pickle, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if name in _CLASSES.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong in the metadata of a checkpoint")


class _Planner(DefaultLoadPlanner):
    """Has the reader put a chunk of a tensor into given memory."""

    def __init__(self, target: torch.Tensor) -> None:
        super().__init__()
        self._target = target

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        return self._target

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        """The memory is the target's own."""


class Folder(Checkpoint):
    """A folder of ``torch.distributed.checkpoint``, saved by any number of ranks.

    What is not a tensor, such as the number of a step, is left out. A chunk, the piece that one rank has saved, is in
    memory at a time; several where chunks cut rows.

    Parameters
    ----------
    path : str
        The folder.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        With the path, if its metadata is damaged, is not that of a checkpoint, or names files outside of the folder.

    Examples
    --------
    >>> import tempfile
    >>> from fastinit.adapters.torch import deferred, plan, save
    >>> from fastinit.checkpoints import read_checkpoint
    >>> with deferred():
    ...     model = torch.nn.Linear(64, 256)
    >>> folder = tempfile.mkdtemp()
    >>> save(plan(model, seed=0), folder)
    >>> [(stored.name, stored.shape) for stored in read_checkpoint(folder)]
    [('weight', (256, 64)), ('bias', (256,))]
    """

    def __init__(self, path: str) -> None:
        file = os.path.join(path, _FILE)
        with open(file, "rb") as opened:
            data = opened.read()
        try:
            metadata = _Unpickler(io.BytesIO(data)).load()
            if not isinstance(metadata, Metadata):
                raise ValueError(f"it holds {shown(metadata)}")
            tensors = dict(_tensors(metadata.state_dict_metadata))
            stored = [Stored(name, _format(name, own), _extents(own.size)) for name, own in tensors.items()]
            self._chunks = {name: _chunks(name, own, metadata, path) for name, own in tensors.items()}
            super().__init__(path, stored)
            self._boxes = {one.name: Boxes(one.shape, *self._placed(one)) for one in stored}
        except OSError:
            raise
        except Exception as problem:  # a pickle may build any wrong state of the classes, and they raise anything
            raise ValueError(f"{file} is not the metadata of a DCP checkpoint: {problem}") from None
        self._latest = ""  # the tensor of which chunks are in memory
        self._reader = FileSystemReader(path)
        self._reader.set_up_storage_reader(metadata, True)

    def _placed(self, stored: Stored) -> tuple[list[tuple[slice, ...]], Any]:
        """The boxes of a tensor, and the function that loads one of them."""
        boxes = [
            tuple(slice(first, first + size) for first, size in zip(offsets, sizes, strict=True))
            for offsets, sizes in self._chunks[stored.name]
        ]
        return boxes, lambda number: self._loaded(stored, *self._chunks[stored.name][number])

    def _loaded(self, stored: Stored, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> np.ndarray:
        """A chunk, by torch's own reader, which unpickles nothing but tensors here."""
        bits = stored.format.bits
        memory = np.empty(sizes, f"u{bits // 8}")
        target = torch.from_numpy(memory.view(f"i{bits // 8}")).view(getattr(torch, stored.format.name))
        index, start = MetadataIndex(stored.name, offsets), torch.Size([0] * len(sizes))
        item = ReadItem(LoadItemType.TENSOR, index, start, index, start, torch.Size(sizes))
        self._reader.read_data(LoadPlan([item]), _Planner(target)).wait()
        return memory

    def read(self, name: str, begin: int = 0, end: int | None = None) -> np.ndarray:
        stored = self[name]
        size, last = stored.format.bits // 8, stored.nbytes if end is None else end
        if begin >= last:
            return np.empty(0, np.uint8)
        if self._latest not in (name, ""):
            self._boxes[self._latest].forget()
        self._latest = name
        try:
            return self._boxes[name].read(begin // size, last // size).view(np.uint8)
        except OSError:
            raise
        except Exception as problem:  # of torch's reader
            raise ValueError(f"{self.path}: {name!r} cannot be read: {problem}") from None

    def close(self) -> None:
        self._boxes, self._latest = {}, ""


def _tensors(metadata: Any) -> Iterator[tuple[str, TensorStorageMetadata]]:
    if not isinstance(metadata, Mapping):
        raise ValueError(f"state_dict_metadata is {shown(metadata)}")
    for name, own in metadata.items():
        if not isinstance(name, str):
            raise ValueError(f"the name of a tensor is {shown(name)}")
        if isinstance(own, TensorStorageMetadata):
            yield name, own


def _format(name: str, own: TensorStorageMetadata) -> Any:
    dtype = own.properties.dtype
    found = FORMATS.get(str(dtype).removeprefix("torch.")) if isinstance(dtype, torch.dtype) else None
    if found is None or found.bits % 8:
        raise ValueError(f"{name!r} has the dtype {dtype}, of which checkpoints of fastinit have none")
    return found


def _extents(size: Any) -> tuple[int, ...]:
    return checked_shape(tuple(size))


def _chunks(
    name: str, own: TensorStorageMetadata, metadata: Metadata, path: str
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Offsets and sizes of a tensor's chunks, each with a place in a file of the folder."""
    found = []
    for chunk in own.chunks:
        if not isinstance(chunk, ChunkStorageMetadata):
            raise ValueError(f"a chunk of {name!r} is {shown(chunk)}")
        offsets, sizes = _extents(chunk.offsets), _extents(chunk.sizes)
        if 0 not in sizes:
            place = metadata.storage_data.get(MetadataIndex(name, offsets))
            if place is None:
                raise ValueError(f"{name!r} has no bytes at {offsets}")
            file = place.relative_path
            inside = isinstance(file, str) and not os.path.isabs(file) and ".." not in file.split(os.sep)
            if not inside or not os.path.basename(file):
                raise ValueError(f"a file of a checkpoint lies in its folder, got {shown(file)}")
            end = os.path.getsize(os.path.join(path, file))
            if not 0 <= place.offset <= place.offset + place.length <= end:
                raise ValueError(f"the bytes of {name!r} end behind the {end:,} bytes of {file}")
            nbytes = math.prod(sizes) * own.properties.dtype.itemsize
            if not place.transform_descriptors and nbytes > place.length:  # otherwise they may be compressed
                raise ValueError(f"a chunk of {name!r} takes {nbytes:,} bytes, and has {place.length:,}")
        found.append((offsets, sizes))
    return found
