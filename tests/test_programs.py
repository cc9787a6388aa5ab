"""Programs: parts painted over a base, operators that are run again, values that stay."""

import math
import pickle

import numpy as np
import pytest

import fastinit
from fastinit import Box, Constant, Keep, Key, Normal, Orthogonal, Painted, Program, Replayed, Uniform, Zeros, fill
from fastinit.programs import rekeyed, runs_graphs

KEY = Key("programs")
GRAPH = '{"framework": "sums", "shape": [6, 8], "operators": ["randn", "add"], "draws": 2}'


@runs_graphs("sums")
def sums(graph, keys, num_threads, target):
    one, two = (fill(np.empty(graph["shape"], np.float32), Normal(), key) for key in keys)
    return one + two


def whole(initializer, shape=(6, 8), dtype=np.float32, key=KEY):
    return fill(np.full(shape, 7.0, dtype), initializer, key)


BOXED = Painted(
    Normal(std=0.5),
    (Box((1, 2), (3, 4), Uniform(2.0, 3.0), 1), Box((2, 0), (1, 8), Zeros()), Box((4, 4), (2, 4), Orthogonal(), 2)),
)


def test_boxes_are_tensors_of_their_own_painted_in_order():
    out, expected = whole(BOXED), whole(Normal(std=0.5))
    expected[1:4, 2:6] = whole(Uniform(2.0, 3.0), (3, 4), key=KEY.fold_in(1))
    expected[2] = 0
    expected[4:6, 4:8] = whole(Orthogonal(), (2, 4), key=KEY.fold_in(2))
    assert (out == expected).all()


@pytest.mark.parametrize("initializer", [BOXED, Replayed(GRAPH)], ids=["painted", "replayed"])
def test_shards_are_slices(initializer):
    out = whole(initializer)
    for rows, columns in ((slice(0, 3), slice(1, 8)), (slice(2, 6), slice(0, 5))):
        local = np.empty(out[rows, columns].shape, np.float32)
        fill(local, initializer, KEY, global_shape=out.shape, offsets=(rows.start, columns.start))
        assert (local == out[rows, columns]).all()
    flat = fill(np.empty(13, np.float32), initializer, KEY, global_shape=out.shape, start=11)
    assert (flat == out.reshape(-1)[11:24]).all()


def test_the_first_draw_has_the_tensors_own_key():
    assert (whole(Painted(Normal(), (Box((0, 0), (1, 8), Zeros()),)))[1:] == whole(Normal())[1:]).all()
    drawn = whole(Normal()) + whole(Normal(), key=KEY.fold_in(1))
    assert (whole(Replayed(GRAPH)) == drawn).all()


def test_another_tensors_draws():
    other = Key("other")
    assert (whole(rekeyed(Normal(), [other])) == whole(Normal(), key=other)).all()
    drawn = whole(Normal()) + whole(Normal(), key=other)
    assert (whole(rekeyed(Replayed(GRAPH), [None, other])) == drawn).all()
    copied = whole(rekeyed(BOXED, [None, other, None]))
    assert (copied[1:2, 2:6] == whole(Uniform(2.0, 3.0), (3, 4), key=other)[:1]).all()
    assert (copied[4:, 4:] == whole(BOXED)[4:, 4:]).all() and rekeyed(BOXED, [None, None, None]) is BOXED


def test_keep_writes_nothing():
    for dtype in (np.float32, np.float16):
        assert (whole(Keep(), dtype=dtype) == 7.0).all()
    assert fastinit.expected_std(Keep(), (3,)) is None


def test_moments_are_those_of_the_values():
    initializer = Painted(
        Normal(0.5, 2.0), (Box((0, 0), (100, 200), Constant(3.0)), Box((300, 0), (50, 400), Uniform()))
    )
    found, values = initializer.moments((400, 400)), whole(initializer, (400, 400), np.float64)
    assert found.mean == pytest.approx(values.mean(), abs=0.02) and found.std == pytest.approx(values.std(), rel=0.01)
    assert BOXED.moments((6, 8)) is None  # two of its boxes overlap


@pytest.mark.parametrize(
    "initializer", [Keep(), BOXED, Replayed(GRAPH, (None, Key(3))), rekeyed(BOXED, [KEY])], ids=repr
)
def test_round_trips(initializer):
    assert fastinit.initializer_from_config(fastinit.initializer_config(initializer)) == initializer
    assert pickle.loads(pickle.dumps(initializer)) == initializer
    assert hash(pickle.loads(pickle.dumps(initializer))) == hash(initializer)
    program = Program(initializer, ("a",), ("x", "y"), ("randn",))
    assert pickle.loads(pickle.dumps(program)) == program and program.is_drawn


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Box((0,), (1, 2), Normal()), ValueError, "same number of axes"),
        (lambda: Box((0,), (1,), "normal"), TypeError, "initializer must be an Initializer"),
        (lambda: Box((0,), (1,), Normal(), -1), ValueError, "draw must be at least 0"),
        (lambda: Box((0,), (1,), Normal(), 0, 5), TypeError, "key must be a Key or None"),
        (lambda: Painted(Normal(), (Normal(),)), TypeError, "boxes must be a sequence of Box"),
        (lambda: Replayed("{}"), ValueError, "graph must be the JSON of an object with framework"),
        (lambda: Replayed("[" * 100000), ValueError, "graph must be the JSON"),
        (lambda: Replayed(3), TypeError, "graph must be a str"),
        (lambda: Program(3), TypeError, "initializer must be an Initializer"),
        (lambda: Program(Normal(), (3,)), TypeError, "draws of a program"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("initializer", "message"),
    [
        (Painted(Normal(), (Box((5, 0), (2, 8), Zeros()),)), "exceeds a tensor of shape"),
        (Painted(Normal(), (Box((5,), (1,), Zeros()),)), "exceeds a tensor of shape"),
        (Painted(Normal(), (Box((0, 0), (1, 8), Constant(1e39)),)), "has no finite float32 value"),
        (Replayed(GRAPH.replace("6", "7")), r"recorded for shape \(7, 8\) cannot fill a tensor of shape \(6, 8\)"),
        (Replayed(GRAPH.replace("sums", "nobody")), "import fastinit.adapters.nobody first"),
    ],
)
def test_nothing_is_written_where_it_does_not_fit(initializer, message):
    out = np.full((6, 8), 7.0, np.float32)
    with pytest.raises(ValueError, match=message):
        fill(out, initializer, KEY)
    assert (out == 7.0).all()


def test_painted_within_painted_is_limited():
    inner = Normal()
    with pytest.raises(ValueError, match="nested at most 32 deep"):
        for _ in range(40):
            inner = Painted(Zeros(), (Box((0,), (1,), inner),))
    assert math.isfinite(inner.reach((3,)))
