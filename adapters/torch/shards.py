"""The elements of a parameter on this rank: in a DTensor, or in a flat parameter of FSDP's first version.

All results follow from placements and metadata that each rank has, so ranks never wait for each other.
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
    """One step of sharding: a mesh axis distributes a tensor axis over its ranks, in `rounds` equal parts in turn."""

    mesh_axis: int
    axis: int
    rounds: int


def local_ranges(tensor: DTensor) -> Ranges | None:
    """The global indices of this rank's part of a DTensor, computed without communication.

    Parameters
    ----------
    tensor : DTensor
        A DTensor on a mesh with any number of axes. Its placements may be Replicate, Shard (of any tensor axis,
        including uneven and empty shards and several mesh axes on one tensor axis), or the strided shards that
        ``fully_shard`` creates from tensor-parallel parameters.

    Returns
    -------
    tuple of tuple of range, or None
        For each tensor axis, the indices of the local axis in order; the lengths add up to the local extent. None if
        this rank is not in the mesh and holds no part.

    Raises
    ------
    TypeError
        If `tensor` is not a DTensor.
    ValueError
        If a placement is Partial, because its elements have no values of their own, or if the local tensor's shape
        does not match the placements.

    Notes
    -----
    torch's own offsets give only the first index of a shard, which does not describe strided shards.
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
        # an empty part has no shape to check, and fully_shard makes it empty along its own axis too
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
    """The global indices at one coordinate of a mesh: :func:`local_ranges` without a process group.

    Parameters
    ----------
    global_shape : sequence of int
        Shape of the whole tensor.
    mesh_shape, coordinate : sequence of int
        Shape of the mesh, and a coordinate on it.
    placements : sequence of Placement
        One per mesh axis; negative tensor axes count from the last.
    shard_order : sequence of (int, sequence of int), optional
        Tensor axes, each with the mesh axes that shard it, in the order of splitting. By default the order implied by
        the strided shards among `placements`, otherwise from left to right.

    Returns
    -------
    tuple of tuple of range
        For each tensor axis, ascending and disjoint ranges.

    Raises
    ------
    ValueError
        If a placement is Partial or unknown, the tensor lacks its axis, the numbers of axes differ, or the coordinate
        is outside the mesh. Before torch 2.13, if a strided shard that stands for no order is uneven.

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
    """The effect of a placement on a tensor of this shape; None if the tensor stays whole."""
    if isinstance(placement, Replicate):
        return None
    if isinstance(placement, Partial):
        raise ValueError(
            f"expected Replicate() or Shard(axis) on each mesh axis, got {placement} on mesh axis {mesh_axis}: no "
            "rank holds the values of a partial tensor, only terms of sums"
        )
    axis = getattr(placement, "dim", None)  # strided shards have no public class
    if axis is None:
        raise ValueError(f"expected Replicate() or Shard(axis) on each mesh axis, got {shown(placement)}")
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"{placement} names an axis that a tensor of shape {shape} does not have")
    return _Split(mesh_axis, axis % len(shape), getattr(placement, "split_factor", 1))


def _decoded(splits: Sequence[_Split], mesh_shape: Sequence[int]) -> list[_Split] | None:
    """The order of plain splits equivalent to strided ones, or None if there is none.

    A split in r rounds, as in ``fully_shard``, means that mesh axes further to the right, with r ranks together, split
    the same tensor axis before. For divisible sizes both readings give the same result.
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
    """A run of a parameter in a flat parameter, as :func:`flat_pieces` yields it."""

    name: str
    """The parameter's canonical name in the unsharded model."""
    module: nn.Module
    """The owning module."""
    parameter: str
    """The parameter's name within the module."""
    shape: torch.Size
    """Shape of the whole parameter."""
    tensor: Tensor
    """This rank's elements, in the flat parameter's memory, as one axis that may be empty."""
    start: int
    """Index of the first element in the flattened parameter."""
    others: tuple[tuple[str, nn.Module, str], ...]
    """Name, module and name within it, for each other use of the same tensor in the flat parameter's modules."""
    requires_grad: bool = True
    """Whether the parameter is trained."""


def flat_pieces(model: nn.Module) -> Iterator[Piece]:
    """This rank's part of each parameter that ``FullyShardedDataParallel`` has flattened, without communication.

    Parameters
    ----------
    model : torch.nn.Module
        A model with FSDP modules of the first version, sharded or not, with or without `use_orig_params`, and not
        inside ``summon_full_params``.

    Yields
    ------
    Piece
        One per original parameter, flat parameter by flat parameter, on every rank. A piece is empty if the rank holds
        no part. A tensor with several names comes once, under its first name. Padding belongs to no piece.

    Raises
    ------
    ValueError
        If a flat parameter is currently gathered, or was flattened from a DTensor or from a parameter in another order
        than row-major (channels-last).
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
