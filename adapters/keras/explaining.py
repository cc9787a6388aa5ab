"""Comparison of the recipes for a Keras model.

print(explain(model))
"""

from __future__ import annotations

from typing import Any

from fastinit.adapters.keras.layers import known, parameters
from fastinit.extending import Explanation, explained

__all__ = ["explain"]


def explain(model: Any) -> Explanation:
    """Explains what the recipes "own", "auto" and "fans" would do to each variable of a model, and why they differ.

    It fills no variable and reads no values.

    Parameters
    ----------
    model : keras.Model or keras.Layer
        A model built by an Input, ``build()`` or a call. A layer's own initializers are found as in
        :func:`~fastinit.adapters.keras.initialize`.

    Returns
    -------
    Explanation
        One row per trainable variable. It prints as a table with each recipe's distribution and standard deviation, the
        kind of difference ("same", "scale", "distribution", "constant instead of drawn"...) and the facts behind it.
        All recipes keep frozen variables.

    Raises
    ------
    TypeError, ValueError
        As in :func:`~fastinit.adapters.keras.initialize`, for models that it cannot describe.

    Examples
    --------
    >>> import keras
    >>> from fastinit.adapters.keras import explain
    >>> layers = [keras.layers.Dense(256, activation="relu", name="up"), keras.layers.Dense(10, name="logits")]
    >>> row = explain(keras.Sequential([keras.Input((64,)), *layers], name="net"))["net/up/kernel"]
    >>> row.difference, row.why.rpartition("; ")[2]
    ('auto and fans: distribution', 'auto and fans: scaled for relu')
    """
    return explained([place.parameter for place in known(model, parameters(model))])
