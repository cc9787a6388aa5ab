"""Two circles and four initializers: zeros and huge normals never learn, Xavier learns, and He learns if no layer dies.

    python examples/circles.py

scikit-learn's `make_circles`, 10,000 points with a noise of 0.05; Dense layers of 5, 10 and 2 units with tanh (ReLU for
He) and a sigmoid; SGD with the rate 0.01 on the mean squared error, 100 epochs. Keras, with fastinit's initializers in
place of its own. A seed fixes the weights and the order of the examples; every scheme runs with the same seeds. The
batch size is Keras's default, 32; larger ones are faster and take fewer steps. If both units of the two-unit ReLU layer
are 0 for every point, no gradient passes: every point gets the same output, and the network learns nothing. The table
counts these seeds.
"""

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from plotting import BLUE, GREEN, GREY, RED, new_figure, parser, quiet_keras, save, show_table, spread

import fastinit

try:
    from sklearn.datasets import make_circles
except ImportError:
    sys.exit("The circles are scikit-learn's, which is not installed: `pip install scikit-learn`.")

keras = quiet_keras()
from fastinit.adapters.keras import initializers  # noqa: E402 (imports keras, whose backend is chosen above)

NOISE, BATCH = 0.05, 32
SHOWN_POINTS = 1000


class Plan(NamedTuple):
    points: int
    rate: float
    epochs: int
    seeds: int


FULL, QUICK = Plan(10_000, 0.01, 100, 10), Plan(2_000, 0.2, 40, 1)


class Scheme(NamedTuple):
    """An initializer of fastinit's Keras adapter, as a function of a key, and the activation of the hidden layers."""

    name: str
    activation: str
    colour: str
    initializer: Callable[[fastinit.Key], Any]


SCHEMES = (
    Scheme("zeros, tanh", "tanh", GREY, lambda key: initializers.Zeros()),
    Scheme("normal x 1000, tanh", "tanh", RED, lambda key: initializers.RandomNormal(stddev=1000.0, seed=key)),
    Scheme("Xavier uniform, tanh", "tanh", GREEN, lambda key: initializers.GlorotUniform(seed=key)),
    Scheme("He uniform, ReLU", "relu", BLUE, lambda key: initializers.HeUniform(seed=key)),
)


@dataclass
class Runs:
    """All seeds of one scheme."""

    losses: list[list[float]] = field(default_factory=list)  # by epoch, on the training points
    accuracies: list[list[float]] = field(default_factory=list)
    tested: list[float] = field(default_factory=list)  # accuracies on points that were not trained on
    stuck: int = 0  # number of seeds on which every point gets the same output
    model: Any = None  # of seed 0


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__, "circles", FULL.seeds).parse_args(argv)
    plan = QUICK if options.quick else FULL
    plan = plan._replace(seeds=options.seeds or plan.seeds)
    data, unseen = circles(plan.points, 0), circles(plan.points, 1)
    print(f"{plan.points:,} points, noise {NOISE}; tested on as many others")
    print(f"SGD {plan.rate}, mean squared error, batches of {BATCH}, {plan.epochs} epochs, seeds 0 to {plan.seeds - 1}")
    print(f"Keras {keras.__version__} on {keras.backend.backend()}\n", flush=True)

    found = {scheme: Runs() for scheme in SCHEMES}
    for scheme, runs in found.items():
        for seed in range(plan.seeds):
            train(scheme, seed, plan, data, unseen, runs)

    print("After the last epoch: median over the seeds (smallest to largest)")
    rows = []
    for scheme, runs in found.items():
        last = [losses[-1] for losses in runs.losses], [accuracies[-1] for accuracies in runs.accuracies]
        rows.append((scheme.name, *map(spread, last), spread(runs.tested), f"{runs.stuck} of {plan.seeds}"))
    show_table(("initializer", ">loss", ">accuracy", ">accuracy, unseen points", ">one output for all"), rows)
    print("Accuracy on unseen points, seed by seed")
    by_seed = [(scheme.name, *(f"{value:.3f}" for value in runs.tested)) for scheme, runs in found.items()]
    show_table(("initializer", *(f">{seed}" for seed in range(plan.seeds))), by_seed)

    zeros, huge, xavier, he = (np.array(runs.tested) for runs in found.values())
    bad = np.maximum(zeros, huge)
    for name, own in (("Xavier", xavier), ("He", he)):
        print(f"{name} beats both zeros and the huge normal on {np.sum(own > bad)} of {plan.seeds} seeds.")
    better = min(np.median(xavier), np.median(he)) > max(np.median(zeros), np.median(huge))
    print(f"Their medians are {'above those of both' if better else 'NOT above those of both'}.")
    save(picture(found, data), options.picture)
    return 0 if better else 1


