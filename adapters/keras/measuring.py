"""Measurement of models on every backend: one run with stand-ins for the layers' calls. The model stays unchanged.

A stand-in sees the input and output of its layer, so every architecture works. All runs are in a stateless scope.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from fastinit import Parameter
from fastinit.adapters.keras.internals import (
    inner_layers,
    is_watched,
    layers_of,
    own_variables,
    replaced,
)
from fastinit.adapters.keras.layers import Place
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

__all__ = ["array_of", "calls", "check_batch", "hooked", "is_floating", "left_as_it_was", "run"]


def is_floating(tensor: Any) -> bool:
    """Whether a value is a tensor or variable of floating-point numbers."""
    return "float" in keras.backend.standardize_dtype(tensor.dtype)


def array_of(tensor: Any) -> np.ndarray:
    """The values, in a NumPy dtype that holds them exactly."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    wide = tensor if dtype in ("float16", "float32", "float64") else keras.ops.cast(tensor, "float32")
    return np.asarray(keras.ops.convert_to_numpy(wide))


def check_batch(batch: Any) -> None:
    """Raises ValueError if a batch is not finite."""
    check_finite(
        np.asarray(keras.ops.convert_to_numpy(tensor) if keras.ops.is_tensor(tensor) else tensor)
        for tensor in keras.tree.flatten(batch)
    )


# Running layers


def hooked(model: Any) -> Iterator[Any]:
    """Layers without inner layers, or with their own variables. A recurrent layer stands for its cell."""
    recurrent = [layer for layer in layers_of(model) if isinstance(layer, layers.RNN)]
    cells = {id(inner) for layer in recurrent for inner in inner_layers(layer)}
    for layer in layers_of(model):
        own = own_variables(layer) or isinstance(layer, layers.RNN) or not list(inner_layers(layer, direct=True))
        if own and id(layer) not in cells and not isinstance(layer, layers.InputLayer):
            yield layer


def run(model: Any, batch: Any, stand_ins: dict[Any, Callable[..., Any]]) -> Any:
    """The output of a model while other functions replace its layers' calls. Updates go into the current scope."""
    with ExitStack() as stack:
        for layer, call in stand_ins.items():
            stack.enter_context(replaced(layer, "call", call))
        with called(model.name):
            return model(batch, training=True)


@contextmanager
def left_as_it_was() -> Iterator[Any]:
    """A scope that captures every update of a variable and restores torch's generator, which dropout uses."""
    with ExitStack() as stack:
        if keras.config.backend() == "torch":
            import torch

            stack.enter_context(torch.random.fork_rng())
            torch.manual_seed(AUDIT_KEY.words[0])
        yield stack.enter_context(keras.StatelessScope(collect_losses=True))


class _Call(NamedTuple):
    """One call of a layer: the first floating tensor of its input, or None, and that of its output."""

    layer: Any
    given: Any
    tensor: Any
    starts: bool = False


See = Callable[[_Call], Any]


def _floating(structure: Any) -> list[Any]:
    return [one for one in keras.tree.flatten(structure) if keras.ops.is_tensor(one) and is_floating(one)]


def _passed(model: Any, batch: Any, see: See) -> Any:
    """The output of a model. `see` receives each call and returns the tensor that replaces the layer's output."""

    def stand_in(layer: Any) -> Callable[..., Any]:
        call = layer.call

        def seen(*given: Any, **named: Any) -> Any:
            output, inputs = call(*given, **named), _floating((given, named))
            first = inputs[0] if inputs else None
            return _changed(output, lambda tensor: _seen(_Call(layer, first, tensor), see))

        return seen

    with left_as_it_was():
        return run(model, batch, {layer: stand_in(layer) for layer in hooked(model)})


def _seen(call: _Call, see: See) -> Any:
    identity = call.given is call.tensor and not own_variables(call.layer)  # does not count as a layer
    return call.tensor if identity or 0 in call.tensor.shape else see(call)


