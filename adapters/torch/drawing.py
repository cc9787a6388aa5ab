"""Fallback to torch: its own function fills the tensor, with one warning, or raises its own error.

Also the conversion of torch's parameters to initializers, and of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import NoneType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from fastinit import Initializer, Key
from fastinit.adapters.torch.internals import is_fake
from fastinit.adapters.torch.recording import is_recorded
from fastinit.extending import DTYPES, Notices, in_stream_environment, recalled

__all__ = ["REFUSALS", "Made", "by_torch", "drawing_from", "factory", "given_key", "notices", "plain_number"]

Made = Initializer | str
"""An initializer, or the reason why fastinit has none for the parameters; "" if no reason needs to be given."""

REFUSALS: Final = (TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError)


def plain_number(value: Any) -> Any:
    """Converts a tensor or NumPy scalar to a Python number. Returns other values unchanged."""
    return value.item() if isinstance(value, (Tensor, np.generic)) else value


def factory(make: Callable[..., Made], number: Callable[[Any], Any] = plain_number) -> Callable[..., Made]:
    """A cached function from torch's parameters to an initializer. The cache pays off for small fills.

    An error of `make` becomes the reason for a fallback. `number` reads parameters that are not plain values.
    """

    make = in_stream_environment(make)

    def made(*parameters: Any) -> Made:
        try:
            return make(*parameters)
        except REFUSALS as error:
            return str(error)

    def anew(*parameters: Any) -> Made:
        if all(isinstance(parameter, (int, float, str, NoneType)) for parameter in parameters):
            return made(*parameters)
        try:  # such as a tensor, which hashes by identity and may change its value
            return make(*map(number, parameters))
        except REFUSALS as error:
            return str(error)

    return recalled(made, anew)  # True equals 1, but torch treats them differently


def given_key(key: Key | int, generator: torch.Generator | None = None) -> Key:
    """The key from a caller's arguments.

    Raises
    ------
    TypeError
        If it is neither a Key nor an int, or if a generator is given too.
    """
    if generator is not None:
        raise TypeError("the numbers come from a key or from a generator, got both")
    return Key.of(key)


def by_torch(
    tensor: Tensor,
    key: Key | None,
    generator: torch.Generator | None,
    why: str | None,
    original: Callable[..., Tensor],
    arguments: tuple[Any, ...],
) -> Tensor:
    """Fills the tensor with ``original(tensor, *arguments, generator=)``, or raises its error.

    `why` is the reason for the fallback: "" means no warning, None means that the tensor is the reason.
    """
    if not isinstance(tensor, Tensor):
        return original(tensor, *arguments, generator=generator)
    unreal = tensor.is_meta or is_fake(tensor)
    seeded = generator if key is None or unreal else _seeded(key, tensor.device)
    result = original(tensor, *arguments, generator=seeded)
    if unreal and not is_recorded():
        return result
    if why != "" and tensor.numel():
        _say_torchs(tensor, original, why)
    return result


def _seeded(key: Key, device: torch.device) -> torch.Generator:
    """A torch generator seeded from a key."""
    low, high, *_ = key.fold_in("torch.Generator").words
    return torch.Generator(device).manual_seed(low | high << 32)


@contextmanager
def drawing_from(key: Key) -> Iterator[None]:
    """Inside, other code's draws on the CPU follow the key, such as those of a right inverse that completes a basis."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key.words[0] | key.words[1] << 32)
        yield


notices: Final = Notices("torch.nn.init")


def _say_torchs(tensor: Tensor, original: Callable[..., Tensor], why: str | None) -> None:
    """Warns that the numbers are torch's own: for parameters once per function, for tensors once per kind."""
    if why is not None:
        notices.say_once(original, f"these are torch's own numbers, since fastinit has none: {why}")
        return
    if str(tensor.dtype).removeprefix("torch.") not in DTYPES:
        kind = f"tensors of {tensor.dtype}"
    elif type(tensor) not in (Tensor, torch.nn.Parameter):
        kind = f"tensors of class {type(tensor).__qualname__}"
    elif tensor.layout is not torch.strided:
        kind = f"tensors of layout {tensor.layout}"
    else:
        kind = "tensors under a mode or a function transform, or with a negative bit"
    notices.say_once(kind, f"torch's own numbers fill {kind}")
