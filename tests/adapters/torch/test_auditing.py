"""audit(): every planted fault is found under its name, and healthy models are silent."""

import copy
import math

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
from torch import nn  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch import fill_, initialize_  # noqa: E402
from fastinit.adapters.torch.auditing import audit  # noqa: E402


def seeded(number=0):
    return torch.Generator().manual_seed(number)


def inputs(*shape, number=0):
    return torch.randn(shape, generator=seeded(number))


def perceptron(depth=4, width=64, activation=nn.ReLU):
    layers = [layer for _ in range(depth - 1) for layer in (nn.Linear(width, width), activation())]
    model = nn.Sequential(*layers, nn.Linear(width, 64))
    initialize_(model)
    return model


class Convolutions(nn.Module):
    """Ordinary, grouped, depthwise and transposed convolutions, each with a norm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, bias=False)
        self.grouped = nn.Conv2d(32, 32, 3, groups=4)
        self.depthwise = nn.Conv2d(32, 128, 3, groups=32)
        self.norm = nn.BatchNorm2d(128)
        self.transposed = nn.ConvTranspose2d(128, 32, 4, stride=2, groups=2)
        self.head = nn.Linear(32, 10)

    def forward(self, image):
        image = self.grouped(self.stem(image).relu()).relu()
        image = self.norm(self.depthwise(image)).relu_()
        return self.head(self.transposed(image).mean((2, 3)))


def initialized(model):
    initialize_(model)
    return model


# Planted faults


def zeros():
    model = perceptron()
    nn.init.zeros_(model[2].weight)
    return model, "2.weight", "untouched"


def memory_that_nobody_wrote():
    model = perceptron()
    bits = torch.randint(-(2**31), 2**31, (64, 64), dtype=torch.int32, generator=seeded())
    bits &= ~0x40000000  # no NaN, no infinity: many are tiny, as pointers and integers are
    model[2].weight.data.copy_(bits.view(torch.float32))
    return model, "2.weight", "untouched"


def tied_by_mistake():
    model = perceptron()
    model[4].weight = model[2].weight
    return model, "2.weight", "tied"


def one_layer_three_times():
    return nn.ModuleList([nn.TransformerEncoderLayer(32, 4)] * 3), None, "tied"


def copied_layers():
    layer = nn.Linear(64, 64, bias=False)
    return nn.Sequential(layer, nn.Tanh(), copy.deepcopy(layer)), "2.weight", "identical tensors"


class Images(nn.Module):
    """A transposed convolution, with activations and no norm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 96, 3)
        self.up = nn.ConvTranspose2d(96, 21, 24, stride=8)
        self.head = nn.Conv2d(21, 21, 1)

    def forward(self, image):
        return self.head(self.up(self.stem(image).relu()).relu())


def depthwise_with_the_fans_of_all_groups():
    layers = [nn.Conv2d(3, 96, 3), nn.ReLU(), nn.Conv2d(96, 96, 3, groups=96), nn.Dropout(0.1), nn.ReLU()]
    model = initialized(nn.Sequential(*layers, nn.Conv2d(96, 21, 1)))
    nn.init.kaiming_normal_(model[2].weight, mode="fan_out", generator=seeded())
    return model, "2.weight", "scale"


def transposed_without_its_stride():
    model = initialized(Images())
    nn.init.kaiming_normal_(model.up.weight, mode="fan_out", generator=seeded())
    return model, "up.weight", "scale"


def a_shards_fan():
    model = perceptron()
    fill_(model[2].weight, fastinit.Normal(0.0, math.sqrt(2 / (64 / 4))), fastinit.Key(0))
    return model, "2.weight", "scale"


def exchanged_fans():
    model = nn.Sequential(nn.Linear(64, 512), nn.Linear(512, 24), nn.Linear(24, 64))
    initialize_(model)
    fill_(model[1].weight, fastinit.lecun_normal(layout="IO"), fastinit.Key(0))
    return model, "1.weight", "scale"


def naive_normal():
    model = perceptron()
    nn.init.normal_(model[2].weight, generator=seeded())
    return model, "2.weight", "scale"


def not_around_zero():
    model = perceptron()
    nn.init.uniform_(model[2].weight, 0.0, 0.1, generator=seeded())
    return model, "2.weight", "scale"


def constant():
    model = perceptron()
    nn.init.constant_(model[2].weight, 0.1)
    return model, "2.weight", "constant"


def constant_rows():
    model = perceptron()
    model[2].weight.data[3:9] = torch.arange(6.0)[:, None] / 10
    return model, "2.weight", "constant rows"


