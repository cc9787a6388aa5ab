"""Tensors as memory: the one place where values are written into them."""

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
"""fastinit's name of each torch dtype that it writes."""

_STRIDED: Final = torch.strided
_KNOWN: Final = frozenset({Tensor, torch.nn.Parameter})


class Kind(Enum):
    """What a tensor is to fastinit. It is asked once for each call (:func:`kind_of`), and passed on."""

    PLAIN = "strided numbers in memory of the host"
    DISTRIBUTED = "a DTensor, of which this process holds a part"
    DEVICE = "strided numbers in memory of a device"
    UNREAL = "a meta or fake tensor, without memory"
    FOREIGN = "anything else: another dtype, layout or class, a wrapped or lazily negated tensor"


PLAIN, DISTRIBUTED, DEVICE, UNREAL, FOREIGN = Kind


def kind_of(tensor: Tensor) -> Kind:
    """What a tensor is."""
    if type(tensor) not in _KNOWN:
        module = sys.modules.get("torch.distributed.tensor")  # without which there can be no DTensor
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
    """The kinds of tensors that are to be written, by name; tensors on the meta device are to get memory.

    Raises
    ------
    TypeError, ValueError
        Naming the first that fastinit cannot write: one of another class or layout, elements that overlap, memory that
        was freed, a DTensor of whose values no rank has any.
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
    """This rank's part of a DTensor, and what it holds; None if the rank is not in the mesh.

    `outer` says which part of a larger tensor the DTensor is, where it is one.
    """
    from fastinit.adapters.torch.shards import local_ranges

    ranges = local_ranges(tensor)  # type: ignore[arg-type]
    with torch.no_grad():
        local: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    if ranges is None:
        return local, None
    found = Shard(tuple(tensor.shape), ranges)
    return local, found if outer is None else found.within(outer)


# Keys that a generator gives


class _Scratch(threading.local):
    """A place to draw 64 bits into, for each thread, the two words that they are, and the shortcut that draws there."""

    def __init__(self) -> None:
        with torch.device("cpu"), torch.inference_mode(False):
            self.bits = torch.empty(1, dtype=torch.int64)
        low_word_first = self.bits.numpy().view(np.uint32)[:: 1 if sys.byteorder == "little" else -1]
        self.words = low_word_first.data
        self.shortcut = shortcut(
            kinds=(Tensor, torch.nn.Parameter),
            exchange=getattr(Tensor, "__dlpack_c_exchange_api__", None),  # of torch 2.10 and later
            watching=WATCHING,
            odd=(Tensor.is_neg, Tensor.is_inference),  # what a transform wraps has no memory
            odd_kind=(attrgetter("requires_grad"),),  # a Parameter is not computed, so that nothing is lost
            draw=self.bits.random_,
            draw_arguments=(-(2**63), None),
            drawn=self.bits.data_ptr(),
            written=increment_version,
        )


_scratch = _Scratch()


def shortcut_of_this_thread() -> Any:
    """What fills small tensors by the generator of the host in one call, see :func:`fastinit.extending.shortcut`."""
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
    """The key that a generator gives: 64 bits drawn once, by default from the generator of the tensor's device.

    ``torch.manual_seed`` thereby governs it. The bits are Philox's key, and the upper half of its counter is 0.

    Raises
    ------
    RuntimeError
        If the generator is of another device, as in torch.
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
    """A tensor filled in place by an initializer, or by ``original(tensor, *arguments, generator=)``.

    fastinit fills what is plain and usual, and torch all else. Where the initializer's parameters do not fit, nothing
    has been drawn from the generator.
    """
    if key is None and generator is None and _scratch.shortcut.fill(tensor, initializer):
        return tensor
    by_a_name = is_deferring() and key is None and generator is None  # or by what is given
    if by_a_name and not isinstance(initializer, str) and recorded_at_once(tensor, initializer):
        return tensor
    kind, given = kind_of(tensor), None if key is None else given_key(key, generator)
    if isinstance(initializer, str):
        return by_torch(tensor, given, generator, initializer, original, arguments)
    if kind is PLAIN:  # without another call: small tensors are many
        is_ours = not is_watched() and (size := tensor.numel()) > 0
    else:
        size, is_ours = 0, _is_ours(kind, tensor)
    if is_ours and type(tensor) is Tensor and tensor.requires_grad:  # a Parameter is not computed
        tell_if_lost(tensor)
    try:
        if not is_ours:
            if not is_recordable(kind, tensor, initializer):
                return by_torch(tensor, given, generator, None, original, arguments)
            if generator is not None and is_deferring():  # the tape takes what it gives for the author's numbers
                return by_torch(tensor, given, generator, "", original, arguments)
            if generator is not None:
                raise ValueError("a graph cannot hold a generator")
            return record(tensor, initializer, given)
        if size and given is None and isinstance(initializer, ElementwiseInitializer) and tensor.is_contiguous():
            sampling = plan(initializer, tensor.shape, DTYPES[tensor.dtype])
            _scratch.shortcut.learn(tensor, initializer, sampling)
            return _fill_at_once(tensor, size, sampling, _drawn_words(tensor, generator))
        if given is None and kind is not DISTRIBUTED:
            initializer.check(tuple(tensor.shape), DTYPES[tensor.dtype])  # or the generator stays as it is
        unused = _NO_KEY if tensor.is_meta else None  # a DTensor without memory draws nothing
        return write(kind, tensor, initializer, given or unused or drawn_key(tensor, generator))
    except (BufferError, *REFUSALS) as error:  # elements that overlap, values beyond the dtype, a strange generator
        if kind is DISTRIBUTED or (kind is DEVICE and not isinstance(error, ValueError)):
            raise
        return by_torch(tensor, given, generator, str(error), original, arguments)


