"""A state dict without memory, which computes tensors and slices of them on request.

weights = state_dict(model, seed=0, dtype=torch.bfloat16)
weights.slice("lm_head.weight", offsets=(1000, 0), shape=(10, 4096))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastinit import Entry, Keep, Recipe, canonical_name
from fastinit.adapters.torch.buffers import is_made_again, keyed_buffers, statistics_of
from fastinit.adapters.torch.layers import parameters
from fastinit.adapters.torch.models import planned_places
from fastinit.adapters.torch.replaying import rebuilt
from fastinit.adapters.torch.tensors import DTYPES, fill_part
from fastinit.extending import Rename, Shard, in_stream_environment, recipe_for, shown

__all__ = ["Source", "StateDict", "sources_of", "state_dict"]


class Source(NamedTuple):
    """The source of a tensor of a state dict: an entry that fills it, or an existing tensor.

    `shard` is its position in the entry's tensor, if it is a part. `shape` is its own shape.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    entry: Entry | None
    tensor: Tensor | None
    shard: Shard | None = None

    def write(self, out: Tensor, offsets: Sequence[int]) -> None:
        """Fills memory with the elements of the slice at these offsets."""
        if self.entry is not None:
            shard = Shard.of(tuple(out.shape), self.shape, offsets)
            shard = shard if self.shard is None else shard.within(self.shard)
            fill_part(out, self.entry.initializer, self.entry.key, shard)
            return
        assert self.tensor is not None
        box = tuple(slice(first, first + extent) for first, extent in zip(offsets, out.shape, strict=True))
        with torch.no_grad():
            out.copy_(self.tensor[box])


def sources_of(
    model: nn.Module,
    recipe: str | Recipe | None,
    seed: int | str,
    dtype: torch.dtype | None,
    rename: Rename | None = None,
) -> dict[str, Source]:
    """The source of each tensor of a model's state dict, by its name there."""
    if dtype is not None and dtype not in DTYPES:
        raise TypeError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {shown(dtype)}")
    places = parameters(model, rename)
    chosen = recipe_for(recipe, [place.parameter for place in places])
    places, entries = planned_places(places, chosen, seed, dtype, in_memory=False)
    known = {}
    for place, entry in zip(places, entries, strict=True):
        for name in place.names:
            known[name] = place, entry
    drawn = {
        id(buffer): rebuilt(keyed.initializer, buffer, keyed.key)
        for module, role, buffer, keyed in keyed_buffers(
            model, [place.parameter for place in places], seed, rename=rename
        )
        if is_made_again(module, role, buffer)
    }
    statistics = {id(one) for module in model.modules() for one in statistics_of(module).values()}
    found: dict[str, Source] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        own = canonical_name(name)
        if own in known:
            place, entry = known[own]
            wanted = getattr(torch, str(entry.dtype))
            kept = isinstance(entry.initializer, Keep)
            if kept and place.tensor.is_meta:
                raise ValueError(f"{name!r} should be kept, but is on the meta device, without values")
            shard = None if place.is_flat else place.shard
            shape = entry.shape if shard is None else tuple(place.tensor.shape)
            values = place.tensor.detach() if kept else None
            source = Source(shape, wanted, None if kept else entry, values, shard)
        elif not isinstance(tensor, Tensor):
            raise ValueError(f"{name!r} of the state dict is {shown(tensor)}: only tensors are computed")
        elif id(tensor) not in drawn and tensor.is_meta:
            raise ValueError(
                f"the buffer {name!r} is on the meta device, with values that cannot be known: build the model under "
                "deferred(), which keeps buffers in memory"
            )
        else:
            changes = dtype is not None and id(tensor) in statistics and tensor.is_floating_point()
            values = drawn.get(id(tensor), tensor).detach()
            values = values.to(dtype) if changes else values
            source = Source(tuple(values.shape), values.dtype, None, values)
        found[name] = source
    return found


