"""Charts of a network's layers as SVG, drawn with the standard library alone, and their building blocks.

Colours are CSS variables of the page, so that one drawing serves light and dark mode. The benchmarks use the same
building blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final, NamedTuple

__all__ = [
    "LEVELS",
    "Curve",
    "box",
    "cropped",
    "curves",
    "decades",
    "dot",
    "heat_chart",
    "level",
    "line",
    "share_chart",
    "steps",
    "svg",
    "text",
    "variance_chart",
]

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 12, 46
RAIL = 36  # height of the strip for values that a logarithmic axis cannot show
# Levels of a histogram's shares, by half decades: level 1 is up to 0.02 %, level 9 above 30 %.
LEVELS: Final = 9
COLUMNS = 120  # of a heat map; more would be narrower than a pixel


class Curve(NamedTuple):
    """A variance in every layer, in the order of the layers.

    Attributes
    ----------
    title, text : str
        Title, and a description in one sentence.
    names : tuple of str
        Names of the layers, or their numbers.
    measured : tuple of float
        Measured variances.
    predicted : tuple of float
        Predicted variances; empty without a prediction.
    start : float
        Measured variance where the signal enters: in the first layer forward, in the last layer backward.
    """

    title: str
    text: str
    names: tuple[str, ...]
    measured: tuple[float, ...]
    predicted: tuple[float, ...]
    start: float


def curves(found: Any) -> tuple[Curve, Curve]:
    """The measured variances, forward and backward.

    Parameters
    ----------
    found : Propagation, or any object with layers
        The layers have a `pre_variance` or a `variance`, and a `gradient_variance`; values of None are skipped. They
        may have a `name`, a `predicted_variance` and a `predicted_gradient_variance`.

    Raises
    ------
    ValueError
        If there are no layers.
    """
    layers = tuple(found.layers)
    if not layers:
        raise ValueError("expected at least 1 layer to draw, got none")
    names = [str(getattr(layer, "name", number)) for number, layer in enumerate(layers, 1)]
    forward = "pre_variance" if hasattr(layers[0], "pre_variance") else "variance"

    def read(title: str, text: str, measured: str, predicted: str) -> Curve:
        kept = [number for number, layer in enumerate(layers) if getattr(layer, measured) is not None]
        theory = kept if all(hasattr(layer, predicted) for layer in layers) else []
        return Curve(
            title,
            text,
            tuple(names[number] for number in kept),
            tuple(float(getattr(layers[number], measured)) for number in kept),
            tuple(float(getattr(layers[number], predicted)) for number in theory),
            float(getattr(layers[kept[-1 if measured.startswith("gradient") else 0]], measured)) if kept else math.nan,
        )

    return (
        read(
            "Forward: variance of the signal",
            "Var(z) of every layer, from the first to the last"
            if forward == "pre_variance"
            else "One variance per layer",
            *(forward, "predicted_variance"),
        ),
        read(
            "Backward: variance of the gradients",
            "Var(dz) of every layer, on its way back from the last to the first",
            *("gradient_variance", "predicted_gradient_variance"),
        ),
    )


def decades(values: Sequence[float]) -> tuple[int, int]:
    """Exponents of the ends of a logarithmic axis that shows all positive finite values; at least four apart."""
    shown = [math.log10(value) for value in values if 0.0 < value < math.inf]
    low, high = (math.floor(min(shown)), math.ceil(max(shown))) if shown else (-2, 2)
    while high - low < 4:  # a healthy network's line must look flat
        low, high = low - 1, high + (high - low < 3)
    return low, high


def level(share: float) -> int:
    """Level of a share of a histogram: 0 for an empty bin, then by half decades up to LEVELS."""
    return max(1, math.ceil(LEVELS + 2 * math.log10(share))) if share > 0.0 else 0


def cropped(histograms: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Range of the non-empty rows of histograms, including the middle rows."""
    middle = len(histograms[0]) // 2
    filled = [row for row in range(len(histograms[0])) if any(counts[row] for counts in histograms)]
    return min([middle - 2, *filled]), max([middle + 2, *filled]) + 1


# Building blocks


def text(kind: str, x: float, y: float, words: str, *, anchor: str = "middle") -> str:
    """A text element. `kind` is the CSS class, here and in the functions below."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A line between two points."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def box(kind: str, x: float, y: float, width: float, height: float, title: str = "") -> str:
    """A rectangle by its upper left corner. Browsers show the title as a tooltip."""
    ending = f"><title>{escape(title)}</title></rect>" if title else "/>"
    return f'<rect class="{kind}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"{ending}'


def dot(kind: str, x: float, y: float, radius: float) -> str:
    """A filled circle."""
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'


def svg(parts: Iterable[str], size: tuple[float, float], title: str, *, identity: str = "", more: str = "") -> str:
    """An SVG drawing of the given parts. `identity` prefixes the title's id; `more` holds further attributes."""
    named = f' id="{identity}-title"' if identity else ""
    head = f'<svg viewBox="0 0 {size[0]:g} {size[1]:g}" role="img"{more}><title{named}>{escape(title)}</title>'
    return f"{head}{''.join(parts)}</svg>"


