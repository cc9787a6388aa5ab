"""The race as a picture: a panel for each job, a dot with its spread for each peer. Needs matplotlib, and no screen."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

# Told apart in print and by most colour-blind readers (Okabe and Ito, 2008).
OURS, THEIRS, SKIPPED = "#0072b2", "#d55e00", "#767676"
COLUMNS = 2
WIDTH, ROW, MARGIN = 10.5, 0.27, 0.95  # inches


def jobs(record: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The contests by job, the slowest peer first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for figure in record["figures"]:
        if figure["job"]:
            found.setdefault(figure["job"], []).append(figure)
    return {job: sorted(rows, key=lambda row: -(row["value"] or 0)) for job, rows in found.items()}


def draw(record: dict[str, Any], path: Path) -> None:
    """Writes the chart of a record of race.py.

    Raises
    ------
    NotImplementedError
        If matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise NotImplementedError("the chart needs matplotlib") from None
    panels = jobs(record)
    lines = -(-len(panels) // COLUMNS)
    rows = list(panels.values())
    heights = [max(map(len, rows[i : i + COLUMNS])) * ROW + MARGIN for i in range(0, len(rows), COLUMNS)]
    options = {"svg.fonttype": "none", "font.size": 9.5, "svg.hashsalt": "race"}
    with matplotlib.rc_context(options):
        figure = Figure(figsize=(WIDTH, sum(heights) + 0.8), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(lines, COLUMNS, squeeze=False, gridspec_kw={"height_ratios": heights})
        for place in axes.flat[len(panels) :]:
            place.remove()
        for place, (job, contests) in zip(axes.flat, panels.items(), strict=False):
            _panel(place, job, contests)
        figure.suptitle("How many times as long as fastinit", fontsize=13, fontweight="bold")
        figure.supxlabel(record["heading"][0] + f"; {record['threads']} threads", fontsize=8, color=SKIPPED)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)


def _panel(place: Any, job: str, contests: list[dict[str, Any]]) -> None:
    place.set_title(job, loc="left", fontweight="bold", fontsize=10.5)
    place.set_xscale("log")
    largest = max([max(row["samples"]) for row in contests if not row["skipped"]], default=1.0)
    smallest = min([min(row["samples"]) for row in contests if not row["skipped"]], default=1.0)
    place.set_xlim(min(0.5, smallest / 1.3), max(largest * 4, 4))
    place.axvline(1, color="black", linewidth=2)
    for line, row in enumerate(contests):
        if row["skipped"]:
            place.text(1.15, line, "not installed", color=SKIPPED, va="center", style="italic")
            continue
        value, low, high = statistics.median(row["samples"]), min(row["samples"]), max(row["samples"])
        colour = OURS if value >= 1 else THEIRS
        place.plot([low, high], [line, line], color=colour, linewidth=2, solid_capstyle="butt")
        place.plot([value], [line], "o", color=colour, markersize=6)
        text = f"{value:.3g}x" + ("" if value >= 1 else "  the peer wins")
        place.text(max(high, 1 if value < 1 else 0) * 1.12, line, text, va="center", color=colour)
    place.set_yticks(range(len(contests)), [row["peer"] for row in contests])
    place.set_ylim(len(contests) - 0.4, -0.6)
    place.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    place.tick_params(axis="y", length=0)
    place.spines[["top", "right", "left"]].set_visible(False)
    place.grid(axis="x", color="#e5e5e5", linewidth=0.8)
    place.set_axisbelow(True)
