"""The demo as a user runs it: a whole model, checked, with readable output where there is no terminal."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rich")

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def demo(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DEMO), *options]
    return subprocess.run(command, capture_output=True, check=False, encoding="utf-8", timeout=300)


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param("float32", marks=pytest.mark.long),
        "bfloat16",
        pytest.param("float8_e4m3fn", marks=pytest.mark.long),
    ],
)
def test_a_model_holds_what_its_recipe_says(dtype):
    done = demo("--model", "mobilenet-v2", "--dtype", dtype)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3,504,872 parameters" in done.stdout
    assert "All 158 tensors" in done.stdout
    assert done.stderr == ""


def test_cold_is_compared_with_cold_and_warm_with_warm():
    lines = demo("--model", "mobilenet-v2", "--threads", "2").stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("the whole model"))
    table = [line.split() for line in lines[start + 2 : start + 10]]
    assert [" ".join(row[:2]) for row in table[::4]] == ["cold memory", "warm memory"]
    for rows in (table[1:4], table[5:8]):
        assert [row[0].rstrip(",") for row in rows] == ["fastinit", "memset", "NumPy"]
        ours, memset, numpy = (float(row[row.index("ms") - 1].replace(",", "")) for row in rows)
        # the remarks are about the times of their own section
        for remark, ratio in ((rows[1], ours / memset), (rows[2], numpy / ours)):
            assert float(remark[remark.index("×") - 1]) == pytest.approx(ratio, rel=0.15, abs=0.06), remark


def test_piped_output_is_plain_text():
    lines = demo("--model", "mobilenet-v2", "--threads", "1").stdout.splitlines()
    assert all(character.isprintable() for line in lines for character in line)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("option", [("--model", "gpt5"), ("--dtype", "fp32"), ("--threads", "0")])
def test_unknown_choices_are_refused(option):
    done = demo(*option)
    assert done.returncode == 2
    assert option[0] in done.stderr
