"""The race: every promised row, what it writes, peers that are missing and peers that win."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
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
# The other rows: the start of their names, and how many of them have a bar.
PROMISED = {
    "uniform against memset of zeros": 1,
    "target baseline:": 2,
    "float64 normal against NumPy": 1,
    "one 16x16": 2,
    "a column shard": 2,
    "extra memory": 1,
    "init.": 8,
    "16 x Linear": 1,
    "GPT-2 XL materialized": 3,
    "a 1/64 shard": 2,
    "a shard's memory": 1,
    "transformers' init_weights": 1,
    "what keyed() adds": 1,
    "initialize_ of GPT-2": 1,
    "verify of GPT-2": 1,
    "InitReader of 1/8": 2,
    "its memory beyond the shard": 2,
    "a call of init.": 3,
    "Keras on tensorflow": 5,
    "Keras on jax": 5,
    "Keras on torch": 5,
    "JAX adapter": 2,
    "Numba fill": 2,
}
# What a section cannot be measured without.
FRAMEWORKS = {
    "PyTorch": "torch",
    "Programs": "torch",
    "CUDA": "torch",
    "Keras": "keras",
    "JAX": "jax",
    "Numba": "numba",
}
FULL = ("torch", "tensorflow", "keras", "jax", "numba", "transformers")
NEED_TORCH = 53
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
HIDDEN = (*FULL, "mkl_random", "mtalg", "parallel_numpy_rng", "randomgen", "scipy", "rich")


def run(folder, *options, fakes=None):
    """A quick race in a process of its own, for which `fakes` are the modules of their names."""
    for name, text in (fakes or {}).items():
        (folder / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "benchmarks.race", "--quick", *options]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", timeout=300, env=environment, cwd=ROOT, check=False
    )


def race(folder, *options, fakes=None):
    """What the race prints, and the record that it writes."""
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


def check(output, record):
    """Every promised row is there, measured or skipped, and is printed."""
    rows, words = record["figures"], " ".join(output.split())
    barred = {row["what"]: row["bar"]["limit"] for row in rows if row["section"] == "The last factor"}
    assert len(barred) == len(BARS)
    for start, limit in BARS.items():
        assert [found for what, found in barred.items() if what.startswith(start)].count(limit), start
    others = [row for row in rows if row["section"] != "The last factor"]
    for start, count in PROMISED.items():
        assert sum(row["what"].startswith(start) and row["bar"] is not None for row in others) == count, start
    for job, peers in PEERS.items():
        assert sorted(row["peer"] for row in rows if row["job"] == job) == sorted(peers)
    for row in rows:
        assert row["skipped"] or (row["samples"] and min(row["samples"]) >= 0), row
        assert bool(row["peer"]) == bool(row["job"]) == (row["section"] in PEERS)
        assert row["section"] in words
        assert row["what"].split(":")[0].split(" with out=")[0].rsplit(" ", 1)[0] in words
        assert row["verdict"] == ("skipped" if row["skipped"] else "")  # a quick run is not judged
    assert any(row["section"] == "Fresh memory" for row in rows)
    on_device = [row for row in rows if row["section"] == "CUDA device"]
    assert len(on_device) == 9 and all(row["bar"] is None for row in on_device)  # torch wins some of them
    assert len({row["skipped"] for row in on_device}) == 1  # all are measured, or all are skipped for one reason
    assert record["threads"] >= 1 and record["processor"] and record["versions"]["fastinit"]


@pytest.mark.long  # a minute; the tests below run a section each
def test_every_row_is_measured_and_written(tmp_path):
    table, chart = tmp_path / "race.md", tmp_path / "race.svg"
    output, record = race(tmp_path, "--set", "all", "--markdown", str(table), "--chart", str(chart))
    written, drawn = table.read_text(), chart.read_text()
    check(written, record)
    for row in record["figures"]:
        assert row["what"] in written and f"**{row['section']}**" in written
        if row["peer"]:
            assert row["peer"].split(",")[0].split()[0] in drawn
            assert bool(row["skipped"]) != is_installed(row["peer"]), row
        framework = FRAMEWORKS.get(row["section"].split()[0])
        if framework and row["section"] != "CUDA device" and all(map(importlib.util.find_spec, FULL)):
            assert not row["skipped"], row
    assert drawn.startswith("<svg") and "prefers-color-scheme: dark" in drawn and "http://www.w3.org" in drawn
    assert f"NumPy {record['versions']['numpy']}, SFC64" in drawn
    if hasattr(os, "sched_setaffinity"):
        assert "pinned to processor" in " ".join(output.split())
    again = run(tmp_path, "--record", str(tmp_path / "race.json"), "--markdown", str(tmp_path / "again.md"))
    assert again.returncode == 0 and (tmp_path / "again.md").read_text() == written


def test_missing_peers_are_skipped_with_a_reason(tmp_path):
    output, record = race(tmp_path, "--set", "all", fakes=missing(*HIDDEN))
    check(output, record)
    for row in record["figures"]:
        named = any(word in row["what"] for word in ("torch", "Keras on TensorFlow", "MKL", "GPT-2"))
        raced = row["peer"] and not row["peer"].startswith("NumPy")
        if named or raced or row["section"].split()[0] in FRAMEWORKS:
            assert "not installed" in row["skipped"], row
        else:
            assert not row["skipped"], row
    assert sum(row["skipped"] == "torch is not installed" for row in record["figures"]) == NEED_TORCH
    assert output.isascii()


def test_a_peer_that_is_missing_takes_no_other_with_it(tmp_path):
    """TensorFlow and Keras on it share a process."""
    tensorflow = """import numpy as np
