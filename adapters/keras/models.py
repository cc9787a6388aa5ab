"""Whole models: every variable by its own key, derived from its name, and a record that can be replayed.

record = initialize(model, "auto", seed=0)
record.save("init.json")
replay("init.json", same_model)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras

import fastinit
from fastinit import Entry, Keep, NewRows, Recipe, Record, Selection, digest, recipe_named
from fastinit.adapters.keras.layers import Place, known, parameters, statistics
from fastinit.adapters.keras.tensors import assign, assign_rows, check_new_rows, memory_of
from fastinit.extending import (
    compare_digests,
    in_stream_environment,
    meant,
    planned,
    read_record,
    recorded_entries,
)

__all__ = ["initialize", "replay"]


@in_stream_environment
def initialize(
    model: Any,
    recipe: str | Recipe | None = None,
    seed: int | str = 0,
    *,
    unmatched: str = "error",
    frozen: bool = False,
    only: Selection | None = None,
    skip: Selection | None = None,
    rows: Mapping[str, int | NewRows] | None = None,
    digests: bool = False,
) -> Record:
    """Fills every trainable variable of a model, each with its own key.

    The key is ``Key(seed).fold_in(name)``, so adding, removing or reordering layers changes no other variable's values,
    on any backend. The name is the variable's path, without a model name that Keras chose. The numbers of unnamed
    layers (``dense_7``) are recounted within their parent, so the same code gives the same values, however often it
    runs. A new unnamed layer can change the numbers of its class, so name the layers whose values must stay. All
    arguments are checked, and every variable has its rule, before anything is written.

    Parameters
    ----------
    model : keras.Model or keras.Layer
        A model built by an Input, ``build()`` or a call.
    recipe : str, Recipe or None
        ``"own"`` (each layer's own initializers), ``"auto"`` (true fans and the gain of the following activation, for
        variables that the author left at Keras's default), ``"fans"`` (the same for every kernel of a linear map that
        the author draws), or a :class:`fastinit.Recipe`, whose rules match Keras's class names and the variables'
        names: ``Rule("Dense", "kernel", ...)``. None means "own".
    seed : int or str
        Seed of all keys. The seeds of the layers' own initializers have no effect.
    unmatched : {"error", "keep"}
        Treatment of variables without an answer from the recipe: one error that names them all, or leave them
        unchanged.
    frozen : bool
        Whether to fill variables of frozen layers. Otherwise they and the running statistics of their norms stay
        unchanged.
    only, skip : str, sequence of str, callable or None
        Selection of variables, see :func:`fastinit.selected`: patterns of names, or a function of a
        :class:`fastinit.Parameter`. All other variables keep their values and need no rule.
    rows : mapping of str to int or NewRows, optional
        Variables whose new rows alone are filled, along the first axis, such as the embeddings of an enlarged
        vocabulary. Maps patterns of names to the first new row, or to a :class:`fastinit.NewRows`. These variables are
        selected in addition to `only`; without `only`, they alone are selected.
    digests : bool
        Whether the record holds digests of the bytes, for :func:`replay` and for other programs. They take longer than
        the fill, and :func:`~fastinit.adapters.keras.verify` does not need them.

    Returns
    -------
    Record
        One entry per variable, in the model's order, in the form of the torch adapter's records.

    Raises
    ------
    UnmatchedParameter, ValueError, TypeError
        For variables without an answer, an initializer that does not fit a shape or dtype, contradictory rules, two
        variables with one path, and a model that is not built. The error names the variable. Nothing has been written.

    Notes
    -----
    Running statistics of batch norms are reset. Other non-trainable variables stay unchanged.

    A layer's initializers are read from its twin: the model is built again from its configuration, without values. If
    Keras cannot do that, each layer is built again. A layer without a readable configuration must be built inside
    :func:`fastinit.adapters.keras.recorded`.

    Examples
    --------
    >>> import keras
    >>> from fastinit.adapters.keras import initialize
    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(8, name="logits")], name="net")
    >>> for entry in initialize(model, seed=0):
    ...     print(entry.name, entry.rule)
    net/logits/kernel the author's own: GlorotUniform
    net/logits/bias the author's own: Zeros
    """
    places = known(model, parameters(model), frozen)
    chosen = recipe_named("own" if recipe is None else recipe)
    described = [place.parameter for place in places]
    asked, new = meant(described, only, skip, rows)
    entries = planned(described, _dtypes(places), chosen, seed, unmatched, frozen=frozen, asked=asked, rows=new)
    _check_new_rows(places, entries)
    written = _written(model, places, entries, [digests] * len(places), partly=not all(asked))
    filled = tuple(entry for entry, is_asked in zip(written, asked, strict=True) if is_asked)
    return Record(filled, seed, chosen.name, fastinit.__version__)


@in_stream_environment
def replay(record: Record | str | os.PathLike[str], model: Any) -> Record:
    """Fills a model from a record, and compares the bytes with the record's digests, if any.

    Parameters
    ----------
    record : Record, str or path
        A record, its JSON, or the path of its file, from any backend.
    model : keras.Model or keras.Layer
        A model with the record's variables, of the same shapes and dtypes, in any order.

    Returns
    -------
    Record
        The record, with digests of the written bytes if the given record has digests.

    Raises
    ------
    ValueError
        For a record of another stream version, and for different names, shapes or dtypes, before anything is written.
        Afterwards, for a different digest.

    Examples
    --------
    >>> import keras
    >>> from fastinit.adapters.keras import initialize, replay
    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(8, name="logits")], name="net")
    >>> record = initialize(model, "auto", seed=0)
    >>> replay(record, model) == record
    True
    """
    given = read_record(record)
    places = parameters(model)
    entries = recorded_entries(given, [place.parameter for place in places], _dtypes(places))
    _check_new_rows(places, entries)
    written = _written(model, places, entries, [entry.digest is not None for entry in entries])
    compare_digests(entries, written)
    return replace(given, entries=tuple(written))


def _dtypes(places: Sequence[Place]) -> list[str]:
    return [keras.backend.standardize_dtype(place.variable.dtype) for place in places]


def _check_new_rows(places: Sequence[Place], entries: Sequence[Entry]) -> None:
    """Raises the errors of filling new rows, before anything is written."""
    for place, entry in zip(places, entries, strict=True):
        if isinstance(entry.initializer, NewRows):
            try:
                check_new_rows(place.variable, entry.initializer)
            except ValueError as problem:
                raise ValueError(f"{entry.name!r}: {problem}") from None


def _written(
    model: Any, places: Sequence[Place], entries: Sequence[Entry], digests: Sequence[bool], partly: bool = False
) -> list[Entry]:
    """Fills the variables. Returns the entries, with digests where requested.

    `partly`: layers without a variable among them stay unchanged.
    """
    written = []
    kept: dict[int, bool] = {}
    for place, entry, has_digest in zip(places, entries, digests, strict=True):
        stays = isinstance(entry.initializer, Keep)
        kept[id(place.layer)] = kept.get(id(place.layer), True) and stays
        if isinstance(entry.initializer, NewRows):
            assign_rows(place.variable, entry.initializer, entry.key)
        elif not stays:
            assign(place.variable, entry.initializer, entry.key)
        written.append(replace(entry, digest=digest(memory_of(place.variable)) if has_digest else None))
    for norm, variable, value in statistics(model):
        if not kept.get(id(norm), partly or not norm.trainable):  # a pretrained norm also keeps its statistics
            variable.assign(keras.ops.full(variable.shape, value, dtype=variable.dtype))
    return written
