"""Folding: the folded initializer has the distribution of the steps."""

import math

import numpy as np
import pytest

import fastinit
from fastinit import (
    Blocks,
    Box,
    Constant,
    Dirac,
    Key,
    Normal,
    Orthogonal,
    Painted,
    Sparse,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    ZeroRow,
    Zeros,
)
from fastinit.folding import (
    box_of,
    clamped,
    finished,
    inverse_erf,
    is_random,
    of_elements,
    over,
    painted,
    plus,
    renumbered,
    times,
)

SHAPE = (64, 48)
FOLDED = [
    Normal(0.5, 2.0),
    Uniform(-1.0, 3.0),
    TruncatedNormal(0.1, 0.5),
    TruncatedNormal(0.1, 0.5, -0.2, 0.9, "absolute"),
    VarianceScaling(2.0, "fan_in", "uniform", "OI"),
    VarianceScaling(2.0, "fan_out", "truncated_normal", "OI"),
    Constant(0.25),
    ZeroRow(Normal(), 3),
    Blocks((Normal(), Uniform(0.0, 2.0))),
    Painted(Normal(), (Box((0, 0), (8, 48), Uniform(1.0, 2.0), 1),)),
    Orthogonal(column_axis=0),
    Sparse(0.5, 1.0),
]


def values(initializer, key="folding"):
    return fastinit.fill(np.empty(SHAPE, np.float64), initializer, Key(key))


