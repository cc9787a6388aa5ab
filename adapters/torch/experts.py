"""Mixtures of experts, known by their structure: modules that hold the experts, and beside them a router."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

__all__ = ["Mixture", "mixtures"]

_CONVOLUTIONS = (nn.Conv1d, nn.ConvTranspose1d)


class Mixture(NamedTuple):
    """A block of a model that sends each token to some of its experts.

    Attributes
    ----------
    experts : nn.Module
        What holds the experts.
    packed : tuple of nn.Parameter
        Weights of all experts together, of three axes with the experts first; empty where each expert is a module.
    is_transposed : bool
        Whether packed weights are (experts, in, out) instead of (experts, out, in).
    router : nn.Module
        What holds the router's weight.
    weight : nn.Parameter
        The router's, with a row for each expert.
    bias : nn.Parameter or None
        The router's.
    """

    experts: nn.Module
    packed: tuple[nn.Parameter, ...]
    is_transposed: bool
    router: nn.Module
    weight: nn.Parameter
    bias: nn.Parameter | None


def mixtures(model: nn.Module) -> list[Mixture]:
    """The mixtures of experts of a model, in its order.

    Experts are a list of modules of one class, or a module with weights of three axes, as many in the first. The router
    is the nearest weight in the same block that has a row for each of them.

    Parameters
    ----------
    model : torch.nn.Module
        On any device.

    Examples
    --------
    >>> import torch
    >>> block = torch.nn.Module()
    >>> block.gate = torch.nn.Linear(16, 4, bias=False)
    >>> block.experts = torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(4))
    >>> (found,) = mixtures(torch.nn.Sequential(block))
    >>> found.weight is block.gate.weight
    True
    """
    return [found for block in model.modules() for found in _mixtures_of(block)]


def _mixtures_of(block: nn.Module) -> Iterator[Mixture]:
    for experts in block.children():
        packed = _packed(experts)
        count = packed[0].shape[0] if packed else _listed(experts)
        for router, role in _routers(block, experts, count) if count else ():
            own = dict(router.named_parameters(recurse=False))
            bias = own.get("bias")
            bias = bias if bias is not None and tuple(bias.shape) == (count,) else None
            is_transposed = bool(getattr(experts, "is_transposed", False))
            yield Mixture(experts, packed, is_transposed, router, own[role], bias)


def _packed(module: nn.Module) -> tuple[nn.Parameter, ...]:
    """The weights of three axes that a module holds itself, if all have as many experts."""
    if isinstance(module, _CONVOLUTIONS):
        return ()
    found = tuple(own for own in module.parameters(recurse=False) if own.dim() == 3)
    return found if len({own.shape[0] for own in found}) == 1 and found[0].shape[0] > 1 else ()


def _listed(module: nn.Module) -> int:
    """How many modules of one class a list of modules holds; 0 for anything else."""
    if not isinstance(module, (nn.ModuleList, nn.ModuleDict)) or len(module) < 2:
        return 0
    return len(module) if len({type(child) for child in module.children()}) == 1 else 0


def _routers(block: nn.Module, experts: nn.Module, count: int) -> list[tuple[nn.Module, str]]:
    """The modules nearest to the block that hold a weight with this number of rows, and its role in them."""
    level = [block]
    for _ in range(3):
        found = [
            (module, role)
            for module in level
            if not isinstance(module, nn.Embedding)
            for role, own in module.named_parameters(recurse=False)
            if own.dim() == 2 and own.shape[0] == count and role != "bias"
        ]
        if found:
            return found[:1]
        level = [child for module in level for child in module.children() if child is not experts]
    return []
