"""The caller's memory: addresses, strides and formats."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from fastinit import _core
from fastinit.dtypes import DTYPES, DType, dtype_named

__all__ = ["NATIVE", "Buffer", "buffer_of", "new_memory", "row_major_strides"]

NATIVE: Final = {np.dtype(dtype.name): dtype for dtype in DTYPES.values() if dtype.storage == dtype.name}
"""The formats that NumPy supports natively, by NumPy dtype."""

# A cache line. XLA and TensorFlow require it to use memory without a copy.
ALIGNMENT = 64


class Buffer(NamedTuple):
    """A strided array of elements in memory.

    Attributes
    ----------
    address : int
        Address of the first element.
    shape, byte_strides : tuple of int
        Size and byte stride of each axis.
    dtype : DType
        The format.
    owner : object
        Object that keeps the memory alive; None if the caller does.

    Examples
    --------
    >>> import numpy as np
    >>> out = np.zeros((3, 4), np.float32)
    >>> buffer = buffer_of(out, None)
    >>> buffer.address == out.ctypes.data, buffer.shape, buffer.byte_strides, buffer.dtype.name
    (True, (3, 4), (16, 4), 'float32')
    """

    address: int
    shape: tuple[int, ...]
    byte_strides: tuple[int, ...]
    dtype: DType
    owner: Any = None
    """Object that keeps the memory alive; None if the caller does."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements are contiguous in row-major order."""
        expected = self.dtype.itemsize
        for extent, stride in zip(reversed(self.shape), reversed(self.byte_strides), strict=True):
            if extent != 1 and stride != expected:
                return self.size == 0
            expected *= extent
        return True

    @property
    def is_dense(self) -> bool:
        """Whether the elements are contiguous in some order of the axes, such as transposed or channels-last."""
        expected = self.dtype.itemsize
        for stride, extent in sorted(zip(self.byte_strides, self.shape, strict=True)):
            if extent != 1 and stride != expected:
                return False
            expected *= extent
        return True

    def array(self, dtype: Any) -> np.ndarray:
        """The same memory as an array of a NumPy dtype of the same itemsize."""
        return _core.array_at(self.address, self.shape, self.byte_strides, np.dtype(dtype).num)


def row_major_strides(shape: tuple[int, ...], itemsize: int = 1) -> tuple[int, ...]:
    """The strides of a row-major array, in elements or in bytes.

    Parameters
    ----------
    shape : tuple of int
        Size of each axis.
    itemsize : int
        Bytes per element. 1 gives strides in elements.

    Examples
    --------
    >>> row_major_strides((2, 3, 4))
    (12, 4, 1)
    >>> row_major_strides((2, 3, 4), 4)
    (48, 16, 4)
    """
    strides = [itemsize] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


def new_memory(shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    """Memory for a new tensor that frameworks can use without a copy: contiguous and aligned to a cache line.

    Its dtype is the format's `storage`.

    Parameters
    ----------
    shape : tuple of int
        Shape of the tensor.
    dtype : DType
        The format.

    Examples
    --------
    >>> from fastinit.extending import dtype_named
    >>> memory = new_memory((3, 4), dtype_named("bfloat16"))
    >>> memory.shape, memory.dtype, memory.ctypes.data % 64
    ((3, 4), dtype('uint16'), 0)
    """
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT - 1, np.uint8)
    first = -_core.address(memory) % ALIGNMENT
    return memory[first : first + size].view(dtype.storage).reshape(shape)


def buffer_of(out: Any, dtype: Any, *, read_only: bool = False) -> Buffer:
    """The memory of an array or a buffer, and the format to write, checked.

    Parameters
    ----------
    out : numpy.ndarray or buffer
        The memory.
    dtype : str or None
        Format of raw memory.
    read_only : bool
        Whether read-only memory is allowed.

    Raises
    ------
    TypeError, ValueError, BufferError
        If `out` is neither an array nor a buffer, does not hold the format, is not in native byte order, or is
        read-only.

    Examples
    --------
    >>> import numpy as np
    >>> buffer_of(np.zeros(8, np.uint16), "bfloat16").dtype.name
    'bfloat16'
    >>> buffer_of(np.zeros(8, np.int32), None)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    TypeError: out must have one of the dtypes float32, ...; got an out of dtype int32
    """
    if isinstance(out, np.ndarray):
        array = out
    else:
        try:
            array = np.asarray(memoryview(out))
        except TypeError:
            raise TypeError(f"out must be a NumPy array or a writable buffer, not {type(out).__name__}") from None
    found = NATIVE.get(array.dtype) if dtype is None else dtype_named(dtype)
    if found is None:
        found = DTYPES.get(array.dtype.name)
        if found is None:
            raise TypeError(
                f"out must have one of the dtypes {', '.join(DTYPES)}, or dtype= must name the format of its raw "
                f"memory; got an out of dtype {array.dtype}"
            )
    elif dtype is not None and array.dtype.name != found.name:
        array = _reinterpreted(array, found)
    if not array.dtype.isnative:
        raise TypeError(f"out must be in native byte order, got dtype {array.dtype.str!r}")
    if not (array.flags.writeable or read_only):
        raise BufferError("out must be writable, got read-only memory")
    return Buffer(_core.address(array), array.shape, array.strides, found, array)


def _reinterpreted(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Reinterprets raw memory (unsigned integers or void of the format's size, or contiguous bytes) as the format."""
    # exclude ml_dtypes, which have kind V too, and records, which may hold pointers to objects
    raw = array.dtype.kind == "u" or (array.dtype.type is np.void and array.dtype.fields is None)
    if raw and array.dtype.itemsize == dtype.itemsize:
        return array
    if raw and array.dtype.itemsize == 1 and array.ndim == 1 and array.flags.c_contiguous:
        if array.size % dtype.itemsize:
            raise ValueError(f"expected a multiple of {dtype.itemsize} bytes for {dtype.name}, got {array.size} bytes")
        return array.view(f"V{dtype.itemsize}")
    raise TypeError(
        f"dtype={dtype.name} needs an out of that dtype, or raw memory of {dtype.itemsize}-byte unsigned integers; "
        f"got dtype {array.dtype}"
    )
