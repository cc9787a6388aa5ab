"""fill() of the Numba adapter on the host: what fastinit.fill writes, by a loop that Numba compiles."""

import concurrent.futures
import doctest
import importlib
import math
import pkgutil
import re

import numpy as np
import pytest

numba = pytest.importorskip("numba", reason="numba is not installed")

import fastinit  # noqa: E402
import fastinit.adapters.numba as adapter  # noqa: E402
from fastinit import Key, reference  # noqa: E402
from fastinit.adapters.numba import filling, quads, samplers  # noqa: E402

KEY = Key(0).fold_in("numba")
NORMAL = fastinit.Normal(0.25, 0.5)
LARGE = 2 * filling.TILE * filling.TILES_AT_A_TIME  # more than one piece of work
# Of the narrow formats bfloat16 has every distribution, and all of them these: one with subnormals, one of 64-bit draws
FEW = ("normal", "truncated tail")


def filled(out, initializer, dtype=None, **options):
    """The same memory, zeroed and filled by the adapter, and by the core."""
    wanted = np.zeros_like(out)
    fastinit.fill(wanted, initializer, KEY, dtype=dtype, **{k: v for k, v in options.items() if k != "num_threads"})
    assert adapter.fill(out, initializer, KEY, dtype=dtype, **options) is out
    return wanted


def test_the_samplers_are_numbered_as_the_core_numbers_them():
    assert dict(enumerate(reference.KINDS)) == fastinit.sampling.KINDS


@pytest.mark.parametrize("words", [KEY.words, (2**32 - 1,) * 4], ids=["key", "largest key"])
def test_the_text_itself_gives_the_reference(all_samplers, words, expected):
    formats = list(fastinit.dtypes.DTYPES)
    for name, sampling in all_samplers.items():
        kind, given = quads.parameters(sampling.parameters)
        if kind == "words":  # no values
            continue
        four = quads.quad(kind, formats[sampling.parameters["dtype"]])
        for number in (0, 1, 2**30 - 1, 2**30, 2**60 + 7):
            wanted = expected(sampling, words, 4 * number + np.arange(4, dtype=np.uint64)).tolist()
            assert list(four(np.uint64(number), words, tuple(given))) == wanted, (name, number)


def key_and_block_of(words):
    """A key and a block of its stream that has these words: Philox backwards, under keys until one serves."""
    for k0 in range(2**12):
        c0, c1, c2, c3 = words
        for turn in reversed(range(10)):
            r0, r1 = (k0 + turn * 0x9E3779B9) % 2**32, turn * 0xBB67AE85 % 2**32
            p0, p1 = c3 * pow(0xD2511F53, -1, 2**32) % 2**32, c1 * pow(0xCD9E8D57, -1, 2**32) % 2**32
            high0, high1 = p0 * 0xD2511F53 >> 32, p1 * 0xCD9E8D57 >> 32
            c0, c1, c2, c3 = p0, c0 ^ high1 ^ r0, p1, c2 ^ high0 ^ r1
        if c1 < 2**28:
            return (k0, 0, c2, c3), c0 | c1 << 32
    raise AssertionError("no key in 2**12 has the block within reach, of which one in 16 should")


EDGES = [0, 1, 2**31 - 257, 2**31 - 192, 2**31 - 1, 2**31, 2**31 + 1, 2**30 - 1, 3 * 2**30, 2**32 - 129, 2**32 - 1]


@pytest.mark.parametrize("edge", EDGES)
def test_rare_words_give_the_reference(edge, all_samplers, expected):
    """The ends of what a word can be, where samplers change branches and which no short fill would meet."""
    formats = list(fastinit.dtypes.DTYPES)
    for others in ((edge, edge, edge), (2**32 - 1, 0, 2**31)):
        words, block = key_and_block_of((edge, *others))
        assert reference.words(words, 4 * block + np.arange(4, dtype=np.uint64)).tolist() == [edge, *others]
        for name, sampling in all_samplers.items():
            kind, given = quads.parameters(sampling.parameters)
            if kind == "words":
                continue
            quad = quads.quad(kind, formats[sampling.parameters["dtype"]])
            number = block // 2 if kind.endswith("_64") else block  # a quad of 64-bit draws has two blocks
            wanted = expected(sampling, words, 4 * number + np.arange(4, dtype=np.uint64)).tolist()
            assert list(quad(np.uint64(number), words, tuple(given))) == wanted, name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_rounding_is_that_of_the_reference(dtype, storage):
    @numba.njit
    def encode(numbers, out):
        for i in range(numbers.size):
            out[i] = encoder(numbers[i])

    encoder = samplers.ENCODERS[dtype]
    upper = np.arange(2**16, dtype=np.uint32) << 16
    ends = np.array([0, 1, 0xFFF, 0x1000, 0x1001, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    numbers = (upper[:, None] | ends).reshape(-1).view(np.float32)
    numbers = numbers[np.abs(numbers) <= fastinit.dtypes.DTYPES[dtype].max]
    out = np.zeros(numbers.size, storage(dtype).str.replace("f", "u"))
    encode(numbers, out)
    assert (out == reference.narrow(numbers, dtype)).all()


# the framework law has every kind in float32, and in all formats where it is long
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.long), "float64"])
def test_fills_equal_the_core(dtype, distributions, storage):
    for name, initializer in distributions.items():
        out = np.zeros((37, 61), storage(dtype))
        assert (filled(out, initializer, dtype) == out).all(), name


