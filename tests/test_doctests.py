"""The examples in the docstrings of every public module run as they are written."""

import doctest
import importlib
import importlib.util
import pkgutil

import pytest

import fastinit

ADAPTERS = ["numpy", "torch"] + [
    f"torch.{name}"
    for name in (
        "auditing", "devices", "drawing", "init", "layers", "materializing", "measuring", "models", "patching",
        "schemes", "shards", "tensors",
    )
]  # fmt: skip
MODULES = [
    "fastinit",
    *(
        found.name
        for found in pkgutil.walk_packages(fastinit.__path__, "fastinit.")
        if not found.name.startswith(("fastinit._", "fastinit.adapters"))
    ),
    *(f"fastinit.adapters.{name}" for name in ADAPTERS),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    if name.startswith("fastinit.adapters.torch"):
        pytest.importorskip("torch", reason="torch is not installed")
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


# These load frameworks that do not go well with processes that fork, so each framework has a process of its own.
OTHERS = {
    "keras": ("keras", "keras.initializers", "keras.auditing"),
    "jax": ("jax",),
    "numba": ("numba", "numba.elements"),
}
PROGRAM = """
import doctest, importlib, sys
for name in sys.argv[1:]:
    result = doctest.testmod(importlib.import_module("fastinit.adapters." + name))
    if result.failed or not result.attempted:
        sys.exit(f"{name}: {result}")
"""


@pytest.mark.parametrize("framework", OTHERS)
def test_examples_of_other_adapters(framework, run_python):
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"needs {framework}")
    done = run_python(PROGRAM, *OTHERS[framework], timeout=240, TF_CPP_MIN_LOG_LEVEL="3")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_modules_were_found():
    assert {"fastinit.keys", "fastinit.layouts", "fastinit.filling", "fastinit.initializers"} <= set(MODULES)


@pytest.mark.parametrize("name", ["fastinit", "fastinit.keys", "fastinit.layouts", "fastinit.filling"])
def test_there_are_examples(name):
    finder = doctest.DocTestFinder()
    assert sum(len(test.examples) for test in finder.find(importlib.import_module(name)))
