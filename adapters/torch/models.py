"""Whole models: every parameter by its own key, derived from its name, and a record that can be replayed.

record = initialize_(model, "auto", seed=0)
record.save("init.json")
replay("init.json", same_model)
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

import fastinit
from fastinit import Entry, Keep, Key, NewRows, Recipe, Record, Selection, digest
from fastinit.adapters.torch.buffers import remake_buffers, reset_norms
from fastinit.adapters.torch.drawing import drawing_from
from fastinit.adapters.torch.internals import singular_vectors
from fastinit.adapters.torch.layers import Place, evaluating, originals, parameters
from fastinit.adapters.torch.tensors import (
    DTYPES,
    Kind,
    check_new_rows,
    checked_kinds,
    fill_part,
    kind_of,
    write,
    write_rows,
)
from fastinit.extending import (
    Rename,
    changed,
    compare_digests,
    in_stream_environment,
    meant,
    planned,
    read_record,
    recipe_for,
    recorded_entries,
)

__all__ = ["initialize_", "replay"]

# More iterations than torch's registration of a spectral norm uses to estimate the singular vectors.
_POWER_ITERATIONS = 15


@in_stream_environment
def initialize_(
    model: nn.Module,
    recipe: str | Recipe | None = None,
    seed: int | str = 0,
    *,
    unmatched: str = "error",
    frozen: bool = False,
    only: Selection | None = None,
    skip: Selection | None = None,
    rows: Mapping[str, int | NewRows] | None = None,
    rename: Rename | None = None,
    digests: bool = False,
    num_threads: int | None = None,
) -> Record:
    """Fills every parameter of a model in place, each with its own key: ``Key(seed).fold_in(name)``.

    Adding, removing or reordering layers changes no other parameter's values, and neither does wrapping, compiling or
    sharding the model, because names are canonical and shapes global. All arguments are checked, and every parameter
    has its rule, before anything is written.

    Parameters
    ----------
    model : torch.nn.Module
        A model with memory; for the meta device use :func:`fastinit.adapters.torch.materialize`. The Parameter
        objects, ``requires_grad`` and optimizers stay unchanged. For DTensors (FSDP2, tensor parallel) and FSDP's flat
        parameters, the local part is filled with the bytes of the whole, without communication.
    recipe : str, Recipe or None
        ``"own"`` (the model's own code), ``"auto"`` (true fans and the gain of the following activation, for weights
        that the author left at torch's default), ``"fans"`` (the same for every weight of a linear map that the author
        draws), ``"torch"`` (torch's own layer defaults), or a :class:`fastinit.Recipe`. None means "own" for a model
        built inside ``deferred()``, and "auto" for any other.
    seed : int or str
        Seed of all keys.
    unmatched : {"error", "keep"}
        Treatment of parameters without an answer from the recipe: one error that names them all, or leave them
        unchanged.
    frozen : bool
        Whether to fill frozen parameters whose initialization is unknown. Otherwise they stay unchanged.
    only, skip : str, sequence of str, callable or None
        Selection of parameters, see :func:`fastinit.selected`: patterns of canonical names, or a function of a
        :class:`fastinit.Parameter`. All other parameters and buffers keep their bytes and need no rule.
    rows : mapping of str to int or NewRows, optional
        Parameters whose new rows alone are filled, such as a resized embedding. Maps patterns of names to the first new
        row, or to a :class:`fastinit.NewRows` with the values. A number alone means the recipe's values for these rows
        of the whole tensor. These parameters are selected in addition to `only`; without `only`, they alone are
        selected. A mean requires that this process holds all rows. The rows of frozen parameters are filled too, unless
        their values come from the recipe.
    rename : callable, mapping of str to str, or None
        Maps the names of this model to those of the definition, the whole model: a function of a canonical name, or a
        mapping of dotted prefixes to replacements, where the longest match wins. Keys, the record, `only`, `skip` and
        `rows` use the new names.
    digests : bool
        Whether the record holds digests of the bytes, for :func:`replay` and for other programs. They take longer than
        the fill, and :func:`~fastinit.adapters.torch.verify` does not need them.
    num_threads : int, optional
        Maximum number of threads. The values do not depend on it.

    Returns
    -------
    Record
        One entry per selected parameter, in the model's order. A tensor with several names has one entry, under the
        first. A digest covers the whole tensor's row-major bytes. It is None if this process holds only a part.

    Raises
    ------
    UnmatchedParameter, ValueError, TypeError
        For parameters without a matching rule, an initializer that does not fit the shape or dtype, contradictory
        rules, two tensors under one canonical name (also through `rename`), a parametrization without assignment, and
        lazy or meta parameters. The error names the parameter. Nothing has been written.

    Notes
    -----
    A parametrized weight (``torch.nn.utils.parametrizations``) gets the values of the plain weight, assigned through
    the parametrization's ``right_inverse``; its digest covers the values before the assignment. Running statistics of
    norms are reset. In a model built under :func:`~fastinit.adapters.torch.deferred`, random buffers are drawn by their
    names, and buffers lost by ``to_empty`` are restored. Other buffers stay unchanged.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import initialize_
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    >>> record = initialize_(model, "auto", seed=0)
    >>> print(f"{record['0.weight'].std:.4f}")  # sqrt(2 / 64)
    0.1768
    """
    places = parameters(model, rename)
    chosen = recipe_for(recipe, [place.parameter for place in places])
    _refuse_meta(places)
    asked, new = meant([place.parameter for place in places], only, skip, rows)
    places, entries = planned_places(places, chosen, seed, unmatched=unmatched, frozen=frozen, asked=asked, rows=new)
    pairs = zip(places, entries, asked, strict=True)
    filled = [fill_place(place, entry, digests, num_threads) for place, entry, is_asked in pairs if is_asked]
    kept = kept_modules(places, entries) if all(asked) else untouched_modules(model, places, entries)
    reset_norms(model, kept)
    remake_buffers(model, [place.parameter for place in places], seed, kept, rename)
    return Record(tuple(filled), seed, chosen.name, fastinit.__version__)


@in_stream_environment
def replay(
    record: Record | str | os.PathLike[str],
    model: nn.Module,
    *,
    rename: Rename | None = None,
    num_threads: int | None = None,
) -> Record:
    """Fills a model from a record, and compares the bytes with the record's digests, if any.

    Parameters
    ----------
    record : Record, str or path
        A record, its JSON, or the path of its file.
    model : torch.nn.Module
        A model with the record's parameters, of the same shapes and dtypes, in any order.
    rename : callable, mapping of str to str, or None
        Maps the names of this model to the record's names, as in :func:`initialize_`.
    num_threads : int, optional
        Maximum number of threads.

    Returns
    -------
    Record
        The record, with digests of the written bytes if the given record has digests.

    Raises
    ------
    ValueError
        For a record of another stream version, and for different names, shapes or dtypes, before anything is written.
        Afterwards, for a different digest.

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
    places = parameters(model, rename)
    _refuse_meta(places)
    dtypes = [DTYPES.get(place.tensor.dtype, str(place.tensor.dtype)) for place in places]
    entries = recorded_entries(given, [place.parameter for place in places], dtypes)
    places = check_places(places, entries)
    pairs = zip(places, entries, strict=True)
    filled = [fill_place(place, entry, entry.digest is not None, num_threads) for place, entry in pairs]
    reset_norms(model, kept_modules(places, entries))
    compare_digests(entries, filled)
    return replace(given, entries=tuple(filled))


def planned_places(
    places: Sequence[Place],
    recipe: Recipe,
    seed: int | str,
    dtype: torch.dtype | None = None,
    *,
    unmatched: str = "error",
    frozen: bool = False,
    in_memory: bool = True,
    asked: Sequence[bool] | None = None,
    rows: Sequence[NewRows | None] | None = None,
) -> tuple[list[Place], list[Entry]]:
    """The places with their kinds, and the checked entry for each.

    `dtype` replaces the parameters' dtypes. `in_memory` is False for parameters without values. Parameters that are not
    `asked` for get an entry that keeps them, and those in `rows` get an entry for their new rows.
    """
    changes = [dtype is not None and place.tensor.is_floating_point() for place in places]
    dtypes = [dtype if change else place.tensor.dtype for place, change in zip(places, changes, strict=True)]
    names = [DTYPES.get(own, str(own).removeprefix("torch.")) for own in dtypes]
    described = [place.parameter for place in places]
    entries = planned(
        described, names, recipe, seed, unmatched, frozen=frozen, in_memory=in_memory, asked=asked, rows=rows
    )
    return check_places(places, entries), entries


def check_places(places: Sequence[Place], entries: Sequence[Entry]) -> list[Place]:
    """The places with their kinds. Raises the errors of writing the entries there, with the parameter's name."""
    written = [not isinstance(entry.initializer, Keep) for entry in entries]
    found = iter(
        checked_kinds(
            [(one.parameter.name, one.tensor) for one, is_written in zip(places, written, strict=True) if is_written]
        )
    )
    kinds = [next(found) if is_written else Kind.FOREIGN for is_written in written]
    for place, kind, entry, is_written in zip(places, kinds, entries, written, strict=True):
        if isinstance(entry.initializer, NewRows):
            if place.parametrizations is not None:
                raise ValueError(f"{entry.name!r} is parametrized, so its old rows would not keep their bits")
            try:
                check_new_rows(kind, place.tensor, entry.initializer, place.shard)
            except ValueError as problem:
                raise ValueError(f"{entry.name!r}: {problem}") from None
        elif place.parametrizations is not None and is_written:
            if any(kind_of(own) is Kind.DISTRIBUTED for own in originals(place.parametrizations)):
                raise ValueError(f"{entry.name!r} is parametrized and sharded: initialize the model before sharding it")
            _rehearse(place, entry)
    return [place._replace(kind=kind) for place, kind in zip(places, kinds, strict=True)]


def _rehearse(place: Place, entry: Entry) -> None:
    """Checks that the parametrization can be assigned to, on a copy."""
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
    """Fills one parameter. Returns its entry, with a digest if requested and if this process holds the whole."""
    if isinstance(entry.initializer, Keep):
        return replace(entry, digest=digest_of(place, num_threads) if digests else None)
    if isinstance(entry.initializer, NewRows):
        made = write_rows(place.kind, place.tensor, entry.initializer, entry.key, place.shard, num_threads)
    elif place.parametrizations is not None:
        made = _assign(place, entry, num_threads)
    else:
        made = write(place.kind, place.tensor, entry.initializer, entry.key, place.shard, num_threads)
    digest_made = _digest(place, made, num_threads) if digests else None
    return entry if digest_made == entry.digest else changed(entry, digest=digest_made)


def _assign(place: Place, entry: Entry, num_threads: int | None) -> torch.Tensor:
    """Computes the weight and assigns it through its parametrizations. Returns a copy of the weight."""
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


def _value(place: Place) -> torch.Tensor:
    """The current value of a parameter."""
    if place.parametrizations is None:
        return place.tensor
    with evaluating(place.parametrizations):
        value: torch.Tensor = place.parametrizations()
    return value


def _estimate_again(
    spectral_norm: nn.Module, estimates: tuple[torch.Tensor, torch.Tensor], weight: torch.Tensor, key: Key
) -> None:
    """The singular vectors of a spectral norm for this weight, from a start independent of the previous weight."""
    for name, vector in zip(("_u", "_v"), estimates, strict=True):
        fill_part(vector, fastinit.Normal(), key.fold_in(name))
        vector.div_(vector.norm())
    spectral_norm.train()
    for _ in range(_POWER_ITERATIONS):
        spectral_norm(weight)
    spectral_norm.eval()


def digest_of(place: Place, num_threads: int | None) -> str | None:
    """The digest of a parameter's current value; None if this process does not hold the whole."""
    return _digest(place, _value(place), num_threads)


def _digest(place: Place, tensor: torch.Tensor, num_threads: int | None) -> str | None:
    if place.shard is not None and not place.is_flat:
        return None  # a slice may have all elements in another order
    tensor = tensor.detach()
    if kind_of(tensor) is Kind.DISTRIBUTED:
        tensor = tensor.to_local()  # type: ignore[attr-defined]
    if tensor.is_meta or tensor.numel() != math.prod(place.parameter.shape):
        return None
    memory = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return digest(memory, num_threads=num_threads)


def kept_modules(places: Iterable[Place], entries: Iterable[Entry]) -> set[nn.Module]:
    """The modules with parameters that all keep their values. A pretrained norm among them keeps its statistics."""
    kept: dict[nn.Module, bool] = {}
    for place, entry in zip(places, entries, strict=True):
        for module, _ in place.owners:
            kept[module] = kept.get(module, True) and isinstance(entry.initializer, Keep)
    return {module for module, is_kept in kept.items() if is_kept}


def untouched_modules(model: nn.Module, places: Iterable[Place], entries: Iterable[Entry]) -> set[nn.Module]:
    """The modules without any written parameter of their own."""
    written = {
        module
        for place, entry in zip(places, entries, strict=True)
        for module, _ in place.owners
        if not isinstance(entry.initializer, Keep)
    }
    return set(model.modules()) - written


def _refuse_meta(places: Sequence[Place]) -> None:
    meta = [place.parameter.name for place in places if place.tensor.is_meta]
    if meta:
        more = f" and {len(meta) - 3} more" if len(meta) > 3 else ""
        raise ValueError(f"on the meta device, without memory to fill: {', '.join(meta[:3])}{more}; materialize() them")
