"""Fills of warm memory: distributions, dtypes, targets, sizes and threads.

asv starts a process for each combination of parameters. By default the classes use representative combinations, so that
a run takes minutes; with FASTINIT_BENCH=all in the environment they use all. The lists do not depend on the machine or
the commit, so that asv can match results. Missing combinations are skipped.
"""

import os
from functools import partial

import numpy as np

import fastinit

from .counters import Warm, gigabytes_per_second, once, ratio, runs, thousand, unit
from .growth import STORAGE
from .side_by_side import Memset

DISTRIBUTIONS = {
    "constant": fastinit.Constant(0.5),
    "uniform": fastinit.Uniform(-0.05, 0.05),
    "uniform from 0": fastinit.Uniform(0.0, 0.1),
    "normal": fastinit.Normal(0.0, 0.02),
    "truncated +-2 sigma": fastinit.TruncatedNormal(0.0, 0.02),
    "truncated +-3 sigma": fastinit.TruncatedNormal(0.0, 0.02, -3.0, 3.0),
}
KEY = fastinit.Key(0)
TARGETS = ["x86_v4_intel", "x86_v4", "x86_v3", "baseline", "neon", "generic"]
COMMON = ["uniform", "normal", "truncated +-2 sigma"]
ALL = os.environ.get("FASTINIT_BENCH") == "all"
# The axes of most classes of this file.
CHOSEN, DTYPES = (list(DISTRIBUTIONS), list(STORAGE)) if ALL else (COMMON, ["float32", "bfloat16"])
PLACES, THREADS = (TARGETS, [1, "all"]) if ALL else (["default"], ["all"])


def supported(target):
    """The target for `fill`. Raises NotImplementedError if this build or this processor does not run it."""
    if target == "default":
        return None
    if target not in fastinit.targets.supported():
        raise NotImplementedError(f"the target {target} does not run here")
    return target


def buffer(size, dtype):
    """Memory for a number of elements. Raises NotImplementedError if that exceeds half of the free memory."""
    out = np.dtype(STORAGE[dtype])
    try:
        with open("/proc/meminfo") as file:
            free = next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = 2**34
    if 2 * size * out.itemsize > free:
        raise NotImplementedError(f"not enough memory for {size} elements")
    return np.zeros(size, out)


class _Filling(Warm):
    """The setup of this file's classes: warm memory and a fill of it."""

    param_names = ("distribution", "dtype", "target", "size", "threads")

    @once
    def setup(self, distribution, dtype, target, size, threads):
        self.threads = fastinit.default_num_threads() if threads == "all" else threads
        place = {"dtype": dtype, "target": supported(target), "num_threads": self.threads}
        self.out = buffer(size, dtype)
        self.run = partial(fastinit.fill, self.out, DISTRIBUTIONS[distribution], KEY, **place)


class Fill(_Filling):
    """One fill, in cache and in memory."""

    params = (CHOSEN, DTYPES, TARGETS, [2**n for n in ((16, 20, 23, 26, 28) if ALL else (16, 26))], THREADS)
    warmup_time = 0.0
    repeat = (5, 50, 0.5)
    time_fill = runs


class Large(Fill):
    """2^28 elements: 1 GiB of float32."""

    params = (["uniform", "normal"], ["float32", "float64"] if ALL else ["float32"], ["default"], [2**28], ["all"])
    repeat = (3, 5, 2.0)


class Small(_Filling):
    """A thousand small fills."""

    params = (CHOSEN, DTYPES, PLACES, [2**4, 2**8, 2**12], ["all"])
    time_1000_fills = thousand(runs)


class Rate(_Filling):
    """GB/s, for reading. asv compares commits by time, where less is better."""

    params = (CHOSEN, list(STORAGE), PLACES, [2**26], THREADS)

    @unit("GB/s")
    def track_gigabytes_per_second(self, *params):
        return gigabytes_per_second(self.run, self.out.nbytes)


class OverMemset(_Filling):
    """The time of a fill over that of a memset of the same memory on as many threads."""

    params = (CHOSEN, DTYPES, PLACES, [2**20, 2**26] if ALL else [2**26], THREADS)

    def setup(self, *params):
        super().setup(*params)
        _, memset = Memset(self.threads).faster(self.out)
        self.peer = partial(memset, self.out)

    track_time_over_memset = ratio("memset's")


class Compared(_Filling):
    """The time of compare() without a difference, over that of the fill of the same memory."""

    params = (COMMON, DTYPES, ["default"], [2**26], ["all"])

    def setup(self, *params):
        super().setup(*params)
        if not hasattr(fastinit, "compare"):
            raise NotImplementedError("there is no compare() yet")
        distribution, dtype, *_ = params
        self.run()
        self.peer = self.run
        place = {"dtype": dtype, "num_threads": self.threads}
        self.run = partial(fastinit.compare, self.out, DISTRIBUTIONS[distribution], KEY, **place)

    track_time_over_fill = ratio("the fill's")


class Threads(_Filling):
    """The same fill on one thread, on two, and on fastinit's default number."""

    if ALL:
        params = (list(DISTRIBUTIONS), list(STORAGE), ["default"], [2**18, 2**20, 2**23, 2**26], [1, 2, 4, 8, "all"])
    else:
        params = (COMMON, ["float32"], ["default"], [2**20, 2**26], [1, 2, "all"])
    repeat = (5, 50, 0.5)
    time_fill = runs


class OverOneThread(_Filling):
    """The time on several threads over that on one: a half on two at best."""

    params = (COMMON, ["float32"], ["default"], [2**20, 2**26], [2, "all"] if ALL else [2])

    def setup(self, *params):
        if fastinit.default_num_threads() < 2:
            raise NotImplementedError("this process may use one processor only")
        super().setup(*params)
        self.peer = partial(self.run, num_threads=1)

    track_time_over_one_thread = ratio("one thread's")


class Words(Warm):
    """Raw words, which go into fresh memory."""

    params = ([2**12, 2**20, 2**26],)
    param_names = ("count",)

    @once
    def setup(self, count):
        self.run = partial(fastinit.words, KEY, 0, count)

    time_words = runs
