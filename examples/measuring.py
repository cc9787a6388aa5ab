"""What the demo measures: fills a model, times it beside NumPy and memset, checks the spread, hashes the bytes.

Nothing here prints, and nothing here needs more than NumPy.
"""

import ctypes
import hashlib
import math
import mmap
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from architectures import Parameter
from expectations import Moments, bounds_in_sigma, decode, moments, plain

import fastinit
from fastinit import Initializer, Normal, TruncatedNormal, Uniform, targets

#: The NumPy dtype whose memory holds each dtype; NumPy alone knows neither bfloat16 nor float8.
STORAGE = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float8_e4m3fn": np.uint8,
    "float8_e5m2": np.uint8,
}

HUGE = 1_000_000_000  # parameters; above it, what is slow runs on the first tensor of each kind and shape
PIECE = 1 << 20  # elements a statistic takes at once, in float64
LEAF = 1 << 24  # bytes hashed at once
ALIGNMENT = 64


@dataclass(frozen=True)
class Observation:
    """What one filled parameter holds, and how many standard errors that is away from the recipe."""

    parameter: Parameter
    expected: Moments
    variance: float
    deviation: float


class Job:
    """One model to be filled: its table, its key, and memory for its tensors.

    The tensors share one arena if that takes at most 60 % of the available memory; if not, `reused` is true and each
    tensor overwrites the one before it. `sample` is the whole table, or a part of it for a huge model.
    """

    def __init__(self, table: list[Parameter], dtype: str, seed: int, threads: int) -> None:
        self.table, self.dtype, self.seed, self.threads = table, dtype, seed, threads
        self.key = fastinit.Key(seed)
        self.storage = np.dtype(STORAGE[dtype])
        self.huge = sum(p.size for p in table) > HUGE
        first_of = {(p.kind, p.shape): p for p in reversed(table)}
        self.sample = [p for p in table if first_of[p.kind, p.shape] is p] if self.huge else table
        sizes = [aligned(self.bytes_of([p])) for p in table]
        self.reused = sum(sizes) > 0.6 * available_memory()
        starts = [0] * len(table) if self.reused else [0, *accumulate(sizes[:-1])]
        raw = np.empty((max(sizes) if self.reused else sum(sizes)) + ALIGNMENT, np.uint8)
        arena = raw[-raw.ctypes.data % ALIGNMENT :]
        self._views = {
            p.name: arena[start : start + self.bytes_of([p])].view(self.storage).reshape(p.shape)
            for p, start in zip(table, starts, strict=True)
        }

    def bytes_of(self, table: list[Parameter]) -> int:
        return sum(p.size for p in table) * self.storage.itemsize

    def view(self, parameter: Parameter) -> np.ndarray:
        return self._views[parameter.name]

    def fill(
        self, parameter: Parameter, threads: int | None = None, target: str | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """The job itself, one parameter of it: the only call of the library that is timed."""
        key = self.key.fold_in(parameter.name)
        return fastinit.fill(
            self.view(parameter) if out is None else out,
            parameter.initializer,
            key,
            dtype=self.dtype,
            num_threads=threads or self.threads,
            target=target,
        )


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def available_memory() -> int:
    """Bytes that can be had without swapping; 4 GiB where the system does not say."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 << 30


def first_fill(job: Job, advance: Callable[[int], None]) -> list[Observation]:
    """Fill every parameter once, and look at what was written."""
    observations = []
    with ThreadPoolExecutor(job.threads) as pool:
        for parameter in job.table:
            out = job.fill(parameter)
            observations.append(observe(job, parameter, out, pool))
            advance(out.nbytes)
    return observations


def observe(job: Job, parameter: Parameter, out: np.ndarray, pool: ThreadPoolExecutor) -> Observation:
    """Mean and variance in float64, of every element, or of 16 even pieces of each tensor of a huge model.

    A sample's standard deviation has the standard error sigma * sqrt((kurtosis - 1) / 4n), its mean sigma / sqrt(n);
    the worse of the two counts. A constant must be equal to the last bit.
    """
    expected = moments(plain(parameter), job.dtype)
    flat = out.reshape(-1)
    starts = range(0, flat.size, PIECE)
    if job.huge and len(starts) > 16:
        starts = starts[:: -(-len(starts) // 16)]

    def sums(start: int) -> tuple[int, float, float]:
        centred = decode(flat[start : start + PIECE], job.dtype) - expected.mean
        return centred.size, float(centred.sum()), float(centred @ centred)

    n, total, squares = map(sum, zip(*pool.map(sums, starts), strict=True))
    mean, variance = total / n, squares / n - (total / n) ** 2
    if expected.std == 0:
        return Observation(parameter, expected, variance, 0.0 if squares == 0 else math.inf)
    of_mean = mean / expected.std * math.sqrt(n)
    of_std = (math.sqrt(variance) / expected.std - 1) * math.sqrt(4 * n / (expected.kurtosis - 1))
    return Observation(parameter, expected, variance, max(abs(of_mean), abs(of_std)))


def race(contestants: dict[str, Callable[[], object]], budget: float = 2.0) -> dict[str, float]:
    """Median seconds of each, run in turn: three rounds or more, until the budget of seconds is spent."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    end = time.perf_counter() + budget
    for rounds in range(50):
        if rounds >= 3 and time.perf_counter() > end:
            break
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def time_warm(job: Job) -> dict[str, float]:
    """Seconds that the job's sample takes in memory that was written before: "fastinit", "numpy", and "memset"."""
    scratch = np.zeros(max(p.size for p in job.sample), numpy_dtype(job))
    drawn = [(plain(p), scratch[: p.size]) for p in job.sample]
    with ThreadPoolExecutor(job.threads) as pool:
        return race(
            {
                "fastinit": lambda: [job.fill(p) for p in job.sample],
                "memset": lambda: [memset(job.view(p), job.threads, pool) for p in job.sample],
                "numpy": lambda: numpy_fill_all(job.seed, drawn),
            }
        )


def time_cold(job: Job, budget: float = 2.0) -> dict[str, float] | None:
    """The same in memory that no program has touched yet, up to three times each; None if there is too little of it."""
    if sum(p.size for p in job.sample) * 8 > 0.6 * available_memory():
        return None

    def fastinit_fill_all(views: list[np.ndarray]) -> None:
        for parameter, view in zip(job.sample, views, strict=True):
            job.fill(parameter, out=view.reshape(parameter.shape))

    times: dict[str, list[float]] = {}
    end = time.perf_counter() + budget
    with ThreadPoolExecutor(job.threads) as pool:
        contestants: dict[str, tuple[np.dtype, Callable[[list[np.ndarray]], object]]] = {
            "fastinit": (job.storage, fastinit_fill_all),
            "memset": (job.storage, lambda views: [memset(view, job.threads, pool) for view in views]),
            "numpy": (
                numpy_dtype(job),
                lambda views: numpy_fill_all(job.seed, zip(map(plain, job.sample), views, strict=True)),
            ),
        }
        for rounds in range(3):
            if rounds and time.perf_counter() > end:
                break
            for name, (dtype, run) in contestants.items():
                views = untouched(dtype, [p.size for p in job.sample])
                start = time.perf_counter()
                run(views)
                times.setdefault(name, []).append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def untouched(dtype: np.dtype, counts: list[int]) -> list[np.ndarray]:
    """Arrays in memory that the system has yet to hand out, in huge pages where it has them, as NumPy asks for."""
    starts = [0, *accumulate(aligned(n * dtype.itemsize) for n in counts)]
    memory = mmap.mmap(-1, starts[-1])
    with suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return [np.frombuffer(memory, dtype, n, start) for n, start in zip(counts, starts, strict=False)]


def numpy_dtype(job: Job) -> np.dtype:
    """The dtype that NumPy draws in: its generators know two."""
    return np.dtype(np.float64 if job.dtype == "float64" else np.float32)


def memset(out: np.ndarray, threads: int, pool: ThreadPoolExecutor) -> None:
    """The C library's, which ctypes calls without the GIL; a tensor over 1 MiB is split over the threads.

    Not of zeros, which some processors do not write out as they do other values.
    """
    share = out.nbytes if out.nbytes < 1 << 20 else -(-out.nbytes // threads)
    pieces = [(out.ctypes.data + start, 0x5A, min(share, out.nbytes - start)) for start in range(0, out.nbytes, share)]
    waiting = [pool.submit(ctypes.memset, *piece) for piece in pieces[1:]]
    ctypes.memset(*pieces[0])
    for piece in waiting:
        piece.result()


def numpy_fill_all(seed: int, drawn: Iterable[tuple[Initializer, np.ndarray]]) -> None:
    """The same distributions as one writes them in NumPy: one generator, in place, in order, on one thread."""
    rng = np.random.default_rng(seed)
    for rule, out in drawn:
        _numpy_fill(rng, rule, out)


def _numpy_fill(rng: np.random.Generator, rule: Initializer, out: np.ndarray) -> None:
    match rule:
        case Uniform(low=low, high=high):
            rng.random(dtype=out.dtype, out=out)
            out *= high - low
            out += low
        case Normal(std=std):
            rng.standard_normal(dtype=out.dtype, out=out)
            out *= std
        case TruncatedNormal(std=std):
            _numpy_truncated(rng, out, bounds_in_sigma(rule)[1])
            out *= std
        case _:
            out.fill(rule.value)


def _numpy_truncated(rng: np.random.Generator, out: np.ndarray, cut: float) -> None:
    """Draw, and draw again what lies outside: NumPy has no truncated normal."""
    rng.standard_normal(dtype=out.dtype, out=out)
    outside = np.flatnonzero(np.abs(out) > cut)
    while outside.size:
        fresh = rng.standard_normal(outside.size, dtype=out.dtype)
        out[outside] = fresh
        outside = outside[np.abs(fresh) > cut]


def digests(job: Job) -> dict[tuple[str, int], str]:
    """The digest of the sample by (target, threads): the default target on one thread and on all, then each target."""
    runs: list[tuple[str | None, int]] = [(None, 1), (None, job.threads)]
    runs += [(name, job.threads) for name in targets.supported()]
    return {(name or "default", threads): digest(job, threads, name) for name, threads in runs}


def digest(job: Job, threads: int, target: str | None) -> str:
    """BLAKE2b over each tensor's name and the BLAKE2b of each 16 MiB of its bytes, hashed in parallel, in order."""
    whole = hashlib.blake2b(digest_size=16)
    with ThreadPoolExecutor(job.threads) as pool:
        for parameter in job.sample:
            raw = job.view(parameter).reshape(-1).view(np.uint8)
            raw.fill(0xFF)  # so that what an earlier run left behind cannot pass for this one
            job.fill(parameter, threads, target)
            leaves = [raw[start : start + LEAF] for start in range(0, raw.size, LEAF)]
            whole.update(parameter.name.encode() + b"\0")
            for leaf in pool.map(hashlib.blake2b, leaves):
                whole.update(leaf.digest())
    return whole.hexdigest()
