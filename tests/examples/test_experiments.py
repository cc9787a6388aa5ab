"""The experiments as a user runs them, in their short form: each prints what it claims, and draws it."""

import functools
import importlib.util
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

EXAMPLES = Path(__file__).parents[2] / "examples"
BACKENDS = ("jax", "tensorflow", "torch")
NEEDS = {"circles": ("keras", "sklearn", "mlxtend"), "mnist": ("keras", "mlxtend")}
TRAINED = ("circles", "mnist")  # with frameworks of their own: half a minute each
NAMES = (
    "deep_linear",
    "formulas",
    "saturation",
    "symmetry",
    *(pytest.param(name, marks=pytest.mark.long) for name in TRAINED),
)


def run(name: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *options]
    own = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", **environment}  # compiles in less time
    return subprocess.run(command, capture_output=True, check=False, encoding="utf-8", timeout=600, env=own)


@functools.cache
def quick(name: str) -> tuple[str, bytes]:
    """What the short form prints, and the picture; run once, for all tests."""
    needs = NEEDS.get(name, ())
    missing = [package for package in needs if importlib.util.find_spec(package) is None]
    if "keras" in needs and not any(importlib.util.find_spec(backend) for backend in BACKENDS):
        missing.append("a backend of Keras")
    if missing:
        pytest.skip(f"{name}.py needs {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        done = run(name, "--quick", "--picture", str(picture), HOME=folder)  # where no MNIST is kept
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout, picture.read_bytes()


def row(name: str, first: str) -> list[str]:
    """The cells of the first line of a table that starts so, of columns two spaces apart."""
    found = next(line for line in quick(name)[0].splitlines() if line.startswith(first))
    return re.split(r" {2,}", found.strip())


def number(text: str) -> float:
    """The first number of a cell, a percentage as a share."""
    value = float(re.search(r"-?\d+(\.\d+)?(e[+-]\d+)?", text)[0])
    return value / 100 if text.endswith("%") else value


@pytest.mark.parametrize("name", NAMES)
def test_the_picture_shows_something(name):
    picture = quick(name)[1]
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(picture[start : start + 4]) for start in (16, 20))
    assert width >= 600
    assert height >= 300
    assert len(picture) > 20_000  # of white paper it would be a tenth


@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_is_plain_text(name):
    lines = quick(name)[0].splitlines()
    assert all(line.isascii() and line.isprintable() for line in lines[:-1])
    assert max(map(len, lines[:-1])) <= 125  # the last one names the picture


# Facts, one experiment after the other.


@pytest.mark.parametrize("constant", ["0", "0.5", "1"])
def test_units_that_start_equal_stay_equal(constant):
    start, end = row("symmetry", f"constant {constant} ")[1:3]
    assert (start, end) == ("0", "0")


@pytest.mark.parametrize("seed", range(3))
def test_any_seed_tells_two_units_apart(seed):
    _, start, end, _, accuracy = row("symmetry", f"Xavier uniform, seed {seed}")
    assert number(start) > 0.01
    assert number(end) > 0.01
    assert number(accuracy) > number(row("symmetry", "constant 0.5")[-1])


def test_nine_matrices_make_38_44_and_0_00195():
    text = quick("deep_linear")[0]
    assert "1.5^9 = 38.44, and so measured, to the last bit" in text
    assert "0.5^9 = 0.00195, and so measured, to the last bit" in text
    assert [number(cell) for cell in row("deep_linear", "9")] == [9, 38.443, 1, 0.0019531, 1]