class random:
    def stateless_uniform(shape, seed, dtype):
        return np.zeros(shape, dtype)
    stateless_normal = stateless_truncated_normal = stateless_uniform
class config:
    class threading:
        set_intra_op_parallelism_threads = int
"""
    fakes = missing("keras") | {"tensorflow": tensorflow}
    _, record = race(tmp_path, "--section", "uniform float64", "--only", "TensorFlow", fakes=fakes)
    tensorflow, keras = record["figures"]
    assert not tensorflow["skipped"] and "keras" in keras["skipped"]


def test_a_process_that_dies_skips_the_rows_that_it_did_not_reach(tmp_path):
    jax = "import sys\nprint('no room', file=sys.stderr)\nsys.exit(3)\n"
    _, record = race(tmp_path, "--section", "normal bfloat16", "--only", "JAX", fakes={"jax": jax})
    assert [row["skipped"] for row in record["figures"]] == ["no room", "no room"]


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
        (("--only", "memset", "--chart", "race.svg"), "only other rows"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_race(tmp_path, options, says):
    done = run(tmp_path, *options)
    assert done.returncode == 2 and says in done.stderr and not done.stdout


def test_the_documents_show_the_record(suite):
    """docs/race.md and the picture are what `--record docs/race.json` writes."""
    report, chart = suite("race.report"), suite("race.chart")
    record = json.loads((ROOT / "docs" / "race.json").read_text())
    figures = [report.Figure.from_dict(row) for row in record["figures"]]
    assert json.loads(json.dumps([figure.as_dict() for figure in figures])) == record["figures"]
    assert report.markdown(figures, []) in (ROOT / "docs" / "race.md").read_text()
    assert chart.drawn(record) == (ROOT / "docs" / "pictures" / "race.svg").read_text(encoding="utf-8")


def test_the_bars_of_the_record_are_those_of_the_table(suite):
    table = {(row.section, row.what): row.bar for row in suite("race.rows").ROWS}
    for row in json.loads((ROOT / "docs" / "race.json").read_text())["figures"]:
        bar = table[row["section"], row["what"]]
        assert (bar and vars(bar)) == row["bar"], row["what"]


def test_the_floors_are_those_of_the_documents(suite):
    text = (ROOT / "docs" / "performance.md").read_text()
    table = text[text.index("### The bars on this processor") : text.index("### A processor with AVX2")]
    floors = [row.floor for row in suite("race.rows").ROWS if row.floor is not None]
    assert len(floors) == 6 and all(f"| {floor:g}x" in table for floor in floors)


def test_rows_have_names_of_their_own(suite):
    rows = suite("race.rows").ROWS
    assert len({(row.section, row.what) for row in rows}) == len(rows)


def test_a_floor_is_told_on_its_processor_only(suite, monkeypatch):
    program = suite("race.__main__")
    (row,) = (row for row in program.ROWS if row.what == "normal against torch")
    lab, found = type("Lab", (), {"quick": False}), program.Result([13.0], "1 ms")
    for processor, told in ((f"a processor ({program.FLOORS})", True), ("another one", False)):
        monkeypatch.setattr(program.side_by_side, "processor", lambda name=processor: name)
        assert ("allows 13.98x" in program.figure(lab, row, found).note) == told


def test_a_peer_that_wins_is_shown_winning(suite):
    report = suite("race.report")
    contest = {"job": "a job", "peer": "a peer"}
    won = report.Figure("a job", "a peer", samples=(2.0, 3.0), **contest)
    lost = report.Figure("a job", "a peer", samples=(0.5, 0.9, 3.0), **contest)
    assert won.outcome == "" and lost.outcome == "peer wins"
    for text in (report.markdown([lost], []), report.plain([lost], [])):
        assert "peer wins" in text
    assert report.Figure("a section", "no race", samples=(0.5,)).outcome == ""


def test_rich_draws_the_same_rows(suite, capsys):
    pytest.importorskip("rich")
    report = suite("race.report")
    bar = report.under(2.0)
    figures = [
        report.Figure("a section", "one that is missed", bar=bar, samples=(3.0,), note="its times"),
        report.Figure("a section", "one that holds", bar=bar, samples=(1.0,)),
        report.Figure("another section", "one without a peer", skipped="it is not installed"),
    ]
    report.show(figures, ["the heading"])
    shown = capsys.readouterr().out
    for text in ("the heading", "a section", "another section", *(one.what for one in figures), "its times", "NO"):
        assert text in shown
    assert "it is not installed" in shown and shown.count("skipped") == 1
