"""What the tests of the laws share: every dtype as raw bits, every sampler of the core, and the reference's answers."""

from __future__ import annotations

import ctypes
import ctypes.util
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastinit
from fastinit import _core, reference, truncation
from fastinit.dtypes import DTYPES


@pytest.fixture(autouse=True, scope="session")
def away_from_the_sources(tmp_path_factory):
    """Programs that tests start must find the installed package, not its sources in the repository's root."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)


# Files that take longest, in processor time. With `--dist loadfile` a worker takes one file after another, so these go
# first: a long file that came last would keep one worker busy while the others are idle.
LONGEST = (
    "test_code_blocks.py",
    "adapters/test_keras.py",
    "adapters/test_jax.py",
    "zoo/test_sample.py",
    "adapters/torch/test_one_definition.py",
    "benchmarks/test_bench_suite.py",
    "zoo/test_tiny.py",
    "adapters/torch/test_virtual.py",
    "adapters/test_framework_law.py",
    "adapters/torch/test_materializing_sharded.py",
    "test_doctests.py",
    "benchmarks/test_tools.py",
)


def pytest_collection_modifyitems(items):
    """Puts the files that take longest before all others."""
    here = Path(__file__).parent
    assert all((here / name).exists() for name in LONGEST)
    place = {here / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


TAGS = {dtype.tag: name for name, dtype in DTYPES.items()} | {_core.UINT32: "uint32"}
KINDS = list(reference.KINDS)  # in the order of the kernels' enumeration


@pytest.fixture(params=fastinit.targets.supported())
def target(request):
    """Each compiled instruction set that this machine runs."""
    return request.param


@pytest.fixture(params=DTYPES)
def dtype(request):
    """Each floating-point format by name."""
    return request.param


def storage(dtype):
    """The NumPy dtype of an array that holds the format: its own, or unsigned integers of its size."""
    return np.dtype(dtype if dtype in ("float32", "float64", "float16", "uint32") else f"u{DTYPES[dtype].itemsize}")


def raw(array):
    """The bits of every element, in the logical order, as unsigned integers."""
    return np.ascontiguousarray(array).view(f"u{array.itemsize}").reshape(array.shape)


def expected(sampling, key_words, index):
    """The bits that reference.py gives for a core's sampling (or its parameters) at these global indices."""
    p = sampling if isinstance(sampling, dict) else sampling.parameters
    kind = KINDS[p["kind"]]
    own = {
        "constant": {"bits": p["bits"]},
        "truncated": {"window": (p["first"], p["count"])},
        "truncated_64": {"window": (p["first"], p["count"])},
        "truncated_tail_64": {"tail": (p["tail_low"], p["tail_share"])},
    }.get(kind, {})
    clamp = (p["low"], p["high"]) if p["clamped"] else None
    index = np.asarray(index, np.uint64)
    return raw(reference.values(key_words, kind, index, TAGS[p["dtype"]], p["scale"], p["shift"], clamp, **own))


def _samplers():
    affine = {"scale": 0.75, "shift": 0.25, "clamped": True, "low": -1.5, "high": 4.0}
    tail = {"scale": -0.5, "shift": 0.0, "tail_low": 4.5, "tail_share": truncation.tail_ratio(4.5, 7.0)}
    rows = {
        "uniform_symmetric": [{"scale": math.ldexp(0.3, -24)}],
        "uniform": [{"scale": math.ldexp(0.7, -24), "shift": -0.2}],
        "normal": [{"scale": 0.02}, {"scale": 0.75, "shift": 0.25}],
        "truncated_2": [affine],
        "truncated": [
            affine | dict(zip(("first", "count"), truncation.window(-1.0, 3.0, 32), strict=True)),
            affine | {"first": 0, "count": 2**32 - 1, "low": -400.0, "high": 400.0},
        ],
        "uniform_symmetric_64": [{"scale": math.ldexp(0.3, -53)}],
        "uniform_64": [{"scale": math.ldexp(0.7, -53), "shift": -0.2}],
        "normal_64": [{"scale": 0.02}, {"scale": 0.75, "shift": 0.25}],
        "truncated_64": [affine | dict(zip(("first", "count"), truncation.window(-1.0, 3.0, 64), strict=True))],
        "truncated_tail_64": [tail],
    }
    for kind, choices in rows.items():
        for number, parameters in enumerate(choices):
            for name, dtype in DTYPES.items():
                if kind.endswith("_64") or name != "float64":
                    sampling = _core.Sampling(kind=KINDS.index(kind), dtype=dtype.tag, **parameters)
                    yield f"{kind}{number or ''}-{name}", sampling
    yield "words-uint32", _core.Sampling(kind=_core.WORDS, dtype=_core.UINT32)
    for name, dtype in DTYPES.items():
        yield f"constant-{name}", _core.Sampling(kind=_core.CONSTANT, dtype=dtype.tag, bits=dtype.bits(-0.3))


SAMPLERS = dict(_samplers())


@pytest.fixture(scope="session")
def all_samplers():
    """Every sampler of the core in every dtype that it writes, by name."""
    return SAMPLERS


