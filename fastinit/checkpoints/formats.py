"""The element formats of checkpoints, under the names that safetensors gives them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from fastinit.checks import shown

__all__ = ["FORMATS", "Format", "Stored", "format_named"]


@dataclass(frozen=True, slots=True)
class Format:
    """The format of a tensor's elements in a file.

    Attributes
    ----------
    name : str
        The name in NumPy, ml_dtypes and torch: ``"bfloat16"``.
    tag : str
        The name in a safetensors header: ``"BF16"``.
    bits : int
        Bits of an element.

    Examples
    --------
    >>> format_named("bfloat16").tag, format_named("F8_E4M3").bits
    ('BF16', 8)
    """

    name: str
    tag: str
    bits: int

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of this shape; elements below a byte are packed."""
        return -(-math.prod(shape) * self.bits // 8)


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a checkpoint on disk.

    Attributes
    ----------
    name : str
        The tensor's name.
    format : Format
        Format of the elements.
    shape : tuple of int
        The tensor's.

    Examples
    --------
    >>> Stored("step", format_named("int64"), (3,)).nbytes
    24
    """

    name: str
    format: Format
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return self.format.nbytes(self.shape)


_FORMATS: Final = (
    *(Format("float64", "F64", 64), Format("float32", "F32", 32), Format("float16", "F16", 16)),
    *(Format("bfloat16", "BF16", 16), Format("float8_e4m3fn", "F8_E4M3", 8), Format("float8_e5m2", "F8_E5M2", 8)),
    *(Format("int64", "I64", 64), Format("int32", "I32", 32), Format("int16", "I16", 16), Format("int8", "I8", 8)),
    *(Format("uint64", "U64", 64), Format("uint32", "U32", 32), Format("uint16", "U16", 16), Format("uint8", "U8", 8)),
    *(Format("bool", "BOOL", 8), Format("complex64", "C64", 64), Format("float8_e8m0fnu", "F8_E8M0", 8)),
    *(Format("float8_e4m3fnuz", "F8_E4M3FNUZ", 8), Format("float8_e5m2fnuz", "F8_E5M2FNUZ", 8)),
    *(Format("float4_e2m1fn", "F4", 4), Format("float6_e2m3fn", "F6_E2M3", 6), Format("float6_e3m2fn", "F6_E3M2", 6)),
)
FORMATS: Final = {format.name: format for format in _FORMATS}
"""Every format, by its name in NumPy, ml_dtypes and torch."""
_TAGS: Final = {format.tag: format for format in _FORMATS}


def format_named(name: object) -> Format:
    """The format of either name.

    Parameters
    ----------
    name : str
        As in NumPy or as in safetensors.

    Raises
    ------
    ValueError
        If no format is called so.

    Examples
    --------
    >>> format_named("I64").name
    'int64'
    """
    found = FORMATS.get(name) or _TAGS.get(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"unknown dtype {shown(name)}: expected one of {', '.join(FORMATS)}")
    return found
