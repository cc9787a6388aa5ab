"""Quantized checkpoints of configurations: transformers and compressed-tensors read them, and give back the values."""

import json

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", minversion="5", reason="needs transformers 5")

from fastinit.adapters.torch import deferred, materialize  # noqa: E402
from fastinit.checkpoints import Origin, Plan, plan_of, read_checkpoint, verify, write  # noqa: E402
from fastinit.cli import main  # noqa: E402

SMALL = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 64,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 96, "qk_rope_head_dim": 32, "qk_nope_head_dim": 32, "v_head_dim": 32}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SMALL, intermediate_size=384),
    "tied": lambda: transformers.Qwen2Config(**SMALL, intermediate_size=256, tie_word_embeddings=True),
    "mixtral": lambda: transformers.MixtralConfig(**SMALL, **EXPERTS, intermediate_size=256),
    "deepseek": lambda: transformers.DeepseekV3Config(
        **{**SMALL, "num_key_value_heads": 4},
        **LATENT,
        intermediate_size=256,
        moe_intermediate_size=128,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
    ),
    "gpt_oss": lambda: transformers.GptOssConfig(**SMALL, **EXPERTS, intermediate_size=64, head_dim=32),
}
TOKENS = torch.arange(16).reshape(2, 8)


@pytest.fixture
def saved(tmp_path):
    """The folder of a configuration's config.json."""

    def save(name):
        CONFIGS[name]().save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


def floats(name):
    """The float32 values of the same stream, by the names that the model has in memory."""
    with deferred():
        model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=torch.float32)
    materialize(model, seed=3)
    return model.state_dict()


def made(folder, scheme, out):
    plan = plan_of(Origin(folder, seed=3, dtype="bfloat16", quantize=scheme))
    write(plan, out)
    return plan


def loaded(out, **options):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        out, dtype=torch.float32, output_loading_info=True, **options
    )
    assert not any(info.values()), info
    return model


def check(found, expected, changed, scheme):
    """Quantized weights are within half a step of the floats, the others are those of bfloat16."""
    assert found.keys() == expected.keys()
    for name, values in found.items():
        error, size = (values - expected[name]).abs(), expected[name].abs()
        if not changed(name):
            assert torch.equal(values, expected[name].bfloat16().float()), name
        elif scheme.startswith("float8"):  # 3 bits of fraction, and steps of 2**-9 below 2**-6
            assert (error <= size * (2.0**-4 + 1e-6) + size.max() * 2 / 448 * 2.0**-10).all(), name
            assert error.any(), name
        else:  # 1 bit of fraction, steps of a half below 1; scales of NVFP4 are rounded to 3 bits of fraction
            assert (error <= (size * 0.25).clamp(min=size.max() / 3 * 0.25) * (1 + 2.0**-4)).all(), name
            assert error.any(), name


@pytest.mark.parametrize("name", ["llama", "tied", "mixtral", "deepseek", "gpt_oss"])
def test_transformers_reads_blocks_of_float8(name, saved, tmp_path):
    made(saved(name), "float8_block", tmp_path / "out")
    model = loaded(tmp_path / "out")

    def changed(weight):
        is_expert = "experts.gate_up_proj" in weight or "experts.down_proj" in weight
        return (weight.endswith("proj.weight") or "proj_with_mqa" in weight or is_expert) and not (
            is_expert and name == "gpt_oss"
        )

    check(model.state_dict(), floats(name), changed, "float8_block")
    assert model(TOKENS).logits.isfinite().all()
    assert verify(tmp_path / "out").is_sound


def test_transformers_reads_mxfp4_of_gpt_oss(saved, tmp_path):
    plan = made(saved("gpt_oss"), "mxfp4", tmp_path / "out")
    names = {tensor.name: tensor.shape for tensor in plan}
    assert names["model.layers.0.mlp.experts.gate_up_proj_blocks"] == (4, 128, 4, 16)
    assert names["model.layers.0.mlp.experts.gate_up_proj_scales"] == (4, 128, 4)
    model = loaded(tmp_path / "out")
    expected = floats("gpt_oss")

    def changed(weight):
        return weight.endswith(("experts.gate_up_proj", "experts.down_proj"))

    check(model.state_dict(), expected, changed, "mxfp4")
    assert model(TOKENS).logits.isfinite().all()
    # its own function, on what safetensors reads
    from safetensors.torch import load_file
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    stored = load_file(tmp_path / "out" / "model.safetensors")
    name = "model.layers.1.mlp.experts.down_proj"
    values = convert_moe_packed_tensors(stored[f"{name}_blocks"], stored[f"{name}_scales"], dtype=torch.float32)
    check({name: values}, {name: expected[name]}, changed, "mxfp4")


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")
@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        *((name, "float8_tensor") for name in ("llama", "mixtral", "gpt_oss")),
        *((name, "mxfp4") for name in ("llama", "mixtral")),
        ("llama", "nvfp4"),
    ],
)
def test_compressed_tensors_reads_the_rest(name, scheme, saved, tmp_path):
    pytest.importorskip("compressed_tensors", reason="needs compressed-tensors")
    plan = made(saved(name), scheme, tmp_path / "out")
    # NVFP4 has one scale of float8 for 16 elements
    assert {tensor.format.name for tensor in plan if tensor.name.endswith("weight_scale")} == {
        {"float8_tensor": "float32", "mxfp4": "uint8", "nvfp4": "float8_e4m3fn"}[scheme]
    }
    model = loaded(tmp_path / "out", quantization_config=transformers.CompressedTensorsConfig(dequantize=True))

    def changed(weight):
        return weight.endswith("proj.weight") or (".experts." in weight and name == "mixtral")

    check(model.state_dict(), floats(name), changed, scheme)


