"""Keras's own tests of initializers, with fastinit's classes in their place."""

import importlib
import sys
import types
import unittest

import keras
import pytest

from fastinit.adapters.keras import initializers as ours

slow = pytest.mark.long if keras.config.backend() != "tensorflow" else lambda test: test


def skipped_on(backend, reason):
    return unittest.skipIf(keras.config.backend() == backend, reason)


@slow
@pytest.mark.parametrize("name", ["random_initializers_test", "constant_initializers_test"])
def test_keras_s_own_tests_pass(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "conftest", types.SimpleNamespace(skip_if_backend=skipped_on))  # Keras's
    tests = pytest.importorskip(f"keras.src.initializers.{name}", reason="this Keras came without its tests")
    place = importlib.import_module("keras.src.initializers")
    for public in ours.__all__:
        if hasattr(place, public):
            monkeypatch.setattr(place, public, getattr(ours, public))
    assert tests.initializers.Zeros is ours.Zeros
    result = unittest.TestResult()
    suite = unittest.defaultTestLoader.loadTestsFromModule(tests)
    suite.run(result)
    assert result.testsRun > 5
    assert not result.failures + result.errors, (result.failures + result.errors)[0][1]
