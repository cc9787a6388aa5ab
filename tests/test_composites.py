"""Tensors made of parts: each part is a tensor of its own, and shards of the whole are slices of the whole."""

import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastinit
from fastinit import (
    Blocks,
    Box,
    Key,
    Normal,
    Orthogonal,
    Painted,
    Uniform,
    ZeroRow,
    Zeros,
    fill,
    glorot_uniform,
    he_normal,
)
from fastinit.dtypes import DTYPES

KEY = Key("composites")


def whole(initializer, shape, dtype=np.float32, key=KEY):
    return fill(np.full(shape, 7.0, dtype), initializer, key)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("inner", [Normal(), Orthogonal(column_axis=0), glorot_uniform(), fastinit.Identity()])
def test_each_block_is_a_tensor_of_its_own(axis, inner):
    shape = [5, 6, 4]
    if isinstance(inner, fastinit.Identity):
        shape, axis = [5, 6], max(axis, 0) % 2
    shape[axis] *= 3
    out = whole(Blocks(inner, 3, axis), shape)
    for number, block in enumerate(np.split(out, 3, axis)):
        assert (block == whole(inner, block.shape, key=KEY.fold_in(number))).all()


def test_gates_are_orthogonal_one_by_one():
    weight = whole(Blocks(Orthogonal(column_axis=0), 4), (64, 16), np.float64)
    for gate in weight.reshape(4, 16, 16):
        assert np.allclose(gate @ gate.T, np.eye(16), atol=1e-12)
    assert not np.allclose(weight.T @ weight, np.eye(16), atol=0.5)  # as one matrix it is not


def test_the_fans_are_those_of_a_block():
    weight = whole(Blocks(he_normal(layout="OI"), 2, axis=1), (512, 512), np.float64)
    assert weight.std() == pytest.approx((2 / 256) ** 0.5, rel=0.01)


def test_an_initializer_for_each_block():
    bias = whole(Blocks((Zeros(), fastinit.Ones(), Zeros(), fastinit.Constant(-2))), 8)
    assert bias.tolist() == [0, 0, 1, 1, 0, 0, -2, -2]


def test_a_zero_row_changes_no_other_row():
    for inner in (Normal(), Orthogonal(), fastinit.VarianceScaling(layout="VD")):
        plain = whole(inner, (9, 5))
        for row in (0, 4, 8):
            out = whole(ZeroRow(inner, row), (9, 5))
            assert (out[row] == 0).all()
            assert (np.delete(out, row, 0) == np.delete(plain, row, 0)).all()


COMPOSITES = {
    "blocks": Blocks(Normal(), 3),
    "blocks of fans": Blocks(glorot_uniform(), 2, axis=-1),
    "blocks of orthogonal": Blocks(Orthogonal(column_axis=0), 3),
    "mixed": Blocks((Normal(), Zeros(), Orthogonal()), axis=0),
    "zero row": ZeroRow(Uniform(-1, 1), 4),
    "zero row of blocks": ZeroRow(Blocks(Normal(), 2, axis=1), 0),
    "blocks of zero rows": Blocks(ZeroRow(Normal(), 1), 3),
}


@pytest.fixture(params=COMPOSITES)
def composite(request):
    return COMPOSITES[request.param]


def test_shards_are_slices_of_the_whole(composite):
    shape = (6, 4)
    out = whole(composite, shape)
    for (a, b), (c, d) in itertools.product(itertools.combinations(range(7), 2), itertools.combinations(range(5), 2)):
        local = fill(np.empty((b - a, d - c), np.float32), composite, KEY, global_shape=shape, offsets=(a, c))
        assert (local == out[a:b, c:d]).all()


def test_flat_ranges_and_strided_destinations(composite):
    shape = (6, 4)
    out = whole(composite, shape)
    for start, stop in itertools.combinations(range(0, 25, 3), 2):
        local = fill(np.empty(stop - start, np.float32), composite, KEY, global_shape=shape, start=start)
        assert (local == out.reshape(-1)[start:stop]).all()
        spread = np.full(2 * (stop - start), 7, np.float32)
        fill(spread[::2], composite, KEY, global_shape=shape, start=start)
        assert (spread[::2] == out.reshape(-1)[start:stop]).all() and (spread[1::2] == 7).all()
    turned = np.empty(shape[::-1], np.float32).T
    assert (fill(turned, composite, KEY) == out).all()


