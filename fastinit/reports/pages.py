"""A propagation as one self-contained HTML page, without scripts, fonts, images or network access.

>>> import fastinit
>>> found = fastinit.propagate([64] * 9, "relu", fastinit.he_normal(), key=fastinit.Key(0))
>>> page(found).startswith("<!DOCTYPE html>")
True
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from fastinit.advice.recommending import recommend
from fastinit.audits.propagation import LIMIT, Layer, Propagation
from fastinit.files import write_file
from fastinit.initializers import Constant, Normal, TruncatedNormal, Uniform
from fastinit.models.configs import brief
from fastinit.presets import PRESETS
from fastinit.reports.charts import LEVELS, curves, heat_chart, share_chart, variance_chart
from fastinit.sampling import STREAM_VERSION

__all__ = ["named", "page", "remedies", "write_page"]

# Each verdict has a sign and a word, so that colour carries no information.
SIGNS: Final = {"healthy": "✓", "vanishing": "↘", "exploding": "↗", "symmetric": "="}
MEANINGS: Final = {
    "healthy": "The signal survives the depth of this network, forward and backward.",
    "vanishing": "The signal dies out: layers far from its start have almost nothing to learn from.",
    "exploding": "The signal grows without bound: the first steps of training would destroy the weights.",
    "symmetric": "Units that compute the same get the same gradients: a layer of them acts as a single unit.",
}

NOTE: Final = (
    "The network has no biases. The inputs, and the gradient at the last layer, are standard normal. "
    "The prediction is mean-field theory for infinite width; narrow and deep networks deviate from it."
)

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #57606a; --paper: #ffffff; --panel: #f6f8fa;
  --edge: #d0d7de; --measured: #0b5cad; --predicted: #bc4c00; --band: #1a7f3722; --rail: #afb8c133;
  --healthy: #116329; --vanishing: #7d4e00; --exploding: #a40e26; --symmetric: #6639ba; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9ea7b3; --paper: #0d1117; --panel: #161b22;
  --edge: #3a424c; --measured: #6cb6ff; --predicted: #f69d50; --band: #3fb95026; --rail: #6e768133;
  --healthy: #1a7f37; --vanishing: #8f5d00; --exploding: #b62324; --symmetric: #7a4fd0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 16px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.15rem; font-weight: 600; margin: 0 0 12px; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 0; }
p { margin: 4px 0; }
code { font: 0.9em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
pre { margin: 6px 0; padding: 10px 12px; background: var(--panel); border: 1px solid var(--edge); border-radius: 6px;
  white-space: pre-wrap; }
.verdict { color: #ffffff; border-radius: 10px; padding: 16px 20px; }
.verdict strong { display: block; font-size: 2rem; line-height: 1.2; text-transform: capitalize; }
.healthy { background: var(--healthy); } .vanishing { background: var(--vanishing); }
.exploding { background: var(--exploding); } .symmetric { background: var(--symmetric); }
section { margin: 24px 0 0; }
.charts { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); }
figure { margin: 0; padding: 12px; background: var(--panel); border: 1px solid var(--edge); border-radius: 10px; }
figcaption, .note { color: var(--soft); font-size: 0.88rem; }
figcaption h2 { color: var(--ink); }
svg { display: block; overflow: visible; width: 100%; height: auto; font-size: 13px; }
@media (max-width: 560px) { .chart { font-size: 17px; } }
.key svg { display: inline-block; width: 30px; height: 12px; vertical-align: -1px; }
.key span { white-space: nowrap; margin-right: 14px; }
text { fill: var(--ink); } .tick, .label { fill: var(--soft); }
.grid { stroke: var(--edge); stroke-width: 1; } .axis { stroke: var(--soft); stroke-width: 1; }
.band { fill: var(--band); } .rail { fill: var(--rail); } .paper { fill: var(--paper); } .void { fill: var(--rail); }
.measured { fill: var(--measured); } .hit { fill: transparent; } .hit:hover { fill: var(--rail); }
.predicted { fill: none; stroke: var(--predicted); stroke-width: 2; stroke-dasharray: 6 3; }
.share { fill: none; stroke: var(--measured); stroke-width: 2; } .saturated { stroke: var(--predicted);
  stroke-dasharray: 7 3; } .linear { stroke: var(--soft); stroke-dasharray: 2 3; }
.heat { shape-rendering: crispEdges; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 6px 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; border: 1px solid var(--edge); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; text-align: right; white-space: nowrap; } thead th { background: var(--panel); }
tbody tr { border-top: 1px solid var(--edge); }
footer { margin: 24px 0 8px; color: var(--soft); font-size: 0.88rem; }
"""

