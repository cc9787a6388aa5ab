"""The memory that a caller gives: where its elements lie, and in which format."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from fastinit import _core
from fastinit.dtypes import DTYPES, DType, dtype_named

__all__ = ["NATIVE", "Buffer", "buffer_of", "new_memory", "row_major_strides"]

NATIVE: Final = {np.dtype(dtype.name): dtype for dtype in DTYPES.values() if dtype.storage == dtype.name}
"""The formats that NumPy has itself, by its dtype."""

# A cache line: what XLA and TensorFlow ask of memory that they use as it is.
ALIGNMENT = 64


class Buffer(NamedTuple):
    """Elements of a format, at byte strides from an address.

    Attributes
    ----------
    address : int
        Address of the first element.
    shape, byte_strides : tuple of int
        Size of each axis, and the bytes from one index of it to the next.
    dtype : DType
        The format.
    owner : object
        Keeps the memory alive.

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
    """What keeps the memory where it is; None where the caller does."""

    @property
    def size(self) -> int:
        """How many elements."""
        return math.prod(self.shape)

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie one after the other in row-major order."""
        expected = self.dtype.itemsize
        for extent, stride in zip(reversed(self.shape), reversed(self.byte_strides), strict=True):
            if extent != 1 and stride != expected:
                return self.size == 0
            expected *= extent
        return True

    @property
    def is_dense(self) -> bool:
        """Whether the elements lie one after the other in some order of the axes: transposed, channels-last."""
        expected = self.dtype.itemsize
        for stride, extent in sorted(zip(self.byte_strides, self.shape, strict=True)):
            if extent != 1 and stride != expected:
                return False
            expected *= extent
        return True

    def array(self, dtype: Any) -> np.ndarray:
        """The same memory as an array of another dtype of NumPy's own of the same size."""
        return _core.array_at(self.address, self.shape, self.byte_strides, np.dtype(dtype).num)


def row_major_strides(shape: tuple[int, ...], itemsize: int = 1) -> tuple[int, ...]:
    """From one index of each axis to the next, the last axis varying fastest: elements, or bytes of an itemsize.

    Parameters
    ----------
    shape : tuple of int
        Size of each axis.
    itemsize : int
        Bytes of an element; 1 counts elements.

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
    """Memory for a new tensor that frameworks can take over without a copy: consecutive, from a cache line on.

    Its dtype is the format's `storage`.

    Parameters
    ----------
    shape : tuple of int
        The tensor's.
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
        What raw memory holds.
    read_only : bool
        Whether it is only read, so that read-only memory will do.

    Raises
    ------
    TypeError, ValueError, BufferError
        If `out` is neither, does not hold the format, is not in native byte order or is read-only.

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
                f"out must have one of the dtypes {', '.join(DTYPES)}, or dtype= must say which of them its raw memory "
                f"holds; got an out of dtype {array.dtype}"
            )
    elif dtype is not None and array.dtype.name != found.name:
        array = _reinterpreted(array, found)
    if not array.dtype.isnative:
        raise TypeError(f"out must be in native byte order, got dtype {array.dtype.str!r}")
    if not (array.flags.writeable or read_only):
        raise BufferError("out is read-only")
    return Buffer(_core.address(array), array.shape, array.strides, found, array)


def _reinterpreted(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Raw memory as elements of a format: unsigned integers or void of its size, or consecutive bytes."""
    # ml_dtypes are of kind V too, and records may hold pointers to objects: neither is raw memory
    raw = array.dtype.kind == "u" or (array.dtype.type is np.void and array.dtype.fields is None)
    if raw and array.dtype.itemsize == dtype.itemsize:
        return array
    if raw and array.dtype.itemsize == 1 and array.ndim == 1 and array.flags.c_contiguous:
        if array.size % dtype.itemsize:
            raise ValueError(f"{array.size} bytes are no whole number of {dtype.name} values of {dtype.itemsize} bytes")
        return array.view(f"V{dtype.itemsize}")
    raise TypeError(
        f"dtype={dtype.name} needs an out of that dtype, or raw memory of {dtype.itemsize}-byte unsigned integers; "
        f"got dtype {array.dtype}"
    )
