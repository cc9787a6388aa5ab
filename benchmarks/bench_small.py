"""What one call costs where there is little to fill: through the adapter, of an initializer, of a key."""

import itertools

import numpy as np

import fastinit
from fastinit.adapters import numpy as adapter


class Adapter:
    """One call through the NumPy adapter, into an array that exists or a new one."""

    params = (
        ["zeros", "uniform", "normal", "truncated_normal", "xavier_uniform", "he_normal", "lecun_truncated_normal"],
        [(1, 1), (16, 16), (64, 64), (256, 256)],
    )
    param_names = ("function", "shape")

    def setup(self, function, shape):
        self.function, self.key = getattr(adapter, function), fastinit.Key(0)
        self.out = np.zeros(shape, np.float32)
        self.function(out=self.out, key=self.key)

    def time_out(self, function, shape):
        self.function(out=self.out, key=self.key)

    def time_new(self, function, shape):
        self.function(shape, key=self.key)


class Layout:
    """A 64x64 fill of memory that is not in row-major order, and of a shard."""

    params = (["row-major", "transposed", "strided", "shard", "flat range"],)
    param_names = ("layout",)

    def setup(self, layout):
        self.initializer, self.key, self.where = fastinit.he_normal(), fastinit.Key(0), {}
        self.out = np.zeros((64, 64), np.float32)
        if layout == "transposed":
            self.out = self.out.T
        elif layout == "strided":
            self.out = np.zeros((128, 128), np.float32)[::2, ::2]
        elif layout == "shard":
            self.where = {"global_shape": (128, 128), "offsets": (64, 64)}
        elif layout == "flat range":
            self.where = {"global_shape": (128, 128), "start": 4096}

    def time_fill(self, layout):
        fastinit.fill(self.out, self.initializer, self.key, **self.where)


class Creation:
    """Making an initializer, and the first fill of a shape, for which the fans and the sampler are worked out."""

    params = (["Uniform", "Normal", "TruncatedNormal", "he_normal", "glorot_uniform", "lecun_truncated_normal"],)
    param_names = ("initializer",)
    widths = itertools.count(1)  # never one that the process has seen

    def setup(self, initializer):
        self.factory, self.key = getattr(fastinit, initializer), fastinit.Key(0)
        self.made = self.factory()
        self.out = np.zeros((1, 1), np.float32)

    def time_create(self, initializer):
        self.factory()

    def time_first_fill_of_a_shape(self, initializer):
        fastinit.fill(self.out, self.made, self.key, global_shape=(64, next(self.widths)), offsets=(0, 0))


class Keys:
    """Keys from seeds and from keys."""

    def setup(self):
        self.key = fastinit.Key(0)

    def time_key_of_int(self):
        fastinit.Key(123456789)

    def time_key_of_str(self):
        fastinit.Key("an experiment")

    def time_fold_in_int(self):
        self.key.fold_in(7)

    def time_fold_in_name(self):
        self.key.fold_in("encoder.layers.11.attention.query.weight")

    def time_fold_in_wrapped_name(self):
        self.key.fold_in("module._orig_mod.encoder.layers.11.attention.query.weight")

    def time_split_8(self):
        self.key.split(8)


class Sample:
    """One element in constant time, wherever it is."""

    params = ([0, 2**20, 2**50],)
    param_names = ("index",)

    def setup(self, index):
        self.key, self.initializer = fastinit.Key(0), fastinit.Normal()

    def time_sample(self, index):
        fastinit.sample(self.key, index, self.initializer)
