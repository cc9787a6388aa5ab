"""What a Python that cannot use this folder says: one line, which names what is wrong and what to do."""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fastinit
from fastinit import _core, installation

ROOT = Path(__file__).parents[1]
CORE = Path(_core.__file__)
ONE_LINE = "import fastinit; print(fastinit.__file__)"


def python(*arguments, cwd, executable=sys.executable, **environment):
    given = {name: value for name, value in os.environ.items() if not name.startswith(("FASTINIT_", "PYTHON"))}
    command = [str(executable), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=given | environment, capture_output=True, text=True, check=False)


def says(done):
    """The error's line; the program has printed nothing else."""
    assert done.returncode == 1 and done.stdout == "", done
    *frames, line = done.stderr.splitlines()
    assert frames[0] == "Traceback (most recent call last):"
    assert done.stderr.count("Traceback") == 1, done.stderr
    return line


@pytest.fixture
def checkout(tmp_path):
    """The sources as they stand in a fresh clone: no core."""
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "fastinit", clone / "fastinit", symlinks=True, ignore=shutil.ignore_patterns("*.so"))
    shutil.copytree(ROOT / "adapters", clone / "adapters", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("tests", "benchmarks", "examples", "docs", "tools"):
        (clone / folder).mkdir()
    return clone


NUMPY = Path(np.__file__).parents[1]


def test_in_a_fresh_clone(checkout):
    line = says(python("-S", "-c", ONE_LINE, cwd=checkout, PYTHONPATH=str(NUMPY)))
    version = "{}.{}".format(*sys.version_info)
    assert line.startswith(
        f"ImportError: fastinit's compiled core is not built for Python {version} ({sys.executable})"
    )
    assert f"run `make demo` in {checkout}, then use its .venv/bin/python" in line


def test_with_a_core_for_another_python(checkout):
    for other in ("_core.cpython-310-x86_64-linux-gnu.so", "_core.cpython-399-darwin.so"):
        shutil.copy(CORE, checkout / "fastinit" / other)
    line = says(python("-S", "-c", ONE_LINE, cwd=checkout, PYTHONPATH=str(NUMPY)))
    assert "core is not built for Python" in line and "make demo" in line


def test_with_a_link_to_a_core_that_is_gone(checkout):
    (checkout / "fastinit" / CORE.name).symlink_to("../.venv/lib/gone.so")
    line = says(python("-S", "-c", ONE_LINE, cwd=checkout, PYTHONPATH=str(NUMPY)))
    assert "core is not built for Python" in line and "make demo" in line


def test_beside_an_installed_package(checkout, tmp_path):
    # sources that hide the package which the same Python has installed
    place = tmp_path / "site-packages"
    shutil.copytree(ROOT / "fastinit", place / "fastinit", ignore=shutil.ignore_patterns("_core.pyx", "__pycache__"))
    shutil.copy(CORE, place / "fastinit")
    options = {"PYTHONPATH": os.pathsep.join([str(place), str(NUMPY)])}
    line = says(python("-S", "-c", ONE_LINE, cwd=checkout, **options))
    assert f"or start Python outside of {checkout} to use the package installed in {place / 'fastinit'}" in line
    done = python("-S", "-c", ONE_LINE, cwd=tmp_path, **options)
    assert done.stdout.strip() == str(place / "fastinit/__init__.py"), done.stderr


def test_without_numpy(checkout):
    shutil.copy(CORE, checkout / "fastinit")
    line = says(python("-S", "-c", ONE_LINE, cwd=checkout))
    assert line.startswith(f"ImportError: fastinit needs NumPy, which {sys.executable} does not have: run `make demo`")


def test_an_installed_package_without_its_core(checkout):
    (checkout / "fastinit/_core.pyx").unlink()
    line = says(python("-S", "-c", ONE_LINE, cwd=checkout, PYTHONPATH=str(NUMPY)))
    assert "install the package with this Python's pip" in line and "make" not in line


def test_a_core_that_cannot_be_loaded_says_why(checkout):
    (checkout / "fastinit" / CORE.name).write_bytes(b"not a library")
    line = says(python("-S", "-c", ONE_LINE, cwd=checkout, PYTHONPATH=str(NUMPY)))
    assert CORE.name in line and "circular" not in line and "make demo" not in line


OTHERS = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.*/bin/python3"))


@pytest.mark.parametrize("executable", OTHERS, ids=lambda path: path.parts[-3])
def test_other_pythons(executable, checkout):
    shutil.copy(CORE, checkout / "fastinit")
    version = python("-c", "import sys; print(*sys.version_info[:2], sep='.')", cwd="/", executable=executable).stdout
    version = version.strip()
    line = says(python("-S", "-c", ONE_LINE, cwd=checkout, executable=executable))
    if tuple(map(int, version.split("."))) < (3, 11):
        assert f"fastinit needs Python 3.11 or newer; {executable} is Python {version}" in line
    else:
        assert "core is not built for Python" in line or "fastinit needs NumPy" in line


@pytest.mark.parametrize("folder", ["", "fastinit", "adapters", "tests", "benchmarks", "examples", "docs", "tools"])
def test_in_the_folders_of_a_built_checkout(folder, checkout):
    shutil.copy(CORE, checkout / "fastinit")
    done = python("-c", ONE_LINE, cwd=checkout / folder, PYTHONPATH=os.pathsep.join([str(checkout), str(NUMPY)]))
    if folder == "adapters":  # whose numpy.py and torch/ are the first of their names there
        assert "start Python in another folder than adapters/" in says(done)
    else:
        assert done.stdout.strip() == str(checkout / "fastinit/__init__.py"), done.stderr


# An unrelated distribution in the same folder


@pytest.mark.parametrize(
    "name, is_it",
    [
        ("fastinit-9.9.9.dist-info", True),
        ("fastinit-0.1.egg-info", True),
        ("fastinit_weights-0.1.0.dist-info", False),
        ("fastinit-weights-0.1.0.egg-info", False),
        ("fastinit_extra-1.0.dist-info", False),
        ("fastinit", False),
    ],
)
def test_which_distribution_is_the_unrelated_one(name, is_it, tmp_path, monkeypatch):
    (tmp_path / name).mkdir()
    monkeypatch.setattr(installation, "ROOT", str(tmp_path))
    assert installation.unrelated() == (name.rpartition(".")[0].replace("-", " ") if is_it else None)


def test_a_package_in_no_folder_has_no_neighbours(tmp_path, monkeypatch):
    (tmp_path / "archive.zip").touch()
    for place in ("archive.zip", "nothing"):
        monkeypatch.setattr(installation, "ROOT", str(tmp_path / place))
        assert installation.unrelated() is None


def wheel(folder, name, version, files):
    """A wheel of these files: {path in it: bytes}."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{info}/RECORD,,"]
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={digest},{len(data)}")
    out = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(out, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
        archive.writestr(f"{info}/RECORD", "\n".join(record) + "\n")
    return out


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Ours, of the files as they stand, and one with the name and the folder of the unrelated distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    files = {
        path.relative_to(ROOT).as_posix().replace("adapters/", "fastinit/adapters/", 1): path.read_bytes()
        for place in ("fastinit", "adapters")
        for path in (ROOT / place).rglob("*.py")
        if "adapters" not in path.relative_to(ROOT).parts[1:]
    }
    files[f"fastinit/{CORE.name}"] = CORE.read_bytes()
    theirs = {
        "fastinit/__init__.py": b'"""Scaffolds an application."""\n',
        "fastinit/cli.py": b"def main():\n    print('an application')\n",
        "fastinit/models/__init__.py": b"",
        "fastinit/project/__init__.py": b"",
    }
    ours = wheel(folder, "fastinit-weights", fastinit.__version__, files)
    return {"ours": ours, "theirs": wheel(folder, "fastinit", "9.9.9", theirs)}


@pytest.fixture
def environment(tmp_path):
    """A virtual environment that sees this one's NumPy: functions that call its pip, unpack a wheel, run a program."""
    pytest.importorskip("pip", reason="pip is not installed")
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed").mkdir()
    for name in ("numpy", "numpy.libs"):
        if (NUMPY / name).exists():
            (site / "borrowed" / name).symlink_to(NUMPY / name)
    (site / "borrowed.pth").write_text(str(site / "borrowed"))
    executable = folder / "bin/python"

    def pip(*arguments):
        options = ["--python", executable, "--disable-pip-version-check"]
        done = python("-m", "pip", *options, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    def unpack(file):  # what pip does with a wheel that has no scripts, in less time
        with zipfile.ZipFile(file) as archive:
            archive.extractall(site)

    def run(program):
        return python("-c", program, cwd=tmp_path, executable=executable)

    return pip, unpack, run


INSTALL = ("install", "--no-index", "--no-deps", "--no-compile", "--quiet")
ADAPTER = "from fastinit.adapters import numpy as init; print(init.zeros(2))"
REMEDY = "Uninstall both (`pip uninstall fastinit fastinit-weights`), then install fastinit-weights again"


def test_an_unrelated_distribution_over_ours(environment, wheels):
    pip, unpack, run = environment
    unpack(wheels["ours"])
    assert run(ADAPTER).stdout == "[0. 0.]\n" and run(ADAPTER).stderr == ""
    pip(*INSTALL, wheels["theirs"])
    # `import fastinit` itself is theirs and says nothing; every door of ours that is left says it
    for module in ("adapters.numpy", "extending"):
        line = says(run(f"import fastinit.{module}"))
        assert "the unrelated distribution `fastinit` is, or was, installed over it" in line and REMEDY in line
    pip("uninstall", "--quiet", "--yes", "fastinit")
    assert REMEDY in says(run(ADAPTER))
    # and what the line says mends it
    pip("uninstall", "--quiet", "--yes", "fastinit", "fastinit-weights")
    pip(*INSTALL, wheels["ours"])
    assert run(ADAPTER).stdout == "[0. 0.]\n" and run(ADAPTER).stderr == ""


def test_ours_over_an_unrelated_distribution(environment, wheels):
    _, unpack, run = environment
    unpack(wheels["theirs"])
    unpack(wheels["ours"])
    done = run(ADAPTER)
    assert done.stdout == "[0. 0.]\n"
    (warning,) = [line for line in done.stderr.splitlines() if "Warning" in line]
    assert "RuntimeWarning: the unrelated distribution fastinit 9.9.9 shares the folder" in warning
    assert REMEDY in warning
