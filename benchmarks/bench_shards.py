"""Shards against the whole: the same elements, written as slices one after the other, on all threads."""

from functools import partial
from itertools import pairwise, product

import numpy as np

import fastinit

from .bench_fill import DISTRIBUTIONS, KEY
from .counters import Warm, once, ratio, runs
from .growth import STORAGE

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


def in_turn(buffers, initializer, **place):
    """Fills of the buffers, each with its position in the tensor."""

    def fill():
        for out, own in buffers:
            fastinit.fill(out, initializer, KEY, **place, **own)

    return fill


def sharded(sharding, distribution, dtype):
    """Fills of all shards of the tensor, each in a buffer of its own."""
    initializer = {"uniform": fastinit.glorot_uniform(), "normal": fastinit.he_normal()}[distribution]
    buffers = [
        (np.zeros((bottom - top, right - left), STORAGE[dtype]), {"offsets": (top, left)})
        for (top, bottom), (left, right) in product(*SHARDINGS[sharding])
    ]
    return in_turn(buffers, initializer, global_shape=(SIDE, SIDE), dtype=dtype)


class Shards(Warm):
    """All shards of a 4096 x 4096 tensor, each in a buffer of its own."""

    params = (list(SHARDINGS), ["uniform", "normal"], ["float32", "bfloat16"])
    param_names = ("sharding", "distribution", "dtype")

    @once
    def setup(self, *params):
        self.run = sharded(*params)

    time_all = runs


class OverWhole:
    """The time of all shards over that of the whole tensor: 1 at best."""

    params = ([name for name in SHARDINGS if name != "whole"], ["uniform", "normal"], ["float32"])
    param_names = Shards.param_names

    def setup(self, sharding, *params):
        self.run, self.peer = sharded(sharding, *params), sharded("whole", *params)

    track_time_over_whole = ratio("the whole's")


class FlatRanges(Warm):
    """The flattened tensor in equal ranges, some of which begin within a block."""

    params = ([1, 7, 64],)
    param_names = ("ranges",)

    @once
    def setup(self, ranges):
        bounds = [SIDE * SIDE * i // ranges for i in range(ranges + 1)]
        buffers = [(np.zeros(end - start, np.float32), {"start": start}) for start, end in pairwise(bounds)]
        self.run = in_turn(buffers, fastinit.Normal())

    time_all = runs


LAYOUTS = {
    "row-major": lambda: np.zeros((SIDE, SIDE), np.float32),
    "Fortran": lambda: np.zeros((SIDE, SIDE), np.float32, order="F"),
    "every other column": lambda: np.zeros((SIDE, 2 * SIDE), np.float32)[:, ::2],
    # a convolution's (out, in, 4, 4), stored (out, 4, 4, in)
    "channels last": lambda: np.zeros((SIDE // 4, 4, 4, SIDE // 4), np.float32).transpose(0, 3, 1, 2),
}


def laid_out(layout, distribution):
    """A fill of the whole tensor in memory of this order."""
    return partial(fastinit.fill, LAYOUTS[layout](), DISTRIBUTIONS[distribution], KEY)


class Layouts(Warm):
    """The whole tensor into memory of another order."""

    params = (list(LAYOUTS), ["uniform", "normal"])
    param_names = ("layout", "distribution")

    @once
    def setup(self, *params):
        self.run = laid_out(*params)

    time_fill = runs


class OverRowMajor:
    """The time for another order over that for row-major order: 1 at best."""

    params = ([name for name in LAYOUTS if name != "row-major"], ["uniform", "normal"])
    param_names = Layouts.param_names

    def setup(self, layout, distribution):
        self.run, self.peer = laid_out(layout, distribution), laid_out("row-major", distribution)

    track_time_over_row_major = ratio("the row-major one's")
