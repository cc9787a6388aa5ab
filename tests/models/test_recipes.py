"""What the built-in recipes do with every kind of layer, and what assigned() promises."""

import math

import numpy as np
import pytest

import fastinit
from fastinit import (
    AUTO,
    TORCH,
    Axes,
    Blocks,
    Constant,
    Fans,
    Key,
    Normal,
    Ones,
    Orthogonal,
    Parameter,
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

SMALL = TruncatedNormal(std=0.02)


def chosen(recipe, types, name, shape, **facts):
    """The initializer that a recipe has for a parameter; a name without a dot is of some layer."""
    owner = (*types.split(), "Module")
    return recipe.match(Parameter(name if "." in name else f"layer.{name}", shape, types=owner, **facts))[1]


def std(recipe, types, name, shape, **facts):
    return expected_std(chosen(recipe, types, name, shape, **facts), shape)


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
    ("types", "shape", "facts", "fan_in"),
    [
        ("Conv2d _ConvNd", (64, 16, 3, 3), {}, 144),
        ("Conv1d _ConvNd", (64, 4, 5), {"groups": 4}, 20),
        ("Conv2d _ConvNd", (64, 1, 3, 3), {"groups": 32}, 9),
        ("ConvTranspose2d _ConvNd", (6, 4, 3, 3), {"layout": "IO...", "transposed": True, "groups": 2}, 27),
        ("ConvTranspose1d", (6, 4, 4), {"layout": "IO...", "transposed": True, "stride": 2}, 12),
        ("Conv1D", (32, 96), {"layout": "IO", "blocks": 3}, 32),
        ("Bilinear", (8, 5, 7), {}, 35),
        ("NonDynamicallyQuantizableLinear Linear", (8, 5), {}, 5),
    ],
)
def test_auto_uses_the_true_fans(types, shape, facts, fan_in):
    assert std(AUTO, types, "weight", shape, activation="relu", **facts) == pytest.approx((2 / fan_in) ** 0.5)


def test_auto_packed_weights_have_the_fans_of_a_block():
    packed = std(AUTO, "MultiheadAttention", "in_proj_weight", (96, 32))
    assert packed == std(AUTO, "MultiheadAttention", "q_proj_weight", (32, 32)) == pytest.approx((2 / 64) ** 0.5)
    for cell, gates in (("LSTM RNNBase", 4), ("GRU RNNBase", 3), ("RNN RNNBase", 1), ("LSTMCell", 4), ("GRUCell", 3)):
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


def test_auto_routers():
    assert std(AUTO, "MixtralTopKRouter", "weight", (4, 16), layout=None) == pytest.approx(1 / 4)
    with pytest.raises(UnmatchedParameter):
        chosen(AUTO, "MixtralTopKRouter", "weight", (4, 16, 2))


def test_auto_opens_the_forget_gate_of_an_lstm_only():
    for cell in ("LSTM", "LSTMCell"):
        bias = fastinit.fill(np.empty(12, np.float32), chosen(AUTO, cell, "bias_ih", (12,)), Key(0))
        assert bias.tolist() == [0] * 3 + [1] * 3 + [0] * 6  # input, forget, cell, output
    assert chosen(AUTO, "GRU", "bias_ih_l0", (9,)) == Zeros()


def test_auto_embeddings():
    assert chosen(AUTO, "Embedding", "weight", (10, 4), layout="VD") == Normal()
    assert chosen(AUTO, "Embedding", "weight", (10, 4), tied=True) == Normal(0, 0.5)
    assert chosen(AUTO, "EmbeddingBag", "weight", (10, 4), zero_row=3) == ZeroRow(Normal(), 3)
    assert chosen(AUTO, "MyEmbedding Embedding", "weight", (10, 4), zero_row=0, tied=True) == ZeroRow(Normal(0, 0.5), 0)


@pytest.mark.parametrize(
    ("types", "name", "shape"),
    [
        ("Embedding", "transformer.wpe.weight", (16, 8)),
        ("Embedding", "embeddings.position_embeddings.weight", (16, 8)),
        ("BartLearnedPositionalEmbedding Embedding", "embed_positions.weight", (16, 8)),
        ("Embedding", "block.0.relative_attention_bias.weight", (32, 4)),
        ("ViTEmbeddings", "embeddings.cls_token", (1, 1, 8)),
        ("ViTEmbeddings", "embeddings.position_embeddings", (1, 17, 8)),
        ("ViTEmbeddings", "embeddings.mask_token", (1, 1, 8)),
        ("CLIPVisionEmbeddings", "embeddings.class_embedding", (8,)),
        ("VisionTransformer", "pos_embed", (1, 17, 8)),
        ("VisionTransformer", "encoder.pos_embedding", (1, 17, 8)),
        ("SwinRelative", "attn.relative_position_bias_table", (9, 4)),
    ],
)
def test_auto_positions_and_tokens_are_small(types, name, shape):
    assert chosen(AUTO, types, name, shape) == SMALL


