"""The judgements behind audit(), free of any framework: values, scales, and the chain of layers."""

import json
import math

import numpy as np
import pytest

import fastinit
from fastinit.audits.judging import Audit, Finding, Measured, judge_chain, judge_parameters
from fastinit.audits.values import Held
from fastinit.models.rules import Parameter

KEY = fastinit.Key(0)
DENSE = {"types": ("Linear",), "layer": "Linear", "layout": "OI"}


def weight(name="layer.weight", shape=(64, 128), **facts):
    return Parameter(name, shape, **{**DENSE, **facts})


def drawn(parameter, initializer=None, key=KEY):
    initializer = initializer or fastinit.AUTO.match(parameter)[1]
    return fastinit.fill(np.empty(parameter.shape, np.float32), initializer, key.fold_in(parameter.name))


def kinds(*held, record=None):
    return [(finding.name, finding.kind) for finding in judge_parameters(held, record)]


def judged(values, parameter=None, **facts):
    parameter = parameter or weight(shape=values.shape)
    return [kind for _, kind in kinds(Held(parameter, values, **facts))]


# Values


def test_values_of_a_weight():
    healthy = drawn(weight())
    assert judged(healthy) == []
    for number in (math.nan, math.inf, -math.inf):
        wrong = healthy.copy()
        wrong[3, 5] = number
        assert judged(wrong) == ["not finite"]
    assert judged(np.zeros_like(healthy)) == ["untouched"]
    assert judged(np.full_like(healthy, 0.05)) == ["constant"]
    garbage = healthy.copy()
    garbage[::2, ::2] = 4.5e-41
    assert judged(garbage) == ["untouched"]
    garbage[0, 0] = 3e12
    assert judged(garbage) == ["untouched"]


def test_zeros_on_purpose_are_fine():
    assert judged(np.zeros((64, 8), np.float32), weight("layer.lora_B.weight", (64, 8))) == []
    assert judged(np.zeros(64, np.float32), weight("layer.bias", (64,))) == []
    assert judged(np.ones(64, np.float32), Parameter("norm.weight", (64,), layer="LayerNorm")) == []
    table = Parameter("pos_embed", (1, 64, 32), types=("VisionTransformer",))
    assert judged(np.zeros((1, 64, 32), np.float32), table) == []  # positions
    words = Parameter("wte.weight", (64, 32), layer="Embedding", layout="VD", zero_row=0)
    assert judged(np.zeros((64, 32), np.float32), words) == ["untouched"]
    rows = drawn(words)
    rows[0] = rows[7] = 0.0
    assert judged(rows, words) == []  # padding
    rows[9] = rows[8]
    assert judged(rows, words) == ["identical rows"]


@pytest.mark.parametrize(
    ("layout", "shape", "unit", "other", "facts"),
    [
        ("OI", (8, 40), np.s_[3], np.s_[5], {}),
        ("IO", (40, 8), np.s_[:, 3], np.s_[:, 5], {}),
        ("OI...", (8, 5, 3, 3), np.s_[3], np.s_[5], {}),
        ("...IM", (3, 3, 8, 2), np.s_[:, :, 3, 1], np.s_[:, :, 5, 0], {}),
        ("IO...", (12, 4, 3, 3), np.s_[6:, 3], np.s_[:6, 1], {"groups": 2, "transposed": True}),
        ("EOI", (3, 8, 40), np.s_[1, 3], np.s_[2, 3], {}),
    ],
)
def test_units_are_found_in_every_layout(layout, shape, unit, other, facts):
    parameter = Parameter("layer.weight", shape, layer="Linear", layout=layout, **facts)
    healthy = drawn(parameter)
    assert judged(healthy, parameter) == []
    same = healthy.copy()
    same[unit] = same[other]
    assert judged(same, parameter) == ["identical rows"]
    same[unit] = 0.25
    assert judged(same, parameter) == ["constant rows"]


def test_patterns_that_are_meant():
    assert judged(np.eye(64, 128, dtype=np.float32)) == []
    parameter = Parameter("layer.weight", (16, 8, 3, 3), layer="Conv2d")
    for order in ("channel", "subpixel"):
        icnr = fastinit.ICNR(fastinit.he_normal(layout="OI..."), 2, "OI...", order)
        assert judged(drawn(parameter, icnr), parameter) == []
    sparse = drawn(weight(), fastinit.Sparse(0.9, std=0.3))
    assert judged(sparse) == []


