"""Bad input: a precise error, naming what was expected and what came, before a byte is written."""

import math

import numpy as np
import pytest

import fastinit
from fastinit import (
    Identity,
    Key,
    Normal,
    Orthogonal,
    fill,
)

KEY = Key(0)
inf, nan = math.inf, math.nan


def owner(array):
    """The array that has the memory."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def refused(error, match, out, *arguments, **options):
    """Asserts that a fill raises, and that the memory of `out` keeps every byte."""
    memory = owner(out) if isinstance(out, np.ndarray) else None
    before = None if memory is None or memory.dtype.hasobject else memory.tobytes()
    with pytest.raises(error, match=match):
        fill(out, *(arguments or (Normal(), KEY)), **options)
    assert before is None or memory.tobytes() == before


def pattern(shape=(6, 8), dtype="float32"):
    out = np.empty(shape, dtype)
    out.reshape(-1).view(np.uint8)[...] = 0xA5
    return out


def test_the_check_that_nothing_was_written_can_fail(monkeypatch):
    # an error that comes after the first half: what every test below would catch
    def late(out, *rest, **options):
        out[0] = 0
        raise ValueError("late")

    monkeypatch.setitem(globals(), "fill", late)
    with pytest.raises(AssertionError):
        refused(ValueError, "late", pattern())


# The buffer


def test_read_only():
    out = pattern()
    out.flags.writeable = False
    refused(BufferError, "out must be writable, got read-only memory", out)
    for immutable in (bytes(16), memoryview(bytes(16)), np.float32(1)):
        refused(BufferError, "out must be writable, got read-only memory", immutable, Normal(), KEY, dtype="float32")


def test_overlapping():
    base = pattern(64)
    views = {
        "stride 0": np.lib.stride_tricks.as_strided(base, (6, 8), (0, 4)),
        "stride 0, last axis": np.lib.stride_tricks.as_strided(base, (6, 8), (4, 0)),
        "windows": np.lib.stride_tricks.as_strided(base, (10, 3), (4, 4)),
        "half an element": np.lib.stride_tricks.as_strided(base, (8,), (2,)),
    }
    for view in views.values():
        refused(BufferError, r"the elements of out overlap: shape \(.*\), strides \(.*\) bytes", view)
        if view.ndim == 2:
            refused(BufferError, "overlap", view, Identity(), KEY)
    assert fill(np.broadcast_to(base[:1], (1, 1)).copy(), Normal(), KEY).shape == (1, 1)


def test_strides_of_axes_of_length_one_do_not_matter():
    base = pattern(8)
    view = np.lib.stride_tricks.as_strided(base, (1, 8, 1), (0, 4, 2))
    assert np.array_equal(fill(view, Normal(), KEY).reshape(-1), fill(pattern(8), Normal(), KEY))


@pytest.mark.parametrize(
    "dtype", ["int32", "int64", "uint8", "uint32", "complex64", "bool", "S4", "U2", "V4", "datetime64[s]"]
)
def test_other_dtypes(dtype):
    refused(TypeError, r"out must have one of the dtypes float32, .*; got an out of dtype ", np.zeros((6, 8), dtype))


def test_object_arrays():
    out = np.array([[None, "text"], [1.5, ()]], object)
    before = out.tolist()
    refused(TypeError, "got an out of dtype object", out)
    refused(TypeError, "raw memory of 8-byte unsigned integers; got dtype object", out, Normal(), KEY, dtype="float64")
    records = np.array([(None,)], [("pointer", object)])
    refused(TypeError, "raw memory of 8-byte unsigned integers", records, Normal(), KEY, dtype="float64")
    assert out.tolist() == before and records[0][0] is None


def test_a_dtype_that_the_memory_does_not_hold():
    for held, asked in [("float32", "float64"), ("float32", "float16"), ("int16", "bfloat16"), ("uint32", "bfloat16")]:
        message = f"dtype={asked} needs an out of that dtype, or raw memory .*; got dtype {held}"
        refused(TypeError, message, pattern(6, held), Normal(), KEY, dtype=asked)
    refused(TypeError, "got dtype", pattern(6, [("a", "f4")]), Normal(), KEY, dtype="float32")
    refused(
        ValueError,
        "expected a multiple of 4 bytes for float32, got 15 bytes",
        pattern(15, "u1"),
        Normal(),
        KEY,
        dtype="float32",
    )
    refused(TypeError, "got dtype uint8", pattern((4, 4), "u1"), Normal(), KEY, dtype="float32")
    for unknown in ("float128", "fp16", "double", 32, None.__class__, np.int32):
        refused(TypeError, "dtype must be one of float32, float64, .*; got", pattern(), Normal(), KEY, dtype=unknown)


def test_one_narrow_dtype_is_not_raw_memory_of_another():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    message = "dtype=float16 needs an out of that dtype, .*; got dtype bfloat16"
    refused(TypeError, message, pattern(6, ml_dtypes.bfloat16), Normal(), KEY, dtype="float16")
    message = "dtype=float8_e5m2 needs .*; got dtype float8_e4m3fn"
    refused(TypeError, message, pattern(6, ml_dtypes.float8_e4m3fn), Normal(), KEY, dtype="float8_e5m2")
    refused(TypeError, "got an out of dtype float8_e4m3$", pattern(6, ml_dtypes.float8_e4m3))


def test_byte_swapped():
    for dtype in ("float32", "float64", "float16"):
        out = pattern(6, np.dtype(dtype).newbyteorder())
        refused(TypeError, f"out must be in native byte order, got dtype '[<>]f{out.itemsize}'", out)
        refused(TypeError, "native byte order", out, Normal(), KEY, dtype=dtype)
    refused(TypeError, "native byte order", pattern(6, np.dtype("u2").newbyteorder()), Normal(), KEY, dtype="bfloat16")


@pytest.mark.parametrize("out", [[1.0, 2.0], None, 3.0, "text", object(), iter([])])
def test_no_buffer_at_all(out):
    refused(TypeError, f"out must be a NumPy array or a writable buffer, not {type(out).__name__}", out)


# Keys, initializers, threads, targets


@pytest.mark.parametrize("key", [0, None, "seed", (1, 2, 3, 4), np.random.default_rng(0)])
def test_key_that_is_none(key):
    message = rf"key must be a fastinit.Key, not {type(key).__name__}; Key\(seed\) makes one"
    refused(TypeError, message, pattern(), Normal(), key)
    with pytest.raises(TypeError, match=message):
        fastinit.words(key, 0, 4)


@pytest.mark.parametrize("initializer", [None, "he_normal", Normal, fastinit.he_normal, 0.5])
def test_initializer_that_is_none(initializer):
    refused(
        TypeError,
        r"initializer must be an Initializer such as fastinit.he_normal\(\), not ",
        pattern(),
        initializer,
        KEY,
    )
    with pytest.raises(TypeError, match="expects an elementwise initializer"):
        fastinit.sample(KEY, 0, initializer)


@pytest.mark.parametrize(
    "number, error", [(0, ValueError), (-1, ValueError), (True, TypeError), (1.5, TypeError), ("2", TypeError)]
)
def test_num_threads(number, error):
    for size in (4, 2**20):  # that it would not be used is no excuse
        refused(error, rf"num_threads.*{number!r}", pattern(size), Normal(), KEY, num_threads=number)
    refused(error, "num_threads", pattern(), Orthogonal(), KEY, num_threads=number)
    for count in (0, 8):
        with pytest.raises(error, match="num_threads"):
            fastinit.words(KEY, 0, count, num_threads=number)


@pytest.mark.parametrize("target", ["avx2", "", "X86_V3", "rvv", 3])
def test_unknown_target(target):
    names = ", ".join(fastinit.targets.supported())
    refused(
        ValueError,
        rf"target must be one of {names}; got {target!r} \(not compiled\)",
        pattern(),
        Normal(),
        KEY,
        target=target,
    )


ENVIRONMENT = """
import numpy as np, fastinit
out = np.full({size}, 7, np.float32)
for initializer in (fastinit.Normal(), fastinit.{structured}):
    try:
        fastinit.fill(out.reshape({shape}), initializer, fastinit.Key(0))
    except ValueError as error:
        print(error)
    else:
        print("no error")