@pytest.mark.parametrize("initializer", FOLDED, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_a_positive_factor_scales_every_value(initializer, factor):
    for folded in (times(initializer, factor, SHAPE), over(initializer, 1 / factor, SHAPE)):
        assert np.allclose(values(folded), factor * values(initializer), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("initializer", FOLDED, ids=lambda one: type(one).__name__)
def test_a_negative_factor_keeps_the_moments(initializer):
    found, before = values(times(initializer, -2.0, SHAPE)), values(initializer)
    assert found.mean() == pytest.approx(-2.0 * before.mean(), abs=0.15) and found.std() == pytest.approx(
        2.0 * before.std(), rel=0.05
    )


@pytest.mark.parametrize("initializer", FOLDED, ids=lambda one: type(one).__name__)
def test_an_offset_shifts_every_value_or_does_not_fold(initializer):
    folded = plus(initializer, 1.5, SHAPE)
    if isinstance(initializer, (Orthogonal, Sparse, ZeroRow)):
        assert folded is None  # its zeros would no longer be zeros
    elif isinstance(initializer, VarianceScaling):  # a uniform about 0 is drawn in steps of its own
        assert values(folded).mean() == pytest.approx(1.5, abs=0.05)
        assert values(folded).std() == pytest.approx(values(initializer).std(), rel=0.05)
    else:
        assert np.allclose(values(folded), values(initializer) + 1.5, rtol=1e-6, atol=1e-6)


def timms(mean, std, a, b):
    """What timm's trunc_normal_ does."""
    low, high = ((1.0 + math.erf((bound - mean) / std / math.sqrt(2.0))) / 2.0 for bound in (a, b))
    found = inverse_erf(Uniform(2 * low - 1, 2 * high - 1))
    return clamped(plus(times(found, std * math.sqrt(2.0), SHAPE), mean, SHAPE), a, b, SHAPE)


@pytest.mark.parametrize(
    ("mean", "std", "a", "b"),
    [
        (0, 0.02, -2, 2),
        (0, 1, -2, 2),
        (0, 0.5, -2, 2),
        (0.1, 0.3, -0.2, 0.5),
        (0, 1e-6, -2, 2),
        (0, 1, -6, 3),
        (3, 1, 0, 4),
    ],
)
def test_the_truncated_normal_of_timm(mean, std, a, b):
    assert timms(mean, std, a, b) == TruncatedNormal(mean, std, a, b, bounds="absolute")


def test_lecuns_normal_of_timm():
    folded = times(timms(0.0, 1.0, -2.0, 2.0), 0.05 / 0.87962566, SHAPE)
    found = folded.sampling(SHAPE)
    assert (found.low_sigma, found.high_sigma) == (-2.0, 2.0) and found.expected_std == pytest.approx(0.05, rel=1e-7)


def test_clamping_that_moves_values_does_not_fold():
    assert clamped(Normal(), -1.0, 1.0, SHAPE) is None
    assert clamped(Uniform(-2.0, 2.0), -1.0, 1.0, SHAPE) is None
    assert clamped(inverse_erf(Uniform(-1.0, 1.0)), -0.5, 0.5, SHAPE) is None
    assert clamped(Uniform(-1.0, 1.0), -2.0, 2.0, SHAPE) == Uniform(-1.0, 1.0)
    assert clamped(Constant(3.0), -2.0, 2.0, SHAPE) == Constant(2.0)


def test_an_inverse_erf_that_nobody_clamps():
    found = finished(times(inverse_erf(Uniform(-0.5, 0.5)), math.sqrt(2.0), SHAPE))
    assert found.low == pytest.approx(-0.6744897501960817, rel=1e-14) and found.std == pytest.approx(1.0)
    assert inverse_erf(Uniform(-2.0, 1.0)) is None and inverse_erf(Normal()) is None


def test_what_does_not_fold_says_so():
    assert times(fastinit.ZerO(), 2.0, SHAPE) is None and over(Normal(), 0.0, SHAPE) is None
    assert times(Normal(), math.inf, SHAPE) is None and plus(Normal(), math.nan, SHAPE) is None
    assert times(Normal(), 0.0, SHAPE) == Constant(0.0) and times(Dirac(), 0.5, SHAPE) == Dirac(gain=0.5)
    assert of_elements(Orthogonal(), SHAPE) is None


@pytest.mark.parametrize(
    ("base", "boxes", "shape", "expected"),
    [
        (Normal(), [], (3, 4), Normal()),
        (Normal(), [Box((0, 0), (3, 4), Uniform())], (3, 4), Uniform()),
        (Normal(), [Box((1, 0), (1, 4), Zeros())], (3, 4), ZeroRow(Normal(), 1)),
        (Zeros(), [Box((2,), (2,), Constant(1.0))], (8,), Blocks((Zeros(), Constant(1.0), Zeros(), Zeros()))),
        (Zeros(), [Box((0,), (2,), Zeros()), Box((2,), (2,), Zeros())], (4,), Zeros()),
        (Normal(), [Box((0,), (2,), Constant(1.0)), Box((2,), (2,), Zeros())], (4,), Blocks((Constant(1.0), Zeros()))),
    ],
)
def test_parts_in_the_fewest_words(base, boxes, shape, expected):
    assert painted(base, boxes, shape) == (expected, 0)


def test_a_box_that_is_covered_is_forgotten():
    small, large = Box((1, 1), (1, 1), Uniform(), 1), Box((0, 0), (2, 3), Normal(), 2)
    assert painted(Normal(), [small, large], (3, 3))[0] == Painted(Normal(), (large,))
    assert painted(Normal(), [large, small], (3, 3))[0] == Painted(Normal(), (large, small))


@pytest.mark.parametrize(
    "index",
    [
        np.s_[0],
        np.s_[1:3],
        np.s_[:, 2],
        np.s_[:, 1:4, :],
        np.s_[..., -1],
        np.s_[2, 3, 1:2],
        np.s_[0:1, 0:5, 0:2],
        np.s_[3],
        np.s_[:, None, 2:4],
    ],
    ids=str,
)
def test_a_view_is_a_box(index):
    tensor = np.zeros((4, 5, 2), np.float32)
    view = tensor[index]
    strides = [tuple(step // 4 for step in array.strides) for array in (tensor, view)]
    first = (view.__array_interface__["data"][0] - tensor.__array_interface__["data"][0]) // 4
    offsets, shape, in_order = box_of(tensor.shape, strides[0], view.shape, strides[1], first)
    view[...] = 1.0
    expected = np.zeros_like(tensor)
    expected[tuple(slice(start, start + extent) for start, extent in zip(offsets, shape, strict=True))] = 1.0
    assert (tensor == expected).all() and in_order


@pytest.mark.parametrize("index", [np.s_[::2], np.s_[:, ::2], np.s_[:, ::-1]], ids=str)
def test_a_view_that_is_no_box(index):
    tensor = np.zeros((4, 5, 2), np.float32)
    view = tensor[index]
    strides = [tuple(step // 4 for step in array.strides) for array in (tensor, view)]
    first = (view.__array_interface__["data"][0] - tensor.__array_interface__["data"][0]) // 4
    assert box_of(tensor.shape, strides[0], view.shape, strides[1], first) is None


def test_a_transposed_view_is_out_of_order():
    assert box_of((4, 6), (6, 1), (6, 4), (1, 6), 0) == ((0, 0), (4, 6), False)
    assert box_of((4, 6), (6, 1), (4, 6), (6, 1), 0) == ((0, 0), (4, 6), True)
    assert box_of((6, 4), (1, 6), (6, 4), (1, 6), 0) == ((0, 0), (6, 4), True)


def test_painted_draws_what_its_parts_draw():
    constants = Painted(Zeros(), (Box((0,), (2,), Constant(1.0)),))
    assert not is_random(constants)
    assert is_random(Painted(Zeros(), (Box((0,), (2,), Normal()),)))
    assert is_random(Painted(Normal(), constants.boxes))


def test_draws_are_numbered_without_gaps():
    start = Painted(
        Zeros(), (Box((0,), (2,), Normal(), 3), Box((2,), (2,), Normal(), key=Key(1)), Box((4,), (2,), Uniform(), 1))
    )
    found, left = renumbered(start, 4)
    assert left == (1, 3)
    assert [box.draw for box in found.boxes if box.key is None] == [1, 0]
    assert renumbered(Normal(), 1) == (Normal(), (0,))
    assert renumbered(Zeros(), 1) == (Zeros(), ())
