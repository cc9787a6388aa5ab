"""How the adapters are measured, each beside its framework's own initializers."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import fastinit

from .. import bench_jax, bench_keras, bench_numba, bench_torch, growth, side_by_side
from ..bench_keras import keras_on, ready
from ..bench_programs import deferred
from ..bench_torch import adapter
from ..side_by_side import optional
from .fills import KINDS, torch_fill
from .lab import Lab, Result, duration

# PyTorch

MESH = (8, 8)
GPT2_XL = 1_557_611_200  # parameters
FUNCTIONS = ("xavier_uniform_", "kaiming_normal_", "trunc_normal_")


def both(name: str, tensor: Any) -> list[Callable[[], object]]:
    """Our function of this name, and torch's."""
    return [bench_torch.drop_in(name, library, tensor) for library in ("fastinit", "torch")]


def drop_in(lab: Lab, name: str, n: int) -> Result:
    """One function on a square matrix in warm memory, against torch's of the same name."""
    torch, n = lab.torch, min(n, lab.side)
    tensor = torch.from_numpy(lab.memory[: n * n].reshape(n, n))
    return lab.compare(*both(name, tensor), 4 * n * n, "torch")


def small_drop_in(lab: Lab, name: str, n: int) -> Result:
    """The same on a matrix so small that the call dominates."""
    calls = both(name, lab.torch.zeros(n, n))
    counts = {"blocks": 5, "calls": 20} if lab.quick else {"blocks": 20, "calls": 200}
    times: tuple[list[float], list[float]] = ([], [])
    with side_by_side.without_garbage_collection():
        for _ in range(lab.rounds):
            for call, own in zip(calls, times, strict=True):
                own.extend(side_by_side.per_call(call, groups=1, **counts))
    ratios = [peer / own for own, peer in zip(*times, strict=True)]
    return Result(ratios, f"{duration(min(times[0]))}; torch {duration(min(times[1]))}")


def against_torch(lab: Lab, ours: Callable[[], Any], theirs: Callable[[], Any], fresh: int, size: int = 0) -> Result:
    """A model made in fresh memory, against torch's own constructors."""
    found = lab.compare(ours, theirs, size, "torch", fresh=fresh)
    gc.collect()
    return found


def constructed(build: Callable[[], Any]) -> Callable[[], Any]:
    """The same constructor under patched()."""
    patched = adapter().patched

    def ours() -> Any:
        with patched():
            return build()

    return ours


def linears(lab: Lab) -> Result:
    torch, width = lab.torch, 64 if lab.quick else 4096
    nbytes = 16 * 4 * width * width
    build = lambda: torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(16))  # noqa: E731
    return against_torch(lab, constructed(build), build, 2 * nbytes, nbytes)


def materialized(build: Callable[[], Any]) -> Callable[[], Any]:
    """The same constructor deferred, and its model materialized in bfloat16 as its author wrote it."""
    torch, materialize = optional("torch"), adapter().materialize

    def ours() -> Any:
        model = deferred(build)
        materialize(model, dtype=torch.bfloat16)
        return model

    return ours


def gpt2(lab: Lab) -> Callable[[], Any]:
    """The constructor of a model of GPT-2 XL's size."""
    assert lab.torch
    transformers = optional("transformers")
    size = {"n_embd": 64, "n_layer": 2, "n_head": 4} if lab.quick else {"n_embd": 1600, "n_layer": 48, "n_head": 25}
    return partial(transformers.GPT2LMHeadModel, transformers.GPT2Config(**size))


def gpt2_xl(lab: Lab, way: Callable[[Callable[[], Any]], Callable[[], Any]]) -> Result:
    """GPT-2 XL by one of the two ways."""
    build = gpt2(lab)
    return against_torch(lab if lab.quick else lab.with_rounds(3), way(build), build, 4 * GPT2_XL)


def gpt2_xl_own(lab: Lab, peer: str) -> Result:
    """GPT-2 XL that was deferred already, filled in bfloat16 as its author wrote it; the peer is auto, or a memset."""
    torch, materialize, rounds = lab.torch, adapter().materialize, 5
    first = deferred(gpt2(lab))
    count = sum(parameter.numel() for parameter in first.parameters())
    models = [copy.deepcopy(first) for _ in range(2 * (rounds + 2))]

    def filled(recipe: str) -> None:
        materialize(models.pop(), recipe, dtype=torch.bfloat16)

    def memset() -> None:
        lab.memset.by_ctypes(np.empty(count, np.uint16))

    theirs = memset if peer == "memset" else partial(filled, peer)
    return lab.with_rounds(rounds).compare(partial(filled, "own"), theirs, 2 * count, peer, fresh=2 * count)