def test_auto_layers_named_after_positions_are_still_layers():
    assert chosen(AUTO, "Linear", "position_embeddings.proj.weight", (4, 4)).mode == "fan_in"
    assert chosen(AUTO, "Linear", "pos_embed.proj.bias", (4,)) == Zeros()
    assert chosen(AUTO, "LayerNorm", "position_embeddings.norm.weight", (4,)) == Ones()
    assert chosen(AUTO, "Embedding", "position_embeddings.weight", (9, 4), zero_row=1) == ZeroRow(SMALL, 1)


@pytest.mark.parametrize(
    ("types", "name", "initializer"),
    [
        ("LayerNorm", "weight", Ones()),
        ("BatchNorm2d _BatchNorm _NormBase", "bias", Zeros()),
        ("LlamaRMSNorm", "weight", Ones()),
        ("T5LayerNorm", "weight", Ones()),
        ("GemmaRMSNorm", "weight", Zeros()),
        ("Gemma3RMSNorm", "weight", Zeros()),
        ("Gemma3nRMSNorm", "weight", Ones()),
        ("Gemma4RMSNorm", "weight", Ones()),
        ("Qwen3NextRMSNorm", "weight", Zeros()),
        ("Qwen3RMSNorm", "weight", Ones()),
        ("Linear", "bias", Zeros()),
        ("MultiheadAttention", "in_proj_bias", Zeros()),
        ("Anything", "bias", Zeros()),
        ("PReLU", "weight", Constant(0.25)),
        ("Dinov2LayerScale", "lambda1", Constant(1e-5)),
        ("ConvNextLayer", "layer_scale_parameter", Constant(1e-5)),
        ("CLIPModel", "logit_scale", Constant(math.log(1 / 0.07))),
    ],
)
def test_auto_vectors(types, name, initializer):
    assert chosen(AUTO, types, name, (8,)) == initializer


def test_auto_experts_need_a_layout_that_counts_them():
    for layout in ("EOI", Axes(in_axis=2, out_axis=1, batch_axis=0)):
        found = std(AUTO, "MixtralExperts", "gate_up_proj", (4, 64, 16), layout=layout, activation="relu")
        assert found == pytest.approx((2 / 16) ** 0.5)
    with pytest.raises(UnmatchedParameter, match="MixtralExperts"):
        chosen(AUTO, "MixtralExperts", "gate_up_proj", (4, 64, 16))


@pytest.mark.parametrize(
    ("types", "name", "shape", "facts"),
    [
        ("MyAttention", "q", (8, 8), {}),
        ("MambaMixer", "A_log", (8, 4), {}),
        ("MambaMixer", "dt_bias", (8,), {}),
        ("Linear", "lora_A", (8, 4), {}),
        ("Linear", "weight", (8, 4), {"layout": None}),
    ],
)
def test_what_no_rule_knows_is_an_error(types, name, shape, facts):
    with pytest.raises(UnmatchedParameter, match=name):
        chosen(AUTO, types, name, shape, **facts)


def test_the_signal_keeps_its_size():
    """A deep gelu network that auto initializes: the mean square after the activation stays near 1."""
    width, depth = 256, 12
    signal = fastinit.fill(np.empty((width, 64)), Normal(), Key("inputs"))
    weights = [
        Parameter(f"{n}.weight", (width, width), types=("Linear",), activation="gelu" if n else None)
        for n in range(depth)
    ]
    for entry in assigned(weights, "auto", 1):
        weight = fastinit.fill(np.empty(entry.shape), entry.initializer, entry.key)
        before = weight @ signal
        signal = 0.5 * before * (1 + np.vectorize(math.erf)(before / math.sqrt(2)))
    assert 0.1 < (signal**2).mean() < 2.0  # a factor of 2 in each layer would make it 2e-4 or 4096


# torch


