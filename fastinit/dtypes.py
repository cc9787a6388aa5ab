"""The floating-point formats that fastinit writes, and rounding to them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from fastinit.checks import shown

__all__ = ["DTYPES", "DType", "dtype_named"]


@dataclass(frozen=True, slots=True)
class DType:
    """A binary floating-point format.

    Attributes
    ----------
    name : str
        Name in NumPy and ml_dtypes.
    tag : int
        Number in ``kernels/fastinit.h``.
    itemsize : int
        Bytes per value.
    fraction : int
        Fraction bits, without the implicit leading bit.
    min_exponent : int
        Exponent of the smallest normal value.
    max : float
        The largest finite value.

    Examples
    --------
    >>> bfloat16 = dtype_named("bfloat16")
    >>> bfloat16.itemsize, bfloat16.fraction, bfloat16.max
    (2, 7, 3.3895313892515355e+38)
    """

    name: str
    tag: int
    itemsize: int
    fraction: int
    min_exponent: int
    max: float

    @property
    def precision(self) -> int:
        """Bits of the significand, including the implicit leading bit."""
        return self.fraction + 1

    @property
    def raw(self) -> str:
        """NumPy dtype of the bits: unsigned integers of the same size."""
        return f"u{self.itemsize}"

    @property
    def storage(self) -> str:
        """NumPy dtype that stores the values: the format itself if NumPy has it, or unsigned integers."""
        return self.name if self.name in ("float32", "float64", "float16") else self.raw

    @property
    def working(self) -> str:
        """Format in which structured tensors are computed before narrowing."""
        return "float64" if self.name == "float64" else "float32"

    def _grid(self, x: float) -> float:
        """The distance between neighbouring values at x."""
        exponent = math.frexp(x)[1] - 1 if x else self.min_exponent
        return math.ldexp(1.0, max(exponent, self.min_exponent) - self.fraction)

    @property
    def _infinity(self) -> int | None:
        """The bits of infinity; None in a format without infinity."""
        exponents = 8 * self.itemsize - 1 - self.fraction
        all_ones = (1 << exponents) - 1
        largest_exponent = math.frexp(self.max)[1] - 1
        return all_ones << self.fraction if largest_exponent - self.min_exponent + 1 < all_ones else None

    def floor(self, x: float) -> float:
        """The largest finite value <= x."""
        if x >= self.max:
            return self.max
        if x < -self.max:
            return -math.inf
        grid = self._grid(x)
        return math.floor(x / grid) * grid + 0.0

    def ceil(self, x: float) -> float:
        """The smallest finite value >= x."""
        return -self.floor(-x) + 0.0  # never -0.0

    def below(self, x: float) -> float:
        """The largest finite value < x."""
        return self.floor(math.nextafter(x, -math.inf))

    def above(self, x: float) -> float:
        """The smallest finite value > x."""
        return -self.below(-x) + 0.0

    def nearest(self, x: float) -> float:
        """x rounded to nearest even; infinite if the result exceeds the largest value."""
        if not math.isfinite(x):
            return x
        grid = self._grid(abs(x))
        steps = abs(x) / grid
        magnitude = (steps if steps >= 2.0**53 else round(steps)) * grid  # Python rounds halves to even
        return math.copysign(magnitude if magnitude <= self.max else math.inf, x)

    def bits(self, x: float) -> int:
        """Bit pattern of x rounded to nearest even. Infinity and NaN are allowed if the format has them.

        Raises
        ------
        ValueError
            If x is finite and the rounded value is not, or if x is infinite and the format has no infinity.
        """
        width = 8 * self.itemsize
        sign = (math.copysign(1.0, x) < 0) << (width - 1)
        bias = 1 - self.min_exponent
        infinity = self._infinity
        if math.isnan(x):
            return (1 << (width - 1)) - 1 if infinity is None else infinity | 1 << (self.fraction - 1)
        if math.isinf(x) and infinity is not None:
            return sign | infinity
        magnitude = abs(self.nearest(x))
        if magnitude == math.inf:
            raise ValueError(f"{x} has no finite {self.name} value: the largest is {self.max}")
        grid = self._grid(magnitude)
        steps = int(magnitude / grid)  # in units of the last place
        exponent = math.frexp(magnitude)[1] - 1 if magnitude else self.min_exponent
        if exponent < self.min_exponent:
            return sign | steps
        return sign | ((exponent + bias) << self.fraction) + steps - (1 << self.fraction)

    def value(self, bits: int) -> float:
        """The value of a bit pattern."""
        width = 8 * self.itemsize
        magnitude = bits & (1 << (width - 1)) - 1
        infinity = (1 << (width - 1)) - 1 if self._infinity is None else self._infinity
        if magnitude >= infinity:
            number = math.inf if magnitude == self._infinity else math.nan
        else:
            exponent, steps = magnitude >> self.fraction, magnitude & (1 << self.fraction) - 1
            if exponent:
                steps += 1 << self.fraction
            number = math.ldexp(steps, max(exponent, 1) - 1 + self.min_exponent - self.fraction)
        return -number if bits >> (width - 1) else number


DTYPES: Final = {
    dtype.name: dtype
    for dtype in (
        DType("float32", 0, 4, 23, -126, float.fromhex("0x1.fffffep127")),
        DType("float64", 1, 8, 52, -1022, float.fromhex("0x1.fffffffffffffp1023")),
        DType("float16", 2, 2, 10, -14, 65504.0),
        DType("bfloat16", 3, 2, 7, -126, float.fromhex("0x1.fep127")),
        DType("float8_e4m3fn", 4, 1, 3, -6, 448.0),
        DType("float8_e5m2", 5, 1, 2, -14, 57344.0),
    )
}
"""The formats that fastinit writes, by name."""


def dtype_named(name: object) -> DType:
    """The format called `name`.

    Parameters
    ----------
    name : object
        The format's name, or an object with that name, such as a ``numpy.dtype``.

    Raises
    ------
    TypeError
        If fastinit does not write that format.

    Examples
    --------
    >>> dtype_named("float16").max
    65504.0
    >>> dtype_named("int8")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    TypeError: dtype must be one of float32, ...; got 'int8'
    """
    try:
        text = name if isinstance(name, str) else getattr(name, "name", None) or getattr(name, "__name__", None)
    except Exception:  # a foreign object may raise anything
        text = None
    dtype = DTYPES.get(text) if isinstance(text, str) else None
    if dtype is None:
        raise TypeError(f"dtype must be one of {', '.join(DTYPES)}; got {shown(name)}")
    return dtype
