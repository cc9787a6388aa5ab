"""Every initializer as a function that fills and returns a NumPy array.

All functions have one form, ``name(shape, *, key=None, seed=None, dtype="float32", out=None, num_threads=None, ...)``:

shape : int or sequence of int
    Shape of the new array. If `out` is given: None, or the shape of `out`.
key : Key, int or numpy.random.Generator
    The stream. An int means ``Key(int)``. A Generator draws 64 bits for the key and advances. Functions without random
    numbers (`zeros`, `ones`, `constant`, `identity`, `dirac`, `zero_init`) need no key.
seed : int
    An alternative to `key`: the same as ``key=Key(seed)``.
dtype : str or dtype
    ``"float32"``, ``"float64"``, ``"float16"``, or with ml_dtypes ``"bfloat16"``, ``"float8_e4m3fn"``,
    ``"float8_e5m2"``. If `out` is given, its own dtype applies. If `out` is raw memory (unsigned integers), `dtype`
    names the format of the values.
out : numpy.ndarray
    Array to fill and return, in any layout: transposed, strided or memory-mapped.
num_threads : int
    Maximum number of threads.

The functions raise the errors of :func:`fastinit.fill` and of the initializers, before anything is written. For
fan-scaled initializers, ``layout``, ``groups``, ``transposed``, ``stride`` and ``blocks`` describe the weight, see
:func:`fastinit.fans`. The default layout, ``"...IO"``, is that of Keras and JAX: (in, out) and (spatial..., in, out).

>>> from fastinit.adapters import numpy as init
>>> init.he_normal((256, 128), seed=0).std().round(3)
np.float32(0.088)
>>> init.zeros((2, 3))
array([[0., 0., 0.],
       [0., 0., 0.]], dtype=float32)
"""

from __future__ import annotations

if __name__ == "numpy":  # Python was started in this folder, so this file shadows NumPy
    raise ImportError("this is fastinit's adapter and not NumPy: start Python in another folder than adapters/")

import functools
import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Required, SupportsIndex, TypedDict, Unpack

import numpy as np

import fastinit.extending  # first: detects an unrelated package that overwrote this one
from fastinit import Axes, Key
from fastinit.extending import checked_shape, dtype_named, remembered, shown

if TYPE_CHECKING:  # the signatures: shared parameters, and each function's own
    from fractions import Fraction

    Shape = SupportsIndex | Sequence[SupportsIndex] | np.ndarray | None

    class Shared(TypedDict, total=False):
        key: Key | SupportsIndex | np.random.Generator | None
        seed: SupportsIndex | str | bytes | None
        dtype: object
        out: np.ndarray | None
        num_threads: int | None

    class Weight(Shared, total=False):
        layout: str | Axes
        groups: int
        transposed: bool
        stride: int | Sequence[int]
        blocks: int

    class Leaky(Weight, total=False):
        negative_slope: float

    class Scaling(Weight, total=False):
        scale: float
        mode: str
        distribution: str

    class Valued(Shared, total=False):
        value: Required[float]

    class Interval(Shared, total=False):
        low: float
        high: float

    class Gaussian(Shared, total=False):
        mean: float
        std: float

    class Cut(Gaussian, total=False):
        low: float
        high: float
        bounds: str
        correct_variance: bool

    class Gained(Shared, total=False):
        gain: float

    class Diracs(Gained, total=False):
        groups: int
        layout: str | Axes

    class Rotations(Gained, total=False):
        column_axis: int

    class Deltas(Gained, total=False):
        layout: str | Axes

    class Sparsity(Shared, total=False):
        sparsity: Required[float | Fraction]
        std: float
        axis: int

    class Subpixels(Shared, total=False):
        initializer: Required[fastinit.Initializer]
        factor: int
        layout: str | Axes
        order: str

    class Layout(Shared, total=False):
        layout: str | Axes

    class OfShared(Protocol):
        def __call__(self, shape: Shape = None, **options: Unpack[Shared]) -> np.ndarray: ...

    class OfWeight(Protocol):
        def __call__(self, shape: Shape = None, **options: Unpack[Weight]) -> np.ndarray: ...

    class OfLeaky(Protocol):
        def __call__(self, shape: Shape = None, **options: Unpack[Leaky]) -> np.ndarray: ...

    class OfScaling(Protocol):
        def __call__(self, shape: Shape = None, **options: Unpack[Scaling]) -> np.ndarray: ...

    class OfValued(Protocol):
        def __call__(self, shape: Shape = None, **options: Unpack[Valued]) -> np.ndarray: ...

    class OfInterval(Protocol):
        def __call__(self, shape: Shape = None, **options: Unpack[Interval]) -> np.ndarray: ...

    class OfGaussian(Protocol):
        def __call__(self, shape: Shape = None, **options: Unpack[Gaussian]) -> np.ndarray: ...

    class OfCut(Protocol):
        def __call__(self, shape: Shape = None, **options: Unpack[Cut]) -> np.ndarray: ...

    class OfGained(Protocol):
        def __call__(self, shape: Shape = None, **options: Unpack[Gained]) -> np.ndarray: ...

    class OfDiracs(Protocol):
        def __call__(self, shape: Shape = None, **options: Unpack[Diracs]) -> np.ndarray: ...

    class OfRotations(Protocol):
        def __call__(self, shape: Shape = None, **options: Unpack[Rotations]) -> np.ndarray: ...

    class OfDeltas(Protocol):
        def __call__(self, shape: Shape = None, **options: Unpack[Deltas]) -> np.ndarray: ...

    class OfSparsity(Protocol):
        def __call__(self, shape: Shape = None, **options: Unpack[Sparsity]) -> np.ndarray: ...

    class OfSubpixels(Protocol):
        def __call__(self, shape: Shape = None, **options: Unpack[Subpixels]) -> np.ndarray: ...

    class OfLayout(Protocol):
        def __call__(self, shape: Shape = None, **options: Unpack[Layout]) -> np.ndarray: ...