@pytest.mark.parametrize("name", FEW)
def test_every_format_equals_the_core(name, dtype, distributions, storage):
    out = np.zeros((37, 61), storage(dtype))
    assert (filled(out, distributions[name], dtype) == out).all()


def test_steps_too_small_for_float32_are_taken_in_float64():
    for initializer in (fastinit.Uniform(-1e-38, 1e-38), fastinit.Uniform(1e-39, 3e-39), fastinit.Uniform(0.0, 1e-37)):
        out = np.zeros(1001, np.float32)
        assert (filled(out, initializer) == out).all()


@pytest.mark.parametrize("start", [*range(9), 2**32 - 3, 2**34 - 2, 2**62 + 1])
@pytest.mark.parametrize("initializer", [NORMAL, fastinit.TruncatedNormal(0.0, 1.0, 5.0, 7.0)], ids=repr)
def test_ranges_begin_and_end_anywhere(start, initializer):
    whole = fastinit.fill(np.empty(5000, np.float32), initializer, KEY, start=start)
    for size in (*range(10), filling.TILE - 1, filling.TILE, filling.TILE + 1, 2 * filling.TILE + 5):
        out = np.full(size + 1, 7.0, np.float32)
        adapter.fill(out[:size], initializer, KEY, start=start)
        assert (out[:size] == whole[:size]).all()
        assert out[size] == 7.0


def test_layouts_get_the_same_logical_values():
    shape = (6, 4, 3, 5)
    wanted = fastinit.fill(np.empty(shape, np.float32), NORMAL, KEY)
    unaligned = np.zeros(4 * 360 + 1, np.uint8)[1:].view(np.float32).reshape(shape)
    for out in (
        np.zeros(shape, np.float32),
        np.zeros(shape[::-1], np.float32).T,
        np.zeros((6, 3, 5, 4), np.float32).transpose(0, 3, 1, 2),  # channels last
        np.zeros((6, 8, 3, 10), np.float32)[:, ::2, :, 1::2],
        np.zeros(shape, np.float32)[::-1, :, ::-1, ::-1],
        np.zeros((6, 4, 3, 5, 2), np.float32)[..., 0],
        unaligned,
    ):
        assert (adapter.fill(out, NORMAL, KEY) == wanted).all()
    tall = np.zeros((700, 900), np.float32).T
    assert (filled(tall, NORMAL) == tall).all()
    scalar = np.zeros((), np.float32)
    assert filled(scalar, NORMAL) == scalar


def test_what_lies_between_strided_elements_stays():
    memory = np.full((5, 8), 7.0, np.float32)
    adapter.fill(memory[:, 1::2], NORMAL, KEY)
    assert (memory[:, ::2] == 7.0).all()
    assert (memory[:, 1::2] != 7.0).all()


def test_many_axes():
    out = np.zeros((2, 3, 2, 3, 2, 3), np.float32).transpose(5, 3, 1, 4, 2, 0)
    assert (filled(out, NORMAL) == out).all()


@pytest.mark.parametrize("initializer", [fastinit.he_normal(), fastinit.Orthogonal()], ids=repr)
def test_shards_equal_slices_of_the_whole(initializer):
    shape = (13, 10, 7)
    whole = fastinit.fill(np.empty(shape, np.float32), initializer, KEY)
    for cut in (np.s_[0:5, 0:10, 0:7], np.s_[5:13, 3:4, 2:7], np.s_[12:13, 9:10, 6:7], np.s_[4:4, 0:10, 0:7]):
        out = np.zeros(whole[cut].shape, np.float32)
        adapter.fill(out, initializer, KEY, global_shape=shape, offsets=[piece.start for piece in cut])
        assert (out == whole[cut]).all()
    dealt = np.zeros((4, 10, 3), np.float32)
    ranges = [[range(0, 2), range(8, 10)], [range(10)], [range(1, 7, 2)]]
    adapter.fill(dealt, initializer, KEY, global_shape=shape, ranges=ranges)
    assert (dealt == whole[[0, 1, 8, 9]][:, :, 1:7:2]).all()


