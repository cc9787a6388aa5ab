"""Example inputs: each kind of model accepts one of them."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="needs transformers")

from fastinit.adapters.torch.inputs import example_inputs  # noqa: E402

SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def accepted(model, method="forward"):
    """The first inputs that a model runs with."""
    for inputs in example_inputs(model.eval(), method=method):
        try:
            with torch.no_grad():
                getattr(model, method)(**inputs)
        except Exception:
            continue
        return {name: tuple(one.shape) if isinstance(one, torch.Tensor) else one for name, one in inputs.items()}
    return None


def test_text():
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, vocab_size=96))
    assert accepted(model) == {"input_ids": (1, 8)}


def test_regions_of_an_image_beside_a_text():
    sizes = {"l_layers": 1, "x_layers": 1, "r_layers": 1, "visual_feat_dim": 48, "vocab_size": 96}
    config = transformers.LxmertConfig(hidden_size=32, intermediate_size=32, num_attention_heads=2, **sizes)
    found = accepted(transformers.LxmertForPreTraining(config))
    assert (found["visual_feats"], found["visual_pos"]) == ((1, 4, 48), (1, 4, 4))


def test_without_a_cache_where_the_model_cannot_have_one():
    sizes = {"mamba_n_heads": 4, "mamba_d_state": 8, "num_local_experts": 2, "shared_intermediate_size": 32}
    config = transformers.GraniteMoeHybridConfig(**SMALL, **sizes, vocab_size=96)
    assert accepted(transformers.GraniteMoeHybridForCausalLM(config)) == {"input_ids": (1, 8), "use_cache": False}


def test_as_wide_as_the_first_layer_wants_it():
    config = transformers.MuseGlimmerVisionConfig(**SMALL)
    from transformers.models.muse_glimmer.modeling_muse_glimmer import MuseGlimmerVisionModel

    assert accepted(MuseGlimmerVisionModel(config))["pixel_values"] == (16, 2 * 3 * 14 * 14)


def test_a_decoder_that_begins_by_itself():
    coder = {**SMALL, "head_dim": 16, "num_key_value_heads": 2}
    cross = {"cross_hidden_size": 32, "cross_num_attention_heads": 2, "cross_num_key_value_heads": 2}
    config = transformers.DiaConfig(encoder_config=coder, decoder_config={**coder, **cross, "cross_head_dim": 16})
    assert accepted(transformers.DiaForConditionalGeneration(config)) == {"input_ids": (1, 8)}


def test_values_have_the_dtype_of_the_model():
    model = transformers.ViTModel(transformers.ViTConfig(**SMALL)).to(torch.bfloat16)
    assert example_inputs(model)[0]["pixel_values"].dtype == torch.bfloat16


def test_a_method_of_its_own():
    vision = {**SMALL, "image_size": 28, "patch_size": 14}
    config = transformers.CLIPConfig(vision_config=vision, text_config={**SMALL, "vocab_size": 96})
    assert accepted(transformers.CLIPModel(config), "get_image_features") == {"pixel_values": (1, 3, 28, 28)}
