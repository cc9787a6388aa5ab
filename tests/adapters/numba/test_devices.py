"""The Numba adapter on CUDA: kernels in Numba's simulator and on a GPU, and the PTX that they are compiled to."""

import importlib.util
import re
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="numba is not installed")

# The simulator

BEGIN = """
import numpy as np
from numba import cuda
import fastinit
from fastinit.adapters import numba as adapter

assert cuda.is_available()
key = fastinit.Key(0).fold_in("simulated")
STORAGE = {"float32": "f4", "float64": "f8", "float16": "f2", "bfloat16": "u2", "float8_e4m3fn": "u1"}

def on_device(shape, dtype="float32"):
    return cuda.to_device(np.zeros(shape, STORAGE[dtype]))

class View:  # of a device array; its own .T would be a copy
    def __init__(self, out):
        description = dict(out.__cuda_array_interface__)
        self.__cuda_array_interface__ = {**description, "shape": out.shape[::-1], "strides": out.strides[::-1]}

def transposed(out):
    return View(out) if hasattr(out, "__cuda_array_interface__") else out.T

def wanted(shape, initializer, dtype="float32", **options):
    return fastinit.fill(np.zeros(shape, STORAGE[dtype]), initializer, key, dtype=dtype, **options)
"""

ELEMENTS = """
@cuda.jit
def kernel(words, single, double, key, first):
    i = cuda.grid(1)
    if i < words.size:
        index = np.uint64(first + i)
        words[i] = adapter.words(key, index)
        single[i, 0] = adapter.uniform(key, index, -0.2, 0.5)
        single[i, 1] = adapter.normal(key, index, 0.25, 0.5)
        single[i, 2] = adapter.truncated_normal(key, index, 0.25, 0.5)
        double[i, 0] = adapter.uniform_float64(key, index, -0.2, 0.5)
        double[i, 1] = adapter.normal_float64(key, index, 0.25, 0.5)
        double[i, 2] = adapter.truncated_normal_float64(key, index, 0.25, 0.5)

initializers = fastinit.Uniform(-0.2, 0.5), fastinit.Normal(0.25, 0.5), fastinit.TruncatedNormal(0.25, 0.5)
for first in (0, 2**32 - 7, 2**62 + 1):
    words, single, double = cuda.to_device(np.zeros(50, np.uint32)), on_device((50, 3)), on_device((50, 3), "float64")
    kernel[2, 32](words, single, double, key.words, first)
    assert (words.copy_to_host() == fastinit.words(key, first, 50)).all()
    for column, initializer in enumerate(initializers):
        for found, dtype in ((single, "float32"), (double, "float64")):
            assert (found.copy_to_host()[:, column] == wanted(50, initializer, dtype, start=first)).all()
"""

FILLS = """
from math import inf

initializers = (
    fastinit.Constant(-0.3), fastinit.Uniform(-0.2, 0.5), fastinit.Uniform(-0.3, 0.3), fastinit.Uniform(0.0, 1e-37),
    fastinit.Normal(0.25, 0.75), fastinit.he_normal(), fastinit.TruncatedNormal(0.1, 0.5),
    fastinit.TruncatedNormal(0.0, 1.0, -1.0, 3.0), fastinit.TruncatedNormal(0.0, 1.0, -inf, -5.0),
    fastinit.Orthogonal(), fastinit.Identity(),
)
for initializer in initializers:
    for dtype in STORAGE:
        if initializer == fastinit.Uniform(0.0, 1e-37) and dtype not in ("float32", "float64", "bfloat16"):
            continue  # they have no values there
        whole = wanted((6, 9), initializer, dtype)
        out = on_device((6, 9), dtype)
        assert adapter.fill(out, initializer, key, dtype=dtype) is out
        assert (out.copy_to_host() == whole).all(), (initializer, dtype)
        out = on_device((9, 6), dtype)
        adapter.fill(transposed(out), initializer, key, dtype=dtype)
        assert (out.copy_to_host().T == whole).all(), (initializer, dtype)
        out = on_device((4, 18), dtype)
        stream = cuda.stream()
        place = {"global_shape": (6, 9), "offsets": (1, 3), "stream": stream}
        adapter.fill(out[:, 1::4], initializer, key, dtype=dtype, **place)
        stream.synchronize()
        assert (out.copy_to_host()[:, 1::4] == whole[1:5, 3:8]).all(), (initializer, dtype)
        assert not out.copy_to_host()[:, ::2].any()

normal = fastinit.Normal()
for start in (0, 1, 2, 3, 2**34 - 2, 2**62 + 3):
    for size in (0, 1, 2, 3, 4, 5, 130):
        out = adapter.fill(on_device(size), normal, key, start=start)
        assert (out.copy_to_host() == wanted(size, normal, start=start)).all(), (start, size)
out = on_device((2, 3, 2, 3, 2))
adapter.fill(transposed(out), normal, key)
assert (out.copy_to_host().T == wanted((2, 3, 2, 3, 2), normal)).all()
assert adapter.fill(on_device(()), normal, key).copy_to_host() == wanted((), normal)
"""

