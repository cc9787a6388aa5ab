"""CUDA tensors, filled by the device itself where Numba can run kernels on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any, Final

import torch
from torch import Tensor

from fastinit import Initializer, Key, Zeros
from fastinit.extending import dtype_named

__all__ = ["fill_on_device", "fills_on_device"]

_RAW: Final = {"u1": torch.uint8, "u2": torch.uint16, "u4": torch.uint32, "u8": torch.uint64}


@cache
def _fill() -> Callable[..., Any] | None:
    """The Numba adapter's fill, or None where there is no Numba, no driver, or where it does not compile a kernel."""
    if find_spec("numba") is None:
        return None
    try:
        from numba import cuda

        if not cuda.is_available():
            return None
        from fastinit.adapters.numba import fill

        fill(cuda.device_array(1, "uint32"), Zeros(), Key(0), dtype="float32")
    except Exception:  # whatever a broken driver or an unfit NumPy raises: the host can fill it too
        return None
    return fill


def fills_on_device(tensor: Tensor) -> bool:
    """Whether a tensor's own device can fill it; otherwise the host does, and the values are copied."""
    return tensor.is_cuda and _fill() is not None


def fill_on_device(
    tensor: Tensor,
    dtype: str,
    initializer: Initializer,
    key: Key,
    place: Mapping[str, Any],
) -> None:
    """Puts a kernel that fills a CUDA tensor into torch's current stream of its device."""
    from numba import cuda

    fill = _fill()
    assert fill is not None
    raw = tensor.detach().view(_RAW[dtype_named(dtype).raw])  # the interface cannot say float8
    with cuda.gpus[tensor.device.index]:
        stream = cuda.external_stream(torch.cuda.current_stream(tensor.device).cuda_stream)
        fill(raw, initializer, key, dtype=dtype, **place, stream=stream)
