"""What each recipe would do to a Keras model, side by side.

print(explain(model))
"""

from __future__ import annotations

from typing import Any

from fastinit.adapters.keras.layers import known, parameters
from fastinit.extending import Explanation, explained

__all__ = ["explain"]


def explain(model: Any) -> Explanation:
    """What the recipes "own", "auto" and "fans" would do to each variable of a model, how they differ, and why.

    Nothing is filled, and no values are looked at.

    Parameters
    ----------
    model : keras.Model or keras.Layer
        Built, by an Input, ``build()`` or a call. What a layer makes its variables with is found as
        :func:`~fastinit.adapters.keras.initialize` finds it.

    Returns
    -------
    Explanation
        A row for each variable that is made to be trained; printed, it is a table with the distribution and the
        standard deviation that each recipe gives, the kind of difference ("same", "scale", "distribution", "constant
        instead of drawn"...) and what was found. Frozen variables are kept by every recipe.

    Raises
    ------
    TypeError, ValueError
        As :func:`~fastinit.adapters.keras.initialize` does for models that it cannot describe.

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