def _chart(identity: str, title: str, words: str, parts: Sequence[str]) -> str:
    """A chart of the page, with an accessible name and description."""
    more = f' class="chart" aria-labelledby="{identity}-title {identity}-text"'
    description = f'<desc id="{identity}-text">{escape(words)}</desc>'
    return svg((description, *parts), (WIDTH, HEIGHT), title, identity=identity, more=more)


def _power(exponent: int) -> str:
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def steps(low: int, high: int, most: int) -> range:
    """At most `most` round numbers from low to high."""
    for step in (scale * 10**power for power in range(10) for scale in (1, 2, 5)):
        if (high - low) // step < most:
            return range(-(-low // step) * step, high + 1, step)
    return range(low, high + 1, high - low)


def _round_numbers(low: float, high: float) -> list[float]:
    """Four to nine multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / 4.0))
    step = next(scale * power for scale in (5.0, 2.0, 1.0) if scale * power <= (high - low) / 4.0)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _columns(count: int) -> tuple[float, float]:
    """Centre of the first layer's column, and the distance between columns."""
    step = (WIDTH - LEFT - RIGHT) / count
    return LEFT + step / 2, step


def _layer_axis(names: Sequence[str]) -> Iterator[str]:
    first, step = _columns(len(names))
    bottom, last = HEIGHT - BOTTOM, -math.inf
    for number in (1, *(one for one in steps(1, len(names), 8) if one > 1)):
        x = first + (number - 1) * step
        if x - last > 26:
            last = x
            yield line("axis", x, bottom, x, bottom + 4)
            yield text("tick", x, bottom + 19, names[number - 1] if len(names[number - 1]) < 7 else str(number))
    yield text("label", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 7, "layer")


def _shown(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


# The charts


def variance_chart(curve: Curve, identity: str, limit: float) -> str:
    """A variance per layer on a logarithmic axis, as an SVG element. Points are measured, the line is predicted.

    Zeros lie on a strip below the axis, values that are not finite on a strip above it. The shaded band covers a factor
    of `limit` around the start of the signal.
    """
    everything = (*curve.measured, *curve.predicted)
    zeros, wild = any(value == 0.0 for value in everything), not all(map(math.isfinite, everything))
    low, high = decades(everything)
    top, bottom = TOP + RAIL * wild, HEIGHT - BOTTOM - RAIL * zeros
    first, step = _columns(len(curve.names))

    def height(exponent: float) -> float:
        return bottom - (exponent - low) / (high - low) * (bottom - top)

    def place(value: float) -> float:
        if not math.isfinite(value):
            return TOP + RAIL / 2
        return height(math.log10(value)) if value > 0.0 else HEIGHT - BOTTOM - RAIL / 2

    parts = []
    if 0.0 < curve.start < math.inf:
        start, reach = math.log10(curve.start), math.log10(limit)
        upper, lower = height(min(start + reach, high)), height(max(start - reach, low))
        parts.append(box("band", LEFT, upper, WIDTH - LEFT - RIGHT, lower - upper))
    for exponent in steps(low, high, 8):
        y = height(exponent)
        parts += (
            line("grid", LEFT, y, WIDTH - RIGHT, y),
            text("tick", LEFT - 7, y + 4, _power(exponent), anchor="end"),
        )
    if zeros:
        parts += (
            box("rail", LEFT, bottom, WIDTH - LEFT - RIGHT, RAIL),
            text("tick", LEFT - 7, bottom + RAIL / 2 + 4, "0", anchor="end"),
        )
    if wild:
        parts += (
            box("rail", LEFT, TOP, WIDTH - LEFT - RIGHT, RAIL),
            text("tick", LEFT - 7, TOP + RAIL / 2 + 4, "∞", anchor="end"),
        )
    parts.append(line("axis", LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM))
    parts += _layer_axis(curve.names)
    if curve.predicted:
        path, down = [], False
        for number, value in enumerate(curve.predicted):
            drawn = 0.0 < value < math.inf
            if drawn:
                path.append(f"{'L' if down else 'M'}{first + number * step:.1f} {place(value):.1f}")
            down = drawn
        parts.append(f'<path class="predicted" d="{"".join(path)}"/>' if path else "")
    radius = max(1.4, min(3.6, step / 2.4))
    for number, value in enumerate(curve.measured):
        parts.append(dot("measured", first + number * step, place(value), radius))
    for number, (name, value) in enumerate(zip(curve.names, curve.measured, strict=True)):
        also = f", predicted {_shown(curve.predicted[number])}" if curve.predicted else ""
        tip = f"layer {name}: measured {_shown(value)}{also}"
        parts.append(box("hit", first + (number - 0.5) * step, TOP, step, HEIGHT - BOTTOM - TOP, tip))
    words = f"{curve.text}: {_shown(curve.measured[0])} in the first layer, {_shown(curve.measured[-1])} in the last."
    return _chart(identity, curve.title, words, parts)


def heat_chart(names: Sequence[str], edges: Sequence[float], histograms: Sequence[Sequence[int]], identity: str) -> str:
    """Histograms of all layers side by side, as an SVG element. Darker bins hold a larger share of the values.

    The middle rows lie between `edges`. The two outermost rows hold the values beyond them.
    """
    group = -(-len(names) // COLUMNS)
    begin, end = cropped(histograms)
    first, step = _columns(len(names))
    bottom = HEIGHT - BOTTOM
    row = (bottom - TOP) / (end - begin)
    paths: list[list[str]] = [[] for _ in range(LEVELS + 1)]
    parts, hits = [box("paper", LEFT, TOP, WIDTH - LEFT - RIGHT, bottom - TOP)], []
    for number in range(0, len(names), group):
        last = min(number + group, len(names)) - 1
        counts = [sum(column) for column in zip(*histograms[number : last + 1], strict=True)]
        x, width = first + (number - 0.5) * step, (last + 1 - number) * step
        total = sum(counts)
        tip = f"layer {names[number]}" if number == last else f"layers {names[number]} to {names[last]}"
        if total:
            middle, beyond = counts[len(counts) // 2] / total, (counts[0] + counts[-1]) / total
            tip += f": {middle:.1%} in the bin around 0, {beyond:.1%} beyond the axis"
        else:
            tip += ": nothing but NaN"
            parts.append(box("void", x, TOP, width, bottom - TOP))
        for index in range(begin, end):
            strength = level(counts[index] / total) if counts[index] else 0
            if strength:
                y = bottom - (index - begin + 1) * row
                # overlap neighbours slightly: rounding in the browser would leave gaps
                paths[strength].append(f"M{x:.2f} {y - 0.5:.2f}h{width + 0.5:.2f}v{row + 0.5:.2f}h-{width + 0.5:.2f}z")
        hits.append(box("hit", x, TOP, width, bottom - TOP, tip))
    parts += [f'<path class="heat h{one}" d="{"".join(path)}"/>' for one, path in enumerate(paths) if path]
    for value in _round_numbers(edges[0], edges[-1]):
        at = (value - edges[0]) / (edges[1] - edges[0]) + 1 - begin
        if 0 <= at <= end - begin:
            y = bottom - at * row
            parts += (line("axis", LEFT - 4, y, LEFT, y), text("tick", LEFT - 7, y + 4, f"{value:.4g}", anchor="end"))
    for index, word in ((0, "less"), (len(histograms[0]) - 1, "more")):
        if begin <= index < end:
            y = bottom - (index - begin + 0.5) * row
            parts.append(text("tick", LEFT - 7, y + 4, word, anchor="end"))
    parts.append(line("axis", LEFT, bottom, WIDTH - RIGHT, bottom))
    parts += _layer_axis(names)
    words = "A column for each layer: how its activations are distributed, in bins that all layers share."
    return _chart(identity, "Activations", words, [*parts, *hits])


def share_chart(names: Sequence[str], shares: Mapping[str, Sequence[float]], identity: str) -> str:
    """Shares in [0, 1] of every layer as lines, as an SVG element. The names of the shares are CSS classes."""
    first, step = _columns(len(names))
    bottom = HEIGHT - BOTTOM
    parts: list[str] = []
    for tenths in (0, 2, 4, 6, 8, 10):
        y = bottom - tenths / 10 * (bottom - TOP)
        parts += (
            line("grid", LEFT, y, WIDTH - RIGHT, y),
            text("tick", LEFT - 7, y + 4, f"{10 * tenths} %", anchor="end"),
        )
    parts += (line("axis", LEFT, bottom, WIDTH - RIGHT, bottom), *_layer_axis(names))
    for kind, values in shares.items():
        points = [(first + number * step, bottom - value * (bottom - TOP)) for number, value in enumerate(values)]
        start = f"M{points[0][0] - step / 3:.1f} {points[0][1]:.1f}"  # gives a single layer's line a length
        path = "".join(f"L{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="share {escape(kind)}" d="{start}{path}"/>')
    for number, name in enumerate(names):
        tip = f"layer {name}: " + ", ".join(f"{values[number]:.1%} {kind}" for kind, values in shares.items())
        parts.append(box("hit", first + (number - 0.5) * step, TOP, step, bottom - TOP, tip))
    return _chart(identity, "State of the units", "Shares of the units of each layer, see the table below.", parts)
