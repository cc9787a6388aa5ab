"""The oldest torch that is supported is said at import, in one line, and is the one that the package asks for."""

import tomllib
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from fastinit.adapters.torch import versions  # noqa: E402

IMPORT = "import torch; torch.__version__ = {!r}; import fastinit.adapters.torch.init"


def test_an_older_torch_is_refused_in_one_line(run_python):
    done = run_python(IMPORT.format("2.6.0+cpu"))
    expected = "ImportError: fastinit.adapters.torch needs torch 2.9 or newer, and this is torch 2.6.0+cpu"
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == expected


@pytest.mark.parametrize("version", ["2.9.0", "2.13.0+cpu", "2.13.0a0+gitabc", "2.14.0.dev20270101", "3.0", "unknown"])
def test_versions_that_pass(version):
    versions.check_version(version)


@pytest.mark.parametrize("version", ["2.8.0", "2.6.0+cu124", "1.13.1", "2.2"])
def test_versions_that_do_not(version):
    with pytest.raises(ImportError, match=rf"needs torch 2\.9 or newer, and this is torch {version[:3]}"):
        versions.check_version(version)


def test_the_package_asks_for_the_same():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["torch"] == [f"torch>={'.'.join(map(str, versions.OLDEST))}"]
    assert tuple(map(int, torch.__version__.split(".")[:2])) >= versions.OLDEST
