"""The Numba adapter beside compiled loops that draw from Numba's own generator: fills, and elements one by one."""

from functools import partial

import numpy as np

import fastinit

from .bench_fill import ALL, KEY
from .counters import Warm, once, ratio, runs, thousand
from .side_by_side import optional

STD = 0.02
INITIALIZERS = {"normal": fastinit.Normal(0.0, STD), "uniform": fastinit.Uniform(-0.05, 0.05)}
OWN = {"normal": (np.random.normal, 0.0, STD), "uniform": (np.random.uniform, -0.05, 0.05)}
if ALL:
    INITIALIZERS["truncated"] = fastinit.TruncatedNormal(0.0, STD)


def own_loop(draw, *arguments, parallel=False):
    """A compiled loop over an array that draws from Numba's own generator, which each thread has one of."""
    numba = optional("numba")

    @numba.njit(parallel=parallel)
    def loop(out):
        for i in numba.prange(out.size):
            out[i] = draw(*arguments)

    return loop


def own_generator(distribution, parallel=False):
    """The loop that draws from a distribution of INITIALIZERS."""
    if distribution not in OWN:
        raise NotImplementedError("Numba has no truncated normal")
    return own_loop(*OWN[distribution], parallel=parallel)


def adapter_fill(out, distribution, num_threads=1):
    """A fill by the adapter."""
    optional("numba")
    fill = optional("fastinit.adapters.numba").fill
    return partial(fill, out, INITIALIZERS[distribution], KEY, num_threads=num_threads)


def compiled_loop(out):
    """A user's loop that computes each element of a stream."""
    numba = optional("numba")
    normal = optional("fastinit.adapters.numba").normal

    @numba.njit
    def loop(out, key):
        for i in range(out.size):
            out[i] = normal(key, i, 0.0, STD)

    return partial(loop, out, KEY.words)


class _Filling(Warm):
    """A fill of warm memory on one thread: by the adapter, by Numba's generator."""

    param_names = ("distribution", "library", "size")

    @once
    def setup(self, distribution, library, size):
        out = np.zeros(size, np.float32)
        own = library == "numba"
        self.run = partial(own_generator(distribution), out) if own else adapter_fill(out, distribution)


class Fill(_Filling):
    """One, of 16 MiB."""

    params = (list(INITIALIZERS), ["fastinit", "numba"], [2**22, 2**26] if ALL else [2**22])
    time_fill = runs


class Small(_Filling):
    """A thousand of 4 KiB."""

    params = (list(INITIALIZERS) if ALL else ["normal"], ["fastinit", "numba"], [2**10])
    time_1000_fills = thousand(runs)


class OverNumba:
    """The time on one thread over that of the loop with Numba's own generator: of fills, of elements one by one."""

    params = (["fill normal", "fill uniform", "elements normal"], [2**22])
    param_names = ("way", "size")

    def setup(self, way, size):
        name, _, distribution = way.partition(" ")
        out = np.zeros(size, np.float32)
        self.run = adapter_fill(out, distribution) if name == "fill" else compiled_loop(out)
        self.peer = partial(own_generator(distribution), out)

    track_time_over_numba = ratio("Numba's")


class Elements(Warm):
    """A compiled loop that computes each element of a stream."""

    params = ([2**22],)
    param_names = ("size",)

    @once
    def setup(self, size):
        self.run = compiled_loop(np.zeros(size, np.float32))

    time_loop = runs
