"""The factories of ``jax.nn.initializers``, and factories for initializers that JAX lacks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import Initializer
from jax.nn.initializers import delta_orthogonal as jax_delta_orthogonal
from jax.nn.initializers import normal as jax_normal
from jax.nn.initializers import orthogonal as jax_orthogonal
from jax.nn.initializers import truncated_normal as jax_truncated_normal
from jax.nn.initializers import uniform as jax_uniform
from jax.nn.initializers import variance_scaling as jax_variance_scaling

import fastinit
from fastinit import Axes
from fastinit.adapters.jax import docstrings
from fastinit.adapters.jax.arrays import filled, is_symbolic, scaled, shape_of
from fastinit.adapters.jax.internals import is_traced
from fastinit.adapters.jax.own import EXPORTED, by_jax, refusal_of_jax
from fastinit.extending import checked_initializer

__all__ = [
    "delta_orthogonal",
    "dirac",
    "glorot_normal",
    "glorot_uniform",
    "glorot_untruncated_normal",
    "he_normal",
    "he_uniform",
    "he_untruncated_normal",
    "icnr",
    "identity",
    "initializer",
    "kaiming_normal",
    "kaiming_uniform",
    "kaiming_untruncated_normal",
    "lecun_normal",
    "lecun_uniform",
    "lecun_untruncated_normal",
    "normal",
    "orthogonal",
    "sparse",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "xavier_untruncated_normal",
    "zero",
    "zero_init",
]


def _init(
    of: Callable[[tuple[int, ...], float], fastinit.Initializer | None],
    scale: Any,
    default: Any,
    own: Callable[[Any], Initializer] | None = None,
    as_factor: Callable[[Any], Any] = jnp.asarray,
) -> Initializer:
    """An initializer in JAX's form.

    of(shape, scale) : fastinit's initializer; None if JAX's own should draw
    scale : a number; traced scales and arrays multiply a draw of scale 1, as ``as_factor(scale)``
    own(scale) : JAX's own initializer
    """

    def init(key: Any, shape: Any, dtype: Any = default, out_sharding: Any = None) -> jax.Array:
        if own and is_symbolic(shape):
            return by_jax(own(scale), *EXPORTED, key, shape, dtype, out_sharding)
        sizes = shape_of(shape)
        traced = is_traced(scale) or np.ndim(scale) > 0
        number = 1.0 if traced else scale
        unit = own and own(number)
        try:
            made = of(sizes, float(number))
            if made is None:
                assert own is not None
                return by_jax(own(scale), "bounds", "a bound is traced or an array", key, sizes, dtype, out_sharding)
            if traced:
                return scaled(as_factor(scale), made, key, sizes, dtype, out_sharding, unit)
            return filled(made, key, sizes, dtype, out_sharding, unit)
        except (ValueError, IndexError) as problem:
            refusal = problem if unit is None else refusal_of_jax(unit, sizes, dtype) or problem
        raise refusal

    return init


def initializer(own: fastinit.Initializer, dtype: Any = None) -> Initializer:
    """Any initializer of fastinit, such as ``fastinit.Sparse(0.9)``, in JAX's form.

    Parameters
    ----------
    own : fastinit.Initializer
        The distribution. Other types raise TypeError.
    dtype : dtype
        Default dtype of the arrays; JAX's own if None.

    Examples
    --------
    >>> import jax
    >>> from fastinit.adapters import jax as initializers
    >>> import fastinit
    >>> kernel = initializers.initializer(fastinit.Sparse(0.9))(jax.random.key(0), (10, 4))
    >>> int((kernel == 0).sum())
    36
    """
    checked_initializer(own)
    return _init(lambda shape, scale: own, 1.0, dtype)


def uniform(scale: Any = 1e-2, dtype: Any = None) -> Initializer:
    """The uniform distribution on [0, scale), or on [scale, 0) for a negative scale; see :class:`fastinit.Uniform`.

    Parameters
    ----------
    scale : float
        The open end of the interval.
    dtype : dtype
        Default dtype of the arrays; JAX's own if None.

    Examples
    --------
    >>> import jax
    >>> from fastinit.adapters import jax as initializers
    >>> kernel = initializers.uniform(0.5)(jax.random.key(0), (512, 256))
    >>> bool((kernel >= 0).all()), bool((kernel < 0.5).all())
    (True, True)
    """

    def of(shape: tuple[int, ...], end: float) -> fastinit.Initializer:
        return fastinit.Uniform(min(end, 0.0), max(end, 0.0)) if end else fastinit.Zeros()

    return _init(of, scale, dtype, jax_uniform)


def normal(stddev: Any = 1e-2, dtype: Any = None) -> Initializer:
    """The normal distribution with mean 0, untruncated; see :class:`fastinit.Normal`.

    Parameters
    ----------
    stddev : float
        The standard deviation.
    dtype : dtype
        Default dtype of the arrays; JAX's own if None.

    Examples
    --------
    >>> import jax
    >>> from fastinit.adapters import jax as initializers
    >>> kernel = initializers.normal(0.5)(jax.random.key(0), (512, 256))
    >>> print(f"{kernel.std():.2f}")
    0.50
    """
    return _init(lambda shape, std: fastinit.Normal(0.0, abs(std)), stddev, dtype, jax_normal)


def truncated_normal(stddev: Any = 1e-2, dtype: Any = None, lower: Any = -2.0, upper: Any = 2.0) -> Initializer:
    """The normal distribution truncated to [lower, upper] standard deviations.

    Takes one draw per element for all bounds; see :class:`fastinit.TruncatedNormal`. If a bound is traced or an array,
    JAX's own function draws. The initializer raises ValueError when called with lower >= upper.

    Parameters
    ----------
    stddev : float
        The standard deviation before truncation.
    dtype : dtype
        Default dtype of the arrays; JAX's own if None.
    lower, upper : float
        The bounds, in standard deviations.

    Examples
    --------
    >>> import jax
    >>> from fastinit.adapters import jax as initializers
    >>> kernel = initializers.truncated_normal(0.5)(jax.random.key(0), (512, 256))
    >>> bool((abs(kernel) <= 1).all())
    True
    """

    def of(shape: tuple[int, ...], std: float) -> fastinit.Initializer | None:
        if any(is_traced(bound) or np.ndim(bound) for bound in (lower, upper)):
            return None
        low, high = float(lower), float(upper)
        return fastinit.TruncatedNormal(0.0, abs(std), *((-high, -low) if std < 0 else (low, high)))

    return _init(of, stddev, dtype, lambda std: jax_truncated_normal(std, lower=lower, upper=upper))


def _check_axes(shape: tuple[int, ...], in_axis: Any, *others: Any) -> None:
    if isinstance(in_axis, int) and in_axis == -2 and len(shape) < 2:
        raise ValueError(f"fans need a shape of at least 2 axes, or in_axis and out_axis that fit it; got {shape}")
    for given in (in_axis, *others):
        for axis in np.atleast_1d(np.asarray(given, int)):
            if not -len(shape) <= axis < len(shape):
                raise IndexError(f"axis {axis} is out of range for shape {shape}")


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
    """Var(W) = scale / fan, for the fan named by `mode`; see :class:`fastinit.VarianceScaling`.

    Parameters
    ----------
    scale : float
        In [0, inf).
    mode : {"fan_in", "fan_out", "fan_avg", "fan_geo_avg"}
    distribution : {"truncated_normal", "normal", "uniform"}
        The truncated normal is truncated at 2 standard deviations, with the variance corrected.
    in_axis, out_axis, batch_axis : int or sequence of int
        All other axes are spatial.
    groups, transposed, stride, blocks
        Properties of the kernel's layer; see :func:`fastinit.fans`.
    dtype : dtype
        Default dtype of the arrays; JAX's own if None.

    Raises
    ------
    ValueError
        When called, if an argument is out of range, or the shape has fewer than 2 axes and `in_axis` has its default.
    IndexError
        When called, if an axis is out of range for the shape.

    Examples
    --------
    >>> import jax
    >>> from fastinit.adapters import jax as initializers
    >>> kernel = initializers.variance_scaling(2.0, "fan_out", "normal")(jax.random.key(0), (512, 256))
    >>> print(f"{kernel.std():.2f}")  # sqrt(2 / 256)
    0.09
    """

    def of(shape: tuple[int, ...], size: float) -> fastinit.Initializer:
        _check_axes(shape, in_axis, out_axis, batch_axis)
        made = fastinit.VarianceScaling(
            size or 1.0,
            mode,
            distribution,
            layout=Axes(in_axis, out_axis, batch_axis),
            groups=groups,
            transposed=transposed,
            stride=stride if isinstance(stride, int) else tuple(stride),
            blocks=blocks,
        )
        return made if size else fastinit.Zeros()

    def own(size: Any) -> Initializer:
        return jax_variance_scaling(size, mode, distribution, in_axis, out_axis, batch_axis)  # type: ignore[arg-type]

    as_jax = groups == 1 and not transposed and np.all(np.equal(stride, 1)) and blocks == 1
    return _init(of, scale, dtype, own if as_jax else None, jnp.sqrt)


def orthogonal(scale: Any = 1.0, column_axis: int = -1, dtype: Any = None) -> Initializer:
    """A random matrix (all other axes, `column_axis`) with orthonormal rows or columns, times `scale`.

    Exactly Haar-distributed, in every dtype; see :class:`fastinit.Orthogonal`. Under a sharding each device computes
    the whole matrix and keeps its piece. Raises ValueError, when called, for fewer than two axes.

    A. M. Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks", 2013.

    Parameters
    ----------
    scale : float
        Multiplies the matrix.
    column_axis : int
        The axis of the matrix's columns.
    dtype : dtype
        Default dtype of the arrays; JAX's own if None.

    Examples
    --------
    >>> import jax
    >>> from fastinit.adapters import jax as initializers
    >>> import jax.numpy as jnp
    >>> kernel = initializers.orthogonal()(jax.random.key(0), (8, 4))
    >>> bool(jnp.allclose(kernel.T @ kernel, jnp.eye(4), atol=1e-5))
    True
    """

    def of(shape: tuple[int, ...], gain: float) -> fastinit.Initializer:
        if len(shape) > 1:
            _check_axes(shape, column_axis)
        return fastinit.Orthogonal(gain, column_axis)

    return _init(of, scale, dtype, lambda gain: jax_orthogonal(gain, column_axis))


def delta_orthogonal(scale: Any = 1.0, column_axis: int = -1, dtype: Any = None) -> Initializer:
    """A norm-preserving convolution (spatial..., in, out): an orthogonal matrix at the centre, 0 elsewhere.

    `column_axis` of this square matrix does not affect its distribution. Raises ValueError, when called, for
    other than 3 to 5 axes or in > out.

    L. Xiao et al., "Dynamical isometry and a mean field theory of CNNs", 2018.

    Parameters
    ----------
    scale : float
        Multiplies the matrix.
    dtype : dtype
        Default dtype of the arrays; JAX's own if None.

    Examples
    --------
    >>> import jax
    >>> from fastinit.adapters import jax as initializers
    >>> import jax.numpy as jnp
    >>> kernel = initializers.delta_orthogonal()(jax.random.key(0), (3, 4, 8))  # (width, in, out)
    >>> bool(jnp.allclose(kernel[1] @ kernel[1].T, jnp.eye(4), atol=1e-5)), bool(kernel[0].any())
    (True, False)
    """

    def of(shape: tuple[int, ...], gain: float) -> fastinit.Initializer:
        _check_axes(shape[-2:], column_axis)
        return fastinit.DeltaOrthogonal(gain)

    return _init(of, scale, dtype, lambda gain: jax_delta_orthogonal(gain, column_axis))


def _factory(
    name: str, make: Callable[..., Initializer], parameters: Iterable[inspect.Parameter], summary: str | None
) -> Callable[..., Initializer]:
    """Sets a factory's name, signature and docstring."""

    def factory(*given: Any, **named: Any) -> Initializer:
        return make(*given, **named)

    factory.__name__ = factory.__qualname__ = name
    factory.__signature__ = inspect.Signature([*parameters], return_annotation=Initializer)  # type: ignore[attr-defined]
    factory.__doc__ = summary
    return factory


