"""The base classes of initializers, and the elementwise initializers.

An initializer is a value and draws nothing. An elementwise initializer turns a shape into a
:class:`~fastinit.sampling.Sampling`; :func:`fastinit.fill` turns the sampling into bytes.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np

from fastinit import _core, truncation
from fastinit.checks import any_number, checked_shape, finite_number, integer, integer_or_integers, one_of, shown
from fastinit.dtypes import DTYPES
from fastinit.exact import equal_by_bits, in_stream_environment
from fastinit.keys import Key
from fastinit.layouts import Axes, Fans, checked_layout, fans
from fastinit.sampling import Sampling, compiled

__all__ = [
    "Constant",
    "ElementwiseInitializer",
    "Initializer",
    "Moments",
    "Normal",
    "Ones",
    "Part",
    "StructuredInitializer",
    "TruncatedNormal",
    "Uniform",
    "VarianceScaling",
    "Zeros",
    "checked_initializer",
    "checked_inner",
    "expected_std",
    "plan",
]

MODES: Final = ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")
DISTRIBUTIONS: Final = ("uniform", "normal", "truncated_normal")
# Maximum nesting depth of initializers: more than any real tensor needs, far below Python's recursion limit.
MOST_NESTED: Final = 32


def _std(value: float, what: str = "std") -> float:
    number = finite_number(value, what)
    if number < 0:
        raise ValueError(f"{what} must be at least 0, got {number}")
    return number


class Moments(NamedTuple):
    """Mean and standard deviation over all values of a tensor."""

    mean: float
    std: float


# Methods that compute; they run in the stream's floating-point environment.
_COMPUTING: Final = frozenset(
    {"__post_init__", "check", "check_shape", "moments", "parts", "reach", "sampling", "write"}
)


class Initializer:
    """Base class of all initializers. An initializer is a hashable, comparable, picklable value.

    There are two kinds. An :class:`ElementwiseInitializer` draws every element from one distribution. A
    :class:`StructuredInitializer` makes a tensor whose elements depend on each other.

    Equal initializers are interchangeable. Dataclasses compare their fields by type and by bits, so
    ``Normal(0.0, 0.0)`` and ``Normal(-0.0, 0.0)`` differ. The methods of these classes and ``__post_init__`` run in the
    stream's floating-point environment, in subclasses too; see :mod:`fastinit.exact`.

    Examples
    --------
    >>> import fastinit
    >>> isinstance(fastinit.he_normal(), fastinit.Initializer), isinstance(fastinit.Orthogonal(), fastinit.Initializer)
    (True, True)
    >>> fastinit.he_normal().check((3,))
    Traceback (most recent call last):
        ...
    ValueError: fans need a shape with an input and an output axis, got (3,): 1-d
    """

    __slots__ = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        if "__eq__" not in own:
            cls.__eq__ = equal_by_bits  # type: ignore[method-assign]  # a dataclass then adds its hash alone
        for name in _COMPUTING & own.keys():
            setattr(cls, name, in_stream_environment(own[name]))

    def check(self, shape: tuple[int, ...], dtype: str = "float32") -> None:
        """Raises ValueError if a tensor of this global shape and dtype cannot be filled. Draws nothing."""
        raise NotImplementedError

    def moments(self, shape: tuple[int, ...]) -> Moments | None:
        """The expected moments of a tensor's values; None if there is no formula.

        Raises ValueError if the shape does not fit.
        """
        raise NotImplementedError

    def reach(self, shape: tuple[int, ...], dtype: str = "float32") -> float:
        """Upper bound, in [0, inf], on the magnitude of the values before rounding to the dtype; NaN if a value is NaN.

        Raises ValueError if the shape does not fit.
        """
        raise NotImplementedError


class ElementwiseInitializer(Initializer):
    """An initializer whose elements are independent draws from one distribution. Subclasses implement `sampling`.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import fastinit
    >>> @dataclass(frozen=True)
    ... class Doubled(fastinit.ElementwiseInitializer):
    ...     std: float
    ...     def sampling(self, shape=None):
    ...         return fastinit.Sampling("normal", std=2 * self.std)
    >>> fastinit.expected_std(Doubled(0.5), (3, 4))
    1.0
    """

    __slots__ = ()

    def sampling(self, shape: tuple[int, ...] | None = None) -> Sampling:
        """The distribution of each element of a tensor of this shape.

        `shape` may be None if the initializer ignores it: a flat range of elements has no known shape.
        """
        raise NotImplementedError

    def check(self, shape: tuple[int, ...] | None, dtype: str = "float32") -> None:
        plan(self, shape, dtype)

    def moments(self, shape: tuple[int, ...]) -> Moments:
        sampling = self.sampling(shape)
        return Moments(sampling.expected_mean, sampling.expected_std)

    def reach(self, shape: tuple[int, ...] | None, dtype: str = "float32") -> float:
        return self.sampling(shape).reach(dtype)


@lru_cache(maxsize=4096)
@in_stream_environment
def plan(initializer: ElementwiseInitializer, shape: tuple[int, ...] | None, dtype: str) -> _core.Sampling:
    """The kernels' parameters for a tensor of this shape and dtype. Results are cached.

    Parameters
    ----------
    initializer : ElementwiseInitializer
        Distribution of each element.
    shape : tuple of int or None
        Shape of the global tensor.
    dtype : str
        Format to write.

    Raises
    ------
    ValueError
        If the shape does not fit, or the dtype cannot hold the drawn values.

    Examples
    --------
    >>> compiled = plan(Normal(std=0.02), (3, 4), "bfloat16")
    >>> plan(Normal(std=0.02), (3, 4), "bfloat16") is compiled
    True
    """
    return compiled(initializer.sampling(shape), dtype)


class Part(NamedTuple):
    """A box of a tensor, initialized as a separate tensor. Filling a shard needs no memory beyond the shard.

    Parameters
    ----------
    offsets, shape : tuple of int
        Start of the box in the tensor, and the box's shape.
    initializer : Initializer
        Initializer of the box.
    key_data : int, str, bytes, Key or None
        Data folded into the tensor's key. None uses the tensor's key itself; a Key replaces it.

    Examples
    --------
    >>> import fastinit
    >>> for part in fastinit.Blocks(fastinit.Orthogonal(), 2).parts((8, 4)):
    ...     print(part.offsets, part.shape, part.key_data)
    (0, 0) (4, 4) 0
    (4, 0) (4, 4) 1
    """

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    initializer: Initializer
    key_data: int | str | bytes | Key | None
    """Data folded into the tensor's key. None uses the tensor's key itself; a Key replaces it."""


class StructuredInitializer(Initializer):
    """An initializer whose elements depend on each other, so it computes whole tensors; see :mod:`fastinit.structured`.

    Subclasses implement `check_shape`, `reach` and `write`.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np, fastinit
    >>> @dataclass(frozen=True)
    ... class Counting(fastinit.StructuredInitializer):
    ...     def check_shape(self, shape):
    ...         if len(shape) != 1:
    ...             raise ValueError(f"counting needs 1 axis, got shape {shape}")
    ...     def reach(self, shape, dtype="float32"):
    ...         return float(max(shape))
    ...     def write(self, out, key, num_threads, target):
    ...         out[...] = range(len(out))
    >>> fastinit.fill(np.empty(4), Counting(), fastinit.Key(0))
    array([0., 1., 2., 3.])
    """

    __slots__ = ()

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError if a tensor of this shape cannot be initialized in any dtype."""
        raise NotImplementedError

    def check(self, shape: tuple[int, ...], dtype: str = "float32") -> None:
        self.check_shape(shape)
        found = DTYPES[dtype]
        reach = self.reach(shape, dtype)
        if not math.isfinite(found.nearest(DTYPES[found.working].nearest(reach))):
            largest = f"beyond the largest finite {dtype} value {found.max:.6g}"
            raise ValueError(f"{shown(self)} reaches {reach:.6g}, {largest}")

    def moments(self, shape: tuple[int, ...]) -> Moments | None:
        self.check_shape(shape)
        return None

    def parts(self, shape: tuple[int, ...]) -> Sequence[Part] | None:
        """The tensor's parts; later parts paint over earlier ones. None if the tensor can only be computed whole."""
        return None

    def write(self, out: np.ndarray, key: Key, num_threads: int | None, target: str | None) -> None:
        """Writes the whole tensor into contiguous float32 or float64 memory. `out` has passed the check."""
        raise NotImplementedError


