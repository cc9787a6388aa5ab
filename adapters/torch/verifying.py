"""Comparison of a model with its record, tensor by tensor.

print(verify("init.json", model))
"""

from __future__ import annotations

import os

import torch
from torch import nn

from fastinit import Entry, Keep, Record, Verification, Verified
from fastinit.adapters.torch.histories import View
from fastinit.adapters.torch.layers import Place, evaluating, parameters
from fastinit.adapters.torch.models import digest_of
from fastinit.adapters.torch.tensors import DTYPES, Kind, kind_of, local_part, memory_of
from fastinit.extending import Rename, in_stream_environment, judged_kept, judged_memory, read_record, verify_each

__all__ = ["compared", "verify"]


@in_stream_environment
def verify(
    record: Record | str | os.PathLike[str],
    model: nn.Module,
    *,
    rename: Rename | None = None,
    num_threads: int | None = None,
) -> Verification:
    """Compares every parameter of a model with its recorded values, without writing.

    The values are recomputed piece by piece and compared in place, in about the time of a fill. No digest is needed.
    In a sharded model each process verifies its part, without communication.

    Parameters
    ----------
    record : Record, str or path
        A record, its JSON, or the path of its file.
    model : torch.nn.Module
        A model with memory, sharded or not, in any dtype that fastinit fills.
    rename : callable, mapping of str to str, or None
        Maps the names of this model to the record's names, as in :func:`~fastinit.adapters.torch.initialize_`.
    num_threads : int, optional
        Maximum number of threads.

    Returns
    -------
    Verification
        One row per tensor, and one for each tensor that is no longer tied. The verdicts are ``"equal"``; ``"rounded"``
        (equal in another dtype); ``"trained"``, with the distance moved; ``"damaged"``, with the range that differs;
        ``"missing"`` from the model; ``"unknown"`` to the record; and ``"kept"`` (without recorded values). The printed
        form names the tensors that differ.

    Raises
    ------
    ValueError
        For a record of another stream version, and for a model whose parameters cannot be named, as in
        :func:`~fastinit.adapters.torch.initialize_`.

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
    places = parameters(model, rename)
    found = [place.parameter for place in places]
    return verify_each(read_record(record), found, lambda entry, number: compared(places[number], entry, num_threads))


def compared(place: Place, entry: Entry, num_threads: int | None = None) -> Verified:
    """The verdict on one tensor of the recorded shape."""
    if isinstance(entry.initializer, Keep):
        return judged_kept(entry, None if entry.digest is None else digest_of(place, num_threads))
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
    return judged_memory(entry, memory_of(tensor), shard, num_threads=num_threads)
