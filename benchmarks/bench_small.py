"""The time of one small call: through the adapter, of each initializer, of a key.

A thousand calls at a time: read milliseconds as microseconds per call.
"""

import itertools
from functools import partial

import numpy as np

import fastinit
from fastinit.adapters import numpy as adapter

from .bench_fill import KEY
from .bench_models import public
from .counters import Warm, once, runs, thousand

INITIALIZERS = [
    *("Zeros", "Ones", "Constant", "Uniform", "Normal", "TruncatedNormal", "VarianceScaling"),
    *(
        f"{scheme}_{distribution}"
        for scheme in ("glorot", "he", "lecun")
        for distribution in ("uniform", "normal", "truncated_normal")
    ),
    *("torch_default_uniform", "naive_uniform", "naive_normal", "fan_in_normal"),
    *("Identity", "Dirac", "Orthogonal", "DeltaOrthogonal", "Sparse", "ICNR", "ZerO"),
]
ARGUMENTS = {
    "Constant": (0.5,),
    "Uniform": (-0.05, 0.05),
    "Normal": (0.0, 0.02),
    "TruncatedNormal": (0.0, 0.02),
    "Sparse": (0.9,),
    "ICNR": (fastinit.he_normal(),),
}
KERNELS = ("Dirac", "DeltaOrthogonal", "ICNR")  # of convolutions only


class Adapter(Warm):
    """One call through the NumPy adapter, into an existing array or a new one."""

    params = (
        ["zeros", "uniform", "normal", "truncated_normal", "xavier_uniform", "he_normal", "lecun_truncated_normal"],
        [(1, 1), (16, 16), (64, 64), (256, 256)],
    )
    param_names = ("function", "shape")

    @once
    def setup(self, function, shape):
        function = getattr(adapter, function)
        self.run = partial(function, out=np.zeros(shape, np.float32), key=KEY)
        self.new = partial(function, shape, key=KEY)

    time_1000_out = thousand(runs)
    time_1000_new = thousand(lambda self, *params: self.new())


class Initializers(Warm):
    """Every initializer on 16x16, or on 3x3x16x16."""

    params = (INITIALIZERS,)
    param_names = ("initializer",)

    @once
    def setup(self, initializer):
        out = np.zeros((3, 3, 16, 16) if initializer in KERNELS else (16, 16), np.float32)
        self.run = partial(fastinit.fill, out, public(initializer)(*ARGUMENTS.get(initializer, ())), KEY)

    time_1000_fills = thousand(runs)


class Layout(Warm):
    """A 64x64 fill of memory that is not in row-major order, and of a shard."""

    params = (["row-major", "transposed", "strided", "shard", "flat range"],)
    param_names = ("layout",)

    @once
    def setup(self, layout):
        out, large = np.zeros((64, 64), np.float32), {"global_shape": (128, 128)}
        strided = np.zeros((128, 128), np.float32)[::2, ::2]
        memory = {"transposed": out.T, "strided": strided}.get(layout, out)
        place = {"shard": {**large, "offsets": (64, 64)}, "flat range": {**large, "start": 4096}}.get(layout, {})
        self.run = partial(fastinit.fill, memory, fastinit.he_normal(), KEY, **place)

    time_1000_fills = thousand(runs)


class Creation(Warm):
    """Creating an initializer, and the first fill of a shape, which computes the fans and the sampler."""

    params = (["Uniform", "Normal", "TruncatedNormal", "he_normal", "glorot_uniform", "lecun_truncated_normal"],)
    param_names = ("initializer",)
    widths = itertools.count(1)  # never one that the process has seen

    @once
    def setup(self, initializer):
        self.run = getattr(fastinit, initializer)
        self.made, self.out = self.run(), np.zeros((1, 1), np.float32)

    time_1000_creations = thousand(runs)

    @thousand
    def time_1000_first_fills_of_a_shape(self, initializer):
        fastinit.fill(self.out, self.made, KEY, global_shape=(64, next(self.widths)), offsets=(0, 0))


class Keys(Warm):
    """Keys from seeds and from keys."""

    time_1000_key_of_int = thousand(lambda self: fastinit.Key(123456789))
    time_1000_key_of_str = thousand(lambda self: fastinit.Key("an experiment"))
    time_1000_fold_in_int = thousand(lambda self: KEY.fold_in(7))
    time_1000_fold_in_name = thousand(lambda self: KEY.fold_in("encoder.layers.11.attention.query.weight"))
    time_1000_fold_in_wrapped_name = thousand(
        lambda self: KEY.fold_in("module._orig_mod.encoder.layers.11.attention.query.weight")
    )
    time_1000_split_8 = thousand(lambda self: KEY.split(8))


class Sample(Warm):
    """One element in constant time, at any index."""

    params = ([0, 2**20, 2**50],)
    param_names = ("index",)

    @once
    def setup(self, index):
        self.run = partial(fastinit.sample, KEY, index, fastinit.Normal())

    time_1000_samples = thousand(runs)
