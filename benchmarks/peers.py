"""Who else fills memory with random numbers, job by job: for each what it is given, and how it is called.

A peer that fills memory it is given gets the memory that fastinit gets, warm. One that only returns memory of its own
is raced with fresh memory on both sides. Each uses as many threads as it can, up to fastinit's; most have one.

A peer is tried on a few elements first: one that is missing or fails is skipped, and says why.

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
    "uniform float64": (fastinit.Uniform(0.0, 1.0), "float64"),
    "normal float64": (fastinit.Normal(), "float64"),
    "truncated normal float32": (fastinit.TruncatedNormal(), "float32"),
    "normal bfloat16": (fastinit.Normal(), "bfloat16"),
}
#: Elements of a block that stays in the second cache: then MKL never waits for memory.
BLOCK = 2**16


class Peer(NamedTuple):
    """A contestant: its name, its jobs, what makes its fill, and what a reader should know.

    In the note, ``{threads}`` stands for fastinit's threads in words.
    """

    name: str
    jobs: tuple[str, ...]
    make: Callable[[Lab, str], Fill]
    note: str
    is_fresh: bool = False
    elements: int | None = None  # of a contestant too slow for all


def kind(job: str) -> str:
    """The first word of a job: uniform, normal or truncated."""
    return job.partition(" ")[0]


def drawing(generator: Any, job: str) -> Callable[..., Any]:
    """The method of a generator in the manner of NumPy's, with the job's dtype."""
    draw = {"uniform": generator.random, "normal": generator.standard_normal}[kind(job)]
    return partial(draw, dtype=np.dtype(JOBS[job][1]).type)


def numpy_generator(lab: Lab, job: str, generator: np.random.Generator) -> Fill:
    draw = drawing(generator, job)
    return lambda out: draw(out=out)


def numpy_fill(lab: Lab, job: str, bits: str) -> Fill:
    return numpy_generator(lab, job, np.random.Generator(getattr(np.random, bits)(1)))


def randomgen_fill(lab: Lab, job: str, bits: str) -> Fill:
    randomgen = side_by_side.optional("randomgen")
    return numpy_generator(lab, job, np.random.Generator(getattr(randomgen, bits)(1)))


def parallel_numpy_fill(lab: Lab, job: str) -> Fill:
    draw = drawing(side_by_side.optional("parallel_numpy_rng").default_rng(1), job)
    return lambda out: draw(size=out.size, out=out, nthread=lab.threads)


def mtalg_fill(lab: Lab, job: str) -> Fill:
    side_by_side.optional("mtalg")
    from mtalg.random import MultithreadedRNG

    draw = drawing(MultithreadedRNG(seed=1, num_threads=lab.threads), job)

    def fill(out: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):  # for float32 it converts memory that nobody has filled, whatever is there
            return draw(size=out.size)

    return fill


def mkl_fill(lab: Lab, job: str, bits: str, block: int | None = None) -> Fill:
    """Each thread draws its share at once, or in blocks that nobody keeps: mkl_random returns memory of its own."""
    mkl_random = side_by_side.optional("mkl_random")
    states = [mkl_random.MKLRandomState(seed, brng=bits) for seed in range(lab.threads)]
    if job.startswith("uniform"):
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
    draw = draws[kind(job)]
    if JOBS[job][1] == "bfloat16":
        return lambda out: draw(torch.from_numpy(out.view(np.int16)).view(torch.bfloat16))
    return lambda out: draw(torch.from_numpy(out))


def scipy_fill(lab: Lab, job: str) -> Fill:
    truncnorm = side_by_side.optional("scipy.stats").truncnorm
    generator = np.random.Generator(np.random.PCG64(1))
    return lambda out: truncnorm.rvs(-2, 2, size=out.size, random_state=generator).astype(np.float32)


BOTH = ("uniform float32", "normal float32", "uniform float64", "normal float64")
SINGLE, DOUBLE = BOTH[:2], BOTH[2:]
ONE, ALL, FRESH = "1 thread", "{threads}", "{threads}; fresh memory on both sides"
IN_CACHE = "{threads}; in blocks that stay in cache and that nobody copies out, while fastinit fills memory"
PEERS = (
    Peer("torch", tuple(job for job in JOBS if "truncated" not in job), torch_fill, "1 thread, whatever it is given"),
    Peer(
        "torch",
        ("truncated normal float32",),
        torch_fill,
        "draws the whole on 1 thread, again and again until every value fits; the rest on {threads}",
    ),
    Peer("NumPy, SFC64", BOTH, partial(numpy_fill, bits="SFC64"), ONE),
    Peer("NumPy, PCG64", BOTH, partial(numpy_fill, bits="PCG64"), ONE),
    Peer("randomgen, Romu", BOTH, partial(randomgen_fill, bits="Romu"), ONE),
    Peer("parallel-numpy-rng", BOTH, parallel_numpy_fill, ALL),
    Peer("mtalg", SINGLE, mtalg_fill, f"{FRESH}; it converts an empty float64 array first", is_fresh=True),
    Peer("mtalg", DOUBLE, mtalg_fill, FRESH, is_fresh=True),
    Peer("MKL, SFMT19937", DOUBLE, partial(mkl_fill, bits="SFMT19937"), FRESH, is_fresh=True),
    Peer("MKL, Philox", DOUBLE, partial(mkl_fill, bits="PHILOX4X32X10"), FRESH, is_fresh=True),
    Peer("MKL, Philox, in cache", DOUBLE, partial(mkl_fill, bits="PHILOX4X32X10", block=BLOCK), IN_CACHE),
    Peer("Numba", BOTH, numba_fill, "{threads}, a loop with np.random"),
    Peer(
        "SciPy truncnorm",
        ("truncated normal float32",),
        scipy_fill,
        "1 thread; 2^20 elements, fresh memory on both sides",
        is_fresh=True,
        elements=2**20,
    ),
)
#: Those that run in processes of their own, and do every job: what needs to be installed. The first names the process.
APART = {
    "TensorFlow": ("tensorflow",),
    "Keras on TensorFlow": ("keras", "tensorflow"),
    "JAX, threefry": ("jax",),
    "JAX, rbg": ("jax",),
}


def in_words(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"


def tried(lab: Lab, peer: Peer, job: str, memory: np.ndarray) -> Fill:
    """The peer's fill, which has filled a few elements.

    Raises
    ------
    NotImplementedError
        If it cannot: whatever is wrong with a peer ends its row, and not the race.
    """
    try:
        fill = peer.make(lab, job)
        fill(memory[:64])
    except NotImplementedError:
        raise
    except Exception as error:
        raise NotImplementedError(f"{peer.name} fails: {type(error).__name__}: {error}") from error
    return fill


def raced(lab: Lab, peer: Peer, job: str) -> Result:
    """A contestant against fastinit."""
    initializer, dtype = JOBS[job]
    storage = {"bfloat16": np.uint16}.get(dtype, dtype)
    memory = lab.memory.view(storage)
    if peer.elements is not None:
        memory = memory[: peer.elements]
    theirs = tried(lab, peer, job, memory)
    ours = partial(lab.fill, initializer, dtype=dtype)
    if not peer.is_fresh:
        found = lab.compare(partial(ours, memory), partial(theirs, memory), memory.nbytes, peer.name)
    else:
        contestants = (lambda: ours(np.empty_like(memory))), partial(theirs, memory)
        found = lab.compare(*contestants, memory.nbytes, peer.name, fresh=2 * memory.nbytes)
    return found._replace(note=f"{found.note}; {peer.note.format(threads=in_words(lab.threads))}")


# In a process of its own


def tensorflow_calls(shape: tuple[int, ...]) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    import tensorflow as tf

    draws = {
        "uniform": tf.random.stateless_uniform,
        "normal": tf.random.stateless_normal,
        "truncated": tf.random.stateless_truncated_normal,
    }
    for job, (_, dtype) in JOBS.items():
        yield "TensorFlow", job, partial(draws[kind(job)], shape, seed=(1, 2), dtype=dtype)


def keras_calls(shape: tuple[int, ...]) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    from keras import initializers

    draws = {
        "uniform": initializers.RandomUniform(0.0, 1.0, seed=1),
        "normal": initializers.RandomNormal(0.0, 1.0, seed=1),
        "truncated": initializers.TruncatedNormal(0.0, 1.0, seed=1),
    }
    for job, (_, dtype) in JOBS.items():
        yield "Keras on TensorFlow", job, partial(draws[kind(job)], shape, dtype=dtype)


def jax_calls(shape: tuple[int, ...]) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    import jax

    jax.config.update("jax_enable_x64", True)
    draws = {
        "uniform": jax.random.uniform,
        "normal": jax.random.normal,
        "truncated": lambda key, shape, dtype: jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype),
    }
    for name, implementation in (("threefry", "threefry2x32"), ("rbg", "rbg")):
        key = jax.random.key(1, impl=implementation)
        for job, (_, dtype) in JOBS.items():
            jitted = jax.jit(draws[kind(job)], static_argnums=(1, 2))
            yield f"JAX, {name}", job, lambda f=jitted, k=key, d=dtype: f(k, shape, d).block_until_ready()


CALLS = {"tensorflow": tensorflow_calls, "keras": keras_calls, "jax": jax_calls}


def samples(framework: str, quick: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The samples of every job of a framework's; by "PEER: JOB"."""
    threads = fastinit.default_num_threads()
    if framework != "jax":  # which takes its number of threads from its environment
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
    side = 512 if quick else 8192
    for peer, job, theirs in CALLS[framework]((side, side)):
        initializer, dtype = JOBS[job]
        empty = partial(np.empty, (side, side), {"bfloat16": np.uint16}.get(dtype, dtype))
        nbytes = empty().nbytes
        ours = partial(fastinit.fill, initializer=initializer, key=fastinit.Key(0), dtype=dtype, num_threads=threads)
        before = None if quick else partial(side_by_side.settle_memory, 2 * nbytes)
        own, other = side_by_side.alternate(lambda e=empty, f=ours: f(e()), theirs, 3 if quick else 7, 0.0, before)
        words = f"up to {in_words(threads)}; fresh memory on both sides, since it cannot fill in place"
        note = f"{speed(own, nbytes)}; {peer} {speed(other, nbytes)}; {words}"
        yield f"{peer}: {job}", {"samples": [slow / fast for fast, slow in zip(own, other, strict=True)], "note": note}


# In the process of the table


@cache
def measured(framework: str, quick: bool) -> dict[str, dict[str, Any]] | str:
    """The samples of a framework, from a process of its own; or, once and for all of its rows, why there are none."""
    environment = {
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PJRT_NPROC": str(fastinit.default_num_threads()),
    }
    try:
        return side_by_side.in_own_process(__file__, framework, *(["--quick"] if quick else []), **environment)
    except NotImplementedError as reason:
        return str(reason)


def raced_apart(lab: Lab, peer: str, job: str) -> Result:
    """What a framework's own process found."""
    for name in APART[peer]:
        side_by_side.installed(name)
    found = measured(APART[peer][0], lab.quick)
    if isinstance(found, str):
        raise NotImplementedError(found)
    return Result(**found[f"{peer}: {job}"])


if __name__ == "__main__":
    for found in samples(sys.argv[1], "--quick" in sys.argv):
        print(json.dumps(found), flush=True)
