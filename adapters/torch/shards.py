"""Which elements of a parameter this rank holds: of a DTensor, and of the flat parameters of FSDP's first version.

Everything is computed from placements and metadata that each rank has, so no rank waits for another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate

from fastinit import canonical_name
from fastinit.adapters.torch.internals import FlatParameter, own_parameters, parts_of_flat, shard_order
from fastinit.adapters.torch.versions import STRIDED_SHARDS_ARE_EVEN
from fastinit.extending import Ranges, dealt, joined, shown

__all__ = ["Piece", "flat_pieces", "local_ranges", "ranges_of"]


class _Split(NamedTuple):
    """One step of sharding: a mesh axis deals a tensor axis out to its ranks, in `rounds` equal parts one by one."""

    mesh_axis: int
    axis: int
    rounds: int


def local_ranges(tensor: DTensor) -> Ranges | None:
    """The global indices that this rank's part of a DTensor holds, computed without communication.

    Parameters
    ----------
    tensor : DTensor
        On a mesh of any number of axes, with the placements Replicate, Shard (of any tensor axis, uneven and empty
        shards and several mesh axes on one tensor axis included), or the strided shards that ``fully_shard`` makes of
        tensor-parallel parameters.

    Returns
    -------
    tuple of tuple of range, or None
        For each tensor axis the indices that the local axis holds, in their order; the lengths add up to the local
        extent. None if this rank is not in the mesh, and so holds nothing.

    Raises
    ------
    TypeError
        If `tensor` is no DTensor.
    ValueError
        If a placement is Partial: then no element has a value of its own. If the local tensor has not the shape that
        the placements imply.

    Notes
    -----
    torch's own offsets name the first index of a shard only, which says too little of strided shards.
    """
    if not isinstance(tensor, DTensor):
        raise TypeError(f"expected a DTensor, got a {type(tensor).__name__}")
    mesh, shape = tensor.device_mesh, tuple(tensor.shape)
    with torch.no_grad():
        local = tuple(tensor.to_local().shape)
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        if math.prod(local):
            raise ValueError(f"this rank is not in {mesh}, so it must hold nothing, but has a local shape {local}")
        return None
    ranges = ranges_of(shape, tuple(mesh.shape), coordinate, tensor.placements, shard_order(tensor))
    expected = tuple(sum(map(len, held)) for held in ranges)
    if len(local) == len(shape) and 0 in expected and 0 in local:
        # an empty part has nothing to fit, and fully_shard makes it empty along its own axis too
        ranges = tuple(held if extent else () for held, extent in zip(ranges, local, strict=True))
    elif local != expected:
        raise ValueError(
            f"a local tensor of shape {expected} was expected at {tuple(coordinate)} of a mesh of shape "
            f"{tuple(mesh.shape)}, for a tensor of shape {shape} placed as {tensor.placements}; got {local}"
        )
    return ranges


def ranges_of(
    global_shape: Sequence[int],
    mesh_shape: Sequence[int],
    coordinate: Sequence[int],
    placements: Sequence[Placement],
    shard_order: Sequence[tuple[int, Sequence[int]]] | None = None,
) -> Ranges:
    """The global indices held at one coordinate of a mesh: :func:`local_ranges` without a process group.

    Parameters
    ----------
    global_shape : sequence of int
        Of the whole tensor.
    mesh_shape, coordinate : sequence of int
        Of the mesh, and where on it.
    placements : sequence of Placement
        One for each mesh axis; negative tensor axes count from the last.
    shard_order : sequence of (int, sequence of int), optional
        Tensor axes, each with the mesh axes that shard it, the first to split first. By default the order that the
        strided shards among `placements` stand for, and where they stand for none, from left to right.

    Returns
    -------
    tuple of tuple of range
        For each tensor axis, ascending and disjoint.

    Raises
    ------
    ValueError
        If a placement is Partial or unknown, its axis is none of the tensor's, the numbers of axes differ, or the
        coordinate is outside the mesh. Before torch 2.13, if a strided shard that stands for no order is uneven.

    Examples
    --------
    >>> from torch.distributed.tensor import Shard
    >>> ranges_of((7, 3), (2, 2), (0, 1), [Shard(0), Shard(0)])
    ((range(2, 4),), (range(0, 3),))
    """
    if not len(mesh_shape) == len(coordinate) == len(placements):
        raise ValueError(
            f"expected one coordinate and one placement for each axis of a mesh of shape {tuple(mesh_shape)}, got "
            f"coordinate {tuple(coordinate)} and placements {tuple(placements)}"
        )
    if not all(0 <= position < size for position, size in zip(coordinate, mesh_shape, strict=True)):
        raise ValueError(f"coordinate {tuple(coordinate)} is outside a mesh of shape {tuple(mesh_shape)}")
    splits = [
        split
        for mesh_axis, placement in enumerate(placements)
        if (split := _split(mesh_axis, placement, tuple(global_shape))) is not None
    ]
    if shard_order is not None:
        on = {split.mesh_axis: split for split in splits}
        splits = [on[mesh_axis] for _, mesh_axes in shard_order for mesh_axis in mesh_axes]
    else:
        splits = _decoded(splits, mesh_shape) or splits
    ranges = [[range(size)] if size else [] for size in global_shape]
    for mesh_axis, axis, rounds in splits:
        parts, held = rounds * mesh_shape[mesh_axis], sum(map(len, ranges[axis]))
        if STRIDED_SHARDS_ARE_EVEN and rounds > 1 and held % parts:
            raise ValueError(
                f"axis {axis} of a tensor of shape {tuple(global_shape)} is placed as {tuple(placements)}: a strided "
                f"shard of {held} elements in {parts} uneven parts needs torch 2.13 or newer"
            )
        ranges[axis] = dealt(ranges[axis], rounds, mesh_shape[mesh_axis], coordinate[mesh_axis])
    return tuple(tuple(joined(held)) for held in ranges)


def _split(mesh_axis: int, placement: Placement, shape: tuple[int, ...]) -> _Split | None:
    """What a placement does to a tensor of this shape: None if it leaves it whole."""
    if isinstance(placement, Replicate):
        return None
    if isinstance(placement, Partial):
        raise ValueError(
            f"expected Replicate() or Shard(axis) on each mesh axis, got {placement} on mesh axis {mesh_axis}: of a "
            "partial tensor no rank holds values, only terms of sums"
        )
    axis = getattr(placement, "dim", None)  # strided shards have no public class
    if axis is None:
        raise ValueError(f"expected Replicate() or Shard(axis) on each mesh axis, got {shown(placement)}")
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"{placement} names an axis that a tensor of shape {shape} does not have")
    return _Split(mesh_axis, axis % len(shape), getattr(placement, "split_factor", 1))


def _decoded(splits: Sequence[_Split], mesh_shape: Sequence[int]) -> list[_Split] | None:
    """The order of plain splits that strided ones stand for, or None if there is none.

    A split in r rounds, as ``fully_shard`` writes it, says that mesh axes further to the right, of r ranks together,
    have split the same tensor axis before. For sizes that they divide, either reading gives the same.
    """
    order: dict[int, list[_Split]] = {}
    for mesh_axis, axis, rounds in reversed(splits):
        before = order.setdefault(axis, [])
        place, ranks = 0, 1
        while ranks != rounds:
            if place == len(before):
                return None
            ranks *= mesh_shape[before[place].mesh_axis]
            place += 1
        before.insert(place, _Split(mesh_axis, axis, 1))
    return [split for steps in order.values() for split in steps]


class Piece(NamedTuple):
    """A run of a parameter that lies in a flat parameter: what :func:`flat_pieces` yields."""

    name: str
    """The parameter's canonical name in the model that was not sharded."""
    module: nn.Module
    """The module that owns it."""
    parameter: str
    """Its name within the module."""
    shape: torch.Size
    """Of the whole parameter."""
    tensor: Tensor
    """This rank's elements, in the flat parameter's memory: one axis, empty if it holds none."""
    start: int
    """Index of the first of them in the flattened parameter."""
    others: tuple[tuple[str, nn.Module, str], ...]
    """Name, module and name within it, wherever else the flat parameter's modules use the same tensor."""
    requires_grad: bool = True
    """Whether it is trained."""


