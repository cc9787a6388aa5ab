"""Cycles per value of the kernels in cache, on one thread: `python benchmarks/cycles.py` prints them for every target.

Virtual machines seldom show their counters (`counters.Counter` reads them where they do), and their clock changes with
what the neighbours do. So the clock is measured as well, beside each fill: by a chain of 64-bit multiplications, each
of which waits for the one before. On every x86-64 processor of the last decade one takes 3 cycles. Needs Numba.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import fastinit

if __package__:
    from .in_cache import CASES, ELEMENTS, filling
    from .side_by_side import optional, seconds_of, without_garbage_collection
else:  # run as a script
    from in_cache import CASES, ELEMENTS, filling
    from side_by_side import optional, seconds_of, without_garbage_collection

STEPS = 2**15
CYCLES_PER_STEP = 3
ROUNDS = 100


def chain() -> Callable[[], object]:
    """What takes STEPS * CYCLES_PER_STEP cycles.

    Raises
    ------
    NotImplementedError
        If Numba is not installed, or the processor is of another kind.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        raise NotImplementedError(f"how long a multiplication takes is not known of {platform.machine()}")
    numba = optional("numba")

    @numba.njit
    def product(x: Any) -> Any:
        for _ in range(STEPS):
            x *= x
        return x

    odd = 3
    product(odd)
    return lambda: product(odd)


def cycles_per_value(fill: Callable[[], object], clock: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The lower quartile of the ratios of neighbours: what disturbs a fill makes it slower, never faster."""
    with without_garbage_collection():
        fill()
        ratios = sorted(seconds_of(fill) / seconds_of(clock) for _ in range(rounds))
    return ratios[rounds // 4] * STEPS * CYCLES_PER_STEP / ELEMENTS


if __name__ == "__main__":
    targets, clock = fastinit.targets.supported(), chain()
    print("| cycles per value |", " | ".join(targets), "|\n|---|" + "---|" * len(targets))
    for name in CASES:
        print(f"| {name} |", " | ".join(f"{cycles_per_value(filling(name, t), clock):.2f}" for t in targets), "|")
