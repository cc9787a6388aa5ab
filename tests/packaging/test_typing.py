"""The types that users see: mypy --strict passes, and the stubs say what the compiled module has."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="mypy is not installed")
ROOT = Path(__file__).parents[2]


def mypy(tmp_path, *arguments, module="mypy", cwd=ROOT):
    environment = os.environ | {"MYPY_CACHE_DIR": str(tmp_path.parent / "mypy")}  # of all tests of this session
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.long  # `make lint` runs the same check
def test_the_package_is_strictly_typed(tmp_path):
    pytest.importorskip("torch", reason="the adapters' types are those of their frameworks")
    done = mypy(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


# What Cython adds to a module, and what it does not tell: the parameters of __init__, and that a class has a layout.
CYTHON = r"""
fastinit\._core\.(\w+\.)?(__reduce_cython__|__setstate_cython__|__test__)
fastinit\._core\.(Sampling|Region|Fill|Shortcut|Recalled)(\.__init__)?
"""


def stubtest(tmp_path, module):
    allowed = tmp_path / "allowed"
    allowed.write_text(CYTHON)
    options = ["--allowlist", str(allowed), "--ignore-unused-allowlist"]
    return mypy(tmp_path, module, *options, module="mypy.stubtest", cwd=tmp_path)


def test_the_stubs_are_those_of_the_compiled_module(tmp_path):
    done = stubtest(tmp_path, "fastinit._core")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no issues found in 1 module" in done.stdout


def test_the_parameters_that_cython_does_not_tell():
    # __init__ is allowed above: its parameters are held to the binding's own text
    def parameters(text, name):
        inside = re.search(rf"class {name}\b.*?def __init__\((.*?)\)(?: -> None)?:", text, re.DOTALL)[1]
        inside = inside.replace(" not None", "")
        while "[" in inside:  # types, the innermost first
            inside = re.sub(r"\[[^][]*\]", "", inside)
        names = [re.split(r"[:=]", part)[0].split()[-1] for part in inside.split(",") if part.strip()]
        return [name for name in names if name not in ("self", "*")]

    binding, stubs = ((ROOT / "fastinit" / name).read_text() for name in ("_core.pyx", "_core.pyi"))
    for name, least in (("Sampling", 4), ("Region", 4), ("Fill", 4), ("Shortcut", 11), ("Recalled", 2)):
        wanted = parameters(binding, name)
        assert wanted == parameters(stubs, name)
        assert len(wanted) >= least


USER = """
from collections.abc import Sequence
import numpy as np
import fastinit

key: fastinit.Key = fastinit.Key("model").fold_in("weight")
out = fastinit.fill(np.empty((3, 4), np.float32), fastinit.he_normal(layout="OI"), key, num_threads=2)
out.reshape(-1)
first: float = fastinit.sample(key, 0, fastinit.Normal(std=0.02))
parts: Sequence[fastinit.Key] = key.split(3)
fan: fastinit.Fans = fastinit.fans((3, 4))
leaky: fastinit.VarianceScaling = fastinit.kaiming_uniform(negative_slope=0.1, layout="OI...", groups=2)
deconvolution = fastinit.lecun_normal(transposed=True, stride=(2, 2), blocks=1)
row: fastinit.Preset = fastinit.PRESETS["he_normal"]
row(layout="OI").fans((3, 4))
fastinit.fill(out, fastinit.orthogonal(2.0, column_axis=0), key)

from fastinit.adapters import numpy as init

weight: np.ndarray = init.kaiming_normal((3, 4), seed=0, layout="OI", negative_slope=0.1, dtype="float16")
init.constant(out=weight, value=0.5).sum()
init.icnr([3, 3, 2, 4], key=key, initializer=fastinit.he_normal(), factor=2, num_threads=1)
init.truncated_normal(9, key=np.random.default_rng(0), std=0.02, low=-1.0)
init.zeros(np.int64(3))
"""
MISTAKES = {
    'fastinit.Normal("wide")\n': "Normal",
    "fastinit.Key(0.5)\n": "Key",
    "fastinit.fill(out, fastinit.Normal, key)\n": "fill",
    "fastinit.fill(out, fastinit.Normal(), 0)\n": "fill",
    "fastinit.nothing\n": "no attribute",
    'fastinit.he_normal(layuot="OI")\n': "layuot",
    'fastinit.PRESETS["he_normal"](layuot="OI")\n': "layuot",
    "fastinit.xavier_uniform(negative_slope=0.1)\n": "negative_slope",
    "fastinit.glorot_normal(layout=1)\n": "layout",
    "fastinit.fill(out, fastinit.he_normal, key)\n": "fill",
    "fastinit.orthogonal(axis=0)\n": "axis",
    'fastinit.recommend("relu", layuot="OI")\n': "layuot",
    'init.he_normal((3, 4), seed=0, layuot="OI")\n': "layuot",
    "init.xavier_uniform((3, 4), seed=0, negative_slope=0.1)\n": "negative_slope",
    "init.constant(3)\n": "value",
    "init.normal(3, 0.5)\n": "positional",
    'init.zeros("3")\n': '"str"',
}


# The adapters' functions, without what a framework's own types say.
OF_FRAMEWORKS = """
import torch
from fastinit.adapters import jax
from fastinit.adapters.torch import init

tensor = init.kaiming_normal_(init.normal_(torch.empty(4, 4), std=0.1, key=0), mode="fan_out", nonlinearity="relu")
tensor = init.xavier_uniform_(init.lecun_normal_(tensor, key=0), groups=2)
jax.he_normal(in_axis=-1, out_axis=-2, dtype="float32", groups=2)
"""
MISTAKES_OF_FRAMEWORKS = {
    "init.normal_(tensor, sdt=0.1)\n": "sdt",
    'init.kaiming_normal_(tensor, mod="fan_in")\n': "mod",
    "init.lecun_normal_(tensor, group=2)\n": "group",
    "init.orthogonal_(tensor, gian=2.0)\n": "gian",
    "init.delta_orthogonal_(tensor, gian=2.0)\n": "gian",
    "jax.he_normal(in_axes=-1)\n": "in_axes",
    "jax.variance_scaling(1.0)\n": "mode",
}
FRAMEWORKS_ARE_ANY = """\
[mypy]
[mypy-fastinit.*]
follow_imports = silent
[mypy-jax.*,numba.*,torch.*]
follow_imports = skip
ignore_missing_imports = true
"""


def check_a_program(tmp_path, right, mistakes, *options):
    program = tmp_path / "program.py"
    program.write_text(right)
    done = mypy(tmp_path, "--strict", *options, str(program))
    assert done.returncode == 0, done.stdout + done.stderr
    program.write_text(right + "".join(mistakes))
    lines = mypy(tmp_path, "--strict", *options, str(program)).stdout.splitlines()
    for number, word in enumerate(mistakes.values(), right.count("\n") + 1):
        assert any(f"program.py:{number}: error" in line and word in line for line in lines), (number, word, lines)


def test_a_users_program_is_checked(tmp_path):
    check_a_program(tmp_path, USER, MISTAKES, "--config-file=")


def test_a_program_that_uses_a_framework_is_checked(tmp_path):
    settings = tmp_path / "mypy.ini"
    settings.write_text(FRAMEWORKS_ARE_ANY)
    check_a_program(tmp_path, OF_FRAMEWORKS, MISTAKES_OF_FRAMEWORKS, f"--config-file={settings}")
