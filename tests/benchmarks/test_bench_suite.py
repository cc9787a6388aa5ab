"""The asv suite: each benchmark runs once on its smallest parameters, skips without its peers, and leaves nothing.

The benchmarks run in processes of their own, for which this file is the program: Keras has one backend in a process,
and the frameworks' threads do not go well with tests that fork.
"""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import math
import os
import pkgutil
import re
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest

import fastinit

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MODULES = sorted(path.stem for path in BENCHMARKS.glob("bench_*.py"))
EVERY_FILE = sorted(path.stem for path in BENCHMARKS.glob("[!_]*.py"))
BENCHMARK = re.compile(r"(time|timeraw|peakmem|track)_")
PEERS = ("torch", "tensorflow", "keras", "jax", "numba", "ml_dtypes", "flax", "transformers")
TOOLS = ("rich", "matplotlib", "asv", "psutil", "scipy", "mpmath", "tqdm")
BACKENDS = ("tensorflow", "jax", "torch")
OF_PEERS = ("bench_torch", "bench_programs", "bench_keras", "bench_jax", "bench_numba")
LOADING = (*OF_PEERS, "bench_import.Adapter")  # frameworks, which takes most of the time of all
VARIED = ("peer", "library", "framework", "way")  # who does it: each of them runs
SECONDS = 300


# In the processes


def suite(name=""):
    """The package of the benchmarks, or a module of it; its parent, where the sources lie, stays off the path."""
    if "benchmarks" not in sys.modules:
        spec = importlib.machinery.PathFinder.find_spec("benchmarks", [str(BENCHMARKS.parent)])
        sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["benchmarks"])
    return importlib.import_module(f"benchmarks.{name}" if name else "benchmarks")


def classes():
    """(name, class, names of its benchmarks) of the whole suite."""
    for module in MODULES:
        for name, found in vars(suite(module)).items():
            if inspect.isclass(found) and found.__module__ == f"benchmarks.{module}" and not name.startswith("_"):
                methods = [m for m, value in inspect.getmembers(found, inspect.isfunction) if BENCHMARK.match(m)]
                yield f"{module}.{name}", found, methods


def smallest(axis):
    """The least number or shape; of names, the first."""
    numbers = [value for value in axis if not isinstance(value, str)]
    return min(numbers, key=lambda value: math.prod(value) if isinstance(value, tuple) else value, default=axis[0])


def choices(found, backend):
    """The smallest parameters of a class, and the same for each that it measures."""
    axes, names = getattr(found, "params", ()), getattr(found, "param_names", ())
    base = [backend if name == "backend" else smallest(axis) for name, axis in zip(names, axes, strict=True)]
    yield tuple(base)
    for i, name in enumerate(names):
        if name in VARIED:
            yield from (tuple([*base[:i], value, *base[i + 1 :]]) for value in axes[i] if value != base[i])


def value_of(benchmark, method, params):
    """What a benchmark gives; of code for another interpreter, what running it there gives."""
    result = getattr(benchmark, method)(*params)
    if method.startswith("timeraw_"):
        code = "\n".join(reversed(result)) if isinstance(result, tuple) else result
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=SECONDS)
    return float(result) if method.startswith("track_") else None


def repeats(found, methods):
    """Whether another class of the suite has all of these benchmarks, with other parameters."""
    bases = [base for base in found.__mro__[1:-1] if not base.__name__.startswith("_")]
    return bool(bases) and not any(method in vars(found) for method in methods)


def measured(name, found, methods, params):
    """A row for each benchmark of a class: its value, why it was skipped, or how it failed."""
    benchmark, skipped, setup_only = found(), None, os.environ.get("SETUP_ONLY") or repeats(found, methods)
    where = {"class": name, "params": list(params)}
    try:
        if hasattr(benchmark, "setup"):
            benchmark.setup(*params)
    except NotImplementedError as reason:
        skipped = str(reason)
    for method in methods:
        row = {**where, "method": method, "skipped": skipped, "value": None, "ran": skipped is None and not setup_only}
        if row["ran"]:
            row["value"] = value_of(benchmark, method, params)
        yield row
    if hasattr(benchmark, "teardown"):  # asv calls it after a skip too
        benchmark.teardown(*params)


