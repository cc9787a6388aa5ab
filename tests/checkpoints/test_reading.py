"""Reading NumPy's files, and telling formats apart: what is read is what NumPy reads, and damage is a clear error."""

import io
import itertools
import json
import os
import pickle
import random
import shutil
import sys
import zipfile

import numpy as np
import pytest
from checkpoint_plans import entry

import fastinit
from fastinit.checkpoints import (
    Boxes,
    Filled,
    Origin,
    Plan,
    Tensor,
    Values,
    archives,
    diff,
    plan_of,
    read_checkpoint,
    statistics,
    verify,
    write,
)
from fastinit.cli import main

ARRAYS = {
    "rows": np.arange(60, dtype=np.float32).reshape(3, 4, 5),
    "columns": np.asfortranarray(np.arange(60, dtype=np.float32).reshape(3, 4, 5)),
    "swapped": np.arange(14, dtype=">i4").reshape(7, 2),
    "both": np.asfortranarray(np.arange(14, dtype=">f8").reshape(7, 2)),
    "flags/of/layers": np.array([True, False, True]),
    "scalar": np.array(17, np.uint16),
    "none": np.zeros((0, 5), np.float16),
    "complex": np.array([1 + 2j, 3], np.complex64),
}


def expected(array):
    """The bytes of an array in row-major order, little-endian."""
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()


def ranges(size, itemsize):
    """All of it, its elements one by one, and backwards in pieces of three."""
    count = size // itemsize
    yield [(0, None)]
    yield [(n * itemsize, (n + 1) * itemsize) for n in range(count)]
    yield [(n * itemsize, min(size, (n + 3) * itemsize)) for n in range(0, count, 3)][::-1]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_are_read_as_numpy_reads_them(tmp_path, save):
    path = tmp_path / "arrays.npz"
    save(path, **ARRAYS)
    with read_checkpoint(path) as found, np.load(path) as loaded:
        assert [stored.name for stored in found] == loaded.files == list(ARRAYS)
        for name, array in ARRAYS.items():
            stored = found[name]
            assert (stored.shape, stored.format.name) == (array.shape, array.dtype.newbyteorder("=").name)
            for places in ranges(stored.nbytes, array.itemsize):
                for begin, end in places:
                    assert found.read(name, begin, end).tobytes() == expected(array)[begin:end], (name, begin, end)
        assert found.plan is None


@pytest.mark.parametrize("name", ARRAYS)
def test_single_arrays(tmp_path, name):
    np.save(tmp_path / "table.npy", ARRAYS[name])
    with read_checkpoint(tmp_path / "table.npy") as found:
        assert [stored.name for stored in found] == ["table"]
        assert found.read("table").tobytes() == expected(ARRAYS[name])


def test_tensors_take_turns(tmp_path):
    path = tmp_path / "arrays.npz"
    np.savez_compressed(path, **ARRAYS)
    with read_checkpoint(path) as found:
        for begin in (0, 8, 16, 4):
            for name in ("rows", "columns", "swapped"):
                assert found.read(name, begin, begin + 8).tobytes() == expected(ARRAYS[name])[begin : begin + 8]


def small():
    """What NumPy's files can hold."""
    return Plan(
        (
            Tensor("up/weight", Filled(entry("up/weight", (37, 53), fastinit.he_normal(layout="OI")))),
            Tensor("mix", Filled(entry("mix", (16, 16), fastinit.Orthogonal(), "float16"))),
            Tensor("table", Values("int64", (7, 11), np.arange(77).tobytes())),
            Tensor("flag", Values("bool", (), b"\1")),
            Tensor("none", Filled(entry("none", (0, 5), fastinit.Normal()))),
        )
    )


