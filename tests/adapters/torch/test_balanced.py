"""Balanced experts: in a forward pass of random tokens each expert of each layer gets about as many."""

import json

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", minversion="5", reason="needs transformers 5")

import fastinit  # noqa: E402
from fastinit.adapters.torch import deferred  # noqa: E402
from fastinit.adapters.torch.experts import mixtures  # noqa: E402
from fastinit.checkpoints import Origin, Plan, plan_of, verify, write  # noqa: E402
from fastinit.cli import main  # noqa: E402

WIDTH, EXPERTS, LAYERS = 256, 16, 6
SMALL = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 512,
    "max_position_embeddings": 256,
    "num_experts_per_tok": 2,
}
CONFIGS = {
    "mixtral": lambda: transformers.MixtralConfig(**SMALL, num_local_experts=EXPERTS, intermediate_size=WIDTH),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **SMALL, num_experts=EXPERTS, moe_intermediate_size=128, intermediate_size=WIDTH, head_dim=64
    ),
    "deepseek_v3": lambda: transformers.DeepseekV3Config(
        **SMALL,
        n_routed_experts=EXPERTS,
        moe_intermediate_size=128,
        intermediate_size=WIDTH,
        n_group=4,
        topk_group=2,
        first_k_dense_replace=1,
        q_lora_rank=128,
        kv_lora_rank=128,
        qk_rope_head_dim=32,
        qk_nope_head_dim=32,
        v_head_dim=64,
    ),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **SMALL, num_local_experts=EXPERTS, intermediate_size=128, head_dim=64
    ),
}


def loads(plan, out):
    """How many of the tokens each expert gets, as multiples of an even share: layers, experts."""
    write(plan, out)
    assert verify(out).is_sound
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    counts = []
    for mixture in mixtures(model):

        def count(module, inputs, output):
            # transformers' routers give logits, weights and indices
            counts.append(torch.bincount(output[2].flatten(), minlength=EXPERTS).double())

        mixture.router.register_forward_hook(count)
    tokens = torch.randint(0, 512, (8, 128), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        assert model(tokens).logits.isfinite().all()
    found = torch.stack(counts)
    assert (found.sum(1) == 2 * 8 * 128).all()
    return found / found.mean(1, keepdim=True)


# the other two have no bias, as deepseek_v3, and all layers alike, as gpt_oss
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name in ("mixtral", "qwen3_moe"))) for name in CONFIGS]
)
def test_the_load_of_each_expert_is_within_twice_of_even(name, tmp_path):
    folder = str(tmp_path / name)
    CONFIGS[name]().save_pretrained(folder)
    found = loads(plan_of(Origin(folder, balanced_experts=True)), tmp_path / "balanced")
    assert len(found) == LAYERS - (name == "deepseek_v3")
    assert found.min() > 0.5 and found.max() < 2
    own = loads(plan_of(Origin(folder)), tmp_path / "own")
    if name == "deepseek_v3":  # its narrow projections add little to a token's own embedding
        assert own.max() > found.max()
    else:
        assert own.min() < 0.1 and own.max() > 2.5


def test_what_changes_is_in_the_plan_and_said(tmp_path):
    CONFIGS["gpt_oss"]().save_pretrained(tmp_path)
    origin = Origin(str(tmp_path), dtype="bfloat16", seed=4, balanced_experts=True)
    plan, own = plan_of(origin), plan_of(Origin(str(tmp_path), dtype="bfloat16", seed=4))
    changed = {
        after.name: (before, after) for before, after in zip(own.record, plan.record, strict=True) if after != before
    }
    routers = {f"model.layers.{layer}.mlp.router" for layer in range(LAYERS)}
    embedding = "model.embed_tokens.weight"
    assert changed.keys() == {f"{name}.{role}" for name in routers for role in ("weight", "bias")} | {embedding}
    for name, (before, after) in changed.items():
        assert after.key == before.key and after.rule == "balanced experts"
        if name.endswith("bias"):
            assert after.initializer == fastinit.Zeros()
        elif name != embedding:
            assert after.initializer == fastinit.Orthogonal(0.02 * WIDTH**0.5, column_axis=0)
    assert fastinit.expected_std(changed[embedding][1].initializer, (512, WIDTH)) > 0.5
    assert origin.notes[0] == f"balanced experts: {LAYERS} routers have orthogonal rows of equal length and no bias"
    assert "model.embed_tokens.weight has the std 1 instead of 0.02" in origin.notes[1]
    assert Plan.from_json(plan.to_json()) == plan


def test_the_padding_row_of_an_embedding_stays_zero(tmp_path):
    transformers.MixtralConfig(**SMALL, num_local_experts=4, intermediate_size=WIDTH, pad_token_id=7).save_pretrained(
        tmp_path
    )
    write(plan_of(Origin(str(tmp_path), balanced_experts=True)), tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    rows = model.get_input_embeddings().weight
    assert not rows[7].any() and rows[8].std() > 0.3


def test_the_command_and_both_choices_together(tmp_path, capsys):
    CONFIGS["qwen3_moe"]().save_pretrained(tmp_path / "source")
    arguments = ["checkpoint", str(tmp_path / "source"), str(tmp_path / "out"), "--balanced-experts"]
    assert main([*arguments, "--quantize", "float8_block"]) == 0
    out = capsys.readouterr().out
    assert "balanced experts: 6 routers" in out and "quantized as float8_block" in out
    assert main(["verify", str(tmp_path / "out")]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert "model.layers.2.mlp.gate" in config["modules_to_not_convert"]


def test_a_model_without_experts_is_refused(tmp_path):
    transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=64
    ).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the model has no mixture of experts"):
        plan_of(Origin(str(tmp_path), balanced_experts=True))
    with pytest.raises(ValueError, match=r"only the model of a config\.json"):
        plan_of(Origin("model:build", balanced_experts=True))


def test_mixtures_are_known_by_their_structure():
    with deferred():
        model = transformers.AutoModelForCausalLM.from_config(CONFIGS["deepseek_v3"]())
    found = mixtures(model)
    layers = model.model.layers[1:]
    assert [one.weight for one in found] == [layer.mlp.gate.weight for layer in layers]
    assert all(one.packed == tuple(layer.mlp.experts.parameters()) for one, layer in zip(found, layers, strict=True))
    assert not any(one.is_transposed for one in found) and all(one.bias is None for one in found)
    with deferred():
        model = transformers.AutoModelForCausalLM.from_config(CONFIGS["gpt_oss"]())
    found = mixtures(model)
    assert [one.bias for one in found] == [layer.mlp.router.bias for layer in model.model.layers]
    assert all(one.is_transposed and len(one.packed) == 2 for one in found)


def test_what_only_looks_like_experts_is_none():
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv1d(4, 4, 3)
            self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(4))
            self.positions = torch.nn.Embedding(4, 8)

    assert mixtures(Block()) == []
    block = Block()
    block.gate = torch.nn.Linear(8, 4)
    assert [one.weight for one in mixtures(block)] == [block.gate.weight]
