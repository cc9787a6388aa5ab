"""Whole models in NumPy memory, by the core's recipes: names to initializers and keys, and the fills."""

from functools import partial

import numpy as np

import fastinit

from .bench_fill import STORAGE
from .counters import Warm, gigabytes_per_second, once, ratio, runs, unit
from .side_by_side import Memset

WIDTH, BLOCKS, VOCABULARY, POSITIONS = 768, 12, 50257, 1024
LINEAR = {"layer": "Linear", "layout": "OI..."}


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
        yield parameter(f"{name}.bias", kernel[:1], layer="Linear", weight_shape=kernel)

    def norm(name):
        for role in ("weight", "bias"):
            yield parameter(f"{name}.{role}", (WIDTH,), layer="LayerNorm")

    for name, rows in (("tokens", VOCABULARY), ("positions", POSITIONS)):
        yield parameter(f"{name}.weight", (rows, WIDTH), layer="Embedding", layout="VD")
    for block in range(BLOCKS):
        yield from norm(f"blocks.{block}.norm_1")
        yield from layer(f"blocks.{block}.attention.qkv", 3 * WIDTH, WIDTH)
        yield from layer(f"blocks.{block}.attention.out", WIDTH, WIDTH)
        yield from norm(f"blocks.{block}.norm_2")
        yield from layer(f"blocks.{block}.mlp.up", 4 * WIDTH, WIDTH, activation="gelu")
        yield from layer(f"blocks.{block}.mlp.down", WIDTH, 4 * WIDTH)
    yield from norm("norm")


class Assigned(Warm):
    """Applying a recipe to GPT-2's parameters, without fills."""

    params = (["auto", "torch"],)
    param_names = ("recipe",)

    @once
    def setup(self, recipe):
        self.run = partial(public("assigned"), list(gpt2()), recipe, 0)

    time_assigned = runs


class Model(Warm):
    """GPT-2 in warm memory, tensor after tensor."""

    params = (["float32", "bfloat16"],)
    param_names = ("dtype",)
    warmup_time = 0.0

    @once
    def setup(self, dtype):
        entries = public("assigned")(gpt2(), "auto", 0)
        tensors = [np.zeros(entry.shape, STORAGE[dtype]) for entry in entries]
        self.nbytes, memset = sum(out.nbytes for out in tensors), Memset(fastinit.default_num_threads())

        def fill():
            for out, entry in zip(tensors, entries, strict=True):
                fastinit.fill(out, entry.initializer, entry.key, dtype=dtype)

        def write():
            for out in tensors:
                memset.by_ctypes(out)

        self.run, self.peer = fill, write

    time_fill = peakmem_fill = runs
    track_time_over_memset = ratio("memset's")

    @unit("GB/s")
    def track_gigabytes_per_second(self, *params):
        return gigabytes_per_second(self.run, self.nbytes)