def main(backend):
    """Prints a row for everything that runs in one process: "fastinit" or "peers", a backend of Keras, or "any"."""
    suite("counters").ROUNDS = 1
    for name, found, methods in classes():
        if "backend" in getattr(found, "param_names", ()):
            processes = (*BACKENDS, "any")
        else:
            processes = ("peers" if name.startswith(LOADING) else "fastinit", "any")
        if backend not in processes:
            continue
        for params in choices(found, backend if backend in BACKENDS else BACKENDS[0]):
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    rows = list(measured(name, found, methods, params))
            except Exception:
                rows = [{"class": name, "params": list(params), "failed": traceback.format_exc()}]
            for row in rows:
                print(json.dumps(row), flush=True)


def describe():
    """Prints the parameters of every class."""
    for name, found, methods in classes():
        row = {"class": name, "methods": methods, "doc": found.__doc__}
        for attribute in ("params", "param_names"):
            row[attribute] = getattr(found, attribute, ())
        print(json.dumps(row))


# In the tests


def program(folder, *arguments, hidden=(), **environment):
    """The rows that this file prints as a program, and the files that it left in its home and working folders."""
    hiding, home, temporary = (folder / name for name in ("hiding", "home", "temporary"))
    for path in (hiding, home, temporary):
        path.mkdir()
    for name in hidden:
        (hiding / f"{name}.py").write_text(f"raise ImportError({name!r})\n")
    given = {name: value for name, value in os.environ.items() if not name.startswith(("FASTINIT_", "KERAS_", "XDG_"))}
    given |= {"PYTHONPATH": str(hiding), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(home), "TMPDIR": str(temporary)}
    given["MPLCONFIGDIR"] = str(folder.parent / "matplotlib")  # Keras imports it, and it looks for fonts once
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        env=given | environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()], [*home.rglob("*")]


def files():
    """What lies in the folder of the benchmarks, but for Python's own compiled files."""
    found = (path for path in BENCHMARKS.rglob("bench_*") if path.is_file() and path.suffix != ".pyc")
    return {(path, path.stat().st_mtime_ns) for path in found}


def check(rows):
    """Nothing failed, and what is tracked is a positive number."""
    assert not [row for row in rows if "failed" in row], "\n".join(row["failed"] for row in rows if "failed" in row)
    for row in rows:
        if row["method"].startswith("track_") and row["ran"]:
            assert math.isfinite(row["value"]) and row["value"] > 0, row


@pytest.mark.parametrize("chosen", ["", "all"])
def test_parameters_have_names(tmp_path, chosen):
    rows, _ = program(tmp_path, "describe", FASTINIT_BENCH=chosen)
    assert {row["class"].split(".")[0] for row in rows} == set(MODULES)
    for row in rows:
        assert row["methods"], f"{row['class']} measures nothing"
        assert len(row["params"]) == len(row["param_names"]) == len(set(row["param_names"])), row
        for axis in row["params"]:
            assert isinstance(axis, list) and axis, row
            assert len({str(value) for value in axis}) == len(axis), row
        assert row["doc"], f"{row['class']} does not say what it measures"


@pytest.mark.parametrize(
    "backend", ["fastinit", *(pytest.param(name, marks=pytest.mark.long) for name in ("peers", *BACKENDS))]
)
def test_every_benchmark_runs(tmp_path, backend):
    before = files()
    rows, left = program(tmp_path, backend)
    check(rows)
    assert any(row["ran"] for row in rows)
    assert not left and files() == before
    for row in rows:
        allowed = r"does not run here|no cycle counter here|not enough memory|processor only|/proc|huge pages|installed"
        assert row["skipped"] is None or re.search(allowed, row["skipped"]), row
    missing = {row["skipped"] for row in rows if row["skipped"] and row["skipped"].endswith("is not installed")}
    assert missing <= {f"{name} is not installed" for name in PEERS if importlib.util.find_spec(name) is None}


def test_peers_may_be_missing(tmp_path):
    rows, _ = program(tmp_path, "any", hidden=PEERS, SETUP_ONLY="1")
    check(rows)
    of_peers = [row for row in rows if row["class"].startswith(OF_PEERS)]
    assert {row["class"].split(".")[0] for row in of_peers} == set(OF_PEERS)
    assert all((row["skipped"] or "").endswith("is not installed") for row in of_peers)
    others = {row["class"] for row in rows if row["skipped"] is None}
    assert {f"bench_{name}" for name in ("fill", "small", "shards", "memory", "structured", "import", "models")} <= {
        name.split(".")[0] for name in others
    }
    peers = [row for row in rows if any(str(value).split()[0] == "torch" for value in row["params"])]
    assert peers and all(row["skipped"] for row in peers)


