"""What the dashboard shows, read and checked: the site that asv publishes, and the record of the race."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

FIELDS = {"samples": list, **dict.fromkeys(("section", "what", "unit", "note", "skipped", "job", "peer"), str)}
VERDICTS = ("aim", "yes", "no", "skipped", "")
#: A change by less than this is the machine's, not the commit's, where asv.conf.json says nothing else.
NOISE = 0.1
RATE = re.compile(r"_per_(second|nanosecond)$")  # names of benchmarks of which more is better


@dataclass(frozen=True)
class Series:
    """A benchmark with one combination of parameters in one environment: a value for each commit, the oldest first."""

    name: str
    label: str  # the parameters, those of one value left out, and the environment where there are several
    unit: str
    link: str  # the fragment of asv's page
    noise: float
    commits: tuple[str, ...]
    values: tuple[float, ...]

    def change(self, at: int = -1) -> float | None:
        """A value over the previous one; None for the first."""
        before = range(len(self.values))[at] - 1
        return self.values[at] / self.values[before] if before >= 0 and self.values[before] else None

    def verdict(self, at: int = -1) -> str:
        """Whether a commit made it "worse" or "better" than the one before, beyond the noise, or ""."""
        change = self.change(at)
        if change is None or 1 / (1 + self.noise) <= change <= 1 + self.noise:
            return ""
        return "worse" if (change > 1) != bool(RATE.search(self.name)) else "better"


@dataclass(frozen=True)
class Regression:
    """What asv calls one: a benchmark whose level went up and stayed there."""

    name: str  # with its parameters
    link: str
    best: float
    last: float
    since: tuple[str, ...]  # the commits at which it rose


@dataclass(frozen=True)
class Site:
    """What asv has published."""

    series: tuple[Series, ...]
    commits: tuple[tuple[str, int], ...]  # those with a value, the oldest first, and milliseconds since 1970
    machine: str
    regressions: tuple[Regression, ...]


def read_race(path: Path) -> dict[str, Any] | None:
    """The record that race.py wrote, or None if there is none.

    Raises
    ------
    ValueError
        If the file is no such record; says what is wrong with it.
    """
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("figures"), list):
        raise ValueError(f"{path} is no record of the race: it has no list of figures; `make race` writes one")
    if not isinstance(record.get("heading", []), list):
        raise ValueError(f"{path}: the heading is no list of lines")
    for number, row in enumerate(record["figures"]):
        if problem := _problem(row):
            raise ValueError(f"{path}: figure {number} {problem}")
    return record


def _problem(row: Any) -> str | None:
    """What is wrong with a figure of the race."""
    for name, kind in FIELDS.items():
        if not isinstance(row, dict) or not isinstance(row.get(name), kind):
            return f"has no {name} of type {kind.__name__}"
    bar, verdict = row.get("bar"), row.get("verdict", "")
    numbers = (
        [] if not isinstance(bar, dict) else [bar.get("limit"), *filter(lambda x: x is not None, [bar.get("aim")])]
    )
    checks = {
        "neither samples nor a reason": not row["skipped"] and not row["samples"],
        "samples that are no positive numbers": not all(map(_positive, row["samples"])),
        "a value that is no positive number": row.get("value") is not None and not _positive(row["value"]),
        f"the verdict {verdict!r}, which is none of {VERDICTS}": verdict not in VERDICTS,
        "a peer and no job": bool(row["peer"] and not row["job"]),
        "a bar without a positive limit, or with an aim that is no positive number": bar is not None
        and not (numbers and all(map(_positive, numbers))),
    }
    return next((f"({row['what']!r}) has {words}" for words, holds in checks.items() if holds), None)


def _positive(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) and x > 0


def _machine(name: str, known: dict[str, str]) -> str:
    """A machine of asv's in words: its processor, or its name where asv was told no more."""
    if not known.get("cpu"):
        return name
    return f"{known['cpu']}, {known['num_cpu']} CPUs" if known.get("num_cpu") else known["cpu"]