def checked_initializer(value: Any, what: str = "initializer") -> Initializer:
    """The value itself. Raises TypeError if it is not an initializer, for example a class or a factory function.

    Parameters
    ----------
    value : object
        The caller's argument.
    what : str
        Name of the argument in the error message.

    Examples
    --------
    >>> checked_initializer(Normal())
    Normal(mean=0.0, std=1.0)
    >>> checked_initializer(Normal)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    TypeError: initializer must be an Initializer such as fastinit.he_normal(), not <class ...>
    """
    if not isinstance(value, Initializer):
        raise TypeError(f"{what} must be an Initializer such as fastinit.he_normal(), not {shown(value)}")
    return value


def checked_inner(value: Any) -> Initializer:
    """An initializer nested in another one. Raises ValueError if the nesting would exceed 32 levels."""
    level, depth = [checked_initializer(value)], 1
    if not isinstance(value, (ElementwiseInitializer, StructuredInitializer)):
        raise TypeError(f"{shown(value)} reads the tensor's present values: it cannot be part of another initializer")
    while level:
        depth += 1
        if depth > MOST_NESTED:
            raise ValueError(f"expected initializers nested at most {MOST_NESTED} deep, got more")
        # visit a shared initializer once, or the time would be exponential in the depth
        level = list({id(inner): inner for one in level for inner in _inner(one)}.values())
    return checked_initializer(value)