@pytest.mark.parametrize(
    ("types", "name", "shape", "facts", "bound"),
    [
        ("Linear", "weight", (8, 25), {}, 1 / 5),
        ("Linear", "bias", (8,), {"weight_shape": (8, 25)}, 1 / 5),
        ("Conv2d _ConvNd", "weight", (8, 4, 5, 5), {"groups": 2}, 1 / 10),
        ("Conv2d _ConvNd", "bias", (8,), {"weight_shape": (8, 4, 5, 5), "groups": 2}, 1 / 10),
        (
            "ConvTranspose2d _ConvNd",
            "weight",
            (6, 4, 5, 5),
            {"layout": "IO...", "transposed": True, "stride": 2, "groups": 3},
            1 / 10,
        ),
        ("Bilinear", "weight", (3, 16, 5), {}, 1 / 4),
        ("Bilinear", "bias", (3,), {"weight_shape": (3, 16, 5)}, 1 / 4),
        ("LSTM RNNBase", "weight_ih_l0", (64, 3), {"blocks": 4}, 1 / 4),
        ("LSTM RNNBase", "weight_hh_l1_reverse", (64, 7), {}, 1 / 4),
        ("LSTM RNNBase", "weight_hr_l0", (7, 16), {}, 1 / 4),
        ("LSTM RNNBase", "bias_ih_l0", (64,), {}, 1 / 4),
        ("GRU RNNBase", "bias_hh_l0", (48,), {}, 1 / 4),
        ("GRUCell RNNCellBase", "weight_ih", (48, 3), {}, 1 / 4),
        ("RNN RNNBase", "weight_hh_l0", (16, 16), {}, 1 / 4),
        ("MultiheadAttention", "in_proj_weight", (96, 32), {"blocks": 3}, math.sqrt(6 / 128)),
        ("MultiheadAttention", "k_proj_weight", (32, 16), {}, math.sqrt(6 / 48)),
    ],
)
def test_torch_bounds(types, name, shape, facts, bound):
    assert std(TORCH, types, name, shape, **facts) == pytest.approx(bound / math.sqrt(3), rel=1e-14)
    values = fastinit.fill(np.empty(shape), chosen(TORCH, types, name, shape, **facts), Key(0))
    assert 0 < abs(values).max() < bound


@pytest.mark.parametrize(
    ("types", "name", "shape", "facts", "initializer"),
    [
        ("LayerNorm", "weight", (8,), {}, Ones()),
        ("BatchNorm1d _NormBase", "bias", (8,), {}, Zeros()),
        ("Embedding", "weight", (9, 4), {"tied": True}, Normal()),
        ("EmbeddingBag", "weight", (9, 4), {"zero_row": 2}, ZeroRow(Normal(), 2)),
        ("MultiheadAttention", "in_proj_bias", (9,), {}, Zeros()),
        ("NonDynamicallyQuantizableLinear Linear", "bias", (8,), {"weight_shape": (8, 8)}, Zeros()),
        ("PReLU", "weight", (1,), {}, Constant(0.25)),
        ("Conv1D", "weight", (8, 24), {"layout": "IO"}, Normal(0, 0.02)),
        ("Linear", "bias", (8,), {"weight_shape": (8, 0)}, Zeros()),
    ],
)
def test_torch_other_layers(types, name, shape, facts, initializer):
    assert chosen(TORCH, types, name, shape, **facts) == initializer


def test_torch_extra_keys_have_xavier_of_their_vector():
    assert std(TORCH, "MultiheadAttention", "bias_k", (1, 1, 64)) == pytest.approx(1 / 8)
    assert std(AUTO, "MultiheadAttention", "bias_v", (1, 1, 64)) == pytest.approx(1 / 8)


def test_torch_needs_the_weight_of_a_bias_and_knows_no_custom_layers():
    with pytest.raises(UnmatchedParameter, match="bias"):
        chosen(TORCH, "Linear", "bias", (8,))
    with pytest.raises(UnmatchedParameter, match="cls_token"):
        chosen(TORCH, "ViTEmbeddings", "cls_token", (1, 1, 8))


# assigned


