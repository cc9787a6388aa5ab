"""Keras's internals, each used here alone: names that it does not export, and habits that it does not promise.

They were read in Keras 3.15. ``tests/adapters/keras/test_internals.py`` names the one that a new release has changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import keras

__all__ = [
    "BATCH_NORM_STATISTICS",
    "CONVOLUTION",
    "DEPTHWISE",
    "OLDEST",
    "SEPARABLE",
    "TRANSPOSED",
    "VARIABLE",
    "RandomInitializer",
    "automatic_name",
    "consumers",
    "inner_layers",
    "is_neural_operation",
    "layers_of",
    "layout_of",
    "own_variables",
    "replaced",
    "statistics_of",
]

OLDEST: Final = "3.15"
"""The oldest Keras that this adapter runs on: earlier ones give no input_axes to their initializers."""

if [int(part) for part in re.findall(r"\d+", keras.__version__)[:2]] < [int(part) for part in OLDEST.split(".")]:
    raise ImportError(f"fastinit.adapters.keras needs Keras {OLDEST} or newer, and {keras.__version__} is installed")

RandomInitializer: Final = keras.initializers.RandomNormal.__bases__[0]
"""The base class that holds and serializes a seed: what ICNR, which has no class in Keras, inherits. Without it ICNR
would have to check seeds and write them into configurations itself."""

CONVOLUTION: Final = "BaseConv"
DEPTHWISE: Final = "BaseDepthwiseConv"
SEPARABLE: Final = "BaseSeparableConv"
TRANSPOSED: Final = "BaseConvTranspose"
"""Base classes of convolutions of any number of axes, by name. Without them their kernels would be no linear maps: no
fans, no rule of "auto", no `lsuv`."""

BATCH_NORM_STATISTICS: Final = {
    "moving_mean": 0.0,
    "moving_variance": 1.0,
    "moving_stddev": 1.0,
    "renorm_mean": 0.0,
    "renorm_stddev": 1.0,
}
"""The variables of a BatchNormalization that training moves, by name, and their values in a new layer; the last three
are those of ``renorm=True``. Without them `initialize` would leave the statistics of the weights before."""


VARIABLE: Final = "variable"
"""The name of a variable that is made without one, as :func:`automatic_name`. Without it the second model of a process
would have other names, even if all its layers have some."""


def automatic_name(cls: type) -> str:
    """The name that Keras gives to the first instance of a class, made without one; later ones get ``_1``, ``_2``.

    ``keras.src.utils.naming.to_snake_case``. Without it names that count through the process could not be told from
    those that a user gave.
    """
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", cls.__name__))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def layers_of(model: Any) -> Iterator[Any]:
    """A model and, after it, all layers within it.

    ``Layer._flatten_layers``. Without it nothing is found in layers that hold others (``Model.layers`` is one deep, and
    a Layer has no such list).
    """
    yield from model._flatten_layers()


def inner_layers(layer: Any, *, direct: bool = False) -> Iterator[Any]:
    """The layers within a layer, or only those that it holds itself.

    ``Layer._flatten_layers``, as above.
    """
    yield from layer._flatten_layers(include_self=False, recursive=not direct)


def own_variables(layer: Any) -> list[Any]:
    """The variables that a layer itself, not one within it, made to be trained, frozen or not; a cell may be any class.

    ``Layer._trainable_variables``. Without it a variable could not be told to belong to this layer and its class:
    ``Layer.trainable_variables`` has those of inner layers too, and none of a frozen one.
    """
    return list(getattr(layer, "_trainable_variables", ()))


def statistics_of(norm: Any) -> Iterator[tuple[Any, float]]:
    """The running statistics of a BatchNormalization, each with its value in a new layer.

    ``Layer._non_trainable_variables``. Without it the state would have to be told from frozen weights by name alone.
    """
    for variable in norm._non_trainable_variables:
        if variable.name in BATCH_NORM_STATISTICS:
            yield variable, BATCH_NORM_STATISTICS[variable.name]


def consumers(operation: Any) -> list[Any]:
    """The operations and layers of functional models that an operation's output goes into.

    ``Operation._outbound_nodes``. Without it an activation is known only where the layer itself has it.
    """
    return [node.operation for node in operation._outbound_nodes]


def is_neural_operation(operation: Any) -> bool:
    """Whether it is an operation of ``keras.ops.nn``, whose classes are not exported.

    Known by the module of its class. Without it ``keras.ops.relu(x)`` in a functional model would not be an activation.
    """
    return type(operation).__module__.endswith("ops.nn")


def layout_of(variable: Any) -> Any:
    """The layout of a variable on the devices of a distribution; None of one that has none, and on other backends.

    ``Variable._layout``, which is set by the JAX backend. Without it new values of a sharded variable are drawn whole,
    on one device, and spread afterwards.
    """
    return getattr(variable, "_layout", None)


@contextmanager
def replaced(thing: Any, name: str, value: Any) -> Iterator[None]:
    """Where an attribute of a layer has another value, unseen by what Keras and torch do when one is set.

    A layer calls ``self.call`` and ``self.activation`` at each call, so a value in its dictionary comes before the
    method of the class. Without this layers could be measured only where a model is functional.
    """
    absent = object()
    before = vars(thing).get(name, absent)
    vars(thing)[name] = value
    try:
        yield
    finally:
        if before is absent:
            del vars(thing)[name]
        else:
            vars(thing)[name] = before
