"""A checkpoint without a file: each rank of ``torch.distributed.checkpoint.load`` computes the slices that it holds.

dcp.load(state, storage_reader=InitReader(model, seed=0), no_dist=True)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from fastinit import Recipe
from fastinit.adapters.torch.checkpoints import sources_of
from fastinit.adapters.torch.tensors import DTYPES
from fastinit.extending import Rename, in_stream_environment

__all__ = ["InitReader"]


class InitReader(StorageReader):
    """A checkpoint of a model's initialization for ``torch.distributed.checkpoint.load``, without a file.

    Each rank computes the slices that it is to hold: on any mesh the bytes of the whole.

    Parameters
    ----------
    model : torch.nn.Module
        Built under :func:`~fastinit.adapters.torch.deferred`: it says what each tensor is. It may be the one whose
        state is loaded, sharded and with memory by then, or another on the meta device.
    recipe, seed, rename
        As in :func:`~fastinit.adapters.torch.materialize`.
    prefix : str
        What stands before the model's names in the state that is loaded: ``"model."`` for ``{"model": ...}``. The state
        has the names of the model, whatever `rename` says.

    Raises
    ------
    ValueError, TypeError
        As :func:`~fastinit.adapters.torch.state_dict`. A state with names that the model lacks is refused by
        ``load`` before anything is written; a dtype that fastinit does not fill, with the name.

    Notes
    -----
    With ``no_dist=True`` no collective is called.

    Examples
    --------
    >>> import torch
    >>> import torch.distributed.checkpoint as dcp
    >>> from fastinit.adapters.torch import InitReader, deferred, state_dict
    >>> with deferred():
    ...     model = torch.nn.Linear(64, 256)
    >>> state = {"weight": torch.empty(256, 64), "bias": torch.empty(256)}
    >>> dcp.load(state, storage_reader=InitReader(model, seed=0), no_dist=True)
    >>> torch.equal(state["weight"], state_dict(model, seed=0)["weight"])
    True
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: str | Recipe | None = None,
        seed: int | str = 0,
        *,
        prefix: str = "",
        rename: Rename | None = None,
    ) -> None:
        found = sources_of(model, recipe, seed, None, rename)
        self._sources = {prefix + name: source for name, source in found.items()}

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """No path leads here."""
        return False

    def reset(self, checkpoint_id: Any = None) -> None:
        """There is nothing to begin anew."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the checkpoint would hold: every tensor as one chunk."""
        return Metadata(
            {
                name: TensorStorageMetadata(
                    TensorProperties(dtype=source.dtype),
                    torch.Size(source.shape),
                    [ChunkStorageMetadata(torch.Size([0] * len(source.shape)), torch.Size(source.shape))],
                )
                for name, source in self._sources.items()
            }
        )

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """There is no storage."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Refuses what cannot be computed, before anything is written."""
        for item in plan.items:
            name = item.storage_index.fqn
            if item.type is LoadItemType.BYTE_IO:
                raise ValueError(f"{name!r} is no tensor: only tensors are computed")
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Every rank computes by itself."""
        return plans

    @in_stream_environment
    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Computes the slices that this rank asked for."""
        targets = []
        for item in plan.items:
            name, target = item.storage_index.fqn, planner.resolve_tensor(item).detach()
            source = self._sources[name]
            if source.entry is not None and target.dtype not in DTYPES:
                raise TypeError(
                    f"{name!r} is to be loaded in {target.dtype}: expected one of {', '.join(map(str, DTYPES))}"
                )
            targets.append((item, source, target))
        for item, source, target in targets:
            source.write(target, tuple(item.storage_offsets))
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done
