"""Whole models: every parameter by its own key, derived from its name, and a record that can be replayed.

record = initialize_(model, "auto", seed=0)
record.save("init.json")
replay("init.json", same_model)
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

import fastinit
from fastinit import Entry, Key, Recipe, Record, digest, recipe_named
from fastinit.adapters.torch.internals import own_buffers, singular_vectors
from fastinit.adapters.torch.layers import Place, evaluating, originals, parameters
from fastinit.adapters.torch.tensors import DTYPES, Kind, checked_kinds, fill_part, kind_of, write
from fastinit.extending import compare_digests, in_stream_environment, planned, read_record, recorded_entries

__all__ = ["initialize_", "replay"]

# What torch's registration of a spectral norm spends on its first estimate of the singular vectors, and more.
_POWER_ITERATIONS = 15
_STATISTICS = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0}


@in_stream_environment
def initialize_(
    model: nn.Module,
    recipe: str | Recipe = "auto",
    seed: int | str = 0,
    *,
    digests: bool = True,
    num_threads: int | None = None,
) -> Record:
    """Fills every parameter of a model in place, each with its own key: ``Key(seed).fold_in(name)``.

    Adding, removing or reordering layers changes the values of no other parameter, and neither does wrapping, compiling
    or sharding the model: names are canonical, shapes global. Everything is checked, and every parameter has its rule,
    before anything is written.

    Parameters
    ----------
    model : torch.nn.Module
        With memory; a model on the meta device is for :func:`fastinit.adapters.torch.materialize`. Parameters that are
        frozen are filled too; the Parameter objects, ``requires_grad`` and optimizers that hold them stay as they are.
        Of DTensors (FSDP2, tensor parallel) and of FSDP's flat parameters the local part is filled, without
        communication, to the bytes of the whole.
    recipe : str or Recipe
        ``"auto"`` (true fans and the gain of the activation that follows), ``"torch"`` (torch's own layer defaults), or
        a :class:`fastinit.Recipe`.
    seed : int or str
        Of all keys.
    digests : bool
        Whether the record holds digests of the bytes, for :func:`replay` to compare.
    num_threads : int, optional
        At most so many threads. The values do not depend on it.

    Returns
    -------
    Record
        An entry for each parameter, in the model's order. A digest is of the whole tensor's row-major bytes, and None
        where this process holds only a part of it. A tensor with several names has one entry, under the first.

    Raises
    ------
    UnmatchedParameter, ValueError, TypeError
        A parameter that no rule matches, an initializer that its shape or dtype cannot take, contradictory rules, two
        tensors under one canonical name, a parametrization that cannot be assigned to, lazy or meta parameters. Each
        names the parameter; nothing has been written.

    Notes
    -----
    A parametrized weight (``torch.nn.utils.parametrizations``) is made as the plain weight would be, and assigned
    through the parametrization's ``right_inverse``; its digest is that of the values made. Running statistics of norms
    are reset, other buffers are left alone.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import initialize_
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    >>> record = initialize_(model, "auto", seed=0)
    >>> print(f"{record['0.weight'].std:.4f}")  # sqrt(2 / 64)
    0.1768
    """
    chosen = recipe_named(recipe)
    places = parameters(model)
    _refuse_meta(places)
    places, entries = planned_places(places, chosen, seed)
    filled = [fill_place(*pair, digests, num_threads) for pair in zip(places, entries, strict=True)]
    reset_norms(model)
    return Record(tuple(filled), seed, chosen.name, fastinit.__version__)


@in_stream_environment
def replay(record: Record | str | os.PathLike[str], model: nn.Module, *, num_threads: int | None = None) -> Record:
    """Fills a model as a record says, and compares the bytes with the record's digests.

    Parameters
    ----------
    record : Record, str or path
        A record, its JSON, or the path of a file that holds it.
    model : torch.nn.Module
        With the parameters that the record names, of the same shapes and dtypes, in any order.
    num_threads : int, optional
        At most so many threads.

    Returns
    -------
    Record
        With the digests of the bytes that were written.

    Raises
    ------
    ValueError
        A record of another stream version; names, shapes or dtypes that differ, before anything is written; afterwards,
        a digest that differs.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import initialize_, replay
    >>> model = torch.nn.Linear(64, 256)
    >>> record = initialize_(model, "auto", seed=0)
    >>> before = model.weight.clone()
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> _ = replay(record, model)
    >>> torch.equal(model.weight, before)
    True
    """
    given = read_record(record)
    places = parameters(model)
    _refuse_meta(places)
    dtypes = [DTYPES.get(place.tensor.dtype, str(place.tensor.dtype)) for place in places]
    entries = recorded_entries(given, [place.parameter for place in places], dtypes)
    places = check_places(places, entries)
    filled = [fill_place(*pair, True, num_threads) for pair in zip(places, entries, strict=True)]
    reset_norms(model)
    compare_digests(entries, filled)
    return replace(given, entries=tuple(filled))


def planned_places(
    places: Sequence[Place], recipe: Recipe, seed: int | str, dtype: torch.dtype | None = None
) -> tuple[list[Place], list[Entry]]:
    """The places with their kinds, and what each is to be filled with, all of it checked.

    `dtype` stands in place of the dtypes that the parameters have.
    """
    dtypes = []
    for place in places:
        own = place.tensor.dtype if dtype is None or not place.tensor.is_floating_point() else dtype
        if own not in DTYPES:
            raise TypeError(f"{place.parameter.name!r} is of {own}, and fastinit fills {', '.join(map(str, DTYPES))}")
        dtypes.append(DTYPES[own])
    entries = planned([place.parameter for place in places], dtypes, recipe, seed)
    return check_places(places, entries), entries


def check_places(places: Sequence[Place], entries: Sequence[Entry]) -> list[Place]:
    """The places with their kinds; raises what writing the entries there would raise, naming the parameter."""
    kinds = checked_kinds([(place.parameter.name, place.tensor) for place in places])
    for place, entry in zip(places, entries, strict=True):
        if place.parametrizations is not None:
            if any(kind_of(own) is Kind.DISTRIBUTED for own in originals(place.parametrizations)):
                raise ValueError(f"{entry.name!r} is parametrized and sharded: initialize the model before sharding it")
            _rehearse(place, entry)
    return [place._replace(kind=kind) for place, kind in zip(places, kinds, strict=True)]


def _rehearse(place: Place, entry: Entry) -> None:
    """Assigns to a copy of the parametrization, to see whether it can be done."""
    chain = copy.deepcopy(place.parametrizations)
    assert chain is not None
    if place.tensor.is_meta:
        chain = chain.to_empty(device="cpu").to(getattr(torch, str(entry.dtype)))
    try:
        _assign(place._replace(tensor=originals(chain)[0], parametrizations=chain), entry, None)
    except Exception as problem:
        raise ValueError(f"{entry.name!r} cannot be assigned through its parametrization: {problem}") from problem
    if not all(values.isfinite().all() for values in chain.parameters(recurse=False)):
        raise ValueError(f"{entry.name!r} lies outside the range of its parametrization: the inverse is not finite")


def fill_place(place: Place, entry: Entry, digests: bool, num_threads: int | None) -> Entry:
    """Fills one parameter; returns its entry, with a digest if asked for and if all of it is here."""
    if place.parametrizations is not None:
        made = _assign(place, entry, num_threads)
    else:
        made = write(place.kind, place.tensor, entry.initializer, entry.key, place.shard, num_threads)
    return replace(entry, digest=_digest(made, entry.shape, num_threads) if digests else None)


def _assign(place: Place, entry: Entry, num_threads: int | None) -> torch.Tensor:
    """Makes the weight and assigns it through its parametrizations; returns a copy of the weight."""
    chain, original = place.parametrizations, place.tensor
    assert chain is not None
    weight = torch.empty(entry.shape, dtype=original.dtype, device=original.device)
    fill_part(weight, entry.initializer, entry.key, num_threads=num_threads)
    with evaluating(chain), drawing_from(entry.key):
        chain.right_inverse(weight.clone())
        value = originals(chain)
        for module in chain.children():
            estimates = singular_vectors(module)
            if estimates is not None:
                _estimate_again(module, estimates, value[0], entry.key)
            value = [module(*value)]
    return weight


def _estimate_again(
    spectral_norm: nn.Module, estimates: tuple[torch.Tensor, torch.Tensor], weight: torch.Tensor, key: Key
) -> None:
    """A spectral norm's singular vectors: of this weight, from a start that does not depend on the last one."""
    for name, vector in zip(("_u", "_v"), estimates, strict=True):
        fill_part(vector, fastinit.Normal(), key.fold_in(name))
        vector.div_(vector.norm())
    spectral_norm.train()
    for _ in range(_POWER_ITERATIONS):
        spectral_norm(weight)
    spectral_norm.eval()


@contextmanager
def drawing_from(key: Key) -> Iterator[None]:
    """What others draw in here on the CPU, such as a right inverse that completes a basis, follows from the key."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key.words[0] | key.words[1] << 32)
        yield


def _digest(tensor: torch.Tensor, shape: tuple[int, ...], num_threads: int | None) -> str | None:
    tensor = tensor.detach()
    if kind_of(tensor) is Kind.DISTRIBUTED:
        tensor = tensor.to_local()  # type: ignore[attr-defined]
    if tensor.is_meta or tensor.numel() != math.prod(shape):
        return None
    memory = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return digest(memory, num_threads=num_threads)


def reset_norms(model: nn.Module) -> None:
    """Running statistics as a new norm has them: mean 0, variance 1, no batches seen."""
    with torch.no_grad():
        for module in model.modules():
            for name, buffer in statistics_of(module).items():
                buffer.fill_(_STATISTICS[name])


def statistics_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """The buffers of a module that are the running statistics of a norm."""
    if not any("Norm" in cls.__name__ for cls in type(module).__mro__):
        return {}
    return {name: buffer for name, buffer in own_buffers(module).items() if name in _STATISTICS and buffer is not None}


def _refuse_meta(places: Sequence[Place]) -> None:
    meta = [place.parameter.name for place in places if place.tensor.is_meta]
    if meta:
        more = f" and {len(meta) - 3} more" if len(meta) > 3 else ""
        raise ValueError(f"on the meta device, without memory to fill: {', '.join(meta[:3])}{more}; materialize() them")
