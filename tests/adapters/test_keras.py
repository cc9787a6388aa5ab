"""The Keras adapter on each backend: the tests of keras/, each backend in a process of its own."""

import json
from importlib.util import find_spec

import pytest

if find_spec("keras") is None:
    pytest.skip("needs keras", allow_module_level=True)

BACKENDS = ("tensorflow", "jax", "torch")


@pytest.fixture(scope="module")
def ran(run_tests, tmp_path_factory):
    """ran(backend, which): the folder in which its tests wrote, once they have passed: the quick or the long ones."""
    folders = {}

    def folder(backend, which="not long"):
        if find_spec(backend) is None:
            pytest.skip(f"needs {backend}")
        if (backend, which) not in folders:
            folders[backend, which] = None
            directory = tmp_path_factory.mktemp(backend)
            environment = {"KERAS_BACKEND": backend, "KERAS_HOME": str(directory), "PYTEST_ADDOPTS": f"-m '{which}'"}
            run_tests("keras", directory, **environment)
            folders[backend, which] = directory
        assert folders[backend, which], f"the tests on {backend} failed"
        return folders[backend, which]

    return folder


@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_backend(ran, backend):
    ran(backend)


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_long_tests_on_a_backend(ran, backend):
    ran(backend, "long")


@pytest.mark.parametrize(
    ("name", "which"),
    [
        *((name, "not long") for name in ("record.json", "own.json", "initializers.json")),
        pytest.param("own.json", "long", marks=pytest.mark.long),
    ],
)
def test_what_a_model_saves_is_the_same_on_every_backend(ran, name, which):
    written = {backend: json.loads(next(ran(backend, which).rglob(name)).read_text()) for backend in BACKENDS}
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
    """Saved on torch, and loaded on JAX, which Keras imports soonest."""
    environment = {"KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_HOME": str(tmp_path)}
    done = run_python(LOAD, str(ran("torch")), **environment)
    assert done.returncode == 0, done.stderr
    found = dict(line.removeprefix("saved_").split(maxsplit=1) for line in done.stdout.splitlines())
    for name in ("zeros", "ones", "constant", "identity"):
        assert found.pop(name) == "keras loaded"  # they draw nothing: Keras's own class makes the same
    assert len(found) == 7
    for name, said in found.items():
        assert "import fastinit.adapters.keras" in said, name
        assert said.startswith("ValueError Argument `seed`") == (name != "zero_init"), name
