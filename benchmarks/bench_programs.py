"""Programs: the time to record a constructor, and to fill a model as its author wrote it."""

from functools import partial
from statistics import median
from time import thread_time

from .bench_torch import adapter
from .counters import Warm, once, over, runs, unit
from .side_by_side import optional, torch_on_as_many_threads, without_garbage_collection


def deferred(build):
    """A model that is deferred."""
    if not hasattr(adapter(), "deferred"):
        raise NotImplementedError("there is no deferred() yet")
    with adapter().deferred():
        return build()


class Own(Warm):
    """GPT-2's embeddings and two layers, 53 million parameters, as transformers initializes them, in new memory."""

    warmup_time = 0.0

    @once
    def setup(self):
        torch_on_as_many_threads()
        transformers = optional("transformers")
        self.build = partial(transformers.GPT2LMHeadModel, transformers.GPT2Config(n_layer=2))
        self.run = partial(self.filled, "own")

    def filled(self, recipe):
        return adapter().materialize(deferred(self.build), recipe)

    time_defer_and_materialize = peakmem_defer_and_materialize = runs

    @unit("times transformers'")
    def track_own_over_transformers(self):
        return over(self.run, self.build)

    @unit("times that of auto")
    def track_own_over_auto(self):
        return over(self.run, partial(self.filled, "auto"))


class Late(Warm):
    """The init code of GPT-2, 124 million parameters, repeated on existing memory: alone, and inside keyed()."""

    warmup_time = 0.0

    @once
    def setup(self):
        self.prepare(layers=12)
        self.run = self.keyed

    def prepare(self, layers):
        torch_on_as_many_threads()
        transformers = optional("transformers")
        self.model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=layers))
        if not hasattr(adapter(), "keyed"):
            raise NotImplementedError("there is no keyed() yet")

    def bare(self):
        """Removes transformers' marks of finished initialization."""
        for part in (*self.model.modules(), *self.model.parameters()):
            vars(part).pop("_is_hf_initialized", None)
        self.model.init_weights()

    def keyed(self):
        with adapter().keyed(self.model, seed=0):
            self.bare()

    time_keyed = peakmem_keyed = runs

    @unit("times transformers'")
    def track_keyed_over_bare(self):
        return over(self.run, self.bare)


class Overhead(Warm):
    """The overhead of keyed() for small fills: many tiny layers with two parameters each."""

    warmup_time = 0.0

    @once
    def setup(self):
        self.prepare(1000)
        self.run = self.keyed

    def prepare(self, layers):
        self.torch = torch_on_as_many_threads()
        self.model = self.torch.nn.ModuleList(self.torch.nn.Linear(4, 4) for _ in range(layers))
        self.count = 2 * layers
        if not hasattr(adapter(), "keyed"):
            raise NotImplementedError("there is no keyed() yet")

    def bare(self):
        for layer in self.model:
            self.torch.nn.init.normal_(layer.weight, std=0.02)
            self.torch.nn.init.zeros_(layer.bias)

    def keyed(self):
        with adapter().keyed(self.model, seed=0):
            self.bare()

    time_keyed = runs

    @unit("us per parameter")
    def track_microseconds_per_parameter(self):
        inside, bare = map(median, self.seconds(7))
        return (inside - bare) / self.count * 1e6

    def seconds(self, rounds):
        """Processor time of the calling thread, inside keyed() and alone, in turn. Other load does not count."""
        times = ([], [])
        with without_garbage_collection():
            for number in range(rounds + 1):
                for run, own in zip((self.keyed, self.bare), times, strict=True):
                    begin = thread_time()
                    run()
                    if number:
                        own.append(thread_time() - begin)
        return times


class Deferred(Warm):
    """A constructor that is recorded and draws nothing: a model of the size of Llama-3-8B, by its number of layers."""

    params = ([1, 32],)
    param_names = ("layers",)

    @once
    def setup(self, layers):
        transformers = optional("transformers")
        heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096, "intermediate_size": 14336}
        configuration = transformers.LlamaConfig(num_hidden_layers=layers, vocab_size=128256, **heads)
        self.run = partial(deferred, partial(transformers.LlamaForCausalLM, configuration))

    time_defer = peakmem_defer = runs
