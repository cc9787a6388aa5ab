"""Whether values are what an initializer gives, and what the audit makes of programs."""

import json
from dataclasses import replace

import numpy as np
import pytest

import fastinit
from fastinit.audits import agreement
from fastinit.audits.agreement import differs
from fastinit.audits.judging import judge_parameters
from fastinit.audits.values import Held
from fastinit.models.rules import Parameter
from fastinit.programs import Box, Painted, Program, Replayed, runs_graphs

SHAPE = (64, 128)


@runs_graphs("agreeing")
def run(graph, keys, num_threads, target):
    values = np.arange(1.0, 8193.0).reshape(graph["shape"]) / 8192
    for key in keys:
        values = values * fastinit.fill(np.empty(graph["shape"]), fastinit.Normal(), key)
    return values


def replayed(draws):
    return Replayed(json.dumps({"framework": "agreeing", "shape": SHAPE, "operators": ["mul"], "draws": draws}))


def drawn(initializer, number=0, shape=SHAPE):
    return fastinit.fill(np.empty(shape, np.float32), initializer, fastinit.Key(number))


PADDED = Painted(fastinit.Normal(std=0.5), (Box((0, 0), (1, 128), fastinit.Zeros()),))
INITIALIZERS = [
    fastinit.Zeros(), fastinit.Constant(0.1), fastinit.Normal(0.3, 0.02), fastinit.Uniform(-0.25, 0.5),
    fastinit.TruncatedNormal(std=0.02), fastinit.he_normal(layout="OI"), fastinit.Orthogonal(), PADDED,
    fastinit.Blocks((fastinit.Zeros(), fastinit.Normal())), fastinit.Identity(), fastinit.Sparse(0.9, std=0.1),
    replayed(0), replayed(2), fastinit.Keep(),
]  # fmt: skip


@pytest.mark.parametrize("initializer", INITIALIZERS, ids=lambda one: type(one).__name__)
def test_what_an_initializer_gives_agrees(initializer):
    for number in range(5):
        values = np.zeros(SHAPE, np.float32) if initializer == fastinit.Keep() else drawn(initializer, number)
        assert differs(initializer, values, SHAPE) == ""
        assert differs(initializer, values.astype(np.float16), SHAPE, 11) == ""
    assert differs(initializer, values[:, :40], SHAPE) == ""  # of a shard


@pytest.mark.parametrize("initializer", INITIALIZERS[:-1], ids=lambda one: type(one).__name__)
def test_other_values_differ(initializer):
    values = drawn(initializer)
    assert differs(initializer, values * np.float32(1.2) + np.float32(0.01), SHAPE) != ""


def test_what_differs_is_said():
    assert differs(fastinit.Normal(std=0.5), drawn(fastinit.Normal(std=0.4)), SHAPE).startswith("std 0.39")
    assert differs(fastinit.Normal(std=0.5), drawn(fastinit.Normal(0.1, 0.5)), SHAPE).startswith("mean 0.1")
    row = drawn(PADDED)
    row[0, 5] = 1.0
    assert differs(PADDED, row, SHAPE) == "1 of 128 elements are not 0, in the part of shape (1, 128) at (0, 0)"
    unknown = Replayed(json.dumps({"framework": "absent", "shape": SHAPE, "operators": [], "draws": 0}))
    assert differs(unknown, row, SHAPE) == ""
    computed = drawn(replayed(0))
    computed[3, 3] += 1e-3
    assert differs(replayed(0), computed, SHAPE) == "1 of 8192 elements are not as computed"
    broken = drawn(fastinit.Normal())
    broken[0, 0] = np.nan
    assert differs(fastinit.Normal(), broken, SHAPE) == "not all its elements are finite"


def test_what_is_no_difference():
    large = drawn(fastinit.Normal(), shape=(2**11, 2**11))
    assert differs(fastinit.Normal(), large * np.float32(1.003), large.shape) == ""  # a narrow dtype rounds as much
    assert differs(fastinit.Normal(), large * np.float32(1.006), large.shape) != ""
    computed = drawn(replayed(0)).astype(np.float64)
    assert differs(replayed(0), computed * (1 + 1e-6), SHAPE) == ""  # two libraries' operators
    assert differs(replayed(0), computed * (1 + 1e-5), SHAPE) != ""
    assert differs(fastinit.Identity(), drawn(fastinit.Identity())[:, 40:], SHAPE) == ""  # of a shard
    assert differs(fastinit.Normal(), np.empty((0, 128)), SHAPE) == ""
    for number in range(30):
        assert differs(replayed(5), drawn(replayed(5), number), SHAPE) == ""  # of heavy tails


