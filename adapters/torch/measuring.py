"""Measurement of models: one run with hooks on the layers, which leaves the model unchanged."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastinit import Parameter, canonical_name
from fastinit.adapters.torch.internals import is_convolution, own_buffers, own_modules, own_parameters, uncompiled
from fastinit.adapters.torch.layers import NORMS, Place
from fastinit.adapters.torch.tensors import Kind, kind_of
from fastinit.extending import (
    AUDIT_KEY,
    Measured,
    called,
    check_finite,
    differentiated,
    is_closed,
    is_linear_map,
    is_normed,
    measured,
    noise,
    numbered,
    shares,
)

__all__ = ["arguments_of", "array_of", "calls", "left_as_it_was", "run"]


def arguments_of(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments for a model's call.

    Raises ValueError if they are not finite.
    """
    arguments: tuple[tuple[Any, ...], dict[str, Any]] = (batch,), {}
    if isinstance(batch, (tuple, list)):
        arguments = tuple(batch), {}
    elif isinstance(batch, Mapping):
        arguments = (), dict(batch)
    check_finite(map(array_of, _tensors(batch)))
    return arguments


def array_of(tensor: Tensor) -> np.ndarray:
    """The values of a floating tensor, in a NumPy dtype that holds them exactly."""
    tensor = tensor.detach()
    wide = tensor if tensor.dtype in (torch.float16, torch.float32, torch.float64) else tensor.float()
    array: np.ndarray = wide.numpy(force=True)
    return array


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


def calls(
    model: nn.Module,
    places: Sequence[Place],
    arguments: tuple[Any, ...],
    named: dict[str, Any],
    loss: Callable[[Any], Tensor] | None,
) -> tuple[list[Measured], float | None]:
    """Measures every call of a layer forward and backward, in order, and the response of the model's output."""
    weights = _weights(places)
    found: list[Measured] = []
    closing: list[Tensor] = []
    origins = _Origins()
    with ExitStack() as stack:
        trained = stack.enter_context(left_as_it_was(model, places))

        def measure(name: str, module: nn.Module) -> Callable[..., None]:
            def hook(module: nn.Module, given: Any, named: Any, output: Any) -> None:
                tensor = next(_tensors(output), None)
                if tensor is None or not tensor.numel():
                    return
                before = next(_tensors((given, named)), None)
                changed = getattr(module, "inplace", False)
                if before is tensor and not changed and not own_parameters(module):  # an identity is not a layer
                    return
                number = len(found)
                reads = origins.of(_tensors((given, named)))
                found.append(_forward(name, module, before, tensor, weights.get(id(module)), reads))
                origins.add(tensor, number, changed=before is tensor)
                if found[number].weight is not None:
                    closing[:] = [*closing, before] if found[number].closed and before is not None else []
                if tensor.requires_grad:
                    values = tensor.detach().clone()  # later layers may work in place

                    def see(gradient: Tensor) -> None:
                        arrays = _by_unit(module, values), _by_unit(module, gradient)
                        found[number] = differentiated(found[number], *arrays)

                    handle = tensor.register_hook(see)  # type: ignore[no-untyped-call]
                    stack.callback(handle.remove)

            return hook

        for name, module in _hooked(model):
            stack.callback(module.register_forward_hook(measure(name, module), with_kwargs=True).remove)
        output = run(model, arguments, named)
        # final maps that begin at zero would block all gradients
        objective, end = _objective((output, closing) if loss is None else closing)
        if loss is not None:
            objective, end = loss(output) if objective is None else loss(output) + objective, None
        if objective is not None and objective.requires_grad and trained:
            torch.autograd.grad(objective, trained, allow_unused=True)
    return numbered(found), end


class _Origins:
    """Traces which calls produced the inputs of other calls, through autograd's graph."""

    def __init__(self) -> None:
        self._calls: dict[Any, frozenset[int]] = {}  # the calls that produced a node

    def add(self, tensor: Tensor, number: int, changed: bool) -> None:
        """Notes that a call returned a tensor: its own, an inner call's, or its input, changed in place."""
        node = tensor.grad_fn
        if node is not None and (changed or node not in self._calls):
            self._calls[node] = frozenset([number])

    def of(self, tensors: Iterable[Tensor]) -> tuple[int, ...]:
        """The calls whose outputs reach the tensors without passing through another call, in order."""
        found = (self._of(tensor.grad_fn) for tensor in tensors if tensor.grad_fn is not None)
        return tuple(sorted(frozenset().union(*found)))

    def _of(self, last: Any) -> frozenset[int]:
        pending = [last]
        while pending:  # not recursive, because a loop over time creates thousands of nodes
            node = pending.pop()
            if node in self._calls:
                continue
            before = [one for one, _ in node.next_functions if one is not None]
            unknown = [one for one in before if one not in self._calls]
            if unknown:
                pending += [node, *unknown]
            else:
                self._calls[node] = frozenset().union(*(self._calls[one] for one in before))
        return self._calls[last]


def _weights(places: Iterable[Place]) -> dict[int, Parameter]:
    """The first linear map of each module with one."""
    found: dict[int, Parameter] = {}
    for place in places:
        if is_linear_map(place.parameter):
            for module, _ in place.owners:
                found.setdefault(id(module), place.parameter)
    return found


