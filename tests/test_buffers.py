"""The law of layouts: the logical values do not depend on where in memory the elements lie."""

import array
import contextlib
import itertools
import mmap
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastinit
from fastinit import Key
from fastinit.buffers import Buffer
from fastinit.dtypes import DTYPES
from fastinit.shards import check_distinct

KEY = Key("layouts")
NORMAL = fastinit.Normal(0.1, 0.5)


def fortran(shape, kind):
    return np.zeros(shape, kind, order="F")


def transposed(shape, kind):
    return np.zeros(shape[::-1], kind).T


def strided(shape, kind):
    return np.zeros([3 * n + 1 for n in shape], kind)[tuple(slice(1, 3 * n + 1, 3) for n in shape)]


def reversed_axes(shape, kind):
    return np.zeros(shape, kind)[tuple(slice(None, None, -1) for _ in shape)]


def last_axis_reversed(shape, kind):
    return np.zeros(shape, kind)[..., ::-1]


def channels_last(shape, kind):
    return (
        np.moveaxis(np.zeros((shape[0], *shape[2:], shape[1]), kind), -1, 1)
        if len(shape) > 2
        else transposed(shape, kind)
    )


def padded_rows(shape, kind):
    return np.zeros((*shape[:-1], shape[-1] + 5), kind)[..., : shape[-1]]


def unaligned(shape, kind):
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    return np.zeros(size + 1, np.uint8)[1:].view(kind).reshape(shape)


