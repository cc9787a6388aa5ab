"""What the built-in recipes do with every kind of layer, and what assigned() promises."""

import math
from dataclasses import replace

import numpy as np
import pytest

import fastinit
from fastinit import (
    AUTO,
    FANS,
    OWN,
    TORCH,
    Blocks,
    Box,
    Constant,
    Fans,
    Identity,
    Keep,
    Key,
    Normal,
    Ones,
    Orthogonal,
    Painted,
    Parameter,
    Program,
    Recipe,
    Rule,
    TruncatedNormal,
    Uniform,
    UnmatchedParameter,
    VarianceScaling,
    ZeroRow,
    Zeros,
    assigned,
    expected_std,
    gain,
)
from fastinit.models.layers import KERAS, SUITED, TORCH_LAYERS, row_of
from fastinit.models.recipes import is_default, recipe_for


def chosen(recipe, layer, role, shape, **facts):
    """The initializer that a recipe has for a parameter of a framework's layer."""
    return recipe.match(Parameter(f"layer.{role}", shape, layer=layer, **facts))[1]


def std(recipe, layer, role, shape, **facts):
    return expected_std(chosen(recipe, layer, role, shape, **facts), shape)


# auto


@pytest.mark.parametrize(
    ("activation", "variance"),
    [
        (None, 1 / 32),
        ("identity", 1 / 32),
        ("selu", 1 / 32),
        ("relu", 2 / 32),
        ("relu6", 2 / 32),
        ("leaky_relu", 2 / 32 / 1.04),
        ("prelu", 2 / 32 / 1.04),
        ("tanh", 2 / (32 + 128)),
        ("sigmoid", 2 / (32 + 128)),
        ("softsign", 2 / (32 + 128)),
        ("gelu", gain("gelu") ** 2 / 32),
        ("silu", gain("silu") ** 2 / 32),
        ("swish", gain("silu") ** 2 / 32),
        ("elu", gain("elu") ** 2 / 32),
    ],
)
def test_auto_scales_by_the_activation_that_follows(activation, variance):
    slope = {"negative_slope": 0.2} if activation in ("leaky_relu", "prelu") else {}
    found = std(AUTO, "Linear", "weight", (128, 32), activation=activation, **slope)
    assert found**2 == pytest.approx(variance, rel=1e-12)


@pytest.mark.parametrize(
    ("layer", "shape", "facts", "fan_in"),
    [
        ("Conv2d", (64, 16, 3, 3), {}, 144),
        ("Conv1d", (64, 4, 5), {"groups": 4}, 20),
        ("Conv2d", (64, 1, 3, 3), {"groups": 32}, 9),
        ("ConvTranspose2d", (6, 4, 3, 3), {"layout": "IO...", "transposed": True, "groups": 2}, 27),
        ("ConvTranspose1d", (6, 4, 4), {"layout": "IO...", "transposed": True, "stride": 2}, 12),
        ("Conv1D", (32, 96), {"layout": "IO", "blocks": 3}, 32),
        ("Bilinear", (8, 5, 7), {}, 35),
        ("NonDynamicallyQuantizableLinear", (8, 5), {}, 5),
    ],
)
def test_auto_uses_the_true_fans(layer, shape, facts, fan_in):
    assert std(AUTO, layer, "weight", shape, activation="relu", **facts) == pytest.approx((2 / fan_in) ** 0.5)


def test_auto_packed_weights_have_the_fans_of_a_block():
    packed = std(AUTO, "MultiheadAttention", "in_proj_weight", (96, 32))
    assert packed == std(AUTO, "MultiheadAttention", "q_proj_weight", (32, 32)) == pytest.approx((2 / 64) ** 0.5)
    for cell, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1), ("LSTMCell", 4), ("GRUCell", 3)):
        assert std(AUTO, cell, "weight_ih_l0", (gates * 16, 8)) == pytest.approx((2 / 24) ** 0.5)
        hidden = chosen(AUTO, cell, "weight_hh_l0_reverse", (gates * 16, 16))
        one = Orthogonal(column_axis=0)
        assert hidden == (one if gates == 1 else Blocks(one, gates))
        assert chosen(AUTO, cell, "bias_hh", (gates * 16,)) == Zeros()
    assert std(AUTO, "LSTM", "weight_hr_l0", (5, 16), blocks=4) == pytest.approx((2 / 21) ** 0.5)