print((out == 7).all())
"""


@pytest.mark.parametrize(
    "variable, value, message",
    [
        ("FASTINIT_TARGET", "avx2", "FASTINIT_TARGET: target must be one of"),
        ("FASTINIT_TARGET", "Generic", "FASTINIT_TARGET: target must be one of"),
        ("FASTINIT_NUM_THREADS", "0", "FASTINIT_NUM_THREADS must be a positive integer, got '0'"),
        ("FASTINIT_NUM_THREADS", "-2", "FASTINIT_NUM_THREADS must be a positive integer, got '-2'"),
        ("FASTINIT_NUM_THREADS", "two", "FASTINIT_NUM_THREADS must be a positive integer, got 'two'"),
        ("FASTINIT_NUM_THREADS", "1.5", "FASTINIT_NUM_THREADS must be a positive integer, got '1.5'"),
    ],
)
@pytest.mark.parametrize(
    "structured, shape", [("Orthogonal()", (1200, 1000)), ("DeltaOrthogonal()", (3, 400, 1000)), ("Sparse(.5)", (2, 3))]
)
def test_environment(run_python, variable, value, message, structured, shape):
    program = ENVIRONMENT.format(size=math.prod(shape), structured=structured, shape=shape)
    done = run_python(program, **{variable: value})
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and lines[0].startswith(message) and lines[1].startswith(message), done.stderr
    assert lines[2] == "True"


def test_an_empty_variable_is_none(run_python):
    done = run_python(
        ENVIRONMENT.format(size=6, structured="Sparse(.5)", shape=(2, 3)), FASTINIT_TARGET="", FASTINIT_NUM_THREADS=""
    )
    assert done.stdout.split() == ["no", "error", "no", "error", "False"], done.stderr


def test_no_elements_are_checked_and_left_alone():
    for shape in [(0,), (3, 0), (0, 4, 2)]:
        out = np.empty(shape, np.float32)
        assert fill(out, Normal(), KEY) is out
        refused(TypeError, "key must be", out, Normal(), 0)
        refused(TypeError, "initializer must be", out, None, KEY)
        refused(ValueError, "num_threads", out, Normal(), KEY, num_threads=0)
        refused(ValueError, "beyond the largest finite", out, Normal(std=1e38), KEY)
        refused(TypeError, "got an out of dtype int64", np.empty(shape, np.int64))
    refused(ValueError, "input and an output axis", np.empty(0, np.float32), fastinit.he_normal(), KEY)


# Shards


@pytest.mark.parametrize(
    "error, message, options",
    [
        (ValueError, r"global_shape must not be negative, got \(-6, 8\)", {"global_shape": (-6, 8)}),
        (TypeError, "global_shape: expected an integer, got 6.0", {"global_shape": (6.0, 8)}),
        (TypeError, "global_shape: expected an integer, got True", {"global_shape": (True, 8)}),
        (TypeError, "global_shape must be a sequence of integers, got '68'", {"global_shape": "68"}),
        (TypeError, "global_shape: expected an integer, got None", {"global_shape": (None, 8)}),
        (ValueError, r"offsets must not be negative, got \(-1, 0\)", {"global_shape": (9, 9), "offsets": (-1, 0)}),
        (TypeError, "offsets: expected an integer, got 0.5", {"global_shape": (9, 9), "offsets": (0.5, 0)}),
        (
            ValueError,
            r"the slice \[4, 10\) of axis 0 is not within \[0, 9\)",
            {"global_shape": (9, 9), "offsets": (4, 0)},
        ),
        (
            ValueError,
            r"the slice \[2, 10\) of axis 1 is not within \[0, 9\)",
            {"global_shape": (9, 9), "offsets": (0, 2)},
        ),
        (ValueError, r"the slice \[0, 8\) of axis 1 is not within \[0, 7\)", {"global_shape": (9, 7)}),
        (ValueError, "must have the same number of axes", {"global_shape": (9, 9, 9)}),
        (ValueError, "must have the same number of axes", {"global_shape": (9, 9), "offsets": (0,)}),
        (ValueError, "must have the same number of axes", {"global_shape": 100}),
        (ValueError, "offsets need a global_shape, got None", {"offsets": (0, 0)}),
        (
            ValueError,
            "expected one of offsets, ranges and start",
            {"global_shape": (9, 9), "offsets": (0, 0), "start": 0},
        ),
        (ValueError, r"elements \[-1, 47\) are not within \[0, 9223372036854775808\)", {"start": -1}),
        (ValueError, r"elements \[\d+, \d+\) are not within \[0, 9223372036854775808\)", {"start": 2**63 - 47}),
        (ValueError, r"elements \[34, 82\) are not within \[0, 81\)", {"global_shape": (9, 9), "start": 34}),
        (TypeError, "start: expected an integer, got 1.0", {"start": 1.0}),
        (TypeError, "start: expected an integer, got False", {"start": False}),
        (ValueError, r"expected a tensor of at most 2\*\*63 elements", {"global_shape": (2**40, 2**24)}),
        (ValueError, r"expected a tensor of at most 2\*\*63 elements", {"global_shape": (2**40, 2**24), "start": 0}),
    ],
)
@pytest.mark.parametrize("initializer", [Normal(), Identity()], ids=repr)
def test_shards_out_of_range(initializer, error, message, options):
    refused(error, message, pattern((6, 8)), initializer, KEY, **options)


def test_the_largest_tensors_are_no_error():
    last = fill(np.empty(4, np.float32), Normal(), KEY, start=2**63 - 4)
    corner = fill(
        np.empty((1, 4), np.float32), Normal(), KEY, global_shape=(2**31, 2**32), offsets=(2**31 - 1, 2**32 - 4)
    )
    assert np.array_equal(last, corner[0])


def test_a_flat_range_of_what_depends_on_the_shape():
    for initializer in (fastinit.he_normal(), Orthogonal()):
        refused(
            ValueError,
            "depends on the shape of the whole tensor: pass global_shape",
            pattern(6),
            initializer,
            KEY,
            start=0,
        )


def test_words_and_sample():
    for bad, error in [
        ((-1, 4), ValueError),
        ((0, -4), ValueError),
        ((2**63, 1), ValueError),
        ((0.0, 4), TypeError),
        ((0, True), TypeError),
    ]:
        with pytest.raises(error, match=r"start|count|words"):
            fastinit.words(KEY, *bad)
    assert fastinit.words(KEY, 2**63 - 2, 2).size == 2
    for index, error, message in [
        (-1, ValueError, r"elements \[-1, 0\) are not within"),
        (1.0, TypeError, "index: expected an integer, got 1.0"),
        (2**63, ValueError, "are not within"),
    ]:
        with pytest.raises(error, match=message):
            fastinit.sample(KEY, index, Normal())
    with pytest.raises(ValueError, match=r"elements \[6, 7\) are not within \[0, 6\)"):
        fastinit.sample(KEY, 6, fastinit.he_normal(), shape=(2, 3))
    with pytest.raises(ValueError, match="depends on the shape"):
        fastinit.sample(KEY, 0, fastinit.he_normal())
    with pytest.raises(ValueError, match=r"shape must not be negative, got \(-2, 3\)"):
        fastinit.sample(KEY, 0, Normal(), shape=(-2, 3))
    with pytest.raises(TypeError, match="dtype must be one of"):
        fastinit.sample(KEY, 0, Normal(), dtype="half")
    with pytest.raises(TypeError, match="expects an elementwise initializer"):
        fastinit.sample(KEY, 0, Identity())