def place(tensor: Tensor, initializer: Made, original: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """:func:`draw` by an initializer that draws nothing."""
    kind = kind_of(tensor)
    if not isinstance(initializer, str) and _fits_a_graph(kind, tensor, initializer):
        return record(tensor, initializer, _NO_KEY)
    if kind is UNREAL and is_fake(tensor) and not is_recorded():
        original(torch.empty_like(tensor, device="meta"), *arguments)  # or it raises
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
    """Whether fastinit fills tensors of a kind, here and now."""
    if kind is PLAIN:
        return tensor.numel() > 0 and not is_watched()
    if kind is DEVICE and not is_watched():
        if not fills_on_device(tensor):
            notices.say_once(tensor.device.type, f"tensors on {tensor.device.type} are filled on the host and copied")
        return True
    return kind is DISTRIBUTED


def not_a_tensor(value: object) -> TypeError:
    """The error for a value in a tensor's place."""
    return TypeError(f"expected a torch.Tensor, got {type(value).__name__} ({shown(value)})")


def is_recordable(kind: Kind, tensor: Tensor, initializer: Initializer) -> bool:
    """Whether a fill, here and now, is to become fastinit's operator in a graph.

    Raises what the initializer raises of the tensor's shape and dtype.
    """
    if not is_recorded() or kind in (FOREIGN, DISTRIBUTED) or tensor.dtype not in DTYPES:
        return False
    shape = shape_of(tensor)
    if all(isinstance(size, int) for size in shape):  # and no symbols
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
    """Fills a tensor of a kind that :func:`kind_of` told.

    `shard` says what it holds, unless it is whole; of a DTensor, which part of a larger tensor that is. Raises what
    :func:`fill_` raises.
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
    """Raises what :func:`write_rows` would raise of the values, before anything is written."""
    if kind is DISTRIBUTED:
        tensor, shard = local_part(tensor, shard)
        if shard is None:  # this rank is not in the mesh
            return
    if rows.reads_rows:
        check_rows(memory_of(tensor.detach().cpu()), rows, shard)


def write_rows(
    kind: Kind, tensor: Tensor, rows: NewRows, key: Key, shard: Shard | None = None, num_threads: int | None = None
) -> Tensor:
    """Fills the new rows of a tensor of a kind that :func:`kind_of` told; the old ones keep every bit."""
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
    """The shortest way, for small tensors: consecutive memory, of which nothing is left to check."""
    address = tensor.data_ptr()
    if size and not address:
        address = _address(tensor, size)  # which raises
    fill_memory(address, size, tensor.itemsize, sampling, words, num_threads)
    if not tensor.is_inference():
        increment_version((tensor,))
    return tensor


def memory_of(tensor: Tensor) -> Buffer:
    """The memory of a plain tensor. Raises ValueError if it was freed."""
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
    """:func:`fill_` for the adapter: what the tensor holds is one value, and the key has been checked."""
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
        As :func:`fastinit.fill`, before anything is written. ValueError, too, for a shard or a DTensor while make_fx,
        torch.export or torch.jit.trace makes a graph.

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
