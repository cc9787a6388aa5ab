"""The race as a picture: a panel for each job, a dot with its spread for each peer. Needs matplotlib, and no screen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# Told apart in print and by most colour-blind readers (Okabe and Ito, 2008).
SLOWER, FASTER, DIM = "#0072b2", "#c04f00", "#707070"
COLUMNS = 2
WIDTH, ROW, MARGIN = 10.5, 0.25, 0.85  # inches
GAP = "\N{NO-BREAK SPACE}" * 2  # SVG makes one of two ordinary spaces
REASON = 30  # characters of why a peer was skipped
# Where a library's name in small letters is not its distribution's.
DISTRIBUTIONS = {"mkl": ("mkl_random",), "tensorflow": ("tensorflow", "tensorflow-cpu")}


def jobs(record: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The contests by job, the slowest peer first and those that were skipped last."""
    found: dict[str, list[dict[str, Any]]] = {}
    for figure in record["figures"]:
        if figure["job"]:
            found.setdefault(figure["job"], []).append(figure)
    return {job: sorted(rows, key=lambda row: -(row["value"] or 0)) for job, rows in found.items()}


def named(peer: str, versions: dict[str, str]) -> str:
    """A peer with its version behind the library's name: ``NumPy 2.4.6, SFC64``."""
    library = re.match(r"[^ ,]+", peer)[0]
    for distribution in DISTRIBUTIONS.get(library.lower(), (library.lower(),)):
        if distribution in versions:
            version = versions[distribution].partition("+")[0]  # what stands behind it names a build
            return f"{library} {version}{peer[len(library) :]}"
    return peer


def number(value: float) -> str:
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}x"


def draw(record: dict[str, Any], path: Path) -> None:
    """Writes the chart of a record of race.py.

    Raises
    ------
    NotImplementedError
        If matplotlib is not installed.
    ValueError
        If the record has no contests.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise NotImplementedError("the chart needs matplotlib") from None
    panels = jobs(record)
    if not panels:
        raise ValueError("the record has no contests to draw")
    sizes = list(map(len, panels.values()))
    most = [max(sizes[i : i + COLUMNS]) for i in range(0, len(sizes), COLUMNS)]  # of each line of panels
    heights = [rows * ROW + MARGIN for rows in most]
    # text stays text: it can be searched, and the reader's own font draws it
    with matplotlib.rc_context({"svg.fonttype": "none", "font.size": 9.5, "svg.hashsalt": "race"}):
        figure = Figure(figsize=(WIDTH, sum(heights) + 1.0), layout="constrained", facecolor="white")
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(heights), COLUMNS, squeeze=False, gridspec_kw={"height_ratios": heights})
        for place in axes.flat[len(panels) :]:
            place.remove()
        for count, (place, (job, contests)) in enumerate(zip(axes.flat, panels.items(), strict=False)):
            _panel(place, job, contests, most[count // COLUMNS], record["versions"])
        figure.suptitle("How many times as long as fastinit", fontsize=13, fontweight="bold")
        legend = (
            "The median, between the smallest and the largest ratio of two neighbouring runs; left of 1 the peer wins"
        )
        figure.supxlabel(f"{legend}\n{record['heading'][0]}; {record['threads']} threads", fontsize=8.5, color=DIM)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)


def _panel(place: Any, job: str, contests: list[dict[str, Any]], most: int, versions: dict[str, str]) -> None:
    place.set_title(job, loc="left", fontweight="bold", fontsize=10.5)
    place.set_xscale("log")
    samples = [sample for row in contests if not row["skipped"] for sample in row["samples"]]
    place.axvline(1, color="black", linewidth=2.5)
    for line, row in enumerate(contests):
        if row["skipped"]:
            reason = row["skipped"]
            reason = reason if len(reason) <= REASON else f"{reason[: REASON - 3]}..."
            place.text(1.15, line, reason, color=DIM, va="center", style="italic", fontsize=8.5)
            continue
        low, high = min(row["samples"]), max(row["samples"])
        colour = SLOWER if row["value"] >= 1 else FASTER
        place.plot([low, high], [line, line], color=colour, linewidth=2, solid_capstyle="butt")
        place.plot([row["value"]], [line], "o", color=colour, markersize=6)
        if row["value"] < 1:
            place.text(max(high, 1) * 1.15, line, "peer wins", va="center", color=colour)
    labels = [
        named(row["peer"], versions) + ("" if row["skipped"] else f"{GAP}{number(row['value'])}") for row in contests
    ]
    place.set_yticks(range(len(contests)), labels)
    for label, row in zip(place.get_yticklabels(), contests, strict=True):
        label.set_color(DIM if row["skipped"] else "black" if row["value"] >= 1 else FASTER)
    place.set_ylim(most - 0.4, -0.6)  # rows are as far apart in every panel
    least, largest = min([0.5, *samples]) / 1.2, max([8, *samples]) * 1.3
    digits = (1, 2, 5) if largest / least < 150 else (1,)  # as many as fit side by side
    ticks = [digit * 10.0**power for power in range(-3, 5) for digit in digits]
    place.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    place.set_xlim(least, largest)
    place.minorticks_off()
    place.tick_params(axis="y", length=0)
    place.spines[["top", "right", "left"]].set_visible(False)
    place.grid(axis="x", color="#e5e5e5", linewidth=0.8)
    place.set_axisbelow(True)
