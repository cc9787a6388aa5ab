"""Plans from what only PyTorch reads: configurations of transformers, functions of modules, DCP checkpoints."""

import json
import os
import sys
import textwrap

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
dcp = pytest.importorskip("torch.distributed.checkpoint", exc_type=ImportError)
transformers = pytest.importorskip("transformers", reason="needs transformers")
from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402

from fastinit.adapters.torch import deferred, materialize  # noqa: E402
from fastinit.adapters.torch.origins import built_plan, pretrained_plan  # noqa: E402
from fastinit.checkpoints import Origin, plan_of, write  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def llama(folder, **others):
    """A folder with the configuration of a small Llama, and the configuration."""
    config = transformers.LlamaConfig(**SIZES, architectures=["LlamaForCausalLM"], **others)
    config.save_pretrained(folder)
    return config


def planned(folder, **others):
    return pretrained_plan(os.path.join(folder, "config.json"), Origin(str(folder), **others))


def shapes(tensors):
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


# Configurations of transformers


def test_a_folder_with_a_configuration(tmp_path):
    llama(tmp_path / "source")
    write(plan_of(Origin(str(tmp_path / "source"))), tmp_path / "out")
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading.values()), loading
    assert type(model) is transformers.LlamaForCausalLM
    with deferred():
        own = transformers.LlamaForCausalLM(model.config)
    materialize(own, seed=0)
    assert own.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(own.state_dict()[name], value) for name, value in model.state_dict().items())


def test_files_are_copied_as_they_are(tmp_path):
    llama(tmp_path)
    text = '{"eos_token_id": 2, "temperature": 0.5, "note": "é"}\n'
    (tmp_path / "generation_config.json").write_text(text, encoding="utf-8")
    files = planned(tmp_path).files
    assert files["generation_config.json"] == text
    assert json.loads(files["config.json"]) == json.loads((tmp_path / "config.json").read_text())
    assert set(files) == {"config.json", "generation_config.json"}


def test_a_dtype_is_in_the_configuration_too(tmp_path):
    llama(tmp_path, dtype="float32")
    plan = planned(tmp_path, dtype="bfloat16")
    assert {tensor.format.name for tensor in plan} == {"bfloat16"}
    assert json.loads(plan.files["config.json"])["dtype"] == "bfloat16"
    write(plan, tmp_path / "out")
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_a_dtype_is_in_the_configurations_inside_too(tmp_path):
    text, vision = {"dtype": "float32", "torch_dtype": "float32"}, {"dtype": "float16"}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, architectures=["CLIPModel"])
    written = config.to_dict() | {"torch_dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(written))
    found = json.loads(planned(tmp_path, dtype="bfloat16", tiny=True).files["config.json"])
    said = [
        one[name] for one in (found, found["text_config"], found["vision_config"]) for name in one if "dtype" in name
    ]
    assert said and set(said) == {"bfloat16"}


def test_without_architectures_the_type_says_which_model(tmp_path):
    transformers.LlamaConfig(**SIZES).save_pretrained(tmp_path)
    assert "lm_head.weight" in [tensor.name for tensor in planned(tmp_path)]
    transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path)
    assert any(tensor.name.startswith("embeddings.") for tensor in planned(tmp_path))


def test_tied_weights_are_held_once(tmp_path):
    llama(tmp_path / "source", tie_word_embeddings=True)
    plan = planned(tmp_path / "source")
    names = [tensor.name for tensor in plan]
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    write(plan, tmp_path / "out")
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading.values()), loading
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("text", ["[1]", '"llama"', "{", '{"model_type": "nothing of the kind"}'])
def test_what_is_no_configuration(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError):
        planned(tmp_path)


