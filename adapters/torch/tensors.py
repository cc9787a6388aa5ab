"""Tensors as memory. All values are written here."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from enum import Enum
from operator import attrgetter
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from fastinit import ElementwiseInitializer, Initializer, Key, NewRows
from fastinit.adapters.torch.devices import fill_on_device, fills_on_device
from fastinit.adapters.torch.drawing import REFUSALS, Made, by_torch, given_key, notices
from fastinit.adapters.torch.internals import WATCHING, increment_version, is_fake, is_transformed, is_watched, shape_of
from fastinit.adapters.torch.parametrized import tell_if_lost
from fastinit.adapters.torch.recording import implement, is_deferring, is_recorded, record, recorded_at_once
from fastinit.extending import DTYPES as FORMATS
from fastinit.extending import (
    Buffer,
    Shard,
    at_least,
    check_distinct,
    check_rows,
    checked_initializer,
    checked_key,
    fill_buffer,
    fill_memory,
    fill_rows_of,
    plan,
    shortcut,
    shown,
)

__all__ = [
    "DTYPES",
    "Kind",
    "check_new_rows",
    "checked_kinds",
    "draw",
    "drawn_key",
    "fill_",
    "fill_part",
    "is_recordable",
    "kind_of",
    "not_a_tensor",
    "place",
    "shortcut_of_this_thread",
    "write",
    "write_rows",
]

DTYPES: Final = {getattr(torch, name): name for name in FORMATS if hasattr(torch, name)}
"""fastinit's name of each supported torch dtype."""

_STRIDED: Final = torch.strided
_KNOWN: Final = frozenset({Tensor, torch.nn.Parameter})


class Kind(Enum):
    """Kinds of tensors. Each call determines the kind once (:func:`kind_of`) and passes it on."""

    PLAIN = "strided numbers in memory of the host"
    DISTRIBUTED = "a DTensor, of which this process holds a part"
    DEVICE = "strided numbers in memory of a device"
    UNREAL = "a meta or fake tensor, without memory"
    FOREIGN = "anything else: another dtype, layout or class, a wrapped or lazily negated tensor"


PLAIN, DISTRIBUTED, DEVICE, UNREAL, FOREIGN = Kind


def kind_of(tensor: Tensor) -> Kind:
    """What a tensor is."""
    if type(tensor) not in _KNOWN:
        module = sys.modules.get("torch.distributed.tensor")  # not loaded, so no DTensor can exist
        if module is not None and isinstance(tensor, module.DTensor):
            return DISTRIBUTED
        return UNREAL if is_fake(tensor) else FOREIGN
    on_host = tensor.is_cpu
    if not on_host and tensor.is_meta:
        return UNREAL
    usual = (
        tensor.dtype in DTYPES
        and tensor.layout is _STRIDED
        and not tensor.is_neg()
        and (not tensor.is_inference() or torch.is_inference_mode_enabled())
        and not is_transformed(tensor)
    )
    if not usual:
        return FOREIGN
    return PLAIN if on_host else DEVICE


def checked_kinds(tensors: Sequence[tuple[str, Tensor]]) -> list[Kind]:
    """The kinds of the tensors to be written, by name. Tensors on the meta device count as getting memory.

    Raises
    ------
    TypeError, ValueError
        Names the first tensor that fastinit cannot write: another class or layout, overlapping elements, freed memory,
        or a DTensor whose values no rank holds.
    """
    kinds = []
    for name, tensor in tensors:
        kind = kind_of(tensor)
        if kind is FOREIGN or (kind is UNREAL and not tensor.is_meta):
            raise TypeError(
                f"{name!r} is a {type(tensor).__name__} of layout {tensor.layout}: fastinit fills strided Tensors, "
                "Parameters and DTensors, neither lazily negated nor made in inference mode"
            )
        try:
            if kind is PLAIN:
                check_distinct(memory_of(tensor))
            elif kind is DISTRIBUTED:
                local_part(tensor)
        except BufferError:
            shape, strides = tuple(tensor.shape), tensor.stride()
            raise ValueError(f"the elements of {name!r} overlap: {shape=}, {strides=}") from None
        except ValueError as problem:
            raise ValueError(f"{name!r}: {problem}") from None
        kinds.append(kind)
    return kinds


def local_part(tensor: Tensor, outer: Shard | None = None) -> tuple[Tensor, Shard | None]:
    """This rank's local tensor of a DTensor and its shard; None if the rank is not in the mesh.

    `outer` is the DTensor's own position in a larger tensor, if any.
    """
    from fastinit.adapters.torch.shards import local_ranges

    ranges = local_ranges(tensor)  # type: ignore[arg-type]
    with torch.no_grad():
        local: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    if ranges is None:
        return local, None
    found = Shard(tuple(tensor.shape), ranges)
    return local, found if outer is None else found.within(outer)