REFUSALS = """
normal = fastinit.Normal()
read_only = np.zeros(9, np.float32)
read_only.flags.writeable = False
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

memory = np.zeros(9 * 4 + 1, np.uint8)
overlapping = np.lib.stride_tricks.as_strided(np.zeros(9, np.float32), (4, 4), (4, 4))
for out, options, error, text in (
    (on_device(9), {"key": 0}, TypeError, "Key"),
    (on_device(9), {"initializer": "normal"}, TypeError, "Initializer"),
    (on_device(9), {"num_threads": 2}, ValueError, "num_threads"),
    (on_device(9), {"dtype": "float64"}, TypeError, "float64"),
    (on_device(9), {"dtype": "int8"}, TypeError, "int8"),
    (on_device(9, "bfloat16"), {}, TypeError, "dtype="),
    (cuda.to_device(np.zeros(9, np.complex64)), {}, TypeError, "complex64"),
    (cuda.to_device(np.zeros(9, np.int32)), {"dtype": "float32"}, TypeError, "int32"),
    (FakeCUDAArray(np.zeros(9, ">f4")), {}, TypeError, ">f4"),
    (FakeCUDAArray(read_only), {}, BufferError, "read-only"),
    (FakeCUDAArray(memory[1:].view(np.float32)), {}, BufferError, "aligned"),
    (FakeCUDAArray(overlapping), {}, BufferError, "overlap"),
    (FakeCUDAArray(overlapping), {"initializer": fastinit.Orthogonal()}, BufferError, "overlap"),
    (on_device((3, 3)), {"global_shape": (3, 4), "offsets": (0, 2)}, ValueError, "within"),
    (on_device(9), {"initializer": fastinit.Normal(0.0, 1e38)}, ValueError, "largest finite"),
    (on_device((3, 3, 3, 3)), {"initializer": fastinit.Identity()}, ValueError, ""),
):
    given = {"initializer": normal, "key": key} | options
    try:
        adapter.fill(out, given.pop("initializer"), given.pop("key"), **given)
    except error as raised:
        assert text in str(raised), raised
    else:
        raise AssertionError(f"{options} were not refused")
    assert not out._ary.any()
"""


@pytest.mark.parametrize("program", [ELEMENTS, FILLS, REFUSALS], ids=["elements", "fills", "refusals"])
def test_in_the_simulator(run_python, program):
    warnings = "import warnings\nwarnings.simplefilter('error')\n"
    done = run_python(warnings + BEGIN + program, NUMBA_ENABLE_CUDASIM="1", timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", [ELEMENTS, FILLS], ids=["elements", "fills"])
def test_on_a_gpu(run_python, program):
    if run_python("from numba import cuda; raise SystemExit(not cuda.is_available())").returncode:
        pytest.skip("needs a GPU")
    done = run_python(BEGIN + program, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_simulated_checks_can_fail(run_python):
    wrong = ELEMENTS.replace("adapter.normal(key, index, 0.25, 0.5)", "adapter.normal(key, index + 1, 0.25, 0.5)")
    assert wrong != ELEMENTS
    done = run_python(BEGIN + wrong.replace("index + 1", "index ^ np.uint64(1)"), NUMBA_ENABLE_CUDASIM="1")
    assert "AssertionError" in done.stderr


# PTX

COMPILE = """
import sys
import types as python_types
from numba import cuda, types
from numba.cuda import dispatcher
from fastinit.adapters import numba as adapter
from fastinit.adapters.numba import devices, quads

try:  # the compiler's library, which Numba looks for when it compiles
    cuda.compile_ptx(lambda: None, (), cc=(8, 0))
except Exception as missing:
    print("MISSING", type(missing).__name__, str(missing).splitlines()[0])
    sys.exit()
# What is called in a kernel is compiled for the current device, and here there is none.
dispatcher.get_current_device = lambda: python_types.SimpleNamespace(compute_capability=(8, 0))
fastmath, few = sys.argv[1] == "fastmath", sys.argv[1] == "few"

def compiled(function, arguments):
    print(cuda.compile_ptx(function, arguments, cc=(8, 0), fastmath=fastmath)[0])

key = types.UniTuple(types.uint64, 4)
"""

KERNELS = """
from fastinit.dtypes import DTYPES

# Every kind in every format, through one kernel; the other kernels have the same arithmetic, and differ in how they
# store: of those each kind is compiled in one format, and each format with normals. A few are each kind in one format
# through that one kernel, and normals through all kernels in each format.
narrow = ["float16"] if fastmath else ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
for kind in quads.KINDS.values():
    real = types.float64 if kind.endswith("_64") else types.float32
    parameters = types.Tuple((*[real] * 4, *[types.uint64] * 2, *[types.float64] * 2, *[types.uint64] * 2))
    for dtype in ["float32", "float64", *narrow]:
        if few and kind != "normal" and dtype != str(real):
            continue
        if kind != "words" and (dtype != "float64" or kind.endswith("_64")):
            row = types.Array(getattr(types, devices._Row(DTYPES[dtype].itemsize).dtype.name), 2, "A")
            arguments = (row, types.uint64, key, parameters)
            compiled(devices.dense_kernel(kind, dtype, True).py_func, arguments)
            if (dtype == str(real) and not few) or kind == "normal":
                compiled(devices.dense_kernel(kind, dtype, False).py_func, arguments)
                bits = types.Array(getattr(types, f"uint{8 * DTYPES[dtype].itemsize}"), 3, "A")
                signature = (bits, types.uint64, types.uint64, types.uint64, key, parameters)
                compiled(devices.kernel(kind, dtype).py_func, signature)
"""

USER_KERNEL = """
def kernel(out, key, a, b):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = adapter.uniform(key, i, a, b) if b > a else adapter.normal(key, i, a, b)
        if a < 1.0:
            out[i] = adapter.truncated_normal(key, i, a, b)

compiled(kernel, (types.float32[:], key, types.float64, types.float64))

def double(out, key, a, b):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = adapter.uniform_float64(key, i, a, b) if b > a else adapter.normal_float64(key, i, a, b)
        if a < 1.0:
            out[i] = adapter.truncated_normal_float64(key, i, a, b)

compiled(double, (types.float64[:], key, types.float64, types.float64))
"""

NAIVE = """
from math import log, sqrt

def kernel(out, a, b):
    out[0] = a * b + out[0]
    out[1] = sqrt(out[1])
    out[2] = log(a) / b

compiled(kernel, (types.float32[:], types.float32, types.float32))
"""

# Operations on floats that are exact or rounded once, to nearest even, with subnormals as they are. Plain add and mul
# are missing: the assembler may fuse them.
EXACT = re.compile(
    r"(?:add|mul|div|sqrt|rcp)\.rn\.f(?:32|64)|neg\.f(?:32|64)"
    r"|cvt\.rn\.b?f16x2\.f32|cvt\.rn\.f32\.s(?:32|64)|cvt\.rn\.f64\.[su](?:32|64)|cvt\.rn\.f32\.f64|cvt\.f64\.f32"
    r"|(?:ld|st)\.[a-z.]*f(?:32|64)|(?:mov|selp)\.f(?:32|64)|setp\.[a-z]+\.f(?:32|64)"
)
OPERATION = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z][a-z0-9]*\.[a-z0-9.]*\bf(?:16|32|64)\b[a-z0-9.]*)", re.MULTILINE)


