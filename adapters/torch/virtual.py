"""Checkpoints that are computed where PyTorch reads or saves them: slices of tensors, and shards of ranks.

state = {name: checkpoint.get_slice(name) for name in checkpoint.keys()}
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import SavePlan, WriteItem, WriteItemType

from fastinit import checkpoints
from fastinit.checkpoints import Plan

__all__ = ["InitPlanner", "Virtual", "VirtualSlice"]


class VirtualSlice(checkpoints.VirtualSlice):
    """A tensor of a virtual checkpoint of which slices are asked; what transformers wants to know of it, too.

    Made by :meth:`Virtual.get_slice`.

    Examples
    --------
    >>> from fastinit.adapters.torch import deferred, plan
    >>> from fastinit.adapters.torch.virtual import Virtual
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
    >>> from fastinit.adapters.torch import deferred, plan
    >>> from fastinit.adapters.torch.virtual import Virtual
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
    """Has ``torch.distributed.checkpoint.save`` write a plan: each rank computes and writes what it holds.

    Nothing but the shard that is being written is in memory.

    Parameters
    ----------
    plan : Plan or path
        Of the tensors, by the names of the state dict, which may be on the meta device, sharded or not.
    prefix : str
        What stands before the plan's names in the state dict: ``"model."`` for ``{"model": ...}``.

    Raises
    ------
    KeyError
        When saving, for a tensor of the state dict that the plan lacks.
    ValueError
        When saving, for a tensor of another shape or dtype.

    Examples
    --------
    >>> import tempfile, warnings
    >>> import torch
    >>> import torch.distributed.checkpoint as dcp
    >>> from fastinit.adapters.torch import deferred, materialize, plan
    >>> from fastinit.adapters.torch.virtual import InitPlanner
    >>> with deferred():
    ...     model = torch.nn.Linear(64, 256)
    >>> folder = tempfile.mkdtemp()
    >>> saved = dcp.save(
    ...     model.state_dict(), checkpoint_id=folder, planner=InitPlanner(plan(model, seed=0)), no_dist=True
    ... )
    >>> record = materialize(model, seed=1)
    >>> state = model.state_dict()
    >>> dcp.load(state, checkpoint_id=folder, no_dist=True)
    >>> torch.equal(state["weight"], Virtual(plan(model, seed=0)).get_tensor("weight"))
    True
    """

    def __init__(self, plan: Plan | str, *, prefix: str = "") -> None:
        super().__init__()
        self._checkpoint = Virtual(plan)
        self._prefix = prefix
        self._sources = {prefix + tensor.name: tensor for tensor in self._checkpoint.plan}

    def create_local_plan(self) -> SavePlan:
        """What this rank writes, checked against the plan before a byte is written."""
        made = super().create_local_plan()
        for item in made.items:
            name = item.index.fqn
            if item.type == WriteItemType.BYTE_IO:
                continue
            if name not in self._sources:
                raise KeyError(f"the plan has no tensor {name!r}")
            tensor, data = self._sources[name], item.tensor_data
            assert data is not None
            if tuple(data.size) != tensor.shape or data.properties.dtype != getattr(torch, tensor.format.name):
                raise ValueError(
                    f"{name!r} has the shape {tuple(data.size)} and {data.properties.dtype}, planned were "
                    f"{tensor.shape} and {tensor.format.name}"
                )
        return made

    def resolve_data(self, write_item: WriteItem) -> Any:
        """The slice that an item asks for, computed."""
        if write_item.type == WriteItemType.BYTE_IO or write_item.tensor_data is None:
            return super().resolve_data(write_item)
        chunk = write_item.tensor_data.chunk
        part = self._checkpoint.get_slice(write_item.index.fqn.removeprefix(self._prefix))
        box = tuple(slice(first, first + size) for first, size in zip(chunk.offsets, chunk.sizes, strict=True))
        return part[box].contiguous()
