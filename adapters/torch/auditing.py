"""Is a model initialized as it should be, does the signal survive in it? :func:`audit`; and :func:`lsuv_` mends it.

Layers are measured by hooks, so a model may be of any architecture, and it is left as it was.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Final

import torch
from torch import Tensor, nn

from fastinit import Audit, Record, digest
from fastinit.adapters.torch.internals import own_modules
from fastinit.adapters.torch.layers import Place, evaluating, followed_by_norms, parameters
from fastinit.adapters.torch.measuring import arguments_of, array_of, calls, left_as_it_was, run
from fastinit.adapters.torch.tensors import DTYPES, Kind, kind_of
from fastinit.extending import (
    Held,
    UnitVariance,
    in_stream_environment,
    judge_chain,
    judge_parameters,
    read_record,
    shown,
)

__all__ = ["audit", "lsuv_"]

# Their outputs are their weight times their input, and a bias.
SCALED: Final = {
    "Linear",
    "Bilinear",
    "Conv1D",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
}


def audit(
    model: nn.Module,
    batch: Any = None,
    *,
    record: Record | str | os.PathLike[str] | None = None,
    loss: Callable[[Any], Tensor] | None = None,
) -> Audit:
    """Looks for what is wrong with a model's initialization.

    Of the parameters: NaN, values never written, constant or identical units, tensors that are copies or tied by
    mistake, and scales that no scheme gives, or one with wrong fans; see :mod:`fastinit.audits`. With a batch the model
    runs once, forward and backward, in the mode it is in (a new one trains, so that its norms use the batch), and every
    layer is measured; the verdict comes with the layer that breaks the chain and the rule that would mend it.

    The model is left as it was: parameters, gradients, buffers, modes, hooks, and the state of torch's generators.

    Parameters
    ----------
    model : torch.nn.Module
        With memory. Of sharded parameters each process judges its own part, without communication.
    batch : tensor, tuple, list or mapping, optional
        What the model is called with: a tensor, arguments, or arguments by name, on the model's device. Real inputs, or
        standard normal ones; from 32 examples on, dead layers are told well.
    record : Record, str or path, optional
        Of the model's initialization: then values are compared with its digests, and scales with its stds.
    loss : callable, optional
        From the model's output to what is differentiated, a scalar; by default the sum of all its floating tensors
        times standard normal noise, the same every time.

    Returns
    -------
    Audit

    Raises
    ------
    TypeError, ValueError
        A model that is no module, has no parameters, or some on the meta device or of lazy modules; a batch with which
        the model cannot be run, or that is not finite; a record that lacks a parameter.

    Notes
    -----
    A layer is measured by the first floating tensor of its output, which may be a tensor, a tuple, list, mapping or
    dataclass of them. Layers inside a module that calls no others of its own (``nn.MultiheadAttention``'s projections)
    are measured as one. Gradients pass no ``torch.no_grad`` and no reentrant checkpoint.

    D. Mishkin and J. Matas, "All you need is a good init", 2016; X. Glorot and Y. Bengio, "Understanding the difficulty
    of training deep feedforward neural networks", 2010.

    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    >>> _ = nn.init.zeros_(model[0].weight)
    >>> [(finding.name, finding.kind) for finding in audit(model).findings]
    [('0.weight', 'untouched')]
    """
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be a function of the model's output, not {shown(loss)}")
    places = _places(model)
    given = None if record is None else read_record(record)
    arguments = None if batch is None else arguments_of(batch)
    repeated = _repeated(model)
    normed = followed_by_norms(model)
    held = (_held(place, repeated, normed, given is not None) for place in places if place.tensor.is_floating_point())
    if arguments is None:
        findings, notes = judge_parameters(held, given)
        return Audit(findings, notes=notes)
    layers, output = calls(model, places, *arguments, loss)
    findings, notes = judge_parameters(held, given, layers)
    verdict, reason, more = judge_chain(layers, output)
    return Audit((*findings, *more), tuple(layers), verdict, reason, notes)


def _places(model: nn.Module) -> list[Place]:
    places = parameters(model)
    if not places:
        raise ValueError(f"{type(model).__name__} has no parameters")
    meta = [place.parameter.name for place in places if place.tensor.is_meta]
    if meta:
        raise ValueError(f"on the meta device, without values: {', '.join(meta[:3])}; materialize() them first")
    return places


# Parameters


def _held(place: Place, repeated: set[int], normed: dict[int, bool], digests: bool) -> Held:
    if place.parametrizations is not None:
        with evaluating(place.parametrizations):
            tensor = place.parametrizations()
    else:
        tensor = place.tensor
    tensor = tensor.detach()
    if kind_of(tensor) is Kind.DISTRIBUTED:
        tensor = tensor.to_local()
    tensor = tensor.cpu().contiguous()
    bytes_of = None
    is_in_order = place.shard is None or place.is_flat
    if digests and is_in_order and tensor.numel() == math.prod(place.parameter.shape):
        bytes_of = digest(tensor.reshape(-1).view(torch.uint8).numpy())
    return Held(
        place.parameter,
        array_of(tensor),
        DTYPES.get(tensor.dtype, ""),
        place.parameter.other_names,
        _tied_by_mistake(place, repeated),
        place.tensor.requires_grad,
        bytes_of,
        normed.get(id(place.owners[0][0])),
    )


def _repeated(model: nn.Module) -> set[int]:
    """Modules that stand several times in one container, as in ``nn.ModuleList([layer] * 3)``, and all in them."""
    found = set()
    for container in model.modules():
        if isinstance(container, (nn.Sequential, nn.ModuleList)):
            children = [id(module) for module in own_modules(container).values()]
            twice = [module for module in container.children() if children.count(id(module)) > 1]
            found |= {id(inner) for module in twice for inner in module.modules()}
    return found


def _tied_by_mistake(place: Place, repeated: set[int]) -> bool:
    """Whether different layers of one type share a tensor, or one layer stands several times in a container.

    A module that has another name besides is an alias; an embedding and its head, and embeddings, share on purpose.
    """
    if not place.parameter.other_names or place.tensor.numel() < 2 or not place.parameter.layer:
        return False
    modules = {id(module): module for module, _ in place.owners}
    if any(isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module in modules.values()):
        return False
    types = [type(module) for module in modules.values()]
    return any(types.count(one) > 1 for one in types) or bool(modules.keys() & repeated)


# Scaling by data


@in_stream_environment
def lsuv_(model: nn.Module, batch: Any, *, tolerance: float = 0.02, rounds: int = 10) -> dict[str, float]:
    """Scales the weights of a model in place, layer by layer, until each output on a batch has unit variance.

    Layer-sequential unit variance: in the order of execution, each linear or convolutional layer's weight is divided by
    the standard deviation of the layer's output, so that the next layer sees what it will see. Biases stay. The model
    runs once, in the mode it is in; buffers, modes, hooks and torch's generators are left as they were. The same model
    and batch give the same weights.

    Parameters
    ----------
    model : torch.nn.Module
        With memory, neither sharded nor parametrized where it is scaled. Initialize it first: the paper does so with
        orthogonal matrices, and any independent draws will do.
    batch : tensor, tuple, list or mapping
        As for :func:`audit`. The scales are as good as the batch is typical.
    tolerance : float, > 0
        By how much a variance may differ from 1.
    rounds : int, >= 1
        How often a layer is scaled at most: one time is enough without a bias.

    Returns
    -------
    dict of str to float
        What each weight was multiplied by, in the order of execution.

    Raises
    ------
    TypeError, ValueError
        What :func:`audit` raises of a model and a batch; a weight that is a DTensor or parametrized; a layer whose
        output has no variance, none that is finite, or does not come near 1, as with a bias of larger variance. The
        weights are then as they were.

    Notes
    -----
    Left alone are recurrent layers and ``nn.MultiheadAttention``, whose outputs their weights do not scale, layers that
    the batch does not reach, and weights that an embedding shares. A layer that is called more than once is scaled at
    its first call.

    D. Mishkin and J. Matas, "All you need is a good init", ICLR 2016, algorithm 1.

    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    >>> factors = lsuv_(model, torch.randn(256, 64))
    >>> list(factors), audit(model, torch.randn(256, 64)).verdict
    (['0.weight', '2.weight'], 'healthy')
    """
    unit = UnitVariance(tolerance, rounds)
    places = _places(model)
    arguments, named = arguments_of(batch)
    scaled = _scaled(places)
    factors: dict[str, float] = {}
    before: list[tuple[Tensor, Tensor]] = []

    def hook(module: nn.Module, given: Any, named: Any, output: Any) -> Any:
        name, weight = scaled[module]
        if name in factors:
            return None
        before.append((weight, weight.clone()))
        factors[name] = 1.0
        for attempt in range(rounds + 1):
            factor = unit.factor(name, output.double().var(correction=0).item(), attempt)
            if factor is None:
                return output
            weight.mul_(factor)
            factors[name] *= factor
            output = module.forward(*given, **named)
        return output

    with ExitStack() as stack:
        stack.enter_context(left_as_it_was(model, places))
        stack.enter_context(torch.no_grad())
        for module in scaled:
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        try:
            run(model, arguments, named)
        except BaseException:
            for weight, saved in before:
                weight.copy_(saved)
            raise
    return factors


def _scaled(places: Iterable[Place]) -> dict[nn.Module, tuple[str, Tensor]]:
    """The modules whose weight scales their output."""
    found: dict[nn.Module, tuple[str, Tensor]] = {}
    for place in places:
        parameter = place.parameter
        if parameter.role != "weight" or not set(parameter.types) & SCALED:
            continue
        owners = [module for module, _ in place.owners]
        if any(isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module in owners):
            continue
        if place.parametrizations is not None:
            raise ValueError(f"{parameter.name!r} is parametrized: scale the model before parametrizing it")
        if kind_of(place.tensor) is Kind.DISTRIBUTED or place.shard is not None:
            raise ValueError(f"{parameter.name!r} is sharded: scale the model before sharding it")
        found |= dict.fromkeys(owners, (parameter.name, place.tensor))
    return found