@pytest.mark.parametrize("scheme", ["float8_block", "float8_tensor", "mxfp4", "nvfp4"])
def test_what_is_quantized_is_told_by_structure(scheme, saved):
    origin = Origin(saved("deepseek"), quantize=scheme)
    plan = plan_of(origin)
    quantized = {tensor.source.entry.name for tensor in plan if tensor.source.KIND == "quantized"}
    with deferred():
        model = transformers.AutoModelForCausalLM.from_config(CONFIGS["deepseek"]())
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    experts = {
        name for name, _ in model.named_parameters() if name.endswith(("experts.gate_up_proj", "experts.down_proj"))
    }
    assert quantized == (linear | experts) - {"lm_head.weight"}
    config = json.loads(plan.files["config.json"])["quantization_config"]
    kept = config["modules_to_not_convert" if scheme == "float8_block" else "ignore"]
    assert kept == ["lm_head", "model.layers.1.mlp.gate"]
    assert origin.notes and origin.notes[0].startswith(f"quantized as {scheme}: {len(linear) - 1 + 8 * 3} of ")
    assert Plan.from_json(plan.to_json()) == plan


def test_weights_that_do_not_suit_are_kept_and_said(tmp_path):
    transformers.LlamaConfig(**{**SMALL, "hidden_size": 80}, intermediate_size=64).save_pretrained(tmp_path)
    origin = Origin(str(tmp_path), quantize="mxfp4")
    plan = plan_of(origin)
    assert {tensor.name for tensor in plan if tensor.source.KIND == "quantized"} == {
        f"model.layers.{layer}.mlp.down_proj.weight{part}" for layer in (0, 1) for part in ("_packed", "_scale")
    }
    assert origin.notes[1].startswith("not quantized: ") and "multiples of the 32 elements" in origin.notes[1]
    kept = json.loads(plan.files["config.json"])["quantization_config"]["ignore"]
    assert "model.layers.0.mlp.up_proj" in kept and "model.layers.0.mlp.down_proj" not in kept


def test_blocks_that_transformers_takes_for_others_are_said(tmp_path):
    transformers.LlamaConfig(**SMALL, intermediate_size=192).save_pretrained(tmp_path)
    origin = Origin(str(tmp_path), quantize="float8_block")
    plan = plan_of(origin)
    assert {tensor.name: tensor.shape for tensor in plan}["model.layers.0.mlp.up_proj.weight_scale_inv"] == (2, 1)
    assert origin.notes[1].startswith("6 tensors have sides beyond 128")
    transformers.LlamaConfig(**SMALL, intermediate_size=64).save_pretrained(tmp_path)
    origin = Origin(str(tmp_path), quantize="float8_block")
    plan_of(origin)
    assert len(origin.notes) == 1


def test_the_floats_do_not_depend_on_the_checkpoint_s_dtype(saved, tmp_path):
    folder = saved("llama")
    plans = [plan_of(Origin(folder, dtype=dtype, quantize="nvfp4")) for dtype in ("bfloat16", "float32")]
    sources = [[tensor.source for tensor in plan if tensor.source.KIND == "quantized"] for plan in plans]
    assert sources[0] == sources[1] and sources[0]


def test_the_command(saved, tmp_path, capsys):
    folder, out = saved("mixtral"), tmp_path / "out"
    assert main(["checkpoint", folder, str(out), "--quantize", "float8_block", "--dtype", "bfloat16"]) == 0
    assert "quantized as float8_block: " in capsys.readouterr().out
    assert main(["verify", str(out)]) == 0
    stored = read_checkpoint(out)
    name = "model.layers.0.block_sparse_moe.experts.3.w2.weight"
    assert stored[name].format.tag == "F8_E4M3" and stored[f"{name}_scale_inv"].shape == (1, 2)
    # a configuration of quantized weights is read again, and says so where its weights are not
    assert main(["checkpoint", str(out / "config.json"), str(tmp_path / "plain")]) == 0
    assert "quantization_config is left out" in capsys.readouterr().out
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())


def test_bad_input(saved, tmp_path):
    with pytest.raises(ValueError, match=r"quantize must be one of float8_block, .* got 'int4'"):
        plan_of(Origin(saved("llama"), quantize="int4"))
    plan = tmp_path / "plan.json"
    Plan(()).save(plan)
    with pytest.raises(ValueError, match=r"only the model of a config\.json can be quantized"):
        plan_of(Origin(str(plan), quantize="mxfp4"))
    transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ValueError, match=r"no weight of GPT2.* can be quantized as mxfp4"):
        plan_of(Origin(str(tmp_path / "gpt2"), quantize="mxfp4"))
