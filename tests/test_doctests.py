"""The examples in the docstrings of every public module run as they are written."""

import doctest
import importlib
import pkgutil

import pytest

import fastinit

MODULES = ["fastinit", "fastinit.adapters.numpy"] + [
    f"fastinit.{module.name}" for module in pkgutil.iter_modules(fastinit.__path__) if not module.name.startswith("_")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_the_modules_were_found():
    assert {"fastinit.keys", "fastinit.fans", "fastinit.filling", "fastinit.initializers"} <= set(MODULES)


@pytest.mark.parametrize("name", ["fastinit", "fastinit.keys", "fastinit.fans", "fastinit.filling"])
def test_there_are_examples(name):
    finder = doctest.DocTestFinder()
    assert sum(len(test.examples) for test in finder.find(importlib.import_module(name)))
