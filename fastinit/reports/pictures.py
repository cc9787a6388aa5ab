"""A propagation as a picture, PNG or SVG, drawn by matplotlib: ``pip install fastinit-weights[plots]``.

Uses neither a display, nor pyplot, nor matplotlib's global state, so it does not interfere with other figures.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fastinit.audits.propagation import LIMIT
from fastinit.files import write_file
from fastinit.reports.charts import Curve, cropped, curves, decades, steps
from fastinit.reports.pages import SIGNS, described, named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "picture_bytes", "picture_format"]

INK, SOFT, MEASURED, PREDICTED = "#1c2128", "#57606a", "#0b5cad", "#bc4c00"
# Dark enough for white text, with lightness as different as that allows.
VERDICTS: Final = {"healthy": "#116329", "vanishing": "#7d4e00", "exploding": "#a40e26", "symmetric": "#6639ba"}
# Fixed, so that the caller's settings do not change the picture.
SETTINGS: Final = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10.0,
    "text.usetex": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "fastinit",
    "axes.unicode_minus": True,
}


def picture_format(path: str | os.PathLike[str]) -> str:
    """Format of a picture by its suffix: "png" or "svg".

    Raises
    ------
    ValueError
        If the suffix is another one.
    ImportError
        If matplotlib is not installed.
    """
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in (".png", ".svg"):
        raise ValueError(f"the name of a picture must end in .png or .svg, got {os.fspath(path)!r}")
    _matplotlib()
    return suffix[1:]


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError:
        message = "pictures need matplotlib, which is not installed: pip install 'fastinit-weights[plots]'"
        raise ImportError(message, name="matplotlib") from None
    return matplotlib


def draw(found: Any, path: str | os.PathLike[str] | None = None, *, title: str | None = None) -> Figure:
    """Draws the variances of all layers forward and backward, the histograms of their activations, and the verdict.

    Parameters
    ----------
    found : Propagation, or any object with layers
        The layers have a `pre_variance` and a `gradient_variance`; the object may have a `verdict` and a `reason`.
    path : path, optional
        File to write, atomically (see :mod:`fastinit.files`). The suffix ``.png`` or ``.svg`` selects the format.
    title : str, optional
        By default the depth, the widths, the activation and the initializer.

    Returns
    -------
    matplotlib.figure.Figure
        A figure without a backend. ``figure.savefig`` writes any format, and notebooks display it.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If there are no layers, or the path has another suffix.
    OSError
        If the folder is missing or read-only, the path is a folder, or it cannot be written. The error has the path.
    """
    kind = None if path is None else picture_format(path)
    _matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    forward, backward = curves(found)
    histograms = [getattr(layer, "histogram", ()) for layer in found.layers]
    edges = getattr(found, "edges", ())
    with _own_settings():
        whole = bool(edges) and all(histograms)
        spacing = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
        figure = Figure(figsize=(11.0, 8.6 if whole else 5.2), dpi=120, facecolor="white", layout=spacing)
        rows: list[Any] = [["verdict", "verdict"], ["forward", "backward"]] + [["heat", "heat"]] * whole
        axes = figure.subplot_mosaic(rows, height_ratios=[0.42, 2.0, 1.7][: len(rows)])
        _verdict(axes["verdict"], found, title if title is not None else _title(found))
        for curve, where in ((forward, axes["forward"]), (backward, axes["backward"])):
            _variances(where, curve)
        if whole:
            _heat(figure, axes["heat"], forward.names, edges, histograms)
    if path is not None and kind is not None:
        write_file(path, picture_bytes(figure, kind))
    return figure


def picture_bytes(figure: Figure, kind: str) -> bytes:
    """Bytes of a figure from :func:`draw` as a "png" or "svg" file."""
    file = io.BytesIO()
    with _own_settings():
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else {})
    return file.getvalue()


def _own_settings() -> Any:
    """Context with matplotlib's defaults and SETTINGS instead of the caller's settings."""
    matplotlib = _matplotlib()
    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith("backend")}
    return matplotlib.rc_context(defaults | SETTINGS)


def _title(found: Any) -> str:
    widths = sorted({getattr(layer, "width", None) or 0 for layer in found.layers})
    size = f"width {widths[0]}" if len(widths) == 1 else f"widths {widths[0]} to {widths[-1]}"
    parts = [f"{len(found.layers)} layers", *([f"of {size}"] if widths[0] else [])]
    what = [" ".join(parts), described(found) if getattr(found, "activation", None) else None]
    if getattr(found, "initializer", None) is not None:
        what.append(named(found.initializer, getattr(found, "negative_slope", None)))
    return ", ".join(str(part) for part in what if part)


def _verdict(axes: Any, found: Any, title: str) -> None:
    import textwrap

    axes.set_axis_off()
    axes.set_title(title, loc="left", color=INK, fontsize=12, parse_math=False)
    verdict = str(getattr(found, "verdict", ""))
    if not verdict:
        return
    axes.set(xlim=(0, 1), ylim=(0, 1))
    colour = VERDICTS.get(verdict, SOFT)
    axes.add_patch(_rectangle((0, 0), 1, 1, color=colour, linewidth=0))
    word = f"{SIGNS.get(verdict, '')} {verdict.upper()}".strip()
    axes.text(0.012, 0.5, word, color="white", fontsize=17, fontweight="bold", va="center", parse_math=False)
    reason = textwrap.fill(str(getattr(found, "reason", "")), 78)
    axes.text(0.235, 0.5, reason, color="white", fontsize=10.5, va="center", parse_math=False)


def _rectangle(*arguments: Any, **options: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(*arguments, **options)


def _variances(axes: Any, curve: Curve) -> None:
    """Points are measured, the line is predicted. Zeros lie on a strip below the axis, overflow on a strip above it.

    The axis shows exponents: matplotlib's logarithmic axis cannot reach the largest and smallest floats.
    """
    axes.set_title(curve.title, loc="left", fontsize=11, color=INK, parse_math=False)
    if not curve.names:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "not measured", color=SOFT, ha="center", transform=axes.transAxes)
        return
    layers = np.arange(1, len(curve.names) + 1)
    low, high = decades((*curve.measured, *curve.predicted))
    size = max(1.5, min(5.0, 260.0 / len(layers)))
    measured = np.array(curve.measured)
    line, points = _exponents(curve.predicted or [0.0] * len(layers)), _exponents(measured)
    if np.isfinite(line).any():
        axes.plot(layers, line, "--", color=PREDICTED, lw=1.8, label="predicted", zorder=3)
    if np.isfinite(points).any():
        axes.plot(layers, points, "o", color=MEASURED, ms=size, label="measured", zorder=4)
    if 0.0 < curve.start < math.inf:
        start, reach = math.log10(curve.start), math.log10(LIMIT)
        ends = max(start - reach, low), min(start + reach, high)
        axes.axhspan(*ends, color="#1a7f37", alpha=0.12, lw=0, label=f"within a factor of {LIMIT:g}", zorder=0)
    limits, strip = [float(low), float(high)], (high - low) / 10
    for these, edge, marker, word in ((measured == 0.0, 0, "v", "zero"), (~np.isfinite(measured), 1, "^", "overflow")):
        if these.any():
            before = limits[edge]
            limits[edge] += strip if edge else -strip
            axes.axhspan(before, limits[edge], color="#afb8c1", alpha=0.3, lw=0, zorder=0)
            axes.plot(
                layers[these],
                np.full(these.sum(), (before + limits[edge]) / 2),
                marker,
                color=MEASURED,
                ms=max(size, 3.5),
                label=f"measured: {word}",
                zorder=4,
            )
    axes.set_ylim(*limits)
    ticks = list(steps(low, high, 8))
    axes.set_yticks(ticks, [f"$10^{{{exponent}}}$" for exponent in ticks])
    axes.set_xlabel("layer")
    axes.set_xlim(0.5, len(layers) + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", color="#d0d7de", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8.5, framealpha=0.85)


def _exponents(values: Any) -> Any:
    """Decadic logarithms; NaN for values that a chart cannot show."""
    given = np.asarray(values, dtype=float)
    good = (given > 0.0) & np.isfinite(given)
    return np.where(good, np.log10(np.where(good, given, 1.0)), np.nan)


def _heat(
    figure: Any, axes: Any, names: Sequence[str], edges: Sequence[float], histograms: Sequence[Sequence[int]]
) -> None:
    from matplotlib.colors import LogNorm

    begin, end = cropped(histograms)
    counts = np.array(histograms, dtype=float).T[begin:end]
    totals = np.array(histograms, dtype=float).sum(axis=1)
    shares = np.where(counts > 0, counts / np.where(totals > 0, totals, 1.0), np.nan)
    step = edges[1] - edges[0]
    rows = edges[0] + step * (np.arange(begin, end + 1) - 1)
    image = axes.pcolormesh(
        np.arange(len(names) + 1) + 0.5,
        rows,
        np.ma.masked_invalid(shares),
        cmap="Blues",
        norm=LogNorm(1e-4, 1.0),
        rasterized=True,
    )
    for layer in np.flatnonzero(totals == 0):
        axes.axvspan(layer + 0.5, layer + 1.5, facecolor="#e7ebef", edgecolor=SOFT, hatch="///", lw=0)
    axes.set_title(
        "Histograms of the activations, in shared bins; the outermost rows hold all values beyond",
        loc="left",
        fontsize=11,
        color=INK,
        parse_math=False,
    )
    axes.set_xlabel("layer; hatched if all values are NaN" if (totals == 0).any() else "layer")
    axes.set_ylabel("activation")
    axes.xaxis.get_major_locator().set_params(integer=True)
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=14)
    bar.set_label("share of the layer")
    bar.set_ticks([1e-4, 1e-3, 1e-2, 1e-1, 1.0], labels=["0.01 %", "0.1 %", "1 %", "10 %", "100 %"])
