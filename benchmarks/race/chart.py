"""The race as a picture: a panel for each job, a dot with its spread for each peer.

The dashboard draws its rows with the same parts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from fastinit.reports.charts import line, svg, text

from .report import Figure

TICKS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
# Colours that are told apart in print and by most colour-blind readers, by light and in the dark.
STYLE = """
svg { --paper: #ffffff; --ink: #1d1d1b; --soft: #63635e; --line: #e4e3de; --ours: #0063a0; --theirs: #b84a00;
  background: var(--paper); font: 12px system-ui, "DejaVu Sans", sans-serif; }
@media (prefers-color-scheme: dark) { svg { --paper: #161615; --ink: #ecebe6; --soft: #a3a29b; --line: #34342f;
  --ours: #6cb8ef; --theirs: #ff9a52; } }
text { fill: var(--ink); } .title { font-weight: 650; font-size: 16px; } .job { font-weight: 650; font-size: 13px; }
.soft { fill: var(--soft); font-size: 11px; } .lost { fill: var(--theirs); }
.axis { stroke: var(--line); } .one { stroke: var(--ink); stroke-width: 2; }
.whisker { stroke-width: 2.2; } .point { stroke-width: 8; stroke-linecap: round; }
.ours { stroke: var(--ours); } .theirs { stroke: var(--theirs); }
"""
WIDTH, COLUMNS, LABEL, ROW, HEAD, FOOT = 1000, 2, 235, 19, 28, 34
REASON = 34  # characters of why a peer was skipped
# Where a library's name in small letters is not its distribution's.
DISTRIBUTIONS = {"mkl": ("mkl_random",), "tensorflow": ("tensorflow", "tensorflow-cpu")}


class Scale(NamedTuple):
    """A logarithmic axis from `left` to `right`, which shows what lies between two powers of ten."""

    low: float
    high: float
    left: float
    right: float

    @classmethod
    def of(cls, values: Iterable[float], left: float, right: float) -> Scale:
        """One that shows all of the values and 1, with air on both sides."""
        shown = [*values, 1.0]
        return cls(math.log10(min(shown) / 1.35), math.log10(max(shown) * 1.35), left, right)

    def at(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.left + share * (self.right - self.left)

    def ticks(self) -> list[float]:
        return [tick for tick in TICKS if self.low < math.log10(tick) < self.high]


def strip(ends: Sequence[float], scale: Scale, top: float, height: float, kind: str) -> Iterator[str]:
    """The line at 1, a line from the least to the most, and a dot in the middle; `ends` are these three in order."""
    least, middle, most = map(scale.at, ends)
    y = top + height / 2
    yield line("one", scale.at(1), top, scale.at(1), top + height)
    yield line(f"whisker {kind}", least, y, most, y)
    yield line(f"point {kind}", middle, y, middle, y)  # of no length: its round ends are the dot


def by_job(figures: Iterable[Figure]) -> dict[str, list[Figure]]:
    """The contests by job, the nearest peer first and the skipped ones last."""
    found: dict[str, list[Figure]] = {}
    for one in figures:
        if one.peer:
            found.setdefault(one.job, []).append(one)
    nearest = lambda one: math.inf if one.skipped else one.value  # noqa: E731
    return {job: sorted(rows, key=nearest) for job, rows in found.items()}


def named(peer: str, versions: dict[str, str]) -> str:
    """A peer with its version behind the library's name: ``NumPy 2.4.6, SFC64``."""
    library = re.split("[ ,]", peer)[0]
    for distribution in DISTRIBUTIONS.get(library.lower(), (library.lower(),)):
        if distribution in versions:
            version = versions[distribution].partition("+")[0]  # what stands behind it names a build
            return f"{library} {version}{peer[len(library) :]}"
    return peer


def panel(job: str, rows: list[Figure], scale: Scale, y: float, versions: dict[str, str]) -> Iterator[str]:
    """One job, whose rows begin at this height."""
    bottom = y + HEAD + ROW * len(rows)
    yield text("job", scale.left, y + HEAD - 10, job, anchor="start")
    for tick in scale.ticks():
        yield line("axis", scale.at(tick), y + HEAD, scale.at(tick), bottom)
        yield text("soft", scale.at(tick), bottom + 13, f"{tick:g}x")
    for place, row in enumerate(rows):
        top, words = y + HEAD + ROW * place, named(row.peer, versions)
        base = top + ROW / 2 + 4
        if row.skipped:
            reason = row.skipped if len(row.skipped) <= REASON else f"{row.skipped[: REASON - 3]}..."
            yield text("soft", scale.left - 58, base, words, anchor="end")
            yield text("soft", scale.at(1) + 6, base, reason, anchor="start")
            continue
        won = row.value >= 1
        yield text("won" if won else "lost", scale.left - 58, base, words, anchor="end")
        yield text("won" if won else "lost", scale.left - 8, base, row.number(row.value), anchor="end")
        yield from strip(row.ends, scale, top, ROW, "ours" if won else "theirs")
        if not won:
            yield text("lost", max(scale.at(row.ends[2]), scale.at(1)) + 8, base, "the peer wins", anchor="start")


def drawn(record: dict[str, Any]) -> str:
    """The picture of a record of the race, as SVG.

    Raises
    ------
    ValueError
        If the record has no contests.
    """
    jobs = by_job(map(Figure.from_dict, record["figures"]))
    if not jobs:
        raise ValueError("the record has no contests to draw")
    samples = [sample for rows in jobs.values() for row in rows for sample in row.samples]
    title = "How many times as long as fastinit"
    parts, y = [text("title", WIDTH / 2, 26, title)], 40.0
    panels = list(jobs.items())
    for start in range(0, len(panels), COLUMNS):
        side_by_side = panels[start : start + COLUMNS]
        for column, (job, rows) in enumerate(side_by_side):
            left = column * WIDTH / COLUMNS
            scale = Scale.of(samples, left + LABEL, left + WIDTH / COLUMNS - 20)
            slowest_first = sorted(rows, key=lambda row: 0 if row.skipped else -row.value)
            parts += panel(job, slowest_first, scale, y, record["versions"])
        y += HEAD + FOOT + ROW * max(len(rows) for _, rows in side_by_side)
    legend = "The median, between the smallest and the largest ratio of two neighbouring runs; left of 1 the peer wins"
    parts += [text("soft", WIDTH / 2, y, legend)]
    parts += [text("soft", WIDTH / 2, y + 17, f"{record['heading'][0]}; {record['threads']} threads")]
    more = f' xmlns="http://www.w3.org/2000/svg" width="{WIDTH}"'
    return svg((f"<style>{STYLE}</style>", *parts), (WIDTH, y + 32), title, more=more) + "\n"