COLUMNS: Final[Sequence[tuple[str, str, str]]] = (
    ("width", "Units of the layer", "width"),
    ("Var(z)", "Variance of the pre-activations", "pre_variance"),
    ("predicted", "Its prediction", "predicted_variance"),
    ("Var(a)", "Variance of the activations", "variance"),
    ("Var(dz)", "Variance of the gradient with respect to the pre-activations", "gradient_variance"),
    ("predicted", "Its prediction", "predicted_gradient_variance"),
    ("factor", "n Var(W) E[f'^2]: the factor of a gradient's variance on its way back", "factor"),
    ("dead", "Units whose slope is 0 for the whole batch", "dead"),
    ("saturated", "Slopes below a tenth of the steepest", "saturated"),
    ("linear", "Slopes above nine tenths of the steepest", "linear"),
)
DISTRIBUTIONS: Final = (Constant, Uniform, Normal, TruncatedNormal)
SHARES: Final = ("dead", "saturated", "linear")


def write_page(
    found: Propagation,
    path: str | os.PathLike[str],
    *,
    command: str | None = None,
    settings: Mapping[str, object] | None = None,
) -> None:
    """Writes one self-contained HTML page: the verdict, remedies, charts and all numbers.

    An existing page is replaced atomically; devices and pipes are written to. See :mod:`fastinit.files`.

    Parameters
    ----------
    found : Propagation
        The propagation to show.
    path : path
        The file to write.
    command : str, optional
        Command that reproduces the page.
    settings : mapping of str to object, optional
        Further settings to show, such as the seed and the batch.

    Raises
    ------
    OSError
        If the folder is missing or read-only, the path is a folder, or it cannot be written. The error has the path.
    """
    write_file(path, page(found, command=command, settings=settings))


def page(found: Propagation, *, command: str | None = None, settings: Mapping[str, object] | None = None) -> str:
    """The text of the page that :func:`write_page` writes."""
    widths = sorted({layer.width for layer in found.layers})
    size = f"width {widths[0]}" if len(widths) == 1 else f"widths {widths[0]} to {widths[-1]}"
    initializer = named(found.initializer, found.negative_slope)
    title = f"{len(found)} layers of {size}, {described(found)}, {initializer}"
    library = f"fastinit {_version()}, stream v{STREAM_VERSION}"
    made = {
        "activation": described(found),
        "initializer": initializer,
        **(settings or {}),
        "library": library,
    }
    facts = "\n".join(
        f"<dt>{escape(str(name))}</dt><dd><code>{escape(str(value))}</code></dd>" for name, value in made.items()
    )
    again = f"<pre><code>{escape(command)}</code></pre>\n" if command else ""
    advice = "\n".join(f"<p>{escape(line)}</p>" for line in remedies(found))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(found.verdict)}: {escape(title)}</title>
<style>{STYLE}{_shades()}</style>
</head>
<body>
<header>
<h1>fastinit check: {escape(title)}</h1>
<div class="verdict {escape(found.verdict)}">
<strong><span aria-hidden="true">{SIGNS.get(found.verdict, "")}</span> {escape(found.verdict)}</strong>
{escape(found.reason[:1].upper() + found.reason[1:])}.
</div>
</header>
<main>
<section aria-labelledby="advice">
<h2 id="advice">What it means and what to do</h2>
<p>{MEANINGS.get(found.verdict, "")}</p>
{advice}
</section>
<section class="charts" aria-label="Charts">
{chr(10).join(_figures(found))}
</section>
<section aria-labelledby="made">
<h2 id="made">How this was made</h2>
{again}<dl>
{facts}
</dl>
<p class="note">{NOTE}</p>
</section>
<section aria-labelledby="numbers">
<h2 id="numbers">All numbers</h2>
<div class="scroll" role="region" aria-labelledby="numbers" tabindex="0">
{_table(found.layers)}
</div>
</section>
</main>
<footer>{escape(library)}. The same seed draws the same weights on any machine.</footer>
</body>
</html>
"""


def named(initializer: Any, negative_slope: float | None = None) -> str:
    """Name of the preset that equals an initializer, possibly for this negative slope; otherwise its repr."""
    preset = next((name for name, row in PRESETS.items() if row() == initializer), None)
    for name, row in PRESETS.items():
        if preset is None and negative_slope and row.takes_slope and row(negative_slope=negative_slope) == initializer:
            preset = f"{name}(negative_slope={negative_slope:g})"
    # all parameters of a distribution; for classes with many fields only those that differ from the defaults
    return preset or (repr(initializer) if isinstance(initializer, DISTRIBUTIONS) else brief(initializer))


def described(found: Any) -> str:
    """The activation, with its negative slope if given."""
    slope = getattr(found, "negative_slope", None)
    return f"{found.activation}" if slope is None else f"{found.activation} of slope {slope:g}"


def remedies(found: Propagation) -> list[str]:
    """Remedies for a verdict, as sentences."""
    try:
        better = recommend(found.activation, negative_slope=found.negative_slope)
    except ValueError:  # the caller's function: its name is unknown
        better = None
    if better is None:
        return [] if found.verdict == "healthy" else ["Pass the activation itself to fastinit.recommend for a scale."]
    same = better.initializer == found.initializer
    activation, name = described(found), named(better.initializer, found.negative_slope)
    why = f"{better.reason[:1].upper()}{better.reason[1:]} ({better.source})."
    if found.verdict == "healthy":
        if same:
            return [f"No change needed: this is the recommended initializer for {activation}. {why}"]
        return [f"No change needed. In general, {name} is recommended for {activation}. {why}"]
    if same:
        return [
            f"The weights already have the right scale for {activation}. {why}",
            "The rest is due to the depth: use fewer layers, residual branches, or normalization between layers.",
        ]
    return [f"For {activation} use {name} (--init auto). {why}"]


# Parts of the page


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    try:
        return version("fastinit-weights")
    except PackageNotFoundError:  # sources that are not installed
        return "of an unknown version"


def _shades() -> str:
    """Colours of a heat map's levels, from the paper's to the measured points'. Opaque, since bins overlap."""

    def rules(paper: tuple[int, ...], ink: tuple[int, ...]) -> str:
        lines = []
        for one in range(1, LEVELS + 1):
            mixed = (round(low + (high - low) * one / LEVELS) for low, high in zip(paper, ink, strict=True))
            lines.append(f".h{one} {{ fill: rgb{tuple(mixed)}; }}")
        return "\n".join(lines)

    light, dark = rules((255, 255, 255), (11, 92, 173)), rules((13, 17, 23), (108, 182, 255))
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def _swatch(drawing: str) -> str:
    return f'<svg viewBox="0 0 30 12" aria-hidden="true">{drawing}</svg>'


