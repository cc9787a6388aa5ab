"""jax.nn.initializers on fastinit: the same factories, with the same arguments; other numbers, more speed.

>>> import jax
>>> from fastinit.adapters import jax as initializers  # instead of: from jax.nn import initializers
>>> initializers.he_normal()(jax.random.key(0), (784, 256)).shape
(784, 256)
>>> jax.jit(initializers.he_normal(), static_argnums=1)(jax.random.key(0), (784, 256)).dtype
dtype('float32')

A factory returns ``init(key, shape, dtype, out_sharding)``, which flax takes as ``kernel_init``:

key : jax.Array or Key
    One JAX key, typed (``jax.random.key``) or raw (``PRNGKey``), of any implementation, or a :class:`fastinit.Key`. Of
    a JAX key the words are taken as they are: two as ``Key.from_words(k0, k1)``, four as ``(k0, k1, c2, c3)``.
shape : sequence of int
dtype : dtype, optional
    Floating-point, by default the factory's, or else JAX's default. Narrow ones have all the values that they can.
out_sharding : NamedSharding or PartitionSpec, optional
    Each device fills its own piece, alone; together they are, to the byte, the array without a sharding.

They raise TypeError for what is no key, ValueError for a batch of keys (use ``jax.vmap``), for dtypes that are not real
floating-point numbers and for parameters out of range, and what JAX raises for the rest. Eagerly, an array takes over
the memory that was filled. Under ``jit``, ``vmap``, ``eval_shape`` and ``shard_map`` the fill is a call on the host
that the compiled function makes when it runs; the values are the same bytes.

Beyond JAX come `*_untruncated_normal` (JAX's ``*_normal`` presets are cut at two standard deviations, with the variance
corrected), ``dirac``, ``icnr``, ``identity``, ``sparse`` and ``zero``, with the parameters of fastinit's classes and
``dtype`` by name, :func:`initializer` for any initializer of fastinit, and, by name only, ``groups``, ``transposed``,
``stride`` and ``blocks`` for the true fans of kernels that need them; see :func:`fastinit.fans`. ``zeros``, ``ones``
and ``constant`` are JAX's own.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import Initializer, constant, ones, zeros
from jax.sharding import NamedSharding, PartitionSpec

import fastinit
from fastinit import Axes, Key
from fastinit.extending import DTYPES, new_memory

__all__ = [
    "Initializer", "constant", "delta_orthogonal", "dirac", "filled", "glorot_normal", "glorot_uniform",
    "glorot_untruncated_normal", "he_normal", "he_uniform", "he_untruncated_normal", "icnr", "identity", "initializer",
    "kaiming_normal", "kaiming_uniform", "kaiming_untruncated_normal", "lecun_normal", "lecun_uniform",
    "lecun_untruncated_normal", "normal", "ones", "orthogonal", "sparse", "truncated_normal", "uniform",
    "variance_scaling", "xavier_normal", "xavier_uniform", "xavier_untruncated_normal", "zero", "zeros",
]  # fmt: skip

AnyInitializer = fastinit.Initializer
EVERYWHERE = PartitionSpec()  # type: ignore[no-untyped-call]


# Arrays


def filled(
    initializer: AnyInitializer, key: Any, shape: tuple[int, ...], dtype: Any = None, out_sharding: Any = None
) -> jax.Array:
    """A new array with the values of an initializer of fastinit; what the factories of this module return calls it.

    `key` may also be the words of a key, two or four as uint32. The rest is as this module says.
    """
    words = _words(key)
    shape = _checked_shape(shape)
    probe = jnp.zeros((), dtype)  # in JAX's reading of the dtype; and traced, if everything is
    name = probe.dtype.name
    if name not in DTYPES:
        raise ValueError(f"the dtype must be one of {', '.join(DTYPES)}; got {name}")
    traced = isinstance(probe, jax.core.Tracer) or isinstance(words, jax.core.Tracer)
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
    initializer: AnyInitializer, words: Any, *offsets: Any, shape: tuple[int, ...], dtype: Any, **place: Any
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


def _checked_shape(shape: Any) -> tuple[int, ...]:
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


# Initializers


def _init(of: Callable[[tuple[int, ...]], AnyInitializer], default: Any) -> Initializer:
    """JAX's initializer of what fills arrays of a shape."""

    def init(key: Any, shape: Any, dtype: Any = default, out_sharding: Any = None) -> jax.Array:
        shape = _checked_shape(shape)
        return filled(of(shape), key, shape, dtype, out_sharding)

    return init


