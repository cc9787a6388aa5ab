"""Small configurations: what rules change and keep. ``tests/zoo/test_tiny.py`` has them for models of transformers."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="needs transformers")
from torch import nn  # noqa: E402

from fastinit.adapters.torch.tiny import tiny_config  # noqa: E402


def tiny(config, kind):
    return tiny_config(config, getattr(transformers, kind)._from_config)


def test_a_large_language_model():
    config = transformers.LlamaConfig(
        hidden_size=8192, num_attention_heads=64, num_key_value_heads=8, intermediate_size=28672, num_hidden_layers=80
    )
    before = config.to_dict()
    found, notes = tiny(config, "LlamaForCausalLM")
    assert config.to_dict() == before
    assert (found.num_hidden_layers, found.vocab_size, found.hidden_size) == (2, 512, 32)
    assert found.hidden_size == found.num_attention_heads * found.head_dim
    assert found.num_attention_heads % found.num_key_value_heads == 0 and found.head_dim % 2 == 0
    assert "num_hidden_layers: 80 -> 2" in notes and "hidden_size: 8192 -> 32" in notes
    again, others = tiny(config, "LlamaForCausalLM")
    assert again.to_dict() == found.to_dict() and others == notes


def test_what_is_tiny_stays_as_it_is():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(vocab_size=96, **sizes)
    found, notes = tiny(config, "LlamaForCausalLM")
    assert notes == []
    assert found.to_diff_dict() == config.to_diff_dict()


@pytest.mark.parametrize(("token", "rows"), [(2, 512), (511, 512), (512, 32000), (31999, 32000)])
def test_a_vocabulary_keeps_its_special_tokens(token, rows):
    found, _ = tiny(transformers.LlamaConfig(num_hidden_layers=3, pad_token_id=token), "LlamaForCausalLM")
    assert (found.vocab_size, found.pad_token_id) == (rows, token)


def test_one_layer_of_each_kind_is_kept():
    kinds = ["sliding_attention"] * 5 + ["full_attention"] + ["sliding_attention"] * 3
    config = transformers.Gemma3TextConfig(num_hidden_layers=9, layer_types=kinds)
    found, _ = tiny(config, "Gemma3ForCausalLM")
    assert found.layer_types == ["sliding_attention", "full_attention"]
    assert found.num_hidden_layers == 2


def test_experts_and_their_groups():
    found, _ = tiny(transformers.DeepseekV3Config(num_hidden_layers=5), "DeepseekV3ForCausalLM")
    assert (found.n_routed_experts, found.num_experts_per_tok, found.n_group, found.topk_group) == (4, 2, 2, 1)
    model = transformers.DeepseekV3ForCausalLM(found)
    assert sum(".experts." in name for name, _ in model.named_parameters()) > 0  # a layer of the sparse kind is left


def test_layers_before_and_behind_a_bound_are_kept():
    found, _ = tiny(
        transformers.DeepseekV3Config(num_hidden_layers=61, first_k_dense_replace=3), "DeepseekV3ForCausalLM"
    )
    assert (found.num_hidden_layers, found.first_k_dense_replace) == (2, 1)


def test_a_list_of_the_numbers_of_layers_is_not_a_kind_for_each():
    config = transformers.Llama4TextConfig(num_hidden_layers=12, interleave_moe_layer_step=1)
    assert config.moe_layers == list(range(12))
    found, _ = tiny(config, "Llama4ForCausalLM")
    assert found.num_hidden_layers == len(found.moe_layers) < 5


def test_stages_that_all_differ_have_few_layers():
    found, _ = tiny(transformers.SwinConfig(depths=[2, 2, 18, 2]), "SwinForImageClassification")
    assert found.depths == [1, 1, 1, 1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_experts_run_as_grouped_products(dtype):
    config = transformers.Qwen3MoeConfig(num_hidden_layers=2, moe_intermediate_size=1408, dtype=dtype)
    found, _ = tiny(config, "Qwen3MoeForCausalLM")
    assert found.moe_intermediate_size % 8 == 0 and found.moe_intermediate_size < 64
    model = transformers.Qwen3MoeForCausalLM._from_config(found)
    assert model(torch.arange(3, 8)[None]).logits.isfinite().all()


def test_heads_whose_number_does_not_divide_the_width():
    sizes = {"hidden_size": 4096, "num_attention_heads": 96, "num_key_value_heads": 8}
    found, _ = tiny(transformers.Glm4MoeConfig(num_hidden_layers=3, **sizes), "Glm4MoeForCausalLM")
    assert found.hidden_size == 32 and found.num_attention_heads < 96


def test_heads_of_a_width_of_their_own():
    sizes = {"hidden_size": 2880, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64}
    found, _ = tiny(transformers.LlamaConfig(num_hidden_layers=2, **sizes), "LlamaForCausalLM")
    assert (found.hidden_size, found.head_dim) == (32, 16) and found.num_attention_heads < 8


def test_few_heads_where_they_may_not_become_narrow():
    config = transformers.Ernie4_5_VLMoeConfig()
    assert (config.text_config.hidden_size, config.text_config.num_attention_heads) == (2560, 20)
    found, _ = tiny(config, "Ernie4_5_VLMoeForConditionalGeneration")
    text = found.text_config  # its rotary embeddings have 64 frequencies, whatever a head's width
    assert (text.hidden_size, text.num_attention_heads) == (128, 1)


def test_the_width_within_a_feedforward_layer_is_not_the_main_one():
    config = transformers.FalconConfig(hidden_size=4096, num_attention_heads=64, ffn_hidden_size=16384)
    found, _ = tiny(config, "FalconForCausalLM")
    assert (found.hidden_size, found.ffn_hidden_size) == (32, 128)


def test_images_still_pass_where_text_alone_runs():
    vision = {"hidden_size": 1152, "image_size": 224, "patch_size": 14, "num_attention_heads": 16}
    sizes = {"text_config": {"num_hidden_layers": 2}, "vision_config": {**vision, "num_hidden_layers": 2}}
    config = transformers.Gemma3Config(mm_tokens_per_image=64, **sizes)
    found, _ = tiny(config, "Gemma3ForConditionalGeneration")
    model = transformers.Gemma3ForConditionalGeneration(found).eval()
    side = found.vision_config.image_size
    with torch.no_grad():
        assert model.get_image_features(torch.zeros(1, 3, side, side)).pooler_output.isfinite().all()


def test_widths_of_towers_agree():
    config = transformers.LlavaConfig()
    found, _ = tiny(config, "LlavaForConditionalGeneration")
    vision, text = found.vision_config, found.text_config
    assert config.text_config.hidden_size / text.hidden_size == config.vision_config.hidden_size / vision.hidden_size
    assert vision.image_size % vision.patch_size == 0 and vision.image_size < config.vision_config.image_size
    assert found.image_seq_length == (vision.image_size // vision.patch_size) ** 2
    assert text.vocab_size == config.text_config.vocab_size  # its number for images is the first behind them


def test_a_configuration_that_builds_no_model():
    config = transformers.LlamaConfig(num_hidden_layers=2)
    config.hidden_act = "no such function"
    with pytest.raises(ValueError, match=r"LlamaConfig does not build: .*no such function"):
        tiny(config, "LlamaForCausalLM")


class Foreign(transformers.PreTrainedConfig):
    """A configuration with a word for its width that no rule knows."""

    model_type = "foreign_of_a_test"
    breadth: int = 8000
    num_hidden_layers: int = 5


class Wide(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(config.breadth, config.breadth) for _ in range(config.num_hidden_layers))


def test_what_stays_large_is_refused():
    with pytest.raises(ValueError, match=r"no rule makes Foreign small: .* 128,016,000 parameters"):
        tiny_config(Foreign(), Wide)
    found, notes = tiny_config(Foreign(breadth=800), Wide)
    assert (found.breadth, notes) == (800, ["num_hidden_layers: 5 -> 2"])