@lru_cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()


def _inner(holder: Any) -> Iterator[Initializer]:
    """Yields the initializers in the fields of `holder`, in tuples in its fields, and in nested dataclasses."""
    for value in map(holder.__getattribute__, _field_names(type(holder))):  # type: ignore[arg-type]
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Initializer):
                yield one
            elif is_dataclass(one):
                yield from _inner(one)


@in_stream_environment
def expected_std(initializer: Initializer, shape: tuple[int, ...]) -> float | None:
    """Expected standard deviation over all values of a tensor; None if there is no formula.

    Parameters
    ----------
    initializer : Initializer
        Initializer of the tensor.
    shape : tuple of int
        Shape of the whole (global) tensor.

    Raises
    ------
    TypeError, ValueError
        If `initializer` or `shape` has the wrong type, or `initializer` does not support the shape.

    Examples
    --------
    >>> import fastinit
    >>> fastinit.expected_std(fastinit.he_normal(layout="OI"), (64, 128))  # sqrt(2 / 128)
    0.125
    >>> fastinit.expected_std(fastinit.Sparse(0.9), (64, 128)) is None
    True
    """
    found = checked_initializer(initializer).moments(checked_shape(shape))
    return None if found is None else found.std


@dataclass(frozen=True, slots=True)
class Constant(ElementwiseInitializer):
    """Every element is `value`, rounded to the dtype. Infinities, NaN and -0.0 are allowed if the dtype has them.

    Parameters
    ----------
    value : float
        Any number.

    Raises
    ------
    TypeError
        If value is not a number.
    ValueError
        When filling, if the dtype cannot represent the value: a finite value overflows, or the value is infinite and
        the dtype is float8_e4m3fn.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> fastinit.fill(np.empty(3), fastinit.Constant(0.5), fastinit.Key(0))
    array([0.5, 0.5, 0.5])
    """

    value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", any_number(self.value, "value"))

    def sampling(self, shape: tuple[int, ...] | None = None) -> Sampling:
        return Sampling("constant", mean=self.value)

    def __hash__(self) -> int:  # by bits, to match equality: NaN equals itself, but hash(nan) is per object
        return hash(struct.pack("<d", self.value))


