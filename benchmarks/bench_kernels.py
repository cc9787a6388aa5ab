"""The kernels in cache on one thread, each sampler on each target: many short fills through the public API.

Compare the rates with the processor's limit. `python -m tools.cycles --rates` prints them as a table.
"""

import math
from functools import partial

import numpy as np

import fastinit

from .bench_fill import KEY, TARGETS, supported
from .counters import Counter, Warm, once, runs, unit
from .side_by_side import seconds_of

ELEMENTS = 2**18  # 1 MiB of float32: two milliseconds of work at most, and some 2 us of Python
ROUNDS = 200
CASES = {
    "uniform, float32": (fastinit.Uniform(-0.05, 0.05), "float32"),
    "normal, float32": (fastinit.Normal(0.0, 0.02), "float32"),
    "truncated to +-2 sigma, float32": (fastinit.TruncatedNormal(0.0, 0.02), "float32"),
    "truncated to any bounds, float32": (fastinit.TruncatedNormal(0.0, 0.02, -2.0, 2.5), "float32"),
    "normal, bfloat16": (fastinit.Normal(0.0, 0.02), "bfloat16"),
    "normal, float16": (fastinit.Normal(0.0, 0.02), "float16"),
    "normal, float64": (fastinit.Normal(0.0, 0.02), "float64"),
    "truncated, float64": (fastinit.TruncatedNormal(0.0, 0.02), "float64"),
    "tail beyond 5 sigma, float64": (fastinit.TruncatedNormal(0.0, 0.02, 5.0, math.inf), "float64"),
}


def filling(case, target):
    """A fill of the case's elements on the calling thread, always of the same memory."""
    initializer, dtype = CASES[case]
    out = np.zeros(ELEMENTS, {"float64": np.uint64, "float32": np.uint32}.get(dtype, np.uint16))
    return partial(fastinit.fill, out, initializer, KEY, dtype=dtype, num_threads=1, target=target)


def rate(fill, rounds=ROUNDS):
    """Values per nanosecond in the fastest round."""
    return 1e-9 * ELEMENTS / min(seconds_of(fill) for _ in range(rounds))


class InCache(Warm):
    """A fill of 2^18 elements, limited neither by memory nor by threads."""

    params = (list(CASES), TARGETS)
    param_names = ("case", "target")
    sample_time = 0.01
    repeat = (5, 50, 0.5)

    @once
    def setup(self, case, target):
        supported(target)
        self.run = filling(case, target)

    time_fill = runs

    @unit("values/ns")
    def track_values_per_nanosecond(self, *params):
        return rate(self.run, 50)


class Cycles:
    """Processor cycles per value, independent of the clock, if Linux allows counting them."""

    params = InCache.params
    param_names = InCache.param_names

    @once
    def setup(self, case, target):
        supported(target)
        self.counter, fill = Counter(), filling(case, target)
        self.run = partial(self.counter.of, fill)

    @unit("cycles/value")
    def track_cycles_per_value(self, *params):
        return min(self.run() for _ in range(50)) / ELEMENTS
