"""What was measured, as tables: for a terminal, as plain text, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

try:
    from rich import box
    from rich.console import Console, Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text
except ImportError:
    Console = None

COLUMNS = ("figure", "target", "aim", "measured", "spread", "met")
STYLES = {"aim": "bold green", "yes": "green", "NO": "bold red", "peer wins": "bold red", "skipped": "yellow"}


Item = TypeVar("Item")


def each(items: Sequence[Item], words: Callable[[Item], str]) -> Iterator[Item]:
    """The items one after the other; a terminal shows which is under way."""
    for number, item in enumerate(items, 1):
        if sys.stderr.isatty():
            print(f"\r\033[K{number} of {len(items)}: {words(item)}", end="", file=sys.stderr, flush=True)
        yield item
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Bar:
    """What a figure must reach and, where there is one, the aim beyond; from above where less is better."""

    limit: float
    aim: float | None = None
    less_is_better: bool = False

    def reached(self, value: float, limit: float | None) -> bool:
        return limit is not None and (value < limit if self.less_is_better else value >= limit)


def under(limit: float, aim: float | None = None) -> Bar:
    return Bar(limit, aim, less_is_better=True)


def digits(value: float) -> str:
    """A number as the tables and the pictures show it."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 20 else 2}f}"


@dataclass(frozen=True)
class Figure:
    """What a row found: a sample per round, or the reason why there is none.

    What ``--json`` writes of it, the dashboard and the chart read.
    """

    section: str
    what: str
    unit: str = "x"
    bar: Bar | None = None
    samples: tuple[float, ...] = ()
    note: str = ""
    skipped: str = ""
    judged: bool = True
    job: str = ""  # of a race: what is done, and by whom beside fastinit
    peer: str = ""

    @property
    def value(self) -> float:
        """The median; of a time per call, whose samples are medians already, the smallest."""
        return min(self.samples) if self.unit == "us" else statistics.median(self.samples)

    @property
    def ends(self) -> tuple[float, float, float]:
        """The least, the middle and the most."""
        return min(self.samples), self.value, max(self.samples)

    @property
    def verdict(self) -> str:
        """ "aim", "yes", "no", "skipped", or nothing where no bar applies."""
        if self.skipped:
            return "skipped"
        if self.bar is None or not self.judged:
            return ""
        if self.bar.reached(self.value, self.bar.aim):
            return "aim"
        return "yes" if self.bar.reached(self.value, self.bar.limit) else "no"

    @property
    def outcome(self) -> str:
        """What the last column says."""
        if self.peer and not self.skipped:
            return "peer wins" if self.value < 1 else ""
        return "NO" if self.verdict == "no" else self.verdict

    def number(self, value: float) -> str:
        return f"{digits(value)}{self.suffix}"

    @property
    def suffix(self) -> str:
        return "x" if self.unit == "x" else f" {self.unit}"

    def cells(self) -> tuple[str, ...]:
        """The text of each column."""
        target = aim = ""
        if self.bar:
            target = f"{'under ' if self.bar.less_is_better else ''}{self.bar.limit:g}{self.suffix}"
            aim = f"{self.bar.aim:g}{self.suffix}" if self.bar.aim is not None else ""
        if self.skipped:
            return (self.what, target, aim, self.skipped, "", self.outcome)
        least, middle, most = map(self.number, self.ends)
        return (self.what, target, aim, middle, f"{least} to {most}", self.outcome)

    def as_dict(self) -> dict[str, Any]:
        record = dataclasses.asdict(self)
        record["value"] = None if self.skipped else self.value
        record["verdict"] = self.verdict
        return record

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Figure:
        known = {field.name: record[field.name] for field in dataclasses.fields(cls) if field.name in record}
        bar = known.get("bar")
        return cls(**known | {"bar": bar and Bar(**bar), "samples": tuple(known["samples"])})


def sections(figures: list[Figure]) -> dict[str, list[Figure]]:
    """The figures by section, in order."""
    found: dict[str, list[Figure]] = {}
    for figure in figures:
        found.setdefault(figure.section, []).append(figure)
    return found


def markdown(figures: list[Figure], heading: list[str]) -> str:
    """A table for each section, to be pasted into a document."""
    lines = list(heading)
    for section, rows in sections(figures).items():
        lines += ["", f"**{section}**", "", f"| {' | '.join(COLUMNS)} | times |", "|---" * (len(COLUMNS) + 1) + "|"]
        lines += [f"| {' | '.join(row.cells())} | {row.note} |" for row in rows]
    return "\n".join(lines)


def plain(figures: list[Figure], heading: list[str]) -> str:
    """The same as aligned text; a skipped row gives its reason below."""
    lines = list(heading)
    for section, rows in sections(figures).items():
        # reasons and notes may be long, and stand on a line of their own
        table = [COLUMNS] + [row.cells() if not row.skipped else (*row.cells()[:3], "", "", "skipped") for row in rows]
        widths = [max(len(line[column]) for line in table) for column in range(len(COLUMNS))]
        padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in table]
        text = ["  ".join(line).rstrip() for line in padded]
        lines += ["", section, text[0], "-" * len(text[0])]
        for row, line in zip(rows, text[1:], strict=True):
            lines += [line] + ([f"    {row.skipped or row.note}"] if row.skipped or row.note else [])
    return "\n".join(lines)


def show(figures: list[Figure], heading: list[str]) -> None:
    """Prints the tables, with colours and rules where rich is installed."""
    if Console is None:
        print(plain(figures, heading))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print("\n".join(heading), soft_wrap=True)
    for section, rows in sections(figures).items():
        table = Table(title=section, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in COLUMNS:
            table.add_column(column, justify="left" if column == "figure" else "right", no_wrap=column != "figure")
        for row in rows:
            what, target, aim, value, spread, verdict = row.cells()
            detail = Padding(Text(row.skipped or row.note, style="dim"), (0, 0, 0, 2))
            measured, met = Text("" if row.skipped else value, "bold"), Text(verdict, STYLES.get(verdict, ""))
            table.add_row(Group(what, detail), target, aim, measured, spread, met)
        console.print(table)
