"""The race: every promised row, what it writes, peers that are missing and peers that win."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# The rows with a bar, by what each is at least.
BARS = {
    "uniform against memset": 0.7,
    "normal against memset": 0.4,
    "uniform against torch": 18,
    "normal against torch": 14,
    "truncated normal against torch": 180,
    "truncated normal against Keras on TensorFlow": 40,
    "bfloat16 normal against torch": 18,
    "normal float64 against MKL": 1.5,
    "target x86_v3: uniform": 10,
    "target x86_v3: normal": 7,
    "16x16 xavier_uniform_": 1.0,
    "orthogonal 1024": 1.8,
    "orthogonal 4096": 1.8,
    "GPT-2 XL constructed under patched()": 8,
    "two threads against one: uniform": 1.9,
    "two threads against one: normal": 1.9,
}
HIDDEN = (
    "torch", "tensorflow", "keras", "jax", "numba", "mkl_random", "mtalg", "parallel_numpy_rng", "randomgen", "scipy",
    "transformers", "rich",
)  # fmt: skip


def race(folder, *options, hidden=()):
    """What race.py prints, and the record that it writes."""
    for name in hidden:
        (folder / f"{name}.py").write_text(f"raise ImportError({name!r})\n")
    record = folder / "race.json"
    command = [sys.executable, str(BENCHMARKS / "race.py"), "--quick", "--json", str(record), *options]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(record.read_text())


def check(record):
    rows = record["figures"]
    barred = {row["what"]: row["bar"]["limit"] for row in rows if row["section"] == "The last factor"}
    assert len(barred) == len(BARS)
    for start, limit in BARS.items():
        assert [found for what, found in barred.items() if what.startswith(start)].count(limit), start
    for row in rows:
        assert row["skipped"] or (row["samples"] and min(row["samples"]) > 0), row
        assert bool(row["peer"]) == bool(row["job"]) == (row["section"] != "The last factor")
    assert record["threads"] >= 1 and record["processor"] and record["versions"]["fastinit"]


def test_every_row_is_measured_and_written(tmp_path):
    pytest.importorskip("matplotlib", reason="the chart needs matplotlib")
    table, chart = tmp_path / "race.md", tmp_path / "race.svg"
    output, record = race(tmp_path, "--markdown", str(table), "--chart", str(chart))
    check(record)
    words, written = " ".join(output.split()), table.read_text()
    peers = {row["peer"] for row in record["figures"]}
    for section in ("The last factor", "uniform float32", "normal float64"):
        assert section in words and f"**{section}**" in written
    assert chart.read_text().lstrip().startswith("<?xml")
    for peer in filter(None, peers):
        assert peer in written and peer.split(",")[0] in chart.read_text()
    if importlib.util.find_spec("torch"):
        assert not [row for row in record["figures"] if row["skipped"] and row["peer"] == "torch"]
    assert not [row for row in record["figures"] if row["skipped"] and row["peer"].startswith("NumPy")]


def test_missing_peers_are_skipped_with_a_reason(tmp_path):
    output, record = race(tmp_path, hidden=HIDDEN)
    check(record)
    for row in record["figures"]:
        if not row["peer"].startswith("NumPy") and "memset" not in row["what"] and "two threads" not in row["what"]:
            assert "not installed" in row["skipped"] or "ImportError" in row["skipped"], row
        elif row["peer"]:
            assert not row["skipped"]
    assert output.isascii()


@pytest.fixture
def report():
    spec = importlib.util.spec_from_file_location("report", BENCHMARKS / "report.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["report"] = module  # its dataclasses look there for their annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules["report"]


def test_a_peer_that_wins_is_shown_winning(report):
    won = report.Figure("a job", "a peer", "x", None, (2.0, 3.0)).raced("a job", "a peer")
    lost = report.Figure("a job", "a peer", "x", None, (0.5, 0.9, 3.0)).raced("a job", "a peer")
    assert won.outcome == "" and lost.outcome == "peer wins"
    for text in (report.markdown([lost], []), report.plain([lost], [])):
        assert "peer wins" in text
    assert report.Figure("a section", "no race", "x", None, (0.5,)).outcome == ""