def read_site(folder: Path, thresholds: Mapping[str, float] | None = None) -> Site:
    """Everything that has a value in asv's html folder.

    Parameters
    ----------
    folder : Path
    thresholds : mapping of str to float, optional
        ``regressions_thresholds`` of asv.conf.json: what is noise, by regular expressions on the names.

    Raises
    ------
    ValueError
        If asv has published nothing there.
    """
    index_file = folder / "index.json"
    if not index_file.exists():
        raise ValueError(f"{folder} has no index.json: asv has published nothing there")
    index = json.loads(index_file.read_text(encoding="utf-8"))
    hashes = {int(revision): commit for revision, commit in index["revision_to_hash"].items()}
    files = [
        file
        for file in sorted(folder.glob("graphs/**/*.json"))
        if file.parent.name != "summary" and file.stem in index["benchmarks"]
    ]
    found: dict[tuple[str, tuple[str, ...]], dict[int, dict[int, float]]] = {}  # by combination and revision
    for file in files:
        by_combination = found.setdefault((file.stem, _environment(file.parent.relative_to(folder).parts)), {})
        for revision, values in json.loads(file.read_text(encoding="utf-8")):
            for i, value in enumerate(values if isinstance(values, list) else [values]):
                if value is not None and math.isfinite(value):
                    by_combination.setdefault(i, {})[revision] = value
    environments = [environment for _, environment in found]
    shared = set(environments[0]).intersection(*environments) if environments else set()
    series, measured = [], set()
    for (name, environment), by_combination in found.items():
        benchmark = index["benchmarks"][name]
        combinations = list(itertools.product(*benchmark["params"]))
        for i, by_revision in by_combination.items():
            several = _several(benchmark, combinations[i])
            label = [f"{one} {value}" if value.isdigit() else value.strip("'") for one, value in several]
            label += [part for part in environment if part not in shared]
            revisions = sorted(by_revision)
            measured.update(revisions)
            series.append(
                Series(
                    name,
                    ", ".join(label),
                    benchmark["unit"],
                    _fragment(name, several),
                    _noise(f"{name}({', '.join(combinations[i])})", thresholds or {}),
                    tuple(hashes[revision] for revision in revisions),
                    tuple(by_revision[revision] for revision in revisions),
                )
            )
    machines = [_machine(name, known) for name, known in index["machines"].items()]
    dates = index["revision_to_date"]
    return Site(
        tuple(sorted(series, key=lambda one: one.name)),  # and as the suite has them within a name
        tuple((hashes[revision], dates[str(revision)]) for revision in sorted(measured)),
        "; ".join(machines),
        tuple(_regressions(folder, index, hashes)),
    )


def _several(benchmark: Mapping[str, Any], combination: Sequence[str]) -> list[tuple[str, str]]:
    """The names and values of a combination, without the parameters that have but one value."""
    params = benchmark["params"]
    names = benchmark.get("param_names") or map(str, range(len(params)))
    return [(one, value) for one, value, axis in zip(names, combination, params, strict=True) if len(axis) > 1]


def _regressions(folder: Path, index: Mapping[str, Any], hashes: Mapping[int, str]) -> Iterator[Regression]:
    file = folder / "regressions.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["regressions"] if file.exists() else []
    for entry, _, _, combination, last, best, jumps in rows:
        name = entry.split("(")[0]
        benchmark = index["benchmarks"].get(name, {})
        several: list[tuple[str, str]] = []
        if combination is not None and benchmark.get("params"):
            several = _several(benchmark, list(itertools.product(*benchmark["params"]))[combination])
        since = tuple(hashes[after] for _, after, *_ in jumps or () if after in hashes)
        yield Regression(entry, _fragment(name, several), float(best), float(last), since)


def _environment(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The machine, the Python and the packages of a folder of graphs.

    What was installed when it was measured is one environment: asv names it by the path of the interpreter, and takes
    ``python`` and ``python3`` for two.
    """
    return tuple("as installed" if part.startswith("python-_") else part for part in parts)


def _fragment(name: str, several: Sequence[tuple[str, str]]) -> str:
    """Behind the # of asv's index.html: the graph of a benchmark, with one combination of parameters chosen."""
    chosen = "&".join(f"p-{quote(one, safe='')}={quote(value, safe='')}" for one, value in several)
    return quote(name) + (f"?{chosen}" if chosen else "")


def _noise(entry: str, thresholds: Mapping[str, float]) -> float:
    """The largest threshold whose expression matches, as asv takes them."""
    return max((value for expression, value in thresholds.items() if re.match(expression, entry)), default=NOISE)
