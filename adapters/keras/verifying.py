"""Comparison of a model with its record, variable by variable.

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
    """Compares every variable of a model with its recorded values, without writing.

    The values are recomputed piece by piece and compared in place, in about the time of a fill. No digest is needed.

    Parameters
    ----------
    record : Record, str or path
        A record, its JSON, or the path of its file, from any backend.
    model : keras.Model or keras.Layer
        A built model, with variables of any dtype that fastinit fills.

    Returns
    -------
    Verification
        One row per variable. The verdicts are ``"equal"``; ``"rounded"`` (equal in another dtype); ``"trained"``, with
        the distance moved; ``"damaged"``, with the range that differs; ``"missing"`` from the model; ``"unknown"`` to
        the record; and ``"kept"`` (without recorded values). The printed form names the variables that differ.

    Raises
    ------
    ValueError
        For a record of another stream version, and for a model whose variables cannot be named, as in
        :func:`~fastinit.adapters.keras.initialize`.

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
    """The verdict on one variable of the recorded shape."""
    memory = memory_of(place.variable)
    if isinstance(entry.initializer, Keep):
        return judged_kept(entry, None if entry.digest is None else digest(memory))
    name = keras.backend.standardize_dtype(place.variable.dtype)
    if name not in DTYPES:
        return Verified(entry.name, "missing", f"in {name}, recorded in {entry.dtype}")
    dtype = DTYPES[name]
    buffer = buffer_of(memory.view(dtype.raw).reshape(entry.shape), dtype)
    return judged_memory(entry, buffer)