@pytest.mark.parametrize("piece", [None, 8])
def test_verified_compared_and_shown(tmp_path, monkeypatch, piece):
    if piece is not None:
        monkeypatch.setattr(archives.Arrays, "PIECE", piece)
    plan = small()
    write(plan, tmp_path / "a.npz")
    write(plan, tmp_path / "b.safetensors")
    with np.load(tmp_path / "a.npz") as loaded:
        np.savez_compressed(tmp_path / "c.npz", **loaded)
    for name in ("a.npz", "c.npz"):
        assert {row.verdict for row in verify(tmp_path / name, plan)} == {"equal"}
        assert {row.verdict for row in diff(tmp_path / name, tmp_path / "b.safetensors")} == {"equal"}
        assert {row.verdict for row in diff(tmp_path / "b.safetensors", tmp_path / name)} == {"equal"}
        ours, theirs = (list(statistics(tmp_path / one)) for one in (name, "b.safetensors"))
        figures = {one.stored.name: (one.mean, one.std, one.low, one.high) for one in theirs}
        for one in ours:
            np.testing.assert_equal((one.mean, one.std, one.low, one.high), figures[one.stored.name])
    data = bytearray((tmp_path / "a.npz").read_bytes())
    place = data.index(Values("int64", (77,), np.arange(77).tobytes()).data)
    data[place + 8] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    assert {row.name: row.verdict for row in verify(tmp_path / "a.npz", plan) if not row.is_sound} == {
        "table": "trained"
    }
    (row,) = [row for row in diff(tmp_path / "a.npz", tmp_path / "b.safetensors") if row.verdict != "equal"]
    assert (row.name, row.detail) == ("table", "1 of 616 bytes differ")


def test_without_a_plan_the_error_says_what_to_give(tmp_path, capsys):
    plan = small()
    write(plan, tmp_path / "a.npz")
    plan.save(tmp_path / "plan.json")
    assert main(["verify", str(tmp_path / "a.npz")]) == 2
    assert "carries no plan of fastinit: give the plan or the record" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "a.npz"), "--record", str(tmp_path / "plan.json")]) == 0


def test_a_template(tmp_path):
    np.savez(tmp_path / "published.npz", **{"up.weight": np.ones((8, 4), np.float16), "n": np.zeros(3, np.int64)})
    rules = [("*", fastinit.Zeros()), ("*.weight", fastinit.Normal(std=0.02))]
    plan = plan_of(Origin(str(tmp_path / "published.npz"), rules=rules))
    assert [(one.name, one.shape, one.format.name) for one in plan] == [
        ("up.weight", (8, 4), "float16"),
        ("n", (3,), "int64"),
    ]


# What tells a format


def test_contents_tell_the_format_and_not_the_name(tmp_path):
    plan = Plan((Tensor("model", Values("int64", (2,), bytes(16))),))
    for number, name in enumerate(("model.npy", "model.npz", "model.safetensors")):
        write(plan, tmp_path / name)
        os.rename(tmp_path / name, tmp_path / f"{number}.bin")
    shutil.copy(tmp_path / "0.bin", tmp_path / "model.npz")
    assert [len(read_checkpoint(tmp_path / f"{number}.bin")) for number in range(3)] == [1, 1, 1]
    assert "model" in read_checkpoint(tmp_path / "model.npz")
    write(Plan((*plan, Tensor("b", plan.tensors[0].source))), tmp_path / "sharded", shard_size=1)
    os.rename(tmp_path / "sharded/model.safetensors.index.json", tmp_path / "sharded/index")
    assert len(read_checkpoint(tmp_path / "sharded/index")) == 2


def test_folders_that_are_none_or_several(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"it has neither model\.safetensors nor .*\.metadata"):
        read_checkpoint(tmp_path)
    write(small(), tmp_path / "model.safetensors")
    (tmp_path / ".metadata").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has both model\.safetensors and a checkpoint of dcp"):
        read_checkpoint(tmp_path)


