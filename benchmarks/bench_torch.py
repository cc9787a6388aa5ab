"""The PyTorch adapter: drop-in functions beside torch's own, constructors, whole models and shards."""

from functools import partial

import fastinit

from .bench_fill import ALL, KEY
from .counters import Warm, once, over, ratio, runs, thousand, unit
from .side_by_side import optional, torch_on_as_many_threads

FUNCTIONS = {
    "xavier_uniform_": {},
    "kaiming_normal_": {},
    "trunc_normal_": {"std": 0.02, "a": -0.04, "b": 0.04},
    "orthogonal_": {},
}


def adapter():
    torch_on_as_many_threads()
    return optional("fastinit.adapters.torch")


def drop_in(name, library, tensor):
    """A call of torch's function, or of ours of the same name."""
    torch = torch_on_as_many_threads()
    init = torch.nn.init if library == "torch" else adapter().init
    return partial(getattr(init, name), tensor, **FUNCTIONS.get(name, {}))


class _Function(Warm):
    """A function on a square matrix, torch's or ours."""

    param_names = ("function", "library", "n")

    @once
    def setup(self, function, library, n):
        self.run = drop_in(function, library, optional("torch").zeros(n, n))


class DropIn(_Function):
    """One call."""

    params = (list(FUNCTIONS), ["fastinit", "torch"], [256, 1024, 4096] if ALL else [1024])
    time_drop_in = runs


class Small(_Function):
    """A thousand calls."""

    params = (list(FUNCTIONS), ["fastinit", "torch"], [16, 64] if ALL else [16])
    time_1000_drop_ins = thousand(runs)


class OverTorch:
    """The time of a function over that of torch's own of the same name."""

    params = (list(FUNCTIONS), [16, 64, 256, 1024, 4096] if ALL else [16, 1024])
    param_names = ("function", "n")

    def setup(self, function, n):
        tensor = optional("torch").zeros(n, n)
        self.run, self.peer = (drop_in(function, library, tensor) for library in ("fastinit", "torch"))

    track_time_over_torch = ratio("torch's")


class _Encoder(Warm):
    """A Transformer encoder of 25 million parameters."""

    warmup_time = 0.0

    @once
    def setup(self):
        self.torch = torch_on_as_many_threads()
        self.adapter = adapter()
        self.on_meta()

    def build(self):
        layer = self.torch.nn.TransformerEncoderLayer(512, 8, batch_first=True)
        return self.torch.nn.TransformerEncoder(layer, 8, enable_nested_tensor=False)

    def on_meta(self):
        with self.torch.device("meta"):
            return self.build()


class Models(_Encoder):
    """A new encoder: constructed, and materialized from meta."""

    def patched(self):
        with self.adapter.patched():
            return self.build()

    def time_construct_by_torch(self):
        self.build()

    def time_construct_patched(self):
        self.patched()

    def time_materialize(self):
        self.adapter.materialize(self.on_meta())

    def peakmem_materialize_bfloat16(self):
        self.adapter.materialize(self.on_meta(), dtype=self.torch.bfloat16)

    @unit("times torch's")
    def track_patched_over_torch(self):
        return over(self.patched, self.build)

    peakmem_construct_by_torch = time_construct_by_torch
    peakmem_materialize = time_materialize


class Initialize(_Encoder):
    """An encoder that exists already."""

    @once
    def setup(self):
        super().setup()
        self.model = self.build()
        self.run = partial(self.adapter.initialize_, self.model)

    time_initialize = peakmem_initialize = runs

    def time_initialize_with_digests(self):
        self.adapter.initialize_(self.model, digests=True)


class Shards(Warm):
    """One of 64 shards of a matrix, and 1/64 of the time of the whole."""

    params = (["rows", "columns", "8 x 8"],)
    param_names = ("shard",)

    @once
    def setup(self, shard):
        shape = {"rows": (128, 8192), "columns": (8192, 128), "8 x 8": (1024, 1024)}[shard]
        offsets = tuple(3 * extent if extent < 8192 else 0 for extent in shape)
        fill, tensor = adapter().fill_, torch_on_as_many_threads().zeros(shape)
        place = {"global_shape": (8192, 8192), "offsets": offsets}
        self.run = partial(fill, tensor, fastinit.Normal(0.0, 0.02), KEY, **place)

    time_shard = runs
