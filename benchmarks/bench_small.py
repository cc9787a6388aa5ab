"""What one call costs where there is little to fill: through the adapter, of each initializer, of a key.

A thousand calls at a time: read milliseconds as microseconds per call.
"""

import itertools

import numpy as np

import fastinit
from fastinit.adapters import numpy as adapter

from .counters import once, thousand

INITIALIZERS = {
    "Zeros": (),
    "Ones": (),
    "Constant": (0.5,),
    "Uniform": (-0.05, 0.05),
    "Normal": (0.0, 0.02),
    "TruncatedNormal": (0.0, 0.02),
    "VarianceScaling": (),
    **dict.fromkeys(
        (
            f"{scheme}_{distribution}"
            for scheme in ("glorot", "he", "lecun")
            for distribution in ("uniform", "normal", "truncated_normal")
        ),
        (),
    ),
    "torch_default_uniform": (),
    "naive_uniform": (),
    "naive_normal": (),
    "fan_in_normal": (),
    "Identity": (),
    "Dirac": (),
    "Orthogonal": (),
    "DeltaOrthogonal": (),
    "Sparse": (0.9,),
    "ICNR": (fastinit.he_normal(),),
    "ZerO": (),
}
KERNELS = ("Dirac", "DeltaOrthogonal", "ICNR")  # of convolutions only


class Adapter:
    """One call through the NumPy adapter, into an array that exists or a new one."""

    params = (
        ["zeros", "uniform", "normal", "truncated_normal", "xavier_uniform", "he_normal", "lecun_truncated_normal"],
        [(1, 1), (16, 16), (64, 64), (256, 256)],
    )
    param_names = ("function", "shape")

    @once
    def setup(self, function, shape):
        self.function, self.key = getattr(adapter, function), fastinit.Key(0)
        self.out = np.zeros(shape, np.float32)
        self.function(out=self.out, key=self.key)

    @thousand
    def time_1000_out(self, function, shape):
        self.function(out=self.out, key=self.key)

    @thousand
    def time_1000_new(self, function, shape):
        self.function(shape, key=self.key)


class Initializers:
    """Every initializer on 16x16, or on 3x3x16x16."""

    params = (list(INITIALIZERS),)
    param_names = ("initializer",)
    warmup_time = 0.02
    rounds = 1

    @once
    def setup(self, initializer):
        if not hasattr(fastinit, initializer):
            raise NotImplementedError(f"there is no fastinit.{initializer} yet")
        self.initializer = getattr(fastinit, initializer)(*INITIALIZERS[initializer])
        self.key = fastinit.Key(0)
        self.out = np.zeros((3, 3, 16, 16) if initializer in KERNELS else (16, 16), np.float32)
        fastinit.fill(self.out, self.initializer, self.key)

    @thousand
    def time_1000_fills(self, initializer):
        fastinit.fill(self.out, self.initializer, self.key)


class Layout:
    """A 64x64 fill of memory that is not in row-major order, and of a shard."""

    params = (["row-major", "transposed", "strided", "shard", "flat range"],)
    param_names = ("layout",)

    @once
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
        fastinit.fill(self.out, self.initializer, self.key, **self.where)

    @thousand
    def time_1000_fills(self, layout):
        fastinit.fill(self.out, self.initializer, self.key, **self.where)


class Creation:
    """Making an initializer, and the first fill of a shape, for which the fans and the sampler are worked out."""

    params = (["Uniform", "Normal", "TruncatedNormal", "he_normal", "glorot_uniform", "lecun_truncated_normal"],)
    param_names = ("initializer",)
    widths = itertools.count(1)  # never one that the process has seen

    @once
    def setup(self, initializer):
        self.factory, self.key = getattr(fastinit, initializer), fastinit.Key(0)
        self.made = self.factory()
        self.out = np.zeros((1, 1), np.float32)

    @thousand
    def time_1000_creations(self, initializer):
        self.factory()

    @thousand
    def time_1000_first_fills_of_a_shape(self, initializer):
        fastinit.fill(self.out, self.made, self.key, global_shape=(64, next(self.widths)), offsets=(0, 0))


class Keys:
    """Keys from seeds and from keys."""

    rounds = 1

    @once
    def setup(self):
        self.key = fastinit.Key(0)

    @thousand
    def time_1000_key_of_int(self):
        fastinit.Key(123456789)

    @thousand
    def time_1000_key_of_str(self):
        fastinit.Key("an experiment")

    @thousand
    def time_1000_fold_in_int(self):
        self.key.fold_in(7)

    @thousand
    def time_1000_fold_in_name(self):
        self.key.fold_in("encoder.layers.11.attention.query.weight")

    @thousand
    def time_1000_fold_in_wrapped_name(self):
        self.key.fold_in("module._orig_mod.encoder.layers.11.attention.query.weight")

    @thousand
    def time_1000_split_8(self):
        self.key.split(8)


class Sample:
    """One element in constant time, wherever it is."""

    params = ([0, 2**20, 2**50],)
    param_names = ("index",)

    @once
    def setup(self, index):
        self.key, self.initializer = fastinit.Key(0), fastinit.Normal()

    @thousand
    def time_1000_samples(self, index):
        fastinit.sample(self.key, index, self.initializer)