def Zeros() -> Constant:
    """Every element is 0.

    Returns
    -------
    Constant

    Examples
    --------
    >>> import fastinit
    >>> fastinit.Zeros()
    Constant(value=0.0)
    """
    return Constant(0.0)


def Ones() -> Constant:
    """Every element is 1.

    Returns
    -------
    Constant

    Examples
    --------
    >>> import fastinit
    >>> fastinit.Ones()
    Constant(value=1.0)
    """
    return Constant(1.0)


@dataclass(frozen=True, slots=True)
class Uniform(ElementwiseInitializer):
    """The uniform distribution.

    Parameters
    ----------
    low, high : float
        Values lie in [low, high). In float32 they are low + (high - low) k 2^-24 for integers k in [0, 2^24), rounded
        and clamped into [low, high). If low == -high, the values are symmetric about 0: high k 2^-24 for odd integers k
        in (-2^24, 2^24), which excludes both ends and 0. In float64 the exponent is 53. No dtype returns an excluded
        end.

    Raises
    ------
    ValueError
        If low or high is not finite, or low >= high. When filling, if the interval exceeds the dtype's range or
        contains none of its values.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> values = fastinit.fill(np.empty(1000, np.float32), fastinit.Uniform(-0.5, 0.25), fastinit.Key(0))
    >>> bool(values.min() >= -0.5), bool(values.max() < 0.25)
    (True, True)
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        low, high = finite_number(self.low, "low"), finite_number(self.high, "high")
        if not low < high:
            raise ValueError(f"a uniform distribution needs low < high, got low={low}, high={high}")
        if not math.isfinite(high - low):
            raise ValueError(f"high - low must be finite, got low={low}, high={high}")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def sampling(self, shape: tuple[int, ...] | None = None) -> Sampling:
        return Sampling("uniform", low=self.low, high=self.high)


@dataclass(frozen=True, slots=True)
class Normal(ElementwiseInitializer):
    """The normal distribution, untruncated.

    Parameters
    ----------
    mean, std : float
        Mean and standard deviation, std in [0, inf). The largest draw is 6.76 standard deviations in float32 and
        narrower dtypes, 9.49 in float64.

    Raises
    ------
    ValueError
        If mean or std is not finite, or std < 0. When filling, if draws could overflow the dtype.

    Notes
    -----
    G. E. P. Box and M. E. Muller, "A note on the generation of random normal deviates", 1958.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> values = fastinit.fill(np.empty(100_000, np.float32), fastinit.Normal(std=0.02), fastinit.Key(0))
    >>> print(f"{values.std():.3f}")
    0.020
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", finite_number(self.mean, "mean"))
        object.__setattr__(self, "std", _std(self.std))

    def sampling(self, shape: tuple[int, ...] | None = None) -> Sampling:
        return Sampling("normal", mean=self.mean, std=self.std)


