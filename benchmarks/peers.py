"""Who else fills memory with random numbers, job by job: for each what it is given, and how it is called.

A peer that fills memory it is given gets the memory that fastinit gets, warm. One that only returns memory of its own
is raced with fresh memory on both sides. Each uses as many threads as it can, up to fastinit's; most have one.

TensorFlow, Keras and JAX each run in a process of their own: ``python peers.py tensorflow`` prints its samples.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

import fastinit

if __package__:
    from . import side_by_side
    from .lab import Lab, Result, speed
else:  # run as a script
    import side_by_side
    from lab import Lab, Result, speed

Fill = Callable[[np.ndarray], object]

JOBS = {
    "uniform float32": (fastinit.Uniform(0.0, 1.0), "float32"),
    "normal float32": (fastinit.Normal(), "float32"),
    "truncated normal float32": (fastinit.TruncatedNormal(), "float32"),
    "uniform float64": (fastinit.Uniform(0.0, 1.0), "float64"),
    "normal float64": (fastinit.Normal(), "float64"),
    "normal bfloat16": (fastinit.Normal(), "bfloat16"),
}
#: Elements of a block that stays in the second cache: then MKL never waits for memory.
BLOCK = 2**16


class Peer(NamedTuple):
    """A contestant: its name, its jobs, what makes its fill, and what a reader should know."""

    name: str
    jobs: tuple[str, ...]
    make: Callable[[Lab, str], Fill]
    note: str
    is_fresh: bool = False
    elements: int | None = None  # of a contestant too slow for all


def numpy_generator(lab: Lab, job: str, generator: np.random.Generator) -> Fill:
    dtype = np.dtype(JOBS[job][1])
    draw = generator.random if job.startswith("uniform") else generator.standard_normal
    return lambda out: draw(out=out, dtype=dtype)


def numpy_fill(lab: Lab, job: str, bits: str) -> Fill:
    return numpy_generator(lab, job, np.random.Generator(getattr(np.random, bits)(1)))


def randomgen_fill(lab: Lab, job: str, bits: str) -> Fill:
    randomgen = side_by_side.optional("randomgen")
    return numpy_generator(lab, job, np.random.Generator(getattr(randomgen, bits)(1)))


def parallel_numpy_fill(lab: Lab, job: str) -> Fill:
    generator = side_by_side.optional("parallel_numpy_rng").default_rng(1)
    dtype = np.dtype(JOBS[job][1]).type
    draw = generator.random if job.startswith("uniform") else generator.standard_normal
    return lambda out: draw(size=out.size, out=out, dtype=dtype, nthread=lab.threads)


def mtalg_fill(lab: Lab, job: str) -> Fill:
    side_by_side.optional("mtalg")
    from mtalg.random import MultithreadedRNG

    generator = MultithreadedRNG(seed=1, num_threads=lab.threads)
    dtype = np.dtype(JOBS[job][1]).type
    draw = generator.random if job.startswith("uniform") else generator.standard_normal
    return lambda out: draw(size=out.size, dtype=dtype)


def mkl_fill(lab: Lab, job: str, bits: str, block: int | None = None) -> Fill:
    """Each thread draws its share at once, or in blocks that nobody keeps: mkl_random returns memory of its own."""
    mkl_random = side_by_side.optional("mkl_random")
    states = [mkl_random.MKLRandomState(seed, brng=bits) for seed in range(lab.threads)]
    if job.startswith("uniform"):
        draws = [state.random_sample for state in states]
    else:
        draws = [partial(state.standard_normal, method="ICDF") for state in states]

    def work(number: int, size: int, times: int) -> Any:
        for _ in range(times - 1):
            draws[number](size)
        return draws[number](size)

    def fill(out: np.ndarray) -> list[Any]:
        share = max(out.size // lab.threads, 1)
        size = share if block is None else min(block, share)
        others = [lab.memset.pool.submit(work, number, size, share // size) for number in range(1, lab.threads)]
        return [work(0, size, share // size), *(one.result() for one in others)]

    return fill


def numba_fill(lab: Lab, job: str) -> Fill:
    numba = side_by_side.optional("numba")

    def uniform(out: np.ndarray) -> None:
        for i in numba.prange(out.size):
            out[i] = np.random.random()

    def normal(out: np.ndarray) -> None:
        for i in numba.prange(out.size):
            out[i] = np.random.standard_normal()

    numba.set_num_threads(min(lab.threads, numba.config.NUMBA_NUM_THREADS))
    return numba.njit(parallel=True)(uniform if job.startswith("uniform") else normal)


def torch_fill(lab: Lab, job: str) -> Fill:
    torch = lab.torch
    draws = {
        "uniform": lambda tensor: tensor.uniform_(0.0, 1.0),
        "normal": lambda tensor: tensor.normal_(0.0, 1.0),
        "truncated": torch.nn.init.trunc_normal_,
    }
    draw = draws[job.partition(" ")[0]]
    if JOBS[job][1] == "bfloat16":
        return lambda out: draw(torch.from_numpy(out.view(np.int16)).view(torch.bfloat16))
    return lambda out: draw(torch.from_numpy(out))


def scipy_fill(lab: Lab, job: str) -> Fill:
    truncnorm = side_by_side.optional("scipy.stats").truncnorm
    generator = np.random.Generator(np.random.PCG64(1))
    return lambda out: truncnorm.rvs(-2, 2, size=out.size, random_state=generator).astype(np.float32)


BOTH = ("uniform float32", "normal float32", "uniform float64", "normal float64")
DOUBLE = ("uniform float64", "normal float64")
ONE, ALL, FRESH = "one thread", "all threads", "all threads; fresh memory on both sides"
IN_CACHE = "all threads; blocks that stay in cache, while fastinit fills memory"
PEERS = (
    Peer("torch", tuple(JOBS), torch_fill, "one thread, whatever it is given"),
    Peer("NumPy, SFC64", BOTH, partial(numpy_fill, bits="SFC64"), ONE),
    Peer("NumPy, PCG64", BOTH, partial(numpy_fill, bits="PCG64"), ONE),
    Peer("randomgen, Romu", BOTH, partial(randomgen_fill, bits="Romu"), ONE),
    Peer("parallel-numpy-rng", BOTH, parallel_numpy_fill, ALL),
    Peer("mtalg", BOTH, mtalg_fill, FRESH, is_fresh=True),
    Peer("MKL, SFMT19937", DOUBLE, partial(mkl_fill, bits="SFMT19937"), FRESH, is_fresh=True),
    Peer("MKL, Philox", DOUBLE, partial(mkl_fill, bits="PHILOX4X32X10"), FRESH, is_fresh=True),
    Peer("MKL, Philox, in cache", DOUBLE, partial(mkl_fill, bits="PHILOX4X32X10", block=BLOCK), IN_CACHE),
    Peer("Numba", BOTH, numba_fill, "all threads, a loop with np.random"),
    Peer(
        "SciPy truncnorm",
        ("truncated normal float32",),
        scipy_fill,
        "one thread; 2^20 elements, fresh memory on both sides",
        is_fresh=True,
        elements=2**20,
    ),
)
#: Those that run in processes of their own: what needs to be installed, and their jobs.
APART = {
    "TensorFlow": (("tensorflow",), ("uniform float32", "normal float32", "truncated normal float32", "uniform float64",
                                     "normal float64", "normal bfloat16")),
    "Keras on TensorFlow": (("keras", "tensorflow"), ("uniform float32", "normal float32", "truncated normal float32",
                                                      "normal bfloat16")),
    "JAX, threefry": (("jax",), tuple(JOBS)),
    "JAX, rbg": (("jax",), tuple(JOBS)),
}  # fmt: skip


def raced(lab: Lab, peer: Peer, job: str) -> Result:
    """A contestant against fastinit."""
    initializer, dtype = JOBS[job]
    storage = {"bfloat16": np.uint16}.get(dtype, dtype)
    memory = lab.memory.view(storage)
    if peer.elements is not None:
        memory = memory[: peer.elements]
    theirs = peer.make(lab, job)
    ours = partial(lab.fill, initializer, dtype=dtype)
    if not peer.is_fresh:
        found = lab.compare(partial(ours, memory), partial(theirs, memory), memory.nbytes, peer.name)
    else:
        contestants = (lambda: ours(np.empty_like(memory))), partial(theirs, memory)
        found = lab.compare(*contestants, memory.nbytes, peer.name, fresh=2 * memory.nbytes)
    return found._replace(note=f"{found.note}; {peer.note}")


# In a process of its own


def tensorflow_calls(shape: tuple[int, ...]) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    import tensorflow as tf

    draws = {
        "uniform": tf.random.stateless_uniform,
        "normal": tf.random.stateless_normal,
        "truncated": tf.random.stateless_truncated_normal,
    }
    for job in APART["TensorFlow"][1]:
        dtype = JOBS[job][1]
        yield "TensorFlow", job, partial(draws[job.partition(" ")[0]], shape, seed=(1, 2), dtype=dtype)


def keras_calls(shape: tuple[int, ...]) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    from keras import initializers

    draws = {
        "uniform": initializers.RandomUniform(0.0, 1.0, seed=1),
        "normal": initializers.RandomNormal(0.0, 1.0, seed=1),
        "truncated": initializers.TruncatedNormal(0.0, 1.0, seed=1),
    }
    for job in APART["Keras on TensorFlow"][1]:
        yield "Keras on TensorFlow", job, partial(draws[job.partition(" ")[0]], shape, dtype=JOBS[job][1])


def jax_calls(shape: tuple[int, ...]) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    import jax

    jax.config.update("jax_enable_x64", True)
    draws = {
        "uniform": jax.random.uniform,
        "normal": jax.random.normal,
        "truncated": lambda key, shape, dtype: jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype),
    }
    for kind in ("threefry", "rbg"):
        key = jax.random.key(1, impl={"threefry": "threefry2x32"}.get(kind, kind))
        for job in APART[f"JAX, {kind}"][1]:
            jitted = jax.jit(draws[job.partition(" ")[0]], static_argnums=(1, 2))
            yield f"JAX, {kind}", job, lambda f=jitted, k=key, job=job: f(k, shape, JOBS[job][1]).block_until_ready()


CALLS = {"tensorflow": (tensorflow_calls, keras_calls), "jax": (jax_calls,)}


def samples(framework: str, quick: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The samples of every job of a framework's; by "PEER: JOB"."""
    side = 512 if quick else 8192
    rounds = 3 if quick else 7
    warm = np.zeros((side, side), np.float32)
    for calls in CALLS[framework]:
        for peer, job, theirs in calls((side, side)):
            initializer, dtype = JOBS[job]
            empty = partial(np.empty, (side, side), {"bfloat16": np.uint16}.get(dtype, dtype))
            nbytes = empty().nbytes
            ours = partial(fastinit.fill, initializer=initializer, key=fastinit.Key(0), dtype=dtype)
            before = None if quick else partial(side_by_side.settle_memory, 2 * nbytes)
            own, other = side_by_side.alternate(lambda e=empty, f=ours: f(e()), theirs, rounds, 0.0, before)
            note = f"{speed(own, nbytes)}; {peer} {speed(other, nbytes)}; all threads; fresh memory on both sides"
            ratios = [slow / fast for fast, slow in zip(own, other, strict=True)]
            yield f"{peer}: {job}", {"samples": ratios, "note": note}
            if (peer, job) == ("Keras on TensorFlow", "truncated normal float32"):
                own, other = side_by_side.alternate(partial(ours, warm), theirs, rounds, 0.0)
                note = f"{speed(own, nbytes)} into warm memory; Keras {speed(other, nbytes)}, which returns new memory"
                ratios = [slow / fast for fast, slow in zip(own, other, strict=True)]
                yield "Keras, ours warm", {"samples": ratios, "note": note}


# In the process of the table


@cache
def measured(framework: str, quick: bool) -> dict[str, dict[str, Any]]:
    """The samples of a framework, from a process of its own."""
    environment = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return side_by_side.in_own_process(__file__, framework, *(["--quick"] if quick else []), **environment)


def raced_apart(lab: Lab, peer: str, job: str) -> Result:
    """What a framework's own process found."""
    for name in APART[peer][0]:
        side_by_side.installed(name)
    return Result(**measured(APART[peer][0][-1], lab.quick)[f"{peer}: {job}"])


def keras_truncated(lab: Lab) -> Result:
    """Keras's truncated normal against ours into warm memory: Keras has no way to ask for it."""
    for name in ("keras", "tensorflow"):
        side_by_side.installed(name)
    return Result(**measured("tensorflow", lab.quick)["Keras, ours warm"])


if __name__ == "__main__":
    for found in samples(sys.argv[1], "--quick" in sys.argv):
        print(json.dumps(found), flush=True)
