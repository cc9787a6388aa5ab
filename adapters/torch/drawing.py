"""Who fills a tensor: fastinit what is plain and usual, torch everything else.

torch's own function then raises its own error, or does the right thing with its own numbers, which is said once.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from types import FrameType, NoneType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from fastinit import Initializer, Key
from fastinit.adapters.torch.devices import fills_on_device
from fastinit.adapters.torch.tensors import DTYPES, draw_, drawn_key, fill_, is_distributed, is_plain

__all__ = ["caller", "factory", "filled", "given_key", "is_fake", "placed", "plain_number", "torch_init", "untraced"]

if TYPE_CHECKING:
    from torch.nn import init as torch_init
else:  # as it was when this was imported: whoever puts fastinit's functions in their place still finds torch's here
    torch_init = SimpleNamespace(**vars(torch.nn.init))

Made = Initializer | str
"""An initializer, or why fastinit has none for the parameters; "" where there is no need to say so."""

REFUSALS: Final = (TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError)


Function = TypeVar("Function", bound=Callable[..., Any])


def untraced(function: Function) -> Function:
    """Keeps torch.compile out of a function: a graph breaks at its call, and it runs as it is written.

    As ``torch.compiler.disable``, which would wrap the function, and import the compiler.
    """
    with suppress(AttributeError):
        frames = torch._C._dynamo.eval_frame
        skip = frames._FrameAction.SKIP
        frames.set_code_exec_strategy(function.__code__, frames._FrameExecStrategy(skip, skip))
        function._torchdynamo_disable = True  # type: ignore[attr-defined]
        function._torchdynamo_disable_msg = "fastinit writes to memory"  # type: ignore[attr-defined]
    return function


def plain_number(value: Any) -> Any:
    """A number in the guise of a tensor or of a NumPy scalar as one of Python's; anything else as it is."""
    return value.item() if isinstance(value, (Tensor, np.generic)) else value


def factory(make: Callable[..., Made], number: Callable[[Any], Any] = plain_number) -> Callable[..., Made]:
    """A function that makes an initializer of torch's parameters; remembered, since small fills take less time.

    What `make` raises becomes the reason why there is none. `number` reads parameters that are no plain values.
    """

    @lru_cache(maxsize=4096, typed=True)  # True is 1, and not for torch
    def remembered(*parameters: Any) -> Made:
        if not all(isinstance(parameter, (int, float, str, NoneType)) for parameter in parameters):
            raise TypeError  # a tensor is found by its identity, and may have another value then
        try:
            return make(*parameters)
        except REFUSALS as error:
            return str(error)

    def made(*parameters: Any) -> Made:
        try:
            return remembered(*parameters)
        except TypeError:
            pass
        try:
            return make(*map(number, parameters))
        except REFUSALS as error:
            return str(error)

    return made


def given_key(key: Key | int, generator: torch.Generator | None = None) -> Key:
    """The key that a caller gives.

    Raises
    ------
    TypeError
        If it is neither a Key nor an int, or a generator comes with it.
    """
    if generator is not None:
        raise TypeError("the numbers come from a key or from a generator, got both")
    if isinstance(key, Key):
        return key
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return Key(key)
    raise TypeError(f"key must be a fastinit.Key or an int, not {type(key).__name__} ({key!r})")


def filled(
    tensor: Tensor,
    initializer: Made,
    key: Key | int | None,
    generator: torch.Generator | None,
    original: Callable[..., Tensor],
    *arguments: Any,
) -> Tensor:
    """A tensor filled in place by an initializer, or by ``original(tensor, *arguments, generator=)``."""
    why = None
    if isinstance(initializer, str):
        why = initializer
    elif is_plain(tensor) and tensor.numel():
        given = None if key is None else given_key(key, generator)
        try:
            return draw_(tensor, initializer, generator) if given is None else fill_(tensor, initializer, given)
        except (BufferError, *REFUSALS) as error:  # elements that overlap, values beyond the dtype, a strange generator
            why = str(error)
    return _otherwise(tensor, initializer, key, generator, original, arguments, why)


