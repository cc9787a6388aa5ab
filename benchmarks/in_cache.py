"""Rates of the kernels on one thread in cache: `python benchmarks/in_cache.py` prints the table of docs/performance.md.

Billions of values per second, the best of many short fills of 2^18 elements through the public API: a rate to hold
against the processor's limit, not against another machine's. `bench_kernels.py` follows the same cases with asv.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import numpy as np

import fastinit

ELEMENTS = 2**18  # 1 MiB of float32: two milliseconds of work at most, and some 2 us of Python
ROUNDS = 200
KEY = fastinit.Key(0)
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


def filling(case: str, target: str) -> Callable[[], object]:
    """What fills the case's elements on the calling thread, into the same memory each time."""
    initializer, dtype = CASES[case]
    out = np.zeros(ELEMENTS, {"float64": np.uint64, "float32": np.uint32}.get(dtype, np.uint16))
    return partial(fastinit.fill, out, initializer, KEY, dtype=dtype, num_threads=1, target=target)


def rate(fill: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Values per nanosecond, of the fastest round."""
    best = math.inf
    for _ in range(rounds):
        start = time.perf_counter()
        fill()
        best = min(best, time.perf_counter() - start)
    return 1e-9 * ELEMENTS / best


if __name__ == "__main__":
    targets = fastinit.targets.supported()
    print("| |", " | ".join(targets), "|\n|---|" + "---|" * len(targets))
    for name in CASES:
        print(f"| {name} |", " | ".join(f"{rate(filling(name, target)):.2f}" for target in targets), "|")