def test_rows_of_few_bits_are_the_same_by_chance():
    parameter = weight(shape=(512, 3))
    values = np.round(drawn(parameter) * 4) / 4
    assert judged(values, parameter, dtype="bfloat16") == []
    assert len({tuple(row) for row in values}) < 512
    assert judged(values, parameter, dtype="float32") != []


def test_tensors_that_are_copies():
    one, two, other = weight("a.weight"), weight("b.weight"), weight("c.weight")
    values = drawn(one)
    assert kinds(Held(one, values), Held(other, drawn(other)), Held(two, values)) == [("b.weight", "identical tensors")]
    assert kinds(Held(one, values), Held(two, values, trainable=False)) == []  # as a teacher, or a target
    biases = [Held(weight(f"{name}.bias", (64,)), np.zeros(64, np.float32)) for name in "ab"]
    assert kinds(*biases) == []
    shared = Held(one, values, other_names=("b.weight",), repeated=True)
    assert kinds(shared) == [("a.weight", "tied")]


def test_records():
    parameters = [weight("a.weight"), weight("a.bias", (64,))]
    record = fastinit.Record(tuple(fastinit.assigned(parameters, "auto", 0)), 0, "auto", fastinit.__version__)
    held = [Held(parameter, drawn(parameter)) for parameter in parameters]
    assert kinds(*held, record=record) == []
    louder = Held(parameters[0], held[0].values * 1.1)
    assert kinds(louder, held[1]) == []  # within what schemes give
    assert kinds(louder, held[1], record=record) == [("a.weight", "scale")]
    with pytest.raises(ValueError, match=r"the record lacks the parameter 'b\.weight'"):
        judge_parameters([Held(weight("b.weight"), held[0].values)], record)


# Scales

