"""Checkpoints that are computed where PyTorch reads or saves them: slices of tensors, and shards of ranks.

state = {name: checkpoint.get_slice(name) for name in checkpoint.keys()}
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from fastinit import checkpoints
from fastinit.checkpoints import PLAN_FILE, Plan
from fastinit.extending import at_least, in_stream_environment

__all__ = ["InitPlanner", "Virtual", "VirtualSlice", "save"]

# Bytes of a file of :func:`save`; two of them are in memory.
_PIECE: Final = 2**26


class VirtualSlice(checkpoints.VirtualSlice):
    """A tensor of a virtual checkpoint of which slices are asked; what transformers wants to know of it, too.

    Made by :meth:`Virtual.get_slice`.

    Parameters
    ----------
    checkpoint : Virtual
        Makes the tensors.
    tensor : Tensor
        Of its plan.

    Examples
    --------
    >>> from fastinit.adapters.torch import Virtual, deferred, plan
    >>> with deferred():
    ...     model = torch.nn.Linear(64, 256)
    >>> weight = Virtual(plan(model)).get_slice("weight")
    >>> weight.dtype, weight.is_floating_point(), weight[3, :2].shape
    (torch.float32, True, torch.Size([2]))
    """

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tensors; that of bytes for packed elements."""
        return _dtype_of(self._tensor) or torch.uint8

    def is_floating_point(self) -> bool:
        """Whether the elements are floating-point numbers."""
        return self.dtype.is_floating_point


def _dtype_of(tensor: checkpoints.Tensor) -> torch.dtype | None:
    """torch's dtype of a tensor's elements; None of packed ones, and where torch has none."""
    found = None if tensor.format.bits % 8 else getattr(torch, tensor.format.name, None)
    return found if isinstance(found, torch.dtype) else None


class Virtual(checkpoints.Virtual):
    """A checkpoint with the interface of ``safetensors.safe_open(..., "pt")`` that is computed where it is read.

    ``from_pretrained`` of transformers takes its slices as a state dict, and computes each tensor once.

    Parameters
    ----------
    plan : Plan or path
        What it holds.

    Raises
    ------
    TypeError, ValueError, OSError
        As :class:`fastinit.checkpoints.Virtual`.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import Virtual, deferred, plan
    >>> with deferred():
    ...     model = torch.nn.Linear(64, 256)
    >>> with Virtual(plan(model, seed=0, dtype=torch.bfloat16)) as checkpoint:
    ...     checkpoint.get_slice("weight")[100:102].shape, checkpoint.get_tensor("bias").dtype
    (torch.Size([2, 64]), torch.bfloat16)
    """

    SLICE = VirtualSlice

    def wrapped(self, memory: np.ndarray, tensor: checkpoints.Tensor) -> Tensor:
        """The memory as a tensor; packed elements as bytes."""
        dtype = _dtype_of(tensor)
        if dtype is None:
            return torch.from_numpy(memory.view(f"u{memory.itemsize}"))
        return torch.from_numpy(memory.view(f"i{memory.itemsize}")).view(dtype)


