"""Files of HDF5 as checkpoints: read in pieces, without Keras, and nothing but what the file holds itself."""

import random
import sys

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")
pytest.importorskip("ml_dtypes")

import fastinit  # noqa: E402
from fastinit.adapters.h5py import File, save  # noqa: E402
from fastinit.checkpoints import Filled, Plan, Tensor, Values, diff, read_checkpoint, verify, write  # noqa: E402
from fastinit.cli import main  # noqa: E402


def entry(name, shape, initializer, dtype="float32"):
    return fastinit.Entry(name, shape, "given", initializer, fastinit.Key(7).fold_in(name), dtype=dtype)


def small_plan():
    """Every kind of source and of dtype that such a file holds."""
    experts = entry("experts", (4, 10, 6), fastinit.Normal(std=0.02), "bfloat16")
    return Plan(
        (
            Tensor("layers/up/vars/0", Filled(entry("up", (37, 53), fastinit.he_normal(layout="OI")))),
            Tensor("layers/mix/vars/0", Filled(entry("mix", (16, 16), fastinit.Orthogonal(), "float16"))),
            *(Tensor(f"e/vars/{n}", Filled(experts, (n, 2, 0), (1, 5, 6), (0, 2, 1), (0,))) for n in range(4)),
            Tensor("vars/table", Values("int64", (7, 11), np.arange(77).tobytes())),
            Tensor("vars/flag", Values("bool", (), b"\1")),
            Tensor("vars/none", Filled(entry("none", (0, 5), fastinit.Normal()))),
            Tensor("vars/long", Filled(entry("long", (1, 1, 300), fastinit.Uniform(-1, 1), "float64"))),
        ),
        seed=3,
        metadata={"format": "keras"},
    )


@pytest.mark.parametrize("piece", [None, 16])
def test_verified_without_further_arguments(tmp_path, monkeypatch, piece):
    if piece is not None:
        monkeypatch.setattr(File, "PIECE", piece)
    plan = small_plan()
    save(plan, tmp_path / "out.weights.h5", largest=100)
    assert {row.verdict for row in verify(tmp_path / "out.weights.h5")} == {"equal"}
    assert len(verify(tmp_path / "out.weights.h5")) == len(plan)
    write(plan, tmp_path / "b.safetensors")
    assert {row.verdict for row in diff(tmp_path / "out.weights.h5", tmp_path / "b.safetensors")} == {"equal"}
    with h5py.File(tmp_path / "out.weights.h5", "r+") as file:
        file["layers/up/vars/0"][3, 5] += 1
    (row,) = [row for row in verify(tmp_path / "out.weights.h5") if not row.is_sound]
    assert (row.name, row.verdict) == ("layers/up/vars/0", "damaged")
    assert "from 164 to 164" in row.detail
    assert read_checkpoint(tmp_path / "out.weights.h5").plan.metadata == {"format": "keras"}


ALONE = """
import sys
from fastinit.cli import main
for arguments in ("checkpoint plan.json out.weights.h5", "verify out.weights.h5", "show out.weights.h5"):
    assert main(arguments.split()) == 0, arguments
print(sorted({"keras", "torch", "tensorflow", "jax"} & set(sys.modules)))
"""