# Cached, because checking an initializer's parameters takes longer than a small fill.
_cached = remembered(lambda factory, **own: factory(**own))
_default = functools.cache(lambda factory: factory())

_ANY_KEY = Key(0)  # for functions that draw nothing


def _key(key: Any) -> Key:
    if isinstance(key, Key):
        return key
    if isinstance(key, np.random.Generator):
        return Key(int(key.integers(0, 2**64, dtype=np.uint64)))
    if isinstance(key, (int, np.integer)):
        return Key.of(key)
    kind = type(key).__name__
    raise TypeError(f"key must be a fastinit.Key, an int or a numpy.random.Generator, not {kind} ({shown(key)})")


def _key_or_seed(name: str, key: Any, seed: Any, draws: bool) -> Key:
    if seed is None:
        if key is None and draws:
            kinds = "a fastinit.Key, an int or a numpy.random.Generator"
            raise TypeError(f"{name} draws numbers: give key= ({kinds}) or seed= (an int)")
        return _ANY_KEY if key is None else _key(key)
    if key is not None:
        raise TypeError(f"{name} takes key= or seed=, not both; got key={shown(key)} and seed={shown(seed)}")
    return Key(seed)


def _new(shape: Any, dtype: Any) -> np.ndarray:
    name, storage = dtype_named(dtype).name, dtype_named(dtype).storage
    if name != storage:
        try:
            import ml_dtypes
        except ImportError:
            raise ImportError(
                f"a NumPy array of {name} needs the package ml_dtypes; without it, pass an out of unsigned integers"
            ) from None
        return np.empty(shape, getattr(ml_dtypes, name))
    return np.empty(shape, name)


def _filled(initializer: Any, shape: Any, key: Key, dtype: Any, out: Any, num_threads: int | None) -> np.ndarray:
    if shape is not None:
        shape = checked_shape(shape)
    if out is None:
        if shape is None:
            raise TypeError("shape is required if out is None")
        return fastinit.fill(_new(shape, dtype), initializer, key, num_threads=num_threads)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, not {type(out).__name__}")
    if shape is not None and out.shape != shape:
        raise ValueError(f"shape must be None or the shape of out, {out.shape}; got {shape}")
    # the default dtype does not apply to an out with a dtype of its own
    raw = None if dtype == "float32" and out.dtype.kind != "u" else dtype
    return fastinit.fill(out, initializer, key, dtype=raw, num_threads=num_threads)


_SHARED = """\
shape : int or sequence of int
    Shape of the new array. If `out` is given: None, or the shape of `out`.
key : Key, int or numpy.random.Generator
    {key}
seed : int
    An alternative to `key`: the same as ``key=Key(seed)``.
dtype : str or dtype
    Dtype of the new array, float32 by default; see :mod:`fastinit.adapters.numpy`.
out : numpy.ndarray
    Array to fill and return instead of a new one.
num_threads : int
    Maximum number of threads.
"""
_KEYS = {
    True: "The stream. An int means ``Key(int)``; a Generator draws 64 bits for the key.",
    False: "Not needed, because the function draws nothing.",
}
_RETURNS = "Returns\n-------\nnumpy.ndarray\n    The new array, or `out`.\n"
_RAISES = """\
Raises
------
TypeError, ValueError, BufferError
    As in :func:`fastinit.fill` and {own}, before anything is written.
    Also TypeError if {key}.
"""


