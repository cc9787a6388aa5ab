"""The Keras adapter on each backend, beside Keras's own initializers; whole models.

A process has one Keras backend. asv starts a process for each combination of parameters, and Keras is imported only
after the setup has chosen the backend.
"""

import os
import tempfile
from functools import partial

from .bench_fill import ALL
from .counters import Warm, once, ratio, runs, thousand
from .side_by_side import optional, torch_on_as_many_threads

BACKENDS = ["tensorflow", "jax", "torch"]
ARGUMENTS = {"RandomUniform": {"minval": -0.05, "maxval": 0.05}, "TruncatedNormal": {"stddev": 0.02}}
CLASSES = ["HeNormal", "GlorotUniform", "RandomUniform", "TruncatedNormal", "Orthogonal"]
CLASSES, LIBRARIES = (CLASSES, ["fastinit", "keras"]) if ALL else (CLASSES[:1], ["fastinit"])


def keras_on(backend):
    """Keras on a backend, with its own defaults. Raises NotImplementedError if they are not installed."""
    os.environ |= {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as home:  # not the configuration in the user's home, and none is left there
        os.environ["KERAS_HOME"] = home
        keras = optional("keras")
    if keras.backend.backend() != backend:
        raise NotImplementedError(f"this process has Keras on {keras.backend.backend()}")
    if backend == "torch":
        torch_on_as_many_threads()
    return keras


def ready(tensor):
    """Waits for a tensor's values, because JAX may still be computing them."""
    return tensor.block_until_ready() if hasattr(tensor, "block_until_ready") else tensor


def made(name, n, library):
    """A function that creates an n x n tensor with an initializer of Keras's or ours."""
    place = optional("fastinit.adapters.keras" if library == "fastinit" else "keras").initializers
    initializer = getattr(place, name)(**ARGUMENTS.get(name, {}), seed=1)
    return lambda: ready(initializer((n, n)))


def built(keras, layers):
    """A model of these layers, with finished variables."""
    model = keras.Sequential(layers)
    for variable in model.variables:
        ready(variable.value)
    return model


class _Tensor(Warm):
    """A new square tensor by one of the two libraries."""

    param_names = ("backend", "initializer", "library", "n")

    @once
    def setup(self, backend, initializer, library, n):
        keras_on(backend)
        self.run = made(initializer, n, library)


class Initializers(_Tensor):
    """One, of 16 MiB."""

    params = (BACKENDS, CLASSES, LIBRARIES, [2048])
    time_new = runs


class Small(_Tensor):
    """A thousand, one after the other."""

    params = (BACKENDS, CLASSES, LIBRARIES, [16])
    time_1000_new = thousand(runs)


class OverKeras:
    """The time of a new square tensor over that of Keras's own class of the same name."""

    params = (BACKENDS, CLASSES, [16, 1024, 4096] if ALL else [1024])
    param_names = ("backend", "initializer", "n")

    def setup(self, backend, initializer, n):
        keras_on(backend)
        self.run, self.peer = (made(initializer, n, library) for library in ("fastinit", "keras"))

    track_time_over_keras = ratio("Keras's")


class _Perceptron(Warm):
    """21 million parameters in six dense layers, after a small convolution."""

    params = (BACKENDS,)
    param_names = ("backend",)
    warmup_time = 0.0

    @once
    def setup(self, backend):
        self.keras = keras_on(backend)
        self.adapter = optional("fastinit.adapters.keras")
        self.build("glorot_uniform", 16)

    def build(self, kernel, width=2048):
        layers, options = self.keras.layers, {"kernel_initializer": kernel, "activation": "relu"}
        dense = [layers.Dense(width, **options, name=f"dense_{i}") for i in range(6)]
        stem = [layers.Conv2D(32, 3, **options, name="stem"), layers.GlobalAveragePooling2D()]
        return built(self.keras, [self.keras.Input((32, 32, 3)), *stem, *dense])


class Models(_Perceptron):
    """A new one, with Keras's initializer and with ours."""

    def time_build_by_keras(self, backend):
        self.build("glorot_uniform")

    def time_build(self, backend):
        self.build("fastinit>GlorotUniform")

    peakmem_build = time_build


class Initialize(_Perceptron):
    """One that exists already, by the paths of its variables."""

    @once
    def setup(self, backend):
        super().setup(backend)
        self.run = partial(self.adapter.initialize, self.build("zeros"))

    time_initialize = runs
