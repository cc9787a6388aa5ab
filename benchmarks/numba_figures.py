"""The figures of the Numba adapter: fills and single elements, each beside the same loop with Numba's own generator."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import fastinit

if __package__:
    from . import side_by_side
    from .lab import Lab, Result, Row
    from .report import Bar
else:  # run as a script
    import side_by_side
    from lab import Lab, Result, Row
    from report import Bar

STD = 0.02
INITIALIZERS = {"normal": fastinit.Normal(0.0, STD), "uniform": fastinit.Uniform(-0.05, 0.05)}


def adapter() -> Any:
    side_by_side.optional("numba")
    import fastinit.adapters.numba

    return fastinit.adapters.numba


def own_generator(name: str, parallel: bool) -> Any:
    """A compiled loop over an array that draws from Numba's own generator, which each thread has one of."""
    numba = side_by_side.optional("numba")

    def normal(out: np.ndarray) -> None:
        for i in numba.prange(out.size):
            out[i] = np.random.normal(0.0, STD)

    def uniform(out: np.ndarray) -> None:
        for i in numba.prange(out.size):
            out[i] = np.random.uniform(-0.05, 0.05)

    return numba.njit(parallel=parallel)({"normal": normal, "uniform": uniform}[name])


def fill(lab: Lab, name: str, parallel: bool = False) -> Result:
    """A fill against the loop, both on one thread or on all that are allowed."""
    threads = lab.threads if parallel else 1
    ours = partial(adapter().fill, lab.memory, INITIALIZERS[name], lab.key, num_threads=threads)
    peer = partial(own_generator(name, parallel), lab.memory)
    numba = side_by_side.optional("numba")
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    return lab.compare(ours, peer, lab.memory.nbytes, f"np.random.{name} in njit")


def elements(lab: Lab) -> Result:
    """The function of one element in a loop of one's own, against np.random.normal in its place; both on one thread."""
    numba, normal = side_by_side.optional("numba"), adapter().normal

    @numba.njit
    def loop(out: np.ndarray, key: tuple[int, ...]) -> None:
        for i in range(out.size):
            out[i] = normal(key, i, 0.0, STD)

    peer = partial(own_generator("normal", parallel=False), lab.memory)
    return lab.compare(partial(loop, lab.memory, lab.key.words), peer, lab.memory.nbytes, "np.random.normal in njit")


ROWS = (
    Row("Numba fill on the CPU against the same loop with Numba's own np.random.normal: one thread each", Bar(3),
        partial(fill, name="normal")),
    Row("Numba fill on the CPU against the same loop with Numba's own np.random.normal: all threads", Bar(3),
        partial(fill, name="normal", parallel=True)),
    Row("Numba fill on the CPU against the same loop with Numba's own np.random.uniform: one thread each", None,
        partial(fill, name="uniform")),
    Row("normal(key, i) in a compiled loop against np.random.normal: one thread each", None, elements),
)  # fmt: skip
