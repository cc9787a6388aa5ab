"""What the experiments share: their options, tables of plain text, figures that need no screen, a quiet Keras."""

import argparse
import importlib.util
import io
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastinit.files import write_file

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError:  # the numbers need none of it
    Figure = None

DPI = 95
# Told apart in print and by most colour-blind readers (Okabe and Ito, 2008).
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#7f7f7f"
# Of Keras; the first that is installed. JAX takes the small steps of these networks fastest.
BACKENDS = ("jax", "tensorflow", "torch")


def parser(doc: str, name: str, seeds: int | None = None) -> argparse.ArgumentParser:
    """The options that all share; `seeds` is how many an experiment runs where nobody says."""
    found = argparse.ArgumentParser(description=doc.partition("\n\n")[0], allow_abbrev=False)
    found.add_argument("--quick", action="store_true", help="a shorter form, of the same parts")
    found.add_argument("--picture", metavar="FILE", default=f"{name}.png", help="where to draw (%(default)s)")
    if seeds is not None:
        found.add_argument("--seeds", type=positive, metavar="N", help=f"how many seeds (default {seeds})")
    return found


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def show_table(headings: Sequence[str], rows: Iterable[Sequence[str]], gap: int = 2) -> None:
    """Aligned columns and an empty line; numbers, under a heading that starts with ">", to the right."""
    right = [heading.startswith(">") for heading in headings]
    lines = [[heading.removeprefix(">") for heading in headings], *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        cells = [
            cell.rjust(width) if end else cell.ljust(width)
            for cell, width, end in zip(line, widths, right, strict=True)
        ]
        print((" " * gap).join(cells).rstrip())
    print()


def spread(values: Sequence[float], digits: int = 4) -> str:
    """The median, and between which values all lie."""
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def new_figure(width: float, height: float, rows: int, columns: int, **options: Any) -> tuple[Any, Any] | None:
    """A figure of width x height inches and its axes, always as an array of two dimensions; None without matplotlib.

    Nothing of pyplot, which keeps figures for windows: a screen is neither needed nor looked for.
    """
    if Figure is None:
        return None
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="#e5e5e5", linewidth=0.8)
        one.set_axisbelow(True)
    return figure, axes


def save(figure: Any, path: str) -> None:
    """Writes the picture, or says why there is none."""
    if figure is None:
        print("no picture: matplotlib is not installed")
        return
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    try:
        write_file(path, picture.getvalue())
    except OSError as error:
        sys.exit(f"the picture cannot be written: {error}")
    print(f"picture: {path}")


def quiet_keras() -> Any:
    """The module keras, on the backend that KERAS_BACKEND names or else on the first that is installed."""
    for name, value in (("TF_CPP_MIN_LOG_LEVEL", "3"), ("TF_ENABLE_ONEDNN_OPTS", "0")):
        os.environ.setdefault(name, value)  # TensorFlow, which Keras imports wherever it is, says more than is asked
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    if importlib.util.find_spec("keras") is None or not installed:
        sys.exit("This experiment trains with Keras, which is not installed with a backend: `pip install keras jax`.")
    os.environ.setdefault("KERAS_BACKEND", installed[0])
    import keras

    return keras
