"""The picture of a healthy network beside two sick ones: the committed one is what the documented command draws."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_committed_picture_is_what_the_command_draws(tmp_path):
    picture = tmp_path / "health.svg"
    command = [sys.executable, str(ROOT / "examples/health.py"), "--picture", str(picture)]
    done = subprocess.run(command, capture_output=True, check=False, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line.split()[-1] for line in re.findall(r"^.+?  +\w+", done.stdout, re.MULTILINE)] == [
        "healthy",
        "vanishing",
        "exploding",
    ]
    number = re.compile(r"\d+\.\d+")
    drawn, committed = picture.read_text("utf-8"), (ROOT / "docs/pictures/health.svg").read_text("utf-8")
    assert number.sub("", drawn) == number.sub("", committed)
    # matrix products are not the same to the last bit on every machine: a tenth of a pixel
    numbers = [[float(one) for one in number.findall(text)] for text in (drawn, committed)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.11)
