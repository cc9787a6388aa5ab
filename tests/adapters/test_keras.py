"""The Keras adapter on each backend: the tests of keras/, each backend in a process of its own."""

import json
import sys
from importlib.util import find_spec

import pytest

if find_spec("keras") is None:
    pytest.skip("needs keras", allow_module_level=True)

BACKENDS = ("tensorflow", "jax", "torch")


@pytest.fixture(scope="module")
def ran(run_tests, tmp_path_factory):
    """ran(backend): the folder in which its tests wrote, once they have passed."""
    folders = {}

    def folder(backend):
        if find_spec(backend) is None:
            pytest.skip(f"needs {backend}")
        if backend not in folders:
            folders[backend] = None
            directory = tmp_path_factory.mktemp(backend)
            run_tests("keras", directory, KERAS_BACKEND=backend, KERAS_HOME=str(directory))
            folders[backend] = directory
        assert folders[backend], f"the tests on {backend} failed"
        return folders[backend]

    return folder


@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_backend(ran, backend):
    ran(backend)


@pytest.mark.long
def test_published_models(run_tests, tmp_path):
    run_tests("keras", tmp_path, KERAS_BACKEND="torch", KERAS_HOME=str(tmp_path), PYTEST_ADDOPTS="-m long")


@pytest.mark.parametrize("name", ["record.json", "own.json", "initializers.json"])
def test_what_a_model_saves_is_the_same_on_every_backend(ran, name):
    written = {backend: json.loads(next(ran(backend).rglob(name)).read_text()) for backend in BACKENDS}
    assert len(written["tensorflow"].get("entries", written["tensorflow"])) > 20
    assert written["tensorflow"] == written["jax"] == written["torch"]


LOAD = """
import sys
from pathlib import Path
import keras

for path in sorted(Path(sys.argv[1]).rglob("saved_*")):
    try:
        model = keras.models.load_model(path)
        print(path.stem, type(model.layers[-1].kernel_initializer).__module__.split(".")[0], "loaded")
    except Exception as error:
        print(path.stem, type(error).__name__, str(error).splitlines()[-1])
assert "fastinit" not in sys.modules
"""


def test_saved_models_in_a_process_without_fastinit(ran, run_python, tmp_path):
    backend = "torch"
    environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_HOME": str(tmp_path)}
    done = run_python(LOAD, str(ran(backend)), **environment)
    assert done.returncode == 0, done.stderr
    found = dict(line.removeprefix("saved_").split(maxsplit=1) for line in done.stdout.splitlines())
    for name in ("zeros", "ones", "constant", "identity"):
        assert found.pop(name) == "keras loaded"  # they draw nothing: Keras's own class makes the same
    assert len(found) == 7
    for name, said in found.items():
        assert "import fastinit.adapters.keras" in said, name
        assert said.startswith("ValueError Argument `seed`") == (name != "zero_init"), name


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