# Entries of the key; those that a chart lacks are omitted.
VARIANCE_KEY: Final = (
    ('<circle class="measured" cx="15" cy="6" r="4"/>', "measured"),
    ('<path class="predicted" d="M1 6H29"/>', "predicted"),
    ('<rect class="band" width="30" height="12"/>', f"within a factor of {LIMIT:g} of its start"),
)
HEAT_KEY: Final = tuple(
    (f'<rect class="heat h{one}" width="30" height="12"/>', share)
    for one, share in ((1, "0.01 %"), (3, "0.1 %"), (5, "1 %"), (7, "10 %"), (9, "100 %"))
)
SHARES_KEY: Final = tuple((f'<path class="share {name}" d="M1 6H29"/>', name) for name in SHARES)


def _figure(title: str, note: str, chart: str, key: Sequence[tuple[str, str]]) -> str:
    shown = [one for one in key if key is not VARIANCE_KEY or one[0].split()[1] in chart]
    entries = " ".join(f"<span>{_swatch(drawing)} {escape(text)}</span>" for drawing, text in shown)
    return (
        f"<figure>\n<figcaption><h2>{escape(title)}</h2>{escape(note)}</figcaption>\n{chart}\n"
        f'<div class="key note">{entries}</div>\n</figure>'
    )


def _figures(found: Propagation) -> Iterator[str]:
    forward, backward = curves(found)
    for curve, identity in ((forward, "forward"), (backward, "backward")):
        yield _figure(curve.title, curve.text, variance_chart(curve, identity, LIMIT), VARIANCE_KEY)
    if found.edges and all(layer.histogram for layer in found.layers):
        chart = heat_chart(forward.names, found.edges, [layer.histogram for layer in found.layers], "activations")
        note = "Share of the activations per bin; the axis reaches four times their size in the first layer"
        yield _figure("Histograms of the activations", note, chart, HEAT_KEY)
    shares = {name: [getattr(layer, name) for layer in found.layers] for name in SHARES}
    note = "Dead: slope 0 for the whole batch. Saturated: slope under a tenth of the steepest; linear: over nine tenths"
    yield _figure("State of the units", note, share_chart(forward.names, shares, "units"), SHARES_KEY)


def _cell(name: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "NaN"
    if isinstance(value, float) and math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.1%}" if name in SHARES else f"{value:.4g}"


def _table(layers: Sequence[Layer]) -> str:
    head = "".join(f'<th scope="col" title="{escape(title)}">{escape(name)}</th>' for name, title, _ in COLUMNS)
    rows = []
    for number, layer in enumerate(layers, 1):
        cells = "".join(f"<td>{_cell(name, getattr(layer, name))}</td>" for _, _, name in COLUMNS)
        rows.append(f'<tr><th scope="row">{number}</th>{cells}</tr>')
    head = f'<thead><tr><th scope="col">layer</th>{head}</tr></thead>'
    return "\n".join(("<table>", head, "<tbody>", *rows, "</tbody>", "</table>"))
