"""Whether a model still holds what its record says, variable by variable.

print(verify("init.json", model))
"""

from __future__ import annotations

import os
from typing import Any

import keras

from fastinit import Entry, Keep, Record, Verification, Verified, digest
from fastinit.adapters.keras.layers import Place, parameters
from fastinit.adapters.keras.tensors import memory_of
from fastinit.extending import (
    DTYPES,
    buffer_of,
    in_stream_environment,
    judged_kept,
    judged_memory,
    read_record,
    verify_each,
)

__all__ = ["compared", "verify"]


@in_stream_environment
def verify(record: Record | str | os.PathLike[str], model: Any) -> Verification:
    """Compares every variable of a model with what its record says it was filled with. Nothing is written.

    The values are made anew, a piece at a time, and compared in place, in about the time of the fill. No digest is
    needed.

    Parameters
    ----------
    record : Record, str or path
        A record, its JSON, or the path of a file that holds it, made on any backend.
    model : keras.Model or keras.Layer
        Built, with variables of any dtype that fastinit fills.

    Returns
    -------
    Verification
        A row for each variable: ``"equal"``; ``"rounded"``, equal in another dtype; ``"trained"``, with how far it has
        moved; ``"damaged"``, with the stretch that differs; ``"missing"`` from the model; ``"unknown"`` to the record;
        ``"kept"``, of which the record knows no values. Printed, it names those that are not as recorded.

    Raises
    ------
    ValueError
        A record of another stream version, and what :func:`~fastinit.adapters.keras.initialize` raises of a model whose
        variables cannot be named.

    Examples
    --------
    >>> import keras
    >>> from fastinit.adapters.keras import initialize, verify
    >>> layers = [keras.layers.Dense(32, name="hidden"), keras.layers.Dense(8, name="logits")]
    >>> model = keras.Sequential([keras.Input((64,)), *layers], name="net")
    >>> record = initialize(model, "auto", seed=0)
    >>> verify(record, model).is_sound
    True
    >>> _ = model.layers[1].kernel.assign(model.layers[1].kernel * 1.01)
    >>> print(verify(record, model))
    4 tensors: 3 equal, 1 trained
    net/logits/kernel  trained  by 0.01 of their size
    """
    places = parameters(model)
    found = [place.parameter for place in places]
    return verify_each(read_record(record), found, lambda entry, number: compared(places[number], entry))


def compared(place: Place, entry: Entry) -> Verified:
    """What became of one variable, of the recorded shape."""
    memory = memory_of(place.variable)
    if isinstance(entry.initializer, Keep):
        return judged_kept(entry, None if entry.digest is None else digest(memory))
    name = keras.backend.standardize_dtype(place.variable.dtype)
    if name not in DTYPES:
        return Verified(entry.name, "missing", f"in {name}, recorded in {entry.dtype}")
    dtype = DTYPES[name]
    buffer = buffer_of(memory.view(dtype.raw).reshape(entry.shape), dtype)
    return judged_memory(entry, buffer)
