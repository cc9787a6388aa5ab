"""From the meta device to memory: every parameter allocated once, in its final dtype, and filled once.

with deferred():
    model = Transformer(configuration)
materialize(model, seed=0, dtype=torch.bfloat16)
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

import fastinit
from fastinit import Entry, Key, Recipe, Record, canonical_name, recipe_named
from fastinit.adapters.torch.internals import (
    MARK,
    SELF_MADE,
    apply,
    initialize_as_transformers,
    is_pretrained,
    own_buffers,
    own_parameters,
)
from fastinit.adapters.torch.layers import Place, originals, parameters
from fastinit.adapters.torch.models import drawing_from, fill_place, planned_places, reset_norms, statistics_of
from fastinit.adapters.torch.tensors import DTYPES, Kind, kind_of
from fastinit.extending import at_least, in_stream_environment, recipe_for, shown

__all__ = ["materialize"]

# A model of so many bytes takes seconds: worth a progress bar.
_LARGE = 2**32


@in_stream_environment
def materialize(
    model: nn.Module,
    recipe: str | Recipe | None = None,
    seed: int | str = 0,
    *,
    unmatched: str = "error",
    frozen: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    digests: bool = False,
    progress: bool | None = None,
    num_threads: int | None = None,
) -> Record:
    """Gives the parameters of a model that are on the meta device their memory and their values.

    Each is allocated once, in its final dtype, and filled once, with the bytes that
    :func:`~fastinit.adapters.torch.initialize_` gives it. The peak of memory is the model and less than 64 MiB; only
    structured initializers (orthogonal recurrent weights) take the memory of one float32 tensor in passing, and so do
    parametrized weights.

    Parameters
    ----------
    model : torch.nn.Module
        Built under :func:`deferred` or ``torch.device("meta")``, sharded or not. Parameters that have memory keep it
        and their values. Ties, ``requires_grad`` and attributes of the parameters are kept.
    recipe, seed, num_threads
        As in :func:`~fastinit.adapters.torch.initialize_`.
    unmatched, frozen
        As there; without memory, to stay as it is means what the model's own code does, where it is known.
    dtype : torch.dtype, optional
        Of the floating-point parameters; by default the one that each has. Running statistics of norms follow it, other
        buffers keep theirs.
    device : torch.device or str
        Where the parameters and all buffers go. Values are made on the host.
    digests : bool
        Whether the record holds digests of the bytes.
    progress : bool, optional
        Whether to show a progress bar on stderr, drawn by tqdm where it is installed; by default if stderr is a
        terminal and the parameters take more than 4 GiB.

    Returns
    -------
    Record
        Of the parameters that were on the meta device.

    Raises
    ------
    ValueError
        Where nothing is on the meta device; for buffers on it whose values are unknown, by name; and as
        :func:`~fastinit.adapters.torch.initialize_`. Nothing has been allocated.
    TypeError
        If dtype is none that fastinit fills, and as :func:`~fastinit.adapters.torch.initialize_`.

    Notes
    -----
    Buffers on the meta device can be restored if they are the running statistics of norms, or if transformers' own
    ``_init_weights`` sets them, as it does for the position tables of its models. Where that draws, it draws from a
    generator seeded with the key of the module's name.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import deferred, materialize
    >>> with deferred():
    ...     model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.BatchNorm1d(256))
    >>> model[0].weight.device.type, model[1].running_var.device.type
    ('meta', 'cpu')
    >>> record = materialize(model, "auto", seed=0, dtype=torch.bfloat16)
    >>> model[0].weight.device.type, model[0].weight.dtype
    ('cpu', torch.bfloat16)
    """
    if dtype is not None and dtype not in DTYPES:
        raise TypeError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {shown(dtype)}")
    if num_threads is not None:
        at_least(1, "num_threads", num_threads)
    if not isinstance(device, (str, int, torch.device)):  # with others torch itself may crash
        raise TypeError(f"device must be a torch.device or its name, got {shown(device)}")
    where = torch.device(device)
    if recipe is not None:
        recipe = recipe_named(recipe)
    if where.type == "meta":
        raise ValueError("device is where the parameters get memory, and the meta device has none")
    places = [place for place in parameters(model) if place.tensor.is_meta]
    if not places:
        raise ValueError("no parameter is on the meta device: initialize_() fills a model that has memory")
    flat = next((place.parameter.name for place in places if place.shard is not None), None)
    if flat:
        raise ValueError(
            f"{flat!r} is in a flat parameter on the meta device: give FSDP a param_init_fn, or fully_shard"
        )
    chosen = recipe_for(recipe, [place.parameter for place in places])
    places, entries = planned_places(places, chosen, seed, dtype, unmatched=unmatched, frozen=frozen, in_memory=False)
    sizes = list(map(_size, places, entries))
    with _progress(sum(sizes), progress) as advance:
        restore_buffers(model, where, Key(seed))
        _allocate(model, where, dtype)
        filled = []
        for place, entry, size in zip(map(_current, places), entries, sizes, strict=True):
            filled.append(fill_place(place, entry, digests, num_threads))
            advance(size)
    reset_norms(model)
    return Record(tuple(filled), seed, chosen.name, fastinit.__version__)


def _allocate(model: nn.Module, device: torch.device, dtype: torch.dtype | None) -> None:
    """Memory for all that is on the meta device, by ``Module._apply``, which RNNs and FSDP know how to follow."""
    modules = list(model.modules())
    meta = [
        (module, role, tensor)
        for module in modules
        for role, tensor in own_parameters(module).items()
        if tensor is not None and tensor.is_meta
    ]
    attributes = [dict(vars(tensor)) for _, _, tensor in meta]
    statistics = {id(buffer) for module in modules for buffer in statistics_of(module).values()}
    made: dict[int, torch.Tensor] = {}  # by the tensors that `meta` keeps alive

    def with_memory(tensor: torch.Tensor) -> torch.Tensor:
        is_parameter = isinstance(tensor, nn.Parameter)
        changes = dtype is not None and tensor.is_floating_point() and (is_parameter or id(tensor) in statistics)
        wanted = dtype if changes else tensor.dtype
        if not tensor.is_meta:
            return tensor if is_parameter else tensor.to(device, wanted)
        if not is_parameter:
            return torch.empty_like(tensor, device=device, dtype=wanted)
        if id(tensor) not in made:
            made[id(tensor)] = torch.empty_like(tensor, device=device, dtype=wanted)
        return made[id(tensor)]

    numbers = [id(tensor) for _, _, tensor in meta]
    for _, _, tensor in meta:
        tensor.grad = None  # no gradient on the meta device is worth memory
    apply(model, with_memory)
    first: dict[int, nn.Parameter] = {}
    for number, (module, role, _), kept in zip(numbers, meta, attributes, strict=True):
        new = own_parameters(module)[role]
        assert new is not None
        vars(new).update(kept)
        if first.setdefault(number, new) is not new:  # tied, and memory moved twice: one object again
            own_parameters(module)[role] = first[number]


def _current(place: Place) -> Place:
    """A place with the tensor that is there now."""
    module, role = place.owners[0]
    chain = place.parametrizations
    tensor = module.get_parameter(role) if chain is None else originals(chain)[0]
    return place._replace(tensor=tensor, kind=kind_of(tensor))


def _size(place: Place, entry: Entry) -> int:
    """How many bytes this process is to hold of it."""
    tensor = place.tensor
    is_part = kind_of(tensor) is Kind.DISTRIBUTED
    local: torch.Tensor = tensor.to_local() if is_part else tensor  # type: ignore[attr-defined]
    return local.numel() * int(getattr(torch, str(entry.dtype)).itemsize)


@contextmanager
def _progress(size: int, wanted: bool | None) -> Iterator[Callable[[int], object]]:
    """A progress bar over so many bytes, or none; gives what advances it."""
    tqdm = None
    if wanted or (wanted is None and size >= _LARGE and sys.stderr.isatty()):
        try:
            tqdm = importlib.import_module("tqdm").tqdm
        except ModuleNotFoundError:
            if wanted:
                raise
    if tqdm is None:
        yield lambda size: None
    else:
        with tqdm(total=size, unit="B", unit_scale=True, unit_divisor=1024, desc="materialize") as bar:
            yield bar.update


def restore_buffers(model: nn.Module, device: torch.device, key: Key) -> None:
    """Gives the buffers that are on the meta device memory and values, but for those that follow from the parameters.

    Raises
    ------
    ValueError
        Names all those whose values are unknown; everything is then as it was.
    """
    lost: list[str] = []
    before: list[tuple[nn.Module, dict[str, torch.Tensor]]] = []
    try:
        for prefix, module, trained in _with_pretrained(model, "", None):
            lost += [prefix + name for name, value in vars(module).items() if _is_lost_attribute(value)]
            known = own_buffers(module) if type(module).__name__ in SELF_MADE else statistics_of(module)
            own = ((name, buffer) for name, buffer in own_buffers(module).items() if name not in known)
            meta = {name: buffer for name, buffer in own if buffer is not None and buffer.is_meta}
            if not meta:
                continue
            if trained is not None:
                before.append((module, meta))
                name = canonical_name(prefix + "buffers")
                _restore_by_transformers(trained, module, meta, device, key.fold_in(name))
            lost += [prefix + name for name in meta if trained is None or _is_unset(own_buffers(module)[name])]
        if lost:
            raise ValueError(
                f"on the meta device, with values that cannot be known: {', '.join(lost)}. Build the model under "
                "deferred(), which keeps buffers in memory, or give the modules these buffers first"
            )
    except BaseException:
        for module, meta in before:
            own_buffers(module).update(meta)
        raise


def _is_lost_attribute(value: Any) -> bool:
    """Whether an attribute is a tensor that was computed on the meta device, unknown to the module."""
    return isinstance(value, torch.Tensor) and value.is_meta and not value.requires_grad


def _with_pretrained(
    module: nn.Module, prefix: str, trained: nn.Module | None
) -> Iterator[tuple[str, nn.Module, nn.Module | None]]:
    """Every module with the innermost transformers model that it is in."""
    if is_pretrained(module):
        trained = module
    yield prefix, module, trained
    for name, child in module.named_children():
        yield from _with_pretrained(child, f"{prefix}{name}.", trained)


def _restore_by_transformers(
    trained: nn.Module, module: nn.Module, meta: dict[str, torch.Tensor], device: torch.device, key: Key
) -> None:
    """Buffers as transformers sets them where it loads a checkpoint; parameters stay as they are."""
    for name, buffer in meta.items():
        own_buffers(module)[name] = torch.full_like(buffer, _unset(buffer), device=device)
    marked = [tensor for tensor in module.parameters() if not (tensor.is_meta or hasattr(tensor, MARK))]
    try:
        for tensor in marked:
            setattr(tensor, MARK, True)
        with drawing_from(key):
            initialize_as_transformers(trained, module)
    finally:
        for tensor in marked:
            vars(tensor).pop(MARK, None)


def _unset(buffer: torch.Tensor) -> float | int:
    """A value that no buffer has."""
    if buffer.dtype == torch.bool:
        return 0
    return math.nan if buffer.is_floating_point() or buffer.is_complex() else torch.iinfo(buffer.dtype).min


def _is_unset(buffer: torch.Tensor | None) -> bool:
    """Whether an element still has that value, or might: a boolean may always."""
    assert buffer is not None
    unset = _unset(buffer)
    return buffer.dtype == torch.bool or bool((buffer.isnan() if math.isnan(unset) else buffer == unset).any())