def test_ranges_dealt_out(composite):
    shape = (6, 4)
    out = whole(composite, shape)
    local = np.empty((4, 2), np.float32)
    fill(local, composite, KEY, global_shape=shape, ranges=[[range(5, 6), range(0, 3)], [range(1, 4, 2)]])
    assert (local == out[np.ix_([5, 0, 1, 2], [1, 3])]).all()


def test_threads_targets_and_dtypes(composite, storage):
    shape = (600, 500)
    out = whole(composite, shape)
    for threads, target in itertools.product((1, 2, 5), fastinit.targets.supported()):
        assert (fill(np.empty(shape, np.float32), composite, KEY, num_threads=threads, target=target) == out).all()
    half = fill(np.empty(shape, np.float16), composite, KEY)
    assert np.allclose(
        half, out, rtol=2**-11, atol=2**-25 + (abs(out) > 0.9995) * 2**-11
    )  # uniforms exclude their ends
    brain = fill(np.empty(shape, storage("bfloat16")), composite, KEY, dtype="bfloat16")
    assert np.allclose((brain.astype(np.uint32) << 16).view(np.float32), out, rtol=2**-8)


def test_write_is_fill(composite):
    out = np.empty((6, 4), np.float32)
    composite.check(out.shape)
    composite.write(out, KEY, None, None)
    assert (out == whole(composite, (6, 4))).all()


