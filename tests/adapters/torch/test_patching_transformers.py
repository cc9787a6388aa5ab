"""patched() and transformers, which has torch's functions in a table, and puts its own in their place as it loads."""

import contextlib
import math

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
transformers = pytest.importorskip("transformers", reason="needs transformers")
from scipy import stats  # noqa: E402
from torch import nn  # noqa: E402
from transformers import initialization  # noqa: E402

from fastinit.adapters.torch import init  # noqa: E402
from fastinit.adapters.torch.patching import patched  # noqa: E402

SMALL = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS = {
    "GPT-2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=120, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    ),
    "Llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SMALL, intermediate_size=48, num_key_value_heads=2, max_position_embeddings=64)
    ),
    "ViT": lambda: transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            image_size=16,
            patch_size=4,
        )
    ),
    "T5": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=120, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    ),
    "BERT": lambda: transformers.BertForMaskedLM(
        transformers.BertConfig(**SMALL, intermediate_size=48, max_position_embeddings=64)
    ),
}


def built(factory, *contexts, seed=11):
    with contextlib.ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context())
        torch.manual_seed(seed)
        return factory()


def equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@contextlib.contextmanager
def in_the_table():
    """fastinit's functions in the table that transformers calls them from, which is none of patched()'s business."""
    table = initialization.TORCH_INIT_FUNCTIONS
    before = dict(table)
    table.update({name: getattr(init, name) for name in table})
    try:
        yield
    finally:
        table.update(before)


def numbers(fill):
    tensor = torch.zeros(40)
    fill(tensor, generator=torch.Generator().manual_seed(5))
    return tensor.tolist()


TORCHS, OURS = numbers(torch.Tensor.normal_), numbers(init.normal_)


@pytest.fixture(autouse=True)
def nothing_is_left():
    def state():
        functions = {name: (getattr(nn.init, name), getattr(nn.init, name).__code__) for name in table}
        return functions, nn.modules.activation.xavier_uniform_, nn.modules.transformer.xavier_uniform_

    table = dict(initialization.TORCH_INIT_FUNCTIONS)
    before = state()
    yield
    assert table == initialization.TORCH_INIT_FUNCTIONS
    assert state() == before
    assert numbers(nn.init.normal_) == numbers(initialization.normal_) == TORCHS


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    ours, torchs = built(MODELS[name], patched), built(MODELS[name])
    assert str(ours) == str(torchs)
    assert equal(ours, built(MODELS[name], patched))
    assert ours.state_dict().keys() == torchs.state_dict().keys()
    random = 0
    for key, expected in torchs.state_dict(keep_vars=True).items():
        value = ours.state_dict(keep_vars=True)[key]
        assert (value.shape, value.dtype, value.requires_grad) == (
            expected.shape,
            expected.dtype,
            expected.requires_grad,
        ), key
        if expected.unique().numel() == 1 or not expected.requires_grad:
            assert torch.equal(value, expected), key
            continue
        assert not torch.equal(value, expected), key
        values, theirs = (x.detach().double().flatten().numpy() for x in (value, expected))
        assert stats.ks_2samp(values, theirs).pvalue > 1e-4, key
        assert abs(values.std() / theirs.std() - 1) < 6 / math.sqrt(values.size), key
        random += 1
    assert random > 5


@pytest.mark.parametrize("name", MODELS)
def test_the_numbers_are_fastinits(name):
    """All that transformers draws again after the constructors: the same as with its table changed by hand."""
    ours, theirs = built(MODELS[name], patched), built(MODELS[name], patched, in_the_table)
    assert equal(ours, theirs)
    assert not equal(ours, built(MODELS[name]))


@pytest.mark.parametrize("first", ["patched", "guard"])
@pytest.mark.parametrize("leaves_first", ["patched", "guard"])
def test_transformers_guard_in_every_order(first, leaves_first):
    contexts = {"patched": patched(), "guard": initialization.guard_torch_init_functions()}
    second = "guard" if first == "patched" else "patched"
    contexts[first].__enter__()
    contexts[second].__enter__()
    assert numbers(nn.init.normal_) == OURS
    assert nn.init.normal_ is initialization.normal_
    done = torch.zeros(40)
    done._is_hf_initialized = True
    for fill in (nn.init.normal_, nn.init.ones_, nn.init.xavier_uniform_, initialization.kaiming_normal_):
        assert not fill(done).any()
    contexts.pop(leaves_first).__exit__(None, None, None)
    assert numbers(nn.init.normal_) == (TORCHS if leaves_first == "patched" else OURS)
    contexts.popitem()[1].__exit__(None, None, None)


@pytest.mark.parametrize("first", ["patched", "none"])
def test_no_init_weights_in_both_orders(first):
    contexts = [patched, initialization.no_init_weights]
    if first == "none":
        contexts.reverse()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model = built(MODELS["Llama"], *contexts, seed=0)
    assert isinstance(model, transformers.LlamaForCausalLM)
    assert torch.equal(torch.get_rng_state(), before)  # nothing was drawn


def test_loading_draws_only_what_is_missing(tmp_path):
    """from_pretrained builds on the meta device, loads, and initializes what the files lack, under its own guard."""
    base = built(MODELS["GPT-2"]).transformer
    base.save_pretrained(tmp_path)

    def load():
        return transformers.GPT2ForSequenceClassification.from_pretrained(tmp_path, num_labels=7)

    ours, again, torchs = built(load, patched), built(load, patched), built(load)
    assert equal(ours, again)
    assert equal(ours.transformer, base) and equal(torchs.transformer, base)
    assert ours.score.weight.shape == (7, 32)
    assert not torch.equal(ours.score.weight, torchs.score.weight)
    assert abs(ours.score.weight.std().item() / 0.02 - 1) < 6 / math.sqrt(7 * 32)
