"""Keras's internals, each used here alone: names that it does not export, and habits that it does not promise.

They were read in Keras 3.15. ``tests/adapters/keras/test_internals.py`` names the one that a new release has changed.
"""

from __future__ import annotations

import copy
import functools
import inspect
import io
import random
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any, Final

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell
from keras.src.saving import saving_lib

__all__ = [
    "BATCH_NORM_STATISTICS",
    "CONVOLUTION",
    "DEPTHWISE",
    "SEPARABLE",
    "TRANSPOSED",
    "VARIABLE",
    "RandomInitializer",
    "apart",
    "automatic_name",
    "bias_with_forget_gate",
    "consumers",
    "inner_layers",
    "is_neural_operation",
    "is_watched",
    "layers_of",
    "layout_of",
    "made_with",
    "noting",
    "own_state",
    "own_variables",
    "replaced",
    "seeded",
    "statistics_of",
    "twin_of",
    "weights_layout",
]

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


def own_state(layer: Any) -> list[Any]:
    """The variables that a layer itself, not one within it, made not to be trained.

    ``Layer._non_trainable_variables``. Without it a kernel that was made for training and became state, as LoRA and
    quantization do, would not be found in a layer that is built again.
    """
    return list(getattr(layer, "_non_trainable_variables", ()))


def statistics_of(norm: Any) -> Iterator[tuple[Any, float]]:
    """The running statistics of a BatchNormalization, each with its value in a new layer.

    ``Layer._non_trainable_variables``. Without it the state would have to be told from frozen weights by name alone.
    """
    for variable in own_state(norm):
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


def is_watched(tensor: Any) -> bool:
    """Whether a tensor of TensorFlow follows from one that a gradient tape watches.

    ``tensorflow.python.eager.record``. Without it a decoder, whose words begin anew, could not be told from an encoder.
    """
    from tensorflow.python.eager import record

    return bool(record.could_possibly_record() and record.should_record_backprop([tensor]))


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


# What variables were made with

_MADE_WITH: Final = "_fastinit_made_with"
_CELLS: Final = (keras.layers.LSTMCell, ConvLSTMCell)


def made_with(variable: Any) -> Any:
    """The initializer, function or array that a variable noted inside :func:`noting`; None if it was made elsewhere."""
    return vars(variable).get(_MADE_WITH)


def _base_of_variables() -> Any:
    """The class that all backends' variables derive from."""
    return next(cls for cls in keras.Variable.__mro__ if cls.__module__.endswith("backend.common.variables"))


@contextmanager
def noting(*, arrays_too: bool = False) -> Iterator[None]:
    """Where every new variable notes what it is made with, since Keras drops an initializer that it has called.

    ``Variable.__init__``, which the backends' own classes call, and ``Variable.assign``, after which a note is no
    longer true. Without the first nothing is known of ``add_weight(initializer=...)`` in a layer that keeps no
    initializer; without the second what an author writes later is lost.

    Parameters
    ----------
    arrays_too : bool
        Whether variables that are made of an array are made of a function that gives it, as :func:`apart` demands.
    """
    base = _base_of_variables()
    plain, assigning = base.__init__, base.assign

    @functools.wraps(plain)
    def initialize(self: Any, initializer: Any, shape: Any = None, dtype: Any = None, **named: Any) -> None:
        if isinstance(initializer, str):
            initializer = keras.initializers.get(initializer)
        vars(self)[_MADE_WITH] = initializer
        if arrays_too and not callable(initializer):
            array = keras.ops.convert_to_tensor(initializer, dtype=dtype)
            initializer, shape, dtype = lambda *_, **__: array, array.shape, dtype or array.dtype
        plain(self, initializer, shape, dtype, **named)

    @functools.wraps(assigning)
    def assign(self: Any, value: Any) -> Any:
        vars(self).pop(_MADE_WITH, None)
        return assigning(self, value)

    base.__init__, base.assign = initialize, assign
    try:
        yield
    finally:
        base.__init__, base.assign = plain, assigning


@contextmanager
def apart() -> Iterator[Any]:
    """Where layers are built of which Keras knows nothing afterwards, and whose variables get no values.

    The scope has what is assigned to them. ``keras.src.backend.common.global_state``: the names that Keras has given,
    its generator of seeds, and the variables that it would initialize later. Without it layers of later models would
    have other names.
    """
    tracker = vars(global_state.GLOBAL_STATE_TRACKER)
    before = dict(tracker)
    if "object_name_uids" in tracker:
        tracker["object_name_uids"] = copy.copy(tracker["object_name_uids"])
    tracker["uninitialized_variables"] = []
    try:
        with keras.StatelessScope(initialize_variables=False) as scope:
            yield scope
    finally:
        tracker.clear()
        tracker.update(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Where Python, NumPy, Keras and torch draw as with this seed; afterwards they go on as if nothing had been drawn.

    ``keras.src.backend.common.global_state`` holds the generator that ``keras.random`` draws from without a seed; a new
    one is seeded by Python's. Without it an author's initializer would not give the same values again.
    """
    tracker = vars(global_state.GLOBAL_STATE_TRACKER)
    generator = tracker.pop("global_seed_generator", None)
    python, array = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        if keras.config.backend() == "torch":
            import torch

            stack.enter_context(torch.random.fork_rng(devices=[]))
            torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)
            tracker.pop("global_seed_generator", None)
            if generator is not None:
                tracker["global_seed_generator"] = generator


def twin_of(layer: Any) -> Any:
    """A new layer of the same configuration, built for the same shapes: raises whatever its code does.

    ``Layer._build_shapes_dict``, by ``Layer.get_build_config``. A layer that makes its variables when it is constructed
    has them without being built.
    """
    twin = type(layer).from_config(layer.get_config())
    config = layer.get_build_config()
    if not twin.built and config:
        twin.build_from_config(config)
    return twin


def bias_with_forget_gate(function: Any) -> Any:
    """The initializer of an LSTM's bias but for the forget gate, which is 1; None of any other function.

    A function within ``LSTMCell.build`` and ``ConvLSTMCell.build`` puts the two together. Without it a bias that is
    drawn would have no program in an LSTM.
    """
    for cell in _CELLS:
        if isinstance(function, FunctionType) and function.__code__ in cell.build.__code__.co_consts:
            return inspect.getclosurevars(function).nonlocals["self"].bias_initializer
    return None


class _Places(saving_lib.H5IOStore):
    """A weight file that notes what is saved in it, and where, and holds nothing."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), mode="w")
        self.saved: dict[str, Any] = {}
        self._place = ""

    def make(self, path: str, metadata: Any = None) -> Any:
        self._place = path
        return self

    def __setitem__(self, key: str, value: Any) -> None:
        self.saved[f"{self._place}/vars/{key}".removeprefix("/")] = value


def weights_layout(model: Any) -> dict[str, Any]:
    """What ``Model.save_weights`` saves, variables and arrays, by the names of the file's datasets.

    ``keras.src.saving.saving_lib``: ``H5IOStore``, whose `make` and `__setitem__` layers call in their
    ``save_own_variables``, and ``_save_state``, which calls those of a model's layers. Without them the names would
    have to be guessed, and a layer that saves in a way of its own would get a file that it cannot read.
    """
    store = _Places()
    saving_lib._save_state(model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set())
    store.close()
    return store.saved
