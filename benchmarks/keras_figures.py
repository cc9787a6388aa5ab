"""The figures of the Keras adapter on each backend, beside Keras's own initializers.

Keras chooses its backend once in a process, so each backend is measured in a process of its own: ``python
keras_figures.py BACKEND`` prints its samples as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

if __package__:
    from . import growth, side_by_side
    from .lab import Lab, Result, Row, speed, under
    from .report import Bar
else:  # run as a script
    import growth
    import side_by_side
    from lab import Lab, Result, Row, speed, under
    from report import Bar

BACKENDS = ("tensorflow", "jax", "torch")
# At least so many times as fast as Keras's own, on TensorFlow and on the other backends.
CLASSES = {"GlorotUniform": (6, 6), "GlorotNormal": (20, 15), "HeNormal": (20, 15)}
LAYERS = 8


# In the process of a backend


def ready(tensor: Any) -> Any:
    """The tensor when its values are there: JAX may still be computing them."""
    return tensor.block_until_ready() if hasattr(tensor, "block_until_ready") else tensor


def compared(ours: Callable[[], object], peer: Callable[[], object], nbytes: int, quick: bool) -> dict[str, Any]:
    before = None if quick else partial(side_by_side.settle_memory, 2 * nbytes)
    own, other = side_by_side.alternate(ours, peer, 3 if quick else 7, 0.0, before)
    ratios = [theirs / mine for mine, theirs in zip(own, other, strict=True)]
    return {"samples": ratios, "note": f"{speed(own, nbytes)}; Keras {speed(other, nbytes)}"}


def samples(backend: str, quick: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The samples of every figure of this process's backend."""
    import keras
    import numpy as np
    from keras import layers

    import fastinit
    from fastinit.adapters.keras import initializers

    if backend == "torch":
        import torch

        torch.set_num_threads(fastinit.default_num_threads())
    n = 256 if quick else 8192
    for name in CLASSES:
        own, other = (getattr(place, name)(seed=1) for place in (initializers, keras.initializers))
        yield name, compared(lambda f=own: ready(f((n, n))), lambda f=other: ready(f((n, n))), 4 * n * n, quick)

    # the most that anything can reach which writes memory that nobody has touched
    memset = side_by_side.Memset(fastinit.default_num_threads())
    other = keras.initializers.GlorotUniform(seed=1)
    yield (
        "memset",
        compared(
            lambda: memset.by_ctypes(np.empty((n, n), np.float32)), lambda: ready(other((n, n))), 4 * n * n, quick
        ),
    )

    width = 64 if quick else 4096

    def built(kernel: Callable[[], Any]) -> Any:
        dense = [layers.Dense(width, kernel_initializer=kernel()) for _ in range(LAYERS)]
        model = keras.Sequential([keras.Input((width,)), *dense])
        for variable in model.variables:
            ready(variable.value)
        return model

    own, other = partial(built, initializers.GlorotUniform), partial(built, lambda: "glorot_uniform")
    yield "model", compared(own, other, 4 * width * width * LAYERS, quick)

    def variable(side: int) -> Any:
        made = keras.Variable(initializers.HeNormal(seed=1), shape=(side, side), dtype="float32")
        ready(made.value)
        return made

    np.asarray(keras.ops.convert_to_numpy(variable(64).value))  # the framework's threads and tables
    growth.give_back()
    grown = growth.growth(partial(variable, n))
    yield "memory", {"samples": [grown / (4 * n * n)], "note": f"a variable of {4 * n * n / 2**20:g} MiB"}


# In the process of the table


@cache
def measured(backend: str, quick: bool) -> dict[str, dict[str, Any]]:
    """The samples of one backend, from a process of its own."""
    for name in ("keras", backend):
        side_by_side.installed(name)
    options = ["--quick"] if quick else []
    environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return side_by_side.in_own_process(__file__, backend, *options, **environment)


def figure(lab: Lab, backend: str, name: str) -> Result:
    return Result(**measured(backend, lab.quick)[name])


ROWS = tuple(
    row
    for backend in BACKENDS
    for row in (
        *(
            Row(
                f"Keras on {backend}: {name} 8192x8192 against Keras's own",
                Bar(bars[backend != "tensorflow"]),
                partial(figure, backend=backend, name=name),
            )
            for name, bars in CLASSES.items()
        ),
        Row(
            f"Keras on {backend}: a memset of fresh memory against Keras's own GlorotUniform",
            None,
            partial(figure, backend=backend, name="memset"),
        ),
        Row(
            f"Keras on {backend}: building {LAYERS} x Dense(4096) against the default initializer",
            Bar(3),
            partial(figure, backend=backend, name="model"),
        ),
        Row(
            f"Keras on {backend}: peak memory of a variable's initialization over the variable",
            under(1.1),
            partial(figure, backend=backend, name="memory"),
        ),
    )
)

if __name__ == "__main__":
    for found in samples(sys.argv[1], "--quick" in sys.argv):
        print(json.dumps(found), flush=True)