def test_without_keras(tmp_path, monkeypatch, run_python):
    monkeypatch.chdir(tmp_path)
    small_plan().save("plan.json")
    done = run_python(ALONE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert main(["diff", "out.weights.h5", "out.weights.h5"]) == 0


def test_other_layouts_of_hdf5(tmp_path):
    arrays = {
        "packed": np.arange(600, dtype=np.float32).reshape(20, 30),
        "swapped": np.arange(12, dtype=">i4").reshape(4, 3),
        "compact": np.float16(3),
    }
    path = tmp_path / "odd"
    with h5py.File(path, "w", userblock_size=1024) as file:  # it does not begin with the signature of HDF5
        file.create_dataset("packed", data=arrays["packed"], chunks=(7, 4), compression="gzip", shuffle=True)
        file["swapped"] = arrays["swapped"]
        file["deep/er/compact"] = arrays["compact"]
        file["other/name"] = file["swapped"]
    with read_checkpoint(path) as found:
        assert {one.name: (one.shape, one.format.name) for one in found} == {
            "packed": ((20, 30), "float32"),
            "swapped": ((4, 3), "int32"),
            "deep/er/compact": ((), "float16"),
            "other/name": ((4, 3), "int32"),
        }
        for begin in (0, 100, 52, 2396):
            assert found.read("packed", begin, begin + 4).tobytes() == arrays["packed"].tobytes()[begin : begin + 4]
        assert found.read("packed", 40, 2000).tobytes() == arrays["packed"].tobytes()[40:2000]
        assert found.read("other/name").tobytes() == np.arange(12, dtype="<i4").tobytes()


def test_what_is_not_in_the_file_is_refused(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["a"] = np.arange(3)
    (tmp_path / "raw").write_bytes(bytes(64))
    layout = h5py.VirtualLayout((3,), np.int64)
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "a", (3,))

    def refused(make, said):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            make(file)
        with pytest.raises(ValueError, match=rf"a\.h5 is no weight file: .*{said}"):
            read_checkpoint(tmp_path / "a.h5")

    refused(lambda file: file.__setitem__("a", h5py.ExternalLink("secret.h5", "a")), "'a' is a link")
    refused(lambda file: file.__setitem__("a", h5py.SoftLink("/b")), "'a' is a link")
    refused(lambda file: file.create_virtual_dataset("a", layout), "'a' is in other files")
    external = [(str(tmp_path / "raw"), 0, 64)]
    refused(lambda file: file.create_dataset("a", (8,), np.int64, external=external), "'a' is in other files")
    refused(lambda file: file.create_group("a").__setitem__("b", file["a"]), "'a/b/' is there twice")
    refused(lambda file: file.__setitem__("a", "text"), "only numbers are read")
    refused(lambda file: file.__setitem__("a", np.zeros(3, "V2")), "only numbers are read")
    refused(lambda file: file.__setitem__("a", h5py.Empty("f4")), "only numbers are read")
    refused(lambda file: file.__setitem__("a", np.zeros(2, [("x", "f4")])), "only numbers are read")


def test_plans_that_are_none(tmp_path):
    for number, data in enumerate(
        (np.zeros(3), np.zeros((2, 2), np.uint8), np.frombuffer(b"\xff\xfe", np.uint8), np.frombuffer(b"{}", np.uint8))
    ):
        path = tmp_path / f"{number}.h5"
        with h5py.File(path, "w") as file:
            file["fastinit.json"] = data
        with pytest.raises(ValueError, match=rf"{number}\.h5.* no.* plan"):
            verify(path)


def test_any_damage_is_a_value_or_an_error(tmp_path):
    path = tmp_path / "a.weights.h5"
    save(Plan((Tensor("vars/0", Filled(entry("a", (4, 3), fastinit.Normal()))),)), path)
    whole = path.read_bytes()
    draw, refused = random.Random(0), 0
    for _ in range(1500):
        data = bytearray(whole)
        place = draw.randrange(len(data))
        data[place : place + 4] = draw.randbytes(4)[: len(data) - place]
        refused += not is_readable(path, bytes(data))
    assert refused > 50
    for length in range(8, len(whole), 7):
        assert not is_readable(path, whole[:length])


def is_readable(path, data):
    path.write_bytes(data)
    try:
        with read_checkpoint(path) as found:
            found.carried()
            for stored in found:
                if stored.nbytes < 2**20:
                    assert found.read(stored.name).size == stored.nbytes
    except ValueError as problem:
        assert path.name in str(problem)
        return False
    return True


MEMORY = """
import sys
import fastinit
from fastinit.adapters.h5py import save
from fastinit.checkpoints import Filled, Plan, Tensor, verify, statistics

def plan(rows):
    entry = fastinit.Entry("w", (rows, 1024), "given", fastinit.Normal(), fastinit.Key(0), dtype="float32")
    return Plan((Tensor("vars/0", Filled(entry)),))

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

for rows in (8192, 122_880):
    before, path = peak(), f"{sys.argv[1]}/{rows}.weights.h5"
    save(plan(rows), path)
    assert verify(path).is_sound
    list(statistics(path))
print(plan(rows).nbytes, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded(run_python, tmp_path):
    done = run_python(MEMORY, str(tmp_path), timeout=240)
    assert done.returncode == 0, done.stderr
    size, taken = map(int, done.stdout.split())
    assert size > 500e6
    assert taken < 60e6
