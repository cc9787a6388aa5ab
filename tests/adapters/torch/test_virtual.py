"""Checkpoints that are computed where torch reads or saves them, on one process and on several ranks."""

import math
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
dcp = pytest.importorskip("torch.distributed.checkpoint", exc_type=ImportError)
pytest.importorskip("torch.distributed.fsdp", exc_type=ImportError)

import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch import InitPlanner, Virtual, deferred, materialize, plan, save  # noqa: E402
from fastinit.checkpoints import Filled, Plan, Tensor, Values, export, verify, write  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


def entry(name, shape, initializer, dtype="float32"):
    return fastinit.Entry(name, shape, "given", initializer, fastinit.Key(7).fold_in(name), dtype=dtype)


def small_plan():
    """Every kind of source and of dtype."""
    experts = entry("experts", (4, 10, 6), fastinit.Normal(std=0.02), "bfloat16")
    return Plan(
        (
            Tensor("up.weight", Filled(entry("up.weight", (37, 53), fastinit.he_normal(layout="OI")))),
            Tensor("mix", Filled(entry("mix", (16, 16), fastinit.Orthogonal(), "float16"))),
            *(Tensor(f"experts.{n}", Filled(experts, (n, 2, 0), (1, 5, 6), (0, 2, 1), (0,))) for n in range(4)),
            Tensor("table", Values("int64", (7, 11), np.arange(77).tobytes())),
            Tensor("flag", Values("bool", (), b"\1")),
            Tensor("none", Filled(entry("none", (0, 5), fastinit.Normal()))),
            Tensor("eight", Filled(entry("eight", (9, 5), fastinit.Normal(std=0.5), "float8_e4m3fn"))),
            Tensor("long", Filled(entry("long", (1, 1, 300), fastinit.Uniform(-1, 1), "float64"))),
        )
    )


def loaded(plan, folder):
    """What torch's loader reads, into memory that held something else."""
    state = {}
    for tensor in plan:
        empty = torch.empty(tensor.shape, dtype=getattr(torch, tensor.format.name))
        empty.view(-1).view(torch.uint8).fill_(93) if empty.numel() else None
        state[tensor.name] = empty
    with warnings.catch_warnings(action="ignore"):
        dcp.load(state, checkpoint_id=folder, no_dist=True)
    return state


def equal(found, expected):
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    bits = (one.contiguous().view(-1).view(torch.uint8) for one in (found, expected))
    return torch.equal(*bits) if found.numel() else True


# Of one process


@pytest.mark.parametrize("largest", [60, 1000, 2**26])
def test_torchs_loader_reads_every_value(tmp_path, largest):
    plan, done = small_plan(), []
    save(plan, tmp_path / "out", largest=largest, advance=done.append)
    assert sum(done) == plan.nbytes
    computed = Virtual(plan)
    for name, tensor in loaded(plan, tmp_path / "out").items():
        assert equal(tensor, computed.get_tensor(name)), name
    weight = plan.tensors[0].source.entry
    values = loaded(plan, tmp_path / "out")["up.weight"].reshape(-1)
    for index in (0, 53, 1960):
        assert values[index] == fastinit.sample(weight.key, index, weight.initializer, shape=weight.shape)
    if largest == 1000:
        sizes = [
            math.prod(chunk.sizes)
            for chunk in dcp.FileSystemReader(tmp_path / "out").read_metadata().state_dict_metadata["up.weight"].chunks
        ]
        assert max(sizes) <= 250
        assert sum(sizes) == 37 * 53


def test_the_file_of_safetensors_has_the_same_values(tmp_path):
    files = pytest.importorskip("safetensors.torch")
    plan = small_plan()
    save(plan, tmp_path / "out")
    write(plan, tmp_path / "out.safetensors")
    state = loaded(plan, tmp_path / "out")
    for name, tensor in files.load_file(tmp_path / "out.safetensors").items():
        assert equal(tensor, state[name]), name


def test_what_torch_lacks_is_refused_before_anything_is_written(tmp_path):
    packed = Plan((Tensor("w", Values("float6_e2m3fn", (4,), bytes(3))),))
    with pytest.raises(TypeError, match="'w' has the dtype float6_e2m3fn, which torch lacks"):
        save(packed, tmp_path / "out")
    unknown = Plan((Tensor("w", Values("int8", (4,), None, "0" * 64)),))
    with pytest.raises(ValueError, match="'w': only the digest"):
        save(unknown, tmp_path / "out")
    with pytest.raises(ValueError, match="largest must be at least 1, got 0"):
        save(small_plan(), tmp_path / "out", largest=0)
    assert not os.listdir(tmp_path)


