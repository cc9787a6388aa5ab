"""Shards against the whole: the same elements, written as slices one after the other, on all threads."""

from itertools import pairwise

import numpy as np

import fastinit

from .counters import once, over

SIDE = 4096
EIGHTH = SIDE // 8


def cuts(count):
    """`count` even intervals of the side."""
    return [(i * SIDE // count, (i + 1) * SIDE // count) for i in range(count)]


WHOLE = [(0, SIDE)]
UNEVEN = [(0, 1), (1, 5 * EIGHTH + 3), (5 * EIGHTH + 3, SIDE - 17), (SIDE - 17, SIDE)]
SHARDINGS = {
    "whole": (WHOLE, WHOLE),
    "8 row shards": (cuts(8), WHOLE),
    "8 column shards": (WHOLE, cuts(8)),
    "64 column shards": (WHOLE, cuts(64)),
    "4 x 4 blocks": (cuts(4), cuts(4)),
    "uneven rows": (UNEVEN, WHOLE),
    "uneven columns": (WHOLE, UNEVEN),
    "uneven blocks": (UNEVEN, UNEVEN),
}


class Shards:
    """All shards of a 4096 x 4096 tensor, each in a buffer of its own."""

    params = (list(SHARDINGS), ["uniform", "normal"], ["float32", "bfloat16"])
    param_names = ("sharding", "distribution", "dtype")
    warmup_time = 0.02
    rounds = 1

    @once
    def setup(self, sharding, distribution, dtype):
        self.initializer = fastinit.glorot_uniform() if distribution == "uniform" else fastinit.he_normal()
        self.key = fastinit.Key(0)
        storage = "uint16" if dtype == "bfloat16" else dtype
        rows, columns = SHARDINGS[sharding]
        self.shards = [
            (np.zeros((bottom - top, right - left), storage), (top, left))
            for top, bottom in rows
            for left, right in columns
        ]
        self.time_all(sharding, distribution, dtype)

    def time_all(self, sharding, distribution, dtype):
        for out, offsets in self.shards:
            fastinit.fill(out, self.initializer, self.key, global_shape=(SIDE, SIDE), offsets=offsets, dtype=dtype)


class OverWhole:
    """The time of all shards over that of the whole tensor: 1 at best."""

    params = ([name for name in SHARDINGS if name != "whole"], ["uniform", "normal"], ["float32"])
    param_names = Shards.param_names

    def setup(self, sharding, distribution, dtype):
        self.shards, self.whole = Shards(), Shards()
        self.shards.setup(sharding, distribution, dtype)
        self.whole.setup("whole", distribution, dtype)

    def track_time_over_whole(self, *params):
        return over(lambda: self.shards.time_all(*params), lambda: self.whole.time_all("whole", *params[1:]))

    track_time_over_whole.unit = "times the whole's"


class FlatRanges:
    """The flattened tensor in equal ranges, some of which begin within a block."""

    params = ([1, 7, 64],)
    param_names = ("ranges",)
    warmup_time = 0.02
    rounds = 1

    @once
    def setup(self, ranges):
        self.key, self.initializer = fastinit.Key(0), fastinit.Normal()
        size = SIDE * SIDE
        bounds = [size * i // ranges for i in range(ranges + 1)]
        self.ranges = [(np.zeros(end - start, np.float32), start) for start, end in pairwise(bounds)]
        self.time_all(ranges)

    def time_all(self, ranges):
        for out, start in self.ranges:
            fastinit.fill(out, self.initializer, self.key, start=start)


class Layouts:
    """The whole tensor into memory of another order."""

    params = (["row-major", "Fortran", "every other column", "channels last"], ["uniform", "normal"])
    param_names = ("layout", "distribution")
    warmup_time = 0.02
    rounds = 1

    @once
    def setup(self, layout, distribution):
        self.key = fastinit.Key(0)
        self.initializer = fastinit.Uniform(-0.05, 0.05) if distribution == "uniform" else fastinit.Normal(0.0, 0.02)
        if layout == "row-major":
            self.out = np.zeros((SIDE, SIDE), np.float32)
        elif layout == "Fortran":
            self.out = np.zeros((SIDE, SIDE), np.float32, order="F")
        elif layout == "every other column":
            self.out = np.zeros((SIDE, 2 * SIDE), np.float32)[:, ::2]
        else:  # a convolution's (out, in, 4, 4), stored (out, 4, 4, in)
            self.out = np.zeros((SIDE // 4, 4, 4, SIDE // 4), np.float32).transpose(0, 3, 1, 2)
        fastinit.fill(self.out, self.initializer, self.key)

    def time_fill(self, layout, distribution):
        fastinit.fill(self.out, self.initializer, self.key)


class OverRowMajor:
    """The time that another order takes over that of the usual one: 1 at best."""

    params = (Layouts.params[0][1:], Layouts.params[1])
    param_names = Layouts.param_names

    def setup(self, layout, distribution):
        self.other, self.usual = Layouts(), Layouts()
        self.other.setup(layout, distribution)
        self.usual.setup("row-major", distribution)

    def track_time_over_row_major(self, *params):
        return over(lambda: self.other.time_fill(*params), lambda: self.usual.time_fill("row-major", params[1]))

    track_time_over_row_major.unit = "times the row-major one's"
