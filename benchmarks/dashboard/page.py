"""The dashboard as one page of HTML that asks for nothing else: what the race found, and what asv has measured."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fastinit.reports.charts import box, dot, line, svg

from ..race.chart import Scale, by_job, strip
from ..race.report import Figure, digits
from .reading import NOISE, Series, Site

HERE = Path(__file__).parent
STRIP, TALL = 300, 22  # of the drawing of a row
SPARK, SPARK_TALL = 150, 30
VERDICTS = {"aim": ("reaches the aim", "good"), "yes": ("holds", "good"), "no": ("missed", "bad")}
STRETCHED = ' preserveAspectRatio="none"'
WINS, LOSES, SKIPPED = "the peer wins", "fastinit is faster", "skipped"


def page(record: dict[str, Any] | None, site: Site) -> str:
    """The whole page."""
    figures = [Figure.from_dict(row) for row in record["figures"]] if record else []
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>fastinit: how fast</title>',
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{(HERE / 'page.css').read_text(encoding='utf-8')}</style></head><body>",
        "<header><h1>fastinit: how fast</h1>",
        "<p>Every ratio is of two neighbours in one run, fastinit and its peer in turn: how many times as long the "
        "peer takes. Times differ from machine to machine, and are for looking at.</p>",
        '<nav aria-label="Sections"><a href="#bars-title">The bars</a><a href="#race-title">The race</a>'
        '<a href="#limit-title">The limit</a><a href="#commits-title">Commit by commit</a></nav>',
        *_summary(figures, site),
        "</header><main>",
        *(_race(figures, record.get("heading", [])) if record else _no_race()),
        *_limit(figures, site),
        *_commits(site),
        f"</main><script>{(HERE / 'page.js').read_text(encoding='utf-8')}</script></body></html>",
    ]
    return "\n".join(parts) + "\n"


# In front: what there is to know


def _summary(figures: Sequence[Figure], site: Site) -> Iterator[str]:
    yield '<dl class="tally">'
    if figures:
        judged = [row.verdict for row in figures if row.verdict in VERDICTS]
        held, aims = len(judged) - judged.count("no"), judged.count("aim")
        yield _tile(f"{held} of {len(judged)}", f"bars hold; {aims} reach{'es' * (aims == 1)} the aim as well")
        raced = [row for row in figures if row.peer and not row.skipped]
        won = [row for row in raced if row.value < 1]
        yield _tile(f"{len(raced) - len(won)} of {len(raced)}", "races against a peer are won")
        names: dict[str, list[str]] = {}
        for row in won:
            names.setdefault(row.peer, []).append(row.job)
        words = "; ".join(f"{peer} ({', '.join(jobs)})" for peer, jobs in names.items())
        yield _tile(str(len(won)), f"where the peer wins{': ' if words else ''}{words}", "bad" if won else "good")
    found = len(site.regressions)
    if len(site.commits) < 2:
        yield _tile(str(len(site.commits)), "commit measured: nothing to compare yet")
    else:
        text = f"regression{'s' * (found != 1)} by asv's count, over {len(site.commits)} commits"
        yield _tile(str(found), text, "bad" if found else "good")
    yield "</dl>"


def _tile(number: str, words: str, kind: str = "") -> str:
    return f'<div><dt>{escape(words)}</dt><dd class="{kind}">{escape(number)}</dd></div>'


# The race


def _no_race() -> Iterator[str]:
    yield '<h2 id="bars-title">The bars</h2>'
    yield '<p class="empty">They are a part of the race, which has not been run here.</p>'
    yield '<h2 id="race-title">The race</h2>'
    yield '<p class="empty">Nobody has raced here yet: <code>make race</code> does, in about eleven minutes.</p>'


def _race(figures: Sequence[Figure], lines: Sequence[str]) -> Iterator[str]:
    barred = [row for row in figures if not row.peer]
    heading = "<br>".join(escape(str(line)) for line in lines)
    yield '<h2 id="bars-title">The bars</h2>'
    yield "<p>What the project asks of itself. The dot is the median, the line reaches from the least to the most, "
    yield "the strong mark is the bar and the fine one the aim: right of them is better.</p>"
    yield f'<details class="soft"><summary>How and on what it was measured</summary><p>{heading}</p></details>'
    yield _tools("bars", "Filter the bars", {"verdict": [*(word for word, _ in VERDICTS.values()), SKIPPED]}, True)
    scale = Scale.of([ratio for row in barred for ratio in _over_bar(row)], 0, STRIP)
    yield '<ul class="rows bars" id="bars">'
    yield from (_barred(row, scale) for row in barred)
    yield "</ul>"
    yield '<h2 id="race-title">The race</h2>'
    yield "<p>Job by job everybody who does it, the nearest first: times as long as fastinit, on one logarithmic axis. "
    yield "Right of the strong line fastinit is faster; left of it the peer wins.</p>"
    jobs = by_job(figures)
    yield _tools("race", "Filter peers", {"job": jobs, "verdict": [WINS, LOSES, SKIPPED]}, True)
    yield '<div class="cards" id="race">'
    scale = Scale.of([x for rows in jobs.values() for row in rows for x in row.samples], 0, STRIP)
    for job, rows in jobs.items():
        yield f'<section class="card"><h3>{escape(job)}</h3><ul class="rows race">'
        yield from (_contest(row, scale) for row in rows)
        yield f'</ul><div class="ticks" aria-hidden="true"><span></span><span class="places">{_ticks(scale)}</span>'
        yield "</div></section>"
    yield "</div>"


def _over_bar(row: Figure) -> list[float]:
    """The least, the middle, the most and the aim of a row, over its bar: above 1 it holds."""
    bar = row.bar
    if not bar or row.skipped:
        return []
    return [bar.limit / x if bar.less_is_better else x / bar.limit for x in (*row.ends, bar.aim or bar.limit)]


def _barred(row: Figure, scale: Scale) -> str:
    words, kind = VERDICTS.get(row.verdict, ("", "soft"))
    _, asked, aim, value, *_ = row.cells()
    if row.bar:
        asked = f"{'' if row.bar.less_is_better else 'at least '}{asked}{', aim ' if aim else ''}{aim}"
    if row.skipped:
        words, shown = SKIPPED, _why(row)  # in the place of the number too
    else:
        drawing = ""
        if ratios := _over_bar(row):
            *ends, aimed = ratios
            marks = [line("mark", scale.at(aimed), TALL * 0.2, scale.at(aimed), TALL * 0.8)] if aimed != 1 else []
            title = f"{row.what}: {value}, {asked}: {words}"
            drawing = _strip(ends, scale, title, "theirs" if kind == "bad" else "ours", marks)
        shown = f"{drawing or _span('strip')}{_span('number value', value)}"
    cells = _span("name", row.what) + shown + _span("small asked", asked) + _span(f"chip {kind}", words)
    return _item(f"{row.what} {words}", {"verdict": words}, cells, _note(row))


def _contest(row: Figure, scale: Scale) -> str:
    """A peer's row of a card."""
    peer, job = row.peer, row.job
    if row.skipped:
        return _item(f"{peer} {job} {SKIPPED}", {"job": job, "verdict": SKIPPED}, _span("name soft", peer) + _why(row))
    words, bad = (WINS, " bad") if row.value < 1 else (LOSES, "")
    shown = _span(f"value{bad}", row.number(row.value)) + (_span("small bad", WINS) if bad else "")
    grid = [line("axis", scale.at(x), 0, scale.at(x), TALL) for x in scale.ticks() if x != 1]
    title = f"{peer}: {digits(row.value)} times as long: {words}"
    drawing = _strip(row.ends, scale, title, "theirs" if bad else "ours", grid)
    cells = f'{_span("name", peer)}{drawing}<span class="number">{shown}</span>'
    return _item(f"{peer} {job} {words}", {"job": job, "verdict": words}, cells, _note(row))


