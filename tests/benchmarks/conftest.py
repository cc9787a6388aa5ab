import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def suite():
    """Imports a module of benchmarks/ or tools/. The checkout, where the sources lie, stays off the path."""

    def imported(name, folder="benchmarks"):
        for package in ("benchmarks", "tools"):  # the tools import the benchmarks
            if package not in sys.modules:
                spec = importlib.machinery.PathFinder.find_spec(package, [str(ROOT)])
                sys.modules[package] = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(sys.modules[package])
        return importlib.import_module(f"{folder}.{name}")

    return imported
