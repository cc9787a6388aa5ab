"""Tests of Keras and JAX run in processes of their own.

Keras has one backend per process, JAX one number of devices, and neither works well in a process that forks. So the
folders keras/ and jax/ are collected only by a session that is asked for them by name. test_keras.py and test_jax.py
start such sessions; a developer can start one, too: ``KERAS_BACKEND=jax pytest tests/adapters/keras -k lsuv --pdb``.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
collect_ignore = ["keras", "jax"]
INHERITED = ("FASTINIT_", "PYTHONPATH", "PYTEST_", "KERAS_")
SECONDS = 1200


@pytest.fixture(scope="session")
def run_tests():
    """run_tests(folder, directory, **environment): runs a folder's tests in a new process, and fails as they do.

    Without the long ones, unless ``PYTEST_ADDOPTS`` says otherwise.
    """

    def run(folder, directory, **environment):
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(INHERITED)}
        command = [sys.executable, "-m", "pytest", str(HERE / folder), "-p", "no:cacheprovider", "--color=no"]
        done = subprocess.run(
            [*command, f"--basetemp={directory / 'tests'}"],
            env=inherited | {"PYTEST_ADDOPTS": "-m 'not long'"} | environment,
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode:
            pytest.fail(f"tests of {folder} with {environment}:\n{done.stdout}", pytrace=False)
        return done.stdout

    return run
