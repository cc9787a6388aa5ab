"""Fastinit against every peer for the same job, in one run: ``python -m benchmarks.race``.

Both run in turn, A B A B, pinned to as many processors as fastinit has threads. Each ratio compares two neighbours: the
peer's time over fastinit's. Below 1 the peer wins, and the table says so. Missing peers, and targets that this
processor does not run, are skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fastinit
from fastinit.files import Outlet

from .. import side_by_side
from . import chart, report
from .lab import Lab, Result
from .report import Figure
from .rows import ENVIRONMENTS, FIGURES, FLOORS, RACE, ROWS, Row

ROOT = Path(__file__).parents[2]
SETS = {"race": RACE, "figures": FIGURES, "all": (*RACE, *FIGURES)}
# Distributions on the index whose versions the heading gives.
DISTRIBUTIONS = (
    *("numpy", "torch", "tensorflow-cpu", "tensorflow", "keras", "jax", "numba", "mkl_random", "mtalg"),
    *("parallel-numpy-rng", "randomgen", "scipy", "transformers"),
)


def figure(lab: Lab, row: Row, found: Result | str) -> Figure:
    """A row with its result, or the reason for a missing one."""
    about = (row.section, row.what, row.unit, row.bar)
    contest = {"job": row.section if row.peer else "", "peer": row.peer}
    if isinstance(found, str):
        return Figure(*about, skipped=found, **contest)
    note = found.note
    if row.floor and FLOORS in side_by_side.processor():
        note += f"; the floor of the kernels allows {row.floor:g}x here"
    return Figure(*about, tuple(found.samples), note, judged=not lab.quick, **contest)


def measured_here(lab: Lab, row: Row) -> Result | str:
    """The result of a row in this process, or the reason for a missing one."""
    try:  # the many contests and the slow frameworks get only as many rounds as they need
        return row.measure(lab.with_rounds(lab.rounds) if row.peer or row.process else lab)
    except NotImplementedError as reason:
        return str(reason)


def measured_apart(lab: Lab, backend: str, numbers: list[int]) -> Iterator[tuple[int, Result | str]]:
    """The results of these rows in a framework's own process; at -1 the reason why others are missing."""
    if importlib.util.find_spec(backend) is None:
        yield -1, f"{backend} is not installed"
        return
    rows = ",".join(map(str, numbers))
    command = [sys.executable, "-m", "benchmarks.race", "--apart", rows, *["--quick"] * lab.quick]
    environment = {**os.environ, **ENVIRONMENTS[backend]}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    for line in done.stdout.splitlines():
        number, found = json.loads(line)
        yield number, found if isinstance(found, str) else Result(*found)
    yield -1, (done.stderr.strip().splitlines() or ["its process failed"])[-1]


def apart(lab: Lab, numbers: Iterable[int]) -> None:
    """Prints the result of each row, in a framework's own process."""
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        tensorflow = side_by_side.optional("tensorflow")
        tensorflow.config.threading.set_intra_op_parallelism_threads(lab.threads)
    for number in numbers:
        with contextlib.redirect_stdout(sys.stderr):  # for the framework's output
            found = measured_here(lab, ROWS[number])
        print(json.dumps((number, found)), flush=True)


def measured(lab: Lab, numbers: list[int]) -> list[Figure]:
    """The rows of these numbers, in their order."""
    found: dict[int, Result | str] = {}
    for number in report.each(numbers, lambda one: f"{ROWS[one].section}, {ROWS[one].what}"):
        row = ROWS[number]
        if not row.process:
            found[number] = measured_here(lab, row)
        elif number not in found:
            together = [one for one in numbers if ROWS[one].process == row.process]
            answers = dict(measured_apart(lab, row.process, together))
            found |= {one: answers.get(one, answers[-1]) for one in together}
    return [figure(lab, ROWS[number], found[number]) for number in numbers]


def versions() -> dict[str, str]:
    """Of everybody who is installed."""
    found = {"fastinit": fastinit.__version__, "Python": ".".join(map(str, sys.version_info[:3]))}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def pin(threads: int) -> str:
    """Pins this process to as many processors as threads, and describes them."""
    try:
        chosen = sorted(os.sched_getaffinity(0))[:threads]
        os.sched_setaffinity(0, chosen)
    except (AttributeError, OSError):
        return "not pinned: this system does not allow it"
    return f"pinned to processor{'s' * (len(chosen) > 1)} {', '.join(map(str, chosen))}"


def run(numbers: list[int], quick: bool) -> dict[str, Any]:
    """The record of a run, as ``--json`` writes it."""
    pinned = pin(fastinit.default_num_threads())
    lab = Lab(quick)  # after it, since threads inherit the processors
    figures = measured(lab, numbers)
    date, processor, installed = str(datetime.datetime.now(datetime.UTC).date()), side_by_side.processor(), versions()
    target, size = fastinit.targets.current(), f"{lab.memory.nbytes / 2**20:g} MiB"
    heading = [
        f"{date}, {processor}, {lab.load} at the start",
        f"target {target}, {lab.threads} threads, {pinned}, buffers of {size}",
        ", ".join(f"{name} {version}" for name, version in installed.items()),
        *["A quick run: too small to be compared with the bars."] * quick,
    ]
    return {
        "date": date,
        "processor": processor,
        "load": lab.load,
        "threads": lab.threads,
        "target": target,
        "versions": installed,
        "heading": heading,
        "figures": [figure.as_dict() for figure in figures],
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.race", description=__doc__.split("\n\n")[0], allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="small buffers, to see that everything runs")
    parser.add_argument("--set", choices=SETS, help="the race (default), the other figures, or all rows")
    parser.add_argument("--section", choices=SETS["all"], help="the rows of one section")
    parser.add_argument("--only", default="", metavar="TEXT", help="the rows whose name contains this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the race there, as SVG")
    parser.add_argument("--record", type=Path, metavar="FILE", help="show what --json wrote, and measure nothing")
    parser.add_argument("--apart", help=argparse.SUPPRESS)  # the rows that a process of its own measures
    options = parser.parse_args(argv)
    if options.apart:
        apart(Lab(options.quick), map(int, options.apart.split(",")))
        return
    sections = [options.section] if options.section else SETS[options.set or "race"]
    numbers = [i for i, row in enumerate(ROWS) if options.only in row.what and row.section in sections]
    # what would fail at the end, after all the measuring, fails here or where the files are opened
    if not numbers:
        parser.error("no row has that name in these sections; --set all has every row")
    if options.chart and not any(ROWS[number].peer for number in numbers):
        parser.error("a chart needs contests, and only other rows are chosen")
    with contextlib.ExitStack() as files:
        paths = (options.json, options.markdown, options.chart)
        outlets = [path and files.enter_context(Outlet(path)) for path in paths]
        record = json.loads(options.record.read_text()) if options.record else run(numbers, options.quick)
        figures = [Figure.from_dict(one) for one in record["figures"]]
        report.show(figures, record["heading"])
        texts = (
            json.dumps(record, indent=1) + "\n",
            "# The race\n\n" + report.markdown(figures, ["\n\n".join(record["heading"])]) + "\n",
            chart.drawn(record) if options.chart else "",
        )
        for outlet, text in zip(outlets, texts, strict=True):
            if outlet:
                outlet.write(text)


if __name__ == "__main__":
    main()
