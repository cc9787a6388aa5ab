"""Measuring tools of the benchmarks: alternating contestants, memset on threads, huge pages. Nothing here prints."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

import fastinit

Run = Callable[[], object]

#: Maximum number of rounds, even for fast contestants.
MOST_ROUNDS = 41
PR_SET_THP_DISABLE = 41


def optional(name: str) -> ModuleType:
    """A peer that may be missing.

    Raises
    ------
    NotImplementedError
        If it is not installed, so that asv skips the benchmark.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise NotImplementedError(f"{name} is not installed") from None


def torch_on_as_many_threads() -> Any:
    """torch, if installed, with fastinit's number of threads."""
    torch = optional("torch")
    torch.set_num_threads(fastinit.default_num_threads())
    return torch


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Collects garbage now and not during timing. Nested uses have no effect."""
    if not gc.isenabled():
        yield
        return
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def seconds_of(run: Run) -> float:
    """Wall-clock seconds of one run. Its result is freed after the clock has stopped."""
    start = time.perf_counter()
    result = run()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def repeated(run: Run, calls: int) -> Run:
    """A number of consecutive runs."""

    def runs() -> None:
        for _ in range(calls):
            run()

    return runs


def alternate(
    ours: Run, peer: Run, rounds: int = 5, budget: float = 5.0, before: Run | None = None
) -> tuple[list[float], list[float]]:
    """Seconds of two contestants run in turn, A B A B ..., after one warm-up run of each.

    `before` is called before each run, outside its time.

    Both run in the same minute on the same machine, so ratios of neighbours are meaningful even if the times are not.
    Runs at least `rounds` rounds, and more until `budget` seconds are spent.
    """
    times: tuple[list[float], list[float]] = ([], [])
    with without_garbage_collection():
        ours()
        peer()
        end = time.perf_counter() + budget
        while len(times[0]) < rounds or (len(times[0]) < MOST_ROUNDS and time.perf_counter() < end):
            for run, own in zip((ours, peer), times, strict=True):
                if before is not None:
                    before()
                own.append(seconds_of(run))
    return times


def per_call(run: Run, groups: int = 5, blocks: int = 50, calls: int = 200) -> list[float]:
    """Seconds of one call of something small: for each group, the median over blocks of the mean over calls."""
    runs = repeated(run, calls)
    with without_garbage_collection():
        runs()
        return [statistics.median(seconds_of(runs) / calls for _ in range(blocks)) for _ in range(groups)]


class Memset:
    """memset on running threads, each with its own consecutive share of the memory.

    The byte is not 0 by default, because some processors and hypervisors handle zeros specially, and then a memset of
    zeros is faster than any store of data.
    """

    def __init__(self, threads: int, byte: int = 0x5A) -> None:
        self.threads = threads
        self.byte = byte
        self.pool = ThreadPoolExecutor(threads)

    def by_ctypes(self, out: np.ndarray) -> np.ndarray:
        """The C library's, called through ctypes, which releases the GIL."""
        return self._spread(lambda share: ctypes.memset(share.ctypes.data, self.byte, share.nbytes), out)

    def by_numpy(self, out: np.ndarray) -> np.ndarray:
        """``ndarray.fill``, which releases the GIL too."""
        return self._spread(lambda share: share.view(np.uint8).fill(self.byte), out)

    def _spread(self, write: Callable[[np.ndarray], object], out: np.ndarray) -> np.ndarray:
        first, *others = np.array_split(out.reshape(-1), self.threads)
        waiting = [self.pool.submit(write, share) for share in others]
        write(first)
        for share in waiting:
            share.result()
        return out

    def faster(self, out: np.ndarray, rounds: int = 5) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
        """The faster of the two on this memory, and its name."""
        ctypes_times, numpy_times = alternate(lambda: self.by_ctypes(out), lambda: self.by_numpy(out), rounds, 0.0)
        if statistics.median(ctypes_times) <= statistics.median(numpy_times):
            return "ctypes.memset", self.by_ctypes
        return "ndarray.fill", self.by_numpy


def settle_memory(nbytes: int) -> None:
    """Touches a number of bytes and frees them, so that the next allocation has been touched before.

    A virtual machine gets a page from its host at the first touch, about a hundred times slower than from itself, and
    may return it soon after it is freed. Without this, fresh memory would measure the time since a page's last use.
    """
    piece = 2**28
    held = []
    for size in [piece] * (nbytes // piece) + [nbytes % piece]:
        held.append(np.empty(size, np.uint8))
        held[-1][::4096] = 1


@contextmanager
def pages(huge: bool) -> Iterator[None]:
    """A context in which fresh memory gets huge pages on request, or never. Afterwards huge pages are allowed.

    Advice on single buffers, from NumPy or from fastinit, has no effect while they are not allowed.

    Raises
    ------
    NotImplementedError
        If the operating system does not offer the choice.
    """
    refuse = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform.startswith("linux") else None
    rest = [ctypes.c_ulong(0)] * 3
    if refuse is None or refuse(PR_SET_THP_DISABLE, ctypes.c_ulong(not huge), *rest) != 0:
        raise NotImplementedError("this system does not let a process refuse huge pages")
    try:
        yield
    finally:
        refuse(PR_SET_THP_DISABLE, ctypes.c_ulong(0), *rest)


def processor() -> str:
    """The operating system's name of the processor, with family and model if the name is too general."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = file.read().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    fields = {name.strip(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in fields and "model" in fields:
        name += f" (family {fields['cpu family']}, model {fields['model']})"
    return f"{name}, {os.cpu_count()} CPUs"


def load() -> str:
    """The machine's load in the last minute. Figures from a busy machine are unreliable."""
    try:
        return f"load {os.getloadavg()[0]:.1f}"
    except (OSError, AttributeError):
        return "load unknown"
