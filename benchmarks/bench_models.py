"""Whole models in NumPy memory, by the core's recipes: names to initializers and keys, and the fills."""

import numpy as np

import fastinit

from .bench_fill import STORAGE
from .counters import gigabytes_per_second, once, over
from .side_by_side import Memset

WIDTH, BLOCKS, VOCABULARY, POSITIONS = 768, 12, 50257, 1024
LINEAR = {"types": ("Linear", "Module"), "layout": "OI..."}


def public(name):
    """A name that older commits lack."""
    if not hasattr(fastinit, name):
        raise NotImplementedError(f"there is no fastinit.{name} yet")
    return getattr(fastinit, name)


def gpt2():
    """The parameters of GPT-2 as a recipe sees them: 148 of them, 124 million numbers."""
    parameter = public("Parameter")

    def layer(name, *kernel, activation=None):
        yield parameter(f"{name}.weight", kernel, **LINEAR, activation=activation)
        yield parameter(f"{name}.bias", kernel[:1], types=LINEAR["types"], weight_shape=kernel)

    def norm(name):
        for role in ("weight", "bias"):
            yield parameter(f"{name}.{role}", (WIDTH,), types=("LayerNorm", "Module"))

    for name, rows in (("tokens", VOCABULARY), ("positions", POSITIONS)):
        yield parameter(f"{name}.weight", (rows, WIDTH), types=("Embedding", "Module"), layout="VD")
    for block in range(BLOCKS):
        yield from norm(f"blocks.{block}.norm_1")
        yield from layer(f"blocks.{block}.attention.qkv", 3 * WIDTH, WIDTH)
        yield from layer(f"blocks.{block}.attention.out", WIDTH, WIDTH)
        yield from norm(f"blocks.{block}.norm_2")
        yield from layer(f"blocks.{block}.mlp.up", 4 * WIDTH, WIDTH, activation="gelu")
        yield from layer(f"blocks.{block}.mlp.down", WIDTH, 4 * WIDTH)
    yield from norm("norm")


class Assigned:
    """What a recipe says of GPT-2's parameters; nothing is filled."""

    params = (["auto", "torch"],)
    param_names = ("recipe",)
    rounds = 1

    @once
    def setup(self, recipe):
        self.assigned, self.parameters = public("assigned"), list(gpt2())
        self.time_assigned(recipe)

    def time_assigned(self, recipe):
        self.assigned(self.parameters, recipe, 0)


class Model:
    """GPT-2 in warm memory, tensor after tensor."""

    params = (["float32", "bfloat16"],)
    param_names = ("dtype",)
    warmup_time = 0.0
    rounds = 1

    @once
    def setup(self, dtype):
        entries = public("assigned")(gpt2(), "auto", 0)
        self.tensors = [(np.zeros(entry.shape, STORAGE[dtype]), entry.initializer, entry.key) for entry in entries]
        self.time_fill(dtype)

    def time_fill(self, dtype):
        for out, initializer, key in self.tensors:
            fastinit.fill(out, initializer, key, dtype=dtype)

    def track_gigabytes_per_second(self, dtype):
        return gigabytes_per_second(lambda: self.time_fill(dtype), sum(out.nbytes for out, _, _ in self.tensors))

    track_gigabytes_per_second.unit = "GB/s"

    def track_time_over_memset(self, dtype):
        memset = Memset(fastinit.default_num_threads())

        def write():
            for out, _, _ in self.tensors:
                memset.by_ctypes(out)

        return over(lambda: self.time_fill(dtype), write)

    track_time_over_memset.unit = "times memset's"

    def peakmem_fill(self, dtype):
        self.time_fill(dtype)
