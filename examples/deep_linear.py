"""Ten layers: exponential growth and decay, from 1.5 and 0.5 times the identity to n Var(W) below, at and above 1.

    python examples/deep_linear.py

First comes the linear network of the textbooks, in plain NumPy: nine hidden-to-hidden matrices of c times the identity
multiply the activations, and on the way back the gradients, by c^9. Then come weights N(0, c^2 / n_in), which do the
same on average, so that c = 1 preserves the signal. Last comes tanh, through fastinit.propagate: with n Var(W) below 1
the signal vanishes; above 1 the units saturate and the gradients explode; at 1 both survive.
"""

import itertools
import sys
from collections.abc import Sequence

import numpy as np
from plotting import BLUE, GREEN, RED, new_figure, parser, save, show_table

import fastinit

FACTORS = (1.5, 0.5)
MATRICES = 9  # from hidden layer to hidden layer in a network of ten layers
WIDTH, QUICK_WIDTH = 512, 128
SCALES = (0.25, 1.0, 4.0)  # n Var(W)
DEPTH = 30
SHOWN = (1, 5, 10, 20, 30)
COLOURS = {1.5: RED, 1.0: GREEN, 0.5: BLUE, 4.0: RED, 0.25: BLUE}


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__, "deep_linear").parse_args(argv)
    width = QUICK_WIDTH if options.quick else WIDTH
    identity = {c: sizes([c * np.eye(2)] * MATRICES) for c in FACTORS}
    random = {c: sizes(drawn(width, c)) for c in (1.5, 1.0, 0.5)}
    tanh = {scale: stack(width, scale) for scale in SCALES}

    print("1. Linear, c times the identity: the size of the activations after each matrix, of the gradients before it")
    show_table(*by_matrix(identity, ".5g"))
    for c, (activations, gradients) in identity.items():
        exact = activations[-1] == gradients[0] == c**MATRICES  # powers of 3/2 and 1/2 are exact in binary
        print(f"{c:g}^{MATRICES} = {shown(c**MATRICES)}, and so measured{', to the last bit' if exact else ': NO'}")
    print(f"\n2. Linear, N(0, c^2 / n_in), width {width}")
    show_table(*by_matrix(random, ".4g"))
    print(f"3. tanh, N(0, s / n_in), width {width}, {DEPTH} layers: variances, and the verdict of fastinit.propagate")
    show_table(*by_layer(tanh))
    for scale, found in tanh.items():
        print(f"n Var(W) = {scale:<5g} {found.verdict}: {found.reason}")
    save(picture(identity, random, tanh), options.picture)
    return 0 if all(identity[c][0][-1] == identity[c][1][0] == c**MATRICES for c in FACTORS) else 1


# The experiments.


def sizes(matrices: Sequence[np.ndarray]) -> tuple[list[float], list[float]]:
    """Root mean squares: of the activations before and after each matrix, and of the gradients at the same places.

    Both start at 1: activations at the input, gradients at the output.
    """
    activations, gradients = [np.ones((1, len(matrices[0])))], [np.ones((1, len(matrices[0])))]
    if len(matrices[0]) > 2:  # for random matrices, a batch of random vectors
        for start, name in ((activations, "inputs"), (gradients, "gradients")):
            start[0] = fastinit.fill(np.empty((256, len(matrices[0]))), fastinit.Normal(), fastinit.Key(name))
    for matrix in matrices:
        activations.append(activations[-1] @ matrix)
    for matrix in reversed(matrices):
        gradients.append(gradients[-1] @ matrix.T)
    size = [[float(np.sqrt(np.mean(a * a))) for a in values] for values in (activations, gradients)]
    return size[0], size[1][::-1]


def drawn(width: int, c: float) -> list[np.ndarray]:
    initializer = fastinit.VarianceScaling(c * c, "fan_in", "normal")
    key = fastinit.Key(0)
    return [fastinit.fill(np.empty((width, width)), initializer, key.fold_in(number)) for number in range(MATRICES)]


def stack(width: int, scale: float) -> fastinit.Propagation:
    initializer = fastinit.VarianceScaling(scale, "fan_in", "normal")
    return fastinit.propagate([width] * (DEPTH + 1), "tanh", initializer, key=fastinit.Key(0))


# Output.


def shown(value: float) -> str:
    return f"{value:.2f}" if value > 1 else f"{value:.5f}"


def by_matrix(found: dict[float, tuple[list[float], list[float]]], form: str):
    headings = ["matrices", *itertools.chain(*((f">activation, {c:g}", f">gradient, {c:g}") for c in found))]
    rows = []
    for number in range(MATRICES + 1):
        pairs = ((f"{a[number]:{form}}", f"{g[number]:{form}}") for a, g in found.values())
        rows.append((str(number), *itertools.chain(*pairs)))
    return headings, rows


def by_layer(found: dict[float, fastinit.Propagation]):
    columns = ((f">Var(a), {s:g}", ">Var(gradient)", ">saturated") for s in found)
    rows = []
    for number in SHOWN:
        cells = []
        for one in found.values():
            layer = one.layers[number - 1]
            cells += [f"{layer.variance:.3g}", f"{layer.gradient_variance:.3g}", f"{layer.saturated:.0%}"]
        rows.append((str(number), *cells))
    return ["layer", *itertools.chain(*columns)], rows


def picture(identity, random, tanh):
    made = new_figure(10, 7, 2, 2)
    if made is None:
        return None
    figure, ((forward, backward), (signal, gradient)) = made
    places = range(MATRICES + 1)
    for index, axes in enumerate((forward, backward)):
        for c, found in random.items():
            axes.plot(places, found[index], color=COLOURS[c], label=f"N(0, {c:g}² / n)" if c != 1 else "N(0, 1 / n)")
        for c, found in identity.items():
            axes.plot(places, found[index], "o", color=COLOURS[c], markersize=5, label=f"{c:g} × identity")
            at, side = (MATRICES, "right") if index == 0 else (0, "left")
            axes.text(at, found[index][at] * (1.5 if c > 1 else 0.4), shown(found[index][at]), ha=side)
        axes.set(yscale="log", xlabel="matrices passed from the input", ylim=(4e-4, 2e2), xticks=list(places))
        axes.legend(fontsize=8, loc="lower left" if index == 0 else "lower right")
    forward.set(title="Linear: activations", ylabel="root mean square")
    backward.set(title="Linear: gradients, from right to left", ylabel="root mean square")
    layers = range(1, DEPTH + 1)
    for scale, found in tanh.items():
        name = f"n Var(W) = {scale:g}, {found.verdict}"
        signal.plot(layers, [layer.variance for layer in found], color=COLOURS[scale], label=name)
        gradient.plot(layers, [layer.gradient_variance for layer in found], color=COLOURS[scale], label=name)
    signal.set(title="tanh: activations", yscale="log", xlabel="layer", ylabel="variance")
    gradient.set(title="tanh: gradients, from right to left", yscale="log", xlabel="layer", ylabel="variance")
    signal.legend(fontsize=8, loc="lower left")
    gradient.legend(fontsize=8, loc="lower right")
    return figure


if __name__ == "__main__":
    sys.exit(main())