def initializer(own: AnyInitializer, dtype: Any = None) -> Initializer:
    """Any initializer of fastinit, such as ``fastinit.Sparse(0.9)``, in JAX's form."""
    if not isinstance(own, Initializer):
        raise TypeError(f"expected an initializer of fastinit, got {own!r}")
    return _init(lambda shape: own, dtype)


def uniform(scale: Any = 1e-2, dtype: Any = None) -> Initializer:
    """The uniform distribution on [0, scale), or on [scale, 0) if that is negative; see :class:`fastinit.Uniform`."""

    def of(shape: tuple[int, ...]) -> AnyInitializer:
        end = float(scale)
        return fastinit.Uniform(min(end, 0.0), max(end, 0.0)) if end else fastinit.Zeros()

    return _init(of, dtype)


def normal(stddev: Any = 1e-2, dtype: Any = None) -> Initializer:
    """The normal distribution with mean 0, untruncated; see :class:`fastinit.Normal`."""
    return _init(lambda shape: fastinit.Normal(0.0, abs(float(stddev))), dtype)


def truncated_normal(stddev: Any = 1e-2, dtype: Any = None, lower: Any = -2.0, upper: Any = 2.0) -> Initializer:
    """The normal distribution cut to [lower, upper] standard deviations; `stddev` is that before the cut.

    By one draw per element, of any bounds; see :class:`fastinit.TruncatedNormal`. Raises ValueError, when called, if
    lower >= upper.
    """

    def of(shape: tuple[int, ...]) -> AnyInitializer:
        std, low, high = float(stddev), float(lower), float(upper)
        return fastinit.TruncatedNormal(0.0, abs(std), *((-high, -low) if std < 0 else (low, high)))

    return _init(of, dtype)


def _check_axes(shape: tuple[int, ...], in_axis: Any, *others: Any) -> None:
    if isinstance(in_axis, int) and in_axis == -2 and len(shape) < 2:
        raise ValueError(f"fans need a shape of at least 2 axes, or in_axis and out_axis that fit it; got {shape}")
    for given in (in_axis, *others):
        for axis in np.atleast_1d(np.asarray(given, int)):
            if not -len(shape) <= axis < len(shape):
                raise IndexError(f"axis {axis} is no axis of shape {shape}")


def variance_scaling(
    scale: Any,
    mode: str,
    distribution: str,
    in_axis: int | Sequence[int] = -2,
    out_axis: int | Sequence[int] = -1,
    batch_axis: int | Sequence[int] = (),
    dtype: Any = None,
    *,
    groups: int = 1,
    transposed: bool = False,
    stride: int | Sequence[int] = 1,
    blocks: int = 1,
) -> Initializer:
    """Var(W) = scale / fan, for the fan that `mode` names; see :class:`fastinit.VarianceScaling`.

    Parameters
    ----------
    scale : float
        In [0, inf).
    mode : {"fan_in", "fan_out", "fan_avg", "fan_geo_avg"}
    distribution : {"truncated_normal", "normal", "uniform"}
        The truncated one is cut at 2 standard deviations, with the variance corrected.
    in_axis, out_axis, batch_axis : int or sequence of int
        What is no axis of these is spatial.
    groups, transposed, stride, blocks
        Of the layer that the kernel belongs to; see :func:`fastinit.fans`.

    Raises
    ------
    ValueError
        When called, if an argument is out of range, or the shape has fewer than 2 axes and `in_axis` its default.
    IndexError
        When called, if the shape has no such axis.
    """

    def of(shape: tuple[int, ...]) -> AnyInitializer:
        _check_axes(shape, in_axis, out_axis, batch_axis)
        size = float(scale)
        own = fastinit.VarianceScaling(
            size or 1.0, mode, distribution, layout=Axes(in_axis, out_axis, batch_axis), groups=groups,
            transposed=transposed, stride=stride if isinstance(stride, int) else tuple(stride), blocks=blocks,
        )  # fmt: skip
        return own if size else fastinit.Zeros()

    return _init(of, dtype)


