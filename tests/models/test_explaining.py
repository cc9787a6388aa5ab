"""The table of what own, auto and fans would do, and the comparisons behind it."""

import math

import pytest

import fastinit
from fastinit import (
    Blocks,
    Box,
    Constant,
    Keep,
    Normal,
    Ones,
    Orthogonal,
    Painted,
    Parameter,
    Program,
    TruncatedNormal,
    Uniform,
    ZeroRow,
    Zeros,
)
from fastinit.models.distributions import difference, is_drawn, same_distribution, short
from fastinit.models.explaining import explained

SHAPE = (8, 16)
SAME = [
    (Uniform(-0.25, 0.25), fastinit.torch_default_uniform(layout="OI")),
    (Uniform(-0.25, 0.25 * (1 + 1e-8)), Uniform(-0.25, 0.25)),
    (Normal(0.0, 0.25), fastinit.lecun_normal(layout="OI")),
    (Normal(3.0, 0.0), Constant(3.0)),
    (TruncatedNormal(0.0, 0.02, -2.0, 2.0, "absolute"), Normal(0.0, 0.02)),
    (ZeroRow(Normal(), 2), Painted(Normal(), (Box((2, 0), (1, 16), Zeros()),))),
    (Painted(Ones(), (Box((0, 0), SHAPE, Normal()),)), Normal()),
    (Orthogonal(), Orthogonal(1.0)),
    (Blocks(Uniform(-0.25, 0.25), 2), Blocks(fastinit.torch_default_uniform(layout="OI"), 2)),
]
OTHERS = [
    (Normal(0.0, 0.02), Normal(0.0, 0.5), "scale"),
    (Uniform(-1, 1), Uniform(-2, 2), "scale"),
    (TruncatedNormal(0.0, 1.0), TruncatedNormal(0.0, 0.02), "scale"),
    (Uniform(0, 1), Uniform(-0.5, 0.5), "distribution"),
    (Uniform(-1, 1), Normal(0.0, 1.0), "distribution"),
    (TruncatedNormal(0.0, 0.02), Normal(0.0, 0.02), "distribution"),
    (Normal(), Zeros(), "constant instead of drawn"),
    (Zeros(), Normal(), "drawn instead of constant"),
    (Zeros(), Ones(), "other constant"),
    (Normal(), Orthogonal(), "structure"),
    (Normal(), Keep(), "structure"),
    (Normal(), ZeroRow(Normal(), 0), "structure"),
    (ZeroRow(Normal(), 0), ZeroRow(Normal(0.0, 0.25), 0), "scale"),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=str)
def test_one_distribution_in_two_spellings(one, other):
    assert same_distribution(one, other, SHAPE) and same_distribution(other, one, SHAPE)
    assert difference(one, other, SHAPE) == "same"


@pytest.mark.parametrize(("one", "other", "kind"), OTHERS, ids=str)
def test_kinds_of_difference(one, other, kind):
    assert not same_distribution(one, other, SHAPE) and not same_distribution(other, one, SHAPE)
    assert difference(one, other, SHAPE) == kind


def test_what_is_kept_or_refused_is_like_nothing():
    assert not same_distribution(Keep(), Keep(), SHAPE)
    assert not same_distribution(fastinit.he_normal(layout="OIE"), Normal(), SHAPE)


def test_what_is_drawn():
    for drawn in (Normal(), Orthogonal(), Blocks(Uniform(-1, 1), 2), fastinit.he_normal()):
        assert is_drawn(drawn, SHAPE)
    for fixed in (Zeros(), Normal(1.0, 0.0), fastinit.Identity(), Keep(), ZeroRow(Normal(), 0)):
        assert not is_drawn(fixed, SHAPE)


@pytest.mark.parametrize(
    ("initializer", "words"),
    [
        (Normal(1.0, 0.5), "normal 0.5 around 1"),
        (Uniform(-1, 1), "uniform 0.577"),
        (TruncatedNormal(0.0, 0.02), "truncated normal 0.0176"),
        (Constant(-4.6), "-4.6"),
        (Orthogonal(), "orthogonal 0.25"),
        (Blocks(Normal(), 4), "normal 1 in 4 parts"),
        (ZeroRow(Normal(), 0), "normal 1, 0 in a part"),
        (fastinit.Sparse(0.9), "sparse"),
        (Keep(), "kept"),
    ],
    ids=str,
)
def test_initializers_in_a_few_words(initializer, words):
    assert short(initializer, SHAPE) == words


def weight(initializer, name="a.weight", **facts):
    program = None if initializer is None else Program(initializer, operators=("by_hand",))
    return Parameter(name, (64, 32), role="weight", layer="Linear", activation="relu", program=program, **facts)


def test_own_auto_and_fans_side_by_side():
    within = Uniform(-1 / math.sqrt(32), 1 / math.sqrt(32))
    names = ["default", "chosen", "zero", "frozen", "unknown"]
    found = explained(
        [
            weight(within, "default"),
            weight(Normal(0.0, 0.02), "chosen"),
            weight(Zeros(), "zero"),
            weight(Normal(), "frozen", frozen=True),
            Parameter("unknown", (3,), types=("Scale",)),
        ]
    )
    assert [row.name for row in found] == names and len(found) == 5
    assert found["default"].difference == "auto and fans: distribution"
    assert found["default"].why == "the author's own: by_hand; auto and fans: scaled for relu"
    assert (found["chosen"].difference, found["chosen"].auto) == ("fans: scale", Normal(0.0, 0.02))
    assert found["zero"].difference == found["frozen"].difference == "same"
    assert found["zero"].why == "the author's own: by_hand"
    assert (found["unknown"].own, found["unknown"].auto) == (None, None)
    assert found["unknown"].difference == "no program"
    with pytest.raises(KeyError, match="missing"):
        found["missing"]
    lines = str(found).splitlines()
    assert lines[0].split() == ["parameter", "shape", "own", "auto", "fans", "difference", "why"]
    assert [line.split()[0] for line in lines[1:]] == names
    assert lines[1].count("0.102") == 1 and lines[1].count("normal 0.25") == 2
    assert lines[5].split()[2:6] == ["-", "-", "-", "no"]


def test_a_shape_that_is_refused_is_named():
    with pytest.raises(ValueError, match=r"'a\.weight' of shape \(64, 32\).*3 axes"):
        explained([weight(None, layout="OIE")])
