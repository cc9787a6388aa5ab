"""Cycles per value of the kernels in cache, on one thread: `python -m tools.cycles` prints them for every target.

Virtual machines seldom expose their counters (`counters.Counter` reads them if they do), and a processor's clock
depends on the load. Wide vectors slow it down. Two microseconds after the last one, the processor stops for one
microsecond and is fast again. So this tool measures the clock within half a microsecond after fills. It uses chains of
dependent 64-bit multiplications, which take 3 cycles each on every x86-64 processor of the last decade. Short and long
chains alternate, and only their difference counts, because reading the time takes about 50 ns more right after fills.
Needs Numba.

`python -m tools.cycles --rates` prints billions of values per second instead, the best of many short fills, without
Numba.
"""

from __future__ import annotations

import ctypes
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fastinit
from benchmarks.bench_kernels import CASES, KEY, filling, rate
from benchmarks.side_by_side import optional, repeated, without_garbage_collection
from fastinit import _core
from fastinit.initializers import plan

STEPS = (200, 600)  # lengths of the short and the long chain
CYCLES_PER_STEP = 3
# Consecutive fills: the first 20 us are slow, until the processor reaches its voltage for wide vectors.
FILLS = 64
BYTES = 2**18  # bytes of each: they fit in the second-level cache
ROUNDS = 100
CLOCK_MONOTONIC = 1  # the clock of time.perf_counter_ns()


class Chain:
    """Dependent multiplications, with their start and end by the system's clock.

    Raises
    ------
    NotImplementedError
        If Numba is not installed, or the processor or the system is not supported.
    """

    def __init__(self) -> None:
        if platform.machine() not in ("x86_64", "AMD64"):
            raise NotImplementedError(f"how long a multiplication takes is not known of {platform.machine()}")
        numba = optional("numba")
        read = getattr(ctypes.CDLL(None), "clock_gettime", None)
        if read is None:
            raise NotImplementedError("this system has no clock_gettime")
        read.argtypes, read.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_int

        @numba.njit
        def product(x: Any, steps: Any, start: Any, end: Any) -> Any:
            read(CLOCK_MONOTONIC, start.ctypes)
            for _ in range(steps):
                x *= x
            read(CLOCK_MONOTONIC, end.ctypes)
            return x

        self.start, self.end = np.zeros(2, np.int64), np.zeros(2, np.int64)  # seconds and nanoseconds
        self.of = product
        self.reading = 0.0
        self.nanoseconds(10**6)  # until the processor runs at speed
        self.reading = statistics.median(self.nanoseconds(0) for _ in range(1000))

    def nanoseconds(self, steps: int) -> float:
        """The time of a number of steps."""
        self.of(3, steps, self.start, self.end)
        return self.last()

    def last(self) -> float:
        """The time of the last steps."""
        seconds, rest = (self.end - self.start).tolist()
        return 1e9 * seconds + rest - self.reading

    def began(self) -> float:
        """Start and end of the last steps, in the nanoseconds of time.perf_counter_ns()."""
        return int(self.start[0]) * 10**9 + int(self.start[1])


def itemsize_of(case: str) -> int:
    """Bytes of an element."""
    return fastinit.dtypes.dtype_named(CASES[case][1]).itemsize


def core_fill(case: str, target: str, count: int) -> Callable[[], object]:
    """The core's fill of a number of elements, always in the same memory, without Python code around it."""
    itemsize, (initializer, dtype) = itemsize_of(case), CASES[case]
    memory = np.zeros(count * itemsize + 64, np.uint8)
    address = -(-_core.address(memory) // 64) * 64
    sampling, index, words = plan(initializer, None, dtype), fastinit.targets.index_of(target), KEY.words
    return lambda memory=memory: _core.fill_run(index, sampling, words, address, 0, count, itemsize)


def nanoseconds_and_clock(case: str, target: str, chain: Chain) -> tuple[float, float]:
    """Nanoseconds per value, and the clock in GHz.

    The result is the fifth percentile of the rounds. Disturbances only slow a fill down, and if another machine's
    thread shares the core, they affect most rounds.
    """
    count = BYTES // itemsize_of(case)
    run = repeated(core_fill(case, target, count), FILLS)
    times: list[float] = []
    chains: tuple[list[float], list[float]] = [], []
    multiply, start, end = chain.of, chain.start, chain.end
    with without_garbage_collection():
        run()
        for turn in range(ROUNDS):
            steps = STEPS[turn % 2]
            begin = time.perf_counter_ns()
            run()
            multiply(3, steps, start, end)  # immediately, without a Python call in between
            times.append((chain.began() - begin) / (FILLS * count))
            chains[turn % 2].append(chain.last())
    short, long = map(statistics.median, chains)
    return statistics.quantiles(times, n=20)[0], (STEPS[1] - STEPS[0]) * CYCLES_PER_STEP / (long - short)


def table(title: str, targets: Sequence[str], rows: dict[str, list[float]]) -> None:
    """Prints one column per target, with NaN as an empty cell."""
    print(f"| {title} |", " | ".join(targets), "|\n|---|" + "---|" * len(targets))
    for name, row in rows.items():
        print(f"| {name} |", " | ".join("" if math.isnan(value) else f"{value:.2f}" for value in row), "|")


def main() -> None:
    targets = fastinit.targets.supported()
    if "--rates" in sys.argv:
        rates = {name: [rate(filling(name, target)) for target in targets] for name in CASES}
        table("billions of values per second", targets, rates)
        return
    chain = Chain()
    found = {name: [nanoseconds_and_clock(name, target, chain) for target in targets] for name in CASES}
    # the clock depends only on the width of the vectors
    clocks = [statistics.median(ghz for _, ghz in column) for column in zip(*found.values(), strict=True)]
    cycles = {
        name: [nanoseconds * ghz for (nanoseconds, _), ghz in zip(row, clocks, strict=True)]
        for name, row in found.items()
    }
    table("cycles per value", targets, cycles | {"clock, GHz": clocks})


if __name__ == "__main__":
    main()