@pytest.mark.parametrize(
    ("kind", "model", "experts"),
    [
        ("MixtralConfig", "MixtralForCausalLM", {"num_local_experts": 3}),
        ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {"num_experts": 3, "moe_intermediate_size": 24}),
    ],
)
def test_experts_are_saved_as_transformers_does(tmp_path, kind, model, experts):
    made = getattr(transformers, model)
    config = getattr(transformers, kind)(**SIZES, **experts, num_experts_per_tok=2, architectures=[model])
    config.save_pretrained(tmp_path / "source")
    with deferred():
        own = made(config)
    materialize(own, seed=5)
    own.save_pretrained(tmp_path / "expected")
    write(planned(tmp_path / "source", seed=5), tmp_path / "out")
    expected, found = (load_file(tmp_path / folder / "model.safetensors") for folder in ("expected", "out"))
    assert shapes(found) == shapes(expected)
    assert sum(".experts." in name for name in found) == 2 * 3 * 3  # layers, experts, matrices
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


# Code beside a configuration

CONFIGURATION = """
from transformers import PreTrainedConfig

open({marker!r}, "w").close()


class OwnConfig(PreTrainedConfig):
    model_type = "own_kind"
    width: int = 8
"""
MODEL = """
from torch import nn
from transformers import PreTrainedModel

from .configuration_own import OwnConfig


class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.up = nn.Linear(config.width, 2 * config.width)
        self.post_init()

    def forward(self, values):
        return self.up(values)
"""


@pytest.fixture
def with_code(tmp_path, monkeypatch):
    """A folder with a configuration and its code, which leaves a file when it runs."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder, marker = tmp_path / "source", tmp_path / "it ran"
    folder.mkdir()
    (folder / "configuration_own.py").write_text(CONFIGURATION.format(marker=str(marker)))
    (folder / "modeling_own.py").write_text(MODEL)
    config = {
        "model_type": "own_kind",
        "architectures": ["OwnModel"],
        "auto_map": {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"},
        "width": 16,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder, marker


def test_code_is_not_run_unasked(with_code):
    folder, marker = with_code
    with pytest.raises(ValueError, match="trust_remote_code"):
        planned(folder)
    assert not marker.exists()


def test_code_is_run_where_it_is_trusted(with_code, tmp_path):
    folder, marker = with_code
    plan = planned(folder, trust_remote_code=True)
    assert marker.exists()
    assert {tensor.name: tensor.shape for tensor in plan} == {"up.weight": (32, 16), "up.bias": (32,)}
    write(plan, tmp_path / "out")
    auto = transformers.AutoModel
    model, loading = auto.from_pretrained(tmp_path / "out", trust_remote_code=True, output_loading_info=True)
    assert not any(loading.values()), loading
    assert model.up.weight.shape == (32, 16)


# Functions of modules


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "builders_of_a_test.py").write_text(
        textwrap.dedent(
            """
            from torch import nn

            def model():
                return nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))

            def nothing():
                return None

            number = 3
            """
        )
    )
    yield "builders_of_a_test"
    sys.modules.pop("builders_of_a_test", None)


def test_a_function_builds_the_model(module, tmp_path):
    plan = plan_of(Origin(f"{module}:model", seed=3, dtype="float16"))
    write(plan, tmp_path / "own.safetensors")
    found = load_file(tmp_path / "own.safetensors")
    with deferred():
        expected = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
    materialize(expected, seed=3, dtype=torch.float16)
    assert shapes(found) == shapes(expected.state_dict())
    assert all(torch.equal(value, found[name]) for name, value in expected.state_dict().items())


@pytest.mark.parametrize(
    ("function", "problem", "words"),
    [
        ("nothing", TypeError, r"builders_of_a_test:nothing must give a torch.nn.Module, got None"),
        ("number", TypeError, "not callable"),
        ("missing", AttributeError, "missing"),
    ],
)
def test_other_functions_are_refused(module, function, problem, words):
    with pytest.raises(problem, match=words):
        built_plan(module, function, Origin(f"{module}:{function}"))


def test_a_missing_module():
    with pytest.raises(ModuleNotFoundError, match="no_such_module_here"):
        built_plan("no_such_module_here", "model", Origin(""))
