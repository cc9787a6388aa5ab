"""Numba still has each internal that the adapter uses."""

import runpy
from pathlib import Path

import numpy as np
import pytest

numba = pytest.importorskip("numba", reason="numba is not installed")
from fastinit.adapters.numba import internals  # noqa: E402

CHANGED = "Numba has changed what fastinit uses of its internals: "

SIMULATED = """
import numpy as np
from numba import cuda
from fastinit.adapters.numba import internals
changed = "Numba has changed what fastinit uses of its internals: "
assert internals.IS_SIMULATED, changed + "numba.config.ENABLE_CUDASIM does not say that CUDA is simulated"
out = cuda.to_device(np.zeros(4, np.float32))
assert internals.is_simulated_array(out), changed + "arrays of the simulator have no __cuda_ndarray__"
assert not hasattr(out, "__cuda_array_interface__"), changed + "they have __cuda_array_interface__: ask for that"
memory = np.zeros(4, np.float32)
try:
    wrapped = internals.simulated_array(memory)
except ImportError as problem:
    raise AssertionError(changed + str(problem))

@cuda.jit
def ones(out):
    out[cuda.grid(1)] = 1

ones[1, 4](wrapped)
assert memory.tolist() == [1, 1, 1, 1], changed + "FakeCUDAArray does not write into the array that it is made of"
"""


def test_the_switch_of_the_simulator():
    assert hasattr(numba.config, "ENABLE_CUDASIM"), f"{CHANGED}numba.config.ENABLE_CUDASIM is gone"
    assert isinstance(internals.IS_SIMULATED, bool)


def test_arrays_of_the_simulator(run_python):
    done = run_python(SIMULATED, NUMBA_ENABLE_CUDASIM="1", timeout=300)
    assert done.returncode == 0, done.stderr


def test_memory_of_the_host_is_no_array_of_the_simulator():
    assert not internals.is_simulated_array(np.zeros(3))


def test_an_older_numba_is_named_at_import(monkeypatch):
    monkeypatch.setattr(numba, "__version__", "0.59.1")
    with pytest.raises(ImportError, match=r"needs Numba 0\.60 or newer, and 0\.59\.1 is installed$"):
        runpy.run_path(internals.__file__)


def test_the_oldest_version_is_that_of_the_package():
    project = (Path(__file__).resolve().parents[3] / "pyproject.toml").read_text()
    assert f'numba = ["numba>={internals.OLDEST}"]' in project
