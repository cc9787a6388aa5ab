"""Slices that engines cut themselves: a module says which part of a larger tensor its parameter is.

Tensor-parallel layers of Megatron's kind, and experts dealt to ranks, hold ordinary tensors. What they are parts of is
kept with the module that owns them, as plain numbers, so it survives ``to_empty``, ``deferred()``, ``deepcopy``,
pickling and sharding, which replace parameters.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn
from torch.nn.utils import parametrize

from fastinit import canonical_name
from fastinit.adapters.torch.internals import own_parameters
from fastinit.extending import Shard, shown

__all__ = ["mark_slice", "marked_slices"]

ATTRIBUTE: Final = "fastinit_slices"
"""The attribute in which a module says it: by name, (global_shape, offsets), or (global_shape, None, ranges)."""


def mark_slice(
    module: nn.Module,
    name: str,
    global_shape: Sequence[int],
    offsets: Sequence[int] | None = None,
    *,
    ranges: Sequence[Sequence[range]] | None = None,
) -> None:
    """Says that a module's parameter is a slice of a larger tensor, and which one: for engines that cut tensors.

    Everything that fills or verifies models then gives the slice the bytes of the whole; records, fans and rules see
    the global shape. DTensors and FSDP's parameters know by themselves what they are.

    Parameters
    ----------
    module : torch.nn.Module
        Which owns the parameter.
    name : str
        The parameter's name within it: ``"weight"``.
    global_shape : sequence of int
        Shape of the whole tensor.
    offsets : sequence of int, optional
        Where the slice begins in it; by default at the first element.
    ranges : sequence of sequence of range, optional
        In place of `offsets`, for each axis the indices that the local axis holds, in their order: of packed weights,
        where a rank holds a piece of each.

    Raises
    ------
    ValueError, TypeError
        If the module has no such parameter, or the slice leaves the whole or has not the parameter's shape.

    Notes
    -----
    It is kept with the module, in the attribute ``fastinit_slices``, which an engine may as well set by itself, or make
    a property: ``self.fastinit_slices = {"weight": ((4096, 1024), (512 * rank, 0))}``; with ranges, the value is
    ``(global_shape, None, ranges)``. A slice that ``fully_shard`` then shards is a part of a part. State dicts, and
    what :class:`~fastinit.adapters.torch.InitReader` computes for one, have the slice under its name.

    Of a constructor under :func:`~fastinit.adapters.torch.deferred`, which sees the slice only, draws and constants are
    those of the whole; what depends on the shape otherwise (orthogonal matrices, parts, computed tables) is refused by
    name when the model is filled. Numbers that the code computes from the slice's shape are the code's. Inside
    :func:`~fastinit.adapters.torch.keyed` the code sees the whole.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import initialize_, mark_slice
    >>> whole = torch.nn.Linear(64, 256)
    >>> record = initialize_(whole, "auto", seed=0)
    >>> mine = torch.nn.Linear(64, 256 // 8)  # rank 3 of 8
    >>> mark_slice(mine, "weight", (256, 64), (32 * 3, 0))
    >>> mark_slice(mine, "bias", (256,), (32 * 3,))
    >>> initialize_(mine, "auto", seed=0)["weight"].shape
    (256, 64)
    >>> torch.equal(mine.weight, whole.weight[96:128])
    True
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, not {type(module).__name__}")
    given = (global_shape, offsets) if ranges is None else (global_shape, offsets, ranges)
    tensor = own_parameters(module).get(name)
    if tensor is None:
        raise ValueError(f"{type(module).__name__} has no parameter {shown(name)} of its own that could be a slice")
    if not isinstance(tensor, nn.parameter.UninitializedParameter):
        _shard(tensor, name, given)
    vars(module)[ATTRIBUTE] = {**(_marks(module) or {}), name: given}


def marked_slices(model: nn.Module, flattened: Mapping[int, Container[str]]) -> dict[int, Shard]:
    """What the marked parameters of a model hold, by the identity of the tensor, but for those that are the whole.

    `flattened` are the names of those that are in flat parameters, by the identity of the module.

    Raises
    ------
    ValueError
        Naming the parameter: a mark that does not fit it, or of none that the module has; two that differ.
    """
    found: dict[int, tuple[str, Shard]] = {}
    if not any(map(_marks, model.modules())):
        return {}
    for prefix, module in model.named_modules():
        marks = _marks(module)
        if not marks:
            continue
        if not isinstance(marks, dict):
            raise ValueError(f"{ATTRIBUTE} of {prefix or 'the model'} must be a dict by name, got {shown(marks)}")
        own = own_parameters(module)
        for role, given in marks.items():
            name = canonical_name(f"{prefix}.{role}" if prefix else str(role))
            if parametrize.is_parametrized(module, role) or isinstance(module, parametrize.ParametrizationList):
                raise ValueError(
                    f"{name!r} is parametrized, and marked as a slice: only plain parameters can be slices"
                )
            if role in flattened.get(id(module), ()):
                raise ValueError(
                    f"{name!r} is in a flat parameter of FSDP's first version, and marked as a slice: use fully_shard"
                )
            if role not in own:
                raise ValueError(f"{name!r} is marked as a slice, and {type(module).__name__} has no such parameter")
            tensor = own[role]
            if tensor is None or isinstance(tensor, nn.parameter.UninitializedParameter):
                continue
            shard = _shard(tensor, name, given)
            other, others = found.setdefault(id(tensor), (name, shard))
            if others != shard:
                raise ValueError(f"{other!r} and {name!r} are one tensor, marked as two different slices")
    return {identity: shard for identity, (_, shard) in found.items() if not shard.is_whole}


def _marks(module: nn.Module) -> Any:
    """What a module says, or its class; wrappers that pass on what the module in them has say nothing."""
    own = vars(module).get(ATTRIBUTE)
    return getattr(module, ATTRIBUTE) if own is None and hasattr(type(module), ATTRIBUTE) else own


def _shard(tensor: torch.Tensor, name: str, given: Any) -> Shard:
    """What a mark says, checked."""
    if not isinstance(given, (tuple, list)) or len(given) not in (2, 3) or given[0] is None:
        raise ValueError(
            f"{name!r} is marked as a slice by {shown(given)}: expected (global_shape, offsets), or "
            "(global_shape, None, ranges)"
        )
    try:
        return Shard.of(tuple(tensor.shape), *given)
    except (TypeError, ValueError) as problem:
        raise type(problem)(
            f"{name!r} of shape {tuple(tensor.shape)} is not the slice that it is marked as: {problem}"
        ) from None
