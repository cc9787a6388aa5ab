"""The process that JAX is tested in: eight devices, and float64."""

import os
from importlib.util import find_spec

os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiles in half the time
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"


def pytest_configure(config):
    """Warnings are errors if they are about fastinit or the tests; those of the frameworks are not ours to mend."""
    config.addinivalue_line("filterwarnings", "default")
    config.addinivalue_line("filterwarnings", r"error:::(fastinit|tests)\b")


collect_ignore = [] if find_spec("flax") else ["test_flax.py"]
