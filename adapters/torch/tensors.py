"""Tensors as memory: the one place where values are written into them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils._device import DeviceContext

from fastinit import ElementwiseInitializer, Initializer, Key
from fastinit.adapters.torch.devices import fill_on_device, fills_on_device
from fastinit.extending import DTYPES as FORMATS
from fastinit.extending import Buffer, Shard, checked_key, fill_buffer, fill_memory, plan

__all__ = ["DTYPES", "draw_", "drawn_key", "fill_", "is_distributed", "is_plain"]

DTYPES: Final = {getattr(torch, name): name for name in FORMATS}
"""fastinit's name of each torch dtype that it writes."""

_KNOWN: Final = frozenset({Tensor, torch.nn.Parameter})

# bound once: small tensors take little longer than the look-ups
_is_transformed = torch._C._functorch.is_functorch_wrapped_tensor
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_increment_version = torch._C._increment_version


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is nothing but strided numbers in memory of the host, and no mode watches what becomes of it.

    Subclasses, modes and function transforms want to see every operation.
    """
    modes = _dispatch_modes() or (_function_modes() and not _only_default_devices())
    return not modes and _has_memory(tensor)


def _has_memory(tensor: Tensor) -> bool:
    """Whether a tensor is strided numbers in memory of the host."""
    return (
        type(tensor) in _KNOWN
        and tensor.is_cpu
        and tensor.dtype in DTYPES
        and tensor.layout is torch.strided
        and not tensor.is_neg()
        and (not tensor.is_inference() or torch.is_inference_mode_enabled())
        and not _is_transformed(tensor)
    )


def _only_default_devices() -> bool:
    """Whether no mode intercepts functions but default devices, which concern tensors not yet made."""
    modes = map(torch._C._get_function_stack_at, range(_function_modes()))
    return all(type(mode) is DeviceContext for mode in modes)


def is_distributed(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")  # without which there can be none
    return module is not None and isinstance(tensor, module.DTensor)


def _is_fake(tensor: Tensor) -> bool:
    module = sys.modules.get("torch._subclasses.fake_tensor")
    return module is not None and isinstance(tensor, module.FakeTensor)


class _Scratch(threading.local):
    """A place to draw 64 bits into, for each thread, and the two words that they are."""

    def __init__(self) -> None:
        with torch.device("cpu"), torch.inference_mode(False):
            self.bits = torch.empty(1, dtype=torch.int64)
        low_word_first = self.bits.numpy().view(np.uint32)[:: 1 if sys.byteorder == "little" else -1]
        self.words = low_word_first.data


_scratch = _Scratch()


def _drawn(tensor: Tensor, generator: torch.Generator | None) -> tuple[int, int, int, int]:
    bits = _scratch.bits
    if not (tensor.is_cpu or tensor.is_meta):
        bits = torch.empty_like(bits, device=tensor.device)
    if generator is None:
        bits.random_(-(2**63), None)
    else:
        bits.random_(-(2**63), None, generator=generator)
    if bits is not _scratch.bits:
        _scratch.bits.copy_(bits)
    low, high = _scratch.words
    return (low, high, 0, 0)


def drawn_key(tensor: Tensor, generator: torch.Generator | None = None) -> Key:
    """The key that a generator gives: 64 bits drawn once, by default from the generator of the tensor's device.

    ``torch.manual_seed`` thereby governs it. The bits are Philox's key, and the upper half of its counter is 0.

    Raises
    ------
    RuntimeError
        If the generator is of another device, as in torch.
    """
    return Key.from_words(*_drawn(tensor, generator))


def draw_(tensor: Tensor, initializer: Initializer, generator: torch.Generator | None = None) -> Tensor:
    """:func:`fill_` of a plain tensor with the key that a generator gives, in the shortest time."""
    if not isinstance(initializer, ElementwiseInitializer) or not tensor.is_contiguous():
        return fill_(tensor, initializer, drawn_key(tensor, generator))
    sampling, size = plan(initializer, tensor.shape, DTYPES[tensor.dtype]), tensor.numel()
    address = _address(tensor, size)
    fill_memory(address, size, tensor.itemsize, sampling, _drawn(tensor, generator))
    _written(tensor)
    return tensor


def fill_(
    tensor: Tensor,
    initializer: Initializer,
    key: Key,
    *,
    global_shape: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
    ranges: Sequence[Sequence[range]] | None = None,
    start: int | None = None,
    num_threads: int | None = None,
) -> Tensor:
    """Fills a tensor in place with an initializer's values, as :func:`fastinit.fill` does an array.

    Autograd does not record it, and the tensor's version counter goes up by one.

    Parameters
    ----------
    tensor : torch.Tensor
        Of any layout whose elements do not overlap, of dtype float32, float64, float16, bfloat16, float8_e4m3fn or
        float8_e5m2. Of a DTensor the local part is filled, without communication. A CUDA tensor is filled by its device
        where Numba can run kernels on it; tensors on other devices are filled on the host and copied. Meta and fake
        tensors have no memory and stay as they are.
    initializer, key
        What to draw, and the stream.
    global_shape, offsets, ranges, start : optional
        Which elements of a larger tensor this one holds, see :func:`fastinit.fill`; a DTensor knows by itself.
    num_threads : int, optional
        At most so many threads.

    Returns
    -------
    torch.Tensor
        The same tensor.

    Raises
    ------
    TypeError
        If the tensor is of another dtype, layout or class.
    ValueError, BufferError
        As :func:`fastinit.fill`, before anything is written.
    """
    checked_key(key)
    if _has_memory(tensor):
        dtype = DTYPES[tensor.dtype]
        whole = global_shape is None and offsets is None and ranges is None and start is None
        if whole and num_threads is None and isinstance(initializer, ElementwiseInitializer) and tensor.is_contiguous():
            sampling, size = plan(initializer, tensor.shape, dtype), tensor.numel()
            fill_memory(_address(tensor, size), size, tensor.itemsize, sampling, key.words)
        else:
            strides = tuple(stride * tensor.itemsize for stride in tensor.stride())
            buffer = Buffer(_address(tensor, tensor.numel()), tuple(tensor.shape), strides, FORMATS[dtype])
            shard = Shard.of(buffer.shape, global_shape, offsets, ranges, start)
            fill_buffer(buffer, initializer, key, shard, num_threads=num_threads)
        _written(tensor)
        return tensor
    place: dict[str, Any] = {"global_shape": global_shape, "offsets": offsets, "ranges": ranges, "start": start}
    if is_distributed(tensor):
        return _fill_distributed(tensor, initializer, key, place, num_threads)
    if tensor.is_meta or _is_fake(tensor):
        return tensor
    if type(tensor) in _KNOWN and not tensor.is_cpu and tensor.layout is torch.strided and tensor.dtype in DTYPES:
        if fills_on_device(tensor):
            fill_on_device(tensor, DTYPES[tensor.dtype], initializer, key, place)
            _written(tensor)
            return tensor
        host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        fill_(host, initializer, key, **place, num_threads=num_threads)
        with torch.no_grad():
            tensor.copy_(host)
        return tensor
    raise TypeError(
        f"fastinit fills strided tensors of {', '.join(map(str, DTYPES))}; got a {type(tensor).__name__} of "
        f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
    )


def _address(tensor: Tensor, size: int) -> int:
    address = tensor.data_ptr()
    if size and not address:
        raise ValueError(f"the tensor of shape {tuple(tensor.shape)} has no memory: its storage was freed")
    return address


def _written(tensor: Tensor) -> None:
    """Tells autograd, which would otherwise trust what it has saved."""
    if not tensor.is_inference():
        _increment_version((tensor,))


def _fill_distributed(
    tensor: Tensor,
    initializer: Initializer,
    key: Key,
    place: dict[str, Any],
    num_threads: int | None,
) -> Tensor:
    from fastinit.adapters.torch.shards import local_ranges

    if any(given is not None for given in place.values()):
        raise ValueError("a DTensor knows its global shape and which part it holds; got " + ", ".join(place))
    ranges = local_ranges(tensor)  # type: ignore[arg-type]
    if ranges is None:  # this rank is not in the mesh
        return tensor
    with torch.no_grad():
        local = tensor.to_local()  # type: ignore[attr-defined]
    fill_(local, initializer, key, global_shape=tuple(tensor.shape), ranges=ranges, num_threads=num_threads)
    if not local.is_meta:
        _written(tensor)
    return tensor