_PARAMETERS = [
    inspect.Parameter("shape", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation="int | Sequence[int]"),
    *(
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, default, annotation in (
            ("key", None, "Key | int | numpy.random.Generator"),
            ("seed", None, "int"),
            ("dtype", "float32", "str | dtype"),
            ("out", None, "numpy.ndarray"),
            ("num_threads", None, "int"),
        )
    ),
]


def _documentation(text: str, draws: bool, own: str, example: str) -> str:
    """The docstring of a function: the shared parameters, then those of its initializer's docstring."""
    sections = re.split(r"^(?=\w+\n-+\n)", inspect.cleandoc(text) + "\n", flags=re.MULTILINE)
    titled = {section.partition("\n")[0]: section.strip() + "\n" for section in sections[1:]}
    _, _, parameters = titled.get("Parameters", "Parameters\n----------\n").split("\n", 2)
    missing = "both `key` and `seed` are given" + (", or neither" if draws else "")
    parts = [
        sections[0].strip() + "\n",
        f"Parameters\n----------\n{_SHARED.format(key=_KEYS[draws])}{parameters}",
        _RETURNS,
        _RAISES.format(own=own, key=missing),
        *([titled["Notes"]] if "Notes" in titled else []),
        f"Examples\n--------\n>>> from fastinit.adapters import numpy as init\n{inspect.cleandoc(example)}\n",
    ]
    return "\n".join(parts)


def _function(name: str, factory: Callable[..., Any], example: str, *, draws: bool = True) -> Any:
    """The function for an initializer. Its parameters become keyword arguments after the shared ones."""

    def function(
        shape: Any = None,
        *,
        key: Any = None,
        seed: Any = None,
        dtype: Any = "float32",
        out: Any = None,
        num_threads: int | None = None,
        **own: Any,
    ) -> np.ndarray:
        initializer = None
        try:  # noqa: SIM105 (suppress() takes a microsecond)
            initializer = _cached(factory, **own) if own else _default(factory)
        except Exception:  # an invalid or unhashable parameter: the factory below raises the error
            pass
        stream = key if type(key) is Key and seed is None else _key_or_seed(name, key, seed, draws)
        return _filled(initializer or factory(**own), shape, stream, dtype, out, num_threads)

    own = [p for p in inspect.signature(factory).parameters.values() if p.kind is not p.VAR_KEYWORD]
    own = sorted((p.replace(kind=p.KEYWORD_ONLY) for p in own), key=lambda p: p.default is not p.empty)
    function.__name__ = function.__qualname__ = name
    function.__doc__ = _documentation(factory.__doc__ or "", draws, f":obj:`fastinit.{factory.__name__}`", example)
    function.__signature__ = inspect.Signature([*_PARAMETERS, *own], return_annotation=np.ndarray)  # type: ignore[attr-defined]
    return function


def _of_preset(name: str, preset: str | None = None) -> Any:
    row = fastinit.PRESETS[preset or name]
    fan = {"fan_in": 512, "fan_avg": 384}[row.mode]
    return _function(
        name,
        getattr(fastinit, name),
        f">>> weight = init.{name}((512, 256), seed=0)  # fan_in 512, fan_out 256\n"
        f'>>> print(f"{{weight.std():.2f}}")\n{math.sqrt(row.scale / fan):.2f}',
    )


