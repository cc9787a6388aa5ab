"""The race: fastinit against everybody who does the same job, in one run: ``python benchmarks/race.py``.

Both run in turn, A B A B, pinned to as many processors as fastinit has threads. Each ratio is of two neighbours: how
many times as long as fastinit the peer takes. Below 1 the peer wins, and the table says so. Peers that are not
installed are skipped. ``--json``, ``--markdown`` and ``--chart`` write what the README and the dashboard show.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import fastinit

if __package__:
    from . import figures, peers, race_chart, report, side_by_side, torch_figures
    from .lab import Lab, Result, Row
    from .report import Bar, Figure
else:  # run as a script
    import figures
    import peers
    import race_chart
    import report
    import side_by_side
    import torch_figures
    from lab import Lab, Result, Row
    from report import Bar, Figure

BARS = "The last factor"
# What is raced against: distribution on the index, and the version that the heading gives.
DISTRIBUTIONS = (
    "numpy", "torch", "tensorflow-cpu", "tensorflow", "keras", "jax", "numba", "mkl_random", "mtalg",
    "parallel-numpy-rng", "randomgen", "scipy", "transformers",
)  # fmt: skip


def mkl_float64(lab: Lab) -> Result:
    """The normal in float64 against MKL's inverse distribution function of Philox words.

    mkl_random has no ``out=``. The comparison most in its favour: it never waits for memory, and never copies.
    """
    (mkl,) = (peer for peer in peers.PEERS if peer.name == "MKL, Philox, in cache")
    return peers.raced(lab, mkl, "normal float64")


ROWS = (
    Row("uniform against memset with the same threads", Bar(0.7, 0.95),
        partial(figures.memset, initializer=figures.UNIFORM)),
    Row("normal against memset with the same threads", Bar(0.4, 0.5),
        partial(figures.memset, initializer=figures.NORMAL)),
    Row("uniform against torch", Bar(18, 25),
        partial(figures.torch_fill, initializer=figures.UNIFORM, method=figures.torch_uniform)),
    Row("normal against torch", Bar(14, 17),
        partial(figures.torch_fill, initializer=figures.NORMAL, method=figures.torch_normal)),
    Row("truncated normal against torch", Bar(180, 220),
        partial(figures.torch_fill, initializer=figures.TRUNCATED, method=figures.torch_truncated)),
    Row("truncated normal against Keras on TensorFlow, fresh memory", Bar(40, 50),
        partial(peers.raced_apart, peer="Keras on TensorFlow", job="truncated normal float32")),
    Row("bfloat16 normal against torch", Bar(18, 25),
        partial(figures.torch_fill, initializer=figures.NORMAL, method=figures.torch_normal, dtype="bfloat16")),
    Row("normal float64 against MKL's Philox inverse CDF", Bar(1.5, 2.5), mkl_float64),
    Row("target x86_v3: uniform against torch", Bar(10, 12),
        partial(figures.torch_fill, initializer=figures.UNIFORM, method=figures.torch_uniform, target="x86_v3")),
    Row("target x86_v3: normal against torch", Bar(7, 8),
        partial(figures.torch_fill, initializer=figures.NORMAL, method=figures.torch_normal, target="x86_v3")),
    Row("16x16 xavier_uniform_ through the torch adapter against torch", Bar(1.0, 1.5),
        partial(torch_figures.small_drop_in, name="xavier_uniform_", n=16)),
    Row("orthogonal 1024 against torch", Bar(1.8, 2.5), partial(figures.orthogonal, n=1024)),
    Row("orthogonal 4096 against torch", Bar(1.8, 2.5), partial(figures.orthogonal, n=4096)),
    Row("GPT-2 XL constructed under patched(), fresh memory, against torch", Bar(8, 15),
        torch_figures.gpt2_constructed),
    Row("two threads against one: uniform", Bar(1.9), partial(figures.two_threads, initializer=figures.UNIFORM)),
    Row("two threads against one: normal", Bar(1.9), partial(figures.two_threads, initializer=figures.NORMAL)),
)  # fmt: skip


def contests() -> list[tuple[str, str, Row]]:
    """(section, peer, row) of everything that is measured; no peer for the rows with a bar."""
    found = [(BARS, "", row) for row in ROWS]
    for job in peers.JOBS:
        for peer in peers.PEERS:
            if job in peer.jobs:
                found.append((job, peer.name, Row(peer.name, None, partial(peers.raced, peer=peer, job=job))))
        for name in peers.APART:
            found.append((job, name, Row(name, None, partial(peers.raced_apart, peer=name, job=job))))
    return found


def measure(lab: Lab, section: str, peer: str, row: Row) -> Figure:
    """One contest, or why there was none; peers get no more rounds than they need, there are many."""
    found = figures.measure(lab.with_rounds(lab.rounds) if peer else lab, section, row)
    return found.raced(section if peer else "", peer)


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
    """Keeps this process on as many processors as there are threads; says which."""
    try:
        chosen = sorted(os.sched_getaffinity(0))[:threads]
        os.sched_setaffinity(0, chosen)
    except (AttributeError, OSError):
        return "not pinned: this system does not allow it"
    return f"pinned to processor{'s' * (len(chosen) > 1)} {', '.join(map(str, chosen))}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="small buffers, to see that everything runs")
    parser.add_argument("--only", default="", metavar="TEXT", help="the rows whose name contains this")
    parser.add_argument("--section", choices=[BARS, *peers.JOBS], help="the rows of one section")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the race there, as SVG or PNG")
    options = parser.parse_args(argv)
    chosen = [
        contest for contest in contests() if options.only in contest[2].what and options.section in (None, contest[0])
    ]
    # what would fail at the end, after all the measuring, fails here
    if not chosen:
        parser.error("no row has that name in that section")
    if options.chart and not any(peer for _, peer, _ in chosen):
        parser.error("a chart needs contests, and only rows with a bar are chosen")
    if options.chart:
        try:
            side_by_side.optional("matplotlib")
        except NotImplementedError as reason:
            parser.error(f"a chart needs what is missing: {reason}")
    pinned = pin(fastinit.default_num_threads())
    lab = Lab(options.quick)  # after it, since threads inherit the processors
    found = [measure(lab, *contest) for contest in report.each(chosen, lambda one: f"{one[0]}, {one[2].what}")]
    date, processor, installed = str(datetime.datetime.now(datetime.UTC).date()), side_by_side.processor(), versions()
    size = f"{lab.memory.nbytes / 2**20:g} MiB"
    lines = [
        f"{date}, {processor}, {lab.load} at the start",
        f"target {fastinit.targets.current()}, {lab.threads} threads, {pinned}, buffers of {size}",
        ", ".join(f"{name} {version}" for name, version in installed.items()),
    ]
    if options.quick:
        lines.append("A quick run: too small to be compared with the bars.")
    report.show(found, lines)
    record: dict[str, Any] = {
        "date": date,
        "processor": processor,
        "load": lab.load,
        "threads": lab.threads,
        "target": fastinit.targets.current(),
        "versions": installed,
        "heading": lines,
        "figures": [figure.as_dict() for figure in found],
    }
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text("# The race\n\n" + report.markdown(found, ["\n\n".join(lines)]) + "\n")
    if options.chart:
        race_chart.draw(record, options.chart)


if __name__ == "__main__":
    main()
