"""A source archive, a wheel and an editable install of this tree: each installs into a fresh environment and fills."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("default")]
for _tool in ("mesonpy", "Cython", "pip"):
    pytest.importorskip(_tool, reason=f"{_tool} is not installed")
ROOT = Path(__file__).parents[2]

SMOKE = """
import hashlib, os, sys
import numpy as np
import fastinit
from fastinit.adapters import numpy as init

weight = init.he_normal((300, 200), key=0)
other = fastinit.fill(np.empty((300, 200), np.float32), fastinit.he_normal(), fastinit.Key(0))
assert weight.tobytes() == other.tobytes()
assert np.abs(np.linalg.norm(init.orthogonal((50, 50), key=0), axis=0) - 1).max() < 1e-6
print(hashlib.sha256(weight.tobytes()).hexdigest())
print(os.path.dirname(fastinit.__file__))
print(fastinit.__version__)
"""


def run(*command, **options):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("FASTINIT_", "PYTHON", "PIP_"))
    }
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, env=environment, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the tree as it stands, in a repository of its own: archives hold what is committed."""
    copy = tmp_path_factory.mktemp("source") / "tree"
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT).split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    run("git", "init", "--quiet", cwd=copy)
    run("git", "add", "--all", cwd=copy)
    run("git", *identity, "commit", "--quiet", "--no-verify", "--message", "as it stands", cwd=copy)
    return copy


def build(hook, project, out):
    """Calls a build hook (PEP 517) with the tools of this environment: no index is asked."""
    program = f"import mesonpy, sys; print(mesonpy.{hook}(sys.argv[1]))"
    return out / run(sys.executable, "-c", program, out, cwd=project).splitlines()[-1]


@pytest.fixture(scope="module")
def archive(source, tmp_path_factory):
    return build("build_sdist", source, tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def wheel(archive, tmp_path_factory):
    """Built from the source archive, as an index's users would."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    (project,) = folder.iterdir()
    return build("build_wheel", project, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def new_environment(tmp_path_factory):
    """Makes virtual environments that see this one's NumPy and build tools, and not its fastinit."""

    def make():
        folder = tmp_path_factory.mktemp("environment")
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        (site,) = folder.glob("lib/python*/site-packages")
        # a line with a path adds no .pth files of that place, so an editable fastinit there stays unseen
        import numpy

        (site / "borrowed.pth").write_text(str(Path(numpy.__file__).parents[1]))
        return folder / "bin/python", site

    return make


def install(project, site, *options):
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", *options]
    run(sys.executable, "-m", "pip", "install", "--target", site, *options, project)


def smoke(python, tmp_path):
    """Runs the program outside of the tree; returns the digest, where the package lies, and its version."""
    return run(python, "-c", SMOKE, cwd=tmp_path).split("\n")[:3]


@pytest.fixture(scope="module")
def installed(wheel, new_environment):
    python, site = new_environment()
    install(wheel, site)
    return python, site


@pytest.fixture(scope="module")
def problems():
    return runpy.run_path(str(ROOT / "tools/archives.py"))["problems"]


def test_the_archive_has_what_a_build_and_a_reader_need(archive, problems):
    assert problems(archive) == []
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"tests/test_keys.py", "docs/stream-v1.md", "CHANGELOG.md", "CONTRIBUTING.md"} <= names


def test_the_wheel_has_the_package_and_nothing_else(wheel, problems):
    assert problems(wheel) == []
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    assert {"fastinit/__init__.py", "fastinit/adapters/numpy.py", "fastinit/py.typed", "fastinit/_core.pyi"} <= inside
    assert not [name for name in inside if re.search(r"test|conftest|\.pyx$|\.[cho]$|/kernels/", name)]
    assert wheel.name.startswith("fastinit_weights-") and "-none-any" not in wheel.name


