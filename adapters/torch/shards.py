"""Which elements of a parameter this rank holds: of a DTensor, and of the flat parameters of FSDP's first version.

Everything is computed from placements and metadata that each rank has, so no rank waits for another.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate

from fastinit import canonical_name

__all__ = ["Piece", "flat_pieces", "local_ranges", "ranges_of"]

Ranges = tuple[tuple[range, ...], ...]


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
    # which mesh axis came first is known to redistribute() only, and is not public
    order = getattr(getattr(tensor, "_spec", None), "shard_order", None)
    ranges = ranges_of(shape, tuple(mesh.shape), coordinate, tensor.placements, order)
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
        coordinate is outside the mesh.

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
        ranges[axis] = _dealt(ranges[axis], rounds, mesh_shape[mesh_axis], coordinate[mesh_axis])
    return tuple(tuple(_joined(held)) for held in ranges)


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
        raise ValueError(f"expected Replicate() or Shard(axis) on each mesh axis, got {placement!r}")
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


def _dealt(ranges: Sequence[range], rounds: int, ranks: int, rank: int) -> list[range]:
    """What one of `ranks` ranks gets of indices dealt out as ``torch.chunk`` does, in `rounds` chunks one by one."""
    size = sum(map(len, ranges))
    held: list[range] = []
    for number in range(rounds):
        first, last = _chunk(size, rounds, number)
        begin, end = _chunk(last - first, ranks, rank)
        held += _section(ranges, first + begin, first + end)
    return held


def _chunk(size: int, chunks: int, number: int) -> tuple[int, int]:
    """Begin and end of one chunk: all are equally long but the last that is not empty."""
    length = -(-size // chunks)
    return min(size, length * number), min(size, length * (number + 1))


def _section(ranges: Sequence[range], begin: int, end: int) -> Iterator[range]:
    """Positions [begin, end) of ranges one after the other."""
    for held in ranges:
        if section := held[max(begin, 0) : max(end, 0)]:
            yield section
        begin -= len(held)
        end -= len(held)


def _joined(ranges: Sequence[range]) -> list[range]:
    """The same indices in fewer ranges."""
    joined: list[range] = []
    for held in ranges:
        if joined:
            last = joined[-1]
            step = held[0] - last[-1]
            if (len(last) == 1 or last.step == step) and (len(held) == 1 or held.step == step):
                joined[-1] = range(last[0], held[-1] + 1, step)
                continue
        joined.append(held)
    return joined


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
    fsdp = sys.modules.get("torch.distributed.fsdp.fully_sharded_data_parallel")  # without which there can be none
    if fsdp is None:
        return
    for prefix, module in model.named_modules():
        if isinstance(module, fsdp.FullyShardedDataParallel) and module._handle is not None:
            yield from _pieces(prefix, module._handle)


def _pieces(prefix: str, handle: Any) -> Iterator[Piece]:
    flat = handle.flat_param
    if flat.shape != flat._sharded_size:
        raise ValueError(
            f"the flat parameter of {prefix or 'the model'} was expected to be sharded, of shape "
            f"{tuple(flat._sharded_size)}, but is gathered now, of shape {tuple(flat.shape)}: leave summon_full_params "
            "or the forward pass first"
        )

    def full(*names: str) -> str:
        return canonical_name(".".join(name for name in (prefix, *names) if name))

    others: dict[tuple[nn.Module, str], list[tuple[str, nn.Module, str]]] = {}
    for shared in flat._shared_param_infos:
        other = (full(shared.module_name, shared.param_name), shared.module, shared.param_name)
        others.setdefault((shared.prim_module, shared.prim_param_name), []).append(other)
    memory = flat.detach()
    for (own_name, module, _), fqn, shape, stride, extension, shard in zip(
        flat._param_infos,
        flat._fqns,
        flat._shapes,
        flat._strides,
        flat._param_extensions,
        flat._shard_param_infos,
        strict=True,
    ):
        name = full(fqn)
        if extension is not None:
            raise ValueError(f"{name} was a DTensor before FSDP flattened it, which only fully_shard keeps track of")
        if not torch.empty(shape, device="meta").as_strided(shape, stride).is_contiguous():
            raise ValueError(
                f"{name} of shape {tuple(shape)} was expected to be contiguous when FSDP flattened it, but had strides "
                f"{tuple(stride)}"
            )
        first, count, start = 0, 0, 0
        if shard.in_shard:
            first, count, start = shard.offset_in_shard, shard.numel_in_shard, shard.intra_param_start_idx
        part = memory[first : first + count]
        yield Piece(name, module, own_name, shape, part, start, tuple(others.get((module, own_name), ())))
