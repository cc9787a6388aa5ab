"""Where memory comes from: warm or never touched, with huge pages or small ones; and what a fill takes beyond it."""

import contextlib
import os

import numpy as np

import fastinit

from .counters import once, over
from .growth import DISTRIBUTIONS, STORAGE, measured
from .side_by_side import Memset, pages, settle_memory

SIZES = [2**20, 2**24, 2**26]


class Warm:
    """Memory that has been written before."""

    params = (["uniform", "normal"], SIZES, [1, 2])
    param_names = ("distribution", "size", "threads")
    warmup_time = 0.02
    rounds = 1

    @once
    def setup(self, distribution, size, threads):
        self.initializer, self.key = DISTRIBUTIONS[distribution], fastinit.Key(0)
        self.out = np.zeros(size, np.float32)
        self.time_fill(distribution, size, threads)

    def time_fill(self, distribution, size, threads):
        fastinit.fill(self.out, self.initializer, self.key, num_threads=threads)


class Fresh:
    """Memory that the fill is the first to touch: the setup of each sample makes its own and touches no page of it."""

    params = (["uniform", "normal"], SIZES, [1, 2], ["huge", "4 KiB"])
    param_names = ("distribution", "size", "threads", "pages")
    number = 1
    warmup_time = 0.0
    rounds = 1
    repeat = 9

    def setup(self, distribution, size, threads, page):
        self.initializer, self.key = DISTRIBUTIONS[distribution], fastinit.Key(0)
        fastinit.fill(np.zeros(16, np.float32), self.initializer, self.key)
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(pages(page == "huge"))
        self.out = np.empty(size, np.float32)

    def teardown(self, distribution, size, threads, page):  # after a skip too
        self.out = None
        self.stack.close()

    def time_fill(self, distribution, size, threads, page):
        fastinit.fill(self.out, self.initializer, self.key, num_threads=threads)


class FreshPeer:
    """NumPy into memory that it is the first to touch."""

    params = (["zeros", "standard_normal"], SIZES, ["huge", "4 KiB"])
    param_names = ("peer", "size", "pages")
    number = 1
    warmup_time = 0.0
    rounds = 1
    repeat = 5

    def setup(self, peer, size, page):
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(pages(page == "huge"))
        self.generator = np.random.default_rng(0)
        self.out = np.empty(size, np.float32)

    def teardown(self, peer, size, page):  # after a skip too
        self.out = None
        self.stack.close()

    def time_fill(self, peer, size, page):
        if peer == "zeros":
            self.out.fill(0.0)
        else:
            self.generator.standard_normal(out=self.out, dtype=np.float32)


class OverMemset:
    """The time of a fill of fresh memory over that of a memset of fresh memory on as many threads."""

    params = (["uniform", "normal"], [2**24])
    param_names = ("distribution", "size")

    def setup(self, distribution, size):
        self.initializer, self.key = DISTRIBUTIONS[distribution], fastinit.Key(0)
        self.memset = Memset(fastinit.default_num_threads())

    def track_time_over_memset(self, distribution, size):
        return over(
            lambda: fastinit.fill(np.empty(size, np.float32), self.initializer, self.key),
            lambda: self.memset.by_ctypes(np.empty(size, np.float32)),
            before=lambda: settle_memory(8 * size),
        )

    track_time_over_memset.unit = "times memset's"


class Peak:
    """Peak resident memory of a process that fills 64 MiB; "none" only touches them, and is what to compare with."""

    params = (["none", *DISTRIBUTIONS], list(STORAGE))
    param_names = ("distribution", "dtype")

    def setup(self, distribution, dtype):
        self.out = np.zeros(2**26, np.uint8).view(STORAGE[dtype])
        self.out.fill(1)
        fastinit.fill(np.zeros(16, np.float32), DISTRIBUTIONS["normal"], fastinit.Key(0))

    def peakmem_fill(self, distribution, dtype):
        if distribution != "none":
            fastinit.fill(self.out, DISTRIBUTIONS[distribution], fastinit.Key(0), dtype=dtype)


class Extra:
    """Growth of the peak during elementwise fills of 64 MiB that have been touched, the most of them, per thread."""

    params = ([1, 2],)
    param_names = ("threads",)

    def setup(self, threads):
        if not os.path.exists("/proc/self/status"):
            raise NotImplementedError("peak memory is read from /proc")

    def track_extra_memory_per_thread(self, threads):
        return max(measured(threads, 2**26).values()) / threads

    track_extra_memory_per_thread.unit = "bytes"
