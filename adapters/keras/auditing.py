"""Is a model initialized as it should be, does the signal survive in it? :func:`audit`; and :func:`lsuv` mends it.

Layers are measured by standing in for their ``call`` while the model runs once, within a stateless scope, so that a
model may be of any architecture and its state is left as it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import keras
import numpy as np
from keras import layers

from fastinit import Audit, Parameter, Record, digest
from fastinit.adapters.keras.internals import (
    CONVOLUTION,
    DEPTHWISE,
    SEPARABLE,
    TRANSPOSED,
    inner_layers,
    layers_of,
    own_variables,
    replaced,
)
from fastinit.adapters.keras.layers import Place, parameters
from fastinit.adapters.keras.tensors import memory_of
from fastinit.extending import (
    AUDIT_KEY,
    Held,
    Measured,
    UnitVariance,
    called,
    check_finite,
    differentiated,
    in_stream_environment,
    is_linear_map,
    judge_chain,
    judge_parameters,
    measured,
    noise,
    numbered,
    read_record,
)

__all__ = ["audit", "lsuv"]

# Their outputs, before an activation, are their kernel times their input, and a bias.
SCALED: Final = {"Dense", "EinsumDense", CONVOLUTION, DEPTHWISE, SEPARABLE, TRANSPOSED}


def audit(model: Any, batch: Any = None, *, record: Record | str | os.PathLike[str] | None = None) -> Audit:
    """Looks for what is wrong with a model's initialization.

    Of the variables: NaN, values never written, constant or identical units, copies, and scales that no scheme
    gives, or one with wrong fans; see :mod:`fastinit.audits`. With a batch the model runs once, as it does in training,
    so that its norms use the batch; every layer is measured forward and backward, on every backend, and the verdict
    comes with the layer that breaks the chain and the rule that would mend it. Nothing of the model changes.

    Parameters
    ----------
    model : keras.Model or keras.Layer
        Built, by an Input, ``build()`` or a call. Functional, Sequential or subclassed.
    batch : array or tensor, or what the model takes in its place, optional
        The argument of a call: real inputs, or standard normal ones.
    record : Record, str or path, optional
        Of the model's initialization: then values are compared with its digests, and scales with its stds.

    Returns
    -------
    Audit

    Raises
    ------
    TypeError, ValueError
        Not a model, or one without variables; a batch with which it cannot be called, or that is not finite; a
        record that lacks a variable.

    Notes
    -----
    A layer is measured by the first floating tensor of its output, and that after its own activation
    (``Dense(activation="relu")``). Not measured are the cells of recurrent layers, which are measured as one layer, and
    layers that run inside a loop or a map of the backend. What is differentiated is the sum of the model's outputs
    times standard normal noise, the same every time. Of a layer that is shared every call is measured.

    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, name="one")], name="two")
    >>> _ = model.layers[0].kernel.assign(np.zeros((64, 64)))
    >>> [(finding.name, finding.kind) for finding in audit(model).findings]
    [('two/one/kernel', 'untouched')]
    """
    places = parameters(model)
    given = None if record is None else read_record(record)
    held = (_held(place, given is not None) for place in places if _is_floating(place.variable))
    if batch is not None:
        _check_batch(batch)
    if batch is None:
        findings, notes = judge_parameters(held, given)
        return Audit(findings, notes=notes)
    ran = _measured(model, places, batch)
    findings, notes = judge_parameters(held, given, ran)
    verdict, reason, more = judge_chain(ran)
    return Audit((*findings, *more), tuple(ran), verdict, reason, notes)


def _is_floating(tensor: Any) -> bool:
    return "float" in keras.backend.standardize_dtype(tensor.dtype)


def _array(tensor: Any) -> np.ndarray:
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    wide = tensor if dtype in ("float16", "float32", "float64") else keras.ops.cast(tensor, "float32")
    return np.asarray(keras.ops.convert_to_numpy(wide))


def _held(place: Place, digests: bool) -> Held:
    variable = place.variable
    dtype = keras.backend.standardize_dtype(variable.dtype)
    own = digest(memory_of(variable)) if digests else None
    return Held(place.parameter, _array(variable.value), dtype, trainable=variable.trainable, digest=own)


def _check_batch(batch: Any) -> None:
    check_finite(
        np.asarray(keras.ops.convert_to_numpy(tensor) if keras.ops.is_tensor(tensor) else tensor)
        for tensor in keras.tree.flatten(batch)
    )


# Layers that run


def _hooked(model: Any) -> Iterator[Any]:
    """Layers without layers in them, or with variables of their own; a recurrent layer in place of its cell."""
    recurrent = [layer for layer in layers_of(model) if isinstance(layer, layers.RNN)]
    cells = {id(inner) for layer in recurrent for inner in inner_layers(layer)}
    for layer in layers_of(model):
        own = own_variables(layer) or isinstance(layer, layers.RNN) or not list(inner_layers(layer, direct=True))
        if own and id(layer) not in cells and not isinstance(layer, layers.InputLayer):
            yield layer


def _run(model: Any, batch: Any, stand_ins: dict[Any, Callable[..., Any]]) -> Any:
    """The output of a model whose layers' calls are other functions meanwhile; updates go into the current scope."""
    with ExitStack() as stack:
        for layer, call in stand_ins.items():
            stack.enter_context(replaced(layer, "call", call))
        with called(model.name):
            return model(batch, training=True)


