"""The Numba adapter beside compiled loops that draw from Numba's own generator: fills, and elements one by one."""

import numpy as np

import fastinit

from .bench_fill import ALL
from .counters import once, over, thousand
from .side_by_side import optional

STD = 0.02
INITIALIZERS = {"normal": fastinit.Normal(0.0, STD), "uniform": fastinit.Uniform(-0.05, 0.05)}
if ALL:
    INITIALIZERS["truncated"] = fastinit.TruncatedNormal(0.0, STD)


def own_generator(distribution, parallel=False):
    """A compiled loop over an array that draws from Numba's own generator, which each thread has one of."""
    numba = optional("numba")

    def normal(out):
        for i in numba.prange(out.size):
            out[i] = np.random.normal(0.0, STD)

    def uniform(out):
        for i in numba.prange(out.size):
            out[i] = np.random.uniform(-0.05, 0.05)

    if distribution == "truncated":
        raise NotImplementedError("Numba has no truncated normal")
    return numba.njit(parallel=parallel)({"normal": normal, "uniform": uniform}[distribution])


def compiled_loop():
    """A loop of one's own that asks for each element of a stream."""
    numba = optional("numba")
    normal = optional("fastinit.adapters.numba").normal

    @numba.njit
    def loop(out, key):
        for i in range(out.size):
            out[i] = normal(key, i, 0.0, STD)

    return loop


class _Filling:
    """A fill of warm memory on one thread: by the adapter, by Numba's generator."""

    param_names = ("distribution", "library", "size")
    warmup_time = 0.05
    rounds = 1

    @once
    def setup(self, distribution, library, size):
        out, initializer, key = np.zeros(size, np.float32), INITIALIZERS[distribution], fastinit.Key(0)
        if library == "numba":
            draw = own_generator(distribution)
            self.run = lambda: draw(out)
        else:
            optional("numba")
            fill = optional("fastinit.adapters.numba").fill
            self.run = lambda: fill(out, initializer, key, num_threads=1)
        self.run()


class Fill(_Filling):
    """One, of 16 MiB."""

    params = (list(INITIALIZERS), ["fastinit", "numba"], [2**22, 2**26] if ALL else [2**22])

    def time_fill(self, distribution, library, size):
        self.run()


class Small(_Filling):
    """A thousand of 4 KiB."""

    params = (list(INITIALIZERS) if ALL else ["normal"], ["fastinit", "numba"], [2**10])

    @thousand
    def time_1000_fills(self, distribution, library, size):
        self.run()


class OverNumba:
    """The time on one thread over that of the loop with Numba's own generator: of fills, of elements one by one."""

    params = (["fill normal", "fill uniform", "elements normal"], [2**22])
    param_names = ("way", "size")

    def setup(self, way, size):
        name, _, distribution = way.partition(" ")
        out, key = np.zeros(size, np.float32), fastinit.Key(0)
        draw = own_generator(distribution)
        self.theirs = lambda: draw(out)
        if name == "fill":
            fill = optional("fastinit.adapters.numba").fill
            self.ours = lambda: fill(out, INITIALIZERS[distribution], key, num_threads=1)
        else:
            loop = compiled_loop()
            self.ours = lambda: loop(out, key.words)

    def track_time_over_numba(self, way, size):
        return over(self.ours, self.theirs)

    track_time_over_numba.unit = "times Numba's"


class Elements:
    """A compiled loop that asks for each element of a stream."""

    params = ([2**22],)
    param_names = ("size",)
    warmup_time = 0.05
    rounds = 1

    @once
    def setup(self, size):
        self.loop, self.out, self.words = compiled_loop(), np.zeros(size, np.float32), fastinit.Key(0).words
        self.time_loop(size)

    def time_loop(self, size):
        self.loop(self.out, self.words)