class OfPreset(Protocol):
    """The type of a preset's factory."""

    def __call__(
        self,
        in_axis: int | Sequence[int] = -2,
        out_axis: int | Sequence[int] = -1,
        batch_axis: int | Sequence[int] = (),
        dtype: Any = None,
        *,
        groups: int = 1,
        transposed: bool = False,
        stride: int | Sequence[int] = 1,
        blocks: int = 1,
    ) -> Initializer: ...


def _of_preset(name: str, preset: str) -> OfPreset:
    """The factory of a row of fastinit's presets, with the later arguments of :func:`variance_scaling`."""
    row = fastinit.PRESETS[preset]
    make = functools.partial(variance_scaling, row.scale, row.mode, row.distribution)
    return _factory(name, make, inspect.signature(make).parameters.values(), docstrings.of_preset(name, preset))


def _of_class(name: str, own: Callable[..., fastinit.Initializer]) -> Callable[..., Initializer]:
    """The factory of an initializer that JAX lacks, with the parameters of fastinit's class, and `dtype` by name."""

    def make(*given: Any, dtype: Any = None, **named: Any) -> Initializer:
        return initializer(own(*given, **named), dtype)

    parameters = docstrings.class_form(own).parameters.values()
    return _factory(name, make, parameters, docstrings.of_class(own))


