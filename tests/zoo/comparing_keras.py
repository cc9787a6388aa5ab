"""Whether a Keras model that was initialized is what its author's construction makes, but for the draws.

    for difference in compared(lambda: keras.applications.MobileNetV2(weights=None)):
        print(difference)

As in comparing.py: the author's constructor runs with three seeds; what is then the same three times has to be there
exactly, and the rest with its distribution in every part. Before fastinit fills a model, every variable that is to be
trained is made NaN, so that none is right because nobody touched it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import zoos_keras  # noqa: F401 (first: it names the backend)

import keras  # isort: skip
import numpy as np
import torch
from comparing import ACCIDENT, AUTHORS_SEEDS, OWN_SEEDS, Difference, other_values

Values = dict[str, torch.Tensor]


def seeded(build: Callable[[], Any], seed: int) -> Any:
    """The author's own construction; layers have the same names every time."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(seed)
    return build()


def compared(build: Callable[[], Any], made: Callable[[Any, int], Values] | None = None) -> list[Difference]:
    """All differences between the author's construction and ours.

    Parameters
    ----------
    build : callable
        The author's constructor.
    made : callable, optional
        made(model, seed): the values that are judged, :func:`own` by default.
    """
    authors = [values_of(seeded(build, seed)) for seed in AUTHORS_SEEDS]
    model = seeded(build, 99)
    try:
        models = [(made or own)(model, seed) for seed in OWN_SEEDS]
        found = list(differences(authors, models, state_of(model)))
        return found + list(_recipes(model))
    except Exception as error:
        return [Difference("failed", type(error).__name__, str(error))]


def values_of(model: Any) -> Values:
    """The values of every variable, by its path and its number among those of that path."""
    found: Values = {}
    for variable in model.variables:
        array = np.array(keras.ops.convert_to_numpy(keras.ops.cast(variable.value, _wide(variable))))
        name = variable.path
        while name in found:
            name += "'"
        found[name] = torch.from_numpy(array)
    return found


def _wide(variable: Any) -> str:
    """The dtype itself, or one that NumPy and torch have, too, and that holds its values."""
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return {"bfloat16": "float32", "uint32": "int64", "uint16": "int32"}.get(dtype, dtype)


def state_of(model: Any) -> set[str]:
    """The paths of variables that were never made to be trained."""
    return {variable.path for variable in model.non_trainable_variables if not variable.trainable}


def own(model: Any, seed: int) -> Values:
    """The values that fastinit gives to a model whose own are lost."""
    from fastinit.adapters.keras import initialize

    for variable in model.trainable_variables:
        variable.assign(keras.ops.full(variable.shape, float("nan"), variable.dtype))
    initialize(model, seed=seed)
    return values_of(model)


def differences(authors: list[Values], models: list[Values], state: set[str]) -> Iterator[Difference]:
    """Between several constructions by the author, each with a seed of its own, and several fills of ours.

    State (running statistics, seeds of dropout) is left as it was, and of the author's own kind where it has one value.
    """
    chance = ACCIDENT / max(1, len(authors[0]))
    if list(authors[0]) != list(models[0]):
        name = next(iter(authors[0].keys() ^ models[0].keys()), "")
        yield Difference("structure", name, "is not in both")
        return
    for name in authors[0]:
        groups = [[values[name] for values in group] for group in (authors, models)]
        if len({(tensor.shape, tensor.dtype) for group in groups for tensor in group}) > 1:
            yield Difference("structure", name, "of other shapes or dtypes")
        elif name in state:
            same = all(torch.equal(groups[0][0], one) for one in groups[0])
            wanted = groups[0][0] if same else groups[1][0]
            if not all(torch.equal(wanted, one) for one in groups[1]):
                yield Difference("state", name, "is not left as it was")
        elif found := other_values(*groups, chance):
            yield Difference(found[0], name, found[1])


def _recipes(model: Any) -> Iterator[Difference]:
    """The audit finds nothing in what own has given, and auto and fans do what explain says that they do."""
    from fastinit.adapters.keras import audit, explain, initialize

    for finding in audit(model).findings:
        yield Difference("audit", finding.name, f"{finding.kind}: {finding.message}")
    explained = explain(model)
    for recipe in ("auto", "fans"):
        for row, entry in zip(explained, initialize(model, recipe), strict=True):
            if row.name != entry.name or getattr(row, recipe) != entry.initializer:
                yield Difference("explained", entry.name, f"{recipe}: {getattr(row, recipe)}, not {entry.initializer}")
