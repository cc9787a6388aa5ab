"""Runs tests with other versions of fastinit's dependencies; `python -m tools.versions oldest` runs one row.

Each row below is a separate environment in `build/versions/`, with the package built for its Python, and test files
that must pass there. A row without an installed Python is skipped with a message.
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
# Excluded: files that need packages missing there, or that read the whole documentation.
CORE = tuple(
    f"tests/{path.name}"
    for path in sorted((ROOT / "tests").glob("test_*.py"))
    if path.name not in ("test_code_blocks.py", "test_doctests.py")
)
LAW = "tests/adapters/test_framework_law.py"


TORCH = ("tests/adapters/torch", "tests/models", "tests/audits")


class Row(NamedTuple):
    """An environment and its tests."""

    python: str
    requirements: tuple[str, ...]
    tests: tuple[str, ...]


ROWS = {
    "oldest": Row(
        "3.11", ("numpy==1.26.*", "numba==0.60.*"), (*CORE, "tests/adapters/test_numpy.py", "tests/adapters/numba")
    ),
    # flatbuffers: with it JAX writes exported functions
    "jax0.7": Row("3.11", ("jax==0.7.2", "flatbuffers"), ("tests/adapters/test_jax.py", LAW)),
    "keras3.10": Row("3.11", ("keras==3.10.0", "jax==0.7.2"), ("tests/adapters/test_keras.py", LAW)),
    "keras3.10tf": Row(
        "3.11", ("keras==3.10.0", "tensorflow-cpu==2.18.*", "scipy"), ("tests/adapters/test_keras.py", LAW)
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
    """Runs a command with one thread per library, without variables of this environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FASTINIT_", "PYTHON"))}
    kept |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [str(word) for word in command], cwd=ROOT, env=kept, capture_output=True, text=True, check=False
    )


def run(name: str, row: Row) -> bool:
    """Creates a row's environment, runs its tests and prints a line. True if they pass or cannot run here."""
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
    versions = re.findall(r"^((?:numpy|numba|jax|keras|tensorflow_cpu|torch)==\S+)", packages, re.MULTILINE)
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