@pytest.mark.parametrize("shape", [(LARGE + 5,), (LARGE // 256, 300)], ids=str)
def test_threads_do_not_change_the_values(shape):
    one = adapter.fill(np.zeros(shape, np.float32), NORMAL, KEY, num_threads=1)
    for threads in (2, 3, 7, None):
        out = np.zeros(shape, np.float32)
        assert (filled(out, NORMAL, num_threads=threads) == out).all()
        assert (out == one).all()


def test_several_threads_may_fill_at_once():
    keys = [KEY.fold_in(number) for number in range(8)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        outs = list(pool.map(lambda key: adapter.fill(np.zeros(300001, np.float32), NORMAL, key), keys))
    for key, out in zip(keys, outs, strict=True):
        assert (fastinit.fill(np.zeros(300001, np.float32), NORMAL, key) == out).all()


def test_structured_initializers_are_the_core_s():
    for initializer in (fastinit.Orthogonal(), fastinit.Identity(), fastinit.Sparse(0.5)):
        out = np.zeros((9, 7), np.float32)
        assert (filled(out, initializer) == out).all()


def test_raw_memory_and_buffers():
    bits = adapter.fill(np.zeros(99, np.uint16), NORMAL, KEY, dtype="float16")
    assert (bits.view(np.float16) == fastinit.fill(np.zeros(99, np.float16), NORMAL, KEY)).all()
    memory = bytearray(400)
    assert adapter.fill(memory, NORMAL, KEY, dtype="float32") is memory
    assert (np.frombuffer(memory, np.float32) == fastinit.fill(np.zeros(100, np.float32), NORMAL, KEY)).all()


def read_only():
    array = np.zeros(9, np.float32)
    array.flags.writeable = False
    return array


ZEROS = np.zeros((4, 6), np.float32)


@pytest.mark.parametrize(
    ("out", "options", "error", "text"),
    [
        (ZEROS, {"key": 0}, TypeError, "Key"),
        (ZEROS, {"initializer": "normal"}, TypeError, "Initializer"),
        ([0.0], {}, TypeError, "array"),
        (np.zeros(9, np.complex64), {}, TypeError, "complex64"),
        (np.zeros(9, np.int32), {}, TypeError, "int32"),
        (np.zeros(9, np.uint32), {}, TypeError, "uint32"),
        (np.zeros(9, np.uint32), {"dtype": "bfloat16"}, TypeError, "bfloat16"),
        (np.zeros(9, ">f4"), {}, TypeError, "byte order"),
        (read_only(), {}, BufferError, "read-only"),
        (np.lib.stride_tricks.as_strided(ZEROS, (4, 4), (4, 4)), {}, BufferError, "overlap"),
        (np.lib.stride_tricks.as_strided(ZEROS, (5,), (0,)), {}, BufferError, "overlap"),
        (ZEROS, {"offsets": (0, 0)}, ValueError, "global_shape"),
        (ZEROS, {"global_shape": (4, 8), "offsets": (0, 3)}, ValueError, "within"),
        (ZEROS, {"global_shape": (4, 8), "offsets": (0, 0), "start": 0}, ValueError, "got more than one"),
        (ZEROS, {"start": 2**63 - 3}, ValueError, "within"),
        (ZEROS, {"initializer": fastinit.he_normal(), "start": 0}, ValueError, "global_shape"),
        (ZEROS, {"initializer": fastinit.Normal(0.0, 1e38)}, ValueError, "largest finite"),
        (ZEROS, {"num_threads": 0}, ValueError, "num_threads"),
        (ZEROS, {"num_threads": 1.5}, TypeError, "num_threads"),
        (ZEROS, {"stream": 0}, ValueError, "stream"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(out, options, error, text):
    given = {"initializer": NORMAL, "key": KEY} | options
    with pytest.raises(error, match=re.escape(text)):
        adapter.fill(out, given.pop("initializer"), given.pop("key"), **given)
    assert not np.asarray(out).any()


def test_the_compiled_loops_fuse_nothing():
    fused = re.compile(r"\bv?fn?m(?:add|sub|la|ls)\w*", re.IGNORECASE)
    for kind, dtype in (("normal", "float32"), ("truncated_64", "float64")):
        loop = filling._loop(kind, dtype)
        sampling = fastinit.initializers.plan(NORMAL if kind == "normal" else fastinit.TruncatedNormal(), (9,), dtype)
        assert quads.KINDS[sampling.parameters["kind"]] == kind
        adapter.fill(np.zeros(9, dtype), NORMAL if kind == "normal" else fastinit.TruncatedNormal(), KEY)
        assembly = "".join(loop.inspect_asm().values())
        assert "sqrt" in assembly
        assert not fused.findall(assembly)
    from llvmlite import binding

    if binding.get_host_cpu_features().get("fma"):  # what the search would find
        naive = numba.njit(fastmath=True)(lambda a, b, c: a * b + c)
        assert naive(math.pi, math.e, 1.0)
        assert fused.findall("".join(naive.inspect_asm().values()))


def test_import_fastinit_leaves_numba_out_and_the_adapter_needs_no_cuda(run_python):
    program = "import sys, fastinit; assert 'numba' not in sys.modules; import fastinit.adapters.numba"
    done = run_python(program, CUDA_HOME="/nowhere", NUMBA_CUDA_DRIVER="/nowhere/libcuda.so")
    assert done.returncode == 0, done.stderr


def test_the_examples_run():
    names = ["", *(f".{found.name}" for found in pkgutil.iter_modules(adapter.__path__))]
    results = [doctest.testmod(importlib.import_module(adapter.__name__ + name)) for name in names]
    assert not sum(result.failed for result in results)
    assert sum(result.attempted for result in results) > 5
