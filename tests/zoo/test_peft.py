"""PEFT: adapters that begin as nothing, on a base that has memory and on one that has none."""

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
peft = pytest.importorskip("peft", reason="needs peft")
transformers = pytest.importorskip("transformers", reason="needs transformers")
from comparing import differences, seeded  # noqa: E402

from fastinit.adapters.torch import deferred, materialize  # noqa: E402


def base():
    configuration = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=120,
    )
    return transformers.LlamaForCausalLM(configuration)


ADAPTERS = {
    "LoRA": lambda: peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
    "LoRA, gaussian": lambda: peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="gaussian"),
    "LoRA on embeddings": lambda: peft.LoraConfig(r=4, target_modules=["embed_tokens"]),
    "VeRA": lambda: peft.VeraConfig(r=4, target_modules=["q_proj", "o_proj"]),
    "IA3": lambda: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LoHa": lambda: peft.LoHaConfig(r=4, target_modules=["q_proj"]),
    "AdaLoRA": lambda: peft.AdaLoraConfig(target_modules=["q_proj"], init_r=4, total_step=10),
}


def adapted(name, **options):
    return peft.get_peft_model(base(), ADAPTERS[name](), **options)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_model_with_adapters_is_its_authors(name, own):
    authors = [seeded(lambda: adapted(name), seed) for seed in (1, 2, 3)]
    models = [own(lambda: adapted(name), seed) for seed in (0, 1)]
    assert list(map(str, differences(authors, models))) == []


def test_adapters_on_a_base_that_has_memory(own):
    """The base keeps its values; LoRA's B is zero, so that the whole computes what the base does."""
    model = seeded(base, 1)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    tokens = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        expected = model.eval()(tokens).logits
    with deferred():
        model = peft.get_peft_model(model, ADAPTERS["LoRA"](), low_cpu_mem_usage=False)
    record = materialize(model, seed=0)
    assert {entry.name.rpartition(".lora_")[1] for entry in record} == {".lora_"}
    for name, tensor in model.named_parameters():
        assert not tensor.is_meta, name
        if "lora_B" in name:
            assert not tensor.any(), name
        elif "lora_A" in name:
            assert tensor.std() > 0.01, name
        else:
            assert torch.equal(tensor, before[name.removeprefix("base_model.model.").replace(".base_layer", "")]), name
    with torch.no_grad():
        assert torch.equal(model.eval()(tokens).logits, expected)


def test_adapters_that_peft_puts_on_the_meta_device(own):
    """low_cpu_mem_usage is for adapters that are loaded next: nothing is drawn into them unless they are deferred."""
    model = own(lambda: adapted("LoRA", low_cpu_mem_usage=True), 0)
    for name, tensor in model.named_parameters():
        if "lora_B" in name:
            assert not tensor.is_meta and not tensor.any(), name
        elif "lora_A" in name:
            assert not tensor.is_meta and tensor.std() > 0.01, name
