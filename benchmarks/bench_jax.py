"""The JAX adapter beside JAX's own initializers, eagerly and compiled, and the parameters of a whole model."""

from .bench_fill import ALL
from .counters import once, over, thousand
from .side_by_side import optional

FACTORIES = ["he_normal", "glorot_uniform"] + (["normal", "truncated_normal", "orthogonal"] if ALL else [])

WAYS = ["fastinit", "fastinit jitted", "jax jitted"]


def made(jax, place, factory, dtype, n, jitted=False):
    """What makes an n x n array by a factory of JAX's or of ours, and waits until its values are there."""
    initializer, key = getattr(place, factory)(), jax.random.key(0)
    if jitted:
        initializer = jax.jit(initializer, static_argnums=(1, 2))
    return lambda: initializer(key, (n, n), dtype).block_until_ready()


def ours():
    return optional("fastinit.adapters.jax")


class _Array:
    """A new square array; by JAX's own factory compiled, as its users have it."""

    param_names = ("factory", "library", "dtype", "n")
    warmup_time = 0.05
    rounds = 1

    @once
    def setup(self, factory, library, dtype, n):
        jax = optional("jax")
        place = ours() if library.startswith("fastinit") else jax.nn.initializers
        self.make = made(jax, place, factory, dtype, n, library.endswith("jitted"))
        self.make()


class Initializers(_Array):
    """One, of 16 MiB of float32."""

    params = (FACTORIES, WAYS, ["float32", "bfloat16"] if ALL else ["float32"], [2048])

    def time_new(self, factory, library, dtype, n):
        self.make()


class Small(_Array):
    """A thousand, one after the other."""

    params = (FACTORIES if ALL else FACTORIES[:1], WAYS, ["float32"], [16])

    @thousand
    def time_1000_new(self, factory, library, dtype, n):
        self.make()


class OverJax:
    """The time of a new square array over that of JAX's own factory, compiled."""

    params = (FACTORIES, ["float32", "bfloat16"], [2048])
    param_names = ("factory", "dtype", "n")

    def setup(self, factory, dtype, n):
        jax = optional("jax")
        self.ours = made(jax, ours(), factory, dtype, n)
        self.theirs = made(jax, jax.nn.initializers, factory, dtype, n, jitted=True)
        self.theirs()  # JAX raises NotImplementedError for orthogonal matrices in bfloat16

    def track_time_over_jax(self, factory, dtype, n):
        return over(self.ours, self.theirs)

    track_time_over_jax.unit = "times JAX's"


class Model:
    """The 24 kernels of a Transformer of 19 million parameters, each by a key of its own."""

    params = (["fastinit", "jax"],)
    param_names = ("library",)
    warmup_time = 0.05
    rounds = 1

    @once
    def setup(self, library):
        self.jax = optional("jax")
        factory = (ours() if library == "fastinit" else self.jax.nn.initializers).he_normal()
        self.initializer = factory if library == "fastinit" else self.jax.jit(factory, static_argnums=1)
        self.shapes = {
            f"block_{block}/{name}": shape
            for block in range(6)
            for name, shape in {"qkv": (512, 1536), "out": (512, 512), "up": (512, 2048), "down": (2048, 512)}.items()
        }
        self.key = self.jax.random.key(0)
        self.time_initialize(library)

    def initialize(self):
        keys = self.jax.random.split(self.key, len(self.shapes))
        named = zip(self.shapes.items(), keys, strict=True)
        return self.jax.block_until_ready({name: self.initializer(key, shape) for (name, shape), key in named})

    def time_initialize(self, library):
        self.initialize()

    def peakmem_initialize(self, library):
        self.initialize()
