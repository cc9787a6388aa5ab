"""The PyTorch adapter: drop-in functions beside torch's own, constructors, whole models and shards."""

import fastinit

from .side_by_side import optional

FUNCTIONS = {
    "xavier_uniform_": {},
    "kaiming_normal_": {},
    "trunc_normal_": {"std": 0.02, "a": -0.04, "b": 0.04},
    "orthogonal_": {},
}


class DropIn:
    """One function on a square matrix."""

    params = (list(FUNCTIONS), ["fastinit", "torch"], [16, 64, 1024])
    param_names = ("function", "library", "n")

    def setup(self, function, library, n):
        torch = optional("torch")
        if library == "torch":
            self.function = getattr(torch.nn.init, function)
        else:
            self.function = getattr(optional("fastinit.adapters.torch").init, function)
        self.tensor, self.arguments = torch.zeros(n, n), FUNCTIONS[function]
        self.time_drop_in(function, library, n)

    def time_drop_in(self, function, library, n):
        self.function(self.tensor, **self.arguments)


class Models:
    """A Transformer encoder of 25 million parameters: constructed and initialized."""

    def setup(self):
        self.torch = optional("torch")
        self.adapter = optional("fastinit.adapters.torch")
        self.model = self.build()
        self.time_construct_patched()
        self.time_initialize()

    def build(self):
        layer = self.torch.nn.TransformerEncoderLayer(512, 8, batch_first=True)
        return self.torch.nn.TransformerEncoder(layer, 8, enable_nested_tensor=False)

    def time_construct_by_torch(self):
        self.build()

    def time_construct_patched(self):
        with self.adapter.patched():
            self.build()

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

    def setup(self, shard):
        torch = optional("torch")
        self.fill_ = optional("fastinit.adapters.torch").fill_
        shape = {"rows": (128, 8192), "columns": (8192, 128), "8 x 8": (1024, 1024)}[shard]
        self.tensor = torch.zeros(shape)
        self.offsets = tuple(3 * extent if extent < 8192 else 0 for extent in shape)
        self.time_shard(shard)

    def time_shard(self, shard):
        place = {"global_shape": (8192, 8192), "offsets": self.offsets}
        self.fill_(self.tensor, fastinit.Normal(0.0, 0.02), fastinit.Key(0), **place)
