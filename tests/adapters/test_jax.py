"""The JAX adapter: the tests of jax/, on eight devices, in a process of their own."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("jax") is None:
    pytest.skip("needs jax", allow_module_level=True)


def test_on_eight_devices(run_tests, tmp_path):
    run_tests("jax", tmp_path)


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


OLD = """
import jax
jax.__version__, jax.__version_info__ = {version!r}, {info!r}
try:
    from fastinit.adapters import jax as init
except ImportError as refusal:
    print(refusal)
"""


def test_a_jax_that_is_too_old_is_refused_in_one_line(run_python):
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    oldest = re.search(r'^jax = \["jax>=([\d.]+)"\]', text, re.MULTILINE)[1]
    done = run_python(OLD.format(version="0.6.2", info=(0, 6, 2)))
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"fastinit.adapters.jax needs JAX {oldest} or newer, found 0.6.2: pip install -U 'jax>={oldest}'\n"
    )
    done = run_python(OLD.format(version=oldest, info=tuple(map(int, oldest.split(".")))))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


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
