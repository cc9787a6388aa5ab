"""A warning for fills of a parametrization's output, which is recomputed at every access, so that the fill is lost."""

from __future__ import annotations

import gc
import re
from itertools import count
from typing import Any, Final

from torch import Tensor, nn

from fastinit.adapters.torch.drawing import notices
from fastinit.adapters.torch.internals import base_of

__all__ = ["tell_if_lost"]

# Names of the original parameters in torch.nn.utils.parametrize, spectral_norm and prune.
_ORIGINAL: Final = re.compile(r"original\d*|\w+_orig")

_COPIES: Final = ("CloneBackward", "ToCopyBackward")  # meant to be written to

_NODES = 500  # maximum length of a graph to follow; an orthogonal parametrization has about 20 nodes
_SEARCHES = 10  # per process: each search visits all objects, which takes 0.1 s for millions
_searched: Final = count()

_WARNING: Final = "parametrized"


def tell_if_lost(tensor: Tensor) -> None:
    """Warns, once, if a tensor that requires a gradient is a parametrization's output.

    It does not warn for a view, which writes to its parameter, or for other computed tensors: all leaves of the graph
    must be original parameters of a parametrization. Without autograd's graph (``torch.no_grad()``), the output of a
    parametrization is not recognized.
    """
    if _WARNING in notices.said:
        return
    base = base_of(tensor)
    if base.is_leaf or base.grad_fn is None or base.grad_fn.name().startswith(_COPIES):
        return
    leaves = _leaves(base.grad_fn)
    if not all(isinstance(leaf, nn.Parameter) for leaf in leaves):
        return
    if not any(leaf.shape == base.shape for leaf in leaves) or next(_searched) >= _SEARCHES:
        return
    tables = [table for table in gc.get_referrers(*leaves) if isinstance(table, dict)]
    if all(any(_computed_with(leaf, table) for table in tables) for leaf in leaves):
        notices.say_once(
            _WARNING,
            "the tensor is the output of a parametrization, which is recomputed from other parameters, so what is "
            "filled into it is lost: assign the values (layer.weight = values), fill the original parameter, or fill "
            "before parametrizing",
        )


def _leaves(function: Any) -> list[Tensor]:
    """The leaves of a graph; none if it has more than `_NODES` nodes."""
    leaves: dict[int, Tensor] = {}
    seen, left = {function}, [function]
    while left and len(seen) < _NODES:
        node = left.pop()
        if isinstance(variable := getattr(node, "variable", None), Tensor):
            leaves[id(variable)] = variable
        following = {next_node for next_node, _ in node.next_functions if next_node is not None} - seen
        seen |= following
        left += following
    return [] if left else list(leaves.values())


def _computed_with(leaf: Tensor, table: dict[Any, Any]) -> bool:
    """Whether a table has a parameter under a name from parametrize, prune, weight_norm or spectral_norm."""
    for name in [name for name, value in table.items() if value is leaf and isinstance(name, str)]:
        of_norm = {name[:-1] + "g", name[:-1] + "v"}
        if _ORIGINAL.fullmatch(name) or (name in of_norm and of_norm <= table.keys()):
            return True
    return False
