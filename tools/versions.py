"""Runs tests on other versions of what fastinit stands on; `python -m tools.versions oldest` runs one row.

Each row below is an environment of its own in `build/versions/`, with the package built for its Python, and files of
tests that must pass there. A row whose Python is not on this machine is skipped and says so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "build/versions"
TOOLS = ("pytest>=8", "hypothesis>=6.100", "mpmath>=1.3", "ml_dtypes>=0.5")
# Left out: files that need what the environments lack, or that read the whole documentation.
CORE = tuple(
    f"tests/{path.name}"
    for path in sorted((ROOT / "tests").glob("test_*.py"))
    if path.name not in ("test_code_blocks.py", "test_doctests.py")
)


TORCH = ("tests/adapters/torch", "tests/models", "tests/audits")


class Row(NamedTuple):
    """An environment and what must pass in it."""

    python: str
    requirements: tuple[str, ...]
    tests: tuple[str, ...]


ROWS = {
    "oldest": Row(
        "3.11", ("numpy==1.26.*", "numba==0.60.*"), (*CORE, "tests/adapters/test_numpy.py", "tests/adapters/numba")
    ),
    **{
        f"torch{minor}": Row("3.11", (f"torch=={minor}.*", "transformers>=5,<6", "scipy>=1.11"), TORCH)
        for minor in ("2.9", "2.14")
    },
    **{
        f"python{minor}": Row(minor, ("numpy",), (*CORE, "tests/adapters/test_numpy.py"))
        for minor in ("3.12", "3.13", "3.14")
    },
}


def interpreter(version: str) -> str | None:
    """The path of a Python that runs and has this version."""
    for name in (sys.executable, f"python{version}"):
        if found := shutil.which(name):
            program = "import sys; print('%d.%d' % sys.version_info[:2])"
            done = subprocess.run([found, "-c", program], capture_output=True, text=True, check=False)
            if done.stdout.strip() == version:
                return found
    return None


def call(*command: object) -> subprocess.CompletedProcess[str]:
    """A command with one thread for each library and nothing of this environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FASTINIT_", "PYTHON"))}
    kept |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [str(word) for word in command], cwd=ROOT, env=kept, capture_output=True, text=True, check=False
    )


def run(name: str, row: Row) -> bool:
    """Makes the environment of a row, runs its tests and prints a line; whether they pass, or cannot be run here."""
    found = interpreter(row.python)
    if found is None:
        print(f"{name:12} skipped: there is no Python {row.python} here", flush=True)
        return True
    start, folder = time.perf_counter(), HOME / name
    python = folder / "bin/python"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    for command in (  # pytest by its own name: `python -m` would find the sources before the package
        (found, "-m", "venv", "--clear", folder),
        (*pip, *row.requirements, *TOOLS),
        (*pip, "--no-deps", "--force-reinstall", ROOT),
        (folder / "bin/pytest", "-q", "-p", "no:cacheprovider", "-m", "not long", *row.tests),
    ):
        done = call(*command)
        if done.returncode:
            print(
                f"{name:12} {' '.join(map(str, command[1:4]))} failed\n{done.stdout[-6000:]}{done.stderr[-3000:]}",
                flush=True,
            )
            return False
    packages = call(python, "-m", "pip", "freeze").stdout
    versions = re.findall(r"^((?:numpy|numba|torch)==\S+)", packages, re.MULTILINE)
    last = f"{done.stdout.strip().splitlines()[-1]}; {time.perf_counter() - start:.0f} s with the installation"
    print(f"{name:12} Python {row.python}, {', '.join(sorted(versions))}: {last}", flush=True)
    return True


def main(names: list[str]) -> int:
    if unknown := set(names) - ROWS.keys():
        sys.exit(f"The rows are {', '.join(ROWS)}; there is no {', '.join(sorted(unknown))}")
    passed = [run(name, ROWS[name]) for name in names or ROWS]
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
