"""A healthy network beside two sick ones, as one picture: the variance of the signal in each of 50 layers.

``python examples/health.py --picture docs/pictures/health.svg`` draws it with the library's own parts, as an SVG that
follows a light or a dark page.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import fastinit
from fastinit.reports.charts import dot, line, svg, text

DEPTH, WIDTH, ACTIVATION = 50, 512, "relu"
NETWORKS = (
    ("he_normal", fastinit.he_normal()),
    ("glorot_normal", fastinit.glorot_normal()),
    ("N(0, 0.1)", fastinit.naive_normal()),
)
STYLE = """
svg { --paper: #ffffff; --ink: #1d1d1b; --soft: #63635e; --line: #e4e3de; --healthy: #116329; --sick: #a40e26;
  background: var(--paper); font: 13px system-ui, "DejaVu Sans", sans-serif; }
@media (prefers-color-scheme: dark) { svg { --paper: #161615; --ink: #ecebe6; --soft: #a3a29b; --line: #34342f;
  --healthy: #6bd389; --sick: #ff8a80; } }
text { fill: var(--ink); } .title { font-weight: 650; font-size: 16px; } .tick { fill: var(--soft); font-size: 11px; }
.grid { stroke: var(--line); } text.healthy { fill: var(--healthy); } text.sick { fill: var(--sick); }
circle.healthy { fill: var(--healthy); } circle.sick { fill: var(--sick); }
"""
SIZE = (900, 330)
LEFT, RIGHT, TOP, BOTTOM = 60, 690, 44, 280
LOW, HIGH = -18, 24  # powers of ten


def measured() -> list[tuple[str, fastinit.Propagation]]:
    """Each network, run once."""
    key = fastinit.Key(0)
    return [
        (name, fastinit.propagate([WIDTH] * (DEPTH + 1), ACTIVATION, initializer, key=key))
        for name, initializer in NETWORKS
    ]


def place(layer: int, variance: float) -> tuple[float, float]:
    """Where a layer's variance stands, on a logarithmic axis."""
    share = (math.log10(variance) - LOW) / (HIGH - LOW)
    return LEFT + (layer - 0.5) / DEPTH * (RIGHT - LEFT), BOTTOM - share * (BOTTOM - TOP)


def drawn(networks: list[tuple[str, fastinit.Propagation]]) -> str:
    """The picture as SVG."""
    title = f"Variance of the signal through {DEPTH} {ACTIVATION} layers of width {WIDTH}"
    parts = [f"<style>{STYLE}</style>", text("title", SIZE[0] / 2, 24, title)]
    for power in range(LOW, HIGH + 1, 6):
        _, y = place(1, 10.0**power)
        parts += (line("grid", LEFT, y, RIGHT, y), text("tick", LEFT - 8, y + 4, f"1e{power:+d}", anchor="end"))
    for layer in (1, *range(10, DEPTH + 1, 10)):
        parts.append(text("tick", place(layer, 1.0)[0], BOTTOM + 20, str(layer)))
    parts.append(text("tick", (LEFT + RIGHT) / 2, BOTTOM + 40, "layer"))
    for name, found in networks:
        kind = "healthy" if found.verdict == "healthy" else "sick"
        for layer, one in enumerate(found.layers, 1):
            parts.append(dot(kind, *place(layer, one.pre_variance), 3.2))
        _, y = place(DEPTH, found.layers[-1].pre_variance)
        parts.append(text(kind, RIGHT + 10, y + 5, f"{name}: {found.verdict}", anchor="start"))
    return svg(parts, SIZE, title, more=f' xmlns="http://www.w3.org/2000/svg" width="{SIZE[0]}"') + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, default=Path("health.svg"), metavar="FILE", help="where to draw (SVG)")
    networks = measured()
    path = parser.parse_args().picture
    path.write_text(drawn(networks), encoding="utf-8")
    for name, found in networks:
        print(f"{name:15} {found.verdict:10} {found.reason}")
    print(path)


if __name__ == "__main__":
    main()
