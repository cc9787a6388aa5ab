"""Everybody who fills memory with random numbers, job by job.

A peer that fills memory it is given gets the memory that fastinit gets, warm. One that only returns memory of its own
races with fresh memory on both sides. Each uses as many threads as it can, up to fastinit's; most have one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import fastinit

from ..bench_keras import keras_on, ready
from ..bench_numba import own_loop
from ..side_by_side import optional
from .lab import Lab, Result

Fill = Callable[[np.ndarray], object]

JOBS = {
    "uniform float32": (fastinit.Uniform(0.0, 1.0), "float32"),
    "normal float32": (fastinit.Normal(), "float32"),
    "uniform float64": (fastinit.Uniform(0.0, 1.0), "float64"),
    "normal float64": (fastinit.Normal(), "float64"),
    "truncated normal float32": (fastinit.TruncatedNormal(), "float32"),
    "normal bfloat16": (fastinit.Normal(), "bfloat16"),
}
BLOCK = 2**16  # elements that stay in the second cache: then MKL never waits for memory


class Peer(NamedTuple):
    """A contestant."""

    name: str
    jobs: tuple[str, ...]
    make: Callable[[Lab, str], Fill]  # its fill for a job
    note: str  # {threads} stands for fastinit's threads in words
    is_fresh: bool = False  # returns memory of its own
    elements: int | None = None  # all, unless the contestant is too slow
    process: str = ""  # the framework whose process it needs, one of rows.BACKENDS


def kind(job: str) -> str:
    """The first word of a job: uniform, normal or truncated."""
    return job.partition(" ")[0]


def drawing(generator: Any, job: str) -> Callable[..., Any]:
    """The method of a generator with NumPy's interface, with the job's dtype."""
    draw = {"uniform": generator.random, "normal": generator.standard_normal}[kind(job)]
    return partial(draw, dtype=np.dtype(JOBS[job][1]).type)


def numpy_fill(lab: Lab, job: str, bits: str, module: str = "numpy.random") -> Fill:
    draw = drawing(np.random.Generator(getattr(optional(module), bits)(1)), job)
    return lambda out: draw(out=out)


def parallel_numpy_fill(lab: Lab, job: str) -> Fill:
    draw = drawing(optional("parallel_numpy_rng").default_rng(1), job)
    return lambda out: draw(size=out.size, out=out, nthread=lab.threads)


def mtalg_fill(lab: Lab, job: str) -> Fill:
    optional("mtalg")
    from mtalg.random import MultithreadedRNG

    draw = drawing(MultithreadedRNG(seed=1, num_threads=lab.threads), job)

    def fill(out: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):  # for float32 it converts uninitialized memory
            return draw(size=out.size)

    return fill


def mkl_fill(lab: Lab, job: str, bits: str, block: int | None = None) -> Fill:
    """Each thread draws its share at once, or in blocks that nobody keeps: mkl_random returns memory of its own."""
    mkl_random = optional("mkl_random")
    states = [mkl_random.MKLRandomState(seed, brng=bits) for seed in range(lab.threads)]
    if kind(job) == "uniform":
        draws = [state.random_sample for state in states]
    else:
        draws = [partial(state.standard_normal, method="ICDF") for state in states]

    def work(number: int, size: int) -> Any:
        if block is not None:
            for _ in range((size - 1) // block):
                draws[number](block)
            size = (size - 1) % block + 1
        return draws[number](size)

    def fill(out: np.ndarray) -> list[Any]:
        shares = [max(share.size, 1) for share in np.array_split(out, lab.threads)]
        others = [lab.memset.pool.submit(work, number, shares[number]) for number in range(1, lab.threads)]
        return [work(0, shares[0]), *(one.result() for one in others)]

    return fill


def numba_fill(lab: Lab, job: str) -> Fill:
    draw = {"uniform": np.random.random, "normal": np.random.standard_normal}[kind(job)]
    loop, numba = own_loop(draw, parallel=True), optional("numba")
    numba.set_num_threads(min(lab.threads, numba.config.NUMBA_NUM_THREADS))
    return loop


def torch_fill(lab: Lab, job: str) -> Fill:
    init = lab.torch.nn.init
    draw = {"uniform": init.uniform_, "normal": init.normal_, "truncated": init.trunc_normal_}[kind(job)]
    return lambda out: draw(lab.tensor(out, JOBS[job][1]))


def scipy_fill(lab: Lab, job: str) -> Fill:
    truncnorm = optional("scipy.stats").truncnorm
    generator = np.random.Generator(np.random.PCG64(1))
    return lambda out: truncnorm.rvs(-2, 2, size=out.size, random_state=generator).astype(np.float32)


def tensorflow_fill(lab: Lab, job: str) -> Fill:
    random = optional("tensorflow").random
    draw = {
        "uniform": random.stateless_uniform,
        "normal": random.stateless_normal,
        "truncated": random.stateless_truncated_normal,
    }[kind(job)]
    return lambda out: draw((out.size,), seed=(1, 2), dtype=JOBS[job][1])


def keras_fill(lab: Lab, job: str) -> Fill:
    initializers = keras_on("tensorflow").initializers
    draw = {
        "uniform": partial(initializers.RandomUniform, 0.0, 1.0),
        "normal": partial(initializers.RandomNormal, 0.0, 1.0),
        "truncated": partial(initializers.TruncatedNormal, 0.0, 1.0),
    }[kind(job)](seed=1)
    return lambda out: ready(draw((out.size,), dtype=JOBS[job][1]))


def jax_fill(lab: Lab, job: str, implementation: str) -> Fill:
    jax = optional("jax")
    draw = {
        "uniform": jax.random.uniform,
        "normal": jax.random.normal,
        "truncated": lambda key, shape, dtype: jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype),
    }[kind(job)]
    key, jitted = jax.random.key(1, impl=implementation), jax.jit(draw, static_argnums=(1, 2))

    def fill(out: np.ndarray) -> Any:
        with jax.enable_x64(True):
            return jitted(key, (out.size,), JOBS[job][1]).block_until_ready()

    return fill


BOTH = ("uniform float32", "normal float32", "uniform float64", "normal float64")
SINGLE, DOUBLE, TRUNCATED = BOTH[:2], BOTH[2:], ("truncated normal float32",)
ONE, ALL, FRESH = "1 thread", "{threads}", "{threads}; fresh memory on both sides"
IN_CACHE = "{threads}; in blocks that stay in cache and that nobody copies out, while fastinit fills memory"
SMALL = "1 thread; 2^20 elements, fresh memory on both sides"
AGAIN = "draws the whole on 1 thread, again and again until every value fits; the rest on {threads}"
APART = "up to {threads}; fresh memory on both sides, since it cannot fill in place"
romu = partial(numpy_fill, module="randomgen", bits="Romu")
philox = partial(mkl_fill, bits="PHILOX4X32X10")
threefry, rbg = (partial(jax_fill, implementation=name) for name in ("threefry2x32", "rbg"))
PEERS = (
    Peer("torch", tuple(job for job in JOBS if job not in TRUNCATED), torch_fill, "1 thread, whatever it is given"),
    Peer("torch", TRUNCATED, torch_fill, AGAIN),
    Peer("NumPy, SFC64", BOTH, partial(numpy_fill, bits="SFC64"), ONE),
    Peer("NumPy, PCG64", BOTH, partial(numpy_fill, bits="PCG64"), ONE),
    Peer("randomgen, Romu", BOTH, romu, ONE),
    Peer("parallel-numpy-rng", BOTH, parallel_numpy_fill, ALL),
    Peer("mtalg", SINGLE, mtalg_fill, f"{FRESH}; it converts an empty float64 array first", is_fresh=True),
    Peer("mtalg", DOUBLE, mtalg_fill, FRESH, is_fresh=True),
    Peer("MKL, SFMT19937", DOUBLE, partial(mkl_fill, bits="SFMT19937"), FRESH, is_fresh=True),
    Peer("MKL, Philox", DOUBLE, philox, FRESH, is_fresh=True),
    Peer("MKL, Philox, in cache", DOUBLE, partial(philox, block=BLOCK), IN_CACHE),
    Peer("Numba", BOTH, numba_fill, "{threads}, a loop with np.random"),
    Peer("SciPy truncnorm", TRUNCATED, scipy_fill, SMALL, is_fresh=True, elements=2**20),
    Peer("TensorFlow", tuple(JOBS), tensorflow_fill, APART, is_fresh=True, process="tensorflow"),
    Peer("Keras on TensorFlow", tuple(JOBS), keras_fill, APART, is_fresh=True, process="tensorflow"),
    Peer("JAX, threefry", tuple(JOBS), threefry, APART, is_fresh=True, process="jax"),
    Peer("JAX, rbg", tuple(JOBS), rbg, APART, is_fresh=True, process="jax"),
)


def tried(lab: Lab, peer: Peer, job: str, memory: np.ndarray) -> Fill:
    """The peer's fill, which has run once: on a few elements, where it need not be compiled for each size.

    Raises
    ------
    NotImplementedError
        If it cannot: a peer's fault ends its row, not the race.
    """
    try:
        fill = peer.make(lab, job)
        fill(memory if peer.process else memory[:64])
    except NotImplementedError:
        raise
    except Exception as error:
        raise NotImplementedError(f"{peer.name} fails: {type(error).__name__}: {error}") from error
    return fill


def raced(lab: Lab, peer: str, job: str) -> Result:
    """A contestant, by name, against fastinit."""
    (contestant,) = (one for one in PEERS if one.name == peer and job in one.jobs)
    initializer, dtype = JOBS[job]
    memory = lab.memory.view({"bfloat16": np.uint16}.get(dtype, dtype))[: contestant.elements]
    theirs = tried(lab, contestant, job, memory)
    ours = partial(lab.fill, initializer, dtype=dtype)
    if not contestant.is_fresh:
        found = lab.compare(partial(ours, memory), partial(theirs, memory), memory.nbytes, peer)
    else:
        contestants = (lambda: ours(np.empty_like(memory))), partial(theirs, memory)
        found = lab.compare(*contestants, memory.nbytes, peer, fresh=2 * memory.nbytes)
    threads = f"{lab.threads} thread{'s' * (lab.threads > 1)}"
    return found._replace(note=f"{found.note}; {contestant.note.format(threads=threads)}")