# The experiment.


def circles(points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    places, labels = make_circles(points, noise=NOISE, random_state=seed)
    return places.astype("float32"), labels


def network(scheme: Scheme, seed: int) -> Any:
    # A key per layer: with one seed for all, the weights of one layer would be a scaled copy of another's.
    key = fastinit.Key(seed)

    def dense(number: int, units: int, activation: str) -> Any:
        initializer = scheme.initializer(key.fold_in(number))
        return keras.layers.Dense(units, activation=activation, kernel_initializer=initializer)

    hidden = [dense(number, units, scheme.activation) for number, units in enumerate((5, 10, 2))]
    return keras.Sequential([keras.Input((2,)), *hidden, dense(3, 1, "sigmoid")])


def train(scheme: Scheme, seed: int, plan: Plan, data: tuple, unseen: tuple, runs: Runs) -> None:
    keras.utils.set_random_seed(seed)
    model = network(scheme, seed)
    model.compile(keras.optimizers.SGD(plan.rate), "mse", metrics=["accuracy"])
    places, labels = data
    history = model.fit(places, labels[:, None], batch_size=BATCH, epochs=plan.epochs, verbose=0).history
    runs.losses.append(history["loss"])
    runs.accuracies.append(history["accuracy"])
    outputs = answers(model, unseen[0])
    runs.tested.append(float(np.mean((outputs > 0.5) == unseen[1])))
    runs.stuck += bool(np.ptp(outputs) < 1e-6)
    if seed == 0:
        runs.model = model


def answers(model: Any, places: np.ndarray) -> np.ndarray:
    return model.predict(places.astype("float32"), batch_size=len(places), verbose=0)[:, 0]


# Output.


def picture(found: dict[Scheme, Runs], data: tuple):
    made = new_figure(12, 6, 2, len(found))
    if made is None:
        return None
    figure, (curves, regions) = made
    os.environ.setdefault("MPLBACKEND", "Agg")  # mlxtend asks pyplot for the size of a figure
    try:
        from mlxtend.plotting import plot_decision_regions
    except ImportError:
        sys.exit("The decision regions are drawn by mlxtend, which is not installed: `pip install mlxtend`.")
    for (scheme, runs), curve, region in zip(found.items(), curves, regions, strict=True):
        accuracies = np.array(runs.accuracies)
        epochs = np.arange(1, accuracies.shape[1] + 1)
        low, high = accuracies.min(axis=0), accuracies.max(axis=0)
        curve.fill_between(epochs, low, high, color=scheme.colour, alpha=0.25, linewidth=0, label="all seeds")
        curve.plot(epochs, np.median(accuracies, axis=0), color=scheme.colour, linewidth=2, label="median")
        curve.set(title=scheme.name, xlabel="epoch", ylim=(0.4, 1.02))
        curve.legend(fontsize=8, loc="upper left")
        shown = slice(None, SHOWN_POINTS)
        classifier = Classifier(runs.model)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No contour levels were found")  # if all points get the same answer
            plot_decision_regions(
                data[0][shown].astype(float),
                data[1][shown],
                classifier,
                ax=region,
                legend=0,
                markers="o^",
                colors="#e69f00,#0072b2",
                scatter_kwargs={"s": 7, "linewidth": 0, "alpha": 0.8},
            )
        region.grid(False)
        region.set(title=f"seed 0: {runs.tested[0]:.1%} of unseen points", aspect="equal")
    curves[0].set_ylabel("accuracy, training points")
    figure.suptitle("Two circles: accuracy by epoch over all seeds, and the decision regions of seed 0")
    return figure


class Classifier:
    """A model in mlxtend's form, with classes as integers."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def predict(self, places: np.ndarray) -> np.ndarray:
        return (answers(self.model, places) > 0.5).astype(int)


if __name__ == "__main__":
    sys.exit(main())
