"""Every initializer as a function that returns a NumPy array, or fills one.

All share one form, ``name(shape, *, key, dtype="float32", out=None, num_threads=None, ...)``:

shape : int or sequence of int
    Of the new array; None, or the shape of `out`, where `out` is given.
key : Key, int or numpy.random.Generator
    The stream. An int means ``Key(int)``; from a Generator 64 bits are drawn, so it advances.
dtype : str or dtype
    ``"float32"``, ``"float64"``, ``"float16"``, or with ml_dtypes ``"bfloat16"``, ``"float8_e4m3fn"``,
    ``"float8_e5m2"``. An `out` has its own dtype; only for raw memory (unsigned integers) does `dtype` say what it
    holds.
out : numpy.ndarray
    Filled in place and returned: of any layout, transposed, strided or memory-mapped.
num_threads : int
    At most so many threads.

They raise what :func:`fastinit.fill` and the initializers raise, before anything is written. The weights of fan-scaled
initializers are described by ``layout``, ``groups``, ``transposed``, ``stride`` and ``blocks``, see
:func:`fastinit.fans`; the default layout, ``"...IO"``, is that of Keras and JAX: (in, out) and (spatial..., in, out).

>>> from fastinit.adapters import numpy as init
>>> init.he_normal((256, 128), key=0).std().round(3)
np.float32(0.088)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

import fastinit
from fastinit import Key
from fastinit.extending import checked_shape, dtype_named, remembered

# Making an initializer checks its parameters, which takes longer than a small fill.
_cached = remembered(lambda factory, **own: factory(**own))
_default = functools.cache(lambda factory: factory())


def _key(key: Any) -> Key:
    if isinstance(key, Key):
        return key
    if isinstance(key, np.random.Generator):
        return Key(int(key.integers(0, 2**64, dtype=np.uint64)))
    if isinstance(key, (int, np.integer)):
        return Key.of(key)
    kind = type(key).__name__
    raise TypeError(f"key must be a fastinit.Key, an int or a numpy.random.Generator, not {kind} ({key!r})")


def _new(shape: Any, dtype: Any) -> np.ndarray:
    name, storage = dtype_named(dtype).name, dtype_named(dtype).storage
    if name != storage:
        try:
            import ml_dtypes
        except ImportError:
            raise ImportError(
                f"a NumPy array of {name} needs the package ml_dtypes; without it, pass unsigned integers as out"
            ) from None
        return np.empty(shape, getattr(ml_dtypes, name))
    return np.empty(shape, name)


def _filled(initializer: Any, shape: Any, key: Any, dtype: Any, out: Any, num_threads: int | None) -> np.ndarray:
    if shape is not None:
        shape = checked_shape(shape)
    if out is None:
        if shape is None:
            raise TypeError("shape must be given where no out is")
        return fastinit.fill(_new(shape, dtype), initializer, _key(key), num_threads=num_threads)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, not {type(out).__name__}")
    if shape is not None and out.shape != shape:
        raise ValueError(f"shape must be that of out, {out.shape}, or None; got {shape}")
    # the default says nothing about an out that has a dtype of its own
    raw = None if dtype == "float32" and out.dtype.kind != "u" else dtype
    return fastinit.fill(out, initializer, _key(key), dtype=raw, num_threads=num_threads)


def _function(name: str, factory: Callable[..., Any], summary: str) -> Callable[..., np.ndarray]:
    """The function of an initializer: its parameters become keywords after the ones that all functions share."""

    def function(
        shape: Any = None,
        *,
        key: Any,
        dtype: Any = "float32",
        out: Any = None,
        num_threads: int | None = None,
        **own: Any,
    ) -> np.ndarray:
        initializer = None
        if factory is not fastinit.Constant:  # 0.0 and -0.0 are equal, and different constants
            try:  # noqa: SIM105 (suppress() takes a microsecond)
                initializer = _cached(factory, **own) if own else _default(factory)
            except TypeError:  # a parameter that is wrong, or one that cannot be hashed
                pass
        return _filled(initializer or factory(**own), shape, key, dtype, out, num_threads)

    shared = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    own = [p for p in inspect.signature(factory).parameters.values() if p.kind is not p.VAR_KEYWORD]
    if isinstance(factory, fastinit.Preset):
        weight = list(inspect.signature(fastinit.VarianceScaling).parameters.values())[3:]
        own = (own if factory.takes_slope else []) + weight
    own = sorted((p.replace(kind=p.KEYWORD_ONLY) for p in own), key=lambda p: p.default is not p.empty)
    function.__name__ = function.__qualname__ = name
    function.__doc__ = summary
    function.__signature__ = inspect.Signature([*shared, *own], return_annotation=np.ndarray)  # type: ignore[attr-defined]
    return function


def _of_class(name: str, initializer: type) -> Callable[..., np.ndarray]:
    return _function(name, initializer, inspect.cleandoc(initializer.__doc__ or ""))


def _of_preset(name: str) -> Callable[..., np.ndarray]:
    row = getattr(fastinit, name)
    slope = " / (1 + negative_slope^2)" if row.takes_slope else ""
    return _function(
        name, row, f"Var(W) = {row.scale:.4g}{slope} / {row.mode}, distribution {row.distribution}. {row.source}."
    )


zeros = _function("zeros", fastinit.Zeros, "Every element is 0.")
ones = _function("ones", fastinit.Ones, "Every element is 1.")
constant = _of_class("constant", fastinit.Constant)
uniform = _of_class("uniform", fastinit.Uniform)
normal = _of_class("normal", fastinit.Normal)
truncated_normal = _of_class("truncated_normal", fastinit.TruncatedNormal)
variance_scaling = _of_class("variance_scaling", fastinit.VarianceScaling)
glorot_uniform = xavier_uniform = _of_preset("glorot_uniform")
glorot_normal = xavier_normal = _of_preset("glorot_normal")
glorot_truncated_normal = xavier_truncated_normal = _of_preset("glorot_truncated_normal")
he_uniform = kaiming_uniform = _of_preset("he_uniform")
he_normal = kaiming_normal = _of_preset("he_normal")
he_truncated_normal = kaiming_truncated_normal = _of_preset("he_truncated_normal")
lecun_uniform = _of_preset("lecun_uniform")
lecun_normal = fan_in_normal = _of_preset("lecun_normal")
lecun_truncated_normal = _of_preset("lecun_truncated_normal")
torch_default_uniform = _of_preset("torch_default_uniform")
naive_uniform = _function("naive_uniform", fastinit.naive_uniform, "U(-0.1, 0.1), whatever the fans.")
naive_normal = _function(
    "naive_normal", fastinit.naive_normal, "N(0, 0.1), whatever the fans: a standard deviation of 0.1."
)
identity = eye = _of_class("identity", fastinit.Identity)
dirac = _of_class("dirac", fastinit.Dirac)
orthogonal = _of_class("orthogonal", fastinit.Orthogonal)
delta_orthogonal = _of_class("delta_orthogonal", fastinit.DeltaOrthogonal)
sparse = _of_class("sparse", fastinit.Sparse)
icnr = _of_class("icnr", fastinit.ICNR)
zero_init = zero = _of_class("zero_init", fastinit.ZerO)

__all__ = sorted(  # noqa: PLE0605
    name for name, value in vars().items() if name[0] != "_" and getattr(value, "__module__", "") == __name__
)
