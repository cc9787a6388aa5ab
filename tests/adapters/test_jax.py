"""The JAX adapter: the checks of jax/, on eight devices.

They run in a process of their own.
"""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WORKERS = runpy.run_path(str(HERE / "check_workers.py"))
FILES = [HERE / "jax" / f"test_{subject}.py" for subject in ("internals", "initializers", "meshes")]
FILES += [HERE / "jax" / "test_flax.py"] if find_spec("flax") else []

if find_spec("jax") is None:
    pytest.skip("needs jax", allow_module_level=True)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    devices = "--xla_force_host_platform_device_count=8"
    return WORKERS["outcomes"](FILES, tmp_path_factory.mktemp("jax"), XLA_FLAGS=devices, JAX_ENABLE_X64="1")


@pytest.mark.parametrize("check", WORKERS["names"](FILES))
def test_on_eight_devices(ran, check):
    found, said = ran
    assert found[check] is None, f"{found[check]}\n{said if found[check] == 'did not run' else ''}"


def test_float64_without_x64_is_what_jax_makes_of_it(run_python):
    program = """
import warnings
import jax.numpy as jnp, jax
from fastinit.adapters import jax as init
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    array = init.normal()(jax.random.key(0), (3, 3), "float64")
assert array.dtype == jnp.float32 == init.normal()(jax.random.key(0), (3, 3)).dtype
assert "float64" in str(said[0].message), said
"""
    done = run_python(program)
    assert done.returncode == 0, done.stderr


MEMORY = """
import jax
from fastinit.adapters import jax as init

def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

init.he_normal()(jax.random.key(0), (64, 64)).block_until_ready()
before = status("VmRSS")
array = init.he_normal()(jax.random.key(0), (8192, 8192)).block_until_ready()
print(array.nbytes, status("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_memory_is_the_array(run_python):
    done = run_python(MEMORY)
    assert done.returncode == 0, done.stderr
    size, grown = map(int, done.stdout.split())
    assert size <= grown < 1.1 * size
