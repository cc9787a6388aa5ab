"""Every initializer's formula, its value for a given layer, and the measured value, side by side.

    python examples/formulas.py --fan-in 784 --fan-out 128

The formulas are computed with math alone and compared with fastinit's draws: the standard deviation (the root mean
square if the mean is not 0) and the largest magnitude. Each name stands for a variance. Xavier's is
2 / (n_in + n_out), or 1 / n_in in some introductions. Kaiming's is gain^2 / n_in; without the gain, its 1 / sqrt(n_in)
is LeCun's. torch's default, U(-1 / sqrt(n_in), 1 / sqrt(n_in)), has a third of that variance.
"""

import math
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, new_figure, parser, positive, save, show_table

import fastinit

FAN_IN, FAN_OUT = 784, 128
DRAWS, QUICK_DRAWS = 20, 4  # tensors of the layer, under as many keys
# A normal truncated at two standard deviations keeps this part of its std; corrected schemes use a larger std.
CUT = math.sqrt(1.0 - 4.0 * math.exp(-2.0) / math.sqrt(2.0 * math.pi) / math.erf(math.sqrt(2.0)))
REACH = 2.0 / CUT
TOLERANCE = 6.0  # standard errors


class Row(NamedTuple):
    """A formula as text, its standard deviation and bound for fans i and o, and fastinit's initializer."""

    name: str
    formula: str
    std: Callable[[int, int], float]
    bound: Callable[[int, int], float] | None
    initializer: fastinit.Initializer
    kernel: int = 1  # the side of a convolution


def scaled(name: str, fan: str, scale: float, of: Callable[[int, int], float], *schemes: str) -> list[Row]:
    """The uniform, the normal and the truncated normal with Var(W) = scale / fan."""

    def std(i: int, o: int) -> float:
        return math.sqrt(scale / of(i, o))

    found = {
        "uniform": (f"U(+-sqrt({3 * scale:g} / {fan}))", lambda i, o: math.sqrt(3.0) * std(i, o)),
        "normal": (f"N(0, sqrt({scale:g} / {fan}))", None),
        "truncated_normal": (f"the same, cut at +-2, std {1 / CUT:.4f} times", lambda i, o: REACH * std(i, o)),
    }
    own = [name if kind == "uniform" else f"{' ' * len(name)}" for kind in found]
    titles = [f"{title or ''} {kind.replace('_', ' ')}" for title, kind in zip(own, found, strict=True)]
    return [
        Row(title, formula, std, bound, fastinit.PRESETS[scheme]())
        for (formula, bound), title, scheme in zip(found.values(), titles, schemes, strict=True)
    ]


def rows() -> list[Row]:
    scaling = fastinit.VarianceScaling
    return [
        *scaled("Xavier", "(n_in + n_out)", 2.0, lambda i, o: i + o, *kinds("glorot")),
        *scaled("Kaiming", "n_in", 2.0, lambda i, o: i, *kinds("he")),
        *scaled("LeCun", "n_in", 1.0, lambda i, o: i, *kinds("lecun")),
        Row(
            "torch's default",
            "U(+-1 / sqrt(n_in))",
            lambda i, o: 1 / math.sqrt(3 * i),
            lambda i, o: 1 / math.sqrt(i),
            fastinit.torch_default_uniform(),
        ),
        Row(
            "Kaiming, fan_out",
            "N(0, sqrt(2 / n_out))",
            lambda i, o: math.sqrt(2 / o),
            None,
            scaling(2.0, "fan_out", "normal"),
        ),
        Row(
            "geometric mean",
            "N(0, (n_in n_out)^(-1/4))",
            lambda i, o: (i * o) ** -0.25,
            None,
            scaling(1.0, "fan_geo_avg", "normal"),
        ),
        Row(
            "naive uniform", "U(-0.1, 0.1)", lambda i, o: 0.1 / math.sqrt(3), lambda i, o: 0.1, fastinit.naive_uniform()
        ),
        Row("naive normal", "N(0, 0.1)", lambda i, o: 0.1, None, fastinit.naive_normal()),
        Row(
            "truncated normal",
            "N(0, 0.02), cut at +-0.04",
            lambda i, o: 0.02 * CUT,
            lambda i, o: 0.04,
            fastinit.TruncatedNormal(0.0, 0.02),
        ),
        Row("zeros", "0", lambda i, o: 0.0, lambda i, o: 0.0, fastinit.Zeros()),
        Row("ones", "1", lambda i, o: 1.0, lambda i, o: 1.0, fastinit.Ones()),
        Row("constant", "0.5", lambda i, o: 0.5, lambda i, o: 0.5, fastinit.Constant(0.5)),
        Row(
            "identity",
            "1 on the diagonal",
            lambda i, o: math.sqrt(min(i, o) / (i * o)),
            lambda i, o: 1.0,
            fastinit.Identity(),
        ),
        Row("orthogonal", "Q, Q^T Q = 1", lambda i, o: 1 / math.sqrt(max(i, o)), None, fastinit.Orthogonal()),
        Row(
            "sparse",
            "a tenth from N(0, 0.01), else 0",
            lambda i, o: 0.01 * math.sqrt((i - math.ceil(0.9 * i)) / i),
            None,
            fastinit.Sparse(0.9),
        ),
        Row(
            "Dirac, 3 x 3",
            "1 at the centre, channel by channel",
            lambda i, o: math.sqrt(min(i, o) / (9 * i * o)),
            lambda i, o: 1.0,
            fastinit.Dirac(layout="...IO"),
            3,
        ),
    ]


def kinds(scheme: str) -> tuple[str, ...]:
    return tuple(f"{scheme}_{kind}" for kind in ("uniform", "normal", "truncated_normal"))


