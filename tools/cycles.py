"""Cycles per value of the kernels in cache, on one thread: `python -m tools.cycles` prints them for every target.

Virtual machines seldom show their counters (`counters.Counter` reads them where they do), and a processor's clock
changes with what it does: wide vectors slow it down, and two microseconds after the last of them it stops for one and
is fast again. So the clock is measured right after fills, within half a microsecond, by chains of 64-bit
multiplications, each of which waits for the one before: on every x86-64 processor of the last decade one takes 3
cycles. A short chain and a long one take turns, and only what lies between them counts: right after fills it takes some
50 ns more to read the time. Needs Numba.

`python -m tools.cycles --rates` prints billions of values per second instead, the best of many short fills; it needs
nothing more.
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

STEPS = (200, 600)  # of the short chain, and of the long one
CYCLES_PER_STEP = 3
# Fills in a row: the first 20 us are slow, until the processor has its voltage for wide vectors.
FILLS = 64
BYTES = 2**18  # of each: the second cache holds them
ROUNDS = 100
CLOCK_MONOTONIC = 1  # what time.perf_counter_ns() reads as well


class Chain:
    """Multiplications that wait for each other, and when they began and ended, by the clock of the system.

    Raises
    ------
    NotImplementedError
        If Numba is not installed, or the processor or the system is of another kind.
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
        self.nanoseconds(10**6)  # until the processor is awake
        self.reading = statistics.median(self.nanoseconds(0) for _ in range(1000))

    def nanoseconds(self, steps: int) -> float:
        """How long so many steps take now."""
        self.of(3, steps, self.start, self.end)
        return self.last()

    def last(self) -> float:
        """How long the last steps took."""
        seconds, rest = (self.end - self.start).tolist()
        return 1e9 * seconds + rest - self.reading

    def began(self) -> float:
        """When they did, in the nanoseconds of time.perf_counter_ns()."""
        return int(self.start[0]) * 10**9 + int(self.start[1])


def itemsize_of(case: str) -> int:
    """Bytes of an element."""
    return fastinit.dtypes.dtype_named(CASES[case][1]).itemsize


def core_fill(case: str, target: str, count: int) -> Callable[[], object]:
    """The core's fill of so many elements, always of the same memory, with nothing of Python's around it."""
    itemsize, (initializer, dtype) = itemsize_of(case), CASES[case]
    memory = np.zeros(count * itemsize + 64, np.uint8)
    address = -(-_core.address(memory) // 64) * 64
    sampling, index, words = plan(initializer, None, dtype), fastinit.targets.index_of(target), KEY.words
    return lambda memory=memory: _core.fill_run(index, sampling, words, address, 0, count, itemsize)


def nanoseconds_and_clock(case: str, target: str, chain: Chain) -> tuple[float, float]:
    """Nanoseconds per value, and the clock in GHz.

    The time that a twentieth of the rounds stay below: what disturbs a fill makes it slower, never faster, and where
    another machine's thread shares the core most rounds are disturbed.
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
            multiply(3, steps, start, end)  # at once: not even a call of Python lies between
            times.append((chain.began() - begin) / (FILLS * count))
            chains[turn % 2].append(chain.last())
    short, long = map(statistics.median, chains)
    return statistics.quantiles(times, n=20)[0], (STEPS[1] - STEPS[0]) * CYCLES_PER_STEP / (long - short)


def table(title: str, targets: Sequence[str], rows: dict[str, list[float]]) -> None:
    """Prints a column for each target; what is not a number stays empty."""
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
    # the clock depends on the width of the vectors alone
    clocks = [statistics.median(ghz for _, ghz in column) for column in zip(*found.values(), strict=True)]
    cycles = {
        name: [nanoseconds * ghz for (nanoseconds, _), ghz in zip(row, clocks, strict=True)]
        for name, row in found.items()
    }
    table("cycles per value", targets, cycles | {"clock, GHz": clocks})


if __name__ == "__main__":
    main()
