"""Models of transformers, built from their configurations, in memory and from the meta device."""

import math

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs transformers")
from torch import nn  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch import deferred, materialize  # noqa: E402
from fastinit.adapters.torch.layers import parameters  # noqa: E402
from fastinit.adapters.torch.models import initialize_, replay  # noqa: E402
from fastinit.models.recipes import RECIPES, Rule, UnmatchedParameter  # noqa: E402

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 120,
}
ROPE = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
T5 = {"vocab_size": 120, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4}
MODELS = {
    "GPT-2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=120, n_positions=48, n_embd=64, n_layer=2, n_head=4)
    ),
    "Llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, num_key_value_heads=2)),
    "Llama, linear RoPE": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SMALL, rope_parameters=ROPE, tie_word_embeddings=True)
    ),
    "ViT": lambda: transformers.ViTForImageClassification(
        transformers.ViTConfig(**{**SMALL, "vocab_size": None}, image_size=16, patch_size=4)
    ),
    "T5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)),
    "T5, gated": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(**T5, feed_forward_proj="gated-gelu")
    ),
    "BERT": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)),
    "Gemma": lambda: transformers.GemmaForCausalLM(
        transformers.GemmaConfig(**SMALL, num_key_value_heads=2, head_dim=16)
    ),
}

# what transformers' own layers hold, as a user's rules say it
RULES = (
    Rule("*RMSNorm|T5LayerNorm", "weight", fastinit.Ones()),
    Rule("ViTEmbeddings", "cls_token|position_embeddings", fastinit.TruncatedNormal(0.0, 0.02)),
    Rule("BertLMPredictionHead", "bias", fastinit.Zeros()),
)
AUTO = RECIPES["auto"].with_rules(*RULES)


@pytest.fixture(params=MODELS)
def build(request):
    return MODELS[request.param]


