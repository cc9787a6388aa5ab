"""Where sigmoid and tanh units sit, linear, useful or saturated, by the weights that feed them.

    python examples/saturation.py

A stack of five layers under standard normal inputs, through fastinit.propagate. A unit counts as saturated where its
slope is below a tenth of the steepest it can have, as linear where it is above nine tenths, as useful in between: still
sensitive, and no longer a straight line. Weights that are too small leave all units linear, so that depth adds nothing;
weights that are too large saturate them, so that few still learn. U(-0.1, 0.1) and N(0, 0.1) do the one or the other
depending on the width; under Xavier's scheme the shares are the same at any width.
"""

import sys

import numpy as np
from plotting import BLUE, GREEN, RED, new_figure, parser, save, show_table

import fastinit

DEPTH = 5
WIDTH, QUICK_WIDTH = 512, 256
WIDTHS, QUICK_WIDTHS = (32, 128, 512, 2048), (32, 256)
ACTIVATIONS = ("sigmoid", "tanh")
SCHEMES = {
    "N(0, 0.01), too small": fastinit.Normal(0.0, 0.01),
    "U(-0.1, 0.1)": fastinit.naive_uniform(),
    "N(0, 0.1)": fastinit.naive_normal(),
    "N(0, 1), too large": fastinit.Normal(0.0, 1.0),
    "Xavier uniform": fastinit.xavier_uniform(),
    "Xavier normal": fastinit.xavier_normal(),
}
BY_WIDTH = ("U(-0.1, 0.1)", "N(0, 0.1)", "Xavier uniform")
# The steepest slopes are those at 0; at these distances from 0 the slope is 0.9 and 0.1 of it.
ZONES = {
    "sigmoid": tuple(2.0 * np.arctanh(np.sqrt(1.0 - share)) for share in (0.9, 0.1)),
    "tanh": tuple(np.arctanh(np.sqrt(1.0 - share)) for share in (0.9, 0.1)),
}
CURVES = {"sigmoid": lambda z: 1.0 / (1.0 + np.exp(-z)), "tanh": np.tanh}
COLOURS = {"linear": BLUE, "useful": GREEN, "saturated": RED}
HATCHES = {"linear": "//", "useful": "", "saturated": ".."}


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__, "saturation").parse_args(argv)
    width = QUICK_WIDTH if options.quick else WIDTH
    found = {
        (activation, name): stack(activation, initializer, width)
        for activation in ACTIVATIONS
        for name, initializer in SCHEMES.items()
    }
    for activation in ACTIVATIONS:
        linear, saturated = ZONES[activation]
        print(f"{activation}: linear to |z| = {linear:.2f}, saturated from {saturated:.2f}; {DEPTH} layers of {width}")
        rows = [row(name, found[activation, name]) for name in SCHEMES]
        columns = (f">{kind}, {layer}" for layer in (1, DEPTH) for kind in COLOURS)
        show_table(("weights", ">n Var(W)", *columns, ">gradient kept"), rows)
    print(f"Shares of the units over all inputs, in layers 1 and {DEPTH}. Gradient kept: its root mean square at the")
    print("first layer, as a part of that at the last.\n")
    widths = QUICK_WIDTHS if options.quick else WIDTHS
    print("tanh, the first layer, by width: n Var(W), and the share of saturated units")
    show_table(*by_width(widths))
    save(picture(found), options.picture)
    return 0


# The experiment.


def stack(activation: str, initializer: fastinit.Initializer, width: int, depth: int = DEPTH) -> fastinit.Propagation:
    return fastinit.propagate([width] * (depth + 1), activation, initializer, key=fastinit.Key(0))


def shares(layer: fastinit.audits.propagation.Layer) -> dict[str, float]:
    return {"linear": layer.linear, "useful": 1.0 - layer.linear - layer.saturated, "saturated": layer.saturated}


def scaled_variance(initializer: fastinit.Initializer, width: int) -> float:
    """n Var(W): by what a layer multiplies the mean square of its input."""
    return width * fastinit.expected_std(initializer, (width, width)) ** 2


# What is shown.


def row(name: str, found: fastinit.Propagation) -> tuple[str, ...]:
    first, last = found.layers[0], found.layers[-1]
    cells = (f"{share:.1%}" for layer in (first, last) for share in shares(layer).values())
    kept = np.sqrt(first.gradient_variance / last.gradient_variance)
    return name, f"{scaled_variance(found.initializer, first.width):.3g}", *cells, f"{kept:.2g}"


def by_width(widths: tuple[int, ...]):
    rows = []
    for name in BY_WIDTH:
        cells = []
        for width in widths:
            share = stack("tanh", SCHEMES[name], width, 1).layers[0].saturated
            cells += [f"{scaled_variance(SCHEMES[name], width):.3g}", f"{share:.1%}"]
        rows.append((name, *cells))
    return ("weights", *(text for width in widths for text in (f">n Var(W), {width}", ">saturated"))), rows


def picture(found: dict[tuple[str, str], fastinit.Propagation]):
    made = new_figure(12, 6.2, 2, 3, width_ratios=(1, 1.15, 1.15))
    if made is None:
        return None
    figure, grid = made
    for activation, (curve, *bars) in zip(ACTIVATIONS, grid, strict=True):
        linear, saturated = ZONES[activation]
        reach = 2.0 * saturated
        z = np.linspace(-reach, reach, 401)
        for kind, low, high in (("linear", 0, linear), ("useful", linear, saturated), ("saturated", saturated, reach)):
            for side in (-1, 1):
                curve.axvspan(side * low, side * high, color=COLOURS[kind], alpha=0.2, linewidth=0)
        curve.plot(z, CURVES[activation](z), color="black", linewidth=2)
        curve.set(title=activation, xlabel="pre-activation z", xlim=(-reach, reach))
        for axes, layer in zip(bars, (0, DEPTH - 1), strict=True):
            left = np.zeros(len(SCHEMES))
            measured = [shares(found[activation, name].layers[layer]) for name in SCHEMES]
            for kind, colour in COLOURS.items():
                size = np.array([one[kind] for one in measured]) * 100
                axes.barh(
                    list(SCHEMES),
                    size,
                    left=left,
                    color=colour,
                    alpha=0.75,
                    label=kind,
                    hatch=HATCHES[kind],
                    edgecolor="white",
                    linewidth=0.5,
                )
                left += size
            axes.set(title=f"{activation}, layer {layer + 1}", xlabel="% of the units", xlim=(0, 100))
            axes.invert_yaxis()
            axes.grid(False)
        bars[1].set_yticklabels([])
    handles, labels = grid[0][1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


if __name__ == "__main__":
    sys.exit(main())
