"""Writing checkpoints: the same file always, in bounded memory, complete or not at all, resumed where it stopped."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from checkpoint_plans import entry, small_plan

import fastinit
from fastinit.checkpoints import Filled, Plan, Tensor, Values, read_checkpoint, staging, write, writing
from fastinit.checkpoints.disks import DirectFile

pytestmark = pytest.mark.skipif(not hasattr(os, "pwrite"), reason="needs POSIX")


def digests(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(os.listdir(folder))}


def expected(tensor):
    out = np.empty(tensor.nbytes, np.uint8)
    tensor.source.write(out, 0)
    return out.tobytes()


def test_the_library_reads_every_value(tmp_path, plan):
    safetensors = pytest.importorskip("safetensors")
    write(plan, tmp_path / "a.safetensors")
    with safetensors.safe_open(tmp_path / "a.safetensors", "np") as file:
        names = [tensor.name for tensor in plan]
        assert sorted(file.keys()) == sorted(names)
        for tensor in plan:
            if tensor.format.name in ("float32", "float16", "int64", "bool"):
                assert file.get_tensor(tensor.name).tobytes() == expected(tensor)
                assert file.get_tensor(tensor.name).shape == tensor.shape
    found = read_checkpoint(tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    for tensor in plan:
        stored = found[tensor.name]
        assert data[stored.offset : stored.offset + stored.nbytes] == expected(tensor)


@pytest.mark.parametrize("piece", [64, 1000, 2**23])
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_and_pieces_never_show(tmp_path, monkeypatch, plan, piece, threads):
    write(plan, tmp_path / "a")
    monkeypatch.setattr(writing, "PIECE", piece)
    write(plan, tmp_path / "b", num_threads=threads)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_several_files_and_an_index(tmp_path, plan):
    written = write(plan, tmp_path / "a", shard_size=4000)
    index = json.loads((tmp_path / "a" / "model.safetensors.index.json").read_text())
    assert sorted(index["weight_map"]) == sorted(tensor.name for tensor in plan)
    assert index["metadata"]["total_size"] == plan.nbytes
    assert sorted(written.files) == sorted(os.listdir(tmp_path / "a"))
    assert (tmp_path / "a" / "config.json").read_text() == "{}\n"
    sizes = [tensor.nbytes for tensor in plan]
    for header in read_checkpoint(tmp_path / "a").files.values():
        held = sum(one.nbytes for one in header.tensors.values())
        assert held <= 4000 or len([one for one in header.tensors.values() if one.nbytes]) == 1
    assert max(sizes) > 4000


def test_nothing_is_left_beside_the_target(tmp_path, plan):
    write(plan, tmp_path / "a", shard_size=4000)
    write(plan, tmp_path / "b.safetensors")
    assert sorted(os.listdir(tmp_path)) == ["a", "b.safetensors"]


def test_the_plan_travels_with_the_files(tmp_path, plan):
    write(plan, tmp_path / "a", shard_size=4000)
    carried = read_checkpoint(tmp_path / "a").plan
    by_name = {tensor.name: tensor for tensor in carried}
    for tensor in plan:
        if isinstance(tensor.source, Values) and tensor.nbytes > 256:
            assert by_name[tensor.name].source == tensor.source.without_data()
        else:
            assert by_name[tensor.name] == tensor


def test_plans_as_json(tmp_path, plan):
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert Plan.load(tmp_path / "plan.json").digest == plan.digest
    assert small_plan(1).digest != plan.digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda own: own | {"plan_version": 2}, "a plan of version 1, got 2"),
        (lambda own: own | {"stream_version": 2}, "a plan of stream version 1, got version 2"),
        (lambda own: own | {"more": 1}, "fields"),
        (lambda own: own | {"tensors": {}}, "must be an array"),
        (lambda own: own | {"tensors": [{"name": "a"}]}, "has a name and a source"),
        (lambda own: own | {"tensors": [{"name": "a", "burnt": {}}]}, "must be one of filled, quantized, values"),
        (lambda own: own | {"tensors": [{"name": "a", "filled": {}}]}, "no entry 'a'"),
        (lambda own: own | {"tensors": own["tensors"] * 2}, "same name"),
        (lambda own: own | {"files": {"../a": ""}}, "without a folder"),
        (lambda own: own | {"files": {"a": 1}}, "must map str to str"),
        (
            lambda own: own | {"tensors": [{"name": "a", "values": {"dtype": "int8", "shape": [2**40], "data": ""}}]},
            "too many for a plan",
        ),
        (
            lambda own: own | {"tensors": [{"name": "a", "values": {"dtype": "int8", "shape": [2], "data": "AAAA"}}]},
            "are damaged",
        ),
        (
            lambda own: own | {"tensors": [{"name": "a", "values": {"dtype": "int8", "shape": [2], "digest": "z"}}]},
            "must be a SHA-256",
        ),
    ],
)
def test_damaged_plans(plan, change, said):
    with pytest.raises(ValueError, match=said):
        Plan.from_json(json.dumps(change(json.loads(plan.to_json()))))
    for text in ("", "[]", "{}", "[" * 100_000):
        with pytest.raises(ValueError, match="not a plan"):
            Plan.from_json(text)


# NumPy's files


def numpys(plan):
    """The tensors whose dtypes NumPy has."""
    return plan.only(tensor.name for tensor in plan if tensor.format.name in ("float32", "float16", "int64", "bool"))


@pytest.mark.parametrize("piece", [64, 2**23])
def test_numpy_reads_archives(tmp_path, monkeypatch, plan, piece):
    monkeypatch.setattr(writing, "PIECE", piece)
    own = numpys(plan)
    for name in ("a.npz", "b.npz"):
        write(own, tmp_path / name, num_threads=2)
    with np.load(tmp_path / "a.npz") as found:
        assert sorted(found) == sorted(tensor.name for tensor in own)
        for tensor in own:
            assert found[tensor.name].tobytes() == expected(tensor)
            assert (found[tensor.name].shape, found[tensor.name].dtype.name) == (tensor.shape, tensor.format.name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.npz", "b.npz"]


def test_numpy_reads_a_single_tensor(tmp_path, plan):
    write(plan.only(["up.weight"]), tmp_path / "a.npy")
    found = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert found.shape == (37, 53)
    assert found.tobytes() == expected(plan.tensors[0])


def test_what_numpy_does_not_have(tmp_path, plan):
    with pytest.raises(TypeError, match="NumPy has no bfloat16, the dtype of 'embed'"):
        write(plan.only(["embed"]), tmp_path / "a.npz")
    with pytest.raises(ValueError, match="holds one tensor, got 2"):
        write(plan.only(["embed", "mix"]), tmp_path / "a.npy")
    assert os.listdir(tmp_path) == []


# Targets


def test_a_target_that_exists_stays_without_overwrite(tmp_path, plan):
    write(plan, tmp_path / "a")
    before = digests(tmp_path / "a")
    with pytest.raises(FileExistsError, match="overwrite replaces it"):
        write(small_plan(1), tmp_path / "a")
    (tmp_path / "b.safetensors").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="overwrite"):
        write(plan, tmp_path / "b.safetensors")
    assert digests(tmp_path / "a") == before
    assert (tmp_path / "b.safetensors").read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["a", "b.safetensors"]


def test_overwriting_replaces_the_old_files_and_no_others(tmp_path, plan):
    write(plan, tmp_path / "a", shard_size=4000)
    (tmp_path / "a" / "tokenizer.json").write_text("kept")
    write(small_plan(1), tmp_path / "a", overwrite=True)
    write(small_plan(1), tmp_path / "b")
    found = digests(tmp_path / "a")
    del found["tokenizer.json"]
    assert found == digests(tmp_path / "b")
    assert (tmp_path / "a" / "tokenizer.json").read_text() == "kept"


def test_into_a_folder_that_holds_other_files(tmp_path, plan):
    (tmp_path / "a").mkdir()
    write(plan, tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "tokenizer.json").write_text("kept")
    write(plan, tmp_path / "b")
    assert (tmp_path / "b" / "tokenizer.json").read_text() == "kept"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_failure_while_files_are_moved_restores_the_old_ones(tmp_path, monkeypatch, plan):
    write(plan, tmp_path / "a", shard_size=4000)
    before = digests(tmp_path / "a")
    rename = os.rename

    def failing(old, new):
        if os.fsdecode(new) == os.fsdecode(tmp_path / "a" / "model.safetensors.index.json") and not failures:
            failures.append(new)
            raise OSError(5, "Input/output error")
        rename(old, new)

    failures = []
    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        write(small_plan(1), tmp_path / "a", shard_size=4000, overwrite=True)
    monkeypatch.undo()
    assert digests(tmp_path / "a") == before


def test_a_run_that_is_killed_while_files_are_moved_loses_none(tmp_path, monkeypatch, plan):
    write(plan, tmp_path / "a", shard_size=4000)
    before = digests(tmp_path / "a")
    rename = os.rename

    def dying(old, new):
        if moved:
            raise SystemExit
        rename(old, new)
        if os.path.basename(os.path.dirname(os.fsdecode(old))) == "a" and len(os.listdir(tmp_path / "a")) == 1:
            moved.append(old)

    moved = []
    monkeypatch.setattr(os, "rename", dying)
    monkeypatch.setattr(staging.Staging, "_move_back", lambda self, path: None)
    with pytest.raises(SystemExit):
        write(small_plan(1), tmp_path / "a", shard_size=4000, overwrite=True)
    monkeypatch.undo()
    assert len(os.listdir(tmp_path / "a")) == 1  # the others wait in the hidden folder
    with pytest.raises(OSError, match="No space"):  # a later run brings them back before anything else
        monkeypatch.setattr(staging, "_allocate", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        write(small_plan(1), tmp_path / "a", shard_size=4000, overwrite=True)
    assert digests(tmp_path / "a") == before


def test_one_file_and_several_replace_each_other(tmp_path, plan):
    for size in (10**6, 4000, 10**6, 3000):
        with pytest.raises(FileExistsError, match="overwrite") if os.listdir(tmp_path) else contextlib.nullcontext():
            write(plan, tmp_path / "a", shard_size=size)
        write(plan, tmp_path / "a", shard_size=size, overwrite=True)
        write(plan, tmp_path / "b", shard_size=size)
        assert digests(tmp_path / "a") == digests(tmp_path / "b")
        shutil.rmtree(tmp_path / "b")


def test_targets_that_cannot_be(tmp_path, plan):
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        write(plan, tmp_path / "none" / "a")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="expected the name of a folder"):
        write(plan, tmp_path / "file", overwrite=True)
    (tmp_path / "c.safetensors").mkdir()
    with pytest.raises(IsADirectoryError, match="expected the name of a file"):
        write(plan, tmp_path / "c.safetensors", overwrite=True)
    with pytest.raises(ValueError, match="k in"):
        write(plan, tmp_path / "a", part=(2, 2))
    with pytest.raises(ValueError, match="shard_size"):
        write(plan, tmp_path / "a", shard_size=0)
    assert sorted(os.listdir(tmp_path)) == ["c.safetensors", "file"]


@pytest.mark.parametrize(
    "name",
    [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors.part",
        "model-00001-of-00003.safetensors.journal",
        "model.safetensors.index.json",
    ],
)
def test_files_of_a_plan_that_are_named_like_those_of_its_tensors(tmp_path, name):
    tensors = tuple(Tensor(one, Values("int64", (4,), bytes(32))) for one in "abc")
    with pytest.raises(ValueError, match=f"the plan has a file '{name}', which is a name of the files of its tensors"):
        write(Plan(tensors, files={name: "{}"}), tmp_path / "out", shard_size=32)
    assert not os.listdir(tmp_path)
    assert write(Plan(tensors, files={"model.safetensors": "{}"}), tmp_path / "out", shard_size=32).is_complete


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/passwd", "a\\b", "..", "", "a\0b"])
def test_files_of_a_plan_lie_in_its_folder(name):
    with pytest.raises(ValueError, match="a file of a plan must have a name without a folder"):
        Plan((), files={name: "mine"})


def test_a_tensor_that_cannot_be_made_is_named_before_anything_is_written(tmp_path):
    wrong = Plan((Tensor("w", Filled(entry("w", (4,), fastinit.Orthogonal()))),))
    with pytest.raises(ValueError, match=r"'w': .*at least 2 axes"):
        write(wrong, tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_memory_that_is_too_little(tmp_path, plan):
    with pytest.raises(ValueError, match="max_memory is 1 MiB, of which the process has taken"):
        write(plan, tmp_path / "a", max_memory=2**20)
    large = Plan((Tensor("mix", Filled(entry("mix", (8192, 8192), fastinit.Orthogonal()))),))
    with pytest.raises(ValueError, match="'mix' can only be made whole, in 768 MiB"):
        write(large, tmp_path / "a", max_memory=writing._taken() + 2**29)
    assert os.listdir(tmp_path) == []


# Parts and interruptions


def test_parts_of_several_processes(tmp_path, plan):
    write(plan, tmp_path / "a", shard_size=4000)
    for number in (2, 0, 1):
        written = write(plan, tmp_path / "b", shard_size=4000, part=(number, 3))
        assert written.is_complete == (number == 1)
        assert (tmp_path / "b").exists() == (number == 1)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_two_processes_that_finish_together(tmp_path, monkeypatch, plan):
    write(plan, tmp_path / "a", shard_size=4000)
    write(plan, tmp_path / "b", shard_size=4000, part=(0, 2))
    publish = staging.Staging.publish

    def overtaken(self, texts, overwrite):  # another process sees the last file, too, and is quicker
        monkeypatch.setattr(staging.Staging, "publish", publish)
        publish(self, texts, overwrite)
        publish(self, texts, overwrite)

    monkeypatch.setattr(staging.Staging, "publish", overtaken)
    assert write(plan, tmp_path / "b", shard_size=4000, part=(1, 2)).is_complete
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


PROGRAM = """
import sys
from fastinit.checkpoints import Plan, write, writing
writing.PIECE, writing._NOTE = 2**18, 2**20
write(Plan.load(sys.argv[1]), sys.argv[2], shard_size=24_000_000, resume=True, num_threads=2)
"""


def large_plan():
    tensors = [Tensor(f"w{n}", Filled(entry(f"w{n}", (1000, 2500), fastinit.Normal()))) for n in range(7)]
    return Plan((*tensors, Tensor("mix", Filled(entry("mix", (256, 256), fastinit.Orthogonal())))))


def hidden(folder, number):
    """The staging folder of a run."""
    return [name for name in os.listdir(folder) if name.startswith(f".out{number}.")]


def killed_and_resumed(tmp_path, count):
    """How many runs that are killed at a random moment and resumed end with the files of an undisturbed run."""
    plan, random_delay = tmp_path / "plan.json", random.Random(20)
    large_plan().save(plan)
    command = [sys.executable, "-c", PROGRAM, str(plan)]
    begin = time.perf_counter()
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    seconds = time.perf_counter() - begin
    same = resumed = 0
    for number in range(count):
        out = tmp_path / f"out{number}"
        process = subprocess.Popen([*command, str(out)])
        while not hidden(tmp_path, number) and process.poll() is None:  # the interpreter starts
            time.sleep(0.005)
        time.sleep(random_delay.uniform(0.0, 0.6) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = hidden(tmp_path, number)
        assert not (out.exists() and left)
        subprocess.run([*command, str(out)], check=not out.exists(), stderr=subprocess.DEVNULL)
        same += digests(out) == digests(tmp_path / "whole")
        resumed += bool(left)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    return same, resumed


def test_killed_at_random_moments(tmp_path):
    same, _ = killed_and_resumed(tmp_path, 3)
    assert same == 3


@pytest.mark.long
def test_killed_twenty_times_at_random_moments(tmp_path, capsys):
    same, resumed = killed_and_resumed(tmp_path, 20)
    with capsys.disabled():
        print(f"\nkilled: {same} of 20 end with the digest of an undisturbed run, {resumed} of them resumed")
    assert same == 20
    assert resumed >= 5


def test_what_has_reached_the_disk_is_not_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "PIECE", 2**16)
    monkeypatch.setattr(writing, "_NOTE", 2**18)
    plan = large_plan()
    write(plan, tmp_path / "a.safetensors")
    written = []
    write_at = DirectFile.write

    def failing(self, data, offset):
        written.append(offset)
        if offset > 20_000_000:
            raise OSError(5, "Input/output error")
        write_at(self, data, offset)

    monkeypatch.setattr(DirectFile, "write", failing)
    with pytest.raises(OSError, match="Input/output error"):
        write(plan, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()
    written.clear()
    monkeypatch.setattr(DirectFile, "write", write_at)
    found = write(plan, tmp_path / "b.safetensors", resume=True)
    assert 15_000_000 < found.resumed < 20_100_000
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("size", [2**15, 3 * 2**16 + 8])
def test_another_run_may_cut_other_pieces(tmp_path, monkeypatch, size):
    monkeypatch.setattr(writing, "PIECE", 2**16)
    monkeypatch.setattr(writing, "_NOTE", 2**18)
    plan, write_at = large_plan(), DirectFile.write

    def failing(self, data, offset):
        if offset > 15_000_000:  # in the middle of a tensor
            raise OSError(5, "Input/output error")
        write_at(self, data, offset)

    monkeypatch.setattr(DirectFile, "write", failing)
    with pytest.raises(OSError, match="Input/output error"):
        write(plan, tmp_path / "b.safetensors")
    monkeypatch.setattr(DirectFile, "write", write_at)
    (folder,) = tmp_path.glob(".*/new")
    durable = int((folder / "b.safetensors.journal").read_text().split()[-1])
    with (folder / "b.safetensors.part").open("r+b") as file:  # a crash of the machine loses what is not on the disk
        whole = file.seek(0, os.SEEK_END)
        file.truncate(durable)
        file.truncate(whole)
    monkeypatch.setattr(writing, "PIECE", size)
    assert write(plan, tmp_path / "b.safetensors", resume=True).resumed > 5_000_000
    write(plan, tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_the_index_is_moved_last(tmp_path, monkeypatch, plan):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")  # so that the files move one by one
    moved, rename = [], os.rename

    def watched(old, new):
        moved.append(os.path.basename(new))
        rename(old, new)

    monkeypatch.setattr(os, "rename", watched)
    write(plan, tmp_path / "out", shard_size=4000)
    texts = [name for name in moved if name.endswith(".json")]
    assert moved[-len(texts) :] == texts
    assert moved[-1] == "model.safetensors.index.json"
    assert len(moved) > len(texts)


@pytest.mark.parametrize("damage", ["journal", "short", "head", "beyond", "within the head"])
def test_what_an_interruption_left_is_not_believed_where_it_is_damaged(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(writing, "PIECE", 2**16)
    monkeypatch.setattr(writing, "_NOTE", 2**18)
    plan, write_at = large_plan(), DirectFile.write

    def failing(self, data, offset):
        if offset > 10_000_000:
            raise OSError(5, "Input/output error")
        write_at(self, data, offset)

    monkeypatch.setattr(DirectFile, "write", failing)
    with pytest.raises(OSError, match="Input/output error"):
        write(plan, tmp_path / "b.safetensors")
    monkeypatch.setattr(DirectFile, "write", write_at)
    (folder,) = tmp_path.glob(".*/new")
    part, journal = folder / "b.safetensors.part", folder / "b.safetensors.journal"
    if damage == "journal":
        journal.write_bytes(b"what\n")
    elif damage == "beyond":
        journal.write_bytes(b"%d\n" % (os.path.getsize(part) + 1))
    elif damage == "within the head":
        journal.write_bytes(b"8\n")
    elif damage == "short":
        os.truncate(part, 5_000_000)
    else:
        with part.open("r+b") as file:
            file.write(b"other")
    assert write(plan, tmp_path / "b.safetensors", resume=True).resumed == 0
    write(plan, tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_two_processes_do_not_write_one_file(tmp_path, plan):
    out = tmp_path / "a.safetensors"
    large_plan().save(tmp_path / "plan.json")
    program = PROGRAM.replace("write(Plan", "writing.DirectFile.write = lambda *_: sys.stdin.read()\nwrite(Plan")
    command = [sys.executable, "-c", program, str(tmp_path / "plan.json"), str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        while not any(path.name.endswith(".part") for path in tmp_path.glob(".*/new/*")):
            time.sleep(0.02)
        time.sleep(0.2)
        for resume in (False, True):
            with pytest.raises(BlockingIOError, match="another process is writing it"):
                write(large_plan(), out, resume=resume, shard_size=24_000_000)
        other.kill()


# Disks


def mounted(tmp_path, options):
    """A small file system of its own, in a mount namespace of the command that is returned."""
    disk = tmp_path / "disk"
    disk.mkdir()
    return disk, ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o {options} none "$0" && exec "$@"', str(disk)]


def can_mount(tmp_path):
    _, command = mounted(tmp_path, "size=1m")
    return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0


PRINTS = """
import os, sys
from fastinit.cli import main
status = main(["checkpoint", *sys.argv[1:]])
print(status, sorted(os.listdir(os.path.dirname(sys.argv[2]))))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mount namespaces")
@pytest.mark.parametrize("options", ["size=16m", "size=100m,ro"])
def test_full_and_read_only_disks(tmp_path, options):
    (tmp_path / "probe").mkdir()
    if not can_mount(tmp_path / "probe"):
        pytest.skip("needs the right to mount")
    large_plan().save(tmp_path / "plan.json")
    disk, command = mounted(tmp_path, options)
    arguments = [sys.executable, "-c", PRINTS, str(tmp_path / "plan.json"), str(disk / "a.safetensors")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n"
    said = "Read-only file system" if options.endswith("ro") else "the disk has 0.02 left"
    assert said in done.stderr
    assert "a.safetensors" in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mount namespaces")
def test_a_disk_that_fills_while_it_is_written(tmp_path):
    (tmp_path / "probe").mkdir()
    if not can_mount(tmp_path / "probe"):
        pytest.skip("needs the right to mount")
    large_plan().save(tmp_path / "plan.json")
    disk, command = mounted(tmp_path, "size=80m")
    # another program takes the room after the check
    program = PRINTS.replace(
        "status =",
        "from fastinit.checkpoints import staging, writing\nwriting.check_room = lambda *_: None\n"
        f"open('{disk}/other', 'wb').write(bytes(60 * 2**20))\nstatus =",
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "plan.json"), str(disk / "a.safetensors")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("2 [")
    assert "'a.safetensors'" not in done.stdout
    assert "No space left on device" in done.stderr