class StateDict(Mapping[str, Tensor]):
    """The state dict of a model without memory, see :func:`state_dict`. It does not store computed tensors.

    Parameters
    ----------
    sources : mapping of str to Source
        The source of each tensor.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import deferred, state_dict
    >>> with deferred():
    ...     model = torch.nn.Linear(64, 256)
    >>> weights = state_dict(model, seed=0)
    >>> list(weights), weights.shape("weight")
    (['weight', 'bias'], (256, 64))
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = dict(sources)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def __contains__(self, name: object) -> bool:
        return name in self._sources

    def _source(self, name: str) -> Source:
        if name not in self._sources:
            raise KeyError(f"the model has no tensor {shown(name)}")
        return self._sources[name]

    def __getitem__(self, name: str) -> Tensor:
        return self.slice(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without computing it."""
        return self._source(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor, without computing it."""
        return self._source(name).dtype

    def slice(self, name: str, offsets: Sequence[int] | None = None, shape: Sequence[int] | None = None) -> Tensor:
        """Computes a box of a tensor without the rest.

        Parameters
        ----------
        name : str
            Name of the tensor.
        offsets : sequence of int, optional
            Position of the box, by default the first element.
        shape : sequence of int, optional
            Shape of the box, by default everything from `offsets` to the end.

        Raises
        ------
        KeyError, ValueError
            If the tensor does not exist, or the box extends beyond it.

        Examples
        --------
        >>> import torch
        >>> from fastinit.adapters.torch import deferred, state_dict
        >>> with deferred():
        ...     model = torch.nn.Linear(64, 256)
        >>> weights = state_dict(model, seed=0)
        >>> torch.equal(weights.slice("weight", (100, 0), (2, 64)), weights["weight"][100:102])
        True
        """
        source = self._source(name)
        begin = (0,) * len(source.shape) if offsets is None else tuple(offsets)
        rest = tuple(whole - first for whole, first in zip(source.shape, begin, strict=False))
        extent = rest if shape is None else tuple(shape)
        if len(begin) != len(source.shape) or len(extent) != len(source.shape):
            raise ValueError(f"{name!r} has the shape {source.shape}; got offsets {begin} and shape {extent}")
        if any(
            not 0 <= first <= first + size <= whole
            for first, size, whole in zip(begin, extent, source.shape, strict=True)
        ):
            raise ValueError(f"the box of shape {extent} at {begin} extends beyond {name!r} of shape {source.shape}")
        out = torch.empty(extent, dtype=source.dtype, device="cpu")
        source.write(out, begin)
        return out


@in_stream_environment
def state_dict(
    model: nn.Module,
    recipe: str | Recipe | None = None,
    seed: int | str = 0,
    *,
    dtype: torch.dtype | None = None,
    rename: Rename | None = None,
) -> StateDict:
    """The state dict of a model after materialization, as a mapping that computes tensors on request.

    Parameters
    ----------
    model : torch.nn.Module
        A model on the meta device, from :func:`~fastinit.adapters.torch.deferred`. It stays unchanged.
    recipe, seed, dtype, rename
        As in :func:`~fastinit.adapters.torch.materialize`.

    Returns
    -------
    StateDict
        A mapping with the names of ``model.state_dict()``, independent of `rename`. Each tensor is computed on access.
        ``slice()`` computes only a box, with the bytes of the whole. For structured and replayed tensors it computes
        the whole internally.

    Raises
    ------
    ValueError, TypeError
        As in :func:`~fastinit.adapters.torch.materialize`. Also for buffers on the meta device, by name.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import deferred, materialize, state_dict
    >>> with deferred():
    ...     model = torch.nn.Linear(64, 256)
    >>> weight = state_dict(model, seed=0)["weight"]
    >>> record = materialize(model, seed=0)
    >>> torch.equal(weight, model.weight)
    True
    """
    return StateDict(sources_of(model, recipe, seed, dtype, rename))