def identical_rows():
    model = initialized(Convolutions())
    model.transposed.weight.data[:64, 5] = model.transposed.weight.data[:64, 2]  # two units of the first group
    return model, "transposed.weight", "identical rows"


def not_a_number():
    model = perceptron()
    model[2].bias.data[7] = math.nan
    return model, "2.bias", "not finite"


def infinite():
    model = perceptron()
    model[2].weight.data[7, 3] = -math.inf
    return model, "2.weight", "not finite"


FAULTS = [
    zeros, memory_that_nobody_wrote, tied_by_mistake, copied_layers, depthwise_with_the_fans_of_all_groups,
    a_shards_fan, exchanged_fans, naive_normal, not_around_zero, constant, constant_rows, identical_rows, not_a_number,
    infinite,
]  # fmt: skip


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_the_one_thing_that_is_found(plant):
    model, name, kind = plant()
    found = audit(model)
    assert [(finding.name, finding.kind) for finding in found.findings] == [(name, kind)]
    assert not found and not found.ok


def test_one_layer_in_three_places_is_found_for_every_matrix_of_it():
    model, _, kind = one_layer_three_times()
    assert {finding.kind for finding in audit(model).findings} == {kind}
    weights = {"0.self_attn.in_proj_weight", "0.self_attn.out_proj.weight", "0.linear1.weight", "0.linear2.weight"}
    assert weights <= {finding.name for finding in audit(model).findings}


def test_a_wrong_fan_that_nothing_says_the_harm_of_is_noted_without_a_batch_and_found_with_one():
    model, name, kind = transposed_without_its_stride()  # what follows is the code of a forward method
    assert audit(model).ok and [(note.name, note.kind) for note in audit(model).notes] == [(name, kind)]
    found = audit(model, inputs(2, 3, 8, 8))
    assert [(finding.name, finding.kind) for finding in found.findings] == [(name, kind)] and not found.notes
    model, name, kind = depthwise_with_the_fans_of_all_groups()
    assert "without the groups" in audit(model).findings[0].message
    assert [finding.name for finding in audit(model, inputs(2, 3, 8, 8)).findings] == ["2.weight"]
    model[3] = nn.BatchNorm2d(96)
    assert audit(model).ok and audit(model, inputs(2, 3, 8, 8)).ok and not audit(model).notes


def test_zeros_of_ones_own_that_stop_the_signal():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(64, 64))

        def forward(self, given):
            return given @ self.weight

    model = nn.Sequential(nn.Linear(64, 64), Own())
    assert audit(model).ok  # as it may be an adapter
    assert audit(model, inputs(8, 64)).verdict == "vanishing"
    model.append(nn.Linear(64, 64))
    assert audit(model, inputs(8, 64)).verdict == "vanishing"


def test_a_head_of_zeros_is_noted():
    model = perceptron()
    nn.init.zeros_(model[-1].weight)
    found = audit(model, inputs(16, 64))
    assert found.ok and found.verdict == "healthy"
    assert [(note.name, note.kind) for note in found.notes] == [("6.weight", "zero")]
    assert "note: 6.weight: all its elements are 0" in str(found)


def test_the_message_says_which_fans_and_what_mends_it():
    model, *_ = a_shards_fan()
    (finding,) = audit(model).findings
    assert "expected 0.1768 for fan_in 64 and fan_out 64" in finding.message
    assert "fan_in / 4, as of a shard" in finding.message
    assert finding.remedy == (
        "Rule('Linear', '2.weight', VarianceScaling(scale=2.0, distribution='normal', layout='OI...'))"
    )


def test_a_dead_layer():
    model = perceptron()
    nn.init.constant_(model[2].bias, -50.0)
    found = audit(model, inputs(64, 64))
    assert ("2", "dead") in [(finding.name, finding.kind) for finding in found.findings]
    assert next(layer for layer in found.layers if layer.name == "2").dead == 1.0


@pytest.mark.parametrize(("scale", "verdict"), [(1e-5, "vanishing"), (1e5, "exploding")])
def test_the_layer_that_breaks_the_chain_is_named_with_its_remedy(scale, verdict):
    model = perceptron(8)
    with torch.no_grad():
        model[6].weight *= math.sqrt(scale)
    found = audit(model, inputs(64, 64))
    assert found.verdict == verdict
    (broken,) = (finding for finding in found.findings if finding.kind == verdict)
    assert broken.name == "6"
    assert broken.remedy.startswith("Rule('Linear', '6.weight', VarianceScaling(scale=2.0")