# Keys from generators


class _Scratch(threading.local):
    """For each thread: a buffer for 64 drawn bits, its view as two words, and the shortcut that draws into it."""

    def __init__(self) -> None:
        with torch.device("cpu"), torch.inference_mode(False):
            self.bits = torch.empty(1, dtype=torch.int64)
        low_word_first = self.bits.numpy().view(np.uint32)[:: 1 if sys.byteorder == "little" else -1]
        self.words = low_word_first.data
        self.shortcut = shortcut(
            kinds=(Tensor, torch.nn.Parameter),
            exchange=getattr(Tensor, "__dlpack_c_exchange_api__", None),  # torch 2.10 and later
            watching=WATCHING,
            odd=(Tensor.is_neg, Tensor.is_inference),  # a transform's wrapper has no memory
            odd_kind=(attrgetter("requires_grad"),),  # a Parameter is not computed from others
            draw=self.bits.random_,
            draw_arguments=(-(2**63), None),
            drawn=self.bits.data_ptr(),
            written=increment_version,
        )


_scratch = _Scratch()


def shortcut_of_this_thread() -> Any:
    """Fills small tensors with the host's generator in one call, see :func:`fastinit.extending.shortcut`."""
    return _scratch.shortcut


def _drawn_words(tensor: Tensor, generator: torch.Generator | None) -> tuple[int, int, int, int]:
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
    """A key of 64 bits drawn from a generator, by default that of the tensor's device.

    The key therefore follows ``torch.manual_seed``. The bits are Philox's key, and the upper half of its counter is 0.

    Raises
    ------
    RuntimeError
        If the generator belongs to another device, as in torch.
    """
    return Key.from_words(*_drawn_words(tensor, generator))


# Writing


def draw(
    tensor: Tensor,
    key: Key | int | None,
    generator: torch.Generator | None,
    initializer: Made,
    original: Callable[..., Tensor],
    *arguments: Any,
) -> Tensor:
    """Fills a tensor in place with an initializer, or falls back to ``original(tensor, *arguments, generator=)``.

    Decides whether fastinit or torch fills the tensor. If the initializer's parameters do not fit, the generator has
    not advanced.
    """
    if key is None and generator is None and _scratch.shortcut.fill(tensor, initializer):
        return tensor
    by_a_name = is_deferring() and key is None and generator is None  # or from the given one
    if by_a_name and not isinstance(initializer, str) and recorded_at_once(tensor, initializer):
        return tensor
    kind, given = kind_of(tensor), None if key is None else given_key(key, generator)
    if isinstance(initializer, str):
        return by_torch(tensor, given, generator, initializer, original, arguments)
    if kind is PLAIN:  # inlined, because small tensors are frequent
        is_ours = not is_watched() and (size := tensor.numel()) > 0
    else:
        size, is_ours = 0, _is_ours(kind, tensor)
    if is_ours and type(tensor) is Tensor and tensor.requires_grad:  # a Parameter is not computed
        tell_if_lost(tensor)
    try:
        if not is_ours:
            if not is_recordable(kind, tensor, initializer):
                return by_torch(tensor, given, generator, None, original, arguments)
            if generator is not None and is_deferring():  # the tape would record its numbers as the author's
                return by_torch(tensor, given, generator, "", original, arguments)
            if generator is not None:
                raise ValueError("a graph cannot hold a generator")
            return record(tensor, initializer, given)
        if size and given is None and isinstance(initializer, ElementwiseInitializer) and tensor.is_contiguous():
            sampling = plan(initializer, tensor.shape, DTYPES[tensor.dtype])
            _scratch.shortcut.learn(tensor, initializer, sampling)
            return _fill_at_once(tensor, size, sampling, _drawn_words(tensor, generator))
        if given is None and kind is not DISTRIBUTED:
            initializer.check(tuple(tensor.shape), DTYPES[tensor.dtype])  # otherwise the generator does not advance
        unused = _NO_KEY if tensor.is_meta else None  # a DTensor without memory draws nothing
        return write(kind, tensor, initializer, given or unused or drawn_key(tensor, generator))
    except (BufferError, *REFUSALS) as error:  # overlapping elements, values beyond the dtype, an unusual generator
        if kind is DISTRIBUTED or (kind is DEVICE and not isinstance(error, ValueError)):
            raise
        return by_torch(tensor, given, generator, str(error), original, arguments)


