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
    """Gives every variable of a model that is made to be trained new values, each by its own key.

    The key is ``Key(seed).fold_in(name)``, so adding, removing or reordering layers changes no other variable's values,
    on any backend. The name is the variable's path, without the name that Keras gave to the model, and with Keras's
    numbers of layers without a name (``dense_7``) counted anew within whatever holds them: the same code gives the same
    values, however often it runs. A layer that is added without a name can change the numbers of its class, so name
    layers whose values are to stay. Everything is checked, and every variable has its rule, before anything is written.

    Parameters
    ----------
    model : keras.Model or keras.Layer
        Built, by an Input, ``build()`` or a call.
    recipe : str, Recipe or None
        ``"own"`` (what each layer makes its variables with), ``"auto"`` (true fans and the gain of the activation that
        follows, where the author left Keras's default), ``"fans"`` (the same wherever the author draws the kernel of
        a linear map), or a :class:`fastinit.Recipe`, whose rules see Keras's class names and the variables' names:
        ``Rule("Dense", "kernel", ...)``. None is "own".
    seed : int or str
        Of all keys. The seeds of the layers' own initializers play no part.
    unmatched : {"error", "keep"}
        What becomes of variables that the recipe has no answer for: one error that names them all, or they stay as
        they are.
    frozen : bool
        Whether variables of frozen layers are filled too. Otherwise they stay as they are, and so do the running
        statistics of their norms.
    only, skip : str, sequence of str, callable or None
        The variables that are meant, see :func:`fastinit.selected`: patterns of names, or a function of a
        :class:`fastinit.Parameter`. Everything else keeps its values, and needs no rule.
    rows : mapping of str to int or NewRows, optional
        Variables of which the new rows alone are filled, along the first axis, as of the embeddings of a larger
        vocabulary that hold the rows of a smaller one: for patterns of names the first new row, or a
        :class:`fastinit.NewRows`. They are meant beside those of `only`, and without it alone.
    digests : bool
        Whether the record holds digests of the bytes too, for :func:`replay` to compare and for other programs. They
        take longer than the fill, and :func:`~fastinit.adapters.keras.verify` needs none.

    Returns
    -------
    Record
        An entry for each variable, in the model's order: the same as that of the torch adapter.

    Raises
    ------
    UnmatchedParameter, ValueError, TypeError
        Variables that the recipe has no answer for, an initializer that a shape or dtype cannot take, contradictory
        rules, two variables with one path, a model that is not built. Each names the variable; nothing has been
        written.

    Notes
    -----
    Running statistics of batch norms are reset; other variables that are not trained are left alone.

    What a layer makes its variables with is read from its twin: the model is built once more from its configuration,
    without values, or where Keras cannot do that each layer in it. A layer that has no configuration, or none that can
    be read, is to be built inside :func:`fastinit.adapters.keras.recorded`.

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
    """Fills a model as a record says, and compares the bytes with the record's digests, if it has any.

    Parameters
    ----------
    record : Record, str or path
        A record, its JSON, or the path of a file that holds it, made on any backend.
    model : keras.Model or keras.Layer
        With the variables that the record names, of the same shapes and dtypes, in any order.

    Returns
    -------
    Record
        With the digests of the bytes that were written, where the given one has digests.

    Raises
    ------
    ValueError
        A record of another stream version; names, shapes or dtypes that differ, before anything is written; afterwards,
        a digest that differs.

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
    """Raises what giving variables their new rows would raise, before anything is written."""
    for place, entry in zip(places, entries, strict=True):
        if isinstance(entry.initializer, NewRows):
            try:
                check_new_rows(place.variable, entry.initializer)
            except ValueError as problem:
                raise ValueError(f"{entry.name!r}: {problem}") from None


def _written(
    model: Any, places: Sequence[Place], entries: Sequence[Entry], digests: Sequence[bool], partly: bool = False
) -> list[Entry]:
    """The entries, once the variables hold what they say, and digests of those that are to have one.

    `partly`: layers without a variable among them stay.
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
        if not kept.get(id(norm), partly or not norm.trainable):  # a pretrained norm keeps its statistics too
            variable.assign(keras.ops.full(variable.shape, value, dtype=variable.dtype))
    return written
