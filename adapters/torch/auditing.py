"""Checks of a model's initialization and signal (:func:`audit`), and scaling by data (:func:`lsuv_`).

Hooks measure the layers, so every architecture works, and the model stays unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Final

import torch
from torch import Tensor, nn

from fastinit import Audit, Entry, Record
from fastinit.adapters.torch.internals import own_modules
from fastinit.adapters.torch.layers import Place, evaluating, followed_by_norms, parameters
from fastinit.adapters.torch.measuring import arguments_of, array_of, calls, left_as_it_was, run
from fastinit.adapters.torch.tensors import DTYPES, Kind, kind_of
from fastinit.adapters.torch.verifying import compared
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

# Layers whose output is the weight times the input, plus a bias.
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
    """Checks a model's initialization.

    For the parameters, it finds NaN, unwritten values, constant or identical units, accidental copies and ties, and
    scales that match no scheme, or match one with wrong fans; see :mod:`fastinit.audits`. With a batch, the model runs
    once, forward and backward, in its current mode (in training mode norms use the batch), and every layer is measured.
    The verdict names the layer where the signal breaks and the rule that would fix it.

    The model stays unchanged: parameters, gradients, buffers, modes, hooks, and the state of torch's generators.

    Parameters
    ----------
    model : torch.nn.Module
        A model with memory. For sharded parameters, each process judges its own part, without communication.
    batch : tensor, tuple, list or mapping, optional
        The model's input: a tensor, arguments, or arguments by name, on the model's device. Use real inputs or standard
        normal ones. With 32 or more examples, dead layers are detected reliably.
    record : Record, str or path, optional
        Record of the model's initialization. Then values are compared with it, and scales with its stds.
    loss : callable, optional
        Function from the model's output to a scalar to differentiate. By default the sum of all floating tensors of the
        output times standard normal noise, the same every time.

    Returns
    -------
    Audit

    Raises
    ------
    TypeError, ValueError
        For a model that is not a module, has no parameters, or has parameters on the meta device or of lazy modules; a
        batch that is not finite or does not fit the model; and a record that lacks a parameter.

    Notes
    -----
    A layer is measured by the first floating tensor of its output, which may be a tensor, or a tuple, list, mapping or
    dataclass of tensors. Layers in a module that does not call them (``nn.MultiheadAttention``'s
    projections) are measured as one. Gradients do not pass ``torch.no_grad`` and reentrant checkpoints.

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
    entries = {} if given is None else {entry.name: entry for entry in given}
    held = (
        _held(place, repeated, normed, entries.get(place.parameter.name))
        for place in places
        if place.tensor.is_floating_point()
    )
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


def _held(place: Place, repeated: set[int], normed: dict[int, bool], entry: Entry | None) -> Held:
    if place.parametrizations is not None:
        with evaluating(place.parametrizations):
            tensor = place.parametrizations()
    else:
        tensor = place.tensor
    tensor = tensor.detach()
    if kind_of(tensor) is Kind.DISTRIBUTED:
        tensor = tensor.to_local()
    tensor = tensor.cpu().contiguous()
    recorded = None
    if entry is not None and entry.shape == place.parameter.shape:
        recorded = compared(place, entry)
    return Held(
        place.parameter,
        array_of(tensor),
        DTYPES.get(tensor.dtype, ""),
        place.parameter.other_names,
        _tied_by_mistake(place, repeated),
        place.tensor.requires_grad,
        recorded,
        normed.get(id(place.owners[0][0])),
    )


def _repeated(model: nn.Module) -> set[int]:
    """Modules that appear several times in one container, as in ``nn.ModuleList([layer] * 3)``, with all children."""
    found = set()
    for container in model.modules():
        if isinstance(container, (nn.Sequential, nn.ModuleList)):
            children = [id(module) for module in own_modules(container).values()]
            twice = [module for module in container.children() if children.count(id(module)) > 1]
            found |= {id(inner) for module in twice for inner in module.modules()}
    return found


def _tied_by_mistake(place: Place, repeated: set[int]) -> bool:
    """Whether different layers of one type share a tensor, or one layer appears several times in a container.

    A module with a second name is an alias. Embeddings, and an embedding and its head, share on purpose.
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

    Layer-sequential unit variance divides each linear or convolutional layer's weight by the standard deviation of the
    layer's output, in the order of execution, so that the next layer sees its final input. Biases stay. The model runs
    once, in its current mode. Buffers, modes, hooks and torch's generators stay unchanged. The same model and batch
    give the same weights.

    Parameters
    ----------
    model : torch.nn.Module
        A model with memory, whose scaled weights are neither sharded nor parametrized. Initialize it first: the paper
        uses orthogonal matrices, and all independent draws work.
    batch : tensor, tuple, list or mapping
        As for :func:`audit`. A typical batch gives good scales.
    tolerance : float, > 0
        Maximum deviation of a variance from 1.
    rounds : int, >= 1
        Maximum number of scalings per layer. One is enough without a bias.

    Returns
    -------
    dict of str to float
        The factor of each weight, in the order of execution.

    Raises
    ------
    TypeError, ValueError
        As in :func:`audit` for a model and a batch; for a weight that is a DTensor or parametrized; and for a layer
        whose output variance is zero, not finite, or does not approach 1, as with a bias of larger variance. Then the
        weights stay unchanged.

    Notes
    -----
    Some weights are not scaled: those of recurrent layers and ``nn.MultiheadAttention``, whose outputs they do not
    scale, of layers that the batch does not reach, and weights shared with an embedding. A layer with several calls is
    scaled at its first call.

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