# JAX's *_normal are truncated
glorot_uniform = _of_preset("glorot_uniform", "glorot_uniform")
glorot_normal = _of_preset("glorot_normal", "glorot_truncated_normal")
glorot_untruncated_normal = _of_preset("glorot_untruncated_normal", "glorot_normal")
xavier_uniform = _of_preset("xavier_uniform", "glorot_uniform")
xavier_normal = _of_preset("xavier_normal", "glorot_truncated_normal")
xavier_untruncated_normal = _of_preset("xavier_untruncated_normal", "glorot_normal")
he_uniform = _of_preset("he_uniform", "he_uniform")
he_normal = _of_preset("he_normal", "he_truncated_normal")
he_untruncated_normal = _of_preset("he_untruncated_normal", "he_normal")
kaiming_uniform = _of_preset("kaiming_uniform", "he_uniform")
kaiming_normal = _of_preset("kaiming_normal", "he_truncated_normal")
kaiming_untruncated_normal = _of_preset("kaiming_untruncated_normal", "he_normal")
lecun_uniform = _of_preset("lecun_uniform", "lecun_uniform")
lecun_normal = _of_preset("lecun_normal", "lecun_truncated_normal")
lecun_untruncated_normal = _of_preset("lecun_untruncated_normal", "lecun_normal")
dirac = _of_class("dirac", fastinit.Dirac)
icnr = _of_class("icnr", fastinit.ICNR)
identity = _of_class("identity", fastinit.Identity)
sparse = _of_class("sparse", fastinit.Sparse)
zero_init = zero = _of_class("zero_init", fastinit.ZerO)