def test_parts_are_compared_without_what_is_painted_over():
    half = Painted(fastinit.Normal(std=0.5), (Box((0, 0), (32, 128), fastinit.Zeros()),))
    assert differs(half, drawn(half), SHAPE) == ""
    assert "in the part of shape (64, 128)" in differs(half, drawn(half) * np.float32(1.2), SHAPE)


def test_infinities_and_nan_are_equal_to_themselves():
    values = np.array([np.inf, -np.inf, np.nan, 1.0])
    assert agreement._close(values, values, 24).all()
    assert not agreement._close(values, np.array([-np.inf, 1.0, 1.0, np.nan]), 24).any()


# Programs


def held(initializer, values=None, name="layer.weight", number=0, draws=("1:0",), **facts):
    program = Program(initializer, draws, uninitialized=facts.pop("uninitialized", False))
    parameter = Parameter(name, SHAPE, **{"layer": "Linear", "layout": "OI", "program": program, **facts})
    return Held(parameter, drawn(initializer, number) if values is None else values)


def kinds(*parameters):
    return [(finding.name, finding.kind) for finding in judge_parameters(parameters)[0]]


BY_DESIGN = {
    "a head of zeros": held(fastinit.Zeros(), activation="relu"),
    "one value": held(fastinit.Constant(0.5)),
    "exchanged fans": held(fastinit.lecun_normal(layout="IO")),
    "too large": held(fastinit.Normal()),
    "too small": held(fastinit.Normal(std=1e-5), activation="relu"),
    "not around 0": held(fastinit.Uniform(0.0, 0.1)),
    "a row of one value": held(Painted(fastinit.Normal(), (Box((0, 0), (1, 128), fastinit.Ones()),))),
    "huge": held(fastinit.Constant(1e9)),
    "infinite": held(fastinit.Constant(1.0), np.ones(SHAPE, np.float32), layer="", layout=None),
}


@pytest.mark.parametrize("one", BY_DESIGN.values(), ids=BY_DESIGN)
def test_what_the_author_wrote_is_no_fault(one):
    assert kinds(one) == []


NOTED = {
    "a head of zeros": "zero", "one value": "constant", "too large": "scale",
    "too small": "scale", "not around 0": "scale", "a row of one value": "constant rows", "huge": "constant",
}  # fmt: skip


@pytest.mark.parametrize("what", BY_DESIGN)
def test_what_the_author_wrote_is_noted(what):
    notes = judge_parameters([BY_DESIGN[what]])[1]
    assert [note.kind for note in notes] == ([NOTED[what]] if what in NOTED else [])
    assert all("author" in note.message for note in notes if note.kind != "zero")


def test_fans_that_torch_misread_are_no_authors():
    parameter = Parameter("depthwise.weight", (96, 1, 3, 3), layer="Conv2d", groups=96)
    program = Program(fastinit.Normal(0.0, (2 / 864) ** 0.5), ("1:0",))
    parameter = replace(parameter, program=program)
    values = drawn(program.initializer, shape=parameter.shape)
    assert kinds(Held(parameter, values, normed=False)) == [("depthwise.weight", "scale")]
    assert kinds(Held(parameter, values, normed=True)) == []


def test_what_the_author_did_not_write_is():
    assert kinds(held(fastinit.Normal(std=0.02), drawn(fastinit.Normal(std=0.03)))) == [("layer.weight", "scale")]
    (finding,) = judge_parameters([held(fastinit.Normal(std=0.02), drawn(fastinit.Normal(std=0.03)))])[0]
    assert finding.message.endswith("expected 0.02 by the author's code")
    ones = np.ones(SHAPE, np.float32)
    assert kinds(held(fastinit.Constant(0.5), ones, layer="", layout=None)) == [("layer.weight", "not as written")]
    assert kinds(held(fastinit.Normal(std=0.02), ones)) == [("layer.weight", "constant")]
    assert kinds(held(fastinit.Normal(std=0.02), ones * np.float32(np.nan))) == [("layer.weight", "not finite")]
    assert kinds(held(fastinit.Zeros(), draws=(), uninitialized=True)) == [("layer.weight", "untouched")]


def test_another_recipe_is_no_fault():
    parameter = held(fastinit.torch_default_uniform(layout="OI")).parameter
    ours = drawn(fastinit.AUTO.match(parameter)[1])
    assert kinds(Held(parameter, ours)) == []


def test_copies_that_the_author_made():
    one, two = held(fastinit.Normal(), name="a.weight"), held(fastinit.Normal(), name="b.weight")
    assert kinds(one, two) == []  # of one draw
    other = held(fastinit.Normal(), name="b.weight", draws=("2:0",))
    assert kinds(one, other) == [("b.weight", "identical tensors")]
    shared = Held(one.parameter, one.values, other_names=("c.weight",), repeated=True)
    assert kinds(shared) == []
