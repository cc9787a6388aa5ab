"""The laws of shards and of prefixes: a part of a tensor is filled with that part's values, whoever holds it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastinit
from fastinit import Key, structured
from fastinit.dtypes import DTYPES
from fastinit.shards import Shard

KEY = Key(0).fold_in("shards")
NAMES = [
    "zeros", "constant", "uniform", "uniform symmetric", "normal", "normal shifted", "truncated 2", "truncated",
    "truncated half", "truncated rare", "truncated tail", "truncated lower tail", "truncated absolute",
    "truncated corrected", "glorot uniform", "he normal", "lecun truncated",
]  # fmt: skip


def test_every_distribution_is_here(distributions):
    assert list(distributions) == NAMES


@st.composite
def slices(draw):
    """A global shape, and the offsets and extents of a rectangular part of it, perhaps empty."""
    count = draw(st.integers(0, 5))
    most = {0: 1, 1: 4000, 2: 90, 3: 24, 4: 11, 5: 7}[count]
    shape, offsets, extents = [], [], []
    for _ in range(count):
        whole = draw(st.integers(0, most))
        begin, end = sorted((draw(st.integers(0, whole)), draw(st.integers(0, whole))))
        if draw(st.booleans()):
            begin, end = 0, whole
        shape.append(whole)
        offsets.append(begin)
        extents.append(end - begin)
    return tuple(shape), tuple(offsets), tuple(extents)


@settings(max_examples=300, deadline=None)
@given(part=slices(), name=st.sampled_from(NAMES), dtype=st.sampled_from(list(DTYPES)))
def test_rectangular_slices(distributions, filled, raw, part, name, dtype):
    shape, offsets, extents = part
    initializer = distributions[name]
    if isinstance(initializer, fastinit.VarianceScaling) and len(shape) < 2:
        initializer = fastinit.Normal(0.0, 0.02)  # no fans
    whole = filled(shape, initializer, KEY, dtype)
    wanted = whole[tuple(slice(o, o + n) for o, n in zip(offsets, extents, strict=True))]
    local = filled(extents, initializer, KEY, dtype, global_shape=shape, offsets=offsets)
    assert raw(local).tobytes() == raw(wanted).tobytes()


@settings(max_examples=200, deadline=None)
@given(
    bounds=st.tuples(st.integers(0, 5000), st.integers(0, 5000)).map(sorted),
    name=st.sampled_from(NAMES),
    dtype=st.sampled_from(list(DTYPES)),
)
def test_flat_ranges(distributions, filled, raw, bounds, name, dtype):
    begin, end = bounds
    whole = filled((50, 100), distributions[name], KEY, dtype).reshape(-1)
    local = filled(end - begin, distributions[name], KEY, dtype, start=begin, global_shape=(50, 100))
    assert raw(local).tobytes() == raw(whole[begin:end]).tobytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shape=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple))
def test_shards_put_together_are_the_whole(distributions, filled, data, shape):
    """Uneven cuts along every axis: each element lies in exactly one shard."""
    cuts = [[0, *sorted(data.draw(st.sets(st.integers(1, n), max_size=3)) - {n}), n] for n in shape]
    put_together = np.full(shape, np.nan, np.float32)
    for part in np.ndindex(*(len(cut) - 1 for cut in cuts)):
        begin = tuple(cut[i] for cut, i in zip(cuts, part, strict=True))
        end = tuple(cut[i + 1] for cut, i in zip(cuts, part, strict=True))
        view = put_together[tuple(slice(b, e) for b, e in zip(begin, end, strict=True))]
        fastinit.fill(view, fastinit.Normal(), KEY, global_shape=shape, offsets=begin)
    assert put_together.tobytes() == filled(shape, fastinit.Normal(), KEY).tobytes()


STRUCTURED = [
    (structured.Orthogonal(), (40, 30)),
    (structured.Orthogonal(2.0, column_axis=0), (30, 100)),
    (structured.Orthogonal(0.5, column_axis=1), (4, 12, 5)),
    (structured.Identity(0.5), (20, 31)),
    (structured.Dirac(2), (3, 3, 5, 8)),
    (structured.DeltaOrthogonal(), (3, 3, 5, 8)),
    (structured.Sparse(0.3, 0.1), (40, 25)),
    (structured.ICNR(fastinit.he_normal(), 2), (3, 3, 5, 8)),
    (structured.ZerO(), (3, 3, 5, 9)),
]


COMPOSITES = [
    (fastinit.Blocks(structured.Orthogonal(), 4), (24, 10)),
    (fastinit.Blocks((fastinit.Zeros(), fastinit.Ones(), fastinit.Normal()), axis=1), (5, 9, 4)),
    (fastinit.ZeroRow(fastinit.Normal(), 3), (7, 30)),
    (fastinit.ZeroRow(fastinit.Blocks(fastinit.he_normal(), 2), 0), (8, 6)),
]


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    case=st.sampled_from(STRUCTURED + COMPOSITES),
    dtype=st.sampled_from(list(DTYPES)),
    flat=st.booleans(),
)
def test_structured_slices(filled, raw, data, case, dtype, flat):
    initializer, shape = case
    whole = filled(shape, initializer, KEY, dtype)
    if flat:
        begin, end = sorted(data.draw(st.tuples(*[st.integers(0, whole.size)] * 2)))
        local = filled(end - begin, initializer, KEY, dtype, start=begin, global_shape=shape)
        wanted = whole.reshape(-1)[begin:end]
    else:
        begin = tuple(data.draw(st.integers(0, n)) for n in shape)
        end = tuple(data.draw(st.integers(b, n)) for b, n in zip(begin, shape, strict=True))
        extents = tuple(e - b for b, e in zip(begin, end, strict=True))
        local = filled(extents, initializer, KEY, dtype, global_shape=shape, offsets=begin)
        wanted = whole[tuple(slice(b, e) for b, e in zip(begin, end, strict=True))]
    assert raw(local).tobytes() == raw(wanted).tobytes()


# Shards dealt out in pieces


@st.composite
def ranges_of_an_axis(draw, length):
    """Some ranges within [0, length), in any order, empty ones and strided ones too, none of which share an index."""
    found = []
    for _ in range(draw(st.integers(0, 3))):
        begin, end = sorted((draw(st.integers(0, length)), draw(st.integers(0, length))))
        piece = range(begin, end, draw(st.sampled_from([1, 1, 1, 2, 3])))
        if not any(set(piece) & set(other) for other in found):
            found.append(piece)
    return found


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    shape=st.lists(st.integers(0, 12), min_size=0, max_size=4).map(tuple),
    name=st.sampled_from(NAMES[:14]),
    dtype=st.sampled_from(list(DTYPES)),
)
def test_ranges(distributions, filled, raw, data, shape, name, dtype):
    ranges = [data.draw(ranges_of_an_axis(length)) for length in shape]
    whole = raw(filled(shape, distributions[name], KEY, dtype))
    indices = [[i for piece in pieces for i in piece] for pieces in ranges]
    wanted = whole[np.ix_(*indices)] if shape else whole
    local = filled(wanted.shape, distributions[name], KEY, dtype, global_shape=shape, ranges=ranges)
    assert raw(local).tobytes() == np.ascontiguousarray(wanted).tobytes()


@settings(max_examples=150, deadline=None)
@given(data=st.data(), case=st.sampled_from(STRUCTURED + COMPOSITES), dtype=st.sampled_from(list(DTYPES)))
def test_ranges_of_structured_tensors(filled, raw, data, case, dtype):
    initializer, shape = case
    ranges = [data.draw(ranges_of_an_axis(length)) for length in shape]
    whole = raw(filled(shape, initializer, KEY, dtype))
    wanted = whole[np.ix_(*[[i for piece in pieces for i in piece] for pieces in ranges])]
    local = filled(wanted.shape, initializer, KEY, dtype, global_shape=shape, ranges=ranges)
    assert raw(local).tobytes() == np.ascontiguousarray(wanted).tobytes()


@pytest.mark.parametrize("name", ["float32", "float64", "float16"])
@pytest.mark.parametrize(
    "initializer",
    [
        fastinit.Orthogonal(),
        fastinit.Identity(),
        fastinit.Sparse(0.5),
        fastinit.ZerO(),
        fastinit.ZeroRow(fastinit.Orthogonal(), 1),
    ],
    ids=repr,
)
def test_ranges_of_a_whole_axis_in_another_order(initializer, name):
    whole = fastinit.fill(np.zeros((4, 6), name), initializer, KEY)
    for ranges in (
        [[range(2, 4), range(2)], [range(6)]],
        [[range(4)], [range(1, 6, 2), range(0, 6, 2)]],
        [[range(3, 4), range(3)], [range(2), range(2, 6)]],
        [[range(2), range(2, 4)], [range(0), range(6)]],
    ):
        local = fastinit.fill(np.zeros((4, 6), name), initializer, KEY, global_shape=(4, 6), ranges=ranges)
        assert np.array_equal(local, whole[np.ix_(*[[i for piece in pieces for i in piece] for pieces in ranges])])


@pytest.mark.parametrize(
    "ranges",
    [[range(2, 3), range(1, 2)], [range(2, 3), range(2, 3)], [range(0), range(1, 2)], [range(0, 5, 2), range(6, 9, 2)]],
    ids=repr,
)
def test_joined_ranges_hold_the_same_indices(ranges):
    held = [index for piece in ranges for index in piece]
    assert [index for piece in fastinit.shards.joined(ranges) for index in piece] == held


def test_ranges_into_a_strided_buffer(filled):
    whole = filled((12, 10), fastinit.he_normal(), KEY)
    memory = np.full((8, 9, 2), 7.0, np.float32)
    out = memory[::2, ::-3, 1]
    ranges = [[range(9, 12), range(0, 1)], [range(3, 5), range(9, 10)]]
    fastinit.fill(out, fastinit.he_normal(), KEY, global_shape=(12, 10), ranges=ranges)
    assert (out == whole[np.ix_([9, 10, 11, 0], [3, 4, 9])]).all()
    out[...] = 7.0
    assert (memory == 7.0).all()


@pytest.mark.parametrize(
    "ranges, error, message",
    [
        ([[range(4)]], ValueError, "number of axes"),
        ([[range(4)], range(2)], TypeError, "sequence of ranges"),
        ([[range(4)], [(0, 2)]], TypeError, "sequence of ranges"),
        ([[range(4)], [range(3)]], ValueError, "hold 3 indices of axis 1, the local axis 2"),
        ([[range(5, 9)], [range(2)]], ValueError, r"range\(5, 9\) does not ascend within \[0, 8\), axis 0"),
        ([[range(4)], [range(1, -1, -1)]], ValueError, "ascend"),
        ([[range(4)], [range(-2, 0)]], ValueError, "ascend"),
        ([5, 5], TypeError, r"a sequence of ranges for each axis, got \[5, 5\]"),
        (5, TypeError, "a sequence of ranges for each axis, got 5"),
        ([[range(3), range(2, 3)], [range(2)]], ValueError, "of axis 0 hold the index 2 more than once"),
        ([[range(4)], [range(7, 8), range(7, 8)]], ValueError, "of axis 1 hold the index 7 more than once"),
    ],
)
def test_ranges_that_do_not_fit(ranges, error, message):
    out = np.full((4, 2), 7.0, np.float32)
    with pytest.raises(error, match=message):
        fastinit.fill(out, fastinit.Normal(), KEY, global_shape=(8, 8), ranges=ranges)
    assert (out == 7.0).all()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.builds(range, st.integers(0, 20), st.integers(0, 60), st.integers(1, 9)), max_size=4))
def test_an_index_that_ranges_hold_twice_is_found(ranges):
    held = [index for piece in ranges for index in piece]
    found = fastinit.shards._held_twice(ranges)
    assert (found is None) == (len(set(held)) == len(held))
    assert found is None or held.count(found) > 1


def test_ranges_of_many_indices_are_compared_at_once():
    even, odd = range(0, 2**40, 2), range(1, 2**40, 2)
    assert fastinit.shards._held_twice([even, odd]) is None
    assert fastinit.shards._held_twice([odd, range(2**39, 2**40, 7)]) == 2**39 + 7


def test_ranges_need_a_global_shape_and_stand_alone():
    out = np.full((4, 2), 7.0, np.float32)
    ranges = [[range(4)], [range(2)]]
    with pytest.raises(ValueError, match="ranges need a global_shape"):
        fastinit.fill(out, fastinit.Normal(), KEY, ranges=ranges)
    for other in ({"offsets": (0, 0)}, {"start": 0}):
        with pytest.raises(ValueError, match="got more than one"):
            fastinit.fill(out, fastinit.Normal(), KEY, global_shape=(8, 8), ranges=ranges, **other)
    assert (out == 7.0).all()


@settings(max_examples=200, deadline=None)
@given(data=st.data(), shape=st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple))
def test_a_flat_range_is_a_few_boxes(data, shape):
    size = math.prod(shape)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2)))
    index = np.arange(size).reshape(shape)
    boxes = list(fastinit.shards.flat_boxes(shape, start, stop))
    assert len(boxes) < 2 * len(shape)
    covered = []
    for first, box in boxes:
        elements = index[np.ix_(*box)].reshape(-1)
        assert elements[0] == first
        covered += elements.tolist()
    assert covered == list(range(start, stop))


# Tensors that no memory holds


@pytest.mark.parametrize("shard", [{"offsets": (2**40 - 3, 5)}, {"start": 9 * 2**30 + 5}], ids=["slice", "flat"])
def test_a_shard_of_composed_tensors_takes_its_own_memory(shard):
    shape = (2**40, 2**15)
    out = np.empty((3, 7) if "offsets" in shard else 21, np.float32)
    inner = fastinit.Normal(0.0, 0.5)
    plain = fastinit.fill(out.copy(), inner, KEY, global_shape=shape, **shard)
    fastinit.fill(out, fastinit.ZeroRow(inner, 2**40 - 2), KEY, global_shape=shape, **shard)
    if "offsets" in shard:
        assert not out[1].any()
        assert (out[::2] == plain[::2]).all()
    else:
        assert out.tobytes() == plain.tobytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(70_000, 70_000), (2**20, 2**21, 2**20), (2**63 - 1, 1), (3, 2**61)])
def test_a_slice_far_inside_a_huge_tensor(distributions, filled, raw, reference_fill, dtype, name, shape):
    extents = tuple(min(n, 7) for n in shape)
    offsets = tuple(n - extent for n, extent in zip(shape, extents, strict=True))
    local = raw(filled(extents, distributions[name], KEY, dtype, global_shape=shape, offsets=offsets))
    coordinates = [range(o, o + n) for o, n in zip(offsets, extents, strict=True)]
    index = [0]
    for axis, n in zip(coordinates, shape, strict=True):
        index = [i * n + c for i in index for c in axis]  # exact integers
    bits = reference_fill(distributions[name], KEY, np.array(index, np.uint64), dtype, shape)
    assert local.tobytes() == bits.tobytes()


def test_slices_of_huge_tensors_agree_with_flat_ranges_and_samples(distributions, filled):
    shape, row = (2**22, 2**22), 2**22
    for name in ("normal", "uniform", "truncated", "he normal"):
        initializer = distributions[name]
        local = filled((2, 9), initializer, KEY, global_shape=shape, offsets=(2**21, 2**22 - 9))
        flat = filled(9, initializer, KEY, global_shape=shape, start=2**21 * row + row - 9)
        assert local[0].tobytes() == flat.tobytes()
        one = fastinit.sample(KEY, (2**21 + 1) * row + row - 1, initializer, shape=shape)
        assert one == local[1, -1]


def test_sample_is_what_fill_writes(distributions, filled, dtype):
    for initializer in distributions.values():
        whole = filled((7, 11), initializer, KEY, dtype)
        value = fastinit.dtypes.DTYPES[dtype].value
        wanted = [value(int(bits)) for bits in np.ravel(whole.view(f"u{whole.itemsize}"))]
        drawn = [fastinit.sample(KEY, i, initializer, shape=(7, 11), dtype=dtype) for i in range(77)]
        assert drawn == wanted


@pytest.mark.parametrize(
    "options, message",
    [
        ({"global_shape": (8, 8), "offsets": (5, 0)}, r"\[5, 9\) of axis 0 is not within \[0, 8\)"),
        ({"global_shape": (8, 8), "offsets": (0, 9)}, r"axis 1"),
        ({"global_shape": (8, 8), "offsets": (-1, 0)}, "negative"),
        ({"global_shape": (3, 8)}, r"axis 0"),
        ({"global_shape": (8,), "offsets": (0,)}, "number of axes"),
        ({"global_shape": (8, 8), "offsets": (0,)}, "number of axes"),
        ({"offsets": (0, 0)}, "global_shape"),
        ({"start": -1}, "not within"),
        ({"start": 2**63 - 7}, "not within"),
        ({"start": 60, "global_shape": (8, 8)}, "not within"),
        ({"start": 0, "offsets": (0, 0), "global_shape": (8, 8)}, "got more than one"),
        ({"global_shape": (2**32, 2**32)}, r"2\*\*63"),
        ({"global_shape": (2**40, 2**40), "start": 0}, r"2\*\*63"),
    ],
)
def test_what_leaves_the_tensor_is_an_error(options, message):
    out = np.full((4, 2), 7.0, np.float32)
    with pytest.raises(ValueError, match=message):
        fastinit.fill(out, fastinit.Normal(), KEY, **options)
    assert (out == 7.0).all()


@st.composite
def held(draw, size):
    """Some of the indices below `size`, each once, as ranges in any order."""
    pieces, begin = [], 0
    while begin < size:
        count, step = draw(st.integers(0, size - begin)), draw(st.integers(1, 3))
        piece = range(begin, min(size, begin + count), step)
        begin += max(1, count)
        if draw(st.booleans()):
            pieces.append(piece)
    return draw(st.permutations(pieces))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_part_of_a_part_is_a_part_of_the_whole(data):
    shape = tuple(data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=3)))
    local, shards = shape, []
    for _ in range(2):
        ranges = [data.draw(held(size)) for size in local]
        inner = tuple(sum(map(len, pieces)) for pieces in ranges)
        shards.append(Shard.of(inner, local, ranges=ranges))
        local = inner
    outer, inner = shards
    whole = np.arange(math.prod(shape)).reshape(shape)

    def cut(array, shard):
        return array[np.ix_(*([index for piece in pieces for index in piece] for pieces in shard.ranges))]

    expected = cut(cut(whole, outer), inner)
    assert (cut(whole, inner.within(outer)) == expected).all() and expected.shape == local
    indices = [[index for piece in pieces for index in piece] for pieces in outer.ranges]
    for axis, own in enumerate(indices):
        assert [outer.global_index(axis, number) for number in range(len(own) + 1)] == [*own, None]
    assert outer.is_whole == (indices == [list(range(size)) for size in shape])


# Prefixes


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.tuples(st.integers(0, 5000), st.integers(0, 5000)).map(sorted),
    name=st.sampled_from(NAMES[:14]),
    dtype=st.sampled_from(list(DTYPES)),
)
def test_the_first_values_do_not_depend_on_how_many_follow(distributions, filled, raw, sizes, name, dtype):
    fewer, more = sizes
    short, long = (raw(filled(n, distributions[name], KEY, dtype)) for n in (fewer, more))
    assert long[:fewer].tobytes() == short.tobytes()


def test_prefixes_of_words():
    many = fastinit.words(KEY, 0, 1000)
    for start, count in [(0, 0), (0, 1), (3, 5), (0, 999), (513, 487)]:
        assert fastinit.words(KEY, start, count).tobytes() == many[start : start + count].tobytes()


def test_two_streams_share_nothing(filled):
    """A constant would pass all of the above: values differ from element to element and from key to key."""
    one, other = (filled(4096, fastinit.Normal(), Key(seed)) for seed in (0, 1))
    assert len(np.unique(one)) > 4090
    assert not (one == other).any()
    assert math.isclose(float(one.std()), 1.0, abs_tol=0.06)
