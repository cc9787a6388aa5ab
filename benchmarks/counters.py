"""Helpers of the suite: preparing once, a thousand calls, rates, ratios to a peer, processor cycles.

A ratio is our time over the peer's, measured side by side. For asv, less is better.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import math
import os
import platform
import statistics
import struct
import sys
from collections.abc import Callable
from typing import Any

from .side_by_side import alternate, repeated, seconds_of, without_garbage_collection

Run = Callable[[], object]

ROUNDS = 5
# Shorter runs are repeated, so that the clock's own time does not matter.
LEAST_SECONDS = 1e-3

# Events of perf_event_open: (type, config). The task clock counts nanoseconds in software, and so exists everywhere.
CYCLES = (0, 0)
TASK_CLOCK = (1, 1)
SYSCALLS = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
ATTRIBUTE_BYTES = 64  # size of the structure's first version, which every kernel accepts
DISABLED, PINNED, WITHOUT_KERNEL, WITHOUT_HYPERVISOR = 1, 1 << 2, 1 << 5, 1 << 6
CLOSE_ON_EXEC = 8
ENABLE, DISABLE, RESET = 0x2400, 0x2401, 0x2403


def once(setup: Callable[..., None]) -> Callable[..., None]:
    """A setup that prepares once per process and then runs ``self.run``.

    asv calls a setup before every sample, and warm memory must stay warm.
    """

    @functools.wraps(setup)
    def prepared(self: Any, *params: Any) -> None:
        if getattr(self, "_prepared", None) != params:
            setup(self, *params)
            if hasattr(self, "run"):
                self.run()
            self._prepared = params

    return prepared


def thousand(call: Callable[..., object]) -> Callable[..., None]:
    """A benchmark of something small, as a thousand calls: read its milliseconds as microseconds per call.

    With a setup asv times single calls, and the clock would be a large part of them.
    """

    @functools.wraps(call)
    def calls(self: Any, *params: Any) -> None:
        for _ in range(1000):
            call(self, *params)

    return calls


class Warm:
    """The base of benchmarks that time what their setup prepared and ran."""

    warmup_time = 0.02
    rounds = 1


def runs(self: Any, *params: Any) -> None:
    """The benchmark of ``self.run``, which the setup prepared: ``time_fill = runs``."""
    self.run()


def unit(name: str) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """The unit of a benchmark's result."""

    def named(track: Callable[..., float]) -> Callable[..., float]:
        track.unit = name  # type: ignore[attr-defined]
        return track

    return named


def ratio(whose: str) -> Callable[..., float]:
    """A benchmark: the time of ``self.run`` over that of ``self.peer``, both from the setup."""

    @unit(f"times {whose}")
    def track(self: Any, *params: Any) -> float:
        return over(self.run, self.peer)

    return track


def _several(run: Run) -> tuple[Run, int]:
    """The run, repeated until it is long enough to time, and the number of repeats; runs it twice."""
    run()
    calls = math.ceil(LEAST_SECONDS / max(seconds_of(run), 1e-7))
    return repeated(run, calls), calls


def seconds(run: Run) -> float:
    """The median time of one call."""
    runs, calls = _several(run)
    with without_garbage_collection():
        return statistics.median(seconds_of(runs) for _ in range(ROUNDS)) / calls


def gigabytes_per_second(run: Run, nbytes: int) -> float:
    """The rate of a run that writes this many bytes."""
    return nbytes / seconds(run) / 1e9


def over(ours: Run, peer: Run, before: Run | None = None) -> float:
    """Our time over the peer's: the median of neighbours, run in turn. `before` is run before each, and not timed."""
    (our_runs, our_calls), (peer_runs, peer_calls) = _several(ours), _several(peer)
    times = alternate(our_runs, peer_runs, ROUNDS, 0.0, before)
    return statistics.median(own / other for own, other in zip(*times, strict=True)) * peer_calls / our_calls


class Counter:
    """A Linux counter for the creating thread in user mode, as in `perf stat`.

    Virtual machines seldom have counters of the hardware, and containers may forbid them.

    Raises
    ------
    NotImplementedError
        If the counter is not available.
    """

    def __init__(self, event: tuple[int, int] = CYCLES) -> None:
        number = SYSCALLS.get(platform.machine())
        if not sys.platform.startswith("linux") or number is None:
            raise NotImplementedError("no cycle counter here: it is read through perf_event_open of Linux")
        kind, config = event
        attribute = ctypes.create_string_buffer(ATTRIBUTE_BYTES)
        struct.pack_into("=IIQ", attribute, 0, kind, ATTRIBUTE_BYTES, config)
        # pinned: always counting or not at all, so that the count needs no scaling
        struct.pack_into("=Q", attribute, 40, DISABLED | PINNED | WITHOUT_KERNEL | WITHOUT_HYPERVISOR)
        library = ctypes.CDLL(None, use_errno=True)
        this_thread, any_processor, no_group = (ctypes.c_long(value) for value in (0, -1, -1))
        self.file: int = library.syscall(
            ctypes.c_long(number), attribute, this_thread, any_processor, no_group, ctypes.c_ulong(CLOSE_ON_EXEC)
        )
        if self.file < 0:
            raise NotImplementedError(f"no cycle counter here: {os.strerror(ctypes.get_errno())}")

    def of(self, run: Run) -> int:
        """The count while this thread runs it; other threads are not counted.

        Raises
        ------
        NotImplementedError
            If all counters of the processor are in use.
        """
        fcntl.ioctl(self.file, RESET, 0)
        fcntl.ioctl(self.file, ENABLE, 0)
        run()
        fcntl.ioctl(self.file, DISABLE, 0)
        counted = os.read(self.file, 8)
        if len(counted) < 8:
            raise NotImplementedError("no cycle counter here: all are in use")
        return int.from_bytes(counted, sys.byteorder)

    def close(self) -> None:
        """Closes the counter."""
        os.close(self.file)
