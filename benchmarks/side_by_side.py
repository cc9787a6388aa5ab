"""What the benchmarks measure with: contestants in turn, memset on threads, huge pages. Nothing here prints."""

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

#: However fast the contestants are, more rounds than this tell nothing new.
MOST_ROUNDS = 41
PR_SET_THP_DISABLE = 41


def optional(name: str) -> ModuleType:
    """A peer that may be missing.

    Raises
    ------
    NotImplementedError
        If it is not installed; asv takes that as a benchmark to be skipped.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise NotImplementedError(f"{name} is not installed") from None


def torch_on_as_many_threads() -> Any:
    """torch, if it is installed, on as many threads as fastinit takes."""
    torch = optional("torch")
    torch.set_num_threads(fastinit.default_num_threads())
    return torch


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Collects now, and not while something is timed; within another one, nothing more."""
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
    """Wall-clock seconds of one run. What it returns is freed after the clock has stopped."""
    start = time.perf_counter()
    result = run()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def repeated(run: Run, calls: int) -> Run:
    """So many runs one after the other."""

    def runs() -> None:
        for _ in range(calls):
            run()

    return runs


def alternate(
    ours: Run, peer: Run, rounds: int = 5, budget: float = 5.0, before: Run | None = None
) -> tuple[list[float], list[float]]:
    """Seconds of two contestants run in turn, A B A B ..., after one warm-up run of each.

    `before` is called before each run, outside its time.

    Both see the same minute of the same machine, so the ratio of two neighbours means something even where the times do
    not. At least `rounds` rounds, and more until `budget` seconds are spent.
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
    """memset on threads that are already running, each with its own consecutive share of the memory.

    The byte is not 0 unless that is asked for: some processors and hypervisors do not write zeros out as they do other
    values, and then a memset of zeros outruns every store of data.
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
    """Touches so many bytes and frees them: what is asked for next has been touched before.

    A virtual machine gets a page from its host at the first touch, some hundred times slower than from itself, and may
    give it back soon after it is free. Fresh memory would then measure how long ago a page was last used.
    """
    piece = 2**28
    held = []
    for size in [piece] * (nbytes // piece) + [nbytes % piece]:
        held.append(np.empty(size, np.uint8))
        held[-1][::4096] = 1


@contextmanager
def pages(huge: bool) -> Iterator[None]:
    """Within it, fresh memory gets huge pages where somebody asks for them, or never; huge pages are allowed after it.

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
    """The processor as the operating system names it; with family and model where the name alone says little."""
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
    """How busy the machine has been in the last minute: figures from a busy one are worth little."""
    try:
        return f"load {os.getloadavg()[0]:.1f}"
    except (OSError, AttributeError):
        return "load unknown"