def main(argv: list[str] | None = None) -> int:
    found = parser(__doc__, "formulas")
    found.add_argument("--fan-in", type=positive, metavar="N", default=FAN_IN)
    found.add_argument("--fan-out", type=positive, metavar="N", default=FAN_OUT)
    options = found.parse_args(argv)
    fans = options.fan_in, options.fan_out
    draws = QUICK_DRAWS if options.quick else DRAWS
    table, worst = [], 0.0
    for row in rows():
        std, largest, size = measured(row, fans, draws)
        expected, bound = row.std(*fans), row.bound and row.bound(*fans)
        error = deviation(std, expected, size)
        worst = max(worst, error, 0.0 if bound is None or largest <= bound * (1 + 1e-6) else math.inf)
        reach = "" if bound is None else f"{bound:.6f}"
        own = (row.name, row.formula, f"{expected:.6f}", f"{std:.6f}", f"{error:.1f}", reach, f"{largest:.6f}")
        table.append(own)
    print(f"a layer of n_in = {fans[0]}, n_out = {fans[1]}; {draws} tensors of each, float32\n")
    show_table(("initializer", "formula", ">std", ">measured", ">s.e.", ">bound", ">largest"), table)
    print("N(0, s): s is the standard deviation. s.e.: by how many standard errors the measured one is off, 0 where")
    print("nothing is drawn. Of ones, constants, identity, sparse and Dirac, std is the root mean square.")
    good = worst <= TOLERANCE
    print(f"{'All' if good else 'NOT all'} measured values are within {TOLERANCE:g} standard errors and the bounds.")
    save(picture(fans), options.picture)
    return 0 if good else 1


# Measurements.


def measured(row: Row, fans: tuple[int, int], draws: int) -> tuple[float, float, int]:
    """The root mean square of all tensors together, the largest magnitude, and the number of elements."""
    shape = (*(row.kernel,) * (0 if row.kernel == 1 else 2), *fans)
    tensors = [fastinit.fill(np.empty(shape, np.float32), row.initializer, fastinit.Key(n)) for n in range(draws)]
    squares = np.mean([np.mean(tensor.astype(float) ** 2) for tensor in tensors])
    return float(np.sqrt(squares)), float(max(np.abs(t).max() for t in tensors)), draws * tensors[0].size


def deviation(std: float, expected: float, size: int) -> float:
    """The deviation in standard errors of independent normal values, ignoring float32 rounding."""
    if abs(std - expected) <= 1e-6 * expected:
        return 0.0
    return abs(std / expected - 1.0) * math.sqrt(2.0 * size)


# Output.


def picture(fans: tuple[int, int]):
    made = new_figure(11, 4.6, 1, 2)
    if made is None:
        return None
    figure, ((curves, histogram),) = made
    inputs = np.unique(np.logspace(1, 3.6, 60).astype(int))
    for name, label, colour in (
        ("he_normal", "Kaiming: sqrt(2 / n_in)", RED),
        ("lecun_normal", "LeCun, Xavier by n_in: sqrt(1 / n_in)", ORANGE),
        ("glorot_normal", f"Xavier: sqrt(2 / (n_in + {fans[1]}))", GREEN),
        ("torch_default_uniform", "torch's default: sqrt(1 / (3 n_in))", BLUE),
        ("naive_normal", "N(0, 0.1)", GREY),
    ):
        initializer = fastinit.naive_normal() if name == "naive_normal" else fastinit.PRESETS[name]()
        curves.plot(inputs, [theory(name, n, fans[1]) for n in inputs], color=colour, linewidth=1.5, label=label)
        for n in (16, 64, 256, 1024, 4000):
            drawn = fastinit.fill(np.empty((n, fans[1]), np.float32), initializer, fastinit.Key(n))
            curves.plot(n, drawn.std(), "o", color=colour, markersize=5)
    curves.set(xscale="log", yscale="log", xlabel="n_in", ylabel="standard deviation")
    curves.set_title(f"Standard deviation by n_in, n_out = {fans[1]}; dots: measured", fontsize=11)
    curves.legend(fontsize=8)
    std = theory("glorot_normal", *fans)
    for name, colour in (("glorot_uniform", BLUE), ("glorot_normal", RED), ("glorot_truncated_normal", PURPLE)):
        drawn = [fastinit.fill(np.empty(fans, np.float32), fastinit.PRESETS[name](), fastinit.Key(n)) for n in range(4)]
        histogram.hist(
            np.concatenate(drawn).ravel(),
            bins=np.linspace(-4 * std, 4 * std, 161),
            histtype="step",
            density=True,
            color=colour,
            linewidth=1.5,
            label=name.removeprefix("glorot_").replace("_", " "),
        )
    histogram.plot([], [], ":", color="black", linewidth=0.8, label="bounds")
    for reach, colour in ((math.sqrt(3.0) * std, BLUE), (REACH * std, PURPLE)):
        for side in (-1, 1):
            histogram.axvline(side * reach, color=colour, linewidth=0.8, linestyle=":")
    histogram.set(xlabel="weight", ylabel="density", xlim=(-4 * std, 4 * std))
    histogram.set_title(f"Xavier, {fans[0]} x {fans[1]}: three shapes of one variance", fontsize=11)
    histogram.legend(fontsize=8)
    return figure


def theory(name: str, i: int, o: int) -> float:
    variances = {"he_normal": 2 / i, "lecun_normal": 1 / i, "glorot_normal": 2 / (i + o)}
    variances |= {"torch_default_uniform": 1 / (3 * i), "naive_normal": 0.01}
    return math.sqrt(variances[name])


if __name__ == "__main__":
    sys.exit(main())
