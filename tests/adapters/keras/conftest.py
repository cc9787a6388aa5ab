"""The process that Keras is tested in: one backend (KERAS_BACKEND), eight devices and float64 if it is JAX's."""

import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiles in half the time
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"


def pytest_configure(config):
    """Warnings are errors if they are about fastinit or the tests; those of the frameworks are not ours to mend."""
    config.addinivalue_line("filterwarnings", "default")
    config.addinivalue_line("filterwarnings", r"error:::(fastinit|tests)\b")


@pytest.fixture(autouse=True)
def a_new_session():
    """Names of layers and the default dtype belong to the process: each test begins anew."""
    import keras

    keras.utils.clear_session(free_memory=False)
    keras.config.set_floatx("float32")