def outputs(model):
    tokens = torch.arange(24).reshape(2, 12)
    inputs = {"input_ids": tokens}
    if isinstance(model, transformers.ViTForImageClassification):
        inputs = {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
    elif isinstance(model, transformers.T5ForConditionalGeneration):
        inputs = {"input_ids": tokens, "decoder_input_ids": tokens}
    with torch.no_grad():
        return model.eval()(**inputs).logits


def different(model, expected):
    """Names of the parameters and buffers that are not the same to the byte."""
    for name in ("named_parameters", "named_buffers"):
        found, wanted = dict(getattr(model, name)()), dict(getattr(expected, name)())
        yield from found.keys() ^ wanted.keys()
        for tensor in found.keys() & wanted.keys():
            one, two = found[tensor].detach(), wanted[tensor].detach()
            if one.dtype != two.dtype or not torch.equal(one, two):
                yield tensor


def test_in_memory_and_from_the_meta_device_the_bytes_are_the_same(build):
    model = build()
    record = initialize_(model, AUTO, digests=True)
    logits = outputs(model)
    assert logits.isfinite().all() and 1e-2 < logits.std() < 1e2
    with torch.device("meta"):
        other = build()
    assert all(parameter.is_meta for parameter in other.parameters())
    assert materialize(other, AUTO, digests=True) == record
    assert list(different(other, model)) == []
    assert torch.equal(outputs(other), logits)
    assert replay(record.to_json(), build()) == record


def test_each_weight_has_its_expected_standard_deviation(build):
    for recipe in (AUTO, RECIPES["torch"].with_rules(*RULES)):
        model = build()
        for entry in initialize_(model, recipe):
            values = model.get_parameter(entry.name)
            if entry.std is not None and values.numel() > 100:
                tolerance = 6 / math.sqrt(2 * values.numel())
                assert values.std(correction=0).item() == pytest.approx(entry.std, rel=tolerance), entry.name


def activated(name):
    return {
        place.parameter.name: place.parameter.activation
        for place in parameters(MODELS[name]())
        if place.parameter.activation and place.parameter.name.endswith("weight")
    }


def test_the_activations_of_transformers():
    assert activated("GPT-2") == {f"transformer.h.{n}.mlp.c_fc.weight": "gelu_tanh" for n in (0, 1)}
    assert activated("Llama") == {f"model.layers.{n}.mlp.gate_proj.weight": "silu" for n in (0, 1)}
    assert set(activated("ViT").values()) == {"gelu"} and len(activated("ViT")) == 2
    assert set(activated("T5").values()) == {"relu"} and len(activated("T5")) == 4
    gated = activated("T5, gated")
    assert set(gated.values()) == {"gelu_tanh"} and all(name.endswith("wi_0.weight") for name in gated)
    assert set(activated("BERT")) == {
        "bert.encoder.layer.0.intermediate.dense.weight",
        "bert.encoder.layer.1.intermediate.dense.weight",
        "cls.predictions.transform.dense.weight",
    }


def test_every_activation_of_transformers_that_is_recognized_is_the_one_of_that_name():
    from fastinit.adapters.torch.layers import activation_of
    from fastinit.advice.activations import ACTIVATIONS

    points = torch.linspace(-4, 4, 81, dtype=torch.float64)
    recognized = 0
    for name in transformers.activations.ACT2CLS:
        try:
            module = transformers.activations.ACT2FN[name]
        except ImportError:
            continue
        found = activation_of(module)
        if found is None:
            continue
        recognized += 1
        slope = {"negative_slope": found.negative_slope} if found.negative_slope else {}
        expected = torch.from_numpy(ACTIVATIONS[found.name](points.numpy(), **slope))
        torch.testing.assert_close(module.double()(points).detach(), expected, rtol=1e-6, atol=1e-6)
        assert activation_of(name) in (found, None)
    assert recognized >= 20


def test_the_layers_of_gpt2():
    found = {place.parameter.name: place for place in parameters(MODELS["GPT-2"]())}
    assert found["transformer.h.0.attn.c_attn.weight"].parameter.fans == fastinit.Fans(64, 192, 1)
    assert found["transformer.h.0.mlp.c_proj.weight"].parameter.fans == fastinit.Fans(256, 64, 1)
    embedding = found["transformer.wte.weight"]
    assert embedding.parameter.other_names == ("lm_head.weight",) and embedding.parameter.tied
    model = MODELS["GPT-2"]()
    record = initialize_(model)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert record["transformer.wte.weight"].std == pytest.approx(1 / 8)
    assert record["transformer.wpe.weight"].std == pytest.approx(1 / 8)  # added to the words


@pytest.mark.parametrize("recipe", ["own", "auto", "fans"])
def test_a_deferred_model_needs_no_rules(build, recipe):
    with deferred():
        model = build()
    record = materialize(model, recipe)
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert outputs(model).isfinite().all()
    constant = {name for name, tensor in build().named_parameters() if (tensor == tensor.flatten()[0]).all()}
    drawn = {entry.name for entry in record if entry.std}
    assert not constant & drawn  # zero stays zero, and one stays one
    if recipe == "own":
        assert constant | drawn == {entry.name for entry in record}


def test_what_transformers_own_layers_hold_is_in_one_error():
    configuration = transformers.MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=3)
    for model, names in (
        (MODELS["Gemma"](), ["model.norm.weight", "model.layers.1.input_layernorm.weight"]),
        (transformers.MixtralForCausalLM(configuration), ["model.layers.0.mlp.experts.gate_up_proj"]),
        (MODELS["ViT"](), ["vit.embeddings.cls_token", "vit.embeddings.position_embeddings"]),
    ):
        with pytest.raises(UnmatchedParameter) as raised:
            initialize_(model)
        assert all(repr(name) in str(raised.value) for name in names)


def test_parameters_in_memory_keep_their_values_while_buffers_are_restored():
    with torch.device("meta"):
        model = MODELS["BERT"]()
    kept = model.bert.embeddings.word_embeddings
    kept.weight = nn.Parameter(torch.full((120, 64), 0.5))
    model.cls.predictions.decoder.weight = kept.weight
    record = materialize(model, AUTO)
    assert "bert.embeddings.word_embeddings.weight" not in record
    assert (kept.weight == 0.5).all() and not hasattr(kept.weight, "_is_hf_initialized")
    assert list(different(model.bert.encoder, _initialized("BERT").bert.encoder)) == []
    assert torch.equal(model.bert.embeddings.position_ids, MODELS["BERT"]().bert.embeddings.position_ids)


def _initialized(name):
    model = MODELS[name]()
    initialize_(model, AUTO)
    return model


def test_buffers_that_transformers_does_not_restore_are_named():
    with torch.device("meta"):
        model = MODELS["Llama"]()
        model.model.register_buffer("mystery", torch.arange(3))
    with pytest.raises(ValueError, match=r"cannot be known: model\.mystery\. "):
        materialize(model, AUTO)
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    model.model.mystery = torch.arange(3)
    materialize(model, AUTO)
    assert model.model.mystery.tolist() == [0, 1, 2]


def test_in_bfloat16_the_tables_of_positions_stay_float32():
    with torch.device("meta"):
        model = MODELS["Llama"]()
    materialize(model, AUTO, dtype=torch.bfloat16)
    expected = _initialized("Llama")
    assert torch.equal(model.model.rotary_emb.inv_freq, expected.model.rotary_emb.inv_freq)
    for (name, found), wanted in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(found, wanted.to(torch.bfloat16)), name
    assert outputs(model).isfinite().all()