def test_a_folder_with_a_checkpoint_is_refused(tmp_path):
    save(small_plan(), tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(FileExistsError, match="holds a checkpoint"):
        save(Plan(()), tmp_path)
    assert sorted(os.listdir(tmp_path)) == before


MEMORY = """
import sys
import fastinit
from fastinit.adapters.torch import save
from fastinit.checkpoints import Filled, Plan, Tensor

def plan(rows):
    entry = fastinit.Entry("w", (rows, 1024), "given", fastinit.Normal(), fastinit.Key(0), dtype="float32")
    return Plan((Tensor("w", Filled(entry)), Tensor("v", Filled(entry))))

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

save(plan(4096), sys.argv[1] + "/first", largest=2**25)
before = peak()
save(plan(61_440), sys.argv[1] + "/second", largest=2**25)
print(plan(61_440).nbytes, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded(run_python, tmp_path):
    done = run_python(MEMORY, str(tmp_path), timeout=240)
    assert done.returncode == 0, done.stderr
    size, taken = map(int, done.stdout.split())
    assert size > 500e6
    assert taken < 120e6


# The command, complete or not at all


def test_exported_complete_or_not_at_all(tmp_path, monkeypatch):
    plan, out = small_plan(), tmp_path / "out"
    written = export(plan, out, "dcp", progress=False)
    assert set(written.files) == set(os.listdir(out))
    assert written.is_complete
    before = sorted(os.listdir(out))
    with pytest.raises(FileExistsError, match="overwrite"):
        export(plan, out, "dcp")
    other = Plan(plan.tensors[:2])
    with monkeypatch.context() as full:  # a disk that is full in the middle

        def fail(descriptor):
            raise OSError(28, "No space left on device")

        full.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            export(other, out, "dcp", overwrite=True)
    assert sorted(os.listdir(out)) == before
    assert os.listdir(tmp_path) == ["out"]
    assert export(other, out, "dcp", overwrite=True).files == (
        *(".metadata", "__0_0.distcp", "__0_1.distcp", "fastinit.json"),
    )
    assert os.listdir(tmp_path) == ["out"]
    assert set(loaded(other, out)) == {"up.weight", "mix"}
    (out / "notes.txt").write_text("mine")
    export(plan, out, "dcp", overwrite=True)
    assert set(os.listdir(out)) == {*before, "notes.txt"}
    assert set(loaded(plan, out)) == {tensor.name for tensor in plan}


def test_targets_that_are_refused(tmp_path):
    plan = small_plan()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="name of a folder"):
        export(plan, tmp_path / "file", "dcp", overwrite=True)
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        export(plan, tmp_path / "none" / "out", "dcp")
    with pytest.raises(ValueError, match=r"format must be one of .*dcp.*, got 'tar'"):
        export(plan, tmp_path / "out", "tar")
    huge = Plan((Tensor("w", Filled(entry("w", (2**40, 2**10), fastinit.Normal()))),))
    with pytest.raises(OSError, match="the disk has"):
        export(huge, tmp_path / "out", "dcp")
    assert os.listdir(tmp_path) == ["file"]


def test_another_format_is_not_mixed_in(tmp_path):
    plan, out = small_plan(), tmp_path / "out"
    export(plan, out, "dcp")
    before = sorted(os.listdir(out))
    with pytest.raises(FileExistsError, match=r"it holds \.metadata, a checkpoint of another format"):
        write(plan, out, overwrite=True)
    write(plan, tmp_path / "other")
    with pytest.raises(FileExistsError, match=r"it holds model\.safetensors, a checkpoint of another format"):
        export(plan, tmp_path / "other", "dcp", overwrite=True)
    assert sorted(os.listdir(out)) == before
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]


FULL = """
import os, sys
from fastinit.checkpoints import exporting
from fastinit.cli import main
exporting.check_room = lambda *_: None  # another program takes the room after the check
with open(sys.argv[2] + "/other", "wb") as other:
    other.write(bytes(8 * 2**20))
print(main(["checkpoint", sys.argv[1], sys.argv[2] + "/out", "--format", "dcp"]), os.listdir(sys.argv[2]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mount namespaces")
def test_a_disk_that_fills_while_it_is_written(tmp_path):
    disk, program = tmp_path / "disk", [sys.executable, "-c", FULL, str(tmp_path / "plan.json")]
    disk.mkdir()
    Plan((Tensor("w", Filled(entry("w", (1024, 4096), fastinit.Normal()))),)).save(tmp_path / "plan.json")
    mount = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=16m none "$0" && exec "$@"', str(disk)]
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    done = subprocess.run([*mount, *program, str(disk)], capture_output=True, text=True, check=False)
    assert done.stdout == "2 ['other']\n"
    assert f"{disk}/out: the library of dcp could not write it" in done.stderr
    assert "Traceback" not in done.stderr


KILLED = """
import os, signal, sys
from fastinit.checkpoints import Plan, export
real = os.rename

def rename(old, new):
    if str(new).startswith(sys.argv[2] + os.sep):  # the first of the new files is about to take its place
        os.kill(os.getpid(), signal.SIGKILL)
    real(old, new)

os.rename = rename
export(Plan.load(sys.argv[1]), sys.argv[2], "dcp", overwrite=True)
"""


def test_what_a_killed_run_left_is_brought_back(tmp_path, run_python):
    plan, out = small_plan(), tmp_path / "out"
    export(plan, out, "dcp")
    before = sorted(os.listdir(out))
    Plan(plan.tensors[:2]).save(tmp_path / "plan.json")
    assert run_python(KILLED, str(tmp_path / "plan.json"), str(out), timeout=240).returncode == -9
    assert not os.listdir(out)
    with pytest.raises(FileExistsError, match=r"it holds \.metadata: overwrite"):
        export(plan, out, "dcp")
    assert sorted(os.listdir(out)) == before
    assert set(loaded(plan, out)) == {tensor.name for tensor in plan}
    assert sorted(os.listdir(tmp_path)) == ["out", "plan.json"]


WAITING = """
import sys
from fastinit.adapters.torch import virtual
from fastinit.checkpoints import Plan, export
real = virtual.save

def save(*arguments, **options):
    print("begun", flush=True)
    sys.stdin.readline()
    real(*arguments, **options)

virtual.save = save
export(Plan.load(sys.argv[1]), sys.argv[2], "dcp")
"""


def test_another_process_that_writes_the_same(tmp_path):
    pytest.importorskip("fcntl")
    plan, out = small_plan(), tmp_path / "out"
    plan.save(tmp_path / "plan.json")
    command = [sys.executable, "-c", WAITING, str(tmp_path / "plan.json"), str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "begun\n"
        with pytest.raises(BlockingIOError, match="another process is writing it"):
            export(plan, out, "dcp")
        other.communicate("\n")
    assert other.returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["out", "plan.json"]
    assert verify(out).is_sound


# Of many ranks


class Model(nn.Module):
    """Sizes that no number of ranks divides, an orthogonal matrix, buffers, a tie."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(53, 6)
        self.mlp = nn.Sequential(nn.Linear(6, 17), nn.BatchNorm1d(17), nn.Linear(17, 6))
        self.head = nn.Linear(6, 53, bias=False)
        self.head.weight = self.words.weight
        nn.init.orthogonal_(self.mlp[2].weight)


def on_meta():
    with deferred():
        return Model()


def planned(model):
    return plan(model, seed=3, tied=True)


def different(state, expected):
    for name, tensor in expected.items():
        found = state[name].full_tensor() if isinstance(state[name], DTensor) else state[name]
        if found.dtype != tensor.dtype or not torch.equal(found, tensor):
            yield f"{name}: {found} is not {tensor}"


@pytest.mark.ranks(2, 4)
def test_each_rank_saves_its_shards(rank, world):
    model = on_meta()
    whole = planned(model)
    values = {name: Virtual(whole).get_tensor(name) for name in Virtual(whole)}
    mesh = init_device_mesh("cpu", (world,))
    fully_shard(model.mlp, mesh=mesh)
    fully_shard(model, mesh=mesh)
    done = []
    for prefix, largest in (("", None), ("model.", 100)):
        folder = f"saved-{world}-{largest}"
        state = model.state_dict()
        given = {"model": state} if prefix else state
        planner = InitPlanner(whole, prefix=prefix, largest=largest, advance=done.append)
        dcp.save(given, checkpoint_id=folder, planner=planner)
        if not all(tensor.is_meta for tensor in model.parameters()):
            yield "saving has given the model memory"
        dist.barrier()
        if rank == 0 and not (verified := verify(folder)).is_sound:
            yield f"{verified} in {folder}"
        # another mesh: half of the ranks
        half = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("copies", "shards"))
        with torch.device("meta"):
            other = Model()
        fully_shard(other, mesh=half)
        other.to_empty(device="cpu")
        for tensor in (*other.parameters(), *other.buffers()):
            (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach().fill_(7)
        found = other.state_dict()
        dcp.load({"model": found} if prefix else found, checkpoint_id=folder)
        yield from different(found, values)
        # one process
        alone = {name: torch.full_like(tensor, 7) for name, tensor in values.items()}
        with warnings.catch_warnings(action="ignore"):
            dcp.load({"model": alone} if prefix else alone, checkpoint_id=folder, no_dist=True)
        yield from different(alone, values)
    total = torch.tensor(sum(done))
    dist.all_reduce(total)
    size = 2 * sum(tensor.nbytes for tensor in whole)
    if total != size:
        yield f"{total} bytes were computed for two checkpoints of {size}"
    if rank and sum(done) > 0.8 * size:
        yield f"this rank computed {sum(done)} of {size} bytes"


@pytest.mark.ranks(2, 4)
def test_what_the_plan_does_not_say_is_refused(rank, world):
    mesh = init_device_mesh("cpu", (world,))
    whole = planned(on_meta())
    cases = (
        ("name", {"more": torch.empty(3, device="meta")}, "the plan has no tensor 'more'"),
        ("shape", {"mlp.0.bias": torch.empty(18, device="meta")}, "has the shape (18,)"),
        ("dtype", {"mlp.0.bias": torch.empty(17, device="meta", dtype=torch.float64)}, "torch.float64, planned"),
    )
    for case, given, expected in cases:
        model = on_meta()
        fully_shard(model, mesh=mesh)
        state = {"words.weight": model.state_dict()["words.weight"]} | given
        folder = f"refused-{case}-{world}"
        try:
            dcp.save(state, checkpoint_id=folder, planner=InitPlanner(whole))
            yield f"a wrong {case} was saved"
        except dcp.api.CheckpointException as problem:
            if expected not in str(problem):
                yield f"{expected} is not in {problem}"
        dist.barrier()
        if os.path.isdir(folder) and os.listdir(folder):
            yield f"{os.listdir(folder)} was written"


def test_errors_of_one_process(tmp_path):
    model = on_meta()
    planner = InitPlanner(planned(model))
    with pytest.raises(dcp.api.CheckpointException, match=r"'words.weight' has the shape \(53, 6\) and torch.float64"):
        dcp.save(model.double().state_dict(), checkpoint_id=tmp_path / "out", planner=planner)
    with pytest.raises(dcp.api.CheckpointException, match=r"the plan has no tensor 'model\.words"):
        dcp.save({"model": model.state_dict()}, checkpoint_id=tmp_path / "out", planner=planner)
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")


def test_what_is_no_tensor_is_saved_as_it_is(tmp_path):
    model = on_meta()
    whole = planned(model)
    dcp.save({**model.state_dict(), "step": 17}, checkpoint_id=tmp_path, planner=InitPlanner(whole))
    found = {"step": 0, "mlp.0.bias": torch.zeros(17)}
    dcp.load(found, checkpoint_id=tmp_path)
    assert found["step"] == 17
    assert torch.equal(found["mlp.0.bias"], Virtual(whole).get_tensor("mlp.0.bias"))


# transformers and accelerate


SIZES = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}


def configuration(kind):
    transformers = pytest.importorskip("transformers")
    more = {"num_local_experts": 4, "num_experts_per_tok": 2} if kind == "Mixtral" else {}
    return getattr(transformers, f"{kind}Config")(**SIZES, **HEADS, **more), getattr(transformers, f"{kind}ForCausalLM")


@pytest.fixture
def described(tmp_path):
    """described(kind): a configuration, its class, and the plan of its checkpoint."""
    from fastinit.checkpoints import Origin, plan_of

    def make(kind):
        config, kind = configuration(kind)
        config.architectures = [kind.__name__]
        config.save_pretrained(tmp_path / "model")
        return config, kind, plan_of(Origin(str(tmp_path / "model"), seed=3))

    return make


@pytest.mark.parametrize("kind", ["Llama", "Mixtral"])
def test_transformers_loads_a_virtual_checkpoint(described, kind):
    config, model_of, whole = described(kind)
    checkpoint = Virtual(whole)
    state = {name: checkpoint.get_slice(name) for name in checkpoint}
    model, said = model_of.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    assert not any(said[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with deferred():
        expected = model_of._from_config(config)
    materialize(expected, seed=3)
    found = model.state_dict()
    assert set(found) == set(expected.state_dict())
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found[name], tensor), name
    assert model(torch.arange(5)[None]).logits.isfinite().all()


def test_accelerate_loads_what_was_written(described, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    config, model_of, whole = described("Llama")
    written = write(whole, tmp_path / "out", shard_size=20_000)
    assert len(written.files) > 3
    assert verify(tmp_path / "out").is_sound
    with accelerate.init_empty_weights():
        model = model_of(config)
    model.tie_weights()
    accelerate.load_checkpoint_in_model(model, tmp_path / "out", device_map={"": "cpu"}, strict=True)
    computed = Virtual(whole)
    parameters = dict(model.named_parameters())
    assert set(computed) == set(parameters)
    for name, tensor in parameters.items():
        assert torch.equal(tensor, computed.get_tensor(name)), name
