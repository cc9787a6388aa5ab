"""Checkpoints of configurations of diffusers: its own loader reads every tensor. Those of timm are in tests/zoo."""

import json
import sys

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from fastinit import cli  # noqa: E402
from fastinit.adapters.torch import deferred, materialize  # noqa: E402
from fastinit.adapters.torch.configurations import library_of, model_of  # noqa: E402
from fastinit.checkpoints import Plan, verify  # noqa: E402

UNET = {
    **{"_class_name": "UNet2DModel", "_diffusers_version": "0.30.0", "sample_size": 8, "layers_per_block": 1},
    **{"block_out_channels": [32, 32], "norm_num_groups": 8},
    **{"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]},
}


def run(*arguments):
    return cli.main(["checkpoint", *map(str, arguments)])


def folder_of(configuration, folder):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(configuration))
    return folder


def own(configuration, folder, library, **options):
    """The state dict that the same model has after materialize()."""
    with deferred():
        model = model_of(configuration, str(folder), library)
    materialize(model, **options)
    return model.state_dict()


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@pytest.mark.parametrize("sharded", [False, True])
def test_diffusers_reads_every_tensor(sharded, tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers")
    source, out = folder_of(UNET, tmp_path / "unet"), tmp_path / "out"
    assert run(source, out, "--seed", 7, *(["--shard-size", "200kB"] if sharded else [])) == 0
    names = sorted(path.name for path in out.iterdir())
    assert all(name == "config.json" or name.startswith("diffusion_pytorch_model") for name in names)
    assert ("diffusion_pytorch_model.safetensors.index.json" in names) == sharded == (len(names) > 2)
    assert (out / "config.json").read_text() == json.dumps(UNET)
    model, info = diffusers.UNet2DModel.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert_equal(model.state_dict(), own(UNET, source, "diffusers", seed=7))
    model.save_pretrained(tmp_path / "theirs")
    assert {path.name for path in (tmp_path / "theirs").iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    assert verify(out).is_sound


@pytest.mark.parametrize("option", [["--tiny"], ["--balanced-experts"], ["--quantize", "mxfp4"]])
def test_choices_of_transformers_alone_are_refused(option, tmp_path, capsys):
    assert run(folder_of(UNET, tmp_path / "unet"), tmp_path / "out", *option) == 2
    assert "only models of transformers can be shrunk, quantized or balanced" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["DDPMScheduler", "nothing", "__doc__", 3, "StableDiffusionPipeline"])
def test_what_is_no_model_of_diffusers_is_refused(name, tmp_path, capsys):
    pytest.importorskip("diffusers", reason="needs diffusers")
    assert run(folder_of({"_class_name": name}, tmp_path / "other"), tmp_path / "out") == 2
    assert f"diffusers has no model {name!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("library", "configuration"),
    [
        ("diffusers", UNET | {"block_out_channels": 3}),
        ("diffusers", UNET | {"down_block_types": ["nothing"]}),
        ("transformers", {"model_type": "gpt2", "n_embd": "wide"}),
        ("transformers", {"model_type": "gpt2", "n_embd": 10, "n_head": 3}),
        ("transformers", {"model_type": "nothing"}),
    ],
)
def test_errors_of_a_library_name_the_configuration(library, configuration, tmp_path, capsys):
    pytest.importorskip(library, reason=f"needs {library}")
    folder = folder_of(configuration, tmp_path / "broken")
    assert run(folder, tmp_path / "out") == 2
    assert f"{library} cannot build the model of {folder}/config.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


READS = """
import torch

def model():
    made = torch.nn.Linear(4, 4)
    if made.weight.sum() > 0:
        return made
"""


def test_a_function_that_cannot_be_deferred(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "reads_a_value.py").write_text(READS)
    assert run("reads_a_value:model", "out") == 2
    assert "reads_a_value:model cannot be deferred" in capsys.readouterr().err


def test_libraries_are_told_by_what_they_write():
    assert library_of({"model_type": "gpt2", "architecture": "x"}) == "transformers"
    assert library_of({"model_type": "bert", "_class_name": "BertModel"}) == "transformers"
    assert library_of({}) == "transformers"


@pytest.mark.parametrize("stem", ["", "a/b", "..", "model.bin", "é"])
def test_a_stem_is_a_plain_name(stem):
    with pytest.raises(ValueError, match="stem of a plan"):
        Plan((), stem=stem)


def test_a_stem_survives_json():
    plan = Plan((), stem="diffusion_pytorch_model")
    assert Plan.from_json(plan.to_json()) == plan
    assert "stem" not in Plan(()).to_json()
