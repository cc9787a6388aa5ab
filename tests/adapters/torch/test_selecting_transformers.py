"""Checkpoints that lack keys: what is in the file is loaded, and what lacks gets what the whole model would have.

The files are those of transformers' ``save_pretrained``, with keys taken out.
"""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

from fastinit.adapters.torch import deferred, initialize_, keyed, materialize, verify  # noqa: E402

SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
WORDS = {**SMALL, "vocab_size": 120}
GPT2 = {"vocab_size": 120, "n_positions": 48, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 1}
T5 = {"vocab_size": 120, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4}
TOKENS = torch.arange(10)[None] + 3
IMAGE = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
# the configuration, the class that is saved, the class that is loaded, what is taken out of the file, an input
MODELS = {
    "GPT-2, tied": (
        transformers.GPT2Config(**GPT2, eos_token_id=2),
        *["GPT2LMHeadModel"] * 2,
        ("h.1.mlp", "ln_f"),
        {"input_ids": TOKENS},
    ),
    "GPT-2, without its words, to which the head is tied": (
        transformers.GPT2Config(**GPT2, eos_token_id=2),
        *["GPT2LMHeadModel"] * 2,
        ("wte", "lm_head"),
        {"input_ids": TOKENS},
    ),
    "BERT, with another head": (
        transformers.BertConfig(**WORDS),
        "BertForMaskedLM",
        "BertForSequenceClassification",
        ("layer.1.output", "position_embeddings"),
        {"input_ids": TOKENS},
    ),
    "Llama": (
        transformers.LlamaConfig(**WORDS, num_key_value_heads=2),
        *["LlamaForCausalLM"] * 2,
        ("q_proj", "lm_head", "layers.0.input_layernorm"),
        {"input_ids": TOKENS},
    ),
    "T5": (
        transformers.T5Config(**T5),
        *["T5ForConditionalGeneration"] * 2,
        ("relative_attention_bias", "decoder.block.1"),
        {"input_ids": TOKENS, "decoder_input_ids": TOKENS},
    ),
    "ViT, with another head": (
        transformers.ViTConfig(**SMALL, image_size=16, patch_size=4),
        "ViTForMaskedImageModeling",
        "ViTForImageClassification",
        ("cls_token", "layernorm_after"),
        {"pixel_values": IMAGE},
    ),
}


def materialized(name, configuration, seed):
    with deferred():
        model = getattr(transformers, name)(configuration)
    materialize(model, seed=seed)
    return model.eval()


class Case:
    """A folder with a checkpoint that lacks keys, and the model that it should become."""

    def __init__(self, folder, name):
        self.configuration, saved, self.loaded, lacking, self.batch = MODELS[name]
        self.folder = folder
        torch.manual_seed(0)
        self.model = getattr(transformers, self.loaded)
        source = getattr(transformers, saved)(self.configuration)
        with torch.no_grad():
            for tensor in source.parameters():
                tensor.add_(torch.randn(tensor.shape) * 0.1)
        source.save_pretrained(folder)
        (file,) = folder.glob("*.safetensors")
        there = safetensors.load_file(file)
        for key in [key for key in there if any(part in key for part in lacking)]:
            del there[key]
        safetensors.save_file(there, file, metadata={"format": "pt"})
        self.expected = materialized(self.loaded, self.configuration, 3)
        self.filled = {name: tensor.clone() for name, tensor in self.expected.named_parameters()}
        names = self.expected.state_dict().keys()
        # by the values, each of which is there once: a file's keys may be older names
        self.there = {
            name: tensor
            for name, tensor in source.state_dict().items()
            if name in names and any(torch.equal(tensor, other) for other in there.values())
        }
        self.expected.load_state_dict(self.there, strict=False)
        assert 0 < len(self.there) < len(names)

    def check(self, model, record):
        """Every byte, and what comes out; loaded ones are no entries of the record."""
        given = dict(model.named_parameters())
        assert given.keys() == self.filled.keys()
        lacking = [name for name in given if name not in self.there]
        assert [entry.name for entry in record] == lacking
        for name, tensor in given.items():
            assert not tensor.is_meta, name
            assert torch.equal(tensor, (self.filled if name in lacking else self.there)[name]), name
        found = verify(record, model)
        assert {found[name].verdict for name in lacking} == {"equal"}
        with torch.no_grad():
            assert torch.equal(model.eval()(**self.batch).logits, self.expected(**self.batch).logits)


# a tie, another head and three ties; the others are loaded in the same ways
QUICK = ("GPT-2, without its words, to which the head is tied", "BERT, with another head", "T5")


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.long] * (name not in QUICK)) for name in MODELS])
def case(request, tmp_path):
    return Case(tmp_path, request.param)


def test_a_file_is_loaded_into_a_deferred_model(case):
    with deferred():
        model = case.model(case.configuration)
    model.load_state_dict(case.there, strict=False, assign=True)
    model.tie_weights()  # load_state_dict replaces one of two tied parameters
    case.check(model, materialize(model, seed=3))


def test_what_lacks_is_filled_before_the_rest_is_loaded(case):
    with deferred():
        model = case.model(case.configuration)
    record = materialize(model, seed=3, only=lambda parameter: parameter.name not in case.there)
    model.load_state_dict(case.there, strict=False, assign=True)
    model.tie_weights()
    case.check(model, record)


def test_from_pretrained_inside_deferred(case):
    """transformers' own loading: it puts what the file has into memory, and draws what lacks, which is recorded."""
    with deferred():
        model = case.model.from_pretrained(case.folder)
    lacking = {name for name, tensor in model.named_parameters() if tensor.is_meta}
    assert lacking == case.filled.keys() - case.there.keys()
    case.check(model, materialize(model, seed=3))


def test_keyed_draws_again_what_was_missing(case):
    """A model that was loaded before: transformers' own marks say which parameters its init code is to leave alone."""
    model, said = case.model.from_pretrained(case.folder, output_loading_info=True)
    for name, tensor in model.named_parameters():
        tensor._is_hf_initialized = name not in said["missing_keys"]
    for module in model.modules():
        module._is_hf_initialized = False
    with keyed(model, seed=3) as drawn:
        model.initialize_weights()
    case.check(model, drawn.record)


def test_missing_keys_of_a_model_that_was_loaded_before(case):
    """By the names that from_pretrained reports, and a recipe, since this model was not built inside deferred()."""
    model, said = case.model.from_pretrained(case.folder, output_loading_info=True)
    missing = sorted(said["missing_keys"])
    assert set(missing) >= case.filled.keys() - case.there.keys()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    record = initialize_(model, "auto", seed=3, only=missing, unmatched="keep")
    assert {entry.name for entry in record} == case.filled.keys() - case.there.keys()
    changed = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed <= case.filled.keys() - case.there.keys()


def test_another_dtype(tmp_path):
    """What was loaded is converted, and what lacked is drawn in the dtype."""
    case = Case(tmp_path, "Llama")
    with deferred():
        model = case.model.from_pretrained(case.folder, dtype=torch.bfloat16)
    materialize(model, seed=3)
    with deferred():
        whole = case.model(case.configuration)
    materialize(whole, seed=3, dtype=torch.bfloat16)
    for name, tensor in model.named_parameters():
        assert tensor.dtype == torch.bfloat16, name
        expected = case.there[name].bfloat16() if name in case.there else whole.get_parameter(name)
        assert torch.equal(tensor, expected), name