def _hooked(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module with its own parameters or without children, excluding the modules of parametrizations."""
    for name, module in model.named_modules():
        if "parametrizations" in name.split("."):
            continue
        inner = [child for key, child in own_modules(module).items() if key != "parametrizations"]
        if (
            any(one is not None for one in own_parameters(module).values())
            or not inner
            or parametrize.is_parametrized(module)
        ):
            yield canonical_name(name) if name else type(module).__name__, module


@contextmanager
def left_as_it_was(model: nn.Module, places: Iterable[Place]) -> Iterator[list[Tensor]]:
    """A context in which a model runs forward and backward. Yields the tensors to differentiate by."""
    tensors = {id(tensor): tensor for place in places for tensor in _leaves(place)}
    trained = [tensor for tensor in tensors.values() if tensor.is_leaf and tensor.is_floating_point()]
    frozen = [tensor for tensor in trained if not tensor.requires_grad]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.clone())
        for module in model.modules()
        for name, buffer in own_buffers(module).items()
    ]
    devices = sorted({tensor.device.index for tensor in trained if tensor.is_cuda})
    try:
        with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
            for generator in (torch.default_generator, *(torch.cuda.default_generators[one] for one in devices)):
                generator.manual_seed(AUDIT_KEY.words[0])
            for tensor in frozen:
                tensor.requires_grad_(True)
            yield trained
    finally:
        for tensor in frozen:
            tensor.requires_grad_(False)
        with torch.no_grad():
            for module, name, buffer, saved in buffers:
                own_buffers(module)[name] = buffer
                if buffer is not None and saved is not None and not torch.equal(buffer, saved):
                    buffer.copy_(saved)


def _leaves(place: Place) -> Iterator[Tensor]:
    yield from [place.tensor] if place.parametrizations is None else place.parametrizations.parameters(recurse=False)


def run(model: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The output of a model.

    Raises ValueError with the model's own error.
    """
    model = uncompiled(model)
    with called(type(model).__name__):
        return model(*arguments, **named)


def _objective(output: Any) -> tuple[Tensor | None, float | None]:
    """The sum of the output's tensors times noise, with equal shares for several tensors, and its response."""
    parts: list[tuple[Tensor, float]] = []
    for number, tensor in enumerate(_tensors(output)):
        if tensor.requires_grad:
            factors = torch.from_numpy(noise(tuple(tensor.shape), number)).to(tensor.device)
            part = tensor.float() * factors
            parts.append((part.sum(), float(part.detach().double().square().sum())))
    if not parts:
        return None, None
    given, response = shares(size for _, size in parts)
    shared = [part.cpu() * share for (part, _), share in zip(parts, given, strict=True)]
    return (parts[0][0] if len(parts) == 1 else torch.stack(shared).sum()), response


def _by_unit(module: nn.Module, tensor: Tensor) -> np.ndarray:
    """Values as float64 of shape (values per unit, units); units are an image's channels, otherwise the last axis."""
    tensor = tensor.detach()
    if kind_of(tensor) is Kind.DISTRIBUTED:
        tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    tensor = tensor.double()
    if not tensor.ndim:
        tensor = tensor.reshape(1, 1)
    spatial = len(getattr(module, "kernel_size", ())) if is_convolution(module) else 0
    axis = tensor.ndim - 1 - spatial
    array: np.ndarray = tensor.movedim(axis, -1).reshape(-1, tensor.shape[axis]).numpy(force=True)
    return array


def _forward(
    name: str,
    module: nn.Module,
    given: Tensor | None,
    tensor: Tensor,
    weight: Parameter | None,
    reads: tuple[int, ...],
) -> Measured:
    values = _by_unit(module, tensor)
    received = None if given is None or not given.numel() else float(given.detach().double().var(correction=0))
    norm = isinstance(module, NORMS) or (weight is None and _is_normed(module, values))
    if weight is not None:
        own = own_parameters(module).get(weight.role)
        closed = own is not None and own.numel() > 0 and not bool(own.detach().any())
    else:
        closed = _is_gate(module, received, float(tensor.detach().double().var(correction=0)), norm)
    held = any(one is not None for one in own_parameters(module).values())
    starts = held and (given is None or not given.requires_grad)
    facts: dict[str, Any] = {"norm": norm, "received": received, "starts": starts, "reads": reads}
    return measured(name, values, weight=weight, closed=closed, **facts)


def _is_normed(module: nn.Module, values: np.ndarray) -> bool:
    """Whether every row has the same root mean square, as after a custom norm."""
    own = [one for one in own_parameters(module).values() if one is not None]
    return bool(own) and not any(True for _ in module.children()) and is_normed(values)


def _is_gate(module: nn.Module, received: float | None, variance: float, norm: bool) -> bool:
    """Whether a module without its own linear map blocks almost all of a branch."""
    own = [one.detach() for one in own_parameters(module).values() if one is not None and one.requires_grad]
    if not own or received is None or not math.isfinite(received):
        return False
    if norm:
        return variance == 0 and (received > 0 or (isinstance(module, NORMS) and not own[0].any()))
    return is_closed(map(array_of, own), received, variance, holds_others=any(True for _ in module.children()))
