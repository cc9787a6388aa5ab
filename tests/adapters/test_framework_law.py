"""The framework law: one key, shape and initializer give the same bytes through every adapter."""

import functools
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "frameworks.py"
# adapter: what it needs, what its environment says, and how many of the tensors it has words for, in six dtypes
ADAPTERS = {
    "numpy": ("ml_dtypes", {}, 21),
    "torch": ("torch", {}, 21),
    "keras on tensorflow": ("tensorflow", {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}, 20),
    "keras on jax": ("jax", {"KERAS_BACKEND": "jax", "JAX_ENABLE_X64": "1"}, 20),
    "keras on torch": ("torch", {"KERAS_BACKEND": "torch"}, 20),
    "jax": ("jax", {}, 18),
    "numba": ("numba", {}, 21),
    "numba in the simulator": ("numba", {"NUMBA_ENABLE_CUDASIM": "1"}, 21),
    "numba on a GPU": ("numba", {}, 21),
    "torch on a GPU": ("torch", {}, 21),
}


@functools.cache
def has_gpu():
    """Whether a kernel can run here; asked in a process of its own, which a broken driver may end."""
    if find_spec("numba") is None:
        return False
    program = "from numba import cuda; raise SystemExit(not cuda.is_available())"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


def digests(adapter, environment, directory, dtypes=()):
    device = "cuda" if "simulator" in adapter or "GPU" in adapter else "cpu"
    given = {name: value for name, value in os.environ.items() if not name.startswith(("FASTINIT_", "PYTHONPATH"))}
    done = subprocess.run(
        [sys.executable, str(WORKER), adapter.split()[0], device, *dtypes],
        env={**given, "KERAS_HOME": str(directory), **environment},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    usual, different = json.loads(done.stdout.splitlines()[-1])
    assert different == [], "the caller's rounding mode or its flushing of subnormals shows"
    return usual


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return digests("core", {}, tmp_path_factory.mktemp("core"))


# numba/test_devices.py tries the simulator, too, and keras/test_initializers.py fills every dtype on every backend.
LONG = ("numba in the simulator", "keras on tensorflow", "keras on torch")


# Numba compiles a loop for each kind in each format: numba/test_filling.py fills the others with some of the kinds.
FEW = {"numba": ("float32", "bfloat16")}


@pytest.mark.parametrize(
    ("adapter", "dtypes"),
    [
        *(
            pytest.param(name, FEW.get(name, ()), id=name, marks=[pytest.mark.long] * (name in LONG))
            for name in ADAPTERS
        ),
        *(pytest.param(name, (), id=f"{name} in every dtype", marks=pytest.mark.long) for name in FEW),
    ],
)
def test_the_bytes_are_those_of_the_core(adapter, dtypes, expected, tmp_path):
    package, environment, tensors = ADAPTERS[adapter]
    needed = {package, "keras"} if adapter.startswith("keras") else {package}
    for name in needed:
        if find_spec(name) is None:
            pytest.skip(f"needs {name}")
    if "GPU" in adapter and not has_gpu():
        pytest.skip("needs a GPU")
    found = digests(adapter, environment, tmp_path, dtypes)
    assert len(found) == (len(dtypes) or 6) * tensors
    assert {name for name, digest in found.items() if digest != expected[name]} == set()


def test_different_tensors_have_different_digests(expected):
    assert len(expected) == 6 * 21
    # zeros are zeros in every dtype of a size, and a square's fans are all the same
    assert len(set(expected.values())) == 106
