"""Fills of warm memory: distributions, dtypes, targets, sizes and threads, and the peers at one size.

asv starts a process for each combination of parameters. So that a run takes minutes, the classes take some that stand
for the others; with FASTINIT_BENCH=all in the environment they take every one. The lists do not depend on the machine
or on the commit, or asv could not tell which results belong together: what is not there skips.
"""

import os

import numpy as np

import fastinit

from .counters import gigabytes_per_second, once, over, thousand
from .growth import STORAGE
from .side_by_side import Memset, optional

DISTRIBUTIONS = {
    "constant": fastinit.Constant(0.5),
    "uniform": fastinit.Uniform(-0.05, 0.05),
    "uniform from 0": fastinit.Uniform(0.0, 0.1),
    "normal": fastinit.Normal(0.0, 0.02),
    "truncated +-2 sigma": fastinit.TruncatedNormal(0.0, 0.02),
    "truncated +-3 sigma": fastinit.TruncatedNormal(0.0, 0.02, -3.0, 3.0),
}
TARGETS = ["x86_v4_intel", "x86_v4", "x86_v3", "baseline", "neon", "generic"]
COMMON = ["uniform", "normal", "truncated +-2 sigma"]
ALL = os.environ.get("FASTINIT_BENCH") == "all"


def supported(target):
    """The target as `fill` takes it. Raises NotImplementedError if this build or this processor does not run it."""
    if target == "default":
        return None
    if target not in fastinit.targets.supported():
        raise NotImplementedError(f"the target {target} does not run here")
    return target


def buffer(size, dtype):
    """Memory for so many elements. Raises NotImplementedError if that would take more than half of what is free."""
    out = np.dtype(STORAGE[dtype])
    try:
        with open("/proc/meminfo") as file:
            free = next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = 2**34
    if 2 * size * out.itemsize > free:
        raise NotImplementedError(f"not enough memory for {size} elements")
    return np.zeros(size, out)


class _Filling:
    """What the classes of this file prepare: warm memory, and a fill of it."""

    @once
    def setup(self, distribution, dtype, target, size, threads):
        self.place = {
            "dtype": dtype,
            "target": supported(target),
            "num_threads": fastinit.default_num_threads() if threads == "all" else threads,
        }
        self.initializer, self.key = DISTRIBUTIONS[distribution], fastinit.Key(0)
        self.out = buffer(size, dtype)
        self.fill()

    def fill(self):
        fastinit.fill(self.out, self.initializer, self.key, **self.place)


class Fill(_Filling):
    """One fill, in cache and in memory."""

    if ALL:
        sizes = [2**n for n in (16, 20, 23, 26, 28)]
        params = (list(DISTRIBUTIONS), list(STORAGE), TARGETS, sizes, [1, "all"])
    else:
        params = (COMMON, ["float32", "bfloat16"], TARGETS, [2**16, 2**26], ["all"])
    param_names = ("distribution", "dtype", "target", "size", "threads")
    warmup_time = 0.0
    rounds = 1
    repeat = (5, 50, 0.5)

    def time_fill(self, distribution, dtype, target, size, threads):
        self.fill()


class Large(Fill):
    """2^28 elements: 1 GiB of float32."""

    params = (["uniform", "normal"], ["float32", "float64"] if ALL else ["float32"], ["default"], [2**28], ["all"])
    repeat = (3, 5, 2.0)


class Small(_Filling):
    """A thousand fills of little."""

    if ALL:
        params = (list(DISTRIBUTIONS), list(STORAGE), TARGETS, [2**4, 2**8, 2**12], ["all"])
    else:
        params = (COMMON, ["float32", "bfloat16"], ["default"], [2**4, 2**8, 2**12], ["all"])
    param_names = Fill.param_names
    warmup_time = 0.02
    rounds = 1

    @thousand
    def time_1000_fills(self, distribution, dtype, target, size, threads):
        self.fill()


