"""The commands of checkpoints as a person runs them."""

import json
import os

import numpy as np
import pytest
from checkpoint_plans import small_plan

from fastinit.checkpoints import Plan, Tensor, Values
from fastinit.checkpoints.commands import _part, _size
from fastinit.cli import main


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder with a plan; gives its status and what it printed."""
    monkeypatch.chdir(tmp_path)
    small_plan().save(tmp_path / "plan.json")

    def call(*arguments):
        try:
            status = main([str(one) for one in arguments])
        except SystemExit as ended:
            status = ended.code
        found = capsys.readouterr()
        return status, found.out, found.err

    return call


def test_written_verified_shown_and_compared(run, tmp_path):
    status, out, err = run("checkpoint", "plan.json", "out", "--shard-size", "4kB")
    assert (status, err) == (0, "")
    assert out.startswith(f"{tmp_path / 'out'}: 11 tensors") or out.startswith("out: 11 tensors")
    assert run("verify", "out") == (0, "11 tensors: 11 equal\n", "")
    status, out, _ = run("show", "out")
    assert status == 0
    assert out.splitlines()[0].split() == ["tensor", "dtype", "shape", "mean", "std", "expected", "min", "max"]
    assert "up.weight" in out
    assert run("checkpoint", "plan.json", "b.safetensors")[0] == 0
    assert run("diff", "out", "b.safetensors") == (0, "11 tensors: 11 equal, 0 different\n", "")


def test_differences_have_a_status(run, tmp_path):
    run("checkpoint", "plan.json", "a.safetensors")
    with open(tmp_path / "a.safetensors", "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\1\2\3\4")
    status, out, _ = run("verify", "a.safetensors")
    assert status == 1
    assert "11 tensors: 10 equal" in out
    run("checkpoint", "plan.json", "b.safetensors")
    status, out, _ = run("diff", "a.safetensors", "b.safetensors")
    assert status == 1
    assert "1 different" in out


def test_only_and_skip(run, tmp_path):
    run("checkpoint", "plan.json", "some.json", "--only", "experts.*", "--only", "mix", "--skip", "*.3")
    assert [tensor.name for tensor in Plan.load(tmp_path / "some.json")] == [
        "mix",
        "experts.0",
        "experts.1",
        "experts.2",
    ]
    status, _, err = run("checkpoint", "plan.json", "none.json", "--only", "exprts.*")
    assert status == 2
    assert "only='exprts.*' matches no parameter; there are 11: " in err
    status, _, err = run("checkpoint", "plan.json", "none.json", "--only", "mix", "--skip", "*")
    assert status == 2
    assert "leave none of 11 parameters" in err


def test_names_of_wrappers_are_selected_as_they_are_and_without_them(run, tmp_path):
    Plan((Tensor("module.up", Values("int8", (), b"1")), Tensor("b", Values("int8", (), b"1")))).save("wrapped.json")
    for pattern in ("module.*", "up"):
        run("checkpoint", "wrapped.json", "some.json", "--only", pattern)
        assert [tensor.name for tensor in Plan.load(tmp_path / "some.json")] == ["module.up"]


def test_a_checkpoint_as_a_template(run, tmp_path):
    files = pytest.importorskip("safetensors.numpy")
    values = {
        "up.weight": np.ones((64, 32), np.float16),
        "up.bias": np.ones(64, np.float16),
        "n": np.zeros(3, np.int64),
    }
    files.save_file(values, tmp_path / "published.safetensors")
    status, _, err = run("checkpoint", "published.safetensors", "out", "--rule", "*.bias=zeros")
    assert status == 2
    assert "no rule covers" in err and "'up.weight'" in err
    rules = ("--rule", "*=zeros", "--rule", "*.weight=normal:0,0.02")
    status, _, err = run("checkpoint", "published.safetensors", "out", *rules)
    assert status == 2
    assert "expected normal:std, got 'normal:0,0.02'" in err
    rules = ("--rule", "*=zeros", "--rule", "*.weight=normal:0.02", "--rule", "*.bias=ones")
    status, _, err = run("checkpoint", "published.safetensors", "again", *rules, "--seed", "7")
    assert (status, err) == (0, "")
    made = files.load_file(tmp_path / "again" / "model.safetensors")
    assert {name: one.shape for name, one in made.items()} == {name: one.shape for name, one in values.items()}
    assert abs(made["up.weight"].astype(float).std() - 0.02) < 0.001
    assert (made["up.bias"] == 1).all()
    assert not made["n"].any()
    status, _, _ = run("checkpoint", "again", "copy")  # its own plan is with it
    assert status == 0
    assert run("diff", "again", "copy")[0] == 0
    run("checkpoint", "plan.json", "values.safetensors")  # of which the plan in the files has the digest alone
    assert run("checkpoint", "values.safetensors", "values-again")[0] == 0
    assert run("diff", "values.safetensors", "values-again")[0] == 0
    with open(tmp_path / "values.safetensors", "r+b") as file:
        file.seek(file.read().index(np.arange(77).tobytes()))
        file.write(b"\7")
    status, _, err = run("checkpoint", "values.safetensors", "x")
    assert status == 2
    assert "'table' has other values than those of which it was written" in err
    status, _, err = run("checkpoint", "published.safetensors", "x", "--rule", "*=normal:0.02")
    assert status == 2
    assert "only zeros can fill it" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("checkpoint", "nothing", "out"), "neither a file nor a folder"),
        (("checkpoint", "plan.json", "plan.json/out"), "folder"),
        (("checkpoint", "plan.json", "out", "--shard-size", "0"), "at least 1 byte"),
        (("checkpoint", "plan.json", "out", "--shard-size", "many"), "number of bytes"),
        (("checkpoint", "plan.json", "out", "--part", "3/2"), "K in [1, N]"),
        (("checkpoint", "plan.json", "out", "--rule", "zeros"), "PATTERN=INIT"),
        (("checkpoint", "plan.json", "out", "--rule", "*=nothing"), "init must be one of"),
        (("checkpoint", "plan.json", "out", "--max-memory", "1MB"), "max_memory is"),
        (("checkpoint", "plan.json", "out", "--dtype", "int8"), "invalid choice"),
        (("verify", "nothing"), "No such file"),
        (("show", "plan.json"), "not an index"),
    ],
)
def test_what_cannot_be_done(run, tmp_path, arguments, said):
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    assert said in err
    assert sorted(os.listdir(tmp_path)) == ["plan.json"]


def test_a_plan_of_another_stream(run, tmp_path):
    changed = json.loads((tmp_path / "plan.json").read_text()) | {"stream_version": 2}
    (tmp_path / "other.json").write_text(json.dumps(changed))
    status, _, err = run("checkpoint", "other.json", "out")
    assert status == 2
    assert "a plan of stream version 1, got version 2" in err


def test_sizes_and_parts():
    assert [_size(text) for text in ("5GB", "1GiB", "512MiB", "1000", "2k", "1.5 MB")] == [
        *(5 * 10**9, 2**30, 2**29, 1000, 2000, 1_500_000)
    ]
    assert _part("2/16") == (1, 16)


def test_formats_of_other_libraries_say_what_they_do_not_take(run, tmp_path):
    status, _, err = run("checkpoint", "plan.json", "out", "--format", "dcp", "--resume", "--max-memory", "1GB")
    assert status == 2
    assert "the format dcp is written by its own library, without --max-memory, --resume" in err
    status, _, err = run("checkpoint", "plan.json", "out.weights.h5", "--part", "1/2")
    assert status == 2
    assert "the format keras is written by its own library, without --part" in err
    assert run("checkpoint", "plan.json", "out", "--format", "tar")[0] == 2
    assert os.listdir(tmp_path) == ["plan.json"]
    assert run("checkpoint", "plan.json", "odd.weights.h5", "--format", "safetensors")[0] == 0
    assert sorted(os.listdir(tmp_path)) == ["odd.weights.h5", "plan.json"]