def _changed(output: Any, change: Callable[[Any], Any]) -> Any:
    """An output with another first floating tensor."""
    flat = keras.tree.flatten(output)
    for number, tensor in enumerate(flat):
        if keras.ops.is_tensor(tensor) and _is_floating(tensor):
            flat[number] = change(tensor)
            return keras.tree.pack_sequence_as(output, flat)
    return output


@contextmanager
def _left_as_it_was() -> Iterator[Any]:
    """A scope that takes every update of a variable; torch's generator, which dropout draws from, is put back."""
    with ExitStack() as stack:
        if keras.config.backend() == "torch":
            import torch

            stack.enter_context(torch.random.fork_rng())
            torch.manual_seed(AUDIT_KEY.words[0])
        yield stack.enter_context(keras.StatelessScope(collect_losses=True))


def _passed(model: Any, batch: Any, see: Callable[[Any, Any], Any]) -> Any:
    """The output of a model, where `see` gets each layer and its output's tensor and gives what goes on."""

    def stand_in(layer: Any) -> Callable[..., Any]:
        call = layer.call
        return lambda *given, **named: _changed(call(*given, **named), lambda tensor: see(layer, tensor))

    with _left_as_it_was():
        return _run(model, batch, {layer: stand_in(layer) for layer in _hooked(model)})


def _objective(output: Any) -> Any:
    """The sum of the output's tensors times noise."""
    total = 0.0
    for number, tensor in enumerate(keras.tree.flatten(output)):
        if _is_floating(tensor):
            factors = keras.ops.convert_to_tensor(noise(tuple(tensor.shape), number))
            total = total + keras.ops.sum(keras.ops.cast(tensor, "float32") * factors)
    return total


def _measured(model: Any, places: Sequence[Place], batch: Any) -> list[Measured]:
    gradients_of = {"tensorflow": _by_tensorflow, "jax": _by_jax, "torch": _by_torch}.get(keras.config.backend())
    if gradients_of is None:
        raise ValueError(f"layers are measured on TensorFlow, JAX and torch, not on {keras.config.backend()!r}")
    calls, gradients = gradients_of(model, batch)
    by_variable = {id(place.variable): place.parameter for place in places}
    return numbered(
        _one(layer, _weight(layer, by_variable), tensor, gradient)
        for (layer, tensor), gradient in zip(calls, gradients, strict=True)
    )


def _weight(layer: Any, by_variable: dict[int, Parameter]) -> Parameter | None:
    """The first linear map of a layer, or of the cell of a recurrent one."""
    holder = layer.cell if isinstance(layer, layers.RNN) else layer
    found = (by_variable.get(id(variable)) for variable in own_variables(holder))
    return next((parameter for parameter in found if parameter is not None and is_linear_map(parameter)), None)


def _one(layer: Any, weight: Parameter | None, tensor: Any, gradient: Any) -> Measured:
    name = layer.path or layer.name  # one without variables has no path
    kernel = getattr(layer, "kernel", None) if isinstance(layer, layers.Dense) else getattr(layer, "gamma", None)
    closed = kernel is not None and not _array(kernel.value).any()
    values, norm = _by_unit(layer, tensor), "Normalization" in type(layer).__name__
    found = measured(name, values, weight=weight, closed=closed, norm=norm)
    return found if gradient is None else differentiated(found, values, _by_unit(layer, gradient))


def _by_unit(layer: Any, tensor: Any) -> np.ndarray:
    """Values of shape (values of a unit, units): units are the channels."""
    array = _array(tensor).astype(np.float64)
    if array.ndim == 0:
        return array.reshape(1, 1)
    if array.ndim > 2 and getattr(layer, "data_format", "") == "channels_first":
        array = np.moveaxis(array, 1, -1)
    return array.reshape(-1, array.shape[-1])


Calls = list[tuple[Any, Any]]


def _by_tensorflow(model: Any, batch: Any) -> tuple[Calls, list[Any]]:
    import tensorflow as tf

    calls: Calls = []
    with tf.GradientTape() as tape:

        def see(layer: Any, tensor: Any) -> Any:
            if hasattr(tensor, "numpy"):  # not a symbol of a function that is traced
                tape.watch(tensor)
                calls.append((layer, tensor))
            return tensor

        objective = _objective(_passed(model, batch, see))
    return calls, tape.gradient(objective, [tensor for _, tensor in calls])