class Rate(_Filling):
    """GB/s, to be read; commits are compared by their times, since asv takes less as better."""

    if ALL:
        params = (list(DISTRIBUTIONS), list(STORAGE), TARGETS, [2**26], [1, "all"])
    else:
        params = (COMMON, list(STORAGE), ["default"], [2**26], ["all"])
    param_names = Fill.param_names

    def track_gigabytes_per_second(self, distribution, dtype, target, size, threads):
        return gigabytes_per_second(self.fill, self.out.nbytes)

    track_gigabytes_per_second.unit = "GB/s"


class OverMemset(_Filling):
    """The time of a fill over that of a memset of the same memory on as many threads."""

    if ALL:
        params = (list(DISTRIBUTIONS), list(STORAGE), TARGETS, [2**20, 2**26], [1, "all"])
    else:
        params = (COMMON, ["float32", "bfloat16"], ["default"], [2**26], ["all"])
    param_names = Fill.param_names

    def track_time_over_memset(self, distribution, dtype, target, size, threads):
        memset = Memset(self.place["num_threads"])
        _, write = memset.faster(self.out)
        return over(self.fill, lambda: write(self.out))

    track_time_over_memset.unit = "times memset's"


class Threads(_Filling):
    """The same fill on one thread, on two, and on all that fastinit takes by itself."""

    if ALL:
        params = (list(DISTRIBUTIONS), list(STORAGE), ["default"], [2**18, 2**20, 2**23, 2**26], [1, 2, 4, 8, "all"])
    else:
        params = (COMMON, ["float32"], ["default"], [2**20, 2**26], [1, 2, "all"])
    param_names = Fill.param_names
    warmup_time = 0.02
    rounds = 1
    repeat = (5, 50, 0.5)

    def time_fill(self, distribution, dtype, target, size, threads):
        self.fill()


class OverOneThread(_Filling):
    """The time on several threads over that on one: a half on two at best."""

    params = (COMMON, ["float32"], ["default"], [2**20, 2**26], [2, "all"] if ALL else [2])
    param_names = Fill.param_names

    def setup(self, distribution, dtype, target, size, threads):
        if fastinit.default_num_threads() < 2:
            raise NotImplementedError("this process may use one processor only")
        super().setup(distribution, dtype, target, size, threads)

    def track_time_over_one_thread(self, distribution, dtype, target, size, threads):
        alone = {**self.place, "num_threads": 1}
        return over(self.fill, lambda: fastinit.fill(self.out, self.initializer, self.key, **alone))

    track_time_over_one_thread.unit = "times one thread's"


class Words:
    """Raw words, which go into fresh memory."""

    params = ([2**12, 2**20, 2**26],)
    param_names = ("count",)
    rounds = 1

    def setup(self, count):
        self.key = fastinit.Key(0)

    def time_words(self, count):
        fastinit.words(self.key, 0, count)


class Peer:
    """What else fills 2^24 elements of warm float32 memory."""

    params = (
        ["memset", "numpy random", "numpy standard_normal", "torch uniform_", "torch normal_", "torch trunc_normal_"],
    )
    param_names = ("peer",)
    size = 2**24
    warmup_time = 0.0
    rounds = 1

    @once
    def setup(self, peer):
        out = np.zeros(self.size, np.float32)
        library, _, name = peer.partition(" ")
        if library == "memset":
            memset = Memset(fastinit.default_num_threads())
            self.run = lambda: memset.by_ctypes(out)
        elif library == "numpy":
            draw = getattr(np.random.default_rng(0), name)
            self.run = lambda: draw(out=out, dtype=np.float32)
        else:
            torch = optional("torch")
            torch.set_num_threads(fastinit.default_num_threads())
            tensor = torch.from_numpy(out)
            self.run = getattr(tensor, name, None) or (lambda: torch.nn.init.trunc_normal_(tensor))
        self.run()

    def time_fill(self, peer):
        self.run()