def _changed(output: Any, change: Callable[[Any], Any]) -> Any:
    """An output with another first floating tensor."""
    flat = keras.tree.flatten(output)
    for number, tensor in enumerate(flat):
        if keras.ops.is_tensor(tensor) and is_floating(tensor):
            flat[number] = change(tensor)
            return keras.tree.pack_sequence_as(output, flat)
    return output


# Measurements


def calls(model: Any, places: Sequence[Place], batch: Any) -> tuple[list[Measured], float | None]:
    """Measures every call of a layer forward and backward, in order, and the response of the model's output."""
    differentiate = {"tensorflow": _by_tensorflow, "jax": _by_jax, "torch": _by_torch}.get(keras.config.backend())
    if differentiate is None:
        raise ValueError(f"layers are measured on TensorFlow, JAX and torch, not on {keras.config.backend()!r}")
    weights = {id(layer): _weight(layer, {id(place.variable): place for place in places}) for layer in hooked(model)}
    ran, gradients, response = differentiate(model, batch, weights)
    found = (_one(call, weights[id(call.layer)], gradient) for call, gradient in zip(ran, gradients, strict=True))
    return numbered(found), response


def _weight(layer: Any, by_variable: dict[int, Place]) -> Place | None:
    """The first linear map of a layer, or of a recurrent layer's cell."""
    holder = layer.cell if isinstance(layer, layers.RNN) else layer
    found = (by_variable.get(id(variable)) for variable in own_variables(holder))
    return next((place for place in found if place is not None and is_linear_map(place.parameter)), None)


def _one(call: _Call, place: Place | None, gradient: Any) -> Measured:
    layer, values = call.layer, _by_unit(call.layer, call.tensor)
    own, others = own_variables(layer), list(inner_layers(layer, direct=True))
    received = None if call.given is None else float(array_of(call.given).astype(np.float64).var())
    norm = "Normalization" in type(layer).__name__
    norm = norm or (place is None and bool(own) and not others and is_normed(values))
    weight: Parameter | None = None
    if place is not None:
        weight, closed = place.parameter, _is_zero(place)
    else:
        trained = (array_of(variable.value) for variable in own if variable.trainable)
        closed = is_closed(trained, received, float(values.var()), norm=norm, holds_others=bool(others))
    facts: dict[str, Any] = {"closed": closed, "norm": norm, "received": received}
    facts["starts"] = bool(own) and (call.given is None or call.starts)
    found = measured(layer.path or layer.name, values, weight=weight, **facts)  # a layer without variables has no path
    return found if gradient is None else differentiated(found, values, _by_unit(layer, gradient))


def _is_zero(place: Place) -> bool:
    return not array_of(place.variable.value).any()


def _by_unit(layer: Any, tensor: Any) -> np.ndarray:
    """Values of shape (values per unit, units). Units are the channels."""
    array = array_of(tensor).astype(np.float64)
    if array.ndim == 0:
        return array.reshape(1, 1)
    if array.ndim > 2 and getattr(layer, "data_format", "") == "channels_first":
        array = np.moveaxis(array, 1, -1)
    return array.reshape(-1, array.shape[-1])


# Gradients

Weights = dict[int, Place | None]
Ran = tuple[list[_Call], list[Any], float | None]


def _closing(ran: Sequence[_Call], weights: Weights) -> list[int]:
    """The numbers of calls of final maps that begin at zero, which would block all gradients."""
    found: list[int] = []
    for number, call in enumerate(ran):
        place = weights[id(call.layer)]
        if place is not None:
            found = [*found, number] if call.given is not None and _is_zero(place) else []
    return found


