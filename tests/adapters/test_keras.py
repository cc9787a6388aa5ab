"""The Keras adapter on each backend: the checks of keras_*_checks.py, each backend in a process of its own."""

import json
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WORKERS = runpy.run_path(str(HERE / "check_workers.py"))
FILES = [HERE / f"keras_{subject}_checks.py" for subject in ("initializer", "layer", "model")]
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


def test_a_record_is_the_same_on_every_backend(ran):
    records = {backend: json.loads((ran(backend)[2] / "record.json").read_text()) for backend in BACKENDS}
    assert len(records["tensorflow"]["entries"]) > 20
    assert records["tensorflow"] == records["jax"] == records["torch"]


def test_a_model_saved_on_one_backend_has_its_initializers_on_the_others(ran):
    configurations = [json.loads((ran(backend)[2] / "initializers.json").read_text()) for backend in BACKENDS]
    assert configurations[0] == configurations[1] == configurations[2]
