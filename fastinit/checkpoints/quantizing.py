"""Quantized tensors: a float32 tensor of the stream, divided by scales and rounded to nearest even, saturating.

=============  ===================================  ==========================  ====================================
scheme         tensors of a weight called NAME      a scale for                 layout
=============  ===================================  ==========================  ====================================
float8_block   NAME, NAME_scale_inv                 each 128 x 128 elements     DeepSeek-V3, transformers' ``fp8``
float8_tensor  NAME, NAME_scale                     the tensor                  compressed-tensors' float-quantized
mxfp4          NAME_packed, NAME_scale              each 32 elements of a row   its mxfp4-pack-quantized
mxfp4_blocks   NAME_blocks, NAME_scales             each 32 elements of a row   gpt-oss, transformers' ``mxfp4``
nvfp4          NAME_packed, NAME_scale,             each 16 elements of a row,  compressed-tensors'
               NAME_global_scale                    and one for the tensor      nvfp4-pack-quantized
=============  ===================================  ==========================  ====================================

A scale is finite and never zero: that of zeros alone is 1. The scale of a whole tensor comes from the largest magnitude
that its initializer can draw, so any slice is computed alone; of a tensor that is made whole, from its largest element.
Every other scale comes from the largest element that it is for. The scale of MXFP4 is the least power of two that
saturates no element.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fastinit import _core
from fastinit.checkpoints.formats import Format, format_named
from fastinit.checkpoints.sources import Filled, Source
from fastinit.checks import one_of, shown
from fastinit.comparing import numbers
from fastinit.dtypes import DTYPES
from fastinit.exact import in_stream_environment
from fastinit.models.records import Entry, Record
from fastinit.threads import default_num_threads, for_each

__all__ = ["SCHEMES", "Quantized", "quantized"]

_FLOAT8: Final = DTYPES["float8_e4m3fn"]
_LARGEST_FLOAT4: Final = 6.0
# What lies halfway between neighbouring magnitudes of float4_e2m1fn: 0, 0.5, 1, 1.5, 2, 3, 4, 6.
_HALFWAYS: Final = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
_BLOCK: Final = 128  # rows and columns of a block of float8
# Scales are normal numbers of float32: readers divide by them, too.
_LEAST_SCALE: Final = np.float32(2.0**-126)
# Elements that a thread has in memory at once, and the bytes that each takes meanwhile.
_TILE: Final = 2**17
_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class _Scheme:
    """How weights are quantized.

    `group` elements of a row share a scale, 0 for a block of rows and columns; `packed` elements make one of the values
    as they are stored. `formats` are those of the parts, and `suffixes` what the names of the parts add to the name.
    """

    group: int
    packed: int
    formats: dict[str, str]
    suffixes: dict[str, str]


SCHEMES: Final = {
    "float8_block": _Scheme(
        0, 1, {"values": "float8_e4m3fn", "scales": "float32"}, {"values": "", "scales": "_scale_inv"}
    ),
    "float8_tensor": _Scheme(1, 1, {"values": "float8_e4m3fn", "scale": "float32"}, {"values": "", "scale": "_scale"}),
    "mxfp4": _Scheme(32, 2, {"values": "uint8", "scales": "uint8"}, {"values": "_packed", "scales": "_scale"}),
    "mxfp4_blocks": _Scheme(32, 2, {"values": "uint8", "scales": "uint8"}, {"values": "_blocks", "scales": "_scales"}),
    "nvfp4": _Scheme(
        16,
        2,
        {"values": "uint8", "scales": "float8_e4m3fn", "scale": "float32"},
        {"values": "_packed", "scales": "_scale", "scale": "_global_scale"},
    ),
}
"""The schemes, by name; ``mxfp4_blocks`` is MXFP4 in the layout of gpt-oss."""


def quantized(name: str, of: Filled, scheme: str) -> dict[str, Quantized]:
    """The tensors that a quantized weight is stored as, by their names.

    Parameters
    ----------
    name : str
        The weight's name.
    of : Filled
        Its values, in float32, (..., out, in).
    scheme : str
        One of ``SCHEMES``.

    Raises
    ------
    ValueError
        If there is no such scheme, the values are of another dtype, or the shape does not suit the scheme.

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.checkpoints import Filled
    >>> normal = fastinit.Normal(std=0.02)
    >>> entry = fastinit.Entry("up.weight", (192, 256), "given", normal, fastinit.Key(0), dtype="float32")
    >>> for name, source in quantized("up.weight", Filled(entry), "float8_block").items():
    ...     print(name, source.format.name, source.shape)
    up.weight float8_e4m3fn (192, 256)
    up.weight_scale_inv float32 (2, 2)
    """
    suffixes = _scheme_named(scheme).suffixes
    return {name + suffix: Quantized(scheme, part, of) for part, suffix in suffixes.items()}


def _scheme_named(name: object) -> _Scheme:
    return SCHEMES[one_of("scheme", name, SCHEMES)]


@dataclass(frozen=True, slots=True)
class Quantized(Source):
    """One of the tensors that a quantized weight is stored as.

    Parameters
    ----------
    scheme : str
        One of ``SCHEMES``.
    part : str
        ``"values"``; ``"scales"``, for each block; or ``"scale"``, for the tensor.
    of : Filled
        The weight's values, in float32, (..., out, in).

    Raises
    ------
    TypeError
        If `of` is not a :class:`Filled`.
    ValueError
        If there is no such scheme or part, the values are of another dtype, or the shape does not suit the scheme.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> from fastinit.checkpoints import Filled
    >>> ramp = fastinit.Entry("up", (1, 32), "given", fastinit.Constant(3.0), fastinit.Key(0), dtype="float32")
    >>> values, scale = (Quantized("mxfp4", part, Filled(ramp)) for part in ("values", "scales"))
    >>> bits = [np.empty(source.format.nbytes(source.shape), np.uint8) for source in (values, scale)]
    >>> values.write(bits[0], 0)
    >>> scale.write(bits[1], 0)
    >>> [hex(byte) for byte in (bits[0][0], bits[1][0])]  # 6 and 6 times a half
    ['0x77', '0x7e']
    """

    KIND = "quantized"

    scheme: str
    part: str
    of: Filled

    def __post_init__(self) -> None:
        scheme = _scheme_named(self.scheme)
        one_of(f"part of {self.scheme}", self.part, scheme.formats)
        if not isinstance(self.of, Filled):
            raise TypeError(f"only what an initializer fills is quantized, got {shown(self.of)}")
        if self.of.entry.dtype != "float32":
            raise ValueError(f"values to quantize are of float32, got {shown(self.of.entry.dtype)}")
        shape = self.of.shape
        if len(shape) < 2 or not all(shape):
            raise ValueError(f"a tensor to quantize has rows and columns, got the shape {shape}")
        if scheme.group and shape[-1] % scheme.group:
            raise ValueError(
                f"rows must be multiples of the {scheme.group} elements of {self.scheme} that share a scale, got the "
                f"shape {shape}"
            )

    @property
    def entry(self) -> Entry:
        return self.of.entry

    @property
    def shape(self) -> tuple[int, ...]:
        *leading, columns = self.of.shape
        scheme = SCHEMES[self.scheme]
        if self.part == "scale":
            return (1,)
        if self.part == "values":
            if self.scheme == "mxfp4_blocks":
                return (*leading, columns // scheme.group, scheme.group // scheme.packed)
            return (*leading, columns // scheme.packed)
        if scheme.group:
            return (*leading, columns // scheme.group)
        return (*leading[:-1], -(-leading[-1] // _BLOCK), -(-columns // _BLOCK))

    @property
    def format(self) -> Format:
        return format_named(SCHEMES[self.scheme].formats[self.part])

    @property
    def granule(self) -> int:
        if self._is_made_whole:
            return max(1, math.prod(self.shape))
        if self.part != "values":
            return 1
        scheme = SCHEMES[self.scheme]
        if scheme.group:
            return scheme.group // scheme.packed
        *leading, rows, columns = self.of.shape
        is_even = math.prod(leading) == 1 or rows % _BLOCK == 0
        return min(_BLOCK, rows) * columns if is_even else rows * columns

    @property
    def working_memory(self) -> int:
        tiles = _BYTES * _TILE * default_num_threads()
        return tiles + self.of.working_memory + 4 * math.prod(self.of.shape) if self._is_made_whole else tiles

    @property
    def _is_made_whole(self) -> bool:
        return self.of.working_memory > 0

    def check(self) -> None:
        self.of.check()
        reach = self.entry.initializer.reach(self.entry.shape, "float32")
        if not math.isfinite(reach):
            raise ValueError(f"values to quantize are finite, and {shown(self.entry.initializer)} reaches {reach}")

    def write(self, out: np.ndarray, begin: int, num_threads: int | None = None) -> None:
        threads = default_num_threads() if num_threads is None else num_threads
        whole = None
        if self._is_made_whole and self.part != "scale":
            whole = _made(self.of, threads)
        elif self.part == "scale":
            out[:] = _bytes_of(self._scale(threads))
            return
        count = out.size * 8 // self.format.bits
        if SCHEMES[self.scheme].group:
            self._write_groups(out, begin, count, whole, threads)
        else:
            self._write_blocks(out, begin, count, whole, threads)

    @in_stream_environment
    def _scale(self, threads: int, whole: np.ndarray | None = None) -> np.ndarray:
        """The scale of the whole tensor, as one float32; of NVFP4 what the scales were multiplied by."""
        if not self._is_made_whole:
            largest = np.float32(self.entry.initializer.reach(self.entry.shape, "float32"))
        else:
            values = _made(self.of, threads) if whole is None else whole
            largest = _finite(np.abs(values).max())
        if self.scheme == "nvfp4":
            scaled = np.float32(_FLOAT8.max * _LARGEST_FLOAT4) / max(largest, np.float32(2.0**-116))
        else:
            scaled = max(largest / np.float32(_FLOAT8.max), _LEAST_SCALE)
        return np.array([scaled if largest else 1.0], np.float32)

    # Groups: elements of a row that share a scale follow each other.

    def _write_groups(self, out: np.ndarray, begin: int, count: int, whole: np.ndarray | None, threads: int) -> None:
        scheme = SCHEMES[self.scheme]
        stored = scheme.group // scheme.packed if self.part == "values" else 1  # elements of this tensor for a group
        scale = self._scale(threads, whole) if "scale" in scheme.formats else None
        first, last = begin // stored, (begin + count) // stored
        step = _TILE // scheme.group

        @in_stream_environment
        def make(number: int) -> None:
            start = first + number * step
            stop = min(start + step, last)
            if whole is None:
                values = np.empty((stop - start, scheme.group), np.float32)
                self.of.write(values.reshape(-1).view(np.uint8), start * scheme.group, 1)
            else:
                values = whole.reshape(-1, scheme.group)[start:stop]
            itemsize = stored * self.format.bits // 8
            found = self._of_groups(values, scale)
            out[(start - first) * itemsize : (stop - first) * itemsize] = _bytes_of(found)

        for_each(-(-(last - first) // step), make, threads)

    def _of_groups(self, values: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
        """What is stored for groups, one in each row."""
        if self.scheme == "float8_tensor":
            return _float8(values / scale)
        largest = _finite(np.abs(values).max(axis=1, keepdims=True))
        if self.scheme == "nvfp4":
            assert scale is not None
            least = np.float32(2.0**-9)  # of float8
            scales = _float8(np.where(largest > 0, np.maximum(largest / np.float32(6.0) * scale, least), np.float32(1)))
            return scales if self.part == "scales" else _float4(values / (_numbers(scales) / scale))
        fraction, exponent = np.frexp(largest)
        exponent = np.clip(exponent - 3 + (fraction > 0.75), -126, 127)  # 6 is 0.75 * 2**3
        exponent = np.where(largest > 0, exponent, 0)
        if self.part == "scales":
            return (exponent + 127).astype(np.uint8)
        return _float4(values * np.ldexp(np.float32(1.0), -exponent))

    # Blocks: bands of rows, cut into blocks.

    def _write_blocks(self, out: np.ndarray, begin: int, count: int, whole: np.ndarray | None, threads: int) -> None:
        *_, rows, columns = self.of.shape
        bands, blocks = -(-rows // _BLOCK), -(-columns // _BLOCK)
        first, last = begin, begin + count  # of the scales
        if self.part == "values":
            first, last = (self._band_of(element) * blocks for element in (begin, begin + count))
        tiles = list(_tiles(first, last, blocks))

        @in_stream_environment
        def make(number: int) -> None:
            band, start, stop = tiles[number]
            matrix, row = divmod(band, bands)
            top, left = row * _BLOCK, start * _BLOCK
            height, width = min(_BLOCK, rows - top), min(stop * _BLOCK, columns) - left
            values = self._box(matrix, top, left, height, width, whole)
            edges = np.arange(0, width, _BLOCK)
            largest = _finite(np.maximum.reduceat(np.abs(values).max(axis=0), edges))
            scales = np.maximum(largest / np.float32(_FLOAT8.max), _LEAST_SCALE)
            scales = np.where(largest > 0, scales, np.float32(1.0))
            if self.part == "scales":
                at = (band * blocks + start - first) * 4
                out[at : at + scales.size * 4] = _bytes_of(scales)
                return
            found = _float8(values / np.repeat(scales, _BLOCK)[:width])
            at = (matrix * rows + top) * columns - begin
            out[at : at + height * columns].reshape(height, columns)[:, left : left + width] = found

        for_each(len(tiles), make, threads)

    def _band_of(self, element: int) -> int:
        """How many bands lie before an element, which begins one, or ends the tensor."""
        *_, rows, columns = self.of.shape
        matrix, rest = divmod(element, rows * columns)
        return matrix * -(-rows // _BLOCK) + -(-rest // (_BLOCK * columns))

    def _box(self, matrix: int, top: int, left: int, height: int, width: int, whole: np.ndarray | None) -> np.ndarray:
        """A box of one of the matrices of the tensor."""
        *leading, rows, columns = self.of.shape
        if whole is not None:
            return whole.reshape(-1, rows, columns)[matrix, top : top + height, left : left + width]
        where = tuple(int(place) for place in np.unravel_index(matrix, leading)) if leading else ()
        found = self.of.box((*where, top, left), (*(1 for _ in leading), height, width), 1)
        return found.reshape(height, width)

    def config(self, name: str) -> dict[str, Any]:
        return {"scheme": self.scheme, "part": self.part, **self.of.config(name)}

    @classmethod
    def from_config(cls, config: dict[str, Any], name: str, record: Record) -> Quantized:
        rest = dict(config)
        scheme, part = rest.pop("scheme", None), rest.pop("part", None)
        return cls(scheme, part, Filled.from_config(rest, name, record))


def _tiles(first: int, last: int, blocks: int) -> Iterator[tuple[int, int, int]]:
    """Blocks [first, last), counted through bands of equal length, as bands and ranges of few blocks in them."""
    step = _TILE // _BLOCK**2
    for band in range(first // blocks, -(-last // blocks)):
        end = min(last - band * blocks, blocks)
        for start in range(max(first - band * blocks, 0), end, step):
            yield band, start, min(start + step, end)


def _made(of: Filled, threads: int) -> np.ndarray:
    """All values of a tensor."""
    values = np.empty(of.shape, np.float32)
    of.write(values.reshape(-1).view(np.uint8), 0, threads)
    return values


def _finite(largest: Any) -> Any:
    """The same; raises ValueError where a value was NaN or infinite."""
    if not np.isfinite(largest).all():
        raise ValueError("values to quantize are finite, got NaN or an infinity")
    return largest


def _bytes_of(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _float8(values: np.ndarray) -> np.ndarray:
    """The bits of values rounded to float8_e4m3fn, to nearest even, saturating. The values are overwritten."""
    values = np.ascontiguousarray(values, np.float32)
    np.clip(values, np.float32(-_FLOAT8.max), np.float32(_FLOAT8.max), out=values)
    bits = np.empty(values.shape, np.uint8)
    _core.narrow(_core.address(values), values.size, _FLOAT8.tag, _core.address(bits))
    return bits


def _numbers(bits: np.ndarray) -> np.ndarray:
    """The float32 numbers that bits of float8_e4m3fn stand for."""
    return numbers(bits, _FLOAT8).astype(np.float32)


def _float4(values: np.ndarray) -> np.ndarray:
    """Values rounded to float4_e2m1fn, to nearest even, saturating: two in a byte, the first in its lower half."""
    magnitudes = np.abs(values)
    codes = np.signbit(values).astype(np.uint8) << 3
    for code, halfway in enumerate(_HALFWAYS):
        # halfway between two codes, the even one is meant
        codes += magnitudes >= halfway if code % 2 else magnitudes > halfway
    packed: np.ndarray = codes[..., ::2] | codes[..., 1::2] << 4
    return packed
