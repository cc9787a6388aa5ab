"""The one table: what is measured, in which section, against whom, what it must reach, and what the floor allows.

``make race`` measures the bars and the jobs, ``make figures`` the other sections. The dashboard and the documents show
what they found.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import fastinit

from . import adapters, fills, peers, programs
from .lab import Lab, Result
from .peers import JOBS, PEERS
from .report import Bar, under


class Row(NamedTuple):
    """One line of the table."""

    what: str
    bar: Bar | None
    measure: Callable[[Lab], Result]
    section: str = ""
    peer: str = ""  # in a section of everybody who does a job
    unit: str = "x"
    floor: float | None = None  # the most that the kernels' instructions allow on the processor of FLOORS
    process: str = ""  # the framework whose process it needs, one of BACKENDS


#: Frameworks that do not share a process, each with the environment of its own: Keras has one backend in a process.
BACKENDS = ("tensorflow", "jax", "torch")
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "PJRT_NPROC": str(fastinit.default_num_threads())}
ENVIRONMENTS = {name: {"KERAS_BACKEND": name, **QUIET} for name in BACKENDS}

BARS, WARM, FRESH = "The last factor", "Warm memory", "Fresh memory"
TORCH, PROGRAMS = "PyTorch adapter", "Programs"
NUMBA, CUDA = "Numba adapter", "CUDA device"
KERAS, JAX = "Keras adapter, fresh memory", "JAX adapter, fresh memory"
#: The processor whose floors the table gives, as race.json names it.
FLOORS = "family 6, model 207"
# Keras's classes: at least so many times as fast as its own, on TensorFlow and on the other backends.
CLASSES = {"GlorotUniform": (6, 6), "GlorotNormal": (20, 15), "HeNormal": (20, 15)}


def rows(section: str, *table: Row, process: str = "") -> tuple[Row, ...]:
    """The rows of one section."""
    return tuple(row._replace(section=section, process=row.process or process) for row in table)


def ways(function: Callable[..., Result]) -> Callable[..., Callable[[Lab], Result]]:
    """Makes ``ways(f)(kind="normal")`` of ``partial(f, kind="normal")``, which waits for the lab."""
    return partial(partial, function)


torch, memset, numpy, raced = map(ways, (fills.against_torch, fills.against_memset, fills.against_numpy, peers.raced))
threads, orthogonal, shard, small, gpt2 = map(
    ways, (fills.two_threads, fills.orthogonal, fills.column_shard, fills.small_fill, adapters.gpt2_xl)
)
own = ways(adapters.gpt2_xl_own)
eighth, memory_of_an_eighth = map(ways, (programs.eighth, programs.memory_of_an_eighth))
drop_in, small_drop_in, mesh = map(ways, (adapters.drop_in, adapters.small_drop_in, adapters.shards_of_a_mesh))
keras_class, jax, numba, cuda = map(
    ways, (adapters.keras_class, adapters.jax_factory, adapters.numba_fill, adapters.on_device)
)

ROWS = (
    *rows(
        BARS,
        Row("uniform against memset with the same threads", Bar(0.7, 0.95), memset(kind="uniform")),
        Row("normal against memset with the same threads", Bar(0.4, 0.5), memset(kind="normal")),
        Row("uniform against torch", Bar(18, 25), torch(kind="uniform")),
        Row("normal against torch", Bar(14, 17), torch(kind="normal"), floor=13.98),
        Row("truncated normal against torch", Bar(180, 220), torch(kind="truncated normal"), floor=206),
        Row(
            "truncated normal against Keras on TensorFlow, fresh memory",
            Bar(40, 50),
            raced(peer="Keras on TensorFlow", job="truncated normal float32"),
            floor=30,
            process="tensorflow",
        ),
        Row("bfloat16 normal against torch", Bar(18, 25), torch(kind="normal", dtype="bfloat16"), floor=17.8),
        # mkl_random has no out=. The comparison most in its favour: it never waits for memory, and never copies.
        Row(
            "normal float64 against MKL's Philox inverse CDF",
            Bar(1.5, 2.5),
            raced(peer="MKL, Philox, in cache", job="normal float64"),
            floor=0.96,
        ),
        Row("target x86_v3: uniform against torch", Bar(10, 12), torch(kind="uniform", target="x86_v3")),
        Row("target x86_v3: normal against torch", Bar(7, 8), torch(kind="normal", target="x86_v3"), floor=7.5),
        Row(
            "16x16 xavier_uniform_ through the torch adapter against torch",
            Bar(1.0, 1.5),
            small_drop_in(name="xavier_uniform_", n=16),
        ),
        Row("orthogonal 1024 against torch", Bar(1.8, 2.5), orthogonal(n=1024)),
        Row("orthogonal 4096 against torch", Bar(1.8, 2.5), orthogonal(n=4096)),
        Row(
            "GPT-2 XL constructed under patched(), fresh memory, against torch",
            Bar(8, 15),
            gpt2(way=adapters.constructed),
        ),
        Row("two threads against one: uniform", Bar(1.9), threads(kind="uniform")),
        Row("two threads against one: normal", Bar(1.9), threads(kind="normal")),
    ),
    # everybody who does a job
    *(
        Row(one.name, None, raced(peer=one.name, job=job), section=job, peer=one.name, process=one.process)
        for job in JOBS
        for one in PEERS
        if job in one.jobs
    ),
    *rows(
        WARM,
        Row("uniform against memset of zeros with the same threads", Bar(0.5, 0.9), memset(kind="uniform", byte=0)),
        Row("target baseline: uniform against torch", Bar(4, 4.5), torch(kind="uniform", target="baseline")),
        Row("target baseline: normal against torch", Bar(2.7, 3.4), torch(kind="normal", target="baseline")),
        Row("float64 normal against NumPy's standard_normal", Bar(15), numpy(dtype="float64")),
        *(
            Row(
                f"one 16x16 {name} through the NumPy adapter with out=",
                under(6, 3),
                small(function=name, torch_name=theirs),
                unit="us",
            )
            for name, theirs in (("he_normal", "kaiming_normal_"), ("xavier_uniform", "xavier_uniform_"))
        ),
        *(
            Row(f"a column shard (1/8 of the columns) against 1/8 of the whole: {kind}", under(1.3), shard(kind=kind))
            for kind in ("uniform", "normal")
        ),
        Row("extra memory per thread during any elementwise fill", under(1024), fills.extra_memory, unit="KiB"),
    ),
    *rows(
        FRESH,
        Row("normal against NumPy's standard_normal, fresh memory each", None, numpy(dtype="float32", fresh=True)),
        Row("uniform against memset, fresh memory each", None, memset(kind="uniform", fresh=True)),
        *(
            Row(f"{kind}, {words}", None, ways(function)(kind=kind))
            for words, function in (
                ("huge pages against 4 KiB pages", fills.huge_pages),
                ("warm memory against fresh", fills.warm_and_fresh),
            )
            for kind in ("uniform", "normal")
        ),
    ),
    *rows(
        TORCH,
        *(
            Row(f"init.{name} 4096x4096 against torch's", Bar(least), drop_in(name=name, n=4096))
            for name, least in (("xavier_uniform_", 12), ("kaiming_normal_", 9), ("trunc_normal_", 80))
        ),
        *(
            Row(f"init.{name} {n}x{n} against torch's", Bar(least), small_drop_in(name=name, n=n))
            for n, least in ((64, 1.5), (16, 1.0))
            for name in adapters.FUNCTIONS
            if (name, n) != ("xavier_uniform_", 16)  # which is among the bars
        ),
        Row("16 x Linear(4096, 4096) under patched(), fresh memory, against torch's", Bar(5), adapters.linears),
        Row(
            "GPT-2 XL materialized in bfloat16 against torch constructing it", Bar(10), gpt2(way=adapters.materialized)
        ),
        # the same work, so 1 but for noise
        Row("GPT-2 XL materialized in bfloat16: own against auto", Bar(0.95), own(peer="auto")),
        Row("GPT-2 XL materialized in bfloat16: own against a memset of fresh memory", Bar(0.9), own(peer="memset")),
        *(
            Row(
                f"a 1/64 shard (8 x 8 mesh) of 16384x16384 against 1/64 of the whole: {kind}",
                under(1.5),
                mesh(kind=kind),
            )
            for kind in ("uniform", "normal")
        ),
        Row("a shard's memory beyond its own: one of 2^18", under(1024), adapters.memory_of_a_shard, unit="KiB"),
    ),
    *rows(
        PROGRAMS,
        Row("transformers' init_weights of GPT-2 inside keyed(), warm, against the bare call", Bar(5), programs.late),
        Row("what keyed() adds per parameter, of 2000 of 4x4 and 4", under(60), programs.overhead, unit="us"),
        Row("initialize_ of GPT-2 without digests, warm, against the sum of its fills", Bar(0.8), programs.initialized),
        Row("verify of GPT-2 against the sum of its fills", Bar(0.8), programs.verified),
        *(
            Row(f"InitReader of 1/8 of GPT-2 XL in {dtype} against 1/8 of the fill", under(1.3), eighth(dtype=dtype))
            for dtype in ("float32", "bfloat16")
        ),
        *(
            Row(f"its memory beyond the shard: {dtype}", under(64), memory_of_an_eighth(dtype=dtype), unit="MiB")
            for dtype in ("float32", "bfloat16")
        ),
        *(
            Row(f"a call of init.{name} on 16x16 against torch's", Bar(least), small_drop_in(name=name, n=16))
            # the last is torch's own function, so 1 but for noise
            for name, least in (("xavier_uniform_", 1.5), ("normal_", 1.5), ("zeros_", 0.95))
        ),
    ),
    *(
        Row(f"Keras on {backend}: {what}", bar, partial(measure, backend=backend), section=KERAS, process=backend)
        for backend in BACKENDS
        for what, bar, measure in (
            *(
                (f"{name} 8192x8192 against Keras's own", Bar(bars[backend != "tensorflow"]), keras_class(name=name))
                for name, bars in CLASSES.items()
            ),
            ("a memset of fresh memory against Keras's own GlorotUniform", None, adapters.keras_memset),
            ("building 8 x Dense(4096) against the default initializer", Bar(3), adapters.keras_model),
            ("peak memory of a variable's initialization over the variable", under(1.1), adapters.keras_memory),
        )
    ),
    *rows(
        JAX,
        *(
            Row(
                f"JAX adapter: {factory} 8192x8192{words} against JAX's own, jitted",
                bar,
                jax(factory=factory, dtype=dtype),
            )
            for factory, dtype, words, bar in (
                ("he_normal", "float32", "", Bar(15)),
                ("he_normal", "bfloat16", " in bfloat16", None),
                ("glorot_uniform", "float32", "", None),
            )
        ),
        Row("JAX adapter: peak memory of an initialization over the array", under(1.1), adapters.jax_memory),
        process="jax",
    ),
    *rows(
        NUMBA,
        *(
            Row(
                f"Numba fill on the CPU against the same loop with Numba's own np.random.{kind}: {words}",
                bar,
                numba(kind=kind, parallel=words == "all threads"),
            )
            for kind, words, bar in (
                ("normal", "one thread each", Bar(3)),
                ("normal", "all threads", Bar(3)),
                ("uniform", "one thread each", None),
            )
        ),
        Row(
            "normal(key, i) in a compiled loop against np.random.normal: one thread each", None, adapters.numba_elements
        ),
    ),
    *rows(  # torch wins some of these, so they have no bar
        CUDA,
        *(
            Row(f"CUDA: {kind} {dtype} against torch's own", None, cuda(kind=kind, dtype=dtype))
            for dtype in ("float32", "bfloat16")
            for kind in fills.KINDS
        ),
        *(
            Row(f"CUDA: {kind} against a memset of the device's memory", None, cuda(kind=kind, memset=True))
            for kind in fills.KINDS
        ),
    ),
)
RACE = (BARS, *JOBS)
FIGURES = (WARM, FRESH, TORCH, PROGRAMS, KERAS, JAX, NUMBA, CUDA)