def _why(row: Figure) -> str:
    return _span("strip why small", row.skipped)


# Drawings


def _strip(ends: Sequence[float], scale: Scale, title: str, kind: str, behind: Sequence[str]) -> str:
    """A row's drawing, as wide as its column; what it stands on comes first."""
    parts = (*behind, *strip(ends, scale, 0, TALL, kind))
    return f'<span class="strip">{svg(parts, (STRIP, TALL), title, more=STRETCHED)}</span>'


def _ticks(scale: Scale) -> str:
    """The numbers beneath the strips of a card. Text in the strips would be stretched with them."""
    return "".join(
        f'<i style="left:{100 * scale.at(x) / STRIP:.1f}%"{" class=minor" if "3" in f"{x:g}" else ""}>{x:g}x</i>'
        for x in scale.ticks()
    )


def _meter(share: float, title: str) -> str:
    """A bar as long as the share of the limit, which is the line."""
    width = SPARK / max(1.15, 1.05 * share)
    parts = box("rail", 0, 7, width, 8), box("full", 0, 7, width * share, 8), line("one", width, 0, width, TALL)
    return svg(parts, (SPARK, TALL), title)


def _spark(one: Series) -> str:
    """The values over the commits; a change of 15 % spans a third of the height at the most."""
    low, high = min(one.values), max(one.values)
    middle, reach = (low + high) / 2, max((high - low) / 2, 0.15 * abs(high), 1e-300)
    step = (SPARK - 10) / max(len(one.values) - 1, 1)
    left = 5 if len(one.values) > 1 else SPARK / 2
    points = [
        (left + step * i, SPARK_TALL / 2 - (value - middle) / reach * (SPARK_TALL / 2 - 5))
        for i, value in enumerate(one.values)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    title = ", ".join(f"{c[:8]} {quantity(v, one.unit)}" for c, v in zip(one.commits, one.values, strict=True))
    parts = f'<polyline class="spark" points="{path}"/>', dot(f"dot {one.verdict()}", *points[-1], 3)
    return svg(parts, (SPARK, SPARK_TALL), title)


# What asv has measured


def _limit(figures: Sequence[Figure], site: Site) -> Iterator[str]:
    yield '<h2 id="limit-title">Against the machine\'s limit</h2>'
    yield "<p>What writes memory cannot be faster than a memset of it. The bar is the share of a memset's speed, the "
    yield "line all of it. Beneath: the other ratios and rates that asv follows.</p>"
    rows = [row for row in figures if "against memset" in row.what and row.samples]
    tracked = [one for one in site.series if ".track_" in one.name]
    if not rows and not tracked:
        yield '<p class="empty">Nothing measured yet.</p>'
        return
    yield '<ul class="rows track" id="limit">'
    for row in rows:
        yield _share(escape(row.what), row.value, "the race")
    limited = [one for one in tracked if "over_memset" in one.name and one.values[-1] > 0]
    yield from (_share(_named(one), 1 / one.values[-1], f"asv, {one.commits[-1][:8]}") for one in limited)
    yield from (_tracked(one) for one in tracked if one not in limited)
    yield "</ul>"


def _share(name: str, share: float, source: str) -> str:
    meter = _meter(share, f"{100 * share:.0f} % of a memset's speed")
    cells = f'<span class="name">{name}</span>{meter}{_span("number value", f"{100 * share:.0f} %")}'
    return _item("", {}, cells + _span("small number", source))


def _commits(site: Site) -> Iterator[str]:
    yield '<h2 id="commits-title">Commit by commit</h2>'
    yield f"<p>Less is better, of rates more. A change of less than {100 * NOISE:.0f} % is noise, "
    yield "and extra memory is known to some 100 KiB only.</p>"
    yield f'<p class="soft">{escape(site.machine)}. asv\'s own pages: <a href="asv/index.html#/">grid</a>, '
    yield '<a href="asv/index.html#/summarylist">list</a>, <a href="asv/index.html#/regressions">regressions</a>. '
    yield "They load scripts from public servers, so that they need the internet; this page does not.</p>"
    if len(site.commits) < 2:
        yield '<p class="empty">One commit: nothing to compare yet.</p>'
    else:
        yield from _regressions(site)
        yield "<h3>Each commit against the one measured before</h3>"
        yield '<ul class="rows history" id="history" tabindex="0" aria-label="Commits">'
        yield from (_commit(site, *one) for one in reversed(site.commits))
        yield "</ul>"
    yield "<h3>Every benchmark</h3>"
    yield _tools("commits", "Filter benchmarks", {"verdict": ["worse", "better"]} if len(site.commits) > 1 else {})
    yield '<ul class="rows track" id="commits">'
    yield from map(_tracked, site.series)
    yield "</ul>"


def _regressions(site: Site) -> Iterator[str]:
    if not site.regressions:
        yield '<p class="empty">asv finds no regression: no level that went up and stayed there.</p>'
        return
    yield '<h3>Regressions that asv finds</h3><ul class="rows track" id="regressions">'
    for one in site.regressions:
        change = _percent(one.last / one.best) if one.best else "from 0"
        since = f"since {', '.join(commit[:8] for commit in one.since)}" if one.since else ""
        cells = f'<span class="name">{_anchor(one.link, one.name)}</span>{_span("small", since)}'
        yield _item(one.name, {}, cells + _span("number value", change) + _span("chip bad", "worse"))
    yield "</ul>"


def _commit(site: Site, commit: str, date: int) -> str:
    """How many benchmarks a commit made worse and better, and which."""
    found: dict[str, list[str]] = {"worse": [], "better": [], "": []}
    compared = 0
    for one in site.series:
        if commit in one.commits:
            at = one.commits.index(commit)
            change = one.change(at)
            compared += change is not None
            text = "" if change is None else f" {_percent(change)}"
            found[one.verdict(at)].append(f"<li>{_named(one)}{text}</li>")
    day = datetime.datetime.fromtimestamp(date / 1000, datetime.UTC).date().isoformat()
    cells = f'<span class="name"><code>{commit[:8]}</code> {_span("small", day)}</span>'
    if not compared:
        return _item("", {}, cells + _span("soft", f"{len(found[''])} measured, nothing before to compare with"))
    for word, kind in (("worse", "bad"), ("better", "good")):
        what = found[word]
        head = _span(kind if what else "soft", f"{len(what)} {word}")
        lines = f"<details><summary>{head}</summary><ul>{''.join(what)}</ul></details>"
        cells += lines if what else head
    return _item("", {}, cells + _span("small number", f"of {compared}"))


def _tracked(one: Series) -> str:
    word, change = one.verdict(), one.change()
    kind = {"worse": "bad", "better": "good"}.get(word, "soft")
    said = "" if change is None else f"{_percent(change)} {word}"
    value, unit = quantity(one.values[-1], one.unit), ""
    if one.unit.startswith("times "):  # whose: too long for the column of numbers
        value, unit = f"{one.values[-1]:.3g}x", _span("small", f"{one.unit[6:]} time")
    cells = (
        f'<span class="name">{_named(one)}</span>{_spark(one)}<span class="number">{_span("value", value)}{unit}</span>'
    )
    return _item(f"{one.name} {one.label} {word}", {"verdict": word}, cells + _span(f"chip {kind}", said))


# Small parts


def _span(kind: str, words: str = "") -> str:
    return f'<span class="{kind}">{escape(words)}</span>'


def _named(one: Series) -> str:
    return _anchor(one.link, one.name) + (f" {_span('small', one.label)}" if one.label else "")


def _anchor(fragment: str, words: str) -> str:
    return f'<a href="asv/index.html#{escape(fragment)}">{escape(words.removeprefix("bench_summary."))}</a>'


def _tools(rows: str, label: str, groups: Mapping[str, Iterable[str]], notes: bool = False) -> str:
    """A field and buttons that filter the rows of the element with that id, and one that shows their notes."""
    buttons = "".join(
        f'<button type="button" aria-pressed="false" data-kind="{kind}" data-group="{escape(group)}">'
        f"{escape(group)}</button>"
        for kind, names in groups.items()
        for group in names
    )
    if notes:
        buttons += '<button type="button" aria-pressed="false" data-notes>spread and times</button>'
    return (
        f'<div class="tools" data-rows="{rows}"><input type="search" placeholder="{label}" aria-label="{label}">'
        f'{buttons}<output class="soft" aria-live="polite"></output></div>'
    )


def _item(text: str, groups: Mapping[str, str], cells: str, note: str = "") -> str:
    own = "".join(f' data-{kind}="{escape(group)}"' for kind, group in groups.items())
    under = _span("note small", note) if note else ""
    return f'<li data-text="{escape(text.lower())}"{own}>{cells}{under}</li>'


def _note(row: Figure) -> str:
    spread = f"{digits(min(row.samples))} to {row.number(max(row.samples))}" if row.samples else ""
    return "; ".join(filter(None, (spread, row.note)))


def _percent(change: float) -> str:
    text = f"{100 * (change - 1):+.0f} %"
    return "0 %" if text[1:] == "0 %" else text


def quantity(value: float, unit: str) -> str:
    """A value in asv's unit, with three digits."""
    if unit == "seconds":
        for factor, name in ((1, "s"), (1e3, "ms"), (1e6, "us")):
            if value * factor >= 1:
                return f"{value * factor:.3g} {name}"
        return f"{value * 1e9:.3g} ns"
    if unit == "bytes":
        return f"{value / 2**20:.4g} MiB" if value >= 2**20 else f"{value / 2**10:.3g} KiB"
    return f"{value:.3g} {unit}".rstrip()
