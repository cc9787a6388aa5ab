"""Fills of untouched memory, with huge and small pages, and the extra memory of a fill."""

import contextlib
import os
from functools import partial

import numpy as np

import fastinit

from .bench_fill import KEY
from .counters import over, runs, unit
from .growth import DISTRIBUTIONS, measured
from .side_by_side import Memset, pages, settle_memory

SIZES = [2**20, 2**24, 2**26]


class _Fresh:
    """Memory that is first touched while the clock runs. Each setup allocates its own without touching it."""

    number = 1
    warmup_time = 0.0
    rounds = 1

    def fresh(self, size, page):
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(pages(page == "huge"))
        return np.empty(size, np.float32)

    def teardown(self, *params):  # after a skip too
        self.run = None
        self.stack.close()

    time_fill = runs


class Fresh(_Fresh):
    """A fill of untouched memory."""

    params = (["uniform", "normal"], SIZES, [1, 2], ["huge", "4 KiB"])
    param_names = ("distribution", "size", "threads", "pages")
    repeat = 9

    def setup(self, distribution, size, threads, page):
        initializer = DISTRIBUTIONS[distribution]
        fastinit.fill(np.zeros(16, np.float32), initializer, KEY)
        self.run = partial(fastinit.fill, self.fresh(size, page), initializer, KEY, num_threads=threads)


class FreshPeer(_Fresh):
    """NumPy's fill of untouched memory."""

    params = (["zeros", "standard_normal"], SIZES, ["huge", "4 KiB"])
    param_names = ("peer", "size", "pages")
    repeat = 5

    def setup(self, peer, size, page):
        out, draw = self.fresh(size, page), np.random.default_rng(0).standard_normal
        self.run = partial(out.fill, 0.0) if peer == "zeros" else partial(draw, out=out, dtype=np.float32)


class OverMemset:
    """The time of a fill of fresh memory over that of a memset of fresh memory on as many threads."""

    params = (["uniform", "normal"], [2**24])
    param_names = ("distribution", "size")

    def setup(self, distribution, size):
        self.initializer, self.memset = DISTRIBUTIONS[distribution], Memset(fastinit.default_num_threads())

    @unit("times memset's")
    def track_time_over_memset(self, distribution, size):
        return over(
            lambda: fastinit.fill(np.empty(size, np.float32), self.initializer, KEY),
            lambda: self.memset.by_ctypes(np.empty(size, np.float32)),
            before=lambda: settle_memory(8 * size),
        )


class Extra:
    """Growth of the peak during elementwise fills of 64 MiB that have been touched, the most of them, per thread."""

    params = ([1, 2],)
    param_names = ("threads",)

    def setup(self, threads):
        if not os.path.exists("/proc/self/status"):
            raise NotImplementedError("peak memory is read from /proc")

    @unit("bytes")
    def track_extra_memory_per_thread(self, threads):
        return max(measured(threads, 2**26).values()) / threads
