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

    Each rank computes the slices that it will hold, with the bytes of the whole on any mesh.

    Parameters
    ----------
    model : torch.nn.Module
        A model built under :func:`~fastinit.adapters.torch.deferred`, which defines each tensor. It may be the model
        whose state is loaded, sharded and with memory by then, or another one on the meta device.
    recipe, seed, rename
        As in :func:`~fastinit.adapters.torch.materialize`.
    prefix : str
        Prefix of the model's names in the loaded state: ``"model."`` for ``{"model": ...}``. `rename` does not affect
        the names in the state.

    Raises
    ------
    ValueError, TypeError
        As in :func:`~fastinit.adapters.torch.state_dict`. ``load`` refuses names that the model lacks, and dtypes that
        fastinit does not fill, before anything is written.

    Notes
    -----
    ``no_dist=True`` avoids collectives.

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
        """Always False: no path denotes a computed checkpoint."""
        return False

    def reset(self, checkpoint_id: Any = None) -> None:
        """Does nothing, because the reader has no state."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The metadata of the checkpoint, with every tensor as one chunk."""
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
        """Does nothing, because no storage exists."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Refuses items that cannot be computed, before anything is written."""
        for item in plan.items:
            name = item.storage_index.fqn
            if item.type is LoadItemType.BYTE_IO:
                raise ValueError(f"{name!r} is no tensor: only tensors are computed")
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Returns the plans unchanged: each rank computes its own."""
        return plans

    @in_stream_environment
    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Computes the slices of this rank's plan."""
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
