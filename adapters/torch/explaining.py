"""What each recipe would do to a torch model, side by side.

print(explain(model))
"""

from __future__ import annotations

from torch import nn

from fastinit.adapters.torch.layers import parameters
from fastinit.extending import Explanation, explained

__all__ = ["explain"]


def explain(model: nn.Module) -> Explanation:
    """What the recipes "own", "auto" and "fans" would do to each parameter of a model, how they differ, and why.

    Nothing is filled, and no values are looked at.

    Parameters
    ----------
    model : torch.nn.Module
        In memory or on the meta device, sharded or not. What its own code does is known if it was built inside
        :func:`~fastinit.adapters.torch.deferred`.

    Returns
    -------
    Explanation
        A row for each parameter; printed, it is a table with the distribution and the standard deviation that each
        recipe gives, the kind of difference ("same", "scale", "distribution", "constant instead of drawn"...) and what
        was found.

    Raises
    ------
    TypeError, ValueError
        As :func:`~fastinit.adapters.torch.initialize_` does for models that it cannot describe.

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
