"""Models that run once, with hooks on their layers, and are left as they were."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastinit import Key, Normal, Parameter, canonical_name
from fastinit.adapters.torch.layers import Place
from fastinit.adapters.torch.tensors import fill_
from fastinit.extending import Measured, Unscalable, is_linear_map

__all__ = ["arguments_of", "left_as_it_was", "measured", "run"]

KEY: Final = Key("fastinit.audit")
# From so many values of a unit on, no gradient in any of them means that it is dead.
ENOUGH: Final = 8


def arguments_of(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a model is called with.

    Raises ValueError if it is not finite.
    """
    arguments: tuple[tuple[Any, ...], dict[str, Any]] = (batch,), {}
    if isinstance(batch, (tuple, list)):
        arguments = tuple(batch), {}
    elif isinstance(batch, Mapping):
        arguments = (), dict(batch)
    for tensor in _tensors(batch):
        if not tensor.isfinite().all():
            raise ValueError("the batch is not finite")
    return arguments


def _tensors(output: Any) -> Iterator[Tensor]:
    """The floating tensors of an output, in order."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        yield from (tensor for value in output.values() for tensor in _tensors(value))
    elif isinstance(output, (tuple, list)):
        yield from (tensor for value in output for tensor in _tensors(value))
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        yield from (tensor for field in dataclasses.fields(output) for tensor in _tensors(getattr(output, field.name)))


def measured(
    model: nn.Module,
    places: Sequence[Place],
    arguments: tuple[Any, ...],
    named: dict[str, Any],
    loss: Callable[[Any], Tensor] | None,
) -> list[Measured]:
    """Every call of a layer, in order, measured forward and backward."""
    weights = _weights(places)
    calls: list[Measured] = []
    with ExitStack() as stack:
        trained = stack.enter_context(left_as_it_was(model, places))

        def measure(name: str, module: nn.Module) -> Callable[..., None]:
            def hook(module: nn.Module, _: Any, output: Any) -> None:
                tensor = next(_tensors(output), None)
                if tensor is None or not tensor.numel():
                    return
                number = len(calls)
                calls.append(_forward(name, module, tensor, weights.get(id(module))))
                if tensor.requires_grad:
                    values = tensor.detach()
                    handle = tensor.register_hook(  # type: ignore[no-untyped-call]
                        lambda gradient: calls.__setitem__(number, _backward(calls[number], module, values, gradient))
                    )
                    stack.callback(handle.remove)

            return hook

        for name, module in _hooked(model):
            stack.callback(module.register_forward_hook(measure(name, module)).remove)
        output = run(model, arguments, named)
        objective = _objective(output) if loss is None else loss(output)
        if objective is not None and objective.requires_grad and trained:
            torch.autograd.grad(objective, trained, allow_unused=True)
    return _numbered(calls)


def _weights(places: Iterable[Place]) -> dict[int, Parameter]:
    """The first linear map of each module that has one."""
    found: dict[int, Parameter] = {}
    for place in places:
        if is_linear_map(place.parameter):
            for module, _ in place.owners:
                found.setdefault(id(module), place.parameter)
    return found


def _hooked(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module that holds parameters itself or no other modules, without what parametrizations add."""
    for name, module in model.named_modules():
        if "parametrizations" in name.split("."):
            continue
        inner = [child for key, child in module._modules.items() if key != "parametrizations"]
        if (
            any(one is not None for one in module._parameters.values())
            or not inner
            or parametrize.is_parametrized(module)
        ):
            yield canonical_name(name) if name else type(module).__name__, module


@contextmanager
def left_as_it_was(model: nn.Module, places: Iterable[Place]) -> Iterator[list[Tensor]]:
    """Where a model may run forward and backward; gives the tensors to differentiate by."""
    tensors = {id(tensor): tensor for place in places for tensor in _leaves(place)}
    trained = [tensor for tensor in tensors.values() if tensor.is_leaf and tensor.is_floating_point()]
    frozen = [tensor for tensor in trained if not tensor.requires_grad]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    devices = sorted({tensor.device.index for tensor in trained if tensor.is_cuda})
    try:
        with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
            for generator in (torch.default_generator, *(torch.cuda.default_generators[one] for one in devices)):
                generator.manual_seed(KEY.words[0])
            for tensor in frozen:
                tensor.requires_grad_(True)
            yield trained
    finally:
        for tensor in frozen:
            tensor.requires_grad_(False)
        with torch.no_grad():
            for module, name, buffer, saved in buffers:
                module._buffers[name] = buffer
                if buffer is not None and saved is not None and not torch.equal(buffer, saved):
                    buffer.copy_(saved)


def _leaves(place: Place) -> Iterator[Tensor]:
    yield from [place.tensor] if place.parametrizations is None else place.parametrizations.parameters(recurse=False)


def run(model: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The output of a model.

    Raises ValueError that names what the model raised.
    """
    model = getattr(model, "_orig_mod", model)  # compiled code calls no hooks
    try:
        return model(*arguments, **named)
    except Unscalable:
        raise
    except Exception as problem:
        raise ValueError(
            f"the batch does not fit {type(model).__name__}, which raised {type(problem).__name__}: {problem}"
        ) from problem


def _objective(output: Any) -> Tensor | None:
    """The sum of the output's tensors times noise."""
    total: Tensor | None = None
    for number, tensor in enumerate(_tensors(output)):
        if tensor.requires_grad:
            noise = torch.empty(tensor.shape, dtype=torch.float32, device=tensor.device)
            fill_(noise, Normal(), KEY.fold_in(number))
            part = (tensor.float() * noise).sum()
            total = part if total is None else total + part
    return total


def _by_unit(module: nn.Module, tensor: Tensor) -> Tensor:
    """Values of shape (values of a unit, units): units are channels of images, and else the last axis."""
    tensor = tensor.detach().double()
    if not tensor.ndim:
        return tensor.reshape(1, 1)
    spatial = len(getattr(module, "kernel_size", ())) if isinstance(module, nn.modules.conv._ConvNd) else 0
    axis = tensor.ndim - 1 - spatial
    return tensor.movedim(axis, -1).reshape(-1, tensor.shape[axis])


def _forward(name: str, module: nn.Module, tensor: Tensor, weight: Parameter | None) -> Measured:
    values = _by_unit(module, tensor)
    variance = values.var(correction=0).item()
    same = values.shape[1] > 1 and variance > 0 and bool((values == values[:, :1]).all())
    own = module._parameters.get("weight")
    closed = own is not None and own.numel() > 0 and not own.detach().any()
    norm = any("Norm" in cls.__name__ for cls in type(module).__mro__)
    return Measured(name, values.shape[1], variance, identical=same, closed=closed, weight=weight, norm=norm)


def _backward(found: Measured, module: nn.Module, values: Tensor, gradient: Tensor) -> Measured:
    gradients = _by_unit(module, gradient)
    dead = (gradients == 0).all(dim=0).double().mean().item() if len(gradients) >= ENOUGH else None
    response = (_by_unit(module, values) * gradients).square().sum().item()
    variance = gradients.var(correction=0).item()
    return dataclasses.replace(found, gradient_variance=variance, response=response, dead=dead)


def _numbered(calls: Sequence[Measured]) -> list[Measured]:
    """With different names for the calls of one layer after the first."""
    count: dict[str, int] = {}
    found = []
    for call in calls:
        count[call.name] = number = count.get(call.name, 0) + 1
        found.append(call if number == 1 else dataclasses.replace(call, name=f"{call.name}, call {number}"))
    return found