def place(tensor: Tensor, initializer: Made, original: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """:func:`draw` for an initializer without random numbers."""
    kind = kind_of(tensor)
    if not isinstance(initializer, str) and _fits_a_graph(kind, tensor, initializer):
        return record(tensor, initializer, _NO_KEY)
    if kind is UNREAL and is_fake(tensor) and not is_recorded():
        original(torch.empty_like(tensor, device="meta"), *arguments)  # otherwise it raises
        return tensor
    if not isinstance(initializer, str) and kind is not DEVICE and _is_ours(kind, tensor):
        if tensor.requires_grad:
            tell_if_lost(tensor)
        try:
            return write(kind, tensor, initializer, _NO_KEY)
        except (ValueError, BufferError):
            pass
    return original(tensor, *arguments)


_NO_KEY: Final = Key(0)


def _is_ours(kind: Kind, tensor: Tensor) -> bool:
    """Whether fastinit fills tensors of this kind in this context."""
    if kind is PLAIN:
        return tensor.numel() > 0 and not is_watched()
    if kind is DEVICE and not is_watched():
        if not fills_on_device(tensor):
            notices.say_once(tensor.device.type, f"tensors on {tensor.device.type} are filled on the host and copied")
        return True
    return kind is DISTRIBUTED


def not_a_tensor(value: object) -> TypeError:
    """The error for a value that is not a tensor."""
    return TypeError(f"expected a torch.Tensor, got {type(value).__name__} ({shown(value)})")


def is_recordable(kind: Kind, tensor: Tensor, initializer: Initializer) -> bool:
    """Whether a fill in this context becomes fastinit's operator in a graph.

    Raises the initializer's errors for the tensor's shape and dtype.
    """
    if not is_recorded() or kind in (FOREIGN, DISTRIBUTED) or tensor.dtype not in DTYPES:
        return False
    shape = shape_of(tensor)
    if all(isinstance(size, int) for size in shape):  # without symbols
        if 0 in shape:
            return False
        initializer.check(shape, DTYPES[tensor.dtype])
    return True


def _fits_a_graph(kind: Kind, tensor: Tensor, initializer: Initializer) -> bool:
    try:
        return is_recordable(kind, tensor, initializer)
    except REFUSALS:
        return False


@implement
def _executed(tensor: Tensor, initializer: Initializer, key: Key | None) -> None:
    if tensor.numel():
        write(kind_of(tensor), tensor, initializer, drawn_key(tensor) if key is None else key)


_WHOLE: Final = "a graph (make_fx, torch.export, torch.jit.trace) can hold fills of whole tensors only"


def write(
    kind: Kind,
    tensor: Tensor,
    initializer: Initializer,
    key: Key,
    shard: Shard | None = None,
    num_threads: int | None = None,
) -> Tensor:
    """Fills a tensor whose kind comes from :func:`kind_of`.

    `shard` is the tensor's position in a larger tensor, if any. For a DTensor it is the position of the global tensor.
    Raises the errors of :func:`fill_`.
    """
    if is_recorded() and kind is not FOREIGN:
        if shard is None and is_recordable(kind, tensor, initializer):
            return record(tensor, initializer, key)
        if tensor.numel():
            raise ValueError(_WHOLE)
    if kind is PLAIN:
        if shard is None and isinstance(initializer, ElementwiseInitializer) and tensor.is_contiguous():
            sampling = plan(initializer, tensor.shape, DTYPES[tensor.dtype])
            threads = None if num_threads is None else at_least(1, "num_threads", num_threads)
            return _fill_at_once(tensor, tensor.numel(), sampling, key.words, threads)
        fill_buffer(memory_of(tensor), initializer, key, shard, num_threads=num_threads)
    elif kind is DISTRIBUTED:
        local, part = local_part(tensor, shard)
        if part is None or local.is_meta:  # this rank is not in the mesh
            return tensor
        write(kind_of(local), local, initializer, key, part, num_threads)
    elif kind is DEVICE:
        if not fill_on_device(tensor, FORMATS[DTYPES[tensor.dtype]], initializer, key, shard):
            host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            write(PLAIN, host, initializer, key, shard, num_threads)
            with torch.no_grad():
                return tensor.copy_(host)
    elif kind is UNREAL:
        return tensor
    elif not isinstance(tensor, Tensor):
        raise not_a_tensor(tensor)
    else:
        raise TypeError(
            f"fastinit fills strided tensors of {', '.join(map(str, DTYPES))}; got a {type(tensor).__name__} of "
            f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        )
    return _written(tensor)


def check_new_rows(kind: Kind, tensor: Tensor, rows: NewRows, shard: Shard | None = None) -> None:
    """Raises the errors of :func:`write_rows` about values, before anything is written."""
    if kind is DISTRIBUTED:
        tensor, shard = local_part(tensor, shard)
        if shard is None:  # this rank is not in the mesh
            return
    if rows.reads_rows:
        check_rows(memory_of(tensor.detach().cpu()), rows, shard)


def write_rows(
    kind: Kind, tensor: Tensor, rows: NewRows, key: Key, shard: Shard | None = None, num_threads: int | None = None
) -> Tensor:
    """Fills the new rows of a tensor whose kind comes from :func:`kind_of`. The old rows keep every bit."""
    if kind is DISTRIBUTED:
        local, part = local_part(tensor, shard)
        if part is not None:
            write_rows(kind_of(local), local, rows, key, part, num_threads)
    elif kind is DEVICE:
        host = tensor.detach().cpu()
        fill_rows_of(memory_of(host), rows, key, shard, num_threads=num_threads)
        with torch.no_grad():
            return tensor.copy_(host)
    else:
        fill_rows_of(memory_of(tensor), rows, key, shard, num_threads=num_threads)
    return _written(tensor)


def _fill_at_once(
    tensor: Tensor, size: int, sampling: Any, words: tuple[int, int, int, int], num_threads: int | None = None
) -> Tensor:
    """The fast path for small tensors in contiguous memory, without further checks."""
    address = tensor.data_ptr()
    if size and not address:
        address = _address(tensor, size)  # which raises
    fill_memory(address, size, tensor.itemsize, sampling, words, num_threads)
    if not tensor.is_inference():
        increment_version((tensor,))
    return tensor


def memory_of(tensor: Tensor) -> Buffer:
    """The memory of a plain tensor. Raises ValueError for freed memory."""
    strides = tuple(stride * tensor.itemsize for stride in tensor.stride())
    return Buffer(_address(tensor, tensor.numel()), tuple(tensor.shape), strides, FORMATS[DTYPES[tensor.dtype]])


def _address(tensor: Tensor, size: int) -> int:
    address = tensor.data_ptr()
    if size and not address:
        raise ValueError(f"the tensor of shape {tuple(tensor.shape)} has no memory: its storage was freed")
    return address


def _written(tensor: Tensor) -> Tensor:
    if not tensor.is_inference():
        increment_version((tensor,))
    return tensor


def fill_part(
    tensor: Tensor, initializer: Initializer, key: Key, shard: Shard | None = None, num_threads: int | None = None
) -> Tensor:
    """:func:`fill_` for the adapter, with the shard as one argument and a checked key."""
    return write(kind_of(tensor), tensor, initializer, key, shard, num_threads)


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
    """Fills a tensor in place with an initializer's values, as :func:`fastinit.fill` does for arrays.

    Autograd does not record the fill, and the tensor's version counter increases by one.

    Parameters
    ----------
    tensor : torch.Tensor
        Tensor of any layout without overlapping elements, of dtype float32, float64, float16, bfloat16, float8_e4m3fn
        or float8_e5m2. For a DTensor, the local part is filled, without communication. A CUDA tensor is filled on its
        device if Numba can run kernels there; tensors on other devices are filled on the host and copied. Meta and fake
        tensors have no memory and stay unchanged.
    initializer, key
        The distribution and the stream.
    global_shape, offsets, ranges, start : optional
        Position of this tensor in a larger one, see :func:`fastinit.fill`. A DTensor has its own.
    num_threads : int, optional
        Maximum number of threads.

    Returns
    -------
    torch.Tensor
        The same tensor.

    Raises
    ------
    TypeError
        If the tensor has another dtype, layout or class.
    ValueError, BufferError
        As in :func:`fastinit.fill`, before anything is written. Also ValueError for a shard or a DTensor while make_fx,
        torch.export or torch.jit.trace records a graph.

    Examples
    --------
    >>> import fastinit, torch
    >>> from fastinit.adapters.torch import fill_
    >>> key, he = fastinit.Key(0).fold_in("up.weight"), fastinit.he_normal(layout="OI")
    >>> whole = fill_(torch.empty(1024, 256), he, key)
    >>> mine = fill_(torch.empty(128, 256), he, key, global_shape=(1024, 256), offsets=(384, 0))
    >>> torch.equal(mine, whole[384:512])
    True
    """
    if not isinstance(key, Key):
        checked_key(key)  # which raises
    checked_initializer(initializer)
    kind, shard = kind_of(tensor), None
    whole = global_shape is None and offsets is None and ranges is None and start is None
    if not whole and kind is DISTRIBUTED:
        raise ValueError(
            "a DTensor knows its global shape and which part it holds; got global_shape, offsets, ranges or start"
        )
    if not whole and is_recorded():
        raise ValueError(_WHOLE)
    if not whole and kind is not UNREAL:
        shard = Shard.of(tuple(tensor.shape), global_shape, offsets, ranges, start)
    return write(kind, tensor, initializer, key, shard, num_threads)
