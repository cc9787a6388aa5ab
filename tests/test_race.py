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
# Who races in which job.
EVERYWHERE = ("torch", "TensorFlow", "Keras on TensorFlow", "JAX, threefry", "JAX, rbg")
ARRAYS = ("NumPy, SFC64", "NumPy, PCG64", "randomgen, Romu", "parallel-numpy-rng", "mtalg", "Numba")
MKL = ("MKL, SFMT19937", "MKL, Philox", "MKL, Philox, in cache")
PEERS = {
    "uniform float32": {*EVERYWHERE, *ARRAYS},
    "normal float32": {*EVERYWHERE, *ARRAYS},
    "truncated normal float32": {*EVERYWHERE, "SciPy truncnorm"},
    "uniform float64": {*EVERYWHERE, *ARRAYS, *MKL},
    "normal float64": {*EVERYWHERE, *ARRAYS, *MKL},
    "normal bfloat16": {*EVERYWHERE},
}
# What must be installed for a peer whose first word is not its module.
MODULES = {"MKL": "mkl_random", "parallel-numpy-rng": "parallel_numpy_rng"}
HIDDEN = (
    "torch", "tensorflow", "keras", "jax", "numba", "mkl_random", "mtalg", "parallel_numpy_rng", "randomgen", "scipy",
    "transformers", "rich",
)  # fmt: skip


def run(folder, *options, fakes=None):
    """A quick race.py in a process of its own, for which `fakes` are the modules of their names."""
    for name, text in (fakes or {}).items():
        (folder / f"{name}.py").write_text(text)
    command = [sys.executable, str(BENCHMARKS / "race.py"), "--quick", *options]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", timeout=300, env=environment, cwd=folder, check=False
    )


def race(folder, *options, fakes=None):
    """What race.py prints, and the record that it writes."""
    record = folder / "race.json"
    done = run(folder, "--json", str(record), *options, fakes=fakes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout, json.loads(record.read_text())


def missing(*names):
    """Modules that cannot be imported."""
    return {name: f"raise ImportError({name!r})\n" for name in names}


def is_installed(peer):
    word = peer.replace(",", " ").split()[0]
    names = [MODULES.get(word, word.lower())] + ["tensorflow"] * (word == "Keras")
    return all(map(importlib.util.find_spec, names))


def check(record):
    rows = record["figures"]
    barred = {row["what"]: row["bar"]["limit"] for row in rows if row["section"] == "The last factor"}
    assert len(barred) == len(BARS)
    for start, limit in BARS.items():
        assert [found for what, found in barred.items() if what.startswith(start)].count(limit), start
    for row in rows:
        assert row["skipped"] or (row["samples"] and min(row["samples"]) > 0), row
        assert bool(row["peer"]) == bool(row["job"]) == (row["section"] != "The last factor")
    for job, peers in PEERS.items():
        assert sorted(row["peer"] for row in rows if row["job"] == job) == sorted(peers)
    assert record["threads"] >= 1 and record["processor"] and record["versions"]["fastinit"]


def test_every_row_is_measured_and_written(tmp_path):
    pytest.importorskip("matplotlib", reason="the chart needs matplotlib")
    table, chart = tmp_path / "race.md", tmp_path / "race.svg"
    output, record = race(tmp_path, "--markdown", str(table), "--chart", str(chart))
    check(record)
    words, written, drawn = " ".join(output.split()), table.read_text(), chart.read_text()
    for section in ("The last factor", *PEERS):
        assert section in words and f"**{section}**" in written
    assert drawn.lstrip().startswith("<?xml")
    for row in record["figures"]:
        assert row["what"] in written
        if row["peer"]:
            assert row["peer"].split(",")[0].split()[0] in drawn
            assert bool(row["skipped"]) != is_installed(row["peer"]), row
    numpy = record["versions"]["numpy"]
    assert f"NumPy {numpy}, SFC64" in drawn
    if hasattr(os, "sched_setaffinity"):
        assert "pinned to processor" in words


def test_missing_peers_are_skipped_with_a_reason(tmp_path):
    output, record = race(tmp_path, fakes=missing(*HIDDEN))
    check(record)
    for row in record["figures"]:
        if not row["peer"].startswith("NumPy") and "memset" not in row["what"] and "two threads" not in row["what"]:
            assert "not installed" in row["skipped"] or "ImportError" in row["skipped"], row
        elif row["peer"]:
            assert not row["skipped"]
    assert output.isascii()


def test_a_peer_that_is_missing_takes_no_other_with_it(tmp_path):
    pytest.importorskip("tensorflow", reason="it is what Keras might take with it", exc_type=ImportError)
    _, record = race(tmp_path, "--section", "uniform float64", "--only", "TensorFlow", fakes=missing("keras"))
    tensorflow, keras = record["figures"]
    assert not tensorflow["skipped"] and "keras" in keras["skipped"]


def generator(lines):
    """A module in the place of parallel_numpy_rng, whose generator does this for every array."""
    return f"""import time
class Generator:
    def random(self, out, **options):
        {lines}
    standard_normal = random
def default_rng(seed):
    return Generator()
"""


@pytest.mark.parametrize(
    ("lines", "wins"), [("pass", True), ("time.sleep(0.2)", False)], ids=["a fast one", "a slow one"]
)
def test_who_is_faster_is_shown(tmp_path, lines, wins):
    table = tmp_path / "race.md"
    options = ("--section", "uniform float32", "--only", "parallel-numpy-rng", "--markdown", str(table))
    output, record = race(tmp_path, *options, fakes={"parallel_numpy_rng": generator(lines)})
    (row,) = record["figures"]
    assert len(row["samples"]) >= 5 and (row["value"] < 1) == wins
    for text in (output, table.read_text()):
        assert ("peer wins" in text) == wins


def test_a_peer_that_fails_is_skipped_with_its_reason(tmp_path):
    failing = {"mtalg": "raise RuntimeError('too old')\n", "parallel_numpy_rng": generator("raise ValueError('no')")}
    _, record = race(tmp_path, "--section", "uniform float64", "--only", "m", fakes=failing)
    reasons = {row["peer"]: row["skipped"] for row in record["figures"]}
    assert "RuntimeError: too old" in reasons["mtalg"] and "ValueError: no" in reasons["parallel-numpy-rng"]
    assert not reasons["randomgen, Romu"] or not is_installed("randomgen")


def test_memory_that_nobody_has_filled_gives_no_warning(tmp_path):
    fake = """import sys, types
import numpy as np
class MultithreadedRNG:
    def __init__(self, **options):
        pass
    def random(self, size, dtype):
        return np.full(size, 1e300).astype(dtype)  # as mtalg does to what an empty float64 array holds
sys.modules["mtalg.random"] = types.ModuleType("mtalg.random")
sys.modules["mtalg.random"].MultithreadedRNG = MultithreadedRNG
MultithreadedRNG.standard_normal = MultithreadedRNG.random
"""
    _, record = race(tmp_path, "--section", "uniform float32", "--only", "mtalg", fakes={"mtalg": fake})
    (row,) = record["figures"]
    assert row["samples"] and "converts an empty float64 array" in row["note"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--only", "nobody"), "no row has that name"),
        (("--only", "memset", "--chart", "race.svg"), "only rows with a bar"),
        (("--only", "NumPy", "--chart", "race.svg"), "matplotlib is not installed"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_race(tmp_path, options, says):
    done = run(tmp_path, *options, fakes=missing("matplotlib"))
    assert done.returncode == 2 and says in done.stderr and not done.stdout


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
