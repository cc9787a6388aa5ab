"""Plans of Keras's weight files: the variables of a model by their places in the file, and how each is filled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from fastinit import Keep, Key, Recipe, recipe_named
from fastinit.adapters.keras.internals import apart, noting, seeded, weights_layout
from fastinit.adapters.keras.layers import known, parameters, statistics
from fastinit.checkpoints import Filled, Origin, Plan, Tensor, Values
from fastinit.extending import in_stream_environment, planned, shown

__all__ = ["built_plan", "plan"]


@in_stream_environment
def plan(model: Any, recipe: str | Recipe | None = None, seed: int | str = 0) -> Plan:
    """The plan of a model's weight file: what ``model.save_weights`` writes after :func:`initialize`.

    Parameters
    ----------
    model : keras.Model or keras.Layer
        A built model. It stays as it is.
    recipe, seed
        As in :func:`~fastinit.adapters.keras.initialize`. Frozen variables keep their values.

    Returns
    -------
    fastinit.checkpoints.Plan
        The tensors have the names of the file's datasets, the record those of the variables.

    Raises
    ------
    UnmatchedParameter, ValueError, TypeError
        As in :func:`~fastinit.adapters.keras.initialize`, and for state that is not numbers, by name.

    Examples
    --------
    >>> import keras
    >>> from fastinit.adapters.keras import plan
    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(8, name="logits")], name="net")
    >>> [(tensor.name, tensor.shape) for tensor in plan(model, seed=0)]
    [('layers/dense/vars/0', (64, 8)), ('layers/dense/vars/1', (8,))]
    """
    places = known(model, parameters(model))
    chosen = recipe_named("own" if recipe is None else recipe)
    dtypes = [keras.backend.standardize_dtype(place.variable.dtype) for place in places]
    entries = planned([place.parameter for place in places], dtypes, chosen, seed)
    sources: dict[int, Filled | Values] = {
        id(place.variable): Filled(entry)
        for place, entry in zip(places, entries, strict=True)
        if not isinstance(entry.initializer, Keep)
    }
    for norm, variable, value in statistics(model):
        if norm.trainable:
            dtype = keras.backend.standardize_dtype(variable.dtype)
            sources[id(variable)] = _values(keras.ops.full(variable.shape, value, dtype=dtype))
    tensors = []
    for name, saved in weights_layout(model).items():
        try:
            tensors.append(Tensor(name, sources.get(id(saved)) or _values(saved)))
        except ValueError as problem:
            raise ValueError(f"{name!r}: {problem}") from None
    return Plan(tuple(tensors), seed, chosen.name, metadata={"format": "keras"})


def _values(tensor: Any) -> Values:
    """The values of a variable or tensor."""
    array = np.ascontiguousarray(keras.ops.convert_to_numpy(tensor))
    return Values(array.dtype.name, tuple(np.shape(tensor)), array.tobytes())


def built_plan(build: Callable[[], Any], origin: Origin) -> Plan | None:
    """The plan of the model that a function builds, called without arguments; its variables get no values.

    Parameters
    ----------
    build : callable
        Builds the model.
    origin : Origin
        Recipe and seed.

    Returns
    -------
    Plan or None
        None if the function gives anything but a layer or a model of Keras.

    Raises
    ------
    ValueError
        If a dtype is given: in Keras each layer has its own.
    """
    with seeded(Key(origin.seed).words[0]), apart(), noting(arrays_too=True):
        model = build()
    if not isinstance(model, keras.layers.Layer):
        return None
    if origin.dtype is not None:
        raise ValueError(
            f"dtype {shown(origin.dtype)} cannot be chosen for a model of Keras: each layer has its own dtype_policy"
        )
    with seeded(Key(origin.seed).words[0]):
        return plan(model, origin.recipe, origin.seed)