@dataclass(frozen=True, slots=True)
class TruncatedNormal(ElementwiseInitializer):
    """The normal distribution truncated to an interval. Uses the inverse CDF: one draw per element.

    Parameters
    ----------
    mean, std : float
        Mean and standard deviation before truncation, std in [0, inf). With `correct_variance`, std is that of the
        values.
    low, high : float
        Ends of the closed interval, possibly infinite. No value lies outside it in any dtype.
    bounds : {"sigma", "absolute"}
        "sigma" counts low and high in standard deviations from the mean (as in Keras and JAX); "absolute" takes them as
        values (as in torch).
    correct_variance : bool
        Makes `std` the standard deviation of the values, by widening the normal before truncation (by 1 / 0.8796 for
        +-2 sigma). The mean is not corrected: an asymmetric interval moves it.

    Raises
    ------
    TypeError
        If an argument is not a number, or `correct_variance` is not a bool.
    ValueError
        If low >= high or either is NaN, if std or mean is not finite, if std < 0, or if the bounds are too narrow for
        the `std` that `correct_variance` must reach. When filling, if the interval contains no value of the dtype, or
        draws could overflow the dtype.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> cut = fastinit.TruncatedNormal(std=0.02)  # bounds at +-2 standard deviations
    >>> values = fastinit.fill(np.empty(1000, np.float32), cut, fastinit.Key(0))
    >>> bool(abs(values).max() <= 0.04)
    True
    >>> print(f"{fastinit.expected_std(cut, (1000,)):.5f}")
    0.01759
    >>> fastinit.expected_std(fastinit.TruncatedNormal(std=0.02, correct_variance=True), (1000,))
    0.02
    """

    mean: float = 0.0
    std: float = 1.0
    low: float = -2.0
    high: float = 2.0
    bounds: str = "sigma"
    correct_variance: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", finite_number(self.mean, "mean"))
        object.__setattr__(self, "std", _std(self.std))
        low, high = any_number(self.low, "low"), any_number(self.high, "high")
        if not low < high:
            raise ValueError(f"a truncated normal needs low < high, got low={low}, high={high}")
        if low == math.inf or high == -math.inf:
            raise ValueError(f"a truncated normal needs a finite value between its bounds, got low={low}, high={high}")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        object.__setattr__(self, "bounds", one_of("bounds", self.bounds, ("sigma", "absolute")))
        if not isinstance(self.correct_variance, bool):
            raise TypeError(f"correct_variance must be a bool, got {shown(self.correct_variance)}")
        if self.bounds == "absolute" and self.std == 0 and not low <= self.mean <= high:
            raise ValueError(f"with std=0 the mean {self.mean} must lie in [{low}, {high}]")
        self.sampling()

    def sampling(self, shape: tuple[int, ...] | None = None) -> Sampling:
        mean, std, low, high = self.mean, self.std, self.low, self.high
        if self.bounds == "sigma":
            if self.correct_variance:
                cut = truncation.standard_deviation(low, high)
                std = std / cut if cut else math.inf
                if std == math.inf:
                    interval = f"[{low}, {high}] sigma"
                    raise ValueError(f"no normal truncated to {interval} has a standard deviation of {self.std}")
            inside = (mean + low * std, mean + high * std) if std else (mean, mean)
            return Sampling("truncated_normal", mean, std, *inside, low, high)
        if std == 0:
            return Sampling("truncated_normal", mean, std, low, high)
        if self.correct_variance:
            std = _parent_std(mean, std, low, high)
        return Sampling("truncated_normal", mean, std, low, high, _sigmas(low - mean, std), _sigmas(high - mean, std))


def _sigmas(distance: float, std: float) -> float:
    """A distance in standard deviations. A finite distance stays finite."""
    if math.isinf(distance):
        return distance
    largest = sys.float_info.max
    return min(max(distance / std, -largest), largest)


def _parent_std(mean: float, std: float, low: float, high: float) -> float:
    """Standard deviation of the normal whose truncation to the absolute interval [low, high] has deviation `std`."""

    def cut(parent: float) -> float:
        low_sigma, high_sigma = _sigmas(low - mean, parent), _sigmas(high - mean, parent)
        if low_sigma == high_sigma:  # so small a parent clamps both bounds to the same sigma
            return 0.0
        return parent * truncation.standard_deviation(low_sigma, high_sigma)

    # cut() increases with the parent's deviation; its limit is the uniform distribution on the interval.
    limit = (high - low) / math.sqrt(12.0)
    if std >= limit * (1 - 2**-20):
        raise ValueError(
            f"no normal truncated to [{low}, {high}] has a standard deviation of {std}: it stays below {limit:.6g}"
        )
    smaller, larger = std, 2 * std
    while cut(larger) < std:
        smaller, larger = larger, 2 * larger
    for _ in range(60):
        middle = 0.5 * (smaller + larger)
        if not smaller < middle < larger:
            break
        smaller, larger = (middle, larger) if cut(middle) < std else (smaller, middle)
    return larger


