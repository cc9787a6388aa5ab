"""The picture: drawn without a display, whole, and the same whatever the caller has set up in matplotlib."""

import os
import re
import sys
from dataclasses import replace

import numpy as np
import pytest

import fastinit
from fastinit.reports.pictures import VERDICTS, draw, picture_format

try:
    import matplotlib
except ImportError:
    matplotlib = None

needs_matplotlib = pytest.mark.skipif(matplotlib is None, reason="needs matplotlib")

INITIALIZERS = {
    "healthy": fastinit.he_normal(),
    "vanishing": fastinit.Normal(0.0, 1e-3),
    "exploding": fastinit.Normal(),
    "symmetric": fastinit.Zeros(),
    "overflow": fastinit.Normal(0.0, 1e20),
    "underflow": fastinit.Normal(0.0, 1e-20),
}


@pytest.fixture(scope="module")
def stacks():
    return {
        name: fastinit.propagate([16] * 31, "relu", initializer, key=fastinit.Key(0), batch=16)
        for name, initializer in INITIALIZERS.items()
    }


def words(figure):
    import matplotlib.text

    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


@needs_matplotlib
@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        pytest.param(name, suffix, marks=[pytest.mark.long] * ((name == "healthy") != (suffix == "svg")))
        for name in INITIALIZERS
        for suffix in ("png", "svg")
    ],
)
def test_every_verdict_is_drawn(stacks, tmp_path, name, suffix):
    found = stacks[name]
    figure = draw(found, tmp_path / f"check.{suffix}")
    written = (tmp_path / f"check.{suffix}").read_bytes()
    assert written.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    assert os.listdir(tmp_path) == [f"check.{suffix}"]
    text = words(figure)
    assert found.verdict.upper() in text
    assert found.reason in text.replace("\n", " ") or len(found.reason) > 88
    assert "30 layers of width 16, relu" in text
    forward, backward, heat = (axes for axes in figure.axes if axes.get_xlabel().startswith("layer"))
    assert "Forward" in forward.get_title(loc="left")
    assert "Backward" in backward.get_title(loc="left")
    assert heat.get_ylabel() == "activation"


@needs_matplotlib
@pytest.mark.parametrize("name", ["healthy", "vanishing", "exploding"])
def test_the_reason_lies_within_the_verdict_and_names_the_limit(stacks, name):
    figure = draw(stacks[name])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    word, reason = axes.texts
    assert "(limit 1" in reason.get_text()
    box = axes.get_window_extent()
    left, right = word.get_window_extent(), reason.get_window_extent()
    assert box.x0 < left.x0 < left.x1 < right.x0 < right.x1 < box.x1
    assert box.y0 <= right.y0 < right.y1 <= box.y1


@needs_matplotlib
def test_every_layer_is_a_point(stacks):
    for name, marked in (("healthy", ""), ("symmetric", "measured: zero"), ("overflow", "measured: overflow")):
        axes = draw(stacks[name]).axes[1]
        lines = {line.get_label(): line for line in axes.get_lines()}
        measured = [line.get_ydata() for label, line in lines.items() if label.startswith("measured")]
        points = sum(np.isfinite(values).sum() for values in measured)
        assert points == 30, name
        assert not marked or marked in lines
        low, high = axes.get_ylim()
        drawn = np.concatenate([line.get_ydata() for line in lines.values()])
        assert low <= np.nanmin(drawn) <= np.nanmax(drawn) <= high


@needs_matplotlib
def test_verdicts_can_be_told_apart_in_grey(stacks):
    assert set(VERDICTS) == {"healthy", "vanishing", "exploding", "symmetric"}
    for colour in VERDICTS.values():
        red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
        linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in (red, green, blue)]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (luminance + 0.05) > 4.5  # WCAG's contrast of white text on it
    signs = {words(draw(stacks[name])).split(name.upper())[0].split("\n")[-1] for name in VERDICTS}
    assert len(signs) == 4


@needs_matplotlib
def test_the_same_bytes_whatever_the_caller_has_set(stacks, tmp_path):
    draw(stacks["healthy"], tmp_path / "one.svg")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "svg.fonttype": "none", "figure.dpi": 30}):
        before = dict(matplotlib.rcParams)
        draw(stacks["healthy"], tmp_path / "two.svg")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


@needs_matplotlib
def test_a_title_is_taken_as_it_is(stacks):
    odd = replace(stacks["healthy"], reason="$\\alpha_{$ & <b>")
    text = words(draw(odd, title="$x_{ & <i>"))
    assert "$x_{ & <i>" in text
    assert odd.reason in text


@needs_matplotlib
def test_what_an_audit_gives_can_be_drawn(tmp_path):
    class Measured:
        def __init__(self, name, variance, gradient_variance):
            self.name, self.variance, self.gradient_variance = name, variance, gradient_variance

    class Audit:
        layers = (Measured("stem", 1.0, None), Measured("head", 2.0, None))
        verdict, reason = "not run", "no batch was given"

    text = words(draw(Audit(), tmp_path / "audit.png"))
    assert "not measured" in text
    assert "NOT RUN" in text
    Audit.layers = ()
    with pytest.raises(ValueError, match="expected at least 1 layer"):
        draw(Audit())


HEADLESS = """
import sys, fastinit
from fastinit.reports.pictures import draw
assert "matplotlib" not in sys.modules
found = fastinit.propagate([8] * 5, "relu", fastinit.he_normal(), key=fastinit.Key(0), batch=8)
draw(found, sys.argv[1])
draw(found, sys.argv[2])
assert "matplotlib.pyplot" not in sys.modules
import matplotlib
assert matplotlib.rcParams._get("backend") is matplotlib.rcsetup._auto_backend_sentinel
"""


@needs_matplotlib
def test_it_needs_no_display_and_sets_no_backend(run_python, tmp_path):
    done = run_python(HEADLESS, str(tmp_path / "a.png"), str(tmp_path / "b.svg"), DISPLAY="", WAYLAND_DISPLAY="")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.svg"]


@needs_matplotlib
def test_where_no_picture_can_be_written(stacks, tmp_path):
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "missing" / "check.png", tmp_path / "folder.png"):
        with pytest.raises(OSError, match=re.escape(str(path))):
            draw(stacks["healthy"], path)
    for name in ("check.jpg", "check", "png"):
        with pytest.raises(ValueError, match=r"must end in \.png or \.svg"):
            draw(stacks["healthy"], tmp_path / name)
    assert os.listdir(tmp_path) == ["folder.png"]
    assert picture_format("A.PNG") == "png"


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = fastinit.propagate([4, 4], "relu", fastinit.he_normal(), key=fastinit.Key(0), batch=2)
    with pytest.raises(ImportError, match=r"pip install 'fastinit-weights\[plots\]'"):
        draw(found)