def _factors(tensors: Sequence[Any]) -> tuple[list[np.ndarray], float | None]:
    """The factors of the tensors in the sum, and the response of the sum; None without tensors."""
    factors = [noise(tuple(tensor.shape), number) for number, tensor in enumerate(tensors)]
    if not factors:
        return [], None
    products = (array_of(tensor).astype(np.float64) * one for tensor, one in zip(tensors, factors, strict=True))
    own, response = shares(float(np.square(product).sum()) for product in products)
    return [np.float32(share) * one for share, one in zip(own, factors, strict=True)], response


def _sum(tensors: Sequence[Any], factors: Sequence[np.ndarray]) -> Any:
    total = 0.0
    for tensor, factor in zip(tensors, factors, strict=True):
        total = total + keras.ops.sum(keras.ops.cast(tensor, "float32") * keras.ops.convert_to_tensor(factor))
    return total


def _by_tensorflow(model: Any, batch: Any, weights: Weights) -> Ran:
    import tensorflow as tf

    ran: list[_Call] = []
    with tf.GradientTape(watch_accessed_variables=False) as tape:

        def see(call: _Call) -> Any:
            if hasattr(call.tensor, "numpy"):  # not a symbol of a traced function
                ran.append(call._replace(starts=call.given is not None and not is_watched(call.given)))
                tape.watch(call.tensor)
            return call.tensor

        output = _passed(model, batch, see)
        tensors = [*_floating(output), *(ran[number].given for number in _closing(ran, weights))]
        factors, response = _factors(tensors)
        objective = _sum(tensors, factors)
    return ran, tape.gradient(objective, [call.tensor for call in ran]) if tensors else [None] * len(ran), response


def _by_torch(model: Any, batch: Any, weights: Weights) -> Ran:
    import torch

    ran: list[_Call] = []

    def see(call: _Call) -> Any:
        tensor = call.tensor if call.tensor.requires_grad else call.tensor.detach().requires_grad_()
        ran.append(call._replace(tensor=tensor, starts=call.given is not None and not call.given.requires_grad))
        return tensor

    with torch.enable_grad():
        output = _passed(model, batch, see)
        tensors = [*_floating(output), *(ran[number].given for number in _closing(ran, weights))]
        tensors = [tensor for tensor in tensors if tensor.requires_grad]
        factors, response = _factors([tensor.detach() for tensor in tensors])
        objective = _sum(tensors, factors)
    seen = [call.tensor for call in ran]
    gradients = torch.autograd.grad(objective, seen, allow_unused=True) if tensors else [None] * len(seen)
    ran = [
        call._replace(given=None if call.given is None else call.given.detach(), tensor=call.tensor.detach())
        for call in ran
    ]
    return ran, list(gradients), response


def _by_jax(model: Any, batch: Any, weights: Weights) -> Ran:
    import jax

    from fastinit.adapters.jax.internals import is_traced

    ran: list[_Call] = []
    concrete: list[bool] = []

    def see(call: _Call) -> Any:
        concrete.append(not is_traced(call.tensor))
        if concrete[-1]:
            ran.append(call)
        return call.tensor

    output = _passed(model, batch, see)
    closing = _closing(ran, weights)
    factors, response = _factors([*_floating(output), *(ran[number].given for number in closing)])
    starts: list[bool] = []

    def objective(shifts: list[Any]) -> Any:
        known = iter(concrete)
        starts.clear()
        inputs: list[Any] = []

        def shifted(call: _Call) -> Any:
            if not next(known):
                return call.tensor
            number = len(starts)
            starts.append(call.given is not None and not is_traced(call.given))
            if number in closing:
                inputs.append(call.given)
            # the derivative with respect to an addend of an output equals that with respect to the output
            return call.tensor + shifts[number]

        return _sum([*_floating(_passed(model, batch, shifted)), *inputs], factors)

    if not factors:
        return ran, [None] * len(ran), response
    gradients = jax.grad(objective)([keras.ops.zeros_like(call.tensor) for call in ran])
    return [call._replace(starts=own) for call, own in zip(ran, starts, strict=True)], gradients, response