def test_tensors_that_are_not_aligned(tmp_path):
    files = pytest.importorskip("safetensors.numpy")
    values = np.random.default_rng(0).normal(size=(9, 7)).astype(np.float32)
    header = json.dumps({"a": {"dtype": "F32", "shape": [9, 7], "data_offsets": [0, values.nbytes]}}).encode()
    header += b" " * (-len(header) % 8 + 1)
    (tmp_path / "odd.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + values.tobytes())
    files.save_file({"a": values}, tmp_path / "even.safetensors")
    assert [row.verdict for row in diff(tmp_path / "odd.safetensors", tmp_path / "even.safetensors")] == ["equal"]
    (found,) = statistics(tmp_path / "odd.safetensors")
    assert found.high == values.max()
    np.savez(tmp_path / "odd.npz", a=values)
    for name in ("odd.safetensors", "odd.npz"):
        with read_checkpoint(tmp_path / name) as checkpoint:
            assert checkpoint.read("a").ctypes.data % 4 == 0


# Boxes


def cut(shape, parts, draw):
    """A random partition of a tensor into boxes."""
    boxes = [tuple(slice(0, size) for size in shape)]
    for _ in range(parts):
        number, axis = draw.randrange(len(boxes)), draw.randrange(len(shape))
        one = boxes[number][axis]
        if one.stop - one.start > 1:
            at = draw.randrange(one.start + 1, one.stop)
            first, second = list(boxes[number]), list(boxes[number])
            first[axis], second[axis] = slice(one.start, at), slice(at, one.stop)
            boxes[number : number + 1] = [tuple(first), tuple(second)]
    draw.shuffle(boxes)
    return boxes


@pytest.mark.parametrize("seed", range(20))
def test_boxes_are_put_together(seed):
    draw = random.Random(seed)
    shape = tuple(draw.randrange(1, 7) for _ in range(draw.randrange(1, 5)))
    whole = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    boxes, loads = cut(shape, 8, draw), []

    def load(number):
        loads.append(number)
        return whole[boxes[number]].copy()

    made = Boxes(shape, boxes, load)
    step = draw.randrange(1, 9)
    found = [made.read(begin, min(whole.size, begin + step)) for begin in range(0, whole.size, step)]
    assert np.concatenate(found).tolist() == whole.reshape(-1).tolist()
    assert sorted(loads) == list(range(len(boxes)))  # each once
    for begin, end in itertools.combinations(range(0, whole.size + 1, max(1, whole.size // 6)), 2):
        assert made.read(begin, end).tolist() == whole.reshape(-1)[begin:end].tolist()


def test_boxes_of_rows_are_in_memory_one_at_a_time():
    whole = np.arange(64, dtype=np.uint8).reshape(16, 4)
    boxes = [(slice(first, first + 2), slice(0, 4)) for first in range(0, 16, 2)]
    made = Boxes((16, 4), boxes, lambda number: whole[boxes[number]])
    for begin in range(0, 64, 4):
        made.read(begin, begin + 4)
        assert len(made._loaded) == 1


def test_boxes_that_do_not_make_up_a_tensor():
    def made(*boxes):
        return Boxes((4,), [(slice(*box),) for box in boxes], lambda number: np.zeros(boxes[number][1], np.uint8))

    with pytest.raises(ValueError, match=r"the box \[2:5\] leaves the tensor of shape \(4,\)"):
        made((0, 2), (2, 5))
    with pytest.raises(ValueError, match="boxes of 3 elements"):
        made((0, 2), (2, 3))
    with pytest.raises(ValueError, match="overlap and leave gaps"):
        made((0, 2), (0, 2)).read(0, 4)
    with pytest.raises(ValueError, match="leaves the tensor"):
        Boxes((4, 4), [(slice(0, 4),)], lambda number: np.zeros(4))


# Damage


class Hostile:
    """Its pickle makes a folder."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_pickles_are_not_run(tmp_path, suffix):
    marker, path = tmp_path / "it ran", tmp_path / f"hostile.{suffix}"
    array = np.array([Hostile(marker)], object)
    np.save(path, array) if suffix == "npy" else np.savez(path, a=array)
    with pytest.raises(ValueError, match=rf"hostile\.{suffix}.* its dtype is '|O'"):
        read_checkpoint(path)
    assert not marker.exists()
    found = np.load(path, allow_pickle=True)  # it would have
    assert (found if suffix == "npy" else found["a"]) is not None
    assert marker.exists()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array(["text"]), "its dtype is '<U4': only numbers are read"),
        (np.zeros(3, [("a", "i4")]), "only numbers"),
        (np.zeros(3, "V2"), "only numbers"),
        (np.zeros(3, "M8[s]"), "only numbers"),
        (np.zeros(3, np.complex128), "unknown dtype 'complex128'"),
        (np.zeros(3, np.longdouble), "unknown dtype"),
    ],
)
def test_arrays_that_are_no_tensors(tmp_path, array, said):
    np.savez(tmp_path / "odd.npz", b=np.zeros(2), a=array)
    with pytest.raises(ValueError, match="odd.npz: 'a.npy' cannot be read: .*" + said):
        read_checkpoint(tmp_path / "odd.npz")


def test_other_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1]))
    with pytest.raises(ValueError, match=r"model.pt: 'archive/data.pkl' cannot be read: it is no .npy file"):
        read_checkpoint(tmp_path / "model.pt")
    data = io.BytesIO()
    np.save(data, np.zeros(3))
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for _ in range(2):
            archive.writestr("a.npy", data.getvalue())
    with pytest.raises(ValueError, match="holds two tensors called 'a'"):
        read_checkpoint(tmp_path / "twice.npz")
    with zipfile.ZipFile(tmp_path / "packed.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", data.getvalue())
    with pytest.raises(ValueError, match="compressed in another way"):
        read_checkpoint(tmp_path / "packed.npz")


HEADERS = [
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3.0,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }",
    f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**62},), }}",
    f"{{'descr': '<f4', 'fortran_order': False, 'shape': {'(' * 2000}3{',)' * 2000}, }}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'more': 1}",
    "__import__('os').mkdir('it ran')",
    "",
]


@pytest.mark.parametrize("header", HEADERS)
def test_damaged_headers_of_arrays(tmp_path, header):
    head = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode()
    (tmp_path / "a.npy").write_bytes(head + bytes(12))
    with pytest.raises(ValueError, match=r"a\.npy"):
        read_checkpoint(tmp_path / "a.npy")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_any_damage_is_a_value_or_an_error(tmp_path, save):
    """Every byte is changed and the file is cut everywhere: nothing but ValueError, and pieces of the right size."""
    path = tmp_path / "a.npz"
    save(path, a=np.arange(9, dtype=np.int16), b=np.asfortranarray(np.ones((2, 3), np.float32)))
    whole = path.read_bytes()
    changed = ((place, bit) for place in range(len(whole)) for bit in (0, 7))
    refused = 0
    for place, bit in changed:
        data = bytearray(whole)
        data[place] ^= 1 << bit
        refused += not _is_readable(path, bytes(data))
    assert refused > 100
    for length in range(len(whole)):
        assert not _is_readable(path, whole[:length])


def _is_readable(path, data):
    path.write_bytes(data)
    try:
        with read_checkpoint(path) as found:
            for stored in found:
                assert found.read(stored.name).size == stored.nbytes
                found.read(stored.name, stored.nbytes // 2)
    except ValueError as problem:
        assert path.name in str(problem)
        return False
    return True


def test_a_wrong_checksum_of_a_compressed_array(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.arange(1000))
    with zipfile.ZipFile(path) as archive:
        (member,) = archive.infolist()
    data = bytearray(path.read_bytes())
    for place in (member.header_offset + 14, data.rindex(b"PK\1\2") + 16):
        data[place] ^= 255
    path.write_bytes(data)
    with read_checkpoint(path) as found, pytest.raises(ValueError, match=r"a\.npz: 'a' cannot be read: .*Bad CRC"):
        found.read("a")


MEMORY = """
import sys
import numpy as np
from fastinit.checkpoints import read_checkpoint, verify, Plan
from fastinit import Entry, Normal, Key
from fastinit.checkpoints import Filled, Tensor, statistics, diff, write

def plan(rows):
    entry = Entry("w", (rows, 1024), "given", Normal(), Key(0), dtype="float32")
    return Plan((Tensor("w", Filled(entry)),))

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

folder = sys.argv[1]
def run(rows):
    write(plan(rows), f"{folder}/{rows}.npz")
    with np.load(f"{folder}/{rows}.npz") as found:
        pass
    assert verify(f"{folder}/{rows}.npz", plan(rows)).is_sound
    list(statistics(f"{folder}/{rows}.npz"))
    assert diff(f"{folder}/{rows}.npz", f"{folder}/{rows}.npz")[0].verdict == "equal"

run(4096)
before = peak()
run(98_304)
print(plan(98_304).nbytes, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded(run_python, tmp_path):
    done = run_python(MEMORY, str(tmp_path), timeout=240)
    assert done.returncode == 0, done.stderr
    size, taken = map(int, done.stdout.split())
    assert size > 400e6
    assert taken < 150e6
