"""The staging folder: whatever happens while files move, the target is the old checkpoint or the new one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastinit.checkpoints import read_checkpoint, verify
from fastinit.checkpoints.staging import Staging

PROGRAM = """
import os, signal, sys
from fastinit.checkpoints.staging import Staging

target, kind, fatal = sys.argv[1], sys.argv[2], int(sys.argv[3])
calls = 0

def counted(real):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    return call

names = ("a", "b", "x.safetensors.index.json", "sub", "note")
staging = Staging(target, kind * 16, names, single=False, pattern="[a-c]|sub|.*index.json")
staging.prepare(True)
with staging.opened(False):
    with staging.filled() as path:
        os.makedirs(path + "/sub")
        for name in (*names[:3], "sub/part"):
            with open(os.path.join(path, name), "w") as file:
                file.write(f"{kind} {name}")
    for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    staging.publish({"note": kind}, True)
print(calls)
"""


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def expected(kind):
    return {name: f"{kind} {name}" for name in ("a", "b", "x.safetensors.index.json", "sub/part")} | {"note": kind}


def run(target, kind, fatal):
    command = [sys.executable, "-c", PROGRAM, str(target), kind, str(fatal)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_run_that_is_killed_at_any_step(tmp_path):
    steps = 0
    for fatal in range(1, 100):
        target = tmp_path / str(fatal) / "out"
        target.parent.mkdir()
        assert run(target, "0", 0).returncode == 0
        (target / "c").write_text("an old one")
        (target / "mine").write_text("mine")
        old = expected("0") | {"c": "an old one", "mine": "mine"}
        done = run(target, "1", fatal)
        if done.returncode == 0:
            assert contents(target) == expected("1") | {"mine": "mine"}
            break
        assert done.returncode == -9, done.stderr
        before = contents(target)
        if "x.safetensors.index.json" in before:  # what makes it a checkpoint is there: then it is a whole one
            kind = before["x.safetensors.index.json"][0]
            assert expected(kind).items() - {("note", kind)} <= before.items()
        other = Staging(str(target), "2" * 16, ("a",), single=False)
        other.prepare(True)
        found = contents(target)
        assert found in (old, expected("1") | {"mine": "mine"}), fatal
        steps += found == old
        assert set(os.listdir(target.parent)) == {"out"}
    assert steps > 8
    assert int(done.stdout) == fatal - 1


def test_a_run_that_fails_at_any_step(tmp_path, monkeypatch):
    for fatal in range(1, 100):
        target, calls = tmp_path / str(fatal) / "out", [0]
        target.parent.mkdir()
        made(target, "0")
        (target / "mine").write_text("mine")
        rename = os.rename

        def failing(old, new, calls=calls, fatal=fatal, rename=rename):
            calls[0] += 1
            if calls[0] == fatal:
                raise OSError(5, "Input/output error")
            rename(old, new)

        with monkeypatch.context() as broken:
            broken.setattr(os, "rename", failing)
            try:
                made(target, "1")
            except OSError as problem:
                assert "Input/output error" in str(problem)
                assert str(target) in str(problem)
                assert contents(target) == expected("0") | {"mine": "mine"}, fatal
                made(target, "1")
        assert contents(target) == expected("1") | {"mine": "mine"}
        if calls[0] < fatal:
            break
    assert fatal > 8


def made(target, kind):
    names = ("a", "b", "x.safetensors.index.json")
    staging = Staging(str(target), kind * 16, (), single=False, pattern="[a-c]|x.*|sub|note")
    staging.prepare(True)
    with staging.opened(False):
        with staging.filled() as path:
            os.makedirs(os.path.join(path, "sub"))
            for name in (*names, "sub/part"):
                with open(os.path.join(path, name), "w") as file:
                    file.write(f"{kind} {name}")
        try:
            staging.publish({"note": kind}, True)
        except BaseException:
            staging.discard()
            raise


def test_what_a_library_leaves_when_it_fails_is_removed(tmp_path):
    staging = Staging(str(tmp_path / "out"), "0" * 16, (), single=False)
    with pytest.raises(KeyboardInterrupt), staging.opened(False), staging.filled() as path:
        os.mkdir(path)
        raise KeyboardInterrupt
    assert not os.listdir(tmp_path)


def test_other_targets_have_other_folders(tmp_path):
    """A target whose name begins like another's, and one that looks like a staging folder, are left alone."""
    for name in (".out.x.0123456789abcdef.part", ".out.part", "out.0123456789abcdef.part"):
        (tmp_path / name).mkdir()
    Staging(str(tmp_path / "out"), "0" * 16, (), single=False).prepare(False)
    assert len(os.listdir(tmp_path)) == 3
    Staging(str(tmp_path / "out.x"), "0" * 16, (), single=False).prepare(False)
    assert len(os.listdir(tmp_path)) == 2


def test_a_folder_is_of_one_process_or_shared(tmp_path):
    def staging():
        return Staging(str(tmp_path / "out"), "0" * 16, ("a",), single=False)

    for first, second in ((False, False), (False, True), (True, False)):
        with staging().opened(first):
            with pytest.raises(BlockingIOError, match="another process is writing it"), staging().opened(second):
                pass
            Staging(str(tmp_path / "out"), "1" * 16, (), single=False).prepare(False)  # a folder in use is not removed
            assert os.listdir(tmp_path) == [".out.0000000000000000.part"]
    with staging().opened(True), staging().opened(True):
        pass


def test_a_file_that_another_process_writes_again_is_left_out(tmp_path):
    for single in (False, True):
        target = tmp_path / f"out{single}"
        ours, other = (Staging(str(target), "0" * 16, (target.name,), single=single) for _ in range(2))
        with ours.opened(True), other.opened(True):
            with ours.claimed(target.name, 1, b"") as claim:
                os.write(claim.descriptor, b"1")
            with pytest.raises(FileNotFoundError), other.claimed(target.name, 1, b""):
                ours.publish({}, False)
        assert sorted(os.listdir(tmp_path))[-1] == target.name
        assert (target if single else target / target.name).read_bytes() == b"1"
        assert len(os.listdir(tmp_path)) == 1 + single
        assert single or os.listdir(target) == [target.name]


RACE = """
import random, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from checkpoint_plans import small_plan
from fastinit.checkpoints import write

done, end = 0, time.monotonic() + 3
while time.monotonic() < end:
    try:
        write(small_plan(int(sys.argv[3])), sys.argv[2], shard_size=random.choice([4000, 10**6]), overwrite=True)
        done += 1
    except BlockingIOError:
        pass
print(done)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks")
def test_processes_that_write_one_target(tmp_path):
    """Two write the same, two others something else: each write is whole, and nothing else is left."""
    command = [sys.executable, "-c", RACE, str(Path(__file__).parent), str(tmp_path / "out")]
    others = [
        subprocess.Popen([*command, seed], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for seed in "1123"
    ]
    found = [other.communicate() for other in others]
    assert [error for _, error in found] == [""] * 4
    assert all(int(out) > 0 for out, _ in found)
    assert os.listdir(tmp_path) == ["out"]
    assert verify(tmp_path / "out").is_sound
    assert {path.name for path in (tmp_path / "out").iterdir()} - {"config.json", "model.safetensors.index.json"} == {
        os.path.basename(path) for path in read_checkpoint(tmp_path / "out").files
    }