def test_asv_can_import_every_file_without_peers(tmp_path):
    rows, _ = program(tmp_path, "import", *EVERY_FILE, hidden=(*PEERS, *TOOLS))  # asv imports every module here
    assert rows == EVERY_FILE


def test_asv_leaves_the_race_and_the_dashboard_alone():
    """They may use what older commits lack, since a folder without an __init__.py is no package to asv."""
    found = {module.name for module in pkgutil.iter_modules([str(BENCHMARKS)])}
    assert found == set(EVERY_FILE) and (BENCHMARKS / "race").is_dir() and (BENCHMARKS / "dashboard").is_dir()


def test_the_suite_passes_asv_check():
    pytest.importorskip("asv", reason="asv is not installed")
    command = [sys.executable, "-m", "asv", "check", "--python=same"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=BENCHMARKS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No problems found" in done.stdout


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_a_temporary_would_be_seen():
    growth = suite("growth")
    growth.give_back()  # what tests before this one freed would hide it
    assert growth.growth(lambda: np.ones(2**23)) > 60 * 2**20
    assert max(growth.measured(2, 2**24).values()) < 2 * 2**20


def test_the_summary_is_what_the_readme_says():
    quick = suite("bench_summary").QUICK
    assert f"'{quick}'" in (BENCHMARKS / "README.md").read_text()
    assert re.search(quick, "bench_summary.Fill.time_fill('uniform', 'float32', 'x86_v4', 16777216, 'all')")
    assert not any(re.search(quick, f"{module}.Fill.time_fill") for module in MODULES if module != "bench_summary")


def test_the_readme_names_every_file():
    text = (BENCHMARKS / "README.md").read_text()
    assert [name for name in MODULES if f"`{name}.py`" not in text] == []


def test_targets_of_the_suite_are_those_of_the_library():
    assert set(fastinit.targets.compiled()) <= set(suite("bench_fill").TARGETS)


def test_a_counter_that_does_not_exist_is_skipped():
    counters = suite("counters")
    with pytest.raises(NotImplementedError, match="no cycle counter here"):
        counters.Counter((12345, 0))


def test_a_counter_counts():
    counters = suite("counters")
    try:
        counter = counters.Counter(counters.TASK_CLOCK)
    except NotImplementedError as reason:
        pytest.skip(str(reason))
    few, many = (counter.of(lambda n=n: sum(range(n))) for n in (10, 10**6))
    counter.close()
    assert 0 < few < many
    assert many > 10**5  # nanoseconds


def test_cycles_are_counted_or_skipped():
    counters = suite("counters")
    try:
        counter = counters.Counter()
    except NotImplementedError as reason:
        assert "no cycle counter here" in str(reason)
    else:
        assert counter.of(lambda: sum(range(10**5))) > 10**5
        counter.close()


def test_ratios_and_rates():
    counters = suite("counters")

    def short():
        return sum(range(100))

    def long():
        return sum(range(100_000))

    assert 0 < counters.over(short, long) < 0.1
    assert counters.over(long, short) > 10
    assert 0 < counters.seconds(short) < counters.seconds(long)
    assert counters.gigabytes_per_second(short, 100) > 0


def test_what_prepares_once_and_calls_a_thousand_times():
    counters = suite("counters")

    class Benchmark:
        prepared = called = 0

        @counters.once
        def setup(self, n):
            self.prepared += 1

        @counters.thousand
        def time_1000(self, n):
            self.called += 1

    benchmark = Benchmark()
    benchmark.setup(1)
    benchmark.setup(1)
    benchmark.time_1000(1)
    assert (benchmark.prepared, benchmark.called) == (1, 1000)
    benchmark.setup(2)
    assert benchmark.prepared == 2


if __name__ == "__main__":
    if sys.argv[1] == "describe":
        describe()
    elif sys.argv[1] == "import":
        for module in sys.argv[2:]:
            suite(module)
            print(json.dumps(module))
    else:
        main(sys.argv[1])
