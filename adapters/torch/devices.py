"""CUDA tensors, filled on the device if Numba can run kernels there."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Final

import torch
from torch import Tensor

from fastinit import Initializer, Key, Zeros
from fastinit.extending import DType, Shard, check_fill

__all__ = ["fill_on_device", "fills_on_device"]

_RAW: Final = {"u1": torch.uint8, "u2": torch.uint16, "u4": torch.uint32, "u8": torch.uint64}


@cache
def _numba() -> ModuleType | None:
    """The Numba adapter's devices; None without Numba or a driver, or if a kernel does not compile."""
    if find_spec("numba") is None:
        return None
    try:
        from numba import cuda

        if not cuda.is_available():
            return None
        from fastinit.adapters.numba import devices, fill

        fill(cuda.device_array(1, "uint32"), Zeros(), Key(0), dtype="float32")
    except Exception:  # a broken driver or an incompatible NumPy may raise anything; the host can fill the tensor
        return None
    return devices


def fills_on_device(tensor: Tensor) -> bool:
    """Whether a tensor's own device can fill it. Otherwise the host fills and copies."""
    return tensor.is_cuda and _numba() is not None


def fill_on_device(tensor: Tensor, dtype: DType, initializer: Initializer, key: Key, shard: Shard | None) -> bool:
    """Launches a kernel for a CUDA tensor in torch's current stream of its device. False if the host must fill it."""
    devices = _numba() if tensor.is_cuda else None
    if devices is None:
        return False
    from numba import cuda

    raw = tensor.detach().view(_RAW[dtype.raw])  # the interface cannot express float8
    with cuda.gpus[tensor.device.index]:
        stream = cuda.external_stream(torch.cuda.current_stream(tensor.device).cuda_stream)
        buffer = devices.buffer_of(raw, dtype)
        whole = shard or Shard.whole(buffer.shape)
        check_fill(buffer, initializer, whole)
        devices.fill(buffer, initializer, key, whole, stream)
    return True