zeros: OfShared = _function(
    "zeros", fastinit.Zeros, ">>> init.zeros(3)\narray([0., 0., 0.], dtype=float32)", draws=False
)
ones: OfShared = _function("ones", fastinit.Ones, ">>> init.ones(3)\narray([1., 1., 1.], dtype=float32)", draws=False)
constant: OfValued = _function(
    "constant",
    fastinit.Constant,
    ">>> init.constant(3, value=0.5)\narray([0.5, 0.5, 0.5], dtype=float32)",
    draws=False,
)
uniform: OfInterval = _function(
    "uniform",
    fastinit.Uniform,
    """
    >>> values = init.uniform(1000, seed=0, low=-0.5, high=0.25)
    >>> bool(values.min() >= -0.5), bool(values.max() < 0.25)
    (True, True)
    """,
)
normal: OfGaussian = _function(
    "normal", fastinit.Normal, '>>> print(f"{init.normal(100_000, seed=0, std=0.02).std():.3f}")\n0.020'
)
truncated_normal: OfCut = _function(
    "truncated_normal",
    fastinit.TruncatedNormal,
    """
    >>> values = init.truncated_normal(1000, seed=0, std=0.02)  # truncated at +-2 standard deviations
    >>> bool(abs(values).max() <= 0.04)
    True
    """,
)
variance_scaling: OfScaling = _function(
    "variance_scaling",
    fastinit.VarianceScaling,
    """
    >>> weight = init.variance_scaling((512, 256), seed=0, scale=2.0, mode="fan_out", distribution="normal")
    >>> print(f"{weight.std():.2f}")  # sqrt(2 / 256)
    0.09
    """,
)
glorot_uniform: OfWeight = _of_preset("glorot_uniform")
glorot_normal: OfWeight = _of_preset("glorot_normal")
glorot_truncated_normal: OfWeight = _of_preset("glorot_truncated_normal")
xavier_uniform: OfWeight = _of_preset("xavier_uniform", "glorot_uniform")
xavier_normal: OfWeight = _of_preset("xavier_normal", "glorot_normal")
xavier_truncated_normal: OfWeight = _of_preset("xavier_truncated_normal", "glorot_truncated_normal")
he_uniform: OfLeaky = _of_preset("he_uniform")
he_normal: OfLeaky = _of_preset("he_normal")
he_truncated_normal: OfLeaky = _of_preset("he_truncated_normal")
kaiming_uniform: OfLeaky = _of_preset("kaiming_uniform", "he_uniform")
kaiming_normal: OfLeaky = _of_preset("kaiming_normal", "he_normal")
kaiming_truncated_normal: OfLeaky = _of_preset("kaiming_truncated_normal", "he_truncated_normal")
lecun_uniform: OfWeight = _of_preset("lecun_uniform")
lecun_normal: OfWeight = _of_preset("lecun_normal")
lecun_truncated_normal: OfWeight = _of_preset("lecun_truncated_normal")
fan_in_normal: OfWeight = _of_preset("fan_in_normal", "lecun_normal")
torch_default_uniform: OfWeight = _of_preset("torch_default_uniform")
naive_uniform: OfShared = _function(
    "naive_uniform",
    fastinit.naive_uniform,
    ">>> bool(abs(init.naive_uniform((64, 64), seed=0)).max() < 0.1)\nTrue",
)
naive_normal: OfShared = _function(
    "naive_normal", fastinit.naive_normal, '>>> print(f"{init.naive_normal((64, 64), seed=0).std():.1f}")\n0.1'
)
_SQUARE = """
    >>> init.{name}((2, 3){layout})
    array([[1., 0., 0.],
           [0., 1., 0.]], dtype=float32)
    """
identity: OfGained = _function("identity", fastinit.Identity, _SQUARE.format(name="identity", layout=""), draws=False)
eye: OfGained = _function("eye", fastinit.Identity, _SQUARE.format(name="eye", layout=""), draws=False)
dirac: OfDiracs = _function(
    "dirac",
    fastinit.Dirac,
    """
    >>> kernel = init.dirac((3, 2, 2))  # (width, in, out), an identity map
    >>> kernel[1]
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """,
    draws=False,
)
orthogonal: OfRotations = _function(
    "orthogonal",
    fastinit.Orthogonal,
    """
    >>> import numpy as np
    >>> weight = init.orthogonal((8, 4), seed=0)
    >>> bool(np.allclose(weight.T @ weight, np.eye(4), atol=1e-6))
    True
    """,
)
delta_orthogonal: OfDeltas = _function(
    "delta_orthogonal",
    fastinit.DeltaOrthogonal,
    """
    >>> import numpy as np
    >>> kernel = init.delta_orthogonal((3, 4, 8), seed=0)  # (width, in, out)
    >>> bool(np.allclose(kernel[1] @ kernel[1].T, np.eye(4), atol=1e-6)), bool(kernel[0].any())
    (True, False)
    """,
)
sparse: OfSparsity = _function(
    "sparse",
    fastinit.Sparse,
    ">>> int((init.sparse((10, 4), seed=0, sparsity=0.9) == 0).sum())  # 9 of every 10\n36",
)
icnr: OfSubpixels = _function(
    "icnr",
    fastinit.ICNR,
    """
    >>> import fastinit
    >>> kernel = init.icnr((3, 3, 2, 4), seed=0, initializer=fastinit.he_normal())  # one channel, 2 x 2 sub-pixels
    >>> bool((kernel[..., :1] == kernel).all())
    True
    """,
)
zero_init: OfLayout = _function(
    "zero_init", fastinit.ZerO, _SQUARE.format(name="zero_init", layout=', layout="OI"'), draws=False
)
zero: OfLayout = _function("zero", fastinit.ZerO, _SQUARE.format(name="zero", layout=', layout="OI"'), draws=False)

__all__ = sorted(  # noqa: PLE0605
    name for name, value in vars().items() if name[0] != "_" and getattr(value, "__module__", "") == __name__
)
