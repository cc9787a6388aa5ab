"""What the dashboard shows, read and checked: the site that asv publishes, and the record of the race."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIELDS = {
    "section": str,
    "what": str,
    "unit": str,
    "samples": list,
    "note": str,
    "skipped": str,
    "job": str,
    "peer": str,
}


@dataclass(frozen=True)
class Series:
    """One benchmark with one combination of parameters: a value for each commit, the oldest first."""

    name: str
    label: str  # the parameters, those of one value left out
    unit: str
    commits: tuple[str, ...]
    dates: tuple[int, ...]  # milliseconds since 1970
    values: tuple[float, ...]

    @property
    def change(self) -> float | None:
        """The last value over the one before; None where there is one commit."""
        return self.values[-1] / self.values[-2] if len(self.values) > 1 and self.values[-2] else None


@dataclass(frozen=True)
class Site:
    """What asv has published."""

    series: tuple[Series, ...]
    commits: int
    machine: str
    regressions: tuple[tuple[str, float, float], ...]  # name, before, after


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
        record = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("figures"), list):
        raise ValueError(f"{path} is no record of the race: it has no list of figures; `make race` writes one")
    for number, row in enumerate(record["figures"]):
        for name, kind in FIELDS.items():
            if not isinstance(row, dict) or not isinstance(row.get(name), kind):
                raise ValueError(f"{path}: figure {number} has no {name} of type {kind.__name__}")
        samples = row["samples"]
        if not row["skipped"] and not samples:
            raise ValueError(f"{path}: figure {number} ({row['what']!r}) has neither samples nor a reason")
        if not all(isinstance(x, (int, float)) and math.isfinite(x) and x > 0 for x in samples):
            raise ValueError(f"{path}: figure {number} ({row['what']!r}) has samples that are no positive numbers")
    return record


def read_site(folder: Path) -> Site:
    """Everything that has a value in asv's html folder.

    Raises
    ------
    ValueError
        If asv has published nothing there.
    """
    index_file = folder / "index.json"
    if not index_file.exists():
        raise ValueError(f"{folder} has no index.json: asv has published nothing there")
    index = json.loads(index_file.read_text())
    hashes, dates = index["revision_to_hash"], index["revision_to_date"]
    found: dict[tuple[str, str], dict[int, float]] = {}
    units: dict[str, str] = {}
    for file in sorted(folder.glob("graphs/**/*.json")):
        if file.parent.name == "summary" or file.stem not in index["benchmarks"]:
            continue
        benchmark = index["benchmarks"][file.stem]
        units[file.stem] = benchmark["unit"]
        labels = _labels(benchmark["params"])
        for revision, values in json.loads(file.read_text()):
            several = values if isinstance(values, list) else [values]
            for label, value in zip(labels, several, strict=False):
                if value is not None and math.isfinite(value):
                    found.setdefault((file.stem, label), {})[revision] = value
    series = []
    for (name, label), by_revision in sorted(found.items()):
        revisions = sorted(by_revision)
        series.append(
            Series(
                name,
                label,
                units[name],
                tuple(hashes[str(revision)] for revision in revisions),
                tuple(dates[str(revision)] for revision in revisions),
                tuple(by_revision[revision] for revision in revisions),
            )
        )
    machines = [f"{one['cpu']}, {one['num_cpu']} CPUs" for one in index["machines"].values()]
    regressions_file = folder / "regressions.json"
    raw = json.loads(regressions_file.read_text())["regressions"] if regressions_file.exists() else []
    regressions = tuple((str(row[0]), float(row[5]), float(row[4])) for row in raw)
    return Site(tuple(series), len(hashes), "; ".join(machines), regressions)


def _labels(params: list[list[str]]) -> list[str]:
    """The combinations in asv's order, as words."""
    several = [len(values) > 1 for values in params]
    return [
        ", ".join(value.strip("'") for value, shown in zip(values, several, strict=True) if shown)
        for values in itertools.product(*params)
    ]
