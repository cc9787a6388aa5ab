"""The dashboard as one page of HTML that asks for nothing else: what the race found, and what asv has measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

if __package__:
    from .dashboard_data import Series, Site
else:  # run as a script
    from dashboard_data import Series, Site

ASSETS = Path(__file__).parent / "dashboard_assets"
#: A change by less than this is the machine's, not the commit's.
NOISE = 0.10
STRIP, TALL = 300, 22  # of the drawing of a row
SPARK, SPARK_TALL = 150, 30
VERDICTS = {"aim": ("reaches the aim", "good"), "yes": ("holds", "good"), "no": ("missed", "bad"), "": ("", "")}


def page(record: dict[str, Any] | None, site: Site) -> str:
    """The whole page."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>fastinit: how fast</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">',
        f"<style>{(ASSETS / 'page.css').read_text()}</style></head><body>",
        "<header><h1>fastinit: how fast</h1>",
        "<p>Every ratio is of two neighbours in one run, fastinit and its peer in turn: how many times as long the "
        "peer takes. Times differ from machine to machine, and are for looking at.</p></header><main>",
        *(_race(record) if record else _no_race()),
        *_limit(record, site),
        *_commits(site),
        f"</main><script>{(ASSETS / 'page.js').read_text()}</script></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _no_race() -> Iterator[str]:
    yield '<h2 id="race-title">The race</h2>'
    yield '<p class="empty">Nobody has raced here yet: <code>make race</code> does, in about ten minutes.</p>'


def _race(record: dict[str, Any]) -> Iterator[str]:
    rows = record["figures"]
    barred = [row for row in rows if not row["peer"]]
    yield '<h2 id="bars-title">The bars</h2>'
    yield f'<p class="soft">{"<br>".join(escape(str(line)) for line in record.get("heading", []))}</p>'
    yield _tools("bars", "Filter the bars", ("reaches the aim", "holds", "missed", "skipped"))
    yield '<ul class="rows bars" id="bars">'
    for row in barred:
        yield _barred(row)
    yield "</ul>"
    yield '<h2 id="race-title">The race</h2>'
    yield "<p>Times as long as fastinit, on a logarithmic axis; right of the line fastinit is faster.</p>"
    jobs = list(dict.fromkeys(row["job"] for row in rows if row["job"]))
    yield _tools("race", "Filter peers", (*jobs, "the peer wins"))
    yield '<div class="cards" id="race">'
    for job in jobs:
        yield from _job(job, [row for row in rows if row["job"] == job])
    yield "</div>"


def _barred(row: dict[str, Any]) -> str:
    bar, unit = row.get("bar"), "x" if row["unit"] == "x" else f" {row['unit']}"
    name = f'<span class="name">{escape(row["what"])}</span>'
    asked = ""
    if bar:
        aim = f", aim {bar['aim']:g}{unit}" if bar.get("aim") is not None else ""
        asked = f"{'under' if bar.get('less_is_better') else 'at least'} {bar['limit']:g}{unit}{aim}"
    if row["skipped"]:
        cells = f'<span class="small">{escape(row["skipped"])}</span><span></span><span class="small">{asked}</span>'
        return _item(f"{row['what']} skipped", ["skipped"], f'{name}{cells}<span class="chip soft">skipped</span>')
    words, kind = VERDICTS[row.get("verdict", "")]
    low, high = min(row["samples"]), max(row["samples"])
    cells = (
        f'<span class="number value">{_number(row["value"])}{unit}</span>'
        f'<span class="number small">{_number(low)} to {_number(high)}</span><span class="small">{asked}</span>'
        f'<span class="chip {kind}">{words}</span>'
    )
    return _item(f"{row['what']} {words}", [words], name + cells, row["note"])


