"""From the meta device to memory: every parameter allocated once, in its final dtype, and filled once.

with deferred():
    model = Transformer(configuration)
materialize(model, seed=0, dtype=torch.bfloat16)
"""

from __future__ import annotations

from collections.abc import Callable, Container

import torch
from torch import nn

import fastinit
from fastinit import Entry, Key, Recipe, Record, Selection, recipe_named, selected
from fastinit.adapters.torch.buffers import remake_buffers, reset_norms, restore_buffers, statistics_of
from fastinit.adapters.torch.internals import apply, carry_hooks, own_parameters
from fastinit.adapters.torch.layers import Place, originals, parameters
from fastinit.adapters.torch.models import fill_place, planned_places, untouched_modules
from fastinit.adapters.torch.tensors import DTYPES, Kind, kind_of
from fastinit.extending import Rename, at_least, in_stream_environment, progress_bar, recipe_for, shown

__all__ = ["materialize"]

# A model of this many bytes takes seconds, so it gets a progress bar.
_LARGE = 2**32


@in_stream_environment
def materialize(
    model: nn.Module,
    recipe: str | Recipe | None = None,
    seed: int | str = 0,
    *,
    unmatched: str = "error",
    frozen: bool = False,
    only: Selection | None = None,
    skip: Selection | None = None,
    rename: Rename | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    buffers: Callable[[nn.Module], object] | None = None,
    digests: bool = False,
    progress: bool | None = None,
    num_threads: int | None = None,
) -> Record:
    """Allocates and fills the parameters of a model that are on the meta device.

    Each is allocated once, in its final dtype, and filled once, with the bytes of
    :func:`~fastinit.adapters.torch.initialize_`. The peak memory is the model's size plus less than 64 MiB. Structured
    initializers (orthogonal recurrent weights) and parametrized weights need one additional float32 tensor temporarily.

    Parameters
    ----------
    model : torch.nn.Module
        A model built under :func:`deferred` or ``torch.device("meta")``, sharded or not. Parameters with memory keep
        it and their values. Ties, ``requires_grad`` and attributes of the parameters are preserved.
    recipe, seed, num_threads
        As in :func:`~fastinit.adapters.torch.initialize_`.
    unmatched, frozen
        As in :func:`~fastinit.adapters.torch.initialize_`. Parameters without memory that would stay unchanged get the
        initialization of the model's own code, if known.
    only, skip
        As in :func:`~fastinit.adapters.torch.initialize_`. All other parameters stay on the meta device.
    rename
        As in :func:`~fastinit.adapters.torch.initialize_`.
    dtype : torch.dtype, optional
        Dtype of the floating-point parameters; by default each keeps its own. Running statistics of norms follow it,
        and other buffers keep theirs.
    device : torch.device or str
        Device of the parameters and all buffers. Values are computed on the host.
    buffers : callable, optional
        A function of the model that sets buffers created on the meta device without ``deferred()``. It is called
        first, while the parameters are on the meta device, so it cannot change them.
    digests : bool
        As in :func:`~fastinit.adapters.torch.initialize_`.
    progress : bool, optional
        Whether to show a progress bar on stderr, using tqdm if installed. By default it is shown if stderr is a
        terminal and the parameters take more than 4 GiB.

    Returns
    -------
    Record
        The record of the parameters that were on the meta device.

    Raises
    ------
    ValueError
        If no parameter is on the meta device, for buffers on it with unknown values, by name, and as in
        :func:`~fastinit.adapters.torch.initialize_`. Nothing has been allocated.
    TypeError
        If fastinit does not fill the dtype, and as in :func:`~fastinit.adapters.torch.initialize_`.

    Notes
    -----
    In a model built under :func:`deferred`, buffers have the values from its code, even if ``to_empty`` lost them.
    Random buffers are drawn by their names. For other models, fastinit can restore three kinds of buffers on the meta
    device: running statistics of norms, buffers set by transformers' ``_init_weights`` (whose draws come from a
    generator seeded with the key of the module's name), and buffers set by a method ``init_weights(buffer_device=...)``
    as in torchtitan. `buffers` sets all others.

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
    if not isinstance(device, (str, int, torch.device)):  # with other types torch itself may crash
        raise TypeError(f"device must be a torch.device or its name, got {shown(device)}")
    where = torch.device(device)
    if recipe is not None:
        recipe = recipe_named(recipe)
    if where.type == "meta":
        raise ValueError("device is where the parameters get memory, and the meta device has none")
    everything = parameters(model, rename)
    asked = selected([place.parameter for place in everything], only, skip)
    places = [place for place, is_asked in zip(everything, asked, strict=True) if place.tensor.is_meta and is_asked]
    if not places:
        which = "no parameter" if all(asked) else "none of the parameters that are meant"
        raise ValueError(f"{which} is on the meta device: initialize_() fills a model that has memory")
    flat = next((place.parameter.name for place in places if place.is_flat), None)
    if flat:
        raise ValueError(
            f"{flat!r} is in a flat parameter on the meta device: give FSDP a param_init_fn, or fully_shard"
        )
    chosen = recipe_for(recipe, [place.parameter for place in places])
    places, entries = planned_places(places, chosen, seed, dtype, unmatched=unmatched, frozen=frozen, in_memory=False)
    sizes = list(map(_size, places, entries))
    total = sum(sizes)
    # asked for, or a model that takes seconds
    wanted = progress if progress is not None or total >= _LARGE else False
    with progress_bar(total, "materialize", wanted) as advance:
        restore_buffers(model, where, Key(seed), buffers, rename)
        stay = {id(place.tensor) for place, is_asked in zip(everything, asked, strict=True) if not is_asked}
        _allocate(model, where, dtype, stay)
        filled = []
        for place, entry, size in zip(map(_current, places), entries, sizes, strict=True):
            filled.append(fill_place(place, entry, digests, num_threads))
            advance(size)
    kept = set() if all(asked) else untouched_modules(model, places, entries)
    reset_norms(model, kept)
    remake_buffers(model, [place.parameter for place in everything], seed, kept, rename)
    return Record(tuple(filled), seed, chosen.name, fastinit.__version__)


def _allocate(model: nn.Module, device: torch.device, dtype: torch.dtype | None, stay: Container[int]) -> None:
    """Allocates everything on the meta device, except parameters that `stay` there.

    It uses ``Module._apply``, which RNNs and FSDP support.
    """
    modules = list(model.modules())
    meta = [
        (module, role, tensor)
        for module in modules
        for role, tensor in own_parameters(module).items()
        if tensor is not None and tensor.is_meta and id(tensor) not in stay
    ]
    attributes = [dict(vars(tensor)) for _, _, tensor in meta]
    statistics = {id(buffer) for module in modules for buffer in statistics_of(module).values()}
    made: dict[int, torch.Tensor] = {}  # keyed by tensors that `meta` keeps alive

    def with_memory(tensor: torch.Tensor) -> torch.Tensor:
        is_parameter = isinstance(tensor, nn.Parameter)
        changes = dtype is not None and tensor.is_floating_point() and (is_parameter or id(tensor) in statistics)
        wanted = dtype if changes else tensor.dtype
        if id(tensor) in stay:
            return tensor
        if not tensor.is_meta:
            return tensor if is_parameter else tensor.to(device, wanted)
        if not is_parameter:
            return torch.empty_like(tensor, device=device, dtype=wanted)
        if id(tensor) not in made:
            made[id(tensor)] = torch.empty_like(tensor, device=device, dtype=wanted)
        return made[id(tensor)]

    numbers = [id(tensor) for _, _, tensor in meta]
    for _, _, tensor in meta:
        tensor.grad = None  # gradients on the meta device need no memory
    apply(model, with_memory)
    first: dict[int, nn.Parameter] = {}
    for number, (module, role, before), kept in zip(numbers, meta, attributes, strict=True):
        new = own_parameters(module)[role]
        assert new is not None
        vars(new).update(kept)
        if new is not before:
            carry_hooks(before, new)
        if first.setdefault(number, new) is not new:  # tied, and moved twice: make it one object again
            own_parameters(module)[role] = first[number]


def _current(place: Place) -> Place:
    """A place with its current tensor."""
    module, role = place.owners[0]
    chain = place.parametrizations
    tensor = module.get_parameter(role) if chain is None else originals(chain)[0]
    return place._replace(tensor=tensor, kind=kind_of(tensor))


def _size(place: Place, entry: Entry) -> int:
    """Number of bytes that this process will hold."""
    tensor = place.tensor
    is_part = kind_of(tensor) is Kind.DISTRIBUTED
    local: torch.Tensor = tensor.to_local() if is_part else tensor  # type: ignore[attr-defined]
    return local.numel() * int(getattr(torch, str(entry.dtype)).itemsize)