def _by_torch(model: Any, batch: Any) -> tuple[Calls, list[Any]]:
    import torch

    calls: Calls = []

    def see(layer: Any, tensor: Any) -> Any:
        tensor = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        calls.append((layer, tensor))
        return tensor

    with torch.enable_grad():
        objective = _objective(_passed(model, batch, see))
    gradients = torch.autograd.grad(objective, [tensor for _, tensor in calls], allow_unused=True)
    return [(layer, tensor.detach()) for layer, tensor in calls], list(gradients)


def _by_jax(model: Any, batch: Any) -> tuple[Calls, list[Any]]:
    import jax

    from fastinit.adapters.jax.internals import is_traced

    calls: Calls = []
    concrete: list[bool] = []

    def see(layer: Any, tensor: Any) -> Any:
        concrete.append(not is_traced(tensor))
        if concrete[-1]:
            calls.append((layer, tensor))
        return tensor

    _passed(model, batch, see)

    def objective(shifts: list[Any]) -> Any:
        left, known = iter(shifts), iter(concrete)
        # the derivative by what is added to an output is that by the output
        output = _passed(model, batch, lambda _, tensor: tensor + next(left) if next(known) else tensor)
        return _objective(output)

    return calls, jax.grad(objective)([keras.ops.zeros_like(tensor) for _, tensor in calls])


# Scaling by data


@in_stream_environment
def lsuv(model: Any, batch: Any, *, tolerance: float = 0.02, rounds: int = 10) -> dict[str, float]:
    """Scales the kernels of a model, layer by layer, until each layer's output on a batch has unit variance.

    Layer-sequential unit variance: in the order of execution, each dense or convolutional layer's kernel is divided by
    the standard deviation of what the layer gives before its activation, so that the next layer sees what it will see.
    Biases and all other state stay. The model runs once, as in training.

    Parameters
    ----------
    model : keras.Model or keras.Layer
        Built. Initialize it first: the paper does so with orthogonal matrices, and any independent draws will do.
    batch : array or tensor, or what the model takes in its place
        The scales are as good as the batch is typical.
    tolerance : float, > 0
        By how much a variance may differ from 1.
    rounds : int, >= 1
        How often a layer is scaled at most: one time is enough without a bias.

    Returns
    -------
    dict of str to float
        What each kernel was multiplied by, in the order of execution.

    Raises
    ------
    TypeError, ValueError
        What :func:`audit` raises of a model and a batch; a layer whose output has no variance, none that is finite, or
        does not come near 1, as with a bias of larger variance. Nothing has been written then.

    Notes
    -----
    Left alone are recurrent layers, whose outputs their kernels do not scale, and layers that the batch does not reach.
    A layer that is called more than once is scaled at its first call.

    D. Mishkin and J. Matas, "All you need is a good init", ICLR 2016, algorithm 1.

    Examples
    --------
    >>> import keras, numpy as np
    >>> from fastinit.adapters.keras import audit, lsuv
    >>> dense = keras.layers.Dense
    >>> model = keras.Sequential([keras.Input((64,)), dense(64, activation="relu"), dense(8)], name="net")
    >>> batch = np.random.default_rng(0).standard_normal((256, 64)).astype("float32")
    >>> factors = lsuv(model, batch)
    >>> len(factors), audit(model, batch).verdict
    (2, 'healthy')
    """
    unit = UnitVariance(tolerance, rounds)
    places = {id(place.variable): place for place in parameters(model)}
    _check_batch(batch)
    factors: dict[str, float] = {}

    def stand_in(layer: Any, place: Place) -> Callable[..., Any]:
        call, name, variable = layer.call, place.parameter.name, place.variable

        def scaled(*given: Any, **named: Any) -> Any:
            if name in factors:
                return call(*given, **named)
            factors[name] = 1.0
            for attempt in range(rounds + 1):
                with replaced(layer, "activation", None):
                    variance = float(_array(call(*given, **named)).astype(np.float64).var())
                factor = unit.factor(name, variance, attempt)
                if factor is None:
                    return call(*given, **named)
                factors[name] *= factor
                variable.assign(variable.value * factor)  # in the scope, not yet in the model
            raise AssertionError

        return scaled

    stand_ins = {}
    for layer in _hooked(model):
        for variable in own_variables(layer):
            place = places[id(variable)]
            if set(place.parameter.types) & SCALED and place.parameter.role in ("kernel", "pointwise_kernel"):
                stand_ins[layer] = stand_in(layer, place)
    with _left_as_it_was() as scope:
        _run(model, batch, stand_ins)
    for place in places.values():
        if place.parameter.name in factors:
            value = scope.get_current_value(place.variable)
            if value is not None:
                place.variable.assign(value)
    return factors
