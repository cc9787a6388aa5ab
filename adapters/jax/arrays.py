"""Arrays filled by fastinit: on the host, in traced functions, and each piece on its device."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import fastinit
from fastinit import Key
from fastinit.adapters.jax.internals import is_traced
from fastinit.extending import DTYPES, new_memory

__all__ = ["filled", "shape_of"]

EVERYWHERE = PartitionSpec()  # type: ignore[no-untyped-call]


def filled(
    initializer: fastinit.Initializer, key: Any, shape: tuple[int, ...], dtype: Any = None, out_sharding: Any = None
) -> jax.Array:
    """A new array with the values of an initializer of fastinit; what the factories of this package return calls it.

    `key` may also be the words of a key, two or four as uint32. The rest is as the package says.

    Parameters
    ----------
    initializer : fastinit.Initializer
        What to draw.
    key : JAX key, fastinit.Key or array of uint32
        The stream.
    shape : tuple of int
        The array's shape.
    dtype : dtype, optional
        JAX's default if None.
    out_sharding : Sharding, optional
        Where the array goes: each device fills its own piece.

    Examples
    --------
    >>> import jax
    >>> from fastinit.adapters import jax as initializers
    >>> import fastinit
    >>> initializers.filled(fastinit.Identity(), jax.random.key(0), (2, 2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    words = _words(key)
    shape = shape_of(shape)
    probe = jnp.zeros((), dtype)  # in JAX's reading of the dtype; and traced, if everything is
    name = probe.dtype.name
    if name not in DTYPES:
        raise ValueError(f"the dtype must be one of {', '.join(DTYPES)}; got {name}")
    traced = is_traced(probe) or is_traced(words)
    fill = functools.partial(_memory, initializer, dtype=probe.dtype)
    if out_sharding is not None:
        make, sharding = _traced_pieces if traced else _pieces, _sharding(out_sharding, traced)
        return make(functools.partial(fill, global_shape=shape), words, shape, probe.dtype, sharding)
    if traced:
        return _called(functools.partial(fill, shape=shape), shape, probe.dtype, words)
    array: jax.Array = jax.device_put(fill(np.asarray(words), shape=shape))  # on the host it stays where it is
    return array


def _called(fill: Callable[..., np.ndarray], shape: tuple[int, ...], dtype: Any, *operands: Any) -> jax.Array:
    """What a compiled function gets from the host when it runs; of a batch of keys, by one call."""
    result = jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]
    call = functools.partial(jax.pure_callback, fill, result, vmap_method="expand_dims")
    free = _free_axes()
    if free and jax.sharding.get_abstract_mesh().manual_axes:  # JAX calls the host within all axes of a mesh or none
        call = jax.shard_map(call, in_specs=EVERYWHERE, out_specs=EVERYWHERE, axis_names=free, check_vma=False)

    @jax.jit
    def called(*operands: Any) -> Any:
        # on several devices, what the host gives is on one of them: the barrier spreads it, or JAX could not return it
        return jax.lax.optimization_barrier(call(*operands))  # type: ignore[no-untyped-call]

    array: jax.Array = called(*operands)
    return array


def _free_axes() -> set[Any]:
    """The axes of the mesh around this code over which it is not mapped."""
    mesh = jax.sharding.get_abstract_mesh()
    return set(mesh.axis_names) - set(mesh.manual_axes)


def _memory(
    initializer: fastinit.Initializer, words: Any, *offsets: Any, shape: tuple[int, ...], dtype: Any, **place: Any
) -> np.ndarray:
    """Memory of the host, filled: an array for each of the keys, whose words are the last axis of `words`.

    `offsets` are those of a piece of a larger array, the same for all keys.
    """
    if offsets:
        place["offsets"] = [int(np.ravel(offset)[0]) for offset in offsets]
    words = np.asarray(words)
    keys = words.reshape(-1, words.shape[-1]).tolist()
    memory = new_memory((*words.shape[:-1], *shape), DTYPES[dtype.name])
    arrays = memory.reshape(len(keys), *shape)
    for number, own in enumerate(keys):
        fastinit.fill(arrays[number, ...], initializer, Key.from_words(*own), dtype=dtype.name, **place)
    return memory.view(dtype)


def _words(key: Any) -> Any:
    """The words of a key, of shape (2,) or (4,)."""
    if isinstance(key, Key):
        return np.array(key.words, np.uint32)
    if not isinstance(key, (jax.Array, np.ndarray)):
        raise TypeError(f"key must be a key of JAX or a fastinit.Key, not {type(key).__name__} ({key!r})")
    words = key
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape:
            raise ValueError(f"expected one key, got an array of them of shape {key.shape}: use jax.vmap")
        words = jax.random.key_data(key)
    if words.dtype != np.uint32 or words.shape not in ((2,), (4,)):
        raise TypeError(
            f"a raw key must be of dtype uint32 and shape (2,) or (4,), got {words.dtype} and {words.shape}"
        )
    return words


def shape_of(shape: Any) -> tuple[int, ...]:
    """A shape of integers, as JAX has it: one number stands for one axis, and what is traced is no integer."""
    try:
        sizes = tuple(operator.index(size) for size in ((shape,) if np.ndim(shape) == 0 else shape))
    except TypeError as problem:
        raise TypeError(f"shape must be a sequence of integers that are known when tracing, got {shape}") from problem
    if any(size < 0 for size in sizes):
        raise TypeError(f"shape must not be negative, got {sizes}")
    return sizes


def _sharding(given: Any, traced: bool) -> NamedSharding:
    """The sharding with a mesh: of devices, or, in a function that is traced, of names alone."""
    if not isinstance(given, (NamedSharding, PartitionSpec)):
        raise TypeError(f"out_sharding must be a NamedSharding or a PartitionSpec, got {given!r}")
    if isinstance(given, NamedSharding) and (traced or isinstance(given.mesh, jax.sharding.Mesh)):
        return given
    mesh = jax.sharding.get_abstract_mesh() if traced else jax.sharding.get_mesh()
    if mesh.empty:
        raise ValueError(f"{given} needs a mesh: pass a NamedSharding, or enter one by jax.set_mesh")
    return NamedSharding(mesh, given.spec if isinstance(given, NamedSharding) else given)


def _piece_shape(sharding: NamedSharding, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of each device's piece; ValueError if there is none."""
    if len(sharding.spec) > len(shape):
        raise ValueError(f"{sharding.spec} has more axes than an array of shape {shape}")
    # of a mesh without axes that are mapped over already: JAX has no shape of a piece for those
    mesh = jax.sharding.AbstractMesh(sharding.mesh.axis_sizes, sharding.mesh.axis_names)
    return NamedSharding(mesh, sharding.spec).shard_shape(shape)


def _pieces(
    fill: Callable[..., np.ndarray], words: Any, shape: tuple[int, ...], dtype: Any, sharding: NamedSharding
) -> jax.Array:
    local = _piece_shape(sharding, shape)

    @functools.cache  # replicas are filled once
    def at(*offsets: int) -> np.ndarray:
        return fill(words, *offsets, shape=local)

    return jax.make_array_from_callback(shape, sharding, lambda index: at(*(axis.start or 0 for axis in index or ())))


def _traced_pieces(
    fill: Callable[..., np.ndarray], words: Any, shape: tuple[int, ...], dtype: Any, sharding: NamedSharding
) -> jax.Array:
    local = _piece_shape(sharding, shape)
    axes = [*sharding.spec, *[None] * (len(shape) - len(sharding.spec))]

    def piece(words: Any) -> Any:
        offsets = [
            0 if names is None else jax.lax.axis_index(names) * size for names, size in zip(axes, local, strict=True)
        ]
        return _called(functools.partial(fill, shape=local), local, dtype, words, *offsets)

    names = _free_axes() or set(sharding.mesh.axis_names)
    run = jax.shard_map(
        piece, mesh=sharding.mesh, in_specs=EVERYWHERE, out_specs=sharding.spec, axis_names=names, check_vma=False
    )  # unchecked: replicas agree
    array: jax.Array = run(words)
    return array