def orthogonal(scale: Any = 1.0, column_axis: int = -1, dtype: Any = None) -> Initializer:
    """A random matrix (all other axes, `column_axis`) with orthonormal rows or columns, times `scale`.

    Exactly Haar-distributed, in every dtype; see :class:`fastinit.Orthogonal`. Under a sharding each device computes
    the whole matrix and keeps its piece. Raises ValueError, when called, for fewer than two axes.

    A. M. Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks", 2013.
    """

    def of(shape: tuple[int, ...]) -> AnyInitializer:
        if len(shape) > 1:
            _check_axes(shape, column_axis)
        return fastinit.Orthogonal(float(scale), column_axis)

    return _init(of, dtype)


def delta_orthogonal(scale: Any = 1.0, column_axis: int = -1, dtype: Any = None) -> Initializer:
    """A convolution (spatial..., in, out) that keeps norms: an orthogonal matrix at the centre, 0 elsewhere.

    `column_axis`, of that square matrix, changes nothing about its distribution. Raises ValueError, when called, for
    other than 3 to 5 axes or in > out.

    L. Xiao et al., "Dynamical isometry and a mean field theory of CNNs", 2018.
    """

    def of(shape: tuple[int, ...]) -> AnyInitializer:
        _check_axes(shape[-2:], column_axis)
        return fastinit.DeltaOrthogonal(float(scale))

    return _init(of, dtype)


def _factory(
    name: str, make: Callable[..., Initializer], parameters: Iterable[inspect.Parameter], summary: str | None
) -> Callable[..., Initializer]:
    """A factory with a name, parameters and words of its own."""

    def factory(*given: Any, **named: Any) -> Initializer:
        return make(*given, **named)

    factory.__name__ = factory.__qualname__ = name
    factory.__signature__ = inspect.Signature([*parameters], return_annotation=Initializer)  # type: ignore[attr-defined]
    factory.__doc__ = summary
    return factory


def _of_preset(name: str, preset: str) -> Callable[..., Initializer]:
    """The factory of a row of fastinit's presets: what :func:`variance_scaling` takes after the distribution."""
    row = fastinit.PRESETS[preset]
    make = functools.partial(variance_scaling, row.scale, row.mode, row.distribution)
    summary = f"Var(W) = {row.scale:g} / {row.mode}, distribution {row.distribution}; see :func:`variance_scaling`."
    return _factory(name, make, inspect.signature(make).parameters.values(), f"{summary} {row.source}.")


def _of_class(name: str, own: Callable[..., AnyInitializer]) -> Callable[..., Initializer]:
    """The factory of an initializer that JAX does not have: the parameters of fastinit's class, and `dtype` by name."""

    def make(*given: Any, dtype: Any = None, **named: Any) -> Initializer:
        return initializer(own(*given, **named), dtype)

    parameters = [*inspect.signature(own).parameters.values(), inspect.signature(make).parameters["dtype"]]
    return _factory(name, make, parameters, inspect.getdoc(own))


# JAX's *_normal are truncated
glorot_uniform = xavier_uniform = _of_preset("glorot_uniform", "glorot_uniform")
glorot_normal = xavier_normal = _of_preset("glorot_normal", "glorot_truncated_normal")
glorot_untruncated_normal = xavier_untruncated_normal = _of_preset("glorot_untruncated_normal", "glorot_normal")
he_uniform = kaiming_uniform = _of_preset("he_uniform", "he_uniform")
he_normal = kaiming_normal = _of_preset("he_normal", "he_truncated_normal")
he_untruncated_normal = kaiming_untruncated_normal = _of_preset("he_untruncated_normal", "he_normal")
lecun_uniform = _of_preset("lecun_uniform", "lecun_uniform")
lecun_normal = _of_preset("lecun_normal", "lecun_truncated_normal")
lecun_untruncated_normal = _of_preset("lecun_untruncated_normal", "lecun_normal")
dirac = _of_class("dirac", fastinit.Dirac)
icnr = _of_class("icnr", fastinit.ICNR)
identity = _of_class("identity", fastinit.Identity)
sparse = _of_class("sparse", fastinit.Sparse)
zero = _of_class("zero", fastinit.ZerO)