def test_auto_knows_kerass_kernels():
    assert std(AUTO, "DepthwiseConv2D", "kernel", (3, 3, 8, 2), layout="...IM", activation="relu") == (2 / 9) ** 0.5
    assert std(AUTO, "SeparableConv1D", "depthwise_kernel", (4, 8, 2), layout="...IM") == 1 / 2
    assert std(AUTO, "LSTMCell", "kernel", (16, 32), layout="...IO", blocks=4) == pytest.approx((2 / 24) ** 0.5)
    hidden = {"layout": "...IO", "blocks": 3}
    assert chosen(AUTO, "GRUCell", "recurrent_kernel", (8, 24), **hidden) == Blocks(Orthogonal(), 3, axis=-1)
    assert chosen(AUTO, "SimpleRNNCell", "recurrent_kernel", (8, 8), layout="...IO") == Orthogonal()
    assert chosen(AUTO, "LSTMCell", "bias", (32,), blocks=4) == chosen(AUTO, "LSTM", "bias_ih_l0", (32,))
    assert chosen(AUTO, "GRUCell", "bias", (2, 24)) == Zeros()
    assert chosen(AUTO, "BatchNormalization", "gamma", (8,)) == Ones()
    assert chosen(AUTO, "RMSNormalization", "scale", (8,)) == Ones()
    assert chosen(AUTO, "LayerNormalization", "beta", (8,)) == Zeros()
    assert chosen(AUTO, "Embedding", "embeddings", (9, 8)) == Normal()
    assert chosen(AUTO, "PReLU", "alpha", (8,)) == Constant(0.25)


def test_auto_opens_the_forget_gate_of_an_lstm_only():
    for cell in ("LSTM", "LSTMCell"):
        bias = fastinit.fill(np.empty(12, np.float32), chosen(AUTO, cell, "bias_ih", (12,)), Key(0))
        assert bias.tolist() == [0] * 3 + [1] * 3 + [0] * 6  # input, forget, cell, output
    assert chosen(AUTO, "GRU", "bias_ih_l0", (9,)) == Zeros()


def test_auto_embeddings():
    assert chosen(AUTO, "Embedding", "weight", (10, 4), layout="VD") == Normal()
    assert chosen(AUTO, "Embedding", "weight", (10, 4), tied=True) == Normal(0, 0.5)
    assert chosen(AUTO, "EmbeddingBag", "weight", (10, 4), zero_row=3) == ZeroRow(Normal(), 3)
    assert chosen(AUTO, "Embedding", "weight", (10, 4), zero_row=0, tied=True) == ZeroRow(Normal(0, 0.5), 0)


def test_embeddings_beside_a_tied_one_share_its_scale():
    words = Parameter("words.weight", (50, 16), layer="Embedding", layout="VD", tied=True)
    places = Parameter("places.weight", (30, 16), layer="Embedding", layout="VD")
    narrow = Parameter("narrow.weight", (30, 8), layer="Embedding", layout="VD")
    found = assigned([places, narrow, words], "auto", 0)
    assert [entry.std for entry in found] == [1 / 4, 1, 1 / 4]
    assert [entry.std for entry in assigned([places, narrow], "auto", 0)] == [1, 1]
    assert "scale of the one that is tied" in found[0].rule
    chose = replace(words, program=Program(Normal(0, 0.02)))  # the author's own scale is not the head's
    default = replace(places, program=Program(Normal()))
    assert [entry.std for entry in assigned([chose, default], "auto", 0)] == [0.02, 1]


@pytest.mark.parametrize(
    ("layer", "role", "initializer"),
    [
        ("LayerNorm", "weight", Ones()),
        ("BatchNorm2d", "bias", Zeros()),
        ("RMSNorm", "weight", Ones()),
        ("Linear", "bias", Zeros()),
        ("MultiheadAttention", "in_proj_bias", Zeros()),
        ("PReLU", "weight", Constant(0.25)),
    ],
)
def test_auto_vectors(layer, role, initializer):
    assert chosen(AUTO, layer, role, (8,)) == initializer