LAYOUTS = [fortran, transposed, strided, reversed_axes, last_axis_reversed, channels_last, padded_rows, unaligned]
SHAPES = [(1,), (7,), (1, 1), (5, 9), (64, 3), (3, 300), (300, 3), (2, 3, 4), (4, 1, 5, 3), (1, 6, 1), (2, 2, 3, 2, 3)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layouts(layout, shape, filled, raw, storage, dtype):
    out = layout(shape, storage(dtype))
    assert out.shape == shape
    assert fastinit.fill(out, NORMAL, KEY, dtype=dtype) is out
    assert raw(out).tobytes() == raw(filled(shape, NORMAL, KEY, dtype)).tobytes()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_view_of_any_array(filled, raw, storage, data):
    """A permutation of axes and a slice of each, forwards or backwards; what the view leaves out stays as it was."""
    dtype = data.draw(st.sampled_from(list(DTYPES)))
    shape = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    steps = [data.draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in shape]
    base = np.full(shape, 0x77, storage(dtype))
    untouched = np.full(shape, True)
    order = data.draw(st.permutations(range(len(shape))))
    cut = tuple(slice(None, None, step) for step in steps)
    out = base[cut].transpose(order)
    untouched[cut] = False
    fastinit.fill(out, NORMAL, KEY, dtype=dtype)
    assert raw(out).tobytes() == raw(filled(out.shape, NORMAL, KEY, dtype)).tobytes()
    assert (base[untouched] == 0x77).all()


@pytest.mark.parametrize(
    "layout", [fortran, strided, reversed_axes, channels_last, padded_rows], ids=lambda f: f.__name__
)
@pytest.mark.parametrize(
    "shape", [(700, 1031), (3, 1031, 700), (259, 2, 513), (130, 301, 3, 3), (6, 47, 5, 257)], ids=str
)
def test_large_odd_layouts(layout, shape, filled):
    """Long strided runs are cut into columns, short ones are written several at a time, and threads share both."""
    for kind, threads in (("float32", 1), ("float32", 3), ("float64", 2), ("float16", 2)):
        out = layout(shape, kind)
        fastinit.fill(out, NORMAL, KEY, num_threads=threads)
        assert np.array_equal(out, filled(shape, NORMAL, KEY, kind))


def test_buffers_beyond_the_caches(filled):
    """From 32 MiB on, stores go past the caches."""
    columns, size = 4097, 2**23 + 12345
    for kind in ("float32", "float64"):
        drawn = [filled(min(2**17, size - first), NORMAL, KEY, kind, start=first) for first in range(0, size, 2**17)]
        wanted = np.concatenate(drawn)
        for threads in (1, 3):
            assert filled(size, NORMAL, KEY, kind, num_threads=threads).tobytes() == wanted.tobytes()
        rows = np.zeros((size // columns, columns + 3), kind)[:, :columns]
        fastinit.fill(rows, NORMAL, KEY, num_threads=2)
        assert rows.tobytes() == wanted[: rows.size].tobytes()


def test_a_strided_shard(filled):
    """Both at once: a Fortran-ordered slice of a larger tensor."""
    whole = filled((400, 900), NORMAL, KEY)
    out = np.zeros((333, 801), np.float32, order="F")
    fastinit.fill(out, NORMAL, KEY, global_shape=(400, 900), offsets=(40, 77))
    assert np.array_equal(out, whole[40:373, 77:878])
    flat = np.zeros((333, 801), np.float32, order="F")
    fastinit.fill(flat, NORMAL, KEY, start=5)
    assert flat.tobytes(order="C") == filled(5 + 333 * 801, NORMAL, KEY)[5:].tobytes()


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_structured_layouts(layout, filled, raw, storage, dtype):
    for initializer, shape in [
        (fastinit.Orthogonal(), (12, 7)),
        (fastinit.Sparse(0.5, 0.1), (9, 9)),
        (fastinit.Identity(), (4, 6)),
    ]:
        out = fastinit.fill(layout(shape, storage(dtype)), initializer, KEY, dtype=dtype)
        assert raw(out).tobytes() == raw(filled(shape, initializer, KEY, dtype)).tobytes()


def test_scalars_and_empty_arrays(filled, raw, storage, dtype, reference_fill):
    scalar = fastinit.fill(np.zeros((), storage(dtype)), NORMAL, KEY, dtype=dtype)
    assert raw(scalar).tobytes() == reference_fill(NORMAL, KEY, [0], dtype).tobytes()
    for shape in [(0,), (0, 3), (3, 0, 2), (2**40, 0)]:
        empty = np.zeros(shape, storage(dtype))
        assert fastinit.fill(empty, NORMAL, KEY, dtype=dtype) is empty


def test_many_axes(filled):
    most = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32  # axes of one of NumPy's arrays
    shape = (1,) * 10 + (2,) * 6 + (1,) * (most - 24) + (3,) + (1,) * 7
    assert len(shape) == most
    whole = filled((2,) * 6 + (3,), NORMAL, KEY)
    assert filled(shape, NORMAL, KEY).tobytes() == whole.tobytes()
    backwards = np.zeros(shape, np.float32, order="F")
    assert fastinit.fill(backwards, NORMAL, KEY).tobytes() == whole.tobytes()


def test_memory_map(tmp_path, filled):
    path = tmp_path / "weights.bin"
    out = np.memmap(path, np.float32, "w+", offset=13, shape=(300, 401), order="F")
    fastinit.fill(out, NORMAL, KEY, num_threads=2)
    out.flush()
    del out
    again = np.memmap(path, np.float32, "r", offset=13, shape=(300, 401), order="F")
    assert np.array_equal(again, filled((300, 401), NORMAL, KEY))
    assert path.read_bytes()[:13] == bytes(13)


def buffers():
    yield bytearray(4 * 50), "float32"
    yield memoryview(bytearray(4 * 50)), "float32"
    yield memoryview(bytearray(8 * 50)).cast("d"), None
    yield array.array("f", bytes(4 * 50)), None
    yield array.array("H", bytes(2 * 50)), "bfloat16"
    yield array.array("B", bytes(50)), "float8_e5m2"
    yield mmap.mmap(-1, 4 * 50), "float32"
    yield memoryview(bytearray(4 * 50 + 3))[3:], "float32"
    yield np.zeros(50, "V2"), "float16"
    yield np.zeros(100, np.uint8), "bfloat16"


@pytest.mark.parametrize("buffer, dtype", list(buffers()), ids=lambda x: type(x).__name__)
def test_buffers(buffer, dtype, reference_fill):
    assert fastinit.fill(buffer, NORMAL, KEY, dtype=dtype) is buffer
    named = dtype or {"d": "float64", "f": "float32"}[memoryview(buffer).format]
    assert bytes(buffer) == reference_fill(NORMAL, KEY, np.arange(50), named).tobytes()


def test_shaped_memoryview(filled):
    out = memoryview(bytearray(4 * 35)).cast("f", (5, 7))
    fastinit.fill(out, NORMAL, KEY)
    assert out.tobytes() == filled((5, 7), NORMAL, KEY).tobytes()
    whole = filled((5, 14), NORMAL, KEY)
    fastinit.fill(out, NORMAL, KEY, global_shape=(5, 14), offsets=(0, 7))
    assert np.array_equal(np.asarray(out), whole[:, 7:])


def test_overlap_is_decided_exactly():
    """By the places of all elements, of thousands of layouts in memory that is not there: nothing reads it."""
    rng, seen = random.Random(1), {True: 0, False: 0}
    for _ in range(4000):
        dtype = DTYPES[rng.choice(list(DTYPES))]
        shape = tuple(rng.randint(0 if rng.random() < 0.1 else 1, 4) for _ in range(rng.randint(1, 4)))
        strides = tuple(rng.choice((1, dtype.itemsize)) * rng.randint(-9, 9) for _ in shape)
        index = itertools.product(*map(range, shape))
        places = sorted(sum(i * stride for i, stride in zip(at, strides, strict=True)) for at in index)
        overlaps = any(after - before < dtype.itemsize for before, after in itertools.pairwise(places))
        with pytest.raises(BufferError, match="overlap") if overlaps else contextlib.nullcontext():
            check_distinct(Buffer(2**40, shape, strides, dtype))
        seen[overlaps] += 1
    assert min(seen.values()) > 1000


def test_strides_that_interleave_are_filled():
    memory = np.full(10, 7.0, np.float32)
    view = np.lib.stride_tricks.as_strided(memory, (3, 2), (8, 12))
    fastinit.fill(view, fastinit.Normal(), Key(0))
    assert (view == fastinit.fill(np.empty((3, 2), np.float32), fastinit.Normal(), Key(0))).all()
    assert (memory[[1, 6, 8, 9]] == 7.0).all()


def test_large_and_hard_layouts_are_decided_in_time():
    far = Buffer(2**40, (10**6, 10**6), (4 * 1000003, 4 * 1000033), DTYPES["float32"])
    check_distinct(far)
    with pytest.raises(BufferError, match="overlap: shape"):
        check_distinct(far._replace(shape=(2 * 10**6, 2 * 10**6)))
    rng = random.Random(2)
    hard = tuple(rng.randint(2**38, 2**39) for _ in range(24))  # a subset sum
    with pytest.raises(BufferError, match="cannot tell whether"):
        check_distinct(Buffer(2**40, (2,) * 24, hard, DTYPES["float32"]))


def test_what_overlaps_or_is_read_only_is_refused():
    row = np.zeros(6, np.float32)
    broadcast = np.lib.stride_tricks.as_strided(row, (4, 6), (0, 4))
    sliding = np.lib.stride_tricks.as_strided(row, (4, 3), (4, 4))
    shifted = np.lib.stride_tricks.as_strided(row.view(np.uint8), (3, 2), (2, 1)).view(np.uint8)
    for out in (broadcast, sliding):
        with pytest.raises(BufferError, match="overlap"):
            fastinit.fill(out, NORMAL, KEY)
    half = np.lib.stride_tricks.as_strided(row, (3,), (2,))
    with pytest.raises(BufferError, match="overlap"):
        fastinit.fill(half, NORMAL, KEY)
    fastinit.fill(shifted, NORMAL, KEY, dtype="float8_e5m2")  # side by side: allowed
    frozen = np.zeros(3, np.float32)
    frozen.flags.writeable = False
    for out in (frozen, bytes(8), memoryview(b"12345678")):
        with pytest.raises(BufferError, match="read-only"):
            fastinit.fill(out, NORMAL, KEY, dtype="float32")
    assert not frozen.any()


def test_one_element_axes_with_any_stride_are_allowed(filled):
    row = np.zeros(6, np.float32)
    out = np.lib.stride_tricks.as_strided(row, (1, 6, 1), (0, 4, 0))
    fastinit.fill(out, NORMAL, KEY)
    assert row.tobytes() == filled(6, NORMAL, KEY).tobytes()
