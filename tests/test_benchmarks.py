"""The benchmarks run: the table of figures with and without its optional peers, and the asv suite."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# The rows that the project promises, and how many figures each has.
PROMISED = {
    "uniform against torch": 1,
    "normal against torch normal_": 1,
    "truncated normal +-2 sigma against torch trunc_normal_": 1,
    "bfloat16 normal against torch": 1,
    "uniform against memset with the same threads": 1,
    "uniform against memset of zeros with the same threads": 1,
    "target x86_v3:": 2,
    "target baseline:": 2,
    "two threads against one": 2,
    "float64 normal against NumPy": 1,
    "one 16x16": 2,
    "a column shard": 2,
    "orthogonal 1024": 1,
    "orthogonal 4096": 1,
    "extra memory": 1,
    "init.": 9,
    "16 x Linear": 1,
    "GPT-2 XL": 1,
    "a 1/64 shard": 2,
    "a shard's memory": 1,
    "Keras on tensorflow": 5,
    "Keras on jax": 5,
    "Keras on torch": 5,
    "JAX adapter": 2,
    "Numba fill": 2,
}
FRAMEWORKS = ("keras", "jax", "numba")  # each with a section, measured in processes of their own
NEED_TORCH = 33


def figures(folder: Path, *options: str, hidden: tuple[str, ...] = ()) -> tuple[str, list[dict]]:
    """What figures.py prints and records, in a process where the modules in `hidden` cannot be imported."""
    for name in hidden:
        (folder / f"{name}.py").write_text(f"raise ImportError({name!r})\n")
    record = folder / "figures.json"
    command = [sys.executable, str(BENCHMARKS / "figures.py"), "--quick", "--json", str(record), *options]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout, json.loads(record.read_text())["figures"]


def needs_torch(row: dict) -> bool:
    if row["section"] in ("PyTorch adapter", "CUDA device"):
        return True
    return "torch" in row["what"] and "Keras" not in row["section"]


def needs_framework(row: dict) -> bool:
    return row["section"].split()[0] in ("Keras", "JAX", "Numba")


def check_rows(output: str, rows: list[dict]) -> None:
    words = " ".join(output.split())
    for row in rows:
        assert row["skipped"] or (row["samples"] and min(row["samples"]) >= 0), row
        assert row["what"].split(":")[0].split(" with out=")[0].rsplit(" ", 1)[0] in words
    for start, count in PROMISED.items():
        assert sum(row["what"].startswith(start) and row["bar"] is not None for row in rows) == count, start
    assert any(row["section"] == "Fresh memory" for row in rows)
    on_device = [row for row in rows if row["section"] == "CUDA device"]
    assert len(on_device) == 9 and all(row["bar"] is None for row in on_device)  # torch wins some of them
    assert len({row["skipped"] for row in on_device}) == 1  # all are measured, or all are skipped for one reason


def test_every_row_is_measured(tmp_path):
    output, rows = figures(tmp_path, "--markdown")
    check_rows(output, rows)
    has_torch = importlib.util.find_spec("torch") is not None
    skipped = [row["skipped"] for row in rows if needs_torch(row)]
    assert len(skipped) == NEED_TORCH
    assert has_torch or set(skipped) == {"torch is not installed"}
    assert not has_torch or "torch is not installed" not in skipped
    if all(map(importlib.util.find_spec, (*FRAMEWORKS, "torch", "tensorflow"))):
        assert not [row["skipped"] for row in rows if needs_framework(row) and row["skipped"]]


def test_peers_and_rich_may_be_missing(tmp_path):
    output, rows = figures(tmp_path, hidden=("torch", "rich", *FRAMEWORKS))
    check_rows(output, rows)
    for row in rows:
        assert bool(row["skipped"]) or not needs_framework(row), row
        assert needs_torch(row) == (row["skipped"] == "torch is not installed"), row
    assert output.count("torch is not installed") == NEED_TORCH
    assert output.isascii()


def test_rich_draws_the_same_rows(tmp_path):
    pytest.importorskip("rich")
    output, rows = figures(tmp_path, hidden=("torch", *FRAMEWORKS))
    assert len(rows) == 75
    assert output.count("skipped") == sum(bool(row["skipped"]) for row in rows)


def test_a_rehearsal_of_a_large_model():
    for name in ("torch", "torch.distributed"):
        pytest.importorskip(name, reason="torch is not installed")
    options = ["--layers", "2", "--ranks", "3", "--checks", "300"]
    command = [sys.executable, str(BENCHMARKS / "rehearsal.py"), *options]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("100 of 100 elements as defined") == 3


@pytest.fixture
def growth():
    spec = importlib.util.spec_from_file_location("growth", BENCHMARKS / "growth.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_a_temporary_would_be_seen(growth):
    import numpy as np

    assert growth.growth(lambda: np.ones(2**23)) > 60 * 2**20
    assert max(growth.measured(2, 2**24).values()) < 2 * 2**20


def test_the_suite_passes_asv_check():
    if importlib.util.find_spec("asv") is None:
        pytest.skip("asv is not installed")
    command = [sys.executable, "-m", "asv", "check", "--python=same"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, cwd=BENCHMARKS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No problems found" in done.stdout