def flat_pieces(model: nn.Module) -> Iterator[Piece]:
    """What this rank holds of each parameter that ``FullyShardedDataParallel`` has flattened, without communication.

    Parameters
    ----------
    model : torch.nn.Module
        With FSDP modules of the first version anywhere in it, sharded or not, with `use_orig_params` or without, and
        not inside ``summon_full_params``.

    Yields
    ------
    Piece
        For each original parameter, flat parameter by flat parameter, on every rank: an empty one where the rank holds
        none of it. A tensor with several names comes once, under its first. Padding belongs to no piece.

    Raises
    ------
    ValueError
        If a flat parameter is gathered at the moment, or has flattened a parameter in another order than row-major
        (channels-last) or a DTensor.
    """
    for prefix, flat in parts_of_flat(model):
        yield from _pieces(prefix, flat)


def _pieces(prefix: str, flat: FlatParameter) -> Iterator[Piece]:
    if flat.tensor.shape != flat.sharded_size:
        raise ValueError(
            f"the flat parameter of {prefix or 'the model'} was expected to be sharded, of shape "
            f"{tuple(flat.sharded_size)}, but is gathered now, of shape {tuple(flat.tensor.shape)}: leave "
            "summon_full_params or the forward pass first"
        )

    def full(*names: str) -> str:
        return canonical_name(".".join(name for name in (prefix, *names) if name))

    others: dict[tuple[nn.Module, str], list[tuple[str, nn.Module, str]]] = {}
    for owner, module_name, module, parameter in flat.shared:
        others.setdefault(owner, []).append((full(module_name, parameter), module, parameter))
    memory = flat.tensor.detach()
    for own in flat.parameters:
        name = full(own.fqn)
        if own.extension is not None:
            raise ValueError(f"{name} was a DTensor before FSDP flattened it, which only fully_shard keeps track of")
        if not torch.empty(own.shape, device="meta").as_strided(own.shape, own.stride).is_contiguous():
            raise ValueError(
                f"{name} of shape {tuple(own.shape)} was expected to be contiguous when FSDP flattened it, but had "
                f"strides {tuple(own.stride)}"
            )
        part = memory[own.first : own.first + own.size]
        shared = tuple(others.get((own.module, own.name), ()))
        registered = own_parameters(own.module).get(own.name)  # with use_orig_params, of which some may be frozen
        trained = (flat.tensor if registered is None else registered).requires_grad
        yield Piece(name, own.module, own.name, own.shape, part, own.start, shared, trained)