def shards_of_a_mesh(lab: Lab, kind: str) -> Result:
    """Time of 64 shards, filled in turn, over the time of the whole: both write as much memory."""
    torch, fill_ = lab.torch, adapter().fill_
    side = 1024 if lab.quick else 16384
    whole = torch.zeros(side, side)
    rows, columns = (side // n for n in MESH)
    shards = whole.view(-1, rows, columns)
    offsets = [(rows * i, columns * j) for i in range(MESH[0]) for j in range(MESH[1])]

    def in_turn() -> None:
        for shard, begin in zip(shards.unbind(), offsets, strict=True):
            fill_(shard, KINDS[kind], lab.key, global_shape=whole.shape, offsets=begin)

    found = lab.compare(lambda: fill_(whole, KINDS[kind], lab.key), in_turn, whole.nbytes, "64 shards in turn")
    return found._replace(note=f"whole {found.note}")


def memory_of_a_shard(lab: Lab) -> Result:
    """KiB beyond the shard itself while one shard is filled of a matrix that no memory holds."""
    torch, fill_ = lab.torch, adapter().fill_
    shard = torch.zeros(2048, 2048)
    options = {"global_shape": (2**20, 2**20), "offsets": (2**19, 2**19)}
    fill_(shard[:8, :8], fastinit.Normal(), lab.key, **options)
    found = growth.growth(lambda: fill_(shard, fastinit.Normal(), lab.key, **options))
    return Result([found / 1024], f"a shard of {shard.nbytes >> 20} MiB of a tensor of 4 TiB")


# Frameworks that return memory of their own


def over_the_tensor(make: Callable[[int], object], n: int, words: str) -> Result:
    """Peak memory of making an n x n tensor of float32, over the tensor's own."""
    make(64)  # the framework's threads and tables
    growth.give_back()
    nbytes = 4 * n * n
    return Result([growth.growth(partial(make, n)) / nbytes], f"{words} of {nbytes / 2**20:g} MiB")


def over_keras(lab: Lab, ours: Callable[[], Any], theirs: Callable[[], Any], nbytes: int) -> Result:
    return lab.compare(ours, theirs, nbytes, "Keras", fresh=2 * nbytes)


def keras_class(lab: Lab, backend: str, name: str) -> Result:
    keras_on(backend)
    own, other = (bench_keras.made(name, lab.side, library) for library in ("fastinit", "keras"))
    return over_keras(lab, own, other, lab.memory.nbytes)


def keras_memset(lab: Lab, backend: str) -> Result:
    """The most that anything can reach that writes untouched memory."""
    keras_on(backend)
    other = bench_keras.made("GlorotUniform", lab.side, "keras")
    return over_keras(lab, lambda: lab.memset.by_ctypes(lab.fresh()), other, lab.memory.nbytes)


def keras_model(lab: Lab, backend: str) -> Result:
    keras, initializers = keras_on(backend), optional("fastinit.adapters.keras").initializers
    width, layers = 64 if lab.quick else 4096, 8

    def built(kernel: Callable[[], Any]) -> Any:
        dense = [keras.layers.Dense(width, kernel_initializer=kernel()) for _ in range(layers)]
        return bench_keras.built(keras, [keras.Input((width,)), *dense])

    own, other = partial(built, initializers.GlorotUniform), partial(built, lambda: "glorot_uniform")
    return over_keras(lab, own, other, 4 * width * width * layers)


def keras_memory(lab: Lab, backend: str) -> Result:
    keras, initializers = keras_on(backend), optional("fastinit.adapters.keras").initializers

    def variable(side: int) -> Any:
        found = keras.Variable(initializers.HeNormal(seed=1), shape=(side, side), dtype="float32")
        ready(found.value)
        return found

    np.asarray(keras.ops.convert_to_numpy(variable(64).value))  # the framework's threads and tables
    return over_the_tensor(variable, lab.side, "a variable")


def jax_factory(lab: Lab, factory: str, dtype: str) -> Result:
    own, other = (bench_jax.made(factory, way, dtype, lab.side) for way in ("fastinit", "jax jitted"))
    nbytes = lab.memory.nbytes // (1 if dtype == "float32" else 2)
    return lab.compare(own, other, nbytes, "JAX", fresh=2 * lab.memory.nbytes)


def jax_memory(lab: Lab) -> Result:
    make = lambda n: bench_jax.made("he_normal", "fastinit", "float32", n)()  # noqa: E731
    return over_the_tensor(make, lab.side, "an array")


# Numba


def over_numba(lab: Lab, ours: Callable[[], object], kind: str, parallel: bool = False) -> Result:
    """Against a loop with Numba's own generator, on one thread or on as many as fastinit has."""
    peer = partial(bench_numba.own_generator(kind, parallel), lab.memory)
    return lab.compare(ours, peer, lab.memory.nbytes, f"np.random.{kind} in njit")


def numba_fill(lab: Lab, kind: str, parallel: bool = False) -> Result:
    threads = lab.threads if parallel else 1
    ours = bench_numba.adapter_fill(lab.memory, kind, threads)
    numba = optional("numba")
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    return over_numba(lab, ours, kind, parallel)


def numba_elements(lab: Lab) -> Result:
    """The function of one element in one's own loop, against np.random.normal in its place; both on one thread."""
    return over_numba(lab, bench_numba.compiled_loop(lab.memory), "normal")


# A CUDA device

REPEATS = 10  # fills in one timed run: so many that the time to start a kernel does not matter


def on_device(lab: Lab, kind: str, dtype: str = "float32", memset: bool = False) -> Result:
    """Fills of a tensor of 1 GiB (float32), and the wait for the device; against torch's, or the device's memset."""
    torch = lab.torch
    if not torch.cuda.is_available():
        raise NotImplementedError("no CUDA device")
    if not optional("numba.cuda").is_available():
        raise NotImplementedError("Numba has no CUDA device")
    fill_, side = adapter().fill_, lab.side if lab.quick else 2 * lab.side
    tensor = torch.empty(side, side, dtype=getattr(torch, dtype), device="cuda")

    def timed(run: Callable[[], object]) -> None:
        side_by_side.repeated(run, REPEATS)()
        torch.cuda.synchronize()

    ours = partial(timed, lambda: fill_(tensor, KINDS[kind], lab.key))
    theirs = tensor.zero_ if memset else partial(torch_fill(torch, kind), tensor)
    name = "zero_ on the device" if memset else f"torch on {torch.cuda.get_device_name()}"
    return lab.compare(ours, partial(timed, theirs), REPEATS * tensor.nbytes, name)