def test_gradients_that_vanish_where_activations_do_not():
    model = perceptron(12, activation=nn.Sigmoid)
    found = audit(model, inputs(64, 64))
    assert (found.verdict, found.layers[0].variance > 0.1) == ("vanishing", True)
    assert "gradients" in found.reason


def test_overflow_and_symmetry():
    model = perceptron(6)
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight *= 1e9
    assert audit(model, inputs(8, 64)).verdict == "exploding"
    model = perceptron(5)
    nn.init.constant_(model[4].weight, 0.1)
    found = audit(model, inputs(8, 64))
    assert found.verdict == "symmetric"
    assert ("4", "symmetric") in [(finding.name, finding.kind) for finding in found.findings]


def test_a_record_is_compared():
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 3))
    recipe = fastinit.AUTO.with_rules(fastinit.Rule("Linear", "2.weight", fastinit.Zeros()))
    record = initialize_(model, recipe)
    assert audit(model, record=record).ok and audit(model, record=record.to_json()).ok
    nn.init.kaiming_normal_(model[0].weight, generator=seeded())
    model[1].weight.data[2] = 0.9
    found = audit(model, record=record).findings
    assert [(one.name, one.kind) for one in found] == [("0.weight", "not as recorded"), ("1.weight", "not as recorded")]
    assert "damaged, 64 of 64 elements differ" not in found[0].message and "trained, by" in found[0].message
    model.to(torch.bfloat16)
    initialize_(model.float(), recipe)
    assert audit(model.bfloat16(), record=record).ok  # rounded
    with pytest.raises(ValueError, match="the record lacks the parameter 'weight'"):
        audit(nn.LayerNorm(3), record=record)


# Healthy models


class Classifier(nn.Module):
    """An LSTM over embedded words."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(100, 32, padding_idx=0)
        self.lstm = nn.LSTM(32, 48, num_layers=2, bidirectional=True)
        self.head = nn.Linear(96, 5)

    def forward(self, words):
        return self.head(self.lstm(self.embedding(words))[0][-1])


WORDS = torch.arange(1, 97).reshape(12, 8)
HEALTHY = {
    "MLP": (lambda: nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)), inputs(64, 64)),
    "MLP in bfloat16": (
        lambda: nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64)).bfloat16(),
        inputs(64, 64).bfloat16(),
    ),
    "convolutions": (Convolutions, inputs(4, 3, 14, 14)),
    "LSTM": (Classifier, WORDS),
    "GRU and attention": (lambda: nn.TransformerEncoderLayer(32, 4, activation="gelu"), inputs(9, 8, 32)),
    "bilinear": (lambda: nn.Bilinear(24, 16, 12), (inputs(32, 24), inputs(32, 16))),
}


@pytest.mark.parametrize("recipe", [None, "auto", "torch"])
@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_models_are_silent(name, recipe):
    build, batch = HEALTHY[name]
    torch.manual_seed(1)
    model = build()
    if recipe:
        initialize_(model, recipe)
    found = audit(model, batch)
    assert found.ok, str(found)
    assert found.verdict == "healthy"


TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 120}
TRANSFORMERS = {
    "GPT2LMHeadModel": ("GPT2Config", {"vocab_size": 120, "n_positions": 48, "n_embd": 64, "n_layer": 2, "n_head": 4,
                                       "bos_token_id": 0, "eos_token_id": 0}),
    "LlamaForCausalLM": ("LlamaConfig", {**TINY, "num_key_value_heads": 2}),
    "ViTForImageClassification": ("ViTConfig", {**TINY, "vocab_size": None, "image_size": 16, "patch_size": 4}),
    "T5ForConditionalGeneration": ("T5Config", {"vocab_size": 120, "d_model": 64, "d_kv": 16, "d_ff": 96,
                                                "num_layers": 2, "num_heads": 4}),
    "BertForMaskedLM": ("BertConfig", TINY),
}  # fmt: skip


@pytest.mark.parametrize("ours", [False, True], ids=["theirs", "ours"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_are_silent(name, ours):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    config, options = TRANSFORMERS[name]
    torch.manual_seed(2)
    model = getattr(transformers, name)(getattr(transformers, config)(**options))
    if ours:
        initialize_(model, unmatched="keep")
    batch = {"pixel_values": inputs(4, 3, 16, 16)} if "ViT" in name else {"input_ids": WORDS}
    if "T5" in name:
        batch["decoder_input_ids"] = WORDS
    found = audit(model, batch)
    assert found.ok, str(found)
    assert found.verdict == "healthy"
    assert all(layer.response is not None for layer in found.layers if layer.weight and "pooler" not in layer.name)
