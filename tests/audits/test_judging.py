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
    return [(finding.name, finding.kind) for finding in judge_parameters(held, record)[0]]


def noted(*held, layers=()):
    return [(note.name, note.kind) for note in judge_parameters(held, layers=layers)[1]]


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


def zeros(parameter):
    return Held(parameter, np.zeros(parameter.shape, np.float32))


def test_zeros_are_wrong_where_a_signal_stops_there():
    drawings = [Held(weight(f"{number}.weight"), drawn(weight(f"{number}.weight"))) for number in range(2)]
    head, hidden = weight("head.weight"), weight("hidden.weight", activation="relu")
    assert kinds(*drawings, zeros(head)) == []  # a head, an adapter, the last layer of a branch
    assert noted(*drawings, zeros(head)) == [("head.weight", "zero")]
    assert noted(*drawings, zeros(hidden)) == []  # it is found
    assert kinds(*drawings, zeros(hidden)) == [("hidden.weight", "untouched")]
    assert kinds(drawings[0], zeros(head), zeros(weight("tail.weight"))) == [
        ("head.weight", "untouched"),
        ("tail.weight", "untouched"),
    ]
    frozen = Held(hidden, np.zeros(hidden.shape, np.float32), trainable=False)
    assert kinds(*drawings, frozen) == noted(*drawings, frozen) == []
    assert kinds(zeros(weight("bias", (64,)))) == []
    own = Parameter("block.weight", (64, 64), types=("Block",))
    assert kinds(zeros(own)) == []  # whatever the author does with it


def test_tables_may_hold_zeros():
    table = Parameter("words.weight", (64, 32), layer="Embedding", layout="VD", zero_row=0)
    assert judged(np.zeros((64, 32), np.float32), table) == ["untouched"]
    assert kinds(*(Held(weight(name), drawn(weight(name))) for name in ("a.weight", "b.weight")), zeros(table)) == []
    rows = drawn(table)
    rows[0] = rows[7] = 0.0
    assert judged(rows, table) == []  # padding
    head = Parameter("head.weight", (64, 32), layer="Linear", tied=True)
    assert judged(rows, head) == []  # the same table, met as the head first
    rows[9] = rows[8]
    assert judged(rows, table) == ["identical rows"]
    rows[9] = 0.5
    assert judged(rows, head) == ["constant rows"]


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


def test_patterns_are_no_draws():
    filters = np.tile(np.array([0.25, 0.5, 0.25], np.float32), (32, 1, 1))
    parameter = Parameter("blur.weight", (32, 1, 3), layer="Conv1d", groups=32)
    assert judged(filters, parameter) == []  # every unit sees another channel
    dense = Parameter("blur.weight", (32, 1, 3), layer="Conv1d")
    assert judged(filters, dense) == ["identical rows"]
    offsets = np.array([[0, 0, 0], [-1, 0, 2], [1, 1, 1], [0, 1, -1]] * 4, np.float32)
    assert judged(offsets, weight(shape=(16, 3))) == []


def test_rows_of_few_bits_are_the_same_by_chance():
    parameter = weight(shape=(512, 3))
    values = drawn(parameter)
    values[9] = values[8]
    assert judged(values, parameter, dtype="bfloat16") == []
    assert judged(values, parameter, dtype="float32") == ["identical rows"]


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
    return list(judge_parameters(held)[0])


def test_wrong_fans_are_named():
    (finding,) = wrong(fastinit.Normal(0.0, math.sqrt(1 / (128 / 8))))
    assert finding.kind == "scale" and "fan_in / 8, as of a shard" in finding.message
    assert "expected 0.08839 for fan_in 128 and fan_out 64" in finding.message
    assert "Rule('Linear', 'wrong.weight', VarianceScaling(" in finding.remedy
    (finding,) = wrong(fastinit.lecun_normal(layout="IO"), shape=(24, 512))
    assert "exchanged" in finding.message
    others = [weight(f"{number}.weight", (96, 96)) for number in range(2)]
    (finding,) = wrong(fastinit.Normal(0.0, math.sqrt(1 / 128 * 16)), others, activation="tanh")
    assert "matches LeCun's scheme with wrong fans, fan_in / 16" in finding.message


