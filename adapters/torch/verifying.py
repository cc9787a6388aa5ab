"""Whether a model still holds what its record says, tensor by tensor.

print(verify("init.json", model))
"""

from __future__ import annotations

import os
from dataclasses import replace

import torch
from torch import nn

from fastinit import Entry, Keep, Record, Verification, Verified
from fastinit.adapters.torch.histories import View
from fastinit.adapters.torch.layers import Place, evaluating, parameters
from fastinit.adapters.torch.tensors import DTYPES, Kind, kind_of, local_part, memory_of
from fastinit.extending import Rename, compare_buffer, in_stream_environment, judged, read_record

__all__ = ["verify"]


@in_stream_environment
def verify(
    record: Record | str | os.PathLike[str],
    model: nn.Module,
    *,
    rename: Rename | None = None,
    num_threads: int | None = None,
) -> Verification:
    """Compares every parameter of a model with what its record says it was filled with. Nothing is written.

    The values are made anew, a piece at a time, and compared in place, in about the time of the fill. No digest is
    needed, and of a sharded model each process verifies what it holds, without communication.

    Parameters
    ----------
    record : Record, str or path
        A record, its JSON, or the path of a file that holds it.
    model : torch.nn.Module
        With memory, sharded or not, in any dtype that fastinit fills.
    rename : callable, mapping of str to str, or None
        The record's names for those that this model has, as in :func:`~fastinit.adapters.torch.initialize_`.
    num_threads : int, optional
        At most so many threads.

    Returns
    -------
    Verification
        A row for each tensor, and one for each that was tied and is no longer: ``"equal"``; ``"rounded"``, equal in
        another dtype; ``"trained"``, with how far it has moved; ``"damaged"``, with the stretch that differs;
        ``"missing"`` from the model; ``"unknown"`` to the record; ``"kept"``, of which the record knows no values.
        Printed, it names those that are not as recorded.

    Raises
    ------
    ValueError
        A record of another stream version, and what :func:`~fastinit.adapters.torch.initialize_` raises of a model
        whose parameters cannot be named.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import initialize_, verify
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.Linear(256, 10))
    >>> record = initialize_(model, "auto", seed=0)
    >>> verify(record, model).is_sound
    True
    >>> with torch.no_grad():
    ...     _ = model[1].weight.mul_(1.01)
    >>> print(verify(record, model))
    4 tensors: 3 equal, 1 trained
    1.weight  trained  by 0.01 of their size
    """
    given = read_record(record)
    places = {place.parameter.name: place for place in parameters(model, rename)}
    others = {name: place for place in places.values() for name in place.parameter.other_names}
    rows = []
    for entry in given:
        found = {id(one): one for known in (places, others) for name in _names(entry) if (one := known.get(name))}
        first, *untied = found.values() or [None]
        rows.append(_verified(entry, first, num_threads))
        for place in untied:
            assert place is not None
            rows.append(replace(_verified(entry, place, num_threads), name=place.parameter.name))
    known = {name for entry in given for name in _names(entry)}
    for name, place in places.items():
        if known.isdisjoint((name, *place.parameter.other_names)):
            rows.append(Verified(name, "unknown"))
    return Verification(tuple(rows))


def _names(entry: Entry) -> tuple[str, ...]:
    return (entry.name, *entry.other_names)


def _verified(entry: Entry, place: Place | None, num_threads: int | None) -> Verified:
    """What became of one tensor."""
    if place is None:
        return Verified(entry.name, "missing")
    if place.parameter.shape != entry.shape:
        return Verified(entry.name, "missing", f"shape {place.parameter.shape}, recorded {entry.shape}")
    if isinstance(entry.initializer, Keep):
        return Verified(entry.name, "kept")
    tensor, shard = place.tensor, place.shard
    if place.parametrizations is not None:
        with evaluating(place.parametrizations):
            tensor = place.parametrizations()
    tensor = tensor.detach()
    if kind_of(tensor) is Kind.DISTRIBUTED:
        tensor, shard = local_part(tensor, shard)
        if shard is None:
            tensor = tensor[:0]
    if tensor.is_meta:
        return Verified(entry.name, "missing", "on the meta device, without memory")
    if tensor.dtype not in DTYPES:
        return Verified(entry.name, "missing", f"in {tensor.dtype}, recorded in {entry.dtype}")
    if tensor.layout is not torch.strided or (tensor.numel() and not tensor.untyped_storage().nbytes()):
        return Verified(entry.name, "missing", f"without memory, of layout {tensor.layout}")
    with torch.no_grad():
        tensor = tensor.resolve_neg().cpu()
        if View.of(tensor).repeats:
            tensor = tensor.contiguous()
    found = compare_buffer(
        memory_of(tensor), entry.initializer, entry.key, shard, drawn_in=entry.dtype, num_threads=num_threads
    )
    return judged(entry, DTYPES[tensor.dtype], found)