def operations(ptx):
    """The operations on floats in a program in PTX."""
    return set(OPERATION.findall(ptx))


def inexact(ptx):
    return {operation for operation in operations(ptx) if not EXACT.fullmatch(operation)}


@pytest.fixture
def compile_ptx(run_python):
    """The PTX of a program's kernels; skips the test where NVIDIA's compiler library is not to be had."""

    def compiled(program, option=""):
        environment = {}
        package = importlib.util.find_spec("nvidia")  # as tests/requirements.txt installs it
        for folder in package.submodule_search_locations or () if package else ():
            toolkit = Path(folder, "cuda_nvcc")
            if toolkit.is_dir():
                # Numba finds libdevice there, but a libnvvm without a version in its name only by the system's path
                environment = {"CUDA_HOME": str(toolkit), "LD_LIBRARY_PATH": str(toolkit / "nvvm/lib64")}
        done = run_python(COMPILE + program, option, timeout=300, **environment)
        assert done.returncode == 0, done.stderr
        if done.stdout.startswith("MISSING"):
            pytest.skip(f"Numba cannot compile for CUDA here: {done.stdout}")
        return done.stdout

    return compiled


@pytest.mark.parametrize(
    ("program", "option"),
    [
        pytest.param(KERNELS, "few", id="fill-few"),
        pytest.param(KERNELS, "", id="fill", marks=pytest.mark.long),
        pytest.param(KERNELS, "fastmath", id="fill-fastmath", marks=pytest.mark.long),
        pytest.param(USER_KERNEL, "", id="user kernel", marks=pytest.mark.long),
        pytest.param(USER_KERNEL, "fastmath", id="user kernel-fastmath"),
    ],
)
def test_every_operation_is_exact(compile_ptx, program, option):
    ptx = compile_ptx(program, option)
    assert {"add.rn.f32", "mul.rn.f64", "sqrt.rn.f32", "sqrt.rn.f64", "div.rn.f64"} <= operations(ptx)
    assert not inexact(ptx)
    assert not re.findall(r"__nv_\w+|\bcall\b", ptx)


def test_the_check_finds_what_is_not_exact(compile_ptx):
    assert "fma.rn.f32" in inexact(compile_ptx(NAIVE))
    fast = inexact(compile_ptx(NAIVE, "fastmath"))
    assert any(".approx" in operation for operation in fast)
    assert any(".ftz" in operation for operation in fast)
