"""The PyTorch adapter: drop-in functions beside torch's own, constructors, whole models and shards."""

import fastinit

from .bench_fill import ALL
from .counters import once, over, thousand
from .side_by_side import optional

FUNCTIONS = {
    "xavier_uniform_": {},
    "kaiming_normal_": {},
    "trunc_normal_": {"std": 0.02, "a": -0.04, "b": 0.04},
    "orthogonal_": {},
}


def adapter():
    return optional("fastinit.adapters.torch")


def own(torch, library):
    """torch.nn.init, or what stands in its place."""
    return torch.nn.init if library == "torch" else adapter().init


def torch_on_as_many_threads():
    torch = optional("torch")
    torch.set_num_threads(fastinit.default_num_threads())
    return torch


class _Function:
    """A function on a square matrix, torch's or ours."""

    param_names = ("function", "library", "n")
    warmup_time = 0.05
    rounds = 1

    @once
    def setup(self, function, library, n):
        torch = torch_on_as_many_threads()
        self.function = getattr(own(torch, library), function)
        self.tensor, self.arguments = torch.zeros(n, n), FUNCTIONS[function]
        self.function(self.tensor, **self.arguments)


class DropIn(_Function):
    """One call."""

    params = (list(FUNCTIONS), ["fastinit", "torch"], [256, 1024, 4096] if ALL else [1024])

    def time_drop_in(self, function, library, n):
        self.function(self.tensor, **self.arguments)


class Small(_Function):
    """A thousand calls."""

    params = (list(FUNCTIONS), ["fastinit", "torch"], [16, 64] if ALL else [16])

    @thousand
    def time_1000_drop_ins(self, function, library, n):
        self.function(self.tensor, **self.arguments)


class OverTorch:
    """The time of a function over that of torch's own of the same name."""

    params = (list(FUNCTIONS), [16, 64, 256, 1024, 4096] if ALL else [16, 1024])
    param_names = ("function", "n")

    def setup(self, function, n):
        torch = torch_on_as_many_threads()
        tensor, arguments = torch.zeros(n, n), FUNCTIONS[function]
        ours, theirs = (getattr(own(torch, library), function) for library in ("fastinit", "torch"))
        self.ours, self.theirs = (lambda: ours(tensor, **arguments)), (lambda: theirs(tensor, **arguments))

    def track_time_over_torch(self, function, n):
        return over(self.ours, self.theirs)

    track_time_over_torch.unit = "times torch's"


class _Encoder:
    """A Transformer encoder of 25 million parameters."""

    warmup_time = 0.0
    rounds = 1

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

    def patched(self):
        with self.adapter.patched():
            return self.build()


class Models(_Encoder):
    """A new encoder: constructed, and materialized from meta."""

    def time_construct_by_torch(self):
        self.build()

    def time_construct_patched(self):
        self.patched()

    def time_materialize(self):
        self.adapter.materialize(self.on_meta())

    def peakmem_construct_by_torch(self):
        self.build()

    def peakmem_materialize(self):
        self.adapter.materialize(self.on_meta())

    def peakmem_materialize_bfloat16(self):
        self.adapter.materialize(self.on_meta(), dtype=self.torch.bfloat16)

    def track_patched_over_torch(self):
        return over(self.patched, self.build)

    track_patched_over_torch.unit = "times torch's"


class Initialize(_Encoder):
    """An encoder that exists already."""

    @once
    def setup(self):
        super().setup()
        self.model = self.build()
        self.time_initialize()

    def time_initialize(self):
        self.adapter.initialize_(self.model, digests=False)

    def time_initialize_with_digests(self):
        self.adapter.initialize_(self.model)

    def peakmem_initialize(self):
        self.adapter.initialize_(self.model, digests=False)


class Shards:
    """One of 64 shards of a matrix, and 1/64 of the time of the whole."""

    params = (["rows", "columns", "8 x 8"],)
    param_names = ("shard",)
    warmup_time = 0.05
    rounds = 1

    @once
    def setup(self, shard):
        torch = torch_on_as_many_threads()
        self.fill_ = adapter().fill_
        shape = {"rows": (128, 8192), "columns": (8192, 128), "8 x 8": (1024, 1024)}[shard]
        self.tensor = torch.zeros(shape)
        self.offsets = tuple(3 * extent if extent < 8192 else 0 for extent in shape)
        self.time_shard(shard)

    def time_shard(self, shard):
        place = {"global_shape": (8192, 8192), "offsets": self.offsets}
        self.fill_(self.tensor, fastinit.Normal(0.0, 0.02), fastinit.Key(0), **place)
