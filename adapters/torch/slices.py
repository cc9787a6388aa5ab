"""Slices cut by other engines: a module marks its parameter as a slice of a larger tensor.

Megatron-style tensor-parallel layers, and experts spread over ranks, hold ordinary tensors. The owning module keeps the
position of a slice as plain numbers, so it survives ``to_empty``, ``deferred()``, ``deepcopy``, pickling and sharding,
which replace parameters.
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
"""The module attribute with the marks: by name, (global_shape, offsets) or (global_shape, None, ranges)."""


def mark_slice(
    module: nn.Module,
    name: str,
    global_shape: Sequence[int],
    offsets: Sequence[int] | None = None,
    *,
    ranges: Sequence[Sequence[range]] | None = None,
) -> None:
    """Marks a module's parameter as a slice of a larger tensor, for engines that cut tensors themselves.

    All functions that fill or verify models then give the slice the bytes of the whole. Records, fans and rules use the
    global shape. DTensors and FSDP's parameters need no mark.

    Parameters
    ----------
    module : torch.nn.Module
        The module that owns the parameter.
    name : str
        The parameter's name within the module, such as ``"weight"``.
    global_shape : sequence of int
        Shape of the whole tensor.
    offsets : sequence of int, optional
        Position of the slice's first element in the whole tensor, by default its first element.
    ranges : sequence of sequence of range, optional
        An alternative to `offsets`: for each axis, the indices of the local axis in order. For packed weights, of
        which a rank holds several pieces.

    Raises
    ------
    ValueError, TypeError
        If the module has no such parameter, the slice extends beyond the whole tensor, or the shape does not fit.

    Notes
    -----
    The module keeps the mark in the attribute ``fastinit_slices``. An engine may set this attribute itself or make it a
    property: ``self.fastinit_slices = {"weight": ((4096, 1024), (512 * rank, 0))}``. With ranges, the value is
    ``(global_shape, None, ranges)``. ``fully_shard`` may shard a slice again. State dicts, and those of
    :class:`~fastinit.adapters.torch.InitReader`, have the slice under its name.

    A constructor under :func:`~fastinit.adapters.torch.deferred` sees only the slice. Draws and constants are those of
    the whole tensor. Values that depend on the shape in other ways (orthogonal matrices, parts, computed tables) are
    refused by name when the model is filled. Numbers that the code computes from the slice's shape stay unchanged.
    Inside :func:`~fastinit.adapters.torch.keyed` the code sees the whole tensor.

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
    """The shards of a model's marked parameters, by the identity of the tensor, without marks of whole tensors.

    `flattened` has the names of parameters in flat parameters, by the identity of the module.

    Raises
    ------
    ValueError
        With the parameter's name: for a mark that does not fit, a mark without a parameter, and two different marks.
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
    """The marks of a module or its class. Wrappers that forward attributes of their inner module have none."""
    own = vars(module).get(ATTRIBUTE)
    return getattr(module, ATTRIBUTE) if own is None and hasattr(type(module), ATTRIBUTE) else own


def _shard(tensor: torch.Tensor, name: str, given: Any) -> Shard:
    """The checked content of a mark."""
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