def rewritten(path, folder, change):
    """A copy of a wheel after ``change`` of the dictionary of its files."""
    with zipfile.ZipFile(path) as file:
        files = {name: file.read(name) for name in file.namelist()}
    change(files)
    with zipfile.ZipFile(folder / path.name, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return folder / path.name


def test_the_check_of_the_wheel_can_fail(wheel, problems, tmp_path):
    (core,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("fastinit/_core.c"))
    (about,) = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" in name}

    def edit(name, old, new):
        return lambda files: files.update({name: files[name].replace(old, new)})

    for change, found in [
        (lambda files: files.update({"tests/test_keys.py": b""}), "tests/test_keys.py does not belong"),
        (lambda files: files.update({"fastinit/kernels/fill.c": b""}), "fill.c does not belong"),
        (lambda files: files.update({core.replace("_core.", "_core.cpython-39-"): b""}), "one compiled core"),
        (lambda files: files.pop("fastinit/py.typed"), "py.typed is missing"),
        (lambda files: files.pop(f"{about}/licenses/LICENSE"), "licenses/LICENSE is missing"),
        (lambda files: files.update({"fastinit/keys.py": b"pass"}), "keys.py is not the checkout's"),
        (lambda files: files.update({core: b""}), f"RECORD: {core}"),
        (
            edit(f"{about}/METADATA", b"\nRequires-Dist: numpy", b"\nRequires-Dist: six\nRequires-Dist: numpy"),
            "NumPy alone",
        ),
        (edit(f"{about}/METADATA", b"\nLicense-Expression: Apache-2.0", b""), "License-Expression is None"),
    ]:
        assert any(found in line for line in problems(rewritten(wheel, tmp_path, change))), found
    assert problems(rewritten(wheel, tmp_path, lambda files: None)) == []


def test_the_wheel_needs_numpy_alone(wheel):
    file = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
    text = file.read(metadata).decode()
    required = [line for line in text.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert len(required) == 1 and "numpy" in required[0]
    assert re.search(r"^Name: fastinit-weights$", text, re.MULTILINE)


def test_an_installed_wheel_fills(installed, tmp_path):
    import fastinit
    from fastinit.adapters import numpy as init

    python, site = installed
    digest, place, version = smoke(python, tmp_path)
    import hashlib

    assert digest == hashlib.sha256(init.he_normal((300, 200), key=0).tobytes()).hexdigest()
    assert Path(place) == site / "fastinit" and version == fastinit.__version__


def test_the_extension_exports_its_entry_alone(installed):
    if not sys.platform.startswith("linux") or shutil.which("nm") is None:
        pytest.skip("needs nm and ELF")
    (extension,) = (installed[1] / "fastinit").glob("_core*.so")
    symbols = run("nm", "--dynamic", "--defined-only", extension).split("\n")
    assert [line.split()[-1] for line in symbols if line] == ["PyInit__core"]
    needed = run("nm", "--dynamic", "--undefined-only", extension)
    assert not re.search(r"\b(?:sqrtf?|expf?|logf?|sinf?|cosf?|powf?|GOMP_\w+|omp_\w+)(?:@|$)", needed, re.MULTILINE)


def test_an_editable_install_fills_and_follows_the_source(source, new_environment, tmp_path):
    python, site = new_environment()
    tree = tmp_path / "tree"
    shutil.copytree(source, tree)
    program = "import mesonpy, sys; print(mesonpy.build_editable(sys.argv[1], {'build-dir': sys.argv[2]}))"
    out = tmp_path / "out"
    out.mkdir()
    name = run(sys.executable, "-c", program, out, tmp_path / "build", cwd=tree).splitlines()[-1]
    with zipfile.ZipFile(out / name) as file:
        file.extractall(site)
    digest, place, _ = smoke(python, tmp_path)
    assert Path(place) == tree / "fastinit"
    init = tree / "fastinit/__init__.py"
    init.write_text(re.sub(r'__version__ = ".*"', '__version__ = "0.0.edited"', init.read_text()))
    assert smoke(python, tmp_path) == [digest, place, "0.0.edited"]


def test_an_editable_install_as_it_is_documented(source, new_environment, tmp_path):
    """The commands of CONTRIBUTING.md, without those that ask an index: their packages are borrowed."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    block = re.search(r"an editable install .*?\n\n((?:    .+\n)+)", text)[1]
    commands = [line.strip() for line in block.splitlines()]
    assert [command.split()[0] for command in commands] == ["python3", ".", "pip", "pip"]
    assert "meson ninja cython numpy" in commands[2] and "--no-build-isolation -e" in commands[3]
    tree = tmp_path / "tree"
    shutil.copytree(source, tree)
    python, site = new_environment()
    (tree / ".venv").symlink_to(python.parent.parent)
    for tool in ("meson", "ninja", "cython"):
        if not (found := shutil.which(tool, path=Path(sys.executable).parent)):
            pytest.skip(f"needs {tool}")
        (python.parent / tool).symlink_to(found)
    install = "python -m pip install --no-deps --no-index --quiet --no-build-isolation -e ."
    (site / "pip.pth").write_text(str(Path(pytest.importorskip("pip").__file__).parents[1]))
    program = "import fastinit; print(fastinit.__file__); print(fastinit._core.__file__)"
    script = f"""
set -e
{commands[1]}
{install}
python -c '{program}'
touch fastinit/_core.pyx fastinit/kernels/narrow.c meson.build
python -c '{program}'
"""
    shell = {"PATH": os.pathsep.join(["/usr/local/bin", "/usr/bin", "/bin"]), "HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", script], cwd=tree, env=shell, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    places = done.stdout.split()
    assert places[::2] == [str(tree / "fastinit/__init__.py")] * 2
    assert all(str(tree / "build") in place for place in places[1::2]), places
