"""Two hidden units that start equal stay equal, whatever they are trained on; any seed breaks it.

    python examples/symmetry.py

A network of two inputs, two hidden tanh units and a sigmoid output has to find a band in the plane, which takes two
different units. Gradient descent moves two units with the same weights, in and out, by the same gradient: after any
number of steps the difference between them is 0, exactly. Plain NumPy, so that nothing is hidden; the constants, the
seeds and the data come from fastinit.
"""

import sys
from dataclasses import dataclass, field

import numpy as np
from plotting import BLUE, RED, new_figure, parser, save, show_table, spread

import fastinit

CONSTANTS = (0.0, 0.5, 1.0)
SEEDS, QUICK_SEEDS = 10, 3
STEPS, RATE = 3000, 2.0
POINTS, HALF_WIDTH = 500, 0.4


@dataclass
class Run:
    """One training: what the two units' weights and biases were at every step, and how well it went."""

    units: list[np.ndarray] = field(default_factory=list)  # (inputs and bias, 2): a column for each unit
    losses: list[float] = field(default_factory=list)
    accuracy: float = 0.0

    @property
    def differences(self) -> list[float]:
        return [float(np.abs(w[:, 0] - w[:, 1]).max()) for w in self.units]


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__, "symmetry", SEEDS).parse_args(argv)
    seeds = options.seeds or (QUICK_SEEDS if options.quick else SEEDS)
    steps = STEPS // 3 if options.quick else STEPS
    points, labels = band()
    constant = {c: trained(fastinit.Constant(c), 0, points, labels, steps) for c in CONSTANTS}
    seeded = [trained(fastinit.xavier_uniform(), seed, points, labels, steps) for seed in range(seeds)]

    print(f"2-2-1 network, {POINTS} points, {steps} steps of gradient descent; a band of the plane is to be found")
    print(f"{np.mean(labels == 0):.1%} of the points lie outside of it, which is what one answer for all would score\n")
    rows = [row(f"constant {c:g}", run) for c, run in constant.items()]
    rows += [row(f"Xavier uniform, seed {seed}", run) for seed, run in enumerate(seeded)]
    between = ("difference at the start", "at the end")
    show_table(("weights", *(f">{text}" for text in between), ">loss", ">accuracy"), rows)
    print("difference: the largest between a weight or bias of one hidden unit and the same of the other\n")
    identical = all(max(run.differences) == 0.0 for run in constant.values())
    broken = sum(run.differences[-1] > 0.01 for run in seeded)
    print(f"constants: the two units were {'identical at every step' if identical else 'NOT identical'}")
    print(f"seeds: {broken} of {seeds} ended with two different units, accuracy", end=" ")
    print(spread([run.accuracy for run in seeded], 3))
    save(picture(constant, seeded), options.picture)
    return 0 if identical and broken == seeds else 1


# The experiment.


def band() -> tuple[np.ndarray, np.ndarray]:
    """Points of a square, and whether each lies in the band between two slanted lines."""
    points = fastinit.fill(np.empty((POINTS, 2)), fastinit.Uniform(-1.0, 1.0), fastinit.Key("band"))
    return points, (np.abs(points[:, 0] + 0.5 * points[:, 1]) < HALF_WIDTH).astype(float)


def trained(initializer: fastinit.Initializer, seed: int, points: np.ndarray, labels: np.ndarray, steps: int) -> Run:
    """Full-batch gradient descent on the cross-entropy; biases start at 0, as everywhere.

    Sums are written out over the first axis instead of as matrix products: both columns are then added up in the same
    order, which a matrix product leaves open, and units that ought to be identical are so to the last bit.
    """
    key = fastinit.Key(seed)
    hidden = fastinit.fill(np.empty((2, 2)), initializer, key.fold_in("hidden"))
    output = fastinit.fill(np.empty((2, 1)), initializer, key.fold_in("output"))[:, 0]
    hidden_bias, output_bias = np.zeros(2), 0.0
    run = Run()
    for _ in range(steps):
        a = np.tanh((points.T[:, :, None] * hidden[:, None, :]).sum(axis=0) + hidden_bias)
        p = 1.0 / (1.0 + np.exp(-((a * output).sum(axis=1) + output_bias)))
        run.units.append(np.vstack([hidden, hidden_bias]))
        run.losses.append(-float(np.mean(np.log(np.where(labels == 1, p, 1.0 - p)))))
        error = (p - labels)[:, None] / len(labels)
        back = error * output * (1.0 - a * a)
        output = output - RATE * (error * a).sum(axis=0)
        output_bias -= RATE * float(error.sum())
        hidden = hidden - RATE * (points[:, :, None] * back[:, None, :]).sum(axis=0)
        hidden_bias = hidden_bias - RATE * back.sum(axis=0)
    run.units.append(np.vstack([hidden, hidden_bias]))
    run.accuracy = float(np.mean((p > 0.5) == labels))
    return run


# What is shown.


def row(name: str, run: Run) -> tuple[str, ...]:
    first, last = run.differences[0], run.differences[-1]
    return name, f"{first:.6g}", f"{last:.6g}", f"{run.losses[-1]:.4f}", f"{run.accuracy:.3f}"


def picture(constant: dict[float, Run], seeded: list[Run]):
    made = new_figure(11, 3.8, 1, 3)
    if made is None:
        return None
    figure, ((paths, gaps, losses),) = made
    number = min(1, len(seeded) - 1)
    for run, name, colour in ((constant[0.5], "constant 0.5", RED), (seeded[number], f"seed {number}", BLUE)):
        walk = np.array(run.units)  # steps, inputs, units
        for unit, style, width in ((0, "-", 4.0), (1, "--", 1.6)):
            shown = colour if unit == 0 else "black"
            label = f"{name}, unit {unit + 1}"
            paths.plot(walk[:, 0, unit], walk[:, 1, unit], style, color=shown, linewidth=width, alpha=0.75, label=label)
            paths.plot(*walk[0, :2, unit], "o", color=shown, markersize=5)
    paths.set(title="The two units' weights, step by step", xlabel="weight from input 1", ylabel="weight from input 2")
    for run in seeded:
        gaps.plot(run.differences, color=BLUE, linewidth=1, alpha=0.6)
        losses.plot(run.losses, color=BLUE, linewidth=1, alpha=0.6)
    for (value, run), style in zip(constant.items(), (":", "-", "--"), strict=True):
        gaps.plot(run.differences, style, color=RED, linewidth=2.5)
        losses.plot(run.losses, style, color=RED, linewidth=2, label=f"constant {value:g}")
    losses.plot([], color=BLUE, label=f"Xavier, {len(seeded)} seeds")
    gaps.plot([], color=RED, label="constants: 0, exactly")
    gaps.plot([], color=BLUE, label=f"Xavier, {len(seeded)} seeds")
    gaps.set(title="Difference between the two units", xlabel="step", ylabel="largest, of weights and bias")
    losses.set(title="Loss", xlabel="step", ylabel="cross-entropy", ylim=(0, None))
    for axes in (paths, gaps, losses):
        axes.legend(fontsize=8, framealpha=0.9)
    return figure


if __name__ == "__main__":
    sys.exit(main())
