"""Fills of warm memory: distributions, dtypes, targets and sizes, threads, and the peers at one size.

asv starts a process for each combination of parameters. So that a run takes minutes, Fill and Rate take some that
stand for the others; with FASTINIT_BENCH=all in the environment they take every distribution, dtype, target and size.
"""

import os
import statistics
import time

import numpy as np

import fastinit

from .side_by_side import Memset, optional, without_garbage_collection

STORAGE = {
    "float32": "float32",
    "float64": "float64",
    "float16": "float16",
    "bfloat16": "uint16",
    "float8_e4m3fn": "uint8",
    "float8_e5m2": "uint8",
}
DISTRIBUTIONS = {
    "constant": fastinit.Constant(0.5),
    "uniform": fastinit.Uniform(-0.05, 0.05),
    "uniform from 0": fastinit.Uniform(0.0, 0.1),
    "normal": fastinit.Normal(0.0, 0.02),
    "truncated +-2 sigma": fastinit.TruncatedNormal(0.0, 0.02),
    "truncated +-3 sigma": fastinit.TruncatedNormal(0.0, 0.02, -3.0, 3.0),
}
TARGETS = list(fastinit.targets.supported())
ALL = os.environ.get("FASTINIT_BENCH") == "all"
if ALL:
    FILL = (list(DISTRIBUTIONS), list(STORAGE), TARGETS, [2**n for n in (4, 8, 12, 16, 20, 23, 26)])
else:
    FILL = (["uniform", "normal", "truncated +-2 sigma"], ["float32", "bfloat16"], TARGETS, [2**4, 2**16, 2**26])


class Fill:
    """One fill on all threads."""

    params = FILL
    param_names = ("distribution", "dtype", "target", "size")
    warmup_time = 0.0
    sample_time = 0.01
    rounds = 1
    repeat = (5, 50, 0.5)

    def setup(self, distribution, dtype, target, size):
        self.out = np.zeros(size, STORAGE[dtype])
        self.initializer, self.key = DISTRIBUTIONS[distribution], fastinit.Key(0)
        self.time_fill(distribution, dtype, target, size)

    def time_fill(self, distribution, dtype, target, size):
        fastinit.fill(self.out, self.initializer, self.key, dtype=dtype, target=target)


class Rate:
    """The same as GB/s, to be read; commits are compared by their times, since asv takes less as better."""

    params = FILL if ALL else (list(DISTRIBUTIONS), list(STORAGE), [fastinit.targets.current()], [2**26])
    param_names = Fill.param_names

    def setup(self, distribution, dtype, target, size):
        self.fill = Fill()
        self.fill.setup(distribution, dtype, target, size)

    def track_gigabytes_per_second(self, distribution, dtype, target, size):
        calls = max(1, 2**14 // size)
        times = []
        with without_garbage_collection():
            for _ in range(5):
                start = time.perf_counter()
                for _ in range(calls):
                    self.fill.time_fill(distribution, dtype, target, size)
                times.append(time.perf_counter() - start)
        return calls * self.fill.out.nbytes / statistics.median(times) / 1e9

    track_gigabytes_per_second.unit = "GB/s"


class Threads:
    """The same fill on one thread and on two."""

    params = (["uniform", "normal", "truncated +-2 sigma"], [2**18, 2**20, 2**26], [1, 2])
    param_names = ("distribution", "size", "threads")
    sample_time = 0.05

    def setup(self, distribution, size, threads):
        self.out = np.zeros(size, np.float32)
        self.initializer, self.key = DISTRIBUTIONS[distribution], fastinit.Key(0)

    def time_fill(self, distribution, size, threads):
        fastinit.fill(self.out, self.initializer, self.key, num_threads=threads)


class Words:
    """Raw words, which go into fresh memory."""

    params = ([2**4, 2**12, 2**20, 2**26],)
    param_names = ("count",)

    def setup(self, count):
        self.key = fastinit.Key(0)

    def time_words(self, count):
        fastinit.words(self.key, 0, count)


class Peer:
    """What else fills 2^24 elements of warm float32 memory."""

    params = (
        ["memset", "numpy random", "numpy standard_normal", "torch uniform_", "torch normal_", "torch trunc_normal_"],
    )
    param_names = ("peer",)
    size = 2**24
    warmup_time = 0.0
    rounds = 1

    def setup(self, peer):
        out = np.zeros(self.size, np.float32)
        library, _, name = peer.partition(" ")
        if library == "memset":
            memset = Memset(fastinit.default_num_threads())
            self.run = lambda: memset.by_ctypes(out)
        elif library == "numpy":
            draw = getattr(np.random.default_rng(0), name)
            self.run = lambda: draw(out=out, dtype=np.float32)
        else:
            torch = optional("torch")
            torch.set_num_threads(fastinit.default_num_threads())
            tensor = torch.from_numpy(out)
            self.run = getattr(tensor, name, None) or (lambda: torch.nn.init.trunc_normal_(tensor))

    def time_fill(self, peer):
        self.run()