def model():
    return [
        Parameter("embed.weight", (50, 16), types=("Embedding",), layout="VD", zero_row=0),
        Parameter("layers.0.weight", (64, 16), types=("Linear",), activation="relu"),
        Parameter("layers.0.bias", (64,), types=("Linear",)),
        Parameter("norm.weight", (64,), types=("LayerNorm",)),
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
    more = [Parameter("extra.weight", (4, 4), types=("Linear",)), *reversed(model())]
    for entry in assigned(more, "auto", 7):
        assert entries.get(entry.name, entry) == entry
    assert len({entry.key for entry in entries.values()}) == len(entries)
    assert assigned(model(), "auto", np.int64(7)) == list(entries.values())
    for seed in (8, "7", "model"):
        assert all(entries[entry.name].key != entry.key for entry in assigned(model(), "auto", seed))


def test_wrappers_change_nothing():
    wrapped = [Parameter(f"module._orig_mod.{p.name}", p.shape, p.types, layout=p.layout) for p in model()]
    plain = [Parameter(p.name, p.shape, p.types, layout=p.layout) for p in model()]
    assert assigned(wrapped, "auto", 0) == assigned(plain, "auto", 0)


def test_parameters_are_taken_one_by_one():
    recipe = Recipe([Rule("*", "*", Uniform(-1, 1))])
    assert len(assigned((p for p in model()), recipe, 0)) == 4
    assert assigned([], "torch", 0) == []


@pytest.mark.parametrize(
    ("parameters", "recipe", "error", "message"),
    [
        ([Parameter("a.bias", (1,)), Parameter("module.a.bias", (2,))], AUTO, ValueError, "same name 'a.bias'"),
        ([Parameter("a.q", (8, 8))], AUTO, UnmatchedParameter, "'a.q'"),
        (model(), "unknown", ValueError, "one of auto, torch"),
        ([Parameter("a.weight", (8,), types="Linear")], Recipe([Rule("*", "*", Orthogonal())]), ValueError, "a.weight"),
        (
            [Parameter("a.weight_hh_l0", (9, 3), types="LSTM")],
            AUTO,
            ValueError,
            "hh_l0.*4 blocks do not",
        ),
        ([Parameter("a.weight", (9, 3), types="Linear", layout="OIE")], AUTO, ValueError, "a.weight.*3 axes"),
        ([Parameter("a.weight", (9, 3), types="Linear", activation="foo")], AUTO, ValueError, "a.weight.*gelu.*foo"),
        ([Parameter("a.weight", (9, 3), types="Embedding", zero_row=9)], AUTO, ValueError, "a.weight.*row 9"),
    ],
)
def test_bad_models(parameters, recipe, error, message):
    with pytest.raises(error, match=message):
        assigned(parameters, recipe, 0)


def test_bad_seeds():
    for seed in (1.5, None, True, b"bytes"):
        with pytest.raises(TypeError, match="seed"):
            assigned(model(), "auto", seed)


def test_every_rule_of_the_recipes_is_tested():
    """Each title turns up in a match of this file's parameters; a rule that nothing reaches would be dead."""
    seen = {
        AUTO: [
            ("GemmaRMSNorm", "weight"), ("LayerNorm", "weight"), ("LayerNorm", "bias"), ("Linear", "weight"),
            ("Linear", "bias"), ("Dense", "kernel"), ("XExperts", "up"), ("XRouter", "weight"),
            ("LSTM", "weight_ih_l0"), ("LSTM", "weight_hr_l0"), ("LSTM", "weight_hh_l0"),
            ("LSTM", "bias_ih_l0"), ("GRU", "bias_hh_l0"), ("GRUCell", "kernel"), ("GRUCell", "recurrent_kernel"),
            ("ConvLSTMCell", "bias"), ("MultiheadAttention", "in_proj_weight"),
            ("MultiheadAttention", "q_proj_weight"), ("MultiheadAttention", "bias_k"), ("X", "bias"),
            ("X", "pos_embed"), ("X", "cls_token"), ("Embedding", "weight"), ("PReLU", "weight"),
            ("LayerScale", "gamma"), ("X", "layer_scale"), ("X", "logit_scale"),
        ],
        TORCH: [
            ("LayerNorm", "weight"), ("LayerNorm", "bias"), ("NonDynamicallyQuantizableLinear Linear", "bias"),
            ("Bilinear", "weight"), ("Conv1D", "weight"), ("Conv1D", "bias"), ("Linear", "weight"), ("Linear", "bias"),
            ("LSTM", "weight_ih_l0"), ("Embedding", "weight"), ("MultiheadAttention", "in_proj_weight"),
            ("MultiheadAttention", "bias_k"), ("MultiheadAttention", "in_proj_bias"), ("PReLU", "weight"),
        ],
    }  # fmt: skip
    for recipe, cases in seen.items():
        facts = {"weight_shape": (12, 12), "layout": "EO"}
        reached = [
            recipe.match(Parameter(f"a.{name}", (12, 12), types=tuple(types.split()), **facts))[0]
            for types, name in cases
        ]
        assert reached == list(recipe.rules)