@dataclass(frozen=True, slots=True)
class VarianceScaling(ElementwiseInitializer):
    """Var(W) = scale / fan, so that a signal keeps its size from layer to layer.

    Parameters
    ----------
    scale : float
        Multiplies the variance, in (0, inf).
    mode : {"fan_in", "fan_out", "fan_avg", "fan_geo_avg"}
        The fan in the formula: fan_in, fan_out, their arithmetic mean or their geometric mean.
    distribution : {"uniform", "normal", "truncated_normal"}
        Each has the standard deviation sqrt(scale / fan): U(-sqrt(3 scale / fan), sqrt(3 scale / fan)); the untruncated
        normal; or the normal truncated at +-2 of its own standard deviations, whose variance is scale / fan after
        truncation.
    layout, groups, transposed, stride, blocks
        How to compute the fans from the shape; see :func:`fastinit.fans`.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If an argument is out of range. When filling, if the shape does not fit the layout.

    Notes
    -----
    X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    2010. K. He et al., "Delving deep into rectifiers", 2015.

    Examples
    --------
    >>> import fastinit
    >>> scaling = fastinit.VarianceScaling(2.0, "fan_out", "normal", layout="OI...", groups=4)
    >>> scaling.fans((64, 8, 3, 3))  # a grouped convolution of torch
    Fans(fan_in=72, fan_out=144, receptive_field_size=9)
    >>> print(f"{fastinit.expected_std(scaling, (64, 8, 3, 3)):.4f}")  # sqrt(2 / 144)
    0.1179
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"
    layout: str | Axes = "...IO"
    groups: int = 1
    transposed: bool = False
    stride: int | tuple[int, ...] = 1
    blocks: int = 1

    def __post_init__(self) -> None:
        scale = finite_number(self.scale, "scale")
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "mode", one_of("mode", self.mode, MODES))
        object.__setattr__(self, "distribution", one_of("distribution", self.distribution, DISTRIBUTIONS))
        # one hashable spelling, for the caches; fans() checks it against the shape
        object.__setattr__(self, "layout", checked_layout(self.layout))
        if not isinstance(self.transposed, bool):
            raise TypeError(f"transposed must be a bool, got {shown(self.transposed)}")
        object.__setattr__(self, "groups", integer("groups", self.groups))
        object.__setattr__(self, "blocks", integer("blocks", self.blocks))
        object.__setattr__(self, "stride", integer_or_integers("stride", self.stride))

    def fans(self, shape: tuple[int, ...]) -> Fans:
        """The fans of a tensor of this shape."""
        return fans(
            shape,
            self.layout,
            groups=self.groups,
            transposed=self.transposed,
            stride=self.stride,
            blocks=self.blocks,
        )

    def sampling(self, shape: tuple[int, ...] | None = None) -> Sampling:
        if shape is None:
            raise ValueError(f"{shown(self)} depends on the shape of the whole tensor: pass global_shape with start")
        found = self.fans(shape)
        fan: float | Fraction
        if self.mode == "fan_in":
            fan = found.fan_in
        elif self.mode == "fan_out":
            fan = found.fan_out
        elif self.mode == "fan_avg":
            fan = Fraction(found.fan_in + found.fan_out) / 2
        else:
            fan = math.sqrt(any_number(found.fan_in * found.fan_out, "a product of fans"))
        variance = self.scale / any_number(fan, "a fan") if fan else 0.0  # a fan of 0 means an empty tensor
        if self.distribution == "uniform":
            limit = math.sqrt(3.0 * variance)
            return Sampling("uniform", low=-limit, high=limit) if limit else Sampling("constant")
        if self.distribution == "normal":
            return Sampling("normal", std=math.sqrt(variance))
        return TruncatedNormal(std=math.sqrt(variance), correct_variance=True).sampling()