def test_the_fans_of_all_groups_are_named():
    grouped = Parameter("conv.weight", (256, 64, 3, 3), layer="Conv2d", groups=4)
    (finding,) = judge_parameters([Held(grouped, drawn(grouped, fastinit.Normal(0.0, 1 / math.sqrt(64 * 9 * 4))))])[0]
    assert "without the groups" in finding.message


DEPTHWISE = Parameter("depthwise.weight", (96, 1, 3, 3), layer="Conv2d", groups=96)
UPSAMPLING = Parameter(
    "up.weight", (192, 21, 16, 16), layer="ConvTranspose2d", layout="IO...", transposed=True, stride=(8, 8)
)
READ = {"depthwise": (DEPTHWISE, 96 * 9), "transposed": (UPSAMPLING, 192 * 256)}  # fan_out as torch has it


@pytest.mark.parametrize("name", READ)
def test_fans_that_torch_reads_off_a_shape_are_wrong_where_no_norm_follows(name):
    parameter, fan = READ[name]
    values = drawn(parameter, fastinit.Normal(0.0, math.sqrt(2 / fan)))
    (finding,) = judge_parameters([Held(parameter, values, normed=False)])[0]
    why = {"depthwise": "without the groups", "transposed": "of a transposed convolution"}[name]
    assert finding.kind == "scale" and f"read off the shape {why}" in finding.message
    assert finding.message.endswith("and no norm follows")
    factor = {"depthwise": "0.01 times", "transposed": "0.11 times"}[name]
    assert factor in finding.message
    assert kinds(Held(parameter, values)) == []  # unknown
    assert noted(Held(parameter, values)) == [(parameter.name, "scale")]
    assert kinds(Held(parameter, values, normed=True)) == noted(Held(parameter, values, normed=True)) == []


def test_layers_that_ran_say_whether_a_norm_follows():
    held = Held(DEPTHWISE, drawn(DEPTHWISE, fastinit.Normal(0.0, math.sqrt(2 / (96 * 9)))))

    def wrong(*what):
        """Calls by kind, and the position of what each is given."""
        facts = {"map": {"weight": DEPTHWISE}, "other": {"weight": weight()}, "norm": {"norm": True}, "relu": {}}
        layers = [
            Measured(kind, 96, 1.0, reads=None if None in reads else tuple(reads), **facts[kind])
            for kind, *reads in what
        ]
        assert noted(held, layers=layers) == []
        return bool(judge_parameters([held], layers=layers)[0])

    assert not wrong(("map",), ("norm", 0))
    assert not wrong(("map",), ("other", 0), ("relu", 1), ("norm", 2), ("other", 3))  # as of a separable one
    assert wrong(("map",), ("relu", 0), ("other", 1))
    assert wrong(("relu",), ("map", 0), ("relu", 1), ("norm", 0))  # of the sum
    assert not wrong(("relu",), ("map", 0), ("other", 0), ("norm", 2), ("norm", 1))  # side by side
    assert wrong(("map",), ("norm", 0), ("map", 1))  # its second call
    assert wrong(("map",), ("relu", 0), ("map",), ("norm", 2))  # its first call
    assert not wrong(("map",), ("other",), ("norm", 0, 1))  # beside another one
    assert not wrong(("map", None), ("relu", None), ("norm", None), ("other", None))  # unknown
    assert wrong(("map", None), ("other", None), ("norm", None))


