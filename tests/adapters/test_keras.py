"""The Keras adapter on each backend: the checks of keras/, each backend in a process of its own."""

import json
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WORKERS = runpy.run_path(str(HERE / "check_workers.py"))
FILES = [
    HERE / "keras" / f"test_{subject}.py" for subject in ("internals", "initializers", "layers", "models", "auditing")
]
DISTRIBUTED = [HERE / "keras" / "test_distribution.py"]
BACKENDS = ("tensorflow", "jax", "torch")

if find_spec("keras") is None:
    pytest.skip("needs keras", allow_module_level=True)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What each backend's process found, and where it wrote; started when it is first asked for."""
    found = {}

    def run(backend):
        if backend not in found:
            if find_spec(backend) is None:
                pytest.skip(f"needs {backend}")
            directory = tmp_path_factory.mktemp(backend)
            environment = {"KERAS_BACKEND": backend, "JAX_ENABLE_X64": "1"}
            found[backend] = (*WORKERS["outcomes"](FILES, directory, **environment), directory)
        return found[backend]

    return run


@pytest.mark.parametrize("check", WORKERS["names"](FILES))
@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_backend(ran, backend, check):
    found, said, _ = ran(backend)
    assert found[check] is None, f"{found[check]}\n{said if found[check] == 'did not run' else ''}"


@pytest.fixture(scope="module")
def ran_on_eight_devices(tmp_path_factory):
    if find_spec("jax") is None:
        pytest.skip("needs jax")
    environment = {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    return WORKERS["outcomes"](DISTRIBUTED, tmp_path_factory.mktemp("devices"), **environment)


@pytest.mark.parametrize("check", WORKERS["names"](DISTRIBUTED))
def test_on_eight_devices(ran_on_eight_devices, check):
    found, said = ran_on_eight_devices
    assert found[check] is None, f"{found[check]}\n{said if found[check] == 'did not run' else ''}"


MEMORY = """
import keras
from fastinit.adapters.keras import initializers

def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

def variable(side):
    made = keras.Variable(initializers.HeNormal(seed=1), shape=(side, side), dtype="float32")
    return made.value.block_until_ready() if keras.config.backend() == "jax" else made.value

float(keras.ops.convert_to_numpy(variable(64))[0, 0])  # libraries are loaded, threads have their buffers
before = status("VmRSS")
kept = variable(8192)
print(4 * 8192 * 8192, status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_peak_of_memory_is_the_variable(run_python, tmp_path, backend):
    if find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_HOME": str(tmp_path)}
    done = run_python(MEMORY, **environment)
    assert done.returncode == 0, done.stderr
    size, grown = map(int, done.stdout.split())
    assert size <= grown < 1.1 * size


def test_a_record_is_the_same_on_every_backend(ran):
    records = {backend: json.loads((ran(backend)[2] / "record.json").read_text()) for backend in BACKENDS}
    assert len(records["tensorflow"]["entries"]) > 20
    assert records["tensorflow"] == records["jax"] == records["torch"]


def test_a_model_saved_on_one_backend_has_its_initializers_on_the_others(ran):
    configurations = [json.loads((ran(backend)[2] / "initializers.json").read_text()) for backend in BACKENDS]
    assert configurations[0] == configurations[1] == configurations[2]