@pytest.mark.parametrize(("scale", "verdict"), [("0.25", "vanishing"), ("1", "healthy"), ("4", "exploding")])
def test_tanh_below_at_and_above_one(scale, verdict):
    assert re.search(rf"^n Var\(W\) = {re.escape(scale)} +{verdict}: ", quick("deep_linear")[0], re.MULTILINE)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_larger_weights_saturate_more_units(activation):
    text = quick("saturation")[0]
    table = text[text.index(f"{activation}: linear to") :]
    schemes = ("N(0, 0.01), too small", "Xavier uniform", "N(0, 0.1)", "N(0, 1), too large")
    cells = [
        re.split(r" {2,}", next(line for line in table.splitlines() if line.startswith(scheme))) for scheme in schemes
    ]
    linear, saturated = [number(one[2]) for one in cells], [number(one[4]) for one in cells]
    assert linear == sorted(linear, reverse=True)
    assert saturated == sorted(saturated)
    assert linear[0] > 0.8
    assert saturated[-1] > 0.8


def test_a_fixed_scale_depends_on_the_width_and_xavier_does_not():
    # n Var(W) and a share for each width
    naive, xavier = (
        [number(cell) for cell in re.split(r" {2,}", line)[2::2]]
        for start in ("N(0, 0.1)", "Xavier uniform")
        for line in quick("saturation")[0].split("by width")[1].splitlines()
        if line.startswith(start)
    )
    assert naive[-1] > naive[0] + 0.1
    assert abs(xavier[-1] - xavier[0]) < 0.03


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("Xavier uniform", math.sqrt(2 / (784 + 128))),
        ("Kaiming uniform", math.sqrt(2 / 784)),
        ("LeCun uniform", math.sqrt(1 / 784)),
        ("torch's default", math.sqrt(1 / (3 * 784))),
        ("naive uniform", 0.1 / math.sqrt(3)),
        ("orthogonal", 1 / math.sqrt(784)),
    ],
)
def test_measured_values_are_those_of_the_formula(name, std):
    _, _, formula, measured, *_ = row("formulas", name)
    assert number(formula) == pytest.approx(std, abs=1e-6)
    assert number(measured) == pytest.approx(std, rel=0.01)


def test_all_formulas_hold_for_another_layer(tmp_path):
    done = run("formulas", "--quick", "--fan-in", "64", "--fan-out", "96", "--picture", str(tmp_path / "picture.png"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All measured values are within" in done.stdout


@pytest.mark.long
def test_circles_are_learned_from_xavier_and_he_only():
    tested = {name: number(row("circles", name)[3]) for name in ("zeros", "normal x 1000", "Xavier", "He")}
    assert tested["zeros"] == pytest.approx(0.5, abs=0.02)
    assert tested["normal x 1000"] < 0.7
    assert min(tested["Xavier"], tested["He"]) > max(tested["zeros"], tested["normal x 1000"])
    assert tested["Xavier"] > 0.7


@pytest.mark.long
def test_digits_are_learned_from_all_but_zeros():
    text = quick("mnist")[0]
    assert "5,000 digits of MNIST" in text
    table = text[text.index("Validation accuracy at epoch") :].splitlines()[3:9]
    here = {cells[0]: number(cells[1]) for cells in (re.split(r" {2,}", line) for line in table)}
    assert len(here) == 6
    assert here.pop("zeros") < 0.15
    assert min(here.values()) > 0.8


# Options.


@pytest.mark.parametrize("options", [("--seeds", "0"), ("--seeds", "x"), ("--depth", "3")])
def test_unknown_options_are_refused(options):
    done = run("symmetry", *options)
    assert done.returncode == 2
    assert options[0] in done.stderr


def test_without_matplotlib_the_numbers_remain(tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not installed')")
    picture = tmp_path / "picture.png"
    done = run("formulas", "--quick", "--picture", str(picture), PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "no picture: matplotlib is not installed" in done.stdout
    assert not picture.exists()


@pytest.mark.long
def test_a_file_that_is_not_mnist_is_refused(tmp_path):
    quick("mnist")
    (tmp_path / "mnist.npz").write_bytes(b"no archive")
    done = run("mnist", "--quick", "--data", str(tmp_path / "mnist.npz"))
    assert done.returncode == 1
    assert "is not MNIST as Keras ships it" in done.stderr