@pytest.mark.parametrize("recipe", [AUTO, FANS, TORCH], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize(
    ("types", "layer", "name", "shape", "facts"),
    [
        ("MyAttention", "", "q", (8, 8), {}),
        ("MambaMixer", "", "A_log", (8, 4), {}),
        ("MambaMixer", "", "dt_bias", (8,), {}),
        ("LoraLinear Linear", "Linear", "lora_A", (8, 4), {}),
        # names of layers, of norms and of positions say nothing
        ("LlamaRMSNorm", "", "weight", (8,), {}),
        ("Gemma3RMSNorm", "", "weight", (8,), {}),
        ("NormalDistributionHead", "", "weight", (8, 8), {}),
        ("Linear", "", "weight", (8, 8), {}),
        ("MixtralExperts", "", "gate_up_proj", (4, 64, 16), {"layout": "EOI"}),
        ("MixtralTopKRouter", "", "weight", (4, 16), {}),
        ("ViTEmbeddings", "", "position_embeddings", (1, 17, 8), {}),
        ("ViTEmbeddings", "", "cls_token", (1, 1, 8), {}),
        ("ConvNextLayer", "", "layer_scale_parameter", (8,), {}),
        ("CLIPModel", "", "logit_scale", (), {}),
        ("Anything", "", "bias", (8,), {}),
    ],
)
def test_what_is_no_layer_of_the_framework_is_an_error(recipe, types, layer, name, shape, facts):
    with pytest.raises(UnmatchedParameter, match=name):
        recipe.match(Parameter(f"model.{name}", shape, types=types.split(), layer=layer, **facts))


def test_a_weight_without_a_layout_has_no_fans_to_scale_by():
    with pytest.raises(UnmatchedParameter, match="weight"):
        chosen(AUTO, "Linear", "weight", (8, 4), layout=None)


def test_what_an_author_called_a_class_plays_no_part():
    """A linear map is one under the name of a norm."""
    for recipe in (AUTO, FANS, TORCH):
        plain = Parameter("a.weight", (8, 4), types=("Linear",), layer="Linear")
        for types in (("NormedLinear", "Linear"), ("SpectralNormConv", "Linear"), ("GemmaRMSNorm", "Linear")):
            assert recipe.match(replace(plain, types=types)) == recipe.match(plain)


def test_the_signal_keeps_its_size():
    """A deep gelu network that auto initializes: the mean square after the activation stays near 1."""
    width, depth = 256, 12
    signal = fastinit.fill(np.empty((width, 64)), Normal(), Key("inputs"))
    weights = [
        Parameter(f"{n}.weight", (width, width), layer="Linear", activation="gelu" if n else None) for n in range(depth)
    ]
    for entry in assigned(weights, "auto", 1):
        weight = fastinit.fill(np.empty(entry.shape), entry.initializer, entry.key)
        before = weight @ signal
        signal = 0.5 * before * (1 + np.vectorize(math.erf)(before / math.sqrt(2)))
    assert 0.1 < (signal**2).mean() < 2.0  # a factor of 2 in each layer would make it 2e-4 or 4096


# torch


@pytest.mark.parametrize(
    ("layer", "role", "shape", "facts", "bound"),
    [
        ("Linear", "weight", (8, 25), {}, 1 / 5),
        ("Linear", "bias", (8,), {"weight_shape": (8, 25)}, 1 / 5),
        ("Conv2d", "weight", (8, 4, 5, 5), {"groups": 2}, 1 / 10),
        ("Conv2d", "bias", (8,), {"weight_shape": (8, 4, 5, 5), "groups": 2}, 1 / 10),
        (
            "ConvTranspose2d",
            "weight",
            (6, 4, 5, 5),
            {"layout": "IO...", "transposed": True, "stride": 2, "groups": 3},
            1 / 10,
        ),
        ("Bilinear", "weight", (3, 16, 5), {}, 1 / 4),
        ("Bilinear", "bias", (3,), {"weight_shape": (3, 16, 5)}, 1 / 4),
        ("LSTM", "weight_ih_l0", (64, 3), {"blocks": 4}, 1 / 4),
        ("LSTM", "weight_hh_l1_reverse", (64, 7), {}, 1 / 4),
        ("LSTM", "weight_hr_l0", (7, 16), {}, 1 / 4),
        ("LSTM", "bias_ih_l0", (64,), {}, 1 / 4),
        ("GRU", "bias_hh_l0", (48,), {}, 1 / 4),
        ("GRUCell", "weight_ih", (48, 3), {}, 1 / 4),
        ("RNN", "weight_hh_l0", (16, 16), {}, 1 / 4),
        ("MultiheadAttention", "in_proj_weight", (96, 32), {"blocks": 3}, math.sqrt(6 / 128)),
        ("MultiheadAttention", "k_proj_weight", (32, 16), {}, math.sqrt(6 / 48)),
    ],
)
def test_torch_bounds(layer, role, shape, facts, bound):
    assert std(TORCH, layer, role, shape, **facts) == pytest.approx(bound / math.sqrt(3), rel=1e-14)
    values = fastinit.fill(np.empty(shape), chosen(TORCH, layer, role, shape, **facts), Key(0))
    assert 0 < abs(values).max() < bound


@pytest.mark.parametrize(
    ("layer", "role", "shape", "facts", "initializer"),
    [
        ("LayerNorm", "weight", (8,), {}, Ones()),
        ("BatchNorm1d", "bias", (8,), {}, Zeros()),
        ("Embedding", "weight", (9, 4), {"tied": True}, Normal()),
        ("EmbeddingBag", "weight", (9, 4), {"zero_row": 2}, ZeroRow(Normal(), 2)),
        ("MultiheadAttention", "in_proj_bias", (9,), {}, Zeros()),
        ("NonDynamicallyQuantizableLinear", "bias", (8,), {"weight_shape": (8, 8)}, Zeros()),
        ("PReLU", "weight", (1,), {}, Constant(0.25)),
        ("Conv1D", "weight", (8, 24), {"layout": "IO"}, Normal(0, 0.02)),
        ("Linear", "bias", (8,), {"weight_shape": (8, 0)}, Zeros()),
    ],
)
def test_torch_other_layers(layer, role, shape, facts, initializer):
    assert chosen(TORCH, layer, role, shape, **facts) == initializer


def test_torch_extra_keys_have_xavier_of_their_vector():
    assert std(TORCH, "MultiheadAttention", "bias_k", (1, 1, 64)) == pytest.approx(1 / 8)
    assert std(AUTO, "MultiheadAttention", "bias_v", (1, 1, 64)) == pytest.approx(1 / 8)


def test_torch_needs_the_weight_of_a_bias():
    with pytest.raises(UnmatchedParameter, match="bias"):
        chosen(TORCH, "Linear", "bias", (8,))


# assigned


def model():
    return [
        Parameter("embed.weight", (50, 16), layer="Embedding", layout="VD", zero_row=0),
        Parameter("layers.0.weight", (64, 16), layer="Linear", activation="relu"),
        Parameter("layers.0.bias", (64,), layer="Linear"),
        Parameter("norm.weight", (64,), layer="LayerNorm"),
    ]


def test_entries_hold_what_was_decided():
    entries = assigned(model(), "auto", 7)
    assert [entry.name for entry in entries] == [parameter.name for parameter in model()]
    weight = entries[1]
    assert weight.shape == (64, 16) and weight.fans == Fans(16, 64, 1) and weight.std == pytest.approx(8**-0.5)
    assert weight.initializer == VarianceScaling(2.0, "fan_in", "normal", layout="OI...")
    assert weight.key == Key(7).fold_in("layers.0.weight")
    assert weight.dtype is None and weight.digest is None
    assert entries[3].fans is None and entries[3].std == 0 and entries[2].rule == "bias"


def test_no_parameter_depends_on_the_others():
    entries = {entry.name: entry for entry in assigned(model(), "auto", 7)}
    more = [Parameter("extra.weight", (4, 4), layer="Linear"), *reversed(model())]
    for entry in assigned(more, "auto", 7):
        assert entries.get(entry.name, entry) == entry
    assert len({entry.key for entry in entries.values()}) == len(entries)
    assert assigned(model(), "auto", np.int64(7)) == list(entries.values())
    for seed in (8, "7", "model"):
        assert all(entries[entry.name].key != entry.key for entry in assigned(model(), "auto", seed))


def test_wrappers_change_nothing():
    wrapped = [Parameter(f"module._orig_mod.{p.name}", p.shape, layer=p.layer, layout=p.layout) for p in model()]
    plain = [Parameter(p.name, p.shape, layer=p.layer, layout=p.layout) for p in model()]
    assert assigned(wrapped, "auto", 0) == assigned(plain, "auto", 0)


def test_parameters_are_taken_one_by_one():
    recipe = Recipe([Rule("*", "*", Uniform(-1, 1))])
    assert len(assigned((p for p in model()), recipe, 0)) == 4
    assert assigned([], "torch", 0) == []


@pytest.mark.parametrize(
    ("parameters", "recipe", "error", "message"),
    [
        (
            [Parameter("a.bias", (1,)), Parameter("module.a.bias", (2,))],
            AUTO,
            ValueError,
            "same canonical name 'a.bias'",
        ),
        ([Parameter("a.q", (8, 8))], AUTO, UnmatchedParameter, "'a.q'"),
        (model(), "unknown", ValueError, "one of own, auto, fans, torch"),
        ([Parameter("a.weight", (8,))], Recipe([Rule("*", "*", Orthogonal())]), ValueError, "a.weight"),
        (
            [Parameter("a.weight_hh_l0", (9, 3), layer="LSTM")],
            AUTO,
            ValueError,
            "hh_l0.*4 blocks do not",
        ),
        ([Parameter("a.weight", (9, 3), layer="Linear", layout="OIE")], AUTO, ValueError, "a.weight.*3 axes"),
        ([Parameter("a.weight", (9, 3), layer="Linear", activation="foo")], AUTO, ValueError, "a.weight.*gelu.*foo"),
        ([Parameter("a.weight", (9, 3), layer="Embedding", zero_row=9)], AUTO, ValueError, "a.weight.*row 9"),
    ],
)
def test_bad_models(parameters, recipe, error, message):
    with pytest.raises(error, match=message):
        assigned(parameters, recipe, 0)


def test_bad_seeds():
    for seed in (1.5, None, True, b"bytes"):
        with pytest.raises(TypeError, match="seed"):
            assigned(model(), "auto", seed)


REACHED = {
    "suited": (
        SUITED,
        "Linear weight, GRU bias_hh_l0, Dense kernel, LayerNorm weight, LayerNorm bias, Linear bias, "
        "LSTM weight_ih_l0, LSTM weight_hr_l0, LSTM weight_hh_l0, LSTM bias_ih_l0, GRUCell kernel, "
        "GRUCell recurrent_kernel, "
        "ConvLSTMCell bias, GRUCell bias, MultiheadAttention in_proj_weight, MultiheadAttention q_proj_weight, "
        "MultiheadAttention in_proj_bias, MultiheadAttention bias_k, Embedding weight, PReLU weight",
    ),
    "torch": (
        TORCH_LAYERS,
        "LayerNorm weight, LayerNorm bias, NonDynamicallyQuantizableLinear bias, Bilinear weight, Conv1D weight, "
        "Conv1D bias, Linear weight, Linear bias, LSTM weight_ih_l0, Embedding weight, "
        "MultiheadAttention in_proj_weight, MultiheadAttention bias_k, MultiheadAttention in_proj_bias, PReLU weight",
    ),
    "keras": (
        KERAS,
        "Dense kernel, EinsumDense kernel, Dense bias, BatchNormalization gamma, BatchNormalization beta, "
        "GRUCell kernel, GRUCell recurrent_kernel, LSTMCell bias, GRUCell bias, Embedding embeddings, PReLU alpha",
    ),
}


@pytest.mark.parametrize("table", REACHED)
def test_every_row_is_reached(table):
    """A row that no parameter reaches would be dead."""
    rows, cases = REACHED[table]
    found = set()
    for case in cases.split(", "):
        layer, role = case.split()
        parameter = Parameter(f"a.{role}", (12, 12), layer=layer, weight_shape=(12, 12))
        row = row_of(rows, parameter)
        assert row.chosen(parameter) is not None
        found.add(row)
    assert found == set(rows)


# Programs


LAYERS = [
    ("Linear", "weight", (64, 25), Uniform(-0.2, 0.2)),
    ("Linear", "bias", (64,), Uniform(-0.2, 0.2)),
    ("Conv2d", "weight", (8, 4, 5, 5), Uniform(-0.1, 0.1)),
    ("Bilinear", "weight", (8, 16, 5), Uniform(-0.25, 0.25)),
    ("LSTM", "weight_hh_l0", (64, 16), Uniform(-0.25, 0.25)),
    ("GRUCell", "bias_ih", (48,), Uniform(-0.25, 0.25)),
    ("MultiheadAttention", "in_proj_weight", (96, 32), Uniform(-math.sqrt(6 / 128), math.sqrt(6 / 128))),
    ("MultiheadAttention", "bias_k", (1, 1, 64), Normal(0, 1 / 8)),
    ("Embedding", "weight", (9, 4), Normal()),
    ("LayerNorm", "weight", (8,), Ones()),
    ("PReLU", "weight", (1,), Constant(0.25)),
    ("Dense", "kernel", (25, 5), Uniform(-math.sqrt(0.2), math.sqrt(0.2))),
]


@pytest.mark.parametrize(("layer", "role", "shape", "by_hand"), LAYERS, ids=str)
def test_auto_improves_what_is_the_default_and_keeps_the_rest(layer, role, shape, by_hand):
    keras = {"layout": "...IO"} if role == "kernel" else {}
    plain = Parameter(f"a.{role}", shape, layer=layer, weight_shape=(64, 25), **keras)
    if layer == "GRUCell":
        plain = replace(plain, weight_shape=(48, 3))
    as_left = replace(plain, program=Program(by_hand))
    assert is_default(as_left) and AUTO.match(as_left) == AUTO.match(plain)
    for other in (Normal(0, 0.123), Constant(3.5), Uniform(-0.21, 0.22), Orthogonal()):
        chose = replace(plain, program=Program(other, operators=("normal_", "mul_")))
        rule, initializer = AUTO.match(chose)
        assert initializer == other and rule.title == "the author's own: normal_, mul_"
        assert not is_default(chose)
    drawn = replace(plain, program=Program(by_hand, chosen=True))  # by the author's own code, though it be the default
    assert not is_default(drawn) and AUTO.match(drawn)[1] == by_hand


def test_fans_scale_whatever_is_drawn_on_a_linear_map():
    weight = Parameter("a.weight", (64, 32), types=("NormedLinear",), layer="Linear", activation="relu")
    he = VarianceScaling(2.0, "fan_in", "normal", layout="OI...")
    for drawn in (Normal(0, 0.02), Uniform(-1, 1), TruncatedNormal(0, 0.02), Orthogonal(), Blocks(Normal(), 2)):
        assert FANS.match(replace(weight, program=Program(drawn)))[1] == he
    for kept in (
        Zeros(),
        Constant(3.0),
        Identity(),
        ZeroRow(Normal(), 0),
        Painted(Zeros(), (Box((0, 0), (2, 32), Normal()),)),
    ):
        assert FANS.match(replace(weight, program=Program(kept)))[1] == kept
    assert FANS.match(replace(weight, program=Program(Normal()), frozen=True))[1] == Normal()
    table = Parameter("a.weight", (9, 4), layer="Embedding", program=Program(Normal(0, 0.02)))
    bias = Parameter("a.bias", (9,), layer="Linear", program=Program(Uniform(-1, 1)))
    token = Parameter("a.token", (9, 4), program=Program(Normal()))
    for other in (table, bias, token):
        assert FANS.match(other)[1] == other.program.initializer


def test_own_is_the_program_and_nothing_else():
    weight = Parameter("a.weight", (64, 32), layer="Linear")
    with pytest.raises(UnmatchedParameter, match=r"'a.weight' of shape"):
        OWN.match(weight)
    rule, initializer = OWN.match(replace(weight, program=Program(Normal(0, 0.02), operators=("trunc_normal_",))))
    assert (rule.title, initializer) == ("the author's own: trunc_normal_", Normal(0, 0.02))
    twice = [replace(weight, name=name, program=Program(Normal(), ("a draw",))) for name in ("a.weight", "b.weight")]
    first, second = assigned(twice, "own", 0)
    assert first.key == second.key == Key(0).fold_in("a.weight")
    assert second.rule == "the author's own: a copy of a.weight"
    unwritten = Program(Zeros(), uninitialized=True)
    assert "never wrote" in OWN.match(replace(weight, program=unwritten))[0].title


def test_the_default_recipe_is_own_for_models_with_programs():
    plain = Parameter("a.weight", (64, 32), layer="Linear")
    carrying = replace(plain, name="b.weight", program=Program(Normal(0, 0.02)))
    assert recipe_for(None, [plain]) is AUTO and recipe_for(None, [plain, carrying]) is OWN
    assert recipe_for("torch", [carrying]) is TORCH
    assert assigned([carrying], None, 0)[0].initializer == Normal(0, 0.02)
    assert assigned([plain], None, 0)[0].rule == "no activation found: gain 1"
    with pytest.raises(UnmatchedParameter, match=r"'own' has no rule for 1 parameter: 'a.weight'"):
        assigned([plain, carrying], None, 0)


def test_rules_say_what_was_found():
    weight = Parameter("a.weight", (64, 32), layer="Linear")
    assert AUTO.match(weight)[0].title == "no activation found: gain 1"
    assert AUTO.match(replace(weight, activation="gelu"))[0].title == "scaled for gelu"


# What has no answer, and what stays


def strange():
    return [
        Parameter("a.weight", (4, 4), layer="Linear"),
        Parameter("a.token", (1, 4), types=("Block", "Module")),
        Parameter("b.A_log", (4,)),
        Parameter("c.scale", (), types=("Scale",), program=Program(Constant(2.0))),
    ]


def test_one_error_names_all_that_have_no_answer():
    with pytest.raises(UnmatchedParameter) as raised:
        assigned(strange()[:3], "auto", 0)
    text = str(raised.value)
    for part in (
        "no rule for 2 parameters: 'a.token' of shape (1, 4) (Block), 'b.A_log' of shape (4,) (unknown layer)",
        *("deferred()", 'unmatched="keep"', "Rule('Block', 'token', ...)"),
    ):
        assert part in text
    assert "'a.weight'" not in text


def test_what_has_no_answer_is_kept_if_asked():
    entries = assigned(strange(), "auto", 0, "keep")
    assert [entry.initializer == Keep() for entry in entries] == [False, True, True, False]
    assert (entries[1].rule, entries[1].std) == ("no rule: kept", None)
    with pytest.raises(ValueError, match=r"unmatched must be one of .*error.*keep"):
        assigned(strange(), "auto", 0, "ignore")


def test_keep_is_a_rule():
    recipe = AUTO.with_rules(Rule("*", "a.token|b.A_log", Keep(), "as it is"), Rule("*", "c.*", Keep()))
    entries = assigned(strange(), recipe, 0)
    assert [entry.initializer == Keep() for entry in entries] == [False, True, True, True]
    assert entries[1].rule == "as it is"


def test_without_memory_to_keep_is_to_have_the_program():
    recipe = AUTO.with_rules(Rule("*", "c.*", Keep()))
    assert assigned([strange()[3]], recipe, 0, in_memory=False)[0].initializer == Constant(2.0)
    kept = assigned([strange()[3]], TORCH, 0, "keep", in_memory=False)
    assert (kept[0].initializer, kept[0].rule) == (Constant(2.0), "the author's own")
    with pytest.raises(UnmatchedParameter, match=r"'a\.token'.*'b\.A_log'"):
        assigned(strange(), TORCH, 0, "keep", in_memory=False)
    both = AUTO.with_rules(Rule("*", "a.token|b.A_log", Keep()))
    with pytest.raises(
        ValueError, match=r"cannot keep values of parameters on the meta device: 'a\.token', 'b\.A_log'"
    ):
        assigned(strange(), both, 0, in_memory=False)


def test_frozen_parameters_stay_unless_asked():
    weight = Parameter("a.weight", (4, 4), layer="Linear", frozen=True)
    unknown = Parameter("a.table", (4, 4), frozen=True)
    for recipe in ("auto", "torch", Recipe([Rule("*", "*", Ones())])):
        kept = assigned([weight, unknown], recipe, 0)
        assert [(entry.initializer, entry.rule) for entry in kept] == [(Keep(), "frozen: kept")] * 2
    assert assigned([weight], "auto", 0, frozen=True)[0].initializer.mode == "fan_in"
    with pytest.raises(UnmatchedParameter, match=r"a\.table"):
        assigned([weight, unknown], "auto", 0, frozen=True)
    known = replace(unknown, program=Program(Normal(0, 0.5)))
    for recipe in ("own", "auto", "fans"):
        assert assigned([known], recipe, 0)[0].initializer == Normal(0, 0.5)
    with pytest.raises(ValueError, match=r"meta device: 'a\.weight'.*frozen=True"):
        assigned([weight], "auto", 0, in_memory=False)
    assert assigned([weight], "auto", 0, frozen=True, in_memory=False)[0].std == 0.5


def test_a_layer_of_transformers_has_no_default_to_improve():
    program = fastinit.Program(Normal(0.0, 0.02), ("a draw",))
    weight = Parameter("h.c_fc.weight", (64, 256), layer="Conv1D", layout="IO", activation="gelu", program=program)
    assert not fastinit.models.recipes.is_default(weight)
    assert AUTO.match(weight)[1] == program.initializer and FANS.match(weight)[1] != program.initializer