def _job(job: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    raced = sorted((row for row in rows if not row["skipped"]), key=lambda row: -statistics.median(row["samples"]))
    values = [x for row in raced for x in row["samples"]] + [1.0]
    low, high = math.log10(min(min(values) / 1.2, 0.5)), math.log10(max(values) * 1.2)
    yield f'<section class="card"><h3>{escape(job)}</h3><ul class="rows race">'
    for row in raced:
        value = statistics.median(row["samples"])
        wins = value < 1
        words = f"{row['peer']} {job} {'the peer wins' if wins else ''}"
        number = f'<span class="number"><span class="value{" bad" if wins else ""}">{_number(value)}x</span>'
        number += '<br><span class="small bad">the peer wins</span></span>' if wins else "</span>"
        strip = _strip(row["samples"], value, low, high, f"{row['peer']}: {_number(value)} times as long")
        groups = [job, "the peer wins"] if wins else [job]
        yield _item(words, groups, f'<span class="name">{escape(row["peer"])}</span>{strip}{number}', row["note"])
    for row in rows:
        if row["skipped"]:
            why = f'<span class="small">{escape(row["skipped"])}</span>'
            text = f'<span class="name soft">{escape(row["peer"])}</span>{why}'
            yield _item(f"{row['peer']} {job} skipped", [job], text)
    yield "</ul></section>"


def _strip(samples: Sequence[float], value: float, low: float, high: float, title: str) -> str:
    """A dot at the median, a line from the least to the most, and the line at 1."""

    def place(x: float) -> float:
        return round((math.log10(x) - low) / (high - low) * STRIP, 1)

    def line(kind: str, left: float, right: float, top: int, bottom: int) -> str:
        ends = f'x1="{place(left)}" x2="{place(right)}" y1="{top}" y2="{bottom}"'
        return f'<line class="{kind}" {ends} vector-effect="non-scaling-stroke"/>'

    kind, middle = "theirs" if value < 1 else "ours", TALL // 2
    decades = range(math.ceil(low), math.floor(high) + 1)
    lines = [line("axis", 10.0**d, 10.0**d, 0, TALL) for d in decades]
    lines.append(line("one", 1, 1, 0, TALL))
    lines.append(line(f"whisker {kind}", min(samples), max(samples), middle, middle))
    lines.append(line(f"point {kind}", value, value, middle, middle))  # of no length: its round ends are the dot
    view = f'viewBox="0 0 {STRIP} {TALL}" preserveAspectRatio="none"'
    return f'<svg class="strip" {view} role="img"><title>{escape(title)}</title>{"".join(lines)}</svg>'


def _limit(record: dict[str, Any] | None, site: Site) -> Iterator[str]:
    yield '<h2 id="limit-title">Against the machine\'s limit</h2>'
    yield "<p>What writes memory cannot be faster than a memset of it. A share of its speed, and rates of fills.</p>"
    rows = [row for row in record["figures"] if "memset" in row["what"] and row["samples"]] if record else []
    tracked = [
        one for one in site.series if ".track_" in one.name and ("memset" in one.name or "gigabytes" in one.name)
    ]
    if not rows and not tracked:
        yield '<p class="empty">Nothing measured yet.</p>'
        return
    yield '<ul class="rows track" id="limit">'
    for row in rows:
        name = f'<span class="name">{escape(row["what"])}</span>'
        share = f'<span class="number value">{100 * row["value"]:.0f} %</span>'
        yield _item(row["what"], [], f'{name}<span></span>{share}<span class="small number">the race</span>')
    for one in tracked:
        yield _tracked(one)
    yield "</ul>"


def _commits(site: Site) -> Iterator[str]:
    yield '<h2 id="commits-title">Commit by commit</h2>'
    several = f"{site.commits} commit{'s' * (site.commits != 1)}"
    yield f'<p class="soft">{escape(site.machine)}; {several}. A change of less than {100 * NOISE:.0f} % is noise.'
    yield "Less is better, of rates more. asv's own pages load scripts from the internet.</p>"
    if site.commits < 2:
        yield '<p class="empty">One commit: nothing to compare yet.</p>'
    elif site.regressions:
        yield '<ul class="rows track" id="regressions">'
        for name, before, after in site.regressions:
            text = f'<span class="name"><a href="{_link(name.split("(")[0])}">{escape(name)}</a></span>'
            change = f"{100 * (after / before - 1):+.0f} %"
            yield _item(
                name,
                [],
                f'{text}<span></span><span class="number value">{change}</span><span class="chip bad">slower</span>',
            )
        yield "</ul>"
    else:
        yield '<p class="empty">asv finds no regression.</p>'
    yield _tools("commits", "Filter benchmarks", ("slower", "faster"))
    yield '<ul class="rows track" id="commits">'
    for one in site.series:
        yield _tracked(one)
    yield "</ul>"


def _tracked(one: Series) -> str:
    name = f'<a href="{_link(one.name)}">{escape(one.name.removeprefix("bench_summary."))}</a>'
    label = f' <span class="small">{escape(one.label)}</span>' if one.label else ""
    word, kind = _verdict(one)
    change = "" if one.change is None else f"{100 * (one.change - 1):+.0f} %"
    cells = (
        f'<span class="name">{name}{label}</span>{_spark(one)}'
        f'<span class="number value">{quantity(one.values[-1], one.unit)}</span>'
        f'<span class="chip {kind}">{change} {word}</span>'
    )
    return _item(f"{one.name} {one.label} {word}", [word], cells)


def _verdict(one: Series) -> tuple[str, str]:
    """Whether the last commit is slower or faster than the one before, beyond the noise."""
    if one.change is None or abs(one.change - 1) < NOISE:
        return "", "soft"
    slower = (one.change > 1) != ("per_second" in one.name)
    return ("slower", "bad") if slower else ("faster", "good")


def _spark(one: Series) -> str:
    low, high = min(one.values), max(one.values)
    middle, reach = (low + high) / 2, max((high - low) / 2, 0.05 * high, 1e-300)
    step = (SPARK - 10) / max(len(one.values) - 1, 1)
    points = [
        (round(5 + step * i, 1), round(SPARK_TALL / 2 - (value - middle) / reach * (SPARK_TALL / 2 - 5), 1))
        for i, value in enumerate(one.values)
    ]
    line = " ".join(f"{x},{y}" for x, y in points)
    title = ", ".join(f"{c[:8]} {quantity(v, one.unit)}" for c, v in zip(one.commits, one.values, strict=True))
    last = f'<circle class="dot" cx="{points[-1][0]}" cy="{points[-1][1]}" r="3"/>'
    graph = f'<title>{escape(title)}</title><polyline class="spark" points="{line}"/>{last}'
    return f'<svg viewBox="0 0 {SPARK} {SPARK_TALL}" role="img">{graph}</svg>'


def _tools(rows: str, label: str, groups: Iterable[str]) -> str:
    buttons = "".join(
        f'<button type="button" aria-pressed="false" data-group="{escape(group)}">{escape(group)}</button>'
        for group in groups
    )
    return (
        f'<div class="tools" data-rows="{rows}"><input type="search" placeholder="{label}" aria-label="{label}">'
        f'{buttons}<output class="soft" aria-live="polite"></output></div>'
    )


def _item(text: str, groups: Iterable[str], cells: str, note: str = "") -> str:
    title = f' title="{escape(note)}"' if note else ""
    return f'<li data-text="{escape(text.lower())}" data-groups="{escape("|".join(groups))}"{title}>{cells}</li>'


def _link(name: str) -> str:
    return f"asv/index.html#{escape(name)}"


def _number(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 20 else 2
    return f"{value:.{digits}f}"


def quantity(value: float, unit: str) -> str:
    """A value in asv's unit, with three digits."""
    if unit == "seconds":
        for factor, name in ((1, "s"), (1e3, "ms"), (1e6, "us")):
            if value * factor >= 1:
                return f"{value * factor:.3g} {name}"
        return f"{value * 1e9:.3g} ns"
    if unit == "bytes":
        return f"{value / 2**20:.3g} MiB" if value >= 2**20 else f"{value / 2**10:.3g} KiB"
    return f"{value:.3g} {unit}".rstrip()
