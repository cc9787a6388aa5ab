"""Folders of torch.distributed.checkpoint as checkpoints: verified, compared, shown, and taken as templates."""

import math
import os
import pickle
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
dcp = pytest.importorskip("torch.distributed.checkpoint", exc_type=ImportError)

from torch import nn  # noqa: E402
from torch.distributed.checkpoint.filesystem import _StorageInfo  # noqa: E402
from torch.distributed.checkpoint.metadata import (  # noqa: E402
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch import InitPlanner, Virtual, deferred, plan, save  # noqa: E402
from fastinit.checkpoints import (  # noqa: E402
    Filled,
    Origin,
    Plan,
    Tensor,
    Values,
    diff,
    export,
    plan_of,
    read_checkpoint,
    statistics,
    verify,
    write,
)
from fastinit.cli import main  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


def entry(name, shape, initializer, dtype="float32"):
    return fastinit.Entry(name, shape, "given", initializer, fastinit.Key(7).fold_in(name), dtype=dtype)


def small_plan():
    """Every kind of source and of dtype, names with slashes, no elements, no axes."""
    experts = entry("experts", (4, 10, 6), fastinit.Normal(std=0.02), "bfloat16")
    return Plan(
        (
            Tensor("up/weight", Filled(entry("up/weight", (37, 53), fastinit.he_normal(layout="OI")))),
            Tensor("mix", Filled(entry("mix", (16, 16), fastinit.Orthogonal(), "float16"))),
            *(Tensor(f"experts.{n}", Filled(experts, (n, 2, 0), (1, 5, 6), (0, 2, 1), (0,))) for n in range(4)),
            Tensor("table", Values("int64", (7, 11), np.arange(77).tobytes())),
            Tensor("flag", Values("bool", (), b"\1")),
            Tensor("none", Filled(entry("none", (0, 5), fastinit.Normal()))),
            Tensor("eight", Filled(entry("eight", (9, 5), fastinit.Normal(std=0.5), "float8_e4m3fn"))),
            Tensor("five", Filled(entry("five", (9, 5), fastinit.Normal(std=0.5), "float8_e5m2"))),
            Tensor("long", Filled(entry("long", (1, 1, 300), fastinit.Uniform(-1, 1), "float64"))),
        ),
        seed=3,
        files={"config.json": "{}\n"},
    )


def bytes_of(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@pytest.mark.parametrize("largest", [60, 1000, 2**26])
@pytest.mark.parametrize("piece", [None, 16])
def test_verified_without_further_arguments(tmp_path, monkeypatch, largest, piece):
    from fastinit.adapters.torch.folders import Folder

    if piece is not None:
        monkeypatch.setattr(Folder, "PIECE", piece)
    plan = small_plan()
    save(plan, tmp_path / "out", largest=largest)
    assert {row.verdict for row in verify(tmp_path / "out")} == {"equal"}
    assert len(verify(tmp_path / "out")) == len(plan)
    write(plan, tmp_path / "b.safetensors")
    assert {row.verdict for row in diff(tmp_path / "out", tmp_path / "b.safetensors")} == {"equal"}
    ours, theirs = ({one.stored.name: one for one in statistics(tmp_path / p)} for p in ("out", "b.safetensors"))
    assert set(ours) == set(theirs)
    for name, one in ours.items():
        assert one.expected_std == theirs[name].expected_std
        if piece is None:
            np.testing.assert_equal(
                (one.mean, one.std, one.low), (theirs[name].mean, theirs[name].std, theirs[name].low)
            )


def test_a_changed_bit_is_seen(tmp_path):
    plan = small_plan()
    save(plan, tmp_path / "out", largest=60)
    size = math.prod((37, 53)) * 4
    with read_checkpoint(tmp_path / "out") as found:
        data = found.read("up/weight", size - 60).tobytes()
    (changed,) = [path for path in (tmp_path / "out").glob("*.distcp") if data[-20:] in path.read_bytes()]
    text = bytearray(changed.read_bytes())
    text[text.index(data[-20:]) + 7] ^= 1
    changed.write_bytes(text)
    (row,) = [row for row in verify(tmp_path / "out") if not row.is_sound]
    assert row.name == "up/weight"
    place = (size - 20 + 7) // 4
    assert f"from {place:,} to {place:,}" in row.detail
    assert [one.name for one in diff(tmp_path / "out", tmp_path / "out") if one.verdict != "equal"] == []


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small_plan().save("plan.json")
    assert main(["checkpoint", "plan.json", "out", "--format", "dcp"]) == 0
    assert main(["verify", "out"]) == 0
    assert "12 tensors: 12 equal" in capsys.readouterr().out
    assert main(["show", "out"]) == 0
    assert "up/weight" in capsys.readouterr().out
    assert main(["checkpoint", "out", "again"]) == 0  # by its own plan
    assert main(["diff", "out", "again"]) == 0
    assert (tmp_path / "again/config.json").read_text() == "{}\n"
    rules = ["--rule", "*=zeros", "--rule", "up*=normal:0.02"]
    assert main(["checkpoint", "out", "filled", *rules]) == 0
    assert main(["verify", "filled"]) == 0


def test_the_own_reader_does_not_see_the_plan(tmp_path):
    plan = small_plan()
    save(plan, tmp_path / "out")
    metadata = dcp.FileSystemReader(tmp_path / "out").read_metadata()
    assert set(metadata.state_dict_metadata) == {tensor.name for tensor in plan}


# Checkpoints of others


def test_the_tensors_of_a_state(tmp_path):
    state = {
        "model": {"weight": torch.ones(6, 4, dtype=torch.bfloat16).T, "steps": torch.tensor(3)},
        "epoch": 3,
    }
    dcp.save(state, checkpoint_id=tmp_path)
    with read_checkpoint(tmp_path) as found:
        assert sorted((one.name, one.shape, one.format.name) for one in found) == [
            ("model.steps", (), "int64"),
            ("model.weight", (4, 6), "bfloat16"),
        ]
        assert found.read("model.weight").tobytes() == bytes_of(state["model"]["weight"])
        assert found.plan is None
    rules = [("*", fastinit.Zeros()), ("*.weight", fastinit.Normal(std=0.02))]
    plan = plan_of(Origin(str(tmp_path), rules=rules))
    assert {tensor.name: tensor.format.name for tensor in plan} == {"model.weight": "bfloat16", "model.steps": "int64"}
    with pytest.raises(ValueError, match="carries no plan of fastinit"):
        verify(tmp_path)


class Tied(nn.Module):
    """A tensor under two names."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(13, 6)
        self.head = nn.Linear(6, 13, bias=False)
        self.head.weight = self.words.weight


def test_a_tensor_under_two_names(tmp_path):
    with deferred():
        model = Tied()
    whole = plan(model, seed=3, tied=True)
    dcp.save(model.state_dict(), checkpoint_id=tmp_path / "a", planner=InitPlanner(whole))
    found = verify(tmp_path / "a")
    assert {row.name: row.verdict for row in found} == {"words.weight": "equal", "head.weight": "equal"}
    # in a state dict of more than the model, and of a part of it
    state = {"model": {"head.weight": model.head.weight}, "epoch": 3}
    dcp.save(state, checkpoint_id=tmp_path / "b", planner=InitPlanner(whole, prefix="model."))
    assert {row.name: row.verdict for row in verify(tmp_path / "b")} == {"model.head.weight": "equal"}


MODULE = """
import torch
from torch import nn

class Sorted(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 5).cumsum(0).sort().values)

def model():
    return Sorted()
"""


def test_operators_run_in_a_process_that_has_not_imported_torch(tmp_path, monkeypatch, run_python):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sorted_model.py").write_text(MODULE)
    commands = [
        "checkpoint sorted_model:model a.safetensors",
        "verify a.safetensors",
        "checkpoint a.safetensors b --format dcp",
        "verify b",
    ]
    for command in commands:
        done = run_python("import sys\nfrom fastinit.cli import main\nsys.exit(main(sys.argv[1:]))", *command.split())
        assert done.returncode == 0, done.stderr
    assert "Replayed" in (tmp_path / "b/fastinit.json").read_text()
    virtual = "from fastinit.checkpoints import Virtual\nmade = Virtual('b/fastinit.json')\n"
    assert run_python(virtual + "print(*map(made.get_tensor, made))").returncode == 0


@pytest.mark.ranks(2)
def test_shards_of_ranks(rank, world):
    """Rows, columns, both, uneven ones, and copies, saved by two ranks and read by one process."""
    mesh = init_device_mesh("cpu", (world,))
    tensors = [Tensor(name, Filled(entry(name, (7, 5), fastinit.Normal(), "float32"))) for name in ("rows", "columns")]
    tensors.append(Tensor("cube", Filled(entry("cube", (3, 5, 4), fastinit.Normal(), "bfloat16"))))
    tensors.append(Tensor("copied", Filled(entry("copied", (3, 5), fastinit.Orthogonal(), "float16"))))
    whole = Plan(tuple(tensors))
    places = {"rows": [Shard(0)], "columns": [Shard(1)], "cube": [Shard(1)], "copied": [Replicate()]}
    state = {name: distribute_tensor(Virtual(whole).get_tensor(name), mesh, places[name]) for name in Virtual(whole)}
    if not isinstance(state["rows"], DTensor):
        yield "rows are not sharded"
    dcp.save(state, checkpoint_id="ranks")
    torch.distributed.barrier()
    if rank:
        return
    chunks = dcp.FileSystemReader("ranks").read_metadata().state_dict_metadata["columns"].chunks
    if len(chunks) != world:
        yield f"columns are in {len(chunks)} chunks"
    found = verify("ranks", whole)
    if [row.verdict for row in found] != ["equal"] * 4:
        yield str(found)
    with read_checkpoint("ranks") as checkpoint:
        for name in state:
            expected = bytes_of(Virtual(whole).get_tensor(name))
            step = checkpoint[name].format.bits // 8 * 3
            read = b"".join(
                checkpoint.read(name, at, min(at + step, len(expected))).tobytes()
                for at in range(0, len(expected), step)
            )
            if read != expected:
                yield f"{name} is read otherwise"


MEMORY = """
import sys
import fastinit
from fastinit.adapters.torch import save
from fastinit.checkpoints import Filled, Plan, Tensor, verify, statistics

def plan(count):
    def entry(n):
        return fastinit.Entry(f"w{n}", (8192, 1024), "given", fastinit.Normal(), fastinit.Key(n), dtype="float32")
    return Plan(tuple(Tensor(f"w{n}", Filled(entry(n))) for n in range(count)))

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

for count in (2, 16):
    before = peak()
    save(plan(count), f"{sys.argv[1]}/{count}", largest=2**25)
    assert verify(f"{sys.argv[1]}/{count}").is_sound
    list(statistics(f"{sys.argv[1]}/{count}"))
print(plan(count).nbytes, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded(run_python, tmp_path):
    done = run_python(MEMORY, str(tmp_path), timeout=240)
    assert done.returncode == 0, done.stderr
    size, taken = map(int, done.stdout.split())
    assert size > 500e6
    assert taken < 100e6


# Damage


class Hostile:
    """Its pickle makes a folder."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_pickle_that_would_run_code(tmp_path):
    marker = tmp_path / "it ran"
    data = pickle.dumps(Hostile(marker))
    (tmp_path / ".metadata").write_bytes(data)
    with pytest.raises(ValueError, match="mkdir does not belong in the metadata of a checkpoint"):
        read_checkpoint(tmp_path)
    assert not marker.exists()
    pickle.loads(data)  # it would have
    assert marker.exists()


def test_a_file_of_tensors_that_would_run_code(tmp_path):
    marker = tmp_path / "it ran"
    dcp.save({"a": torch.zeros(3)}, checkpoint_id=tmp_path / "out")
    metadata = dcp.FileSystemReader(tmp_path / "out").read_metadata()
    torch.save(Hostile(marker), tmp_path / "out/__0_0.distcp")
    (place,) = metadata.storage_data.values()
    place.length = os.path.getsize(tmp_path / "out/__0_0.distcp")
    (tmp_path / "out/.metadata").write_bytes(pickle.dumps(metadata))
    with read_checkpoint(tmp_path / "out") as found, pytest.raises(ValueError, match=r"out: 'a' cannot be read: "):
        found.read("a")
    assert not marker.exists()
    torch.load(tmp_path / "out/__0_0.distcp", weights_only=False)  # it would have
    assert marker.exists()


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps({"state_dict_metadata": 1}), pickle.dumps([1])[:-3]])
def test_what_is_no_metadata(tmp_path, data):
    (tmp_path / ".metadata").write_bytes(data)
    with pytest.raises(ValueError, match="is not the metadata of a DCP checkpoint"):
        read_checkpoint(tmp_path)


def metadata(shape=(4,), dtype=torch.float32, chunks=(((0,), (4,)),), file="a.distcp", place=(0, 16)):
    """The metadata of a checkpoint of one tensor."""
    kept = [ChunkStorageMetadata(torch.Size(first), torch.Size(size)) for first, size in chunks]
    tensor = TensorStorageMetadata(TensorProperties(dtype), torch.Size(shape), kept)
    stored = {MetadataIndex("a", torch.Size(first)): _StorageInfo(file, *place) for first, _ in chunks}
    return Metadata({"a": tensor}, storage_data=stored)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"file": "../other/a.distcp"}, "lies in its folder, got '../other/a.distcp'"),
        ({"file": "/etc/passwd"}, "lies in its folder, got '/etc/passwd'"),
        ({"file": "sub/../../x"}, "lies in its folder"),
        ({"file": ""}, "lies in its folder"),
        ({"file": 7}, "lies in its folder, got 7"),
        ({"place": (-1, 16)}, "end behind the 16 bytes"),
        ({"place": (0, 17)}, "end behind the 16 bytes"),
        ({"chunks": ()}, "boxes of 0 elements"),
        ({"chunks": (((0,), (3,)),)}, "boxes of 3 elements"),
        ({"chunks": (((1,), (4,)),)}, "leaves the tensor"),
        ({"chunks": (((0, 0), (4, 1)),)}, "leaves the tensor"),
        ({"dtype": torch.complex128}, "has the dtype torch.complex128"),
        ({"shape": (2**62,), "chunks": (((0,), (2**62,)),)}, "takes .* bytes, and has 16"),
    ],
)
def test_damaged_metadata(tmp_path, given, said):
    (tmp_path / "a.distcp").write_bytes(bytes(16))
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata(**given)))
    with pytest.raises(ValueError, match=rf"\.metadata is not the metadata of a DCP checkpoint: .*{said}"):
        read_checkpoint(tmp_path)


def test_chunks_that_overlap(tmp_path):
    dcp.save({"a": torch.zeros(2)}, checkpoint_id=tmp_path)
    own = dcp.FileSystemReader(tmp_path).read_metadata()
    (place,) = own.storage_data.values()
    made = metadata(
        (4,), chunks=(((0,), (2,)), ((1,), (2,))), file=place.relative_path, place=(place.offset, place.length)
    )
    (tmp_path / ".metadata").write_bytes(pickle.dumps(made))
    with read_checkpoint(tmp_path) as found, pytest.raises(ValueError, match=r"'a' cannot be read: .* overlap"):
        found.read("a")


def test_a_missing_file(tmp_path):
    save(small_plan(), tmp_path / "out", largest=1000)
    (tmp_path / "out/__0_3.distcp").unlink()
    with pytest.raises(FileNotFoundError, match="__0_3"):
        verify(tmp_path / "out")


def test_any_damage_is_a_value_or_an_error(tmp_path):
    """Bytes of the metadata are changed: nothing but errors with the path."""
    save(Plan((Tensor("w", Filled(entry("w", (4, 3), fastinit.Normal()))),)), tmp_path)
    whole = (tmp_path / ".metadata").read_bytes()
    refused = 0
    for place in range(len(whole)):
        for change in (1, 128):
            data = bytearray(whole)
            data[place] ^= change
            (tmp_path / ".metadata").write_bytes(data)
            try:
                with read_checkpoint(tmp_path) as found:
                    for stored in found:
                        assert found.read(stored.name).size == stored.nbytes
            except ValueError as problem:
                assert str(tmp_path) in str(problem)
                refused += 1
            except FileNotFoundError:
                refused += 1
    assert refused > len(whole) / 2


def test_exported_again_where_a_plan_is(tmp_path):
    export(small_plan(), tmp_path / "out", "dcp")
    export(Plan(small_plan().tensors[:2]), tmp_path / "out", "dcp", overwrite=True)
    assert [row.verdict for row in verify(tmp_path / "out")] == ["equal", "equal"]
