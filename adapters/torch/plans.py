"""Plans of checkpoints: what the state dict of a deferred model would hold, as a value of some kilobytes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from fastinit import Recipe
from fastinit.adapters.torch.checkpoints import Source, sources_of
from fastinit.checkpoints import Filled, Plan, Tensor, Values
from fastinit.extending import Rename, in_stream_environment

__all__ = ["plan"]


@in_stream_environment
def plan(
    model: nn.Module,
    recipe: str | Recipe | None = None,
    seed: int | str = 0,
    *,
    dtype: torch.dtype | None = None,
    rename: Rename | None = None,
    without: Iterable[str] = (),
    tied: bool = False,
) -> Plan:
    """The plan of a checkpoint of a model: its tensors, by the names of its state dict, and how each is filled.

    Parameters
    ----------
    model : torch.nn.Module
        On the meta device, as :func:`~fastinit.adapters.torch.deferred` leaves it. It stays as it is.
    recipe, seed, dtype, rename
        As in :func:`~fastinit.adapters.torch.materialize`.
    without : iterable of str
        Names of the state dict that the checkpoint is not to hold.
    tied : bool
        Whether a tensor under several names is held under each, as ``torch.distributed.checkpoint`` does. By default it
        is held under the first that is left, as ``save_pretrained`` does.

    Returns
    -------
    fastinit.checkpoints.Plan

    Raises
    ------
    ValueError, TypeError
        As :func:`~fastinit.adapters.torch.state_dict`; for a part of a tensor, by name.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import deferred, plan
    >>> with deferred():
    ...     model = torch.nn.Linear(64, 256)
    >>> [(tensor.name, tensor.shape) for tensor in plan(model, seed=0, dtype=torch.bfloat16)]
    [('weight', (256, 64)), ('bias', (256,))]
    """
    left_out, held = set(without), set()
    tensors = []
    sources = sources_of(model, recipe, seed, dtype, rename)
    for name, source in sources.items():
        same = source.entry.name if source.entry is not None else id(source.tensor)
        if name in left_out or (same in held and not tied and source.shard is None):
            continue
        held.add(same)
        tensors.append(Tensor(name, _planned(name, source)))
    return Plan(tuple(tensors), seed, _name_of(recipe))


def _name_of(recipe: str | Recipe | None) -> str:
    return "own" if recipe is None else recipe if isinstance(recipe, str) else recipe.name


def _planned(name: str, source: Source) -> Filled | Values:
    if source.shard is not None:
        raise ValueError(f"{name!r} is a part of a tensor: plan the model before it is sharded")
    if source.entry is not None:
        return Filled(source.entry)
    assert source.tensor is not None
    values = source.tensor.detach().cpu().contiguous()
    data = values.reshape(-1).view(torch.uint8).numpy().tobytes() if values.numel() else b""
    return Values(str(values.dtype).removeprefix("torch."), tuple(values.shape), data)
