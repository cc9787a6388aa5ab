"""The JAX adapter beside JAX's own initializers, eagerly and compiled, and the parameters of a whole model."""

from .bench_fill import ALL
from .counters import Warm, once, ratio, runs, thousand
from .side_by_side import optional

FACTORIES = ["he_normal", "glorot_uniform"] + (["normal", "truncated_normal", "orthogonal"] if ALL else [])

WAYS = ["fastinit", "fastinit jitted", "jax jitted"]


def initializer(factory, way):
    """A function from a factory of JAX's or ours, compiled for each shape and dtype if the way says so."""
    jax, ours = optional("jax"), way.startswith("fastinit")
    found = getattr(optional("fastinit.adapters.jax") if ours else jax.nn.initializers, factory)()
    return jax.jit(found, static_argnums=(1, 2)) if way.endswith("jitted") else found


def made(factory, way, dtype, n):
    """A function that creates an n x n array in one of WAYS and waits for its values."""
    draw, key = initializer(factory, way), optional("jax").random.key(0)
    return lambda: draw(key, (n, n), dtype).block_until_ready()


class _Array(Warm):
    """A new square array. JAX's own factory is compiled, as in typical use."""

    param_names = ("factory", "library", "dtype", "n")

    @once
    def setup(self, *params):
        self.run = made(*params)


class Initializers(_Array):
    """One, of 16 MiB of float32."""

    params = (FACTORIES, WAYS, ["float32", "bfloat16"] if ALL else ["float32"], [2048])
    time_new = runs


class Small(_Array):
    """A thousand, one after the other."""

    params = (FACTORIES if ALL else FACTORIES[:1], WAYS, ["float32"], [16])
    time_1000_new = thousand(runs)


class OverJax:
    """The time of a new square array over that of JAX's own factory, compiled."""

    params = (FACTORIES, ["float32", "bfloat16"], [2048])
    param_names = ("factory", "dtype", "n")

    def setup(self, factory, dtype, n):
        self.run, self.peer = (made(factory, way, dtype, n) for way in ("fastinit", "jax jitted"))
        self.peer()  # JAX raises NotImplementedError for orthogonal matrices in bfloat16

    track_time_over_jax = ratio("JAX's")


class Model(Warm):
    """The 24 kernels of a Transformer of 19 million parameters, each with its own key."""

    params = (["fastinit", "jax"],)
    param_names = ("library",)

    @once
    def setup(self, library):
        jax = optional("jax")
        draw = initializer("he_normal", "fastinit" if library == "fastinit" else "jax jitted")
        shapes = {
            f"block_{block}/{name}": shape
            for block in range(6)
            for name, shape in {"qkv": (512, 1536), "out": (512, 512), "up": (512, 2048), "down": (2048, 512)}.items()
        }
        key = jax.random.key(0)

        def initialize():
            keys = jax.random.split(key, len(shapes))
            named = zip(shapes.items(), keys, strict=True)
            return jax.block_until_ready({name: draw(key, shape, "float32") for (name, shape), key in named})

        self.run = initialize

    time_initialize = peakmem_initialize = runs
