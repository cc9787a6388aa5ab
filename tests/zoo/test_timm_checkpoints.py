"""Checkpoints of configurations of timm: its own loader reads every tensor."""

import json

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

import zoos  # noqa: E402

from fastinit import cli  # noqa: E402
from fastinit.adapters.torch import deferred, materialize  # noqa: E402
from fastinit.adapters.torch.configurations import model_of  # noqa: E402

VIT = {
    **{"architecture": "vit_tiny_patch16_224", "num_classes": 10},
    **{"model_args": {"embed_dim": 48, "depth": 2, "img_size": 32}},
    **{"pretrained_cfg": {"num_classes": 10, "input_size": [3, 32, 32]}},
}


@pytest.fixture(scope="module")
def timm():
    try:
        return zoos.load_timm()
    except ModuleNotFoundError:
        pytest.skip("needs timm")


def run(configuration, folder):
    (folder / "in").mkdir()
    (folder / "in" / "config.json").write_text(json.dumps(configuration))
    return cli.main(["checkpoint", str(folder / "in"), str(folder / "out"), "--dtype", "bfloat16"])


def test_timm_reads_every_tensor(tmp_path, timm):
    assert run(VIT, tmp_path) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    found = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).to(torch.bfloat16).state_dict()
    with deferred():
        model = model_of(VIT, str(tmp_path / "in"), "timm")
    materialize(model, dtype=torch.bfloat16)
    expected = model.state_dict()
    assert expected["head.weight"].shape == (10, 48)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.usefixtures("timm")
def test_an_unknown_architecture_is_refused(tmp_path, capsys):
    assert run({"architecture": "nothing", "pretrained_cfg": {}}, tmp_path) == 2
    assert "nothing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