def test_fans_that_torch_reads_off_a_shape_are_noted_where_they_do_little_harm():
    for groups, harm in ((8, False), (16, False), (32, True)):  # from 24 on it is half of what torch's default gives
        parameter = Parameter("conv.weight", (224, 224 // groups, 3, 3), layer="Conv2d", groups=groups)
        held = Held(parameter, drawn(parameter, fastinit.Normal(0.0, math.sqrt(2 / (224 * 9)))), normed=False)
        assert kinds(held) == ([("conv.weight", "scale")] if harm else [])
        assert noted(held) == ([] if harm else [("conv.weight", "scale")])


def test_fans_that_frameworks_use_by_default_are_silent():
    for parameter in (DEPTHWISE, UPSAMPLING):
        default = fastinit.TORCH.match(parameter)[1]
        held = Held(parameter, drawn(parameter, default), normed=False)
        assert kinds(held) == noted(held) == []
    two = Parameter("two.weight", (64, 32, 3, 3), layer="Conv2d", groups=2)
    held = Held(two, drawn(two, fastinit.Normal(0.0, math.sqrt(2 / (64 * 9)))), normed=False)
    assert kinds(held) == noted(held) == []  # it matters little
    head = weight("head.weight", (1000, 320))
    bound = 1 / math.sqrt(1000)  # as of EfficientNets
    assert kinds(Held(head, drawn(head, fastinit.Uniform(-bound, bound)))) == []
    lecun = weight("head.weight", (64, 64))  # enlarged for a truncation that never happens
    assert kinds(Held(lecun, drawn(lecun, fastinit.Normal(0.0, 0.125 / 0.8796)))) == []


@pytest.mark.parametrize("factor", [10.0, 0.05])
def test_a_weight_that_is_unlike_those_in_its_place(factor):
    def blocks(stds):
        parameters = [weight(f"blocks.{number}.up.weight", (192, 192)) for number in range(len(stds))]
        normals = [fastinit.Normal(0.0, std) for std in stds]
        return [Held(one, drawn(one, normal)) for one, normal in zip(parameters, normals, strict=True)]

    (finding,) = judge_parameters(blocks([0.02, 0.02, 0.02 * factor, 0.02]))[0]
    assert (finding.name, finding.kind) == ("blocks.2.up.weight", "scale")
    assert "3 weights in the same place of other blocks have 0.0" in finding.message
    assert kinds(*blocks([0.02] * 4)) == []
    # where most weights follow a scheme as well
    assert kinds(*blocks([192**-0.5, 192**-0.5, 192**-0.5 * factor, 192**-0.5])) == [("blocks.2.up.weight", "scale")]
    assert kinds(*blocks([0.02, 0.02, 0.02 * factor])) == []  # too few
    assert kinds(*blocks([0.02, 0.02 * factor, 0.02 * factor, 0.02])) == []  # two designs
    assert kinds(*blocks([0.02, 0.014, 0.01, 0.008])) == []  # by depth


def test_scales_of_no_scheme():
    for initializer, text in (
        (fastinit.Normal(), "more than 2 times the largest of any scheme"),
        (fastinit.Normal(0.0, 1e-4), "less than 1 / 2 of the smallest of any scheme"),
        (fastinit.Uniform(0.0, 0.1), "expected a mean of 0"),
    ):
        (finding,) = wrong(initializer)
        assert finding.kind == "scale" and text in finding.message
    others = [weight(f"{number}.weight", (96, 96)) for number in range(2)]
    small = fastinit.Normal(0.0, 1e-4)
    assert wrong(small, others) == []  # a head may begin small
    assert [one.kind for one in wrong(small, others, activation="relu")] == ["scale"]
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
    falling = [layer("a"), layer("b", 0.5), layer("c", 1e-5)]
    assert broken([*falling, layer("d", 1e-5)]) == ("vanishing", [("c", "vanishing")])
    assert broken(falling) == ("healthy", [])  # a head may begin small
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
    head = layer("head", 0.0, closed=True, received=1.0)
    assert broken([layer("a"), layer("b"), head]) == ("healthy", [])
    assert broken([layer("a"), layer("b", 0.0), layer("head", 0.0, closed=True, received=0.0)])[0] == "vanishing"
    silent = layer("head", 0.0, closed=True, received=0.0)
    assert broken([layer("a"), layer("b"), silent]) == ("vanishing", [("head", "vanishing")])
    gate = layer("gate", linear=False, closed=True)
    assert broken([layer("a"), gate, layer("b", response=0.0), layer("c"), layer("head")])[0] == "healthy"
    _, _, (finding,) = judge_chain([layer("a"), layer("b", 1e-5)])
    assert finding.remedy.startswith("Rule('Linear', 'b.weight', VarianceScaling(scale=2.0")


def test_branches_and_norms_are_no_breaks():
    stream = layer("stream", linear=False)
    assert broken([stream, layer("query", response=1e-7), layer("out"), layer("head")])[0] == "healthy"
    assert broken([layer("a"), layer("branch", 0.0), layer("c")])[0] == "healthy"
    norm = layer("norm", linear=False, norm=True)
    assert broken([layer("a", 1e-5), norm, layer("b")])[0] == "healthy"
    assert broken([layer("a", 1e-5), layer("b")])[0] == "exploding"
    assert broken([layer("a", 1e-5), layer("b", 1e-5), norm])[0] == "healthy"
    assert judge_chain([stream])[0] == "not run"
    without = [layer("a", response=None), layer("b", response=None)]
    assert judge_chain(without)[:2] == (
        "healthy",
        "the variance changes by a factor of 1 forward through 2 layers (limit 1000)",
    )


def test_a_decoder_has_an_input_of_its_own():
    words, places = layer("words", linear=False, starts=True), layer("places", linear=False, starts=True, response=1e-9)
    weak = [layer("encoder", response=1e-6, starts=True), layer("cross", response=1e-6)]
    assert broken([*weak, words, layer("decoder"), layer("head")])[0] == "healthy"
    assert broken([layer("a"), places, layer("b"), layer("c")])[0] == "healthy"
    assert broken([*weak, places, layer("b"), layer("c")])[0] == "vanishing"
    last = layer("boxes", response=1e-6)  # another head, through a sigmoid
    assert broken([layer("a"), layer("b"), last])[0] == "exploding"
    assert judge_chain([layer("a"), layer("b"), last], output=2.0)[0] == "healthy"


def test_branches_inside_what_begins_closed_are_judged_each_by_itself():
    gate = layer("gate", linear=False, closed=True)
    query = layer("query", response=1e-9, reads=(1,))
    values = layer("values", response=1e-3, reads=(1,))
    head = layer("head", reads=(4,))
    assert broken([layer("a"), gate, query, values, gate, head])[0] == "healthy"  # both are given what the gate gave
    weak = layer("values", response=1e-3, reads=(2,))
    assert broken([layer("a"), gate, query, weak, gate, head]) == ("vanishing", [("values", "vanishing")])
    strong = layer("query", response=1e-3, reads=(1,))
    later = layer("values", response=1e-9, reads=(1,)), layer("out", response=1e-3, reads=(3,))
    assert broken([layer("a"), gate, strong, *later, gate, head])[0] == "healthy"


def test_heads_side_by_side_may_begin_small():
    body, first, second = (
        layer("a"),
        layer("head", 1e-5, reads=(1,), received=0.1),
        layer("dist", 9e-6, reads=(1,), received=0.1),
    )
    assert broken([body, layer("b"), first, second])[0] == "healthy"
    for other in (layer("head", 1e-5, reads=(0,), received=0.1), layer("head", 1e-5, reads=(1,), received=0.2)):
        assert broken([body, layer("b"), other, second])[0] == "vanishing"
    assert broken([first, second])[0] == "healthy"
    assert broken([body, second])[0] == "vanishing"  # there is nothing else


def test_norms_make_gradients_grow_and_closed_branches_hold_them_back():
    norm = layer("norm", linear=False, norm=True)
    deep = [one for number in range(40) for one in (layer(f"{number}", response=1.3 ** (40 - number)), norm)]
    verdict, reason, findings = judge_chain(deep)
    assert (verdict, findings) == ("healthy", []) and reason.endswith("; the gradients grow no more than norms explain")
    assert judge_chain([one for one in deep if not one.norm])[0] == "exploding"
    steep = [one for number in range(40) for one in (layer(f"{number}", response=2.5 ** (40 - number)), norm)]
    assert judge_chain(steep)[0] == "exploding"
    gate = layer("scale", linear=False, closed=True, response=1e-9)
    verdict, reason, _ = judge_chain([layer("a", response=1e-9), gate, layer("b"), layer("c")])
    assert verdict == "healthy" and reason.endswith("; branches that begin closed hold the gradients back")
    assert judge_chain([layer("a", response=1e-9), layer("b", response=1e-9), layer("c"), gate])[0] == "vanishing"


def test_zeros_that_will_never_get_a_gradient():
    def found(*after):
        zero = layer("zero", 0.0, closed=True, dead=1.0, received=1.0, reads=(0,))
        return [
            kind for name, kind in broken([layer("a"), zero, *after, layer("head", reads=(9,))])[1] if name == "zero"
        ]

    shut = layer("norm", 0.0, linear=False, norm=True, closed=True, received=0.0, reads=(1,))
    opens = layer("scale", linear=False, closed=True, received=1.0, reads=(1,))
    relu = layer("relu", linear=False, received=0.0, reads=(1,))
    assert found(shut) == ["dead"]  # a branch that begins closed at both ends
    assert found(relu) == ["dead"]  # a rectifier has no slope at 0
    assert found(opens) == []  # it learns first
    after_the_sum = layer("scale", linear=False, closed=True, received=1.0, reads=(0, 2))
    assert found(relu, after_the_sum) == ["dead"]
    shortcut, joined = (
        layer("shortcut", reads=(0,)),
        layer("scale", linear=False, closed=True, received=1.0, reads=(2, 3)),
    )
    assert found(relu, shortcut, joined) == ["dead"]
    assert found() == []  # a head
    alive = layer("zero", 0.0, closed=True, dead=0.0, reads=(0,))
    assert broken([layer("a"), alive, relu, layer("head", reads=(9,))])[1] == []


@pytest.mark.parametrize(("peers", "kind"), [(3, "untouched"), (2, None)])
def test_zeros_among_weights_in_their_place(peers, kind):
    parameters = [weight(f"blocks.{number}.up.weight") for number in range(peers + 1)]
    held = [Held(one, drawn(one)) for one in parameters[1:]]
    assert kinds(*held, zeros(parameters[0])) == ([("blocks.0.up.weight", kind)] if kind else [])
    chain = [Held(weight(f"{number}.weight"), drawn(weight(f"{number}.weight"))) for number in range(peers)]
    assert kinds(*chain, zeros(weight(f"{peers}.weight"))) == []  # the last layer of a chain
    by_design = [zeros(weight(f"blocks.{number}.up.weight")) for number in range(2)]
    others = [Held(weight(f"{name}.weight"), drawn(weight(f"{name}.weight"))) for name in "abc"]
    assert kinds(*others, *held, *by_design) == []


def test_a_weight_before_a_norm_that_is_far_below_its_models_scheme():
    body = [weight(f"{number}.weight", (256, 256 + number)) for number in range(3)]
    held = [Held(one, drawn(one, fastinit.he_normal(layout="OI"))) for one in body]
    small = weight("small.weight", (64, 128))
    for normed, kind in ((True, [("small.weight", "scale")]), (False, []), (None, [])):
        low = Held(small, drawn(small, fastinit.Normal(0.0, 0.006)), normed=normed)
        assert kinds(*held, low) == kind
        enough = Held(small, drawn(small, fastinit.Normal(0.0, 0.012)), normed=normed)
        assert kinds(*held, enough) == []
    assert kinds(Held(small, drawn(small, fastinit.Normal(0.0, 0.006)), normed=True)) == []  # no scheme is followed


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
    with_note = Audit((), notes=(Finding("head.weight", "zero", "all its elements are 0"),))
    assert with_note.ok and "note: head.weight: all its elements are 0" in str(with_note)
    assert with_note.as_dict()["notes"][0]["kind"] == "zero"
    found = Audit(
        (Finding("a.weight", "scale", "too large", "Rule(...)"),), (layer("a", math.inf),), "exploding", "why"
    )
    assert not found
    assert str(found).splitlines()[:2] == ["a.weight: scale: too large", "    Rule(...)"]
    assert "exploding: why" in str(found) and "Var(grad)" in str(found)
    row = json.loads(json.dumps(found.as_dict(), allow_nan=False))["layers"][0]
    assert (row["variance"], row["weight"], row["width"]) == (None, "a.weight", 64)