SCHEMES = {
    name: getattr(fastinit, name)
    for name in ("lecun_normal", "lecun_uniform", "he_normal", "he_uniform", "glorot_normal", "glorot_uniform",
                 "he_truncated_normal", "torch_default_uniform")
}  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("activation", [None, "relu", "tanh", "gelu"])
def test_every_scheme_is_silent_on_every_shape(scheme, activation):
    held = []
    for number, (out, ins) in enumerate([(64, 64), (300, 40), (40, 300), (16, 1000), (1000, 16), (12, 84)]):
        parameter = weight(f"{number}.weight", (out, ins), activation=activation)
        held.append(Held(parameter, drawn(parameter, SCHEMES[scheme](layout="OI"))))
        image = Parameter(f"{number}.conv.weight", (out, ins // 4, 3, 3), layer="Conv2d", groups=4)
        held.append(Held(image, drawn(image, SCHEMES[scheme](layout="OI...", groups=4))))
    assert kinds(*held) == []


@pytest.mark.parametrize("std", [0.01, 0.02, 0.05, 0.02 / math.sqrt(24), 0.1])
def test_one_std_for_all_is_silent(std):
    shapes = [(64, 64), (256, 64), (64, 256), (120, 64), (768, 3072)]
    held = [
        Held(weight(f"{shape}.weight", shape), drawn(weight(f"{shape}.weight", shape), fastinit.Normal(0.0, std)))
        for shape in shapes
    ]
    assert kinds(*held) == []


def wrong(initializer, others=(), **facts):
    parameter = weight("wrong.weight", **facts)
    held = [Held(parameter, drawn(parameter, initializer))]
    held += [Held(one, drawn(one, fastinit.lecun_normal(layout="OI"))) for one in others]
    return judge_parameters(held)


def test_wrong_fans_are_named():
    (finding,) = wrong(fastinit.Normal(0.0, math.sqrt(1 / (128 / 8))))
    assert finding.kind == "scale" and "fan_in / 8, as of a shard" in finding.message
    assert "expected 0.08839 for fan_in 128 and fan_out 64" in finding.message
    assert "Rule('Linear', 'wrong.weight', VarianceScaling(" in finding.remedy
    (finding,) = wrong(fastinit.lecun_normal(layout="IO"), shape=(24, 512))
    assert "exchanged" in finding.message
    others = [weight(f"{number}.weight", (96, 96)) for number in range(2)]
    (finding,) = wrong(fastinit.Normal(0.0, math.sqrt(1 / 128 * 16)), others, activation="tanh")
    assert "what LeCun's scheme gives with wrong fans, fan_in / 16" in finding.message


def test_scales_of_no_scheme():
    for initializer, text in (
        (fastinit.Normal(), "more than 2 times what any scheme gives"),
        (fastinit.Normal(0.0, 1e-4), "less than 1 / 2 of what any scheme gives"),
        (fastinit.Uniform(0.0, 0.1), "where weights are drawn around 0"),
    ):
        (finding,) = wrong(initializer)
        assert finding.kind == "scale" and text in finding.message
    assert wrong(fastinit.Normal(0.0, 0.07)) == []  # nobody else's business


# Layers


def layer(name, variance=1.0, response=1.0, linear=True, **facts):
    parameter = weight(f"{name}.weight", activation="relu") if linear else None
    return Measured(name, 64, variance, 1.0, response, weight=parameter, **{"dead": 0.0, **facts})


def broken(layers):
    verdict, _, findings = judge_chain(layers)
    return verdict, [(finding.name, finding.kind) for finding in findings]


def test_the_break_is_the_largest_jump():
    assert broken([layer("a"), layer("b"), layer("c")]) == ("healthy", [])
    assert broken([layer("a"), layer("b", 0.5), layer("c", 1e-5)]) == ("vanishing", [("c", "vanishing")])
    assert broken([layer("a"), layer("b", 1e5), layer("c", 2e5)]) == ("exploding", [("b", "exploding")])
    assert broken([layer("a"), layer("b", math.nan), layer("c")]) == ("exploding", [("b", "exploding")])
    assert broken([layer("a", response=1e-5), layer("b", response=2e-5), layer("c")]) == (
        "vanishing",
        [("c", "vanishing")],
    )
    assert broken([layer("a", response=1e6), layer("b"), layer("c")]) == ("exploding", [("b", "exploding")])
    assert broken([layer("a", response=0.0), layer("b"), layer("c")]) == ("vanishing", [("b", "vanishing")])
    assert broken([layer("a"), layer("b", identical=True), layer("c")]) == ("symmetric", [("b", "symmetric")])
    assert broken([layer("a"), layer("b", 0.0), layer("c", 0.0)]) == ("vanishing", [("b", "vanishing")])
    assert broken([layer("a", 0.0), layer("b")]) == ("healthy", [])
    _, _, (finding,) = judge_chain([layer("a"), layer("b", 1e-5)])
    assert finding.remedy.startswith("Rule('Linear', 'b.weight', VarianceScaling(scale=2.0")


def test_branches_and_norms_are_no_breaks():
    stream = layer("stream", linear=False)
    assert broken([stream, layer("query", response=1e-7), layer("out"), layer("head")])[0] == "healthy"
    assert broken([layer("a"), layer("branch", 0.0), layer("c")])[0] == "healthy"
    norm = layer("norm", linear=False, norm=True)
    assert broken([layer("a", 1e-5), norm, layer("b")])[0] == "healthy"
    assert broken([layer("a", 1e-5), layer("b")])[0] == "exploding"
    assert judge_chain([stream])[0] == "not run"
    without = [layer("a", response=None), layer("b", response=None)]
    assert judge_chain(without)[:2] == (
        "healthy",
        "the variance changes by a factor of 1 forward through 2 layers (limit 1000)",
    )


def test_dead_layers():
    dead = layer("b", response=0.0, dead=1.0)
    assert ("b", "dead") in broken([layer("a", response=0.0, dead=1.0), dead, layer("c"), layer("d")])[1]
    assert ("a", "dead") not in broken([layer("a", response=0.0, dead=1.0), dead, layer("c"), layer("d")])[1]
    closed = layer("norm", linear=False, closed=True)
    assert broken([layer("a"), dead, closed, layer("c")])[1] == []
    assert broken([layer("a"), layer("b", dead=0.6), layer("c")])[1] == []


def test_an_audit_says_what_it_found():
    empty = Audit(())
    assert empty and empty.ok and str(empty) == "nothing found\nnot run: no batch was given"
    found = Audit(
        (Finding("a.weight", "scale", "too large", "Rule(...)"),), (layer("a", math.inf),), "exploding", "why"
    )
    assert not found
    assert str(found).splitlines()[:2] == ["a.weight: scale: too large", "    Rule(...)"]
    assert "exploding: why" in str(found) and "Var(grad)" in str(found)
    row = json.loads(json.dumps(found.as_dict(), allow_nan=False))["layers"][0]
    assert (row["variance"], row["weight"], row["width"]) == (None, "a.weight", 64)
