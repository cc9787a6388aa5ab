"""Initial weights with which random tokens spread evenly over the experts of a mixture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor, nn

from fastinit import Entry, Orthogonal, Zeros, canonical_name, expected_std
from fastinit.adapters.torch.experts import Mixture, mixtures
from fastinit.checkpoints import Filled, Plan
from fastinit.checkpoints import Tensor as Planned
from fastinit.extending import finished, times

__all__ = ["balanced"]

RULE = "balanced experts"


def balanced(model: nn.Module, made: Plan) -> tuple[Plan, list[str]]:
    """The plan of a model whose experts get about as many random tokens each, and what was changed.

    A router chooses by directions, so its scale changes nothing. What unbalances the experts of a model in its author's
    scheme is a direction that many tokens share: attention averages over the tokens before, what it adds is nearly the
    same for all of them, and in wide and deep models it outweighs the token's own embedding. So the input embedding
    is scaled up until it outweighs the sum of what the layers add. Routers get orthogonal rows of equal length, so that
    no expert is nearer to all tokens than another, and no bias.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model; `get_input_embeddings` gives its input embedding.
    made : Plan
        Of its tensors, by the names that they have in memory.

    Returns
    -------
    Plan
        With other initializers, under the same keys.
    list of str
        Notes for the user.

    Raises
    ------
    ValueError
        If the model has no mixture of experts, or its input embedding is not drawn at random.
    """
    found = mixtures(model)
    if not found:
        raise ValueError("balanced experts: the model has no mixture of experts")
    entries = _entries(model, made)
    changed: dict[str, Entry] = {}
    for mixture in found:
        entry = _drawn(entries, mixture.weight)
        count, width = entry.shape
        std = _std(entry) or 1 / math.sqrt(width)
        rows = Orthogonal(std * math.sqrt(max(count, width)), column_axis=0)
        changed[entry.name] = replace(entry, initializer=rows, rule=RULE, std=None)
        if mixture.bias is not None:
            entry = _drawn(entries, mixture.bias)
            changed[entry.name] = replace(entry, initializer=Zeros(), rule=RULE, std=None)
    notes = [f"balanced experts: {len(found)} routers have orthogonal rows of equal length and no bias"]

    embedding = _drawn(entries, model.get_input_embeddings().weight)  # type: ignore[operator]
    drawn, wanted = _std(embedding), _outweighing(model, found, entries)
    if not drawn:
        raise ValueError(f"balanced experts: {embedding.name!r} is not drawn at random: {embedding.initializer}")
    if wanted > drawn:
        scaled = times(embedding.initializer, wanted / drawn, embedding.shape)
        if scaled is None:
            raise ValueError(f"balanced experts: {embedding.name!r} cannot be scaled: {embedding.initializer}")
        changed[embedding.name] = replace(embedding, initializer=finished(scaled), rule=RULE, std=None)
        notes.append(f"balanced experts: {embedding.name} has the std {wanted:.3g} instead of {drawn:.3g}")
    return replace(made, tensors=tuple(_with(tensor, changed) for tensor in made)), notes


def _entries(model: nn.Module, made: Plan) -> dict[int, Entry]:
    """How the parameters of a model are filled, by their ids."""
    known = {entry.name: entry for entry in made.record}
    names = {id(own): canonical_name(name) for name, own in model.named_parameters()}
    return {own: known[name] for own, name in names.items() if name in known}


def _drawn(entries: dict[int, Entry], weight: Tensor) -> Entry:
    if id(weight) not in entries:
        raise ValueError(
            f"balanced experts: a weight of the shape {tuple(weight.shape)} is kept, or computed from others"
        )
    return entries[id(weight)]


def _with(tensor: Planned, changed: dict[str, Entry]) -> Planned:
    source = tensor.source
    if not isinstance(source, Filled) or source.entry.name not in changed:
        return tensor
    return replace(tensor, source=replace(source, entry=changed[source.entry.name]))


def _std(entry: Entry) -> float | None:
    return expected_std(entry.initializer, entry.shape) if entry.std is None else entry.std


def _outweighing(model: nn.Module, found: list[Mixture], entries: dict[int, Entry]) -> float:
    """A standard deviation of the embedding that outweighs what all layers add.

    Attention adds two linear maps, one after the other, of inputs of unit variance: each multiplies the variance by its
    number of inputs times that of its weights. Four times the sum over the layers leaves at most about 1/16 of the
    variance to what tokens have in common.
    """
    width, gain = found[0].weight.shape[1], 0.0
    for weight, inputs in _linear_maps(model, found):
        std = _std(entries[id(weight)]) if id(weight) in entries and inputs == width else None
        gain = max(gain, inputs * std * std if std else 0.0)
    return 4 * gain * math.sqrt(_layers(model, found))


def _linear_maps(model: nn.Module, found: list[Mixture]) -> Iterator[tuple[Tensor, int]]:
    """The weights of linear maps, and of how many inputs."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            yield module.weight, module.in_features
    for mixture in found:
        for weight in mixture.packed:
            yield weight, weight.shape[1 if mixture.is_transposed else 2]


def _layers(model: nn.Module, found: list[Mixture]) -> int:
    """How many layers stand one after another where there are mixtures."""
    routers = {id(mixture.router) for mixture in found}
    lists = (
        len(module)
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and any(id(inner) in routers for inner in module.modules())
    )
    return max(lists, default=len(found))
