"""Comparing: every byte that a fill would write otherwise is found, and no other, in whatever memory."""

import math

import numpy as np
import pytest

import fastinit
from fastinit import Blocks, Box, Constant, Key, Normal, Orthogonal, Painted, TruncatedNormal, Uniform, ZeroRow, Zeros
from fastinit.comparing import BLOCK, PIECE, compare, compare_buffer
from fastinit.dtypes import DTYPES
from fastinit.extending import Shard, buffer_of

KEY = Key("comparing")
TENSORS = {
    "small": ((7,), Normal(), {}),
    "scalar": ((), Uniform(), {}),
    "one block and an element": ((BLOCK + 1,), Normal(), {}),
    "two pieces and a block": ((2 * PIECE // 64 + 16, 64), Uniform(), {}),
    "one long row": ((1, PIECE + 5), Normal(), {}),
    "zeros": ((300, 40), Zeros(), {}),
    "truncated": ((300, 400), TruncatedNormal(), {}),
    "flat range": ((5000,), Normal(), {"start": 77}),
    "box": ((100, 2000), Normal(), {"global_shape": (400, 4000), "offsets": (20, 1999)}),
    "pieces": (
        (700, 50),
        Normal(),
        {"global_shape": (4000, 50), "ranges": ((range(300), range(1000, 1400)), (range(50),))},
    ),
    "padding row": ((300, 2000), ZeroRow(Normal(), 3), {}),
    "gates": ((400, 700), Blocks((Normal(), Zeros())), {}),
    "gates, a box": ((100, 700), Blocks((Normal(), Zeros())), {"global_shape": (400, 700), "offsets": (150, 0)}),
    "painted": ((300, 900), Painted(Normal(), (Box((5, 5), (3, 3), Uniform(), 1),)), {}),
    "orthogonal": ((40, 30), Orthogonal(), {}),
    "orthogonal, a box": ((10, 30), Orthogonal(), {"global_shape": (40, 30), "offsets": (10, 0)}),
}


def filled(shape, initializer, dtype="float32", **where):
    array = np.empty(shape, DTYPES[dtype].storage)
    return fastinit.fill(array, initializer, KEY, dtype=dtype, **where)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TENSORS)
def test_every_element_that_differs_is_found(name, dtype):
    shape, initializer, where = TENSORS[name]
    array = filled(shape, initializer, dtype, **where)
    for threads in (1, 2):
        found = compare(array, initializer, KEY, dtype=dtype, num_threads=threads, **where)
        assert found.is_equal and found.size == array.size and found.change == 0 and found.first is None
    bits = array.view(DTYPES[dtype].raw).reshape(-1)
    size = array.size
    for places in ([0], [size - 1], sorted({0, size // 2, size - 1}), [size // 3]):
        bits[places] ^= 1
        found = compare(array, initializer, KEY, dtype=dtype, **where)
        assert (found.different, found.first, found.last) == (len(places), places[0], places[-1])
        assert found.change > 0
        bits[places] ^= 1


def test_memory_of_other_layouts():
    array = np.empty((500, 600), np.float32).T
    fastinit.fill(array, Normal(), KEY)
    assert compare(array, Normal(), KEY).is_equal
    array[3, 4] += 1
    found = compare(array, Normal(), KEY)
    assert (found.different, found.first) == (1, 3 * 500 + 4)
    wide = np.zeros((1000, 9), np.float32)
    fastinit.fill(wide[:, 2:7], Normal(), KEY)
    assert compare(wide[:, 2:7], Normal(), KEY).is_equal
    apart = wide[::2, 2:7]
    assert compare(apart, Normal(), KEY, global_shape=(500, 5)).different > 2000


def test_read_only_memory_is_compared_and_nothing_is_written():
    array = filled((300, 40), Normal())
    kept = array.copy()
    array.flags.writeable = False
    assert compare(array, Normal(), KEY).is_equal
    assert compare(array, Normal(1.0), KEY).different == array.size
    assert compare(array.tobytes(), Normal(), KEY, dtype="float32").is_equal
    assert (array == kept).all()


def test_how_far_values_have_moved():
    array = filled((1000, 1000), Normal(std=0.02))
    moved = array + np.random.default_rng(0).normal(0, 0.002, array.shape).astype(np.float32)
    assert compare(moved, Normal(std=0.02), KEY).change == pytest.approx(0.1, rel=0.01)
    array[5, 5] = np.nan
    assert math.isnan(compare(array, Normal(std=0.02), KEY).change)
    assert compare(np.ones(5, np.float32), Zeros(), KEY).change == math.inf


def test_distances_whose_squares_leave_float64():
    array = fastinit.fill(np.empty(3000), Normal(std=0.02), KEY)
    array[1500:1503] = 1e300, -1e300, 1e200
    found = compare(array, Normal(std=0.02), KEY)
    assert found.different == 3 and found.change > 1e299 and math.isfinite(found.change)
    tiny = fastinit.fill(np.empty(3000), Normal(std=1e-300), KEY)
    assert compare(tiny * 1.5, Normal(std=1e-300), KEY).change == pytest.approx(0.5)
    assert compare(np.full(5, 1.7e308), Constant(-1.7e308), KEY).change == pytest.approx(2)
    assert compare(np.full(5, 5e-324), Zeros(), KEY).change == math.inf
    assert compare(-np.zeros(5, np.float32), Zeros(), KEY).different == 5  # bits, not numbers


@pytest.mark.parametrize("drawn_in", ["float32", "float64", "bfloat16", "float16"])
def test_values_that_were_converted(drawn_in):
    torch = pytest.importorskip("torch", reason="torch converts")
    for dtype in ("float32", "float64", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"):
        source = torch.empty(70, 50, dtype=getattr(torch, drawn_in))
        bits = source.view(getattr(torch, f"uint{8 * source.itemsize}")).numpy()
        fastinit.fill(bits, Normal(), KEY, dtype=drawn_in)
        converted = source.to(getattr(torch, dtype))
        raw = converted.view(getattr(torch, f"uint{8 * converted.itemsize}")).numpy().copy()
        buffer = buffer_of(raw, dtype)
        assert compare_buffer(buffer, Normal(), KEY, drawn_in=drawn_in).is_equal, dtype
        raw[3, 3] ^= 1
        assert compare_buffer(buffer, Normal(), KEY, drawn_in=drawn_in).different == 1


def test_nothing_to_compare():
    assert compare(np.empty((0, 5), np.float32), Normal(), KEY).size == 0
    shard = Shard.of((0,), (10,), (3,))
    assert compare_buffer(buffer_of(np.empty(0, np.float32), None), Normal(), KEY, shard).is_equal


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: compare([1.0], Normal(), KEY), TypeError, "NumPy array"),
        (lambda: compare(np.zeros(3, np.int32), Normal(), KEY), TypeError, "float32"),
        (lambda: compare(np.zeros(3, np.float32), 3, KEY), TypeError, "Initializer"),
        (lambda: compare(np.zeros(3, np.float32), Normal(), 3), TypeError, "Key"),
        (lambda: compare(np.zeros(3, np.float32), Normal(), KEY, num_threads=0), ValueError, "num_threads"),
        (lambda: compare(np.zeros(3, np.float32), Normal(), KEY, offsets=(1,)), ValueError, "global_shape"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
