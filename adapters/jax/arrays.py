"""Arrays filled by fastinit: on the host, in traced functions, and each piece on its device."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import fastinit
from fastinit import Key
from fastinit.adapters.jax.fills import EVERYWHERE, Fill, fill, mesh_size, place_of_device
from fastinit.adapters.jax.internals import is_traced
from fastinit.adapters.jax.own import KIND_OF_KEYS, by_jax
from fastinit.adapters.jax.versions import is_symbolic_dim, mesh_of_devices
from fastinit.extending import DTYPES, shown

__all__ = ["filled", "is_symbolic", "scaled", "shape_of"]

ANY_KEY = Key(0)
KEYLESS = (fastinit.Constant, fastinit.Dirac, fastinit.Identity, fastinit.ZerO)


def filled(
    initializer: fastinit.Initializer,
    key: Any,
    shape: tuple[int, ...],
    dtype: Any = None,
    out_sharding: Any = None,
    own: Callable[..., Any] | None = None,
) -> jax.Array:
    """A new array with an initializer's values. The functions of the factories call it.

    `key` may also be the two or four uint32 words of a key. `own` is JAX's own initializer, for unsupported dtypes and
    for exported functions; without it they raise an error. See the package's docstring for the other arguments.

    Parameters
    ----------
    initializer : fastinit.Initializer
        The distribution.
    key : JAX key, fastinit.Key or array of uint32
        The stream. May be None for an initializer without random numbers (``fastinit.Identity()``).
    shape : tuple of int
        The array's shape.
    dtype : dtype, optional
        JAX's default if None.
    out_sharding : Sharding, optional
        Sharding of the array. Each device fills its own piece.
    own : callable, optional
        JAX's own initializer.

    Raises
    ------
    TypeError, ValueError
        For an invalid key, a batch of keys, and a shape that the initializer refuses.

    Examples
    --------
    >>> import jax
    >>> from fastinit.adapters import jax as initializers
    >>> import fastinit
    >>> initializers.filled(fastinit.Identity(), jax.random.key(0), (2, 2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    words = words_of(ANY_KEY if key is None and own is None and isinstance(initializer, KEYLESS) else key)
    shape = shape_of(shape)
    probe = jnp.zeros((), dtype)  # with JAX's interpretation of the dtype; traced, if all arguments are
    name = probe.dtype.name
    if name not in DTYPES:
        if own is None:
            raise ValueError(f"the dtype must be one of {', '.join(DTYPES)}; got {name}")
        return by_jax(own, name, f"fastinit does not fill {name}", key, shape, probe.dtype, out_sharding)
    work = Fill(initializer, shape, probe.dtype)
    traced = is_traced(probe) or is_traced(words)
    if traced:
        initializer.check(shape, name)  # before the function runs
        if own is not None:
            work = replace(work, own=functools.partial(_of_words, own, _kind(key), shape, probe.dtype))
    if out_sharding is not None:
        return (_traced_pieces if traced else _pieces)(work, words, _sharding(out_sharding, traced))
    if traced:
        return _called(work, words)
    sharding = _sharding_of_results(key, len(shape))
    array: jax.Array = jax.device_put(work.memory(words), sharding)  # on the host it keeps its place
    return array


def scaled(
    factor: Any, initializer: fastinit.Initializer, key: Any, shape: tuple[int, ...], dtype: Any, *rest: Any
) -> jax.Array:
    """The result of :func:`filled` times a JAX factor, rounded to the dtype once, after the product."""
    dtype = jnp.zeros((), dtype).dtype
    wide = jnp.dtype("float32") if dtype.name in DTYPES and dtype.itemsize < 4 else dtype
    return (filled(initializer, key, shape, wide, *rest) * jnp.asarray(factor, wide)).astype(dtype)


def _kind(key: Any) -> Any:
    """JAX's implementation of a key; None for raw words."""
    if isinstance(key, Key):
        return KIND_OF_KEYS
    return jax.random.key_impl(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else None


def _of_words(own: Callable[..., Any], kind: Any, shape: tuple[int, ...], dtype: Any, words: Any) -> Any:
    """The array of JAX's own initializer for the words of a key of an implementation."""
    return own(words if kind is None else jax.random.wrap_key_data(words, impl=kind), shape, dtype)


def _called(work: Fill, *operands: Any) -> jax.Array:
    """The array that a compiled function gets from the host. A batch of keys takes one call."""
    call = functools.partial(fill, work=work)
    free = _free_axes()
    if free and jax.sharding.get_abstract_mesh().manual_axes:  # JAX calls the host within all axes of a mesh, or none
        call = jax.shard_map(call, in_specs=EVERYWHERE, out_specs=EVERYWHERE, axis_names=free, check_vma=False)
    array: jax.Array = call(*operands)
    return array


def _free_axes() -> set[Any]:
    """The axes of the surrounding mesh that are not mapped over."""
    mesh = jax.sharding.get_abstract_mesh()
    return set(mesh.axis_names) - set(mesh.manual_axes)


def _sharding_of_results(key: Any, rank: int) -> Any:
    """The sharding that JAX's own functions give to an array of this rank from a key; None for the default device."""
    placed = isinstance(key, jax.Array) and key.committed
    if not placed and jax.sharding.get_abstract_mesh().empty:
        return None
    probe = jax.random.bits(key if placed else np.zeros(2, np.uint32), (1,) * rank, "uint8")
    return probe.sharding if probe.committed else None


def words_of(key: Any) -> Any:
    """The words of a key, of shape (2,) or (4,)."""
    if isinstance(key, Key):
        return np.array(key.words, np.uint32)
    if not isinstance(key, (jax.Array, np.ndarray)):
        raise TypeError(f"key must be a key of JAX or a fastinit.Key, not {type(key).__name__} ({shown(key)})")
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
    """A shape of integers, as in JAX: one number means one axis. Traced sizes are refused."""
    try:
        sizes = tuple(operator.index(size) for size in ((shape,) if np.ndim(shape) == 0 else shape))
    except TypeError as problem:
        raise TypeError(
            f"shape must be a sequence of integers that are known when tracing, got {shown(shape)}"
        ) from problem
    if any(size < 0 for size in sizes):
        raise TypeError(f"shape must not be negative, got {shown(sizes)}")
    return sizes


def is_symbolic(shape: Any) -> bool:
    """Whether a size of a shape is a symbol of an exported function."""
    return isinstance(shape, Sequence) and any(map(is_symbolic_dim, shape))


def _sharding(given: Any, traced: bool) -> NamedSharding:
    """The sharding with a mesh: of devices, or in a traced function of names only."""
    if not isinstance(given, (NamedSharding, PartitionSpec)):
        raise TypeError(f"out_sharding must be a NamedSharding or a PartitionSpec, got {shown(given)}")
    if isinstance(given, NamedSharding) and (traced or isinstance(given.mesh, jax.sharding.Mesh)):
        return given
    mesh = jax.sharding.get_abstract_mesh() if traced else mesh_of_devices(given)
    if mesh.empty:
        raise ValueError(f"{given} needs a mesh: pass a NamedSharding, or enter one by jax.set_mesh")
    return NamedSharding(mesh, given.spec if isinstance(given, NamedSharding) else given)


def _piece_shape(sharding: NamedSharding, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of each device's piece. Raises ValueError if there is none."""
    if len(sharding.spec) > len(shape):
        raise ValueError(f"{sharding.spec} has more axes than an array of shape {shape}")
    # for a mesh without mapped axes: JAX has no piece shape for those
    mesh = jax.sharding.AbstractMesh(sharding.mesh.axis_sizes, sharding.mesh.axis_names)
    return NamedSharding(mesh, sharding.spec).shard_shape(shape)


def _pieces(work: Fill, words: Any, sharding: NamedSharding) -> jax.Array:
    local = _piece_shape(sharding, work.shape)
    counts = [whole // size if size else 1 for whole, size in zip(work.shape, local, strict=True)]

    @functools.cache  # each set of replicas is filled once
    def at(*numbers: int) -> np.ndarray:
        return work.memory(words, [numbers, counts])

    def piece(index: tuple[slice, ...] | None) -> np.ndarray:
        return at(*((axis.start or 0) // size if size else 0 for axis, size in zip(index or (), local, strict=True)))

    return jax.make_array_from_callback(work.shape, sharding, piece)


def _traced_pieces(work: Fill, words: Any, sharding: NamedSharding) -> jax.Array:
    _piece_shape(sharding, work.shape)
    axes = [*sharding.spec, *[None] * (len(work.shape) - len(sharding.spec))]
    pieces = tuple(mesh_size(sharding.mesh, names) for names in axes)

    def piece(words: Any) -> Any:
        return _called(replace(work, pieces=pieces), words, place_of_device(axes, pieces))

    names = _free_axes() or set(sharding.mesh.axis_names)
    run = jax.shard_map(
        piece, mesh=sharding.mesh, in_specs=EVERYWHERE, out_specs=sharding.spec, axis_names=names, check_vma=False
    )  # unchecked, because replicas agree
    array: jax.Array = jax.jit(run)(words)
    return array