class InitPlanner(DefaultSavePlanner):
    """Has ``torch.distributed.checkpoint.save`` write a plan: each rank computes and writes its own shards.

    Parameters
    ----------
    plan : Plan or path
        Of the tensors, by the names of the state dict, which may be on the meta device, sharded or not.
    prefix : str
        Prefix of the plan's names in the state dict: ``"model."`` for ``{"model": ...}``.
    largest : int, optional
        Tensors and shards of more bytes are saved as several, along their first axes. By default none is cut. A tensor
        that is only made whole, such as an orthogonal matrix, is not cut.
    advance : callable, optional
        Called with the number of bytes of each tensor or shard that was computed.

    Attributes
    ----------
    checkpoint : Virtual
        Computes the values.

    Raises
    ------
    KeyError
        When saving, for a tensor of the state dict that the plan lacks.
    ValueError
        When saving, for a tensor of another shape or dtype. Nothing has been written.

    Notes
    -----
    The plan is saved beside a local folder's files, as ``fastinit.json``, under the names of the state dict: from it
    ``fastinit verify`` recomputes the folder. What the state dict holds beside tensors is saved, not verified.

    torch's writer keeps a file's tensors in memory until the file is complete, and writes one file per rank. Memory is
    bounded by ``FileSystemWriter(folder, single_file_per_rank=False)`` and `largest`: two pieces are in memory.

    Examples
    --------
    >>> import tempfile, warnings
    >>> import torch
    >>> import torch.distributed.checkpoint as dcp
    >>> from fastinit.adapters.torch import InitPlanner, Virtual, deferred, materialize, plan
    >>> with deferred():
    ...     model = torch.nn.Linear(64, 256)
    >>> planner = InitPlanner(plan(model, seed=0))
    >>> folder = tempfile.mkdtemp()
    >>> with warnings.catch_warnings(action="ignore"):  # without a process group
    ...     saved = dcp.save(model.state_dict(), checkpoint_id=folder, planner=planner)
    >>> record = materialize(model, seed=1)
    >>> state = model.state_dict()
    >>> with warnings.catch_warnings(action="ignore"):
    ...     dcp.load(state, checkpoint_id=folder)
    >>> torch.equal(state["weight"], Virtual(planner.checkpoint.plan).get_tensor("weight"))
    True
    """

    def __init__(
        self,
        plan: Plan | str | os.PathLike[str],
        *,
        prefix: str = "",
        largest: int | None = None,
        advance: Callable[[int], object] | None = None,
    ) -> None:
        super().__init__()
        self.checkpoint = Virtual(plan)
        self._sources = {prefix + tensor.name: tensor for tensor in self.checkpoint.plan}
        self._prefix = prefix
        self._largest = None if largest is None else at_least(1, "largest", largest)
        self._advance = advance
        self._folder: Any = None

    def set_up_planner(self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False) -> None:
        """Remembers where the checkpoint is saved, for its plan."""
        super().set_up_planner(state_dict, storage_meta, is_coordinator)
        self._folder = getattr(storage_meta, "checkpoint_id", None)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """Saves the plan of the tensors beside them, on the rank that coordinates, where they go to a local folder."""
        made, metadata = super().create_global_plan(all_plans)
        if isinstance(self._folder, str | os.PathLike) and os.path.isdir(self._folder):
            names = [name for name in self._sources if name in metadata.state_dict_metadata]
            tensors = tuple(checkpoints.Tensor(name, self._sources[name].source) for name in names)
            own = replace(self.checkpoint.plan, tensors=tensors)
            own.without_values().save(os.path.join(self._folder, PLAN_FILE))
        return made, metadata

    def create_local_plan(self) -> SavePlan:
        """What this rank writes, checked against the plan before a byte is written."""
        made = super().create_local_plan()
        return replace(made, items=[piece for item in made.items for piece in self._checked(item)])

    def _checked(self, item: WriteItem) -> Iterator[WriteItem]:
        """The items to write instead of one."""
        if item.type == WriteItemType.BYTE_IO:
            yield item
            return
        name, data = item.index.fqn, item.tensor_data
        if name not in self._sources:
            raise KeyError(f"the plan has no tensor {name!r}")
        tensor = self._sources[name]
        assert data is not None
        if tuple(data.size) != tensor.shape or data.properties.dtype != _dtype_of(tensor):
            raise ValueError(
                f"{name!r} has the shape {tuple(data.size)} and {data.properties.dtype}, planned were "
                f"{tensor.shape} and {tensor.format.name}"
            )
        if self._largest is None:
            yield item
            return
        part = self.checkpoint.get_slice(tensor.name)
        boxes = list(part.boxes(self._largest, tuple(data.chunk.offsets), tuple(data.chunk.sizes)))
        if len(boxes) == 1:
            yield item
            return
        for box in boxes:
            begin, sizes = (torch.Size(found) for found in ([s.start for s in box], [s.stop - s.start for s in box]))
            chunk = ChunkStorageMetadata(begin, sizes)
            yield WriteItem(MetadataIndex(name, begin), WriteItemType.SHARD, tensor_data=replace(data, chunk=chunk))

    def resolve_data(self, write_item: WriteItem) -> Any:
        """The slice that an item asks for, computed."""
        if write_item.type == WriteItemType.BYTE_IO or write_item.tensor_data is None:
            return super().resolve_data(write_item)
        chunk = write_item.tensor_data.chunk
        part = self.checkpoint.get_slice(write_item.index.fqn.removeprefix(self._prefix))
        box = tuple(slice(first, first + size) for first, size in zip(chunk.offsets, chunk.sizes, strict=True))
        made = part[box].contiguous()
        if self._advance is not None:
            self._advance(made.nbytes)
        return made


@in_stream_environment
def save(
    plan: Plan | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    largest: int = _PIECE,
    advance: Callable[[int], object] | None = None,
) -> None:
    """Saves the checkpoint of a plan by ``torch.distributed.checkpoint``, in one process and bounded memory.

    Any number of ranks loads it, by ``torch.distributed.checkpoint.load``. On many ranks, where each saves its own
    shards, use :class:`InitPlanner`.

    Parameters
    ----------
    plan : Plan or path
        The tensors, by their names in the state dict.
    folder : path
        An empty folder, or one that does not exist. ``fastinit checkpoint OUT --format dcp`` also replaces one.
    largest : int
        Bytes of a file. Larger tensors take several files; two files are in memory. A tensor that is only made whole
        takes its own size and what its computation takes.
    advance : callable, optional
        Called with the number of bytes of each piece that was computed.

    Raises
    ------
    TypeError, ValueError
        For tensors without values, and dtypes that torch lacks, by name. Nothing has been written.
    FileExistsError
        If the folder holds a checkpoint.

    Examples
    --------
    >>> import os, tempfile
    >>> import torch
    >>> from fastinit.adapters.torch import deferred, plan, save
    >>> with deferred():
    ...     model = torch.nn.Linear(64, 256)
    >>> folder = tempfile.mkdtemp()
    >>> save(plan(model, seed=0), folder)
    >>> sorted(os.listdir(folder))
    ['.metadata', '__0_0.distcp', '__0_1.distcp', 'fastinit.json']
    """
    planner = InitPlanner(plan, largest=largest, advance=advance)
    if os.path.exists(os.path.join(folder, ".metadata")):
        raise FileExistsError(f"{os.fspath(folder)} holds a checkpoint")
    state = {}
    for tensor in planner.checkpoint.plan:
        dtype = _dtype_of(tensor)
        if dtype is None:
            raise TypeError(f"{tensor.name!r} has the dtype {tensor.format.name}, which torch lacks")
        state[tensor.name] = torch.empty(tensor.shape, dtype=dtype, device="meta")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        writer = FileSystemWriter(folder, single_file_per_rank=False)
        try:
            dcp_save(state, storage_writer=writer, planner=planner, no_dist=True)
        except CheckpointException as problem:  # which is no Exception, and holds those of all ranks with their traces
            cause = next((cause for cause, _ in problem.failures.values()), problem)
            raise cause from None