def test_composites_are_values(composite):
    assert pickle.loads(pickle.dumps(composite)) == composite and hash(composite) == hash(composite)
    assert composite not in (Blocks(Normal(), 5), ZeroRow(Normal(), 2))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_parts_cover_the_tensor_and_lie_in_it(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    axis, count = data.draw(st.integers(-len(shape), len(shape) - 1)), data.draw(st.integers(1, 4))
    divided = list(shape)
    divided[axis] *= count
    composite = Blocks(Normal(), count, axis)
    if data.draw(st.booleans()):
        composite = ZeroRow(composite, data.draw(st.integers(0, divided[0] - 1)))
    covered = np.zeros(divided, int)
    for part in composite.parts(tuple(divided)):
        inside = tuple(slice(begin, begin + size) for begin, size in zip(part.offsets, part.shape, strict=True))
        assert covered[inside].shape == part.shape
        covered[inside] += 1
    assert covered.min() >= 1 and covered.sum() == covered.size + (
        covered[0].size if isinstance(composite, ZeroRow) else 0
    )


def test_tensors_of_no_elements():
    assert whole(Blocks(Normal(), 4), (0, 3)).shape == (0, 3)
    assert whole(Blocks(Normal(), 2, axis=1), (5, 0)).shape == (5, 0)
    assert whole(ZeroRow(Normal(), 2), (5, 0)).shape == (5, 0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Blocks(Normal()), TypeError, "needs a count, got None"),
        (lambda: Blocks(Normal(), 0), ValueError, "count must be at least 1, got 0"),
        (lambda: Blocks((), None), ValueError, "count must be at least 1, got 0"),
        (lambda: Blocks((Normal(), Normal()), 3), ValueError, "expected 3 initializers for 3 blocks, got 2"),
        (lambda: Blocks(Normal(), 2.0), TypeError, "count: expected an integer"),
        (lambda: Blocks(Normal(), 2, axis="0"), TypeError, "axis: expected an integer"),
        (lambda: Blocks("normal", 2), TypeError, "initializer must be an Initializer .*normal"),
        (lambda: Blocks(3, 2), TypeError, "initializer must be an Initializer"),
        (lambda: Blocks((Normal(), None)), TypeError, "initializer must be an Initializer .*None"),
        (lambda: ZeroRow(None, 0), TypeError, "initializer must be an Initializer"),
        (lambda: ZeroRow(Normal(), -1), ValueError, "row must be at least 0, got -1"),
        (lambda: ZeroRow(Normal(), None), TypeError, "row: expected an integer"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("initializer", "shape", "message"),
    [
        (Blocks(Normal(), 4), (6, 4), r"4 blocks do not divide axis 0 of shape \(6, 4\)"),
        (Blocks(Normal(), 2, axis=2), (6, 4), "blocks' axis 2 is out of range"),
        (Blocks(Normal(), 2), (), "blocks' axis 0 is out of range"),
        (Blocks(Orthogonal(), 2), (6,), "at least 2 axes"),
        (Blocks((Normal(), glorot_uniform())), (6,), "input and an output axis"),
        (Blocks((Normal(), Normal(0, 1e39))), (6, 4), "beyond the largest finite float32"),
        (Blocks((Normal(), Orthogonal(gain=1e39))), (6, 4), "beyond the largest finite float32"),
        (ZeroRow(Normal(), 6), (6, 4), r"row 6 is out of range for shape \(6, 4\)"),
        (ZeroRow(Normal(), 0), (), "out of range for shape"),
    ],
)
def test_nothing_is_written_where_a_part_fails(initializer, shape, message):
    out = np.full(shape, 7.0, np.float32)
    with pytest.raises(ValueError, match=message):
        fill(out, initializer, KEY)
    assert (out == 7.0).all()


def structured(size):
    """Every structured class with values up to `size`, each with a shape that it takes."""
    kernel = (4, 4, 3)  # out, in, spatial
    return {
        "Identity": (fastinit.Identity(size), (4, 6)),
        "Dirac": (fastinit.Dirac(gain=size, layout="OI..."), kernel),
        "Orthogonal": (Orthogonal(-size), (4, 6)),
        "DeltaOrthogonal": (fastinit.DeltaOrthogonal(size, "OI..."), kernel),
        "Sparse": (fastinit.Sparse(0.5, size / 4), (4, 6)),
        "ICNR": (fastinit.ICNR(fastinit.Constant(-size), 2, "OI..."), kernel),
        "Blocks": (Blocks(fastinit.Identity(size), 2), (4, 6)),
        "ZeroRow": (ZeroRow(Normal(size), 0), (4, 6)),
        "Painted": (Painted(Zeros(), (Box((1, 0), (2, 3), fastinit.Constant(size)),)), (4, 6)),
    }


def test_every_structured_class_is_tried():
    kinds = {name for name in fastinit.__all__ if isinstance(getattr(fastinit, name), type)}
    kinds = {name for name in kinds if issubclass(getattr(fastinit, name), fastinit.StructuredInitializer)}
    assert set(structured(1.0)) == kinds - {
        "StructuredInitializer",
        "Composite",
        "ZerO",
        "Keep",
        "Replayed",
    }  # ZerO reaches 1


@pytest.mark.parametrize("name", structured(1.0))
def test_a_second_part_beyond_the_dtype_leaves_the_first_unwritten(name, dtype, storage):
    largest = DTYPES[dtype].max
    fits, shape = structured(largest / 16)[name]
    twice = (2 * shape[0], *shape[1:])
    fill(np.zeros(twice, storage(dtype)), Blocks((Normal(), fits)), KEY, dtype=dtype)
    if dtype == "float64":
        pytest.skip("no finite parameter of these lies beyond float64")
    too_large, _ = structured(2 * largest)[name]
    out = np.full(twice, 7, storage(dtype))
    with pytest.raises(ValueError, match=r"beyond the largest finite|has no finite"):
        fill(out, Blocks((Normal(), too_large)), KEY, dtype=dtype)
    assert (out == 7).all()


@pytest.mark.parametrize("name", structured(1.0))
def test_no_value_goes_beyond_the_reach(name, dtype):
    initializer, shape = structured(1.0)[name]
    out = fill(np.zeros(shape, DTYPES[dtype].raw), initializer, KEY, dtype=dtype).ravel()
    largest = max(abs(DTYPES[dtype].value(int(bits))) for bits in out)
    assert 0 < largest <= initializer.reach(shape, dtype) * (1 + 2 ** -DTYPES[dtype].fraction)


def test_a_flat_range_in_strided_memory_is_rounded_once():
    # the parts are drawn in the dtype itself, not narrowed from float32, whose rounding may reach an excluded end
    initializer = Blocks(Uniform(0.0, 1.0), 2)
    wanted = fill(np.zeros((64, 64), np.float16), initializer, KEY).ravel()[100:2148]
    out = fill(np.zeros((2048, 2), np.float16)[:, 0], initializer, KEY, global_shape=(64, 64), start=100)
    assert (out == wanted).all() and out.max() < 1


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("inner", [lambda c: c, lambda c: Blocks((fastinit.Ones(), c)), lambda c: Blocks((c, Zeros()))])
def test_constants_that_are_not_finite_are_values_too(value, inner):
    kernel = inner(fastinit.Constant(value))
    out = whole(fastinit.ICNR(kernel, 2, "OI..."), (16, 4, 3))
    assert np.array_equal(out[::2], np.repeat(whole(kernel, (8, 4, 3)), 2, axis=0)[::2], equal_nan=True)
    with pytest.raises(ValueError, match=r"beyond the largest finite float16"):  # narrowing knows neither
        whole(fastinit.ICNR(kernel, 2, "OI..."), (16, 4, 3), np.float16)
