"""The console blocks of docs/checkpoints.md: commands run and print what the page shows, but for times and rates."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastinit.checkpoints import Plan, Tensor, Values, write

pytestmark = pytest.mark.long
PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"
BLOCKS = [
    block
    for block in re.findall(r"^```text\n(\$ .*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    if "cat net.py" not in block
]
MODELS = {
    "gpt2": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
    "deepseek-v3": {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "dtype": "bfloat16"},
    "llama": {
        **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 1000},
    },
}
FIGURES = re.compile(r"\d+\.\d s \([\d.,]+ [kMG]B/s\)")
SIZES = re.compile(r"\d+\.\d+ MB")


def run(line, folder):
    """What a line of the shell prints in a folder."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    """A folder with what the page's commands read."""
    for name, config in MODELS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    tensors = [(name, (8, 4)) for name in ("up.weight", "norm.weight", "up.bias")]
    zeros = [Tensor(name, Values("float32", shape, bytes(128))) for name, shape in tensors]
    write(Plan(tuple(zeros)), tmp_path / "published.safetensors")
    return tmp_path


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.partition("\n")[0])
def test_the_console_shows_what_a_command_prints(block, folder):
    pytest.importorskip("transformers")
    command, _, expected = block.partition("\n")
    if "orbax" in command:
        pytest.importorskip("orbax.checkpoint")
    if not command.startswith("$ fastinit checkpoint") and "for k" not in command:
        run("fastinit checkpoint gpt2/config.json out/", folder)  # as the page has done before
    printed = run(command.removeprefix("$ "), folder)
    if expected:
        printed, expected = (FIGURES.sub("TIME", text) for text in (printed, expected))
        if "--format" in command:  # how many bytes another library's own files have is not ours to say
            printed, expected = (SIZES.sub("SIZE", text) for text in (printed, expected))
        assert printed == expected
    if "for k" in command:
        assert (folder / "out" / "model.safetensors").exists()
    if "published" in command:
        values = np.fromfile(folder / "out" / "model.safetensors", np.uint8)
        assert values.any()


def test_the_blocks_were_found():
    assert len(BLOCKS) >= 6
    assert all("\n$ " not in block for block in BLOCKS)
