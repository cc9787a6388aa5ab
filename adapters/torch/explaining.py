"""Comparison of the recipes for a torch model.

print(explain(model))
"""

from __future__ import annotations

from torch import nn

from fastinit.adapters.torch.layers import parameters
from fastinit.extending import Explanation, explained

__all__ = ["explain"]


def explain(model: nn.Module) -> Explanation:
    """Explains what the recipes "own", "auto" and "fans" would do to each parameter of a model, and why they differ.

    It fills no parameter and reads no values.

    Parameters
    ----------
    model : torch.nn.Module
        In memory or on the meta device, sharded or not. The model's own initialization is known if it was built inside
        :func:`~fastinit.adapters.torch.deferred`.

    Returns
    -------
    Explanation
        One row per parameter. It prints as a table with each recipe's distribution and standard deviation, the kind of
        difference ("same", "scale", "distribution", "constant instead of drawn"...) and the facts behind it.

    Raises
    ------
    TypeError, ValueError
        As in :func:`~fastinit.adapters.torch.initialize_`, for models that it cannot describe.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import deferred, explain
    >>> with deferred():
    ...     model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU())
    >>> row = explain(model)["0.weight"]
    >>> row.difference, row.why.rpartition("; ")[2]
    ('auto and fans: distribution', 'auto and fans: scaled for relu')
    """
    return explained([place.parameter for place in parameters(model)])