def _otherwise(
    tensor: Tensor,
    initializer: Made,
    key: Key | int | None,
    generator: torch.Generator | None,
    original: Callable[..., Tensor],
    arguments: tuple[Any, ...],
    why: str | None,
) -> Tensor:
    given = None if key is None else given_key(key, generator)
    if not isinstance(tensor, Tensor):
        return original(tensor, *arguments, generator=generator)
    if why is None and not isinstance(initializer, str):
        if is_distributed(tensor):
            unused = _NO_KEY if tensor.is_meta else None
            return fill_(tensor, initializer, given or unused or drawn_key(tensor, generator))
        if _is_on_a_device(tensor):
            if not fills_on_device(tensor):
                _say_once(tensor.device.type, f"tensors on {tensor.device.type} are filled on the host and copied")
            try:
                return fill_(tensor, initializer, given or drawn_key(tensor, generator))
            except ValueError as error:
                why = str(error)
    unreal = tensor.is_meta or is_fake(tensor)
    if given is not None and not unreal:
        generator = _seeded(given, tensor.device)
    result = original(tensor, *arguments, generator=generator)
    if why != "" and not unreal and tensor.numel():
        _say_torchs(tensor, original, why)
    return result


def placed(tensor: Tensor, initializer: Made, original: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """:func:`filled` by an initializer that draws nothing."""
    if is_fake(tensor):
        original(torch.empty_like(tensor, device="meta"), *arguments)  # or it raises
        return tensor
    if not isinstance(initializer, str) and (is_distributed(tensor) or (is_plain(tensor) and tensor.numel())):
        try:
            return fill_(tensor, initializer, _NO_KEY)
        except (ValueError, BufferError):
            pass
    return original(tensor, *arguments)


_NO_KEY: Final = Key(0)


def is_fake(tensor: Tensor) -> bool:
    """Whether a tensor is a FakeTensor."""
    return hasattr(tensor, "fake_mode")


def _is_on_a_device(tensor: Tensor) -> bool:
    """Whether a tensor would be plain but for its device."""
    usual = not tensor.is_cpu and not tensor.is_meta and tensor.layout is torch.strided and tensor.dtype in DTYPES
    # nothing else about it may be unusual, and if it were it would pass that on
    return usual and type(tensor) in (Tensor, torch.nn.Parameter) and is_plain(tensor.new_empty(0, device="cpu"))


def _seeded(key: Key, device: torch.device) -> torch.Generator:
    """A generator of torch that follows from a key."""
    low, high, *_ = key.fold_in("torch.Generator").words
    return torch.Generator(device).manual_seed(low | high << 32)


_said: Final[set[object]] = set()


def _say_torchs(tensor: Tensor, original: Callable[..., Tensor], why: str | None) -> None:
    """Warns that the numbers are torch's own: of parameters once per function, of tensors once per kind."""
    if why is not None:
        _say_once(original, f"these are torch's own numbers, since fastinit has none: {why}")
        return
    if tensor.dtype not in DTYPES:
        kind = f"tensors of {tensor.dtype}"
    elif type(tensor) not in (Tensor, torch.nn.Parameter):
        kind = f"tensors of class {type(tensor).__qualname__}"
    elif tensor.layout is not torch.strided:
        kind = f"tensors of layout {tensor.layout}"
    else:
        kind = "tensors under a mode or a function transform, or with a negative bit"
    _say_once(kind, f"torch's own numbers fill {kind}")


def _say_once(reason: object, message: str) -> None:
    if reason not in _said:
        _said.add(reason)
        warnings.warn(f"fastinit: {message} (said once)", stacklevel=caller())


def caller() -> int:
    """The stacklevel, for the function that asks, of the first frame outside this adapter and torch.nn.init."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _is_inside(frame):
        level, frame = level + 1, frame.f_back
    return level


def _is_inside(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__"))
    return name == "torch.nn.init" or name.startswith("fastinit.adapters.torch.")
