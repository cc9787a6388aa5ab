"""Tensors that a parametrization computes anew each time they are asked for: what is filled into one is lost."""

from __future__ import annotations

import gc
import re
from itertools import count
from typing import Any, Final

from torch import Tensor, nn

from fastinit.adapters.torch.drawing import notices
from fastinit.adapters.torch.internals import base_of

__all__ = ["tell_if_lost"]

# What torch.nn.utils.parametrize, spectral_norm and prune call the parameters that they compute with.
_ORIGINAL: Final = re.compile(r"original\d*|\w+_orig")

_COPIES: Final = ("CloneBackward", "ToCopyBackward")  # made to be written to

_NODES = 500  # of the longest graph that is looked at; that of an orthogonal parametrization has about 20
_SEARCHES = 50  # of a process: each goes over all objects
_searched: Final = count()


def tell_if_lost(tensor: Tensor) -> None:
    """Warns, once, if a tensor that requires a gradient is a parametrization's output.

    Views of parameters are written through. Other computed tensors belong to no parameter, and are left alone: it is
    told only where the graph leads to the original parameters of a parametrization, and to nothing else. Where autograd
    keeps no graph (``torch.no_grad()``), nothing can be known.
    """
    base = base_of(tensor)
    if base.is_leaf or base.grad_fn is None or base.grad_fn.name().startswith(_COPIES):
        return
    leaves = _leaves(base.grad_fn)
    if not any(leaf.shape == base.shape for leaf in leaves) or next(_searched) >= _SEARCHES:
        return
    if all(map(_is_original, leaves)):
        notices.say_once(
            "parametrized",
            "the tensor is the output of a parametrization, which is computed anew from other parameters, so what is "
            "filled into it is lost: assign the values (layer.weight = values), fill the original parameter, or fill "
            "before parametrizing",
        )


def _leaves(function: Any) -> list[Tensor]:
    """The leaves of a graph; none of one that is very large."""
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


def _is_original(leaf: Tensor) -> bool:
    return isinstance(leaf, nn.Parameter) and any(_computed_with(leaf, table) for table in gc.get_referrers(leaf))


def _computed_with(leaf: Tensor, table: object) -> bool:
    """Whether a module's table of parameters calls one as parametrize, prune, weight_norm or spectral_norm do."""
    if not isinstance(table, dict):
        return False
    for name in [name for name, value in table.items() if value is leaf and isinstance(name, str)]:
        of_norm = {name[:-1] + "g", name[:-1] + "v"}
        if _ORIGINAL.fullmatch(name) or (name in of_norm and of_norm <= table.keys()):
            return True
    return False