@pytest.fixture(params=SAMPLERS, scope="session")
def sampler(request):
    """One of them."""
    return SAMPLERS[request.param]


@pytest.fixture(scope="session", name="storage")
def _storage():
    return storage


@pytest.fixture(scope="session", name="raw")
def _raw():
    return raw


@pytest.fixture(scope="session", name="expected")
def _expected():
    return expected


@pytest.fixture(scope="session")
def reference_fill():
    """reference_fill(initializer, key, index, dtype, shape): the bits of these elements, by the reference."""

    def answer(initializer, key, index, dtype="float32", shape=None):
        plan = fastinit.sampling.compiled(initializer.sampling(shape), dtype)
        return expected(plan, key.words, index)

    return answer


@pytest.fixture(scope="session")
def filled():
    """filled(shape, initializer, key, dtype, **options): a new array, or one of raw memory, after fill()."""

    def answer(shape, initializer, key, dtype="float32", **options):
        out = np.full(shape, 0x55, storage(dtype))
        return fastinit.fill(out, initializer, key, dtype=dtype, **options)

    return answer


@pytest.fixture(scope="session")
def run_python():
    """Runs a program in a fresh interpreter; returns the completed process."""

    def run(program, *arguments, timeout=60, **environment):
        import os

        given = {name: value for name, value in os.environ.items() if not name.startswith("FASTINIT_")}
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=given | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def distributions():
    """Initializers that between them use every sampler, and differ in every parameter that matters."""
    i = fastinit
    return {
        "zeros": i.Zeros(),
        "constant": i.Constant(-0.3),
        "uniform": i.Uniform(-0.2, 0.5),
        "uniform symmetric": i.Uniform(-0.3, 0.3),
        "normal": i.Normal(0.0, 0.02),
        "normal shifted": i.Normal(0.25, 0.75),
        "truncated 2": i.TruncatedNormal(0.1, 0.5),
        "truncated": i.TruncatedNormal(0.0, 1.0, -1.0, 3.0),
        "truncated half": i.TruncatedNormal(0.0, 1.0, 0.0, math.inf),
        "truncated rare": i.TruncatedNormal(0.0, 1.0, 3.0, 4.5),
        "truncated tail": i.TruncatedNormal(0.0, 1.0, 5.0, 7.0),
        "truncated lower tail": i.TruncatedNormal(0.0, 1.0, -math.inf, -5.0),
        "truncated absolute": i.TruncatedNormal(0.5, 0.25, 0.25, 1.0, bounds="absolute"),
        "truncated corrected": i.TruncatedNormal(0.0, 0.02, correct_variance=True),
        "glorot uniform": i.glorot_uniform(),
        "he normal": i.he_normal(),
        "lecun truncated": i.lecun_truncated_normal(),
    }


# The floating-point environment of the caller


class Environment:
    """The rounding mode and the flushing of subnormals of this thread, by fenv_t."""

    # offset of the control word in fenv_t; its bits that flush subnormals, inputs included; those of the rounding mode
    LAYOUT = {"x86_64": (28, 0x8040, 0x6000), "aarch64": (0, 1 << 24, 0xC00000)}.get(platform.machine())

    def __init__(self):
        name = ctypes.util.find_library("m")
        if self.LAYOUT is None or not name or platform.system() != "Linux":
            pytest.skip(f"no fenv_t layout known for {platform.machine()} on {platform.system()}")
        self.libm = ctypes.CDLL(name)
        self.offset, self.flush, self.rounding = self.LAYOUT
        self.saved = ctypes.create_string_buffer(64)
        self.libm.fegetenv(self.saved)

    def control(self):
        """The bits that are set; those of the two units of x86 must agree."""
        now = ctypes.create_string_buffer(64)
        self.libm.fegetenv(now)
        bits = ctypes.c_uint32.from_buffer(now, self.offset).value & (self.flush | self.rounding)
        if platform.machine() == "x86_64":
            assert ctypes.c_uint16.from_buffer(now, 0).value & 0xC00 == (bits & self.rounding) >> 3
        return bits

    def change(self, bits):
        changed = ctypes.create_string_buffer(self.saved.raw, 64)
        ctypes.c_uint32.from_buffer(changed, self.offset).value |= bits
        if platform.machine() == "x86_64":  # the old unit rounds as the new one does
            ctypes.c_uint16.from_buffer(changed, 0).value |= (bits & self.rounding) >> 3
        self.libm.fesetenv(changed)

    def restore(self):
        self.libm.fesetenv(self.saved)


@pytest.fixture(params=["flush", "downward", "upward", "toward zero", "all"])
def foreign(request):
    """A caller's unusual environment, which the test enters and leaves: (environment, bits)."""
    environment = Environment()
    lowest = environment.rounding & -environment.rounding  # of the two bits of the rounding mode
    down, up = (lowest, 2 * lowest) if platform.machine() == "x86_64" else (2 * lowest, lowest)
    bits = {
        "flush": environment.flush,
        "downward": down,
        "upward": up,
        "toward zero": environment.rounding,
        "all": environment.flush | environment.rounding,
    }[request.param]
    try:
        yield environment, bits
    finally:
        environment.restore()
