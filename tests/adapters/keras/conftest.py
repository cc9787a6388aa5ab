"""The process that Keras is tested in: one backend (KERAS_BACKEND), eight devices and float64 if it is JAX's."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiles in half the time
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"


def pytest_configure(config):
    """Warnings are errors if they are about fastinit or the tests; those of the frameworks are not ours to mend."""
    config.addinivalue_line("markers", "every_backend: what `make test` runs on every backend of Keras")
    config.addinivalue_line("filterwarnings", "default")
    config.addinivalue_line("filterwarnings", r"error:::(fastinit|tests)\b")


@pytest.fixture(autouse=True)
def a_new_session():
    """Names of layers and the default dtype belong to the process: each test begins anew."""
    import keras

    keras.utils.clear_session(free_memory=False)
    keras.config.set_floatx("float32")


# Files about what the adapter does without the backend: names, programs, records, weight files, verdicts on layers.
# `make test` runs them on one backend, torch's, where they take the least time, and `make test-long` on all of them.
# On the others `make test` runs the remaining files (values, layers, internals) and the tests marked ``every_backend``:
# records that must be equal everywhere, and what the backend's own gradients measure.
ON_ONE_BACKEND = ("auditing", "checkpoints", "explaining", "models", "names", "programs", "verifying")


@pytest.hookimpl(tryfirst=True)  # before the tests are chosen by their marks
def pytest_collection_modifyitems(items):
    """Leaves to `make test-long` what another backend tests as well."""
    here = Path(__file__).parent
    files = {here / f"test_{name}.py" for name in ON_ONE_BACKEND}
    assert all(path.exists() for path in files)
    backend = os.environ.get("KERAS_BACKEND")
    if backend == "torch" or find_spec("torch") is None:
        return
    for item in items:
        without_torch = backend == "jax" and item.name == "test_without_torch"  # which torch's backend cannot run
        if item.path in files and not without_torch and not item.get_closest_marker("every_backend"):
            item.add_marker("long")
