"""Arrays of a plan on several devices, and orbax's checkpoints of them, restored on other meshes."""

import json
import os
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import fastinit
from fastinit.adapters import jax as initializers
from fastinit.adapters.jax import checkpoints
from fastinit.checkpoints import Filled, Plan, Tensor, Values, Virtual, export

ocp = pytest.importorskip("orbax.checkpoint")


def entry(name, shape, initializer, dtype="float32"):
    return fastinit.Entry(name, shape, "given", initializer, fastinit.Key(7).fold_in(name), dtype=dtype)


def small_plan():
    """Every kind of source and of dtype."""
    experts = entry("experts", (4, 12, 6), fastinit.Normal(std=0.02), "bfloat16")
    return Plan(
        (
            Tensor("up.weight", Filled(entry("up.weight", (40, 52), fastinit.he_normal(layout="OI")))),
            Tensor("mix", Filled(entry("mix", (16, 16), fastinit.Orthogonal(), "float16"))),
            *(Tensor(f"experts/{n}", Filled(experts, (n, 4, 0), (1, 8, 6), (0, 2, 1), (0,))) for n in range(4)),
            Tensor("table", Values("int64", (8, 11), np.arange(88).tobytes())),
            Tensor("flag", Values("bool", (), b"\1")),
            Tensor("eight", Filled(entry("eight", (8, 5), fastinit.Normal(std=0.5), "float8_e4m3fn"))),
            Tensor("wide", Filled(entry("wide", (3, 8), fastinit.Uniform(-1, 1), "float64"))),
        )
    )


def mesh(*sizes):
    devices = np.array(jax.devices()[: int(np.prod(sizes))]).reshape(sizes)
    return Mesh(devices, ("x", "y")[: len(sizes)])


def equal(found, expected):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    return np.asarray(found).tobytes() == np.ascontiguousarray(expected).tobytes()


def spread(plan, mesh, axis):
    """Shardings by name: matrices along an axis, where the devices divide it."""
    count = mesh.devices.size
    return {
        tensor.name: NamedSharding(mesh, P(*(mesh.axis_names if n == axis else None for n in range(2))))
        for tensor in plan
        if len(tensor.shape) == 2 and tensor.shape[axis] % count == 0
    }


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (8,)])
@pytest.mark.parametrize("axis", [0, 1])
def test_each_device_computes_its_piece(sizes, axis):
    plan, done = small_plan(), []
    shardings = spread(plan, mesh(*sizes), axis)
    assert "up.weight" in shardings or (sizes, axis) == ((8,), 1)
    found = initializers.arrays(plan, shardings, advance=done.append)
    assert list(found) == [tensor.name for tensor in plan]
    computed = Virtual(plan)
    for name, array in found.items():
        assert equal(array, computed.get_tensor(name)), name
        if name in shardings:
            assert array.sharding == shardings[name]
    assert sum(done) == plan.nbytes  # nothing twice
    weight = plan.tensors[0].source.entry
    assert found["up.weight"][3, 4] == fastinit.sample(weight.key, 160, weight.initializer, shape=weight.shape)


def test_replicas_are_computed_once():
    plan, done = small_plan(), []
    everywhere = NamedSharding(mesh(4), P())
    found = initializers.arrays(plan, everywhere, advance=done.append)
    assert all(len(array.addressable_shards) == 4 for array in found.values())
    assert sum(done) == plan.nbytes


@pytest.mark.parametrize(("saved", "restored"), [((4,), (2, 2)), ((2, 2), (8,)), ((8,), (1,))])
def test_orbax_restores_every_value_on_another_mesh(tmp_path, saved, restored):
    plan = small_plan()
    initializers.save(plan, tmp_path / "out", spread(plan, mesh(*saved), 0))
    other = spread(plan, mesh(*restored), 1)
    here = NamedSharding(mesh(*restored), P())
    computed = Virtual(plan)
    target = {
        name: jax.ShapeDtypeStruct(values.shape, values.dtype, sharding=other.get(name, here))
        for name, values in ((name, computed.get_tensor(name)) for name in computed)
    }
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(tmp_path / "out", target)
    assert set(found) == set(computed)
    for name, array in found.items():
        assert array.sharding == target[name].sharding
        assert equal(array, computed.get_tensor(name)), name


def test_each_device_saves_its_shards(tmp_path):
    plan = small_plan()
    initializers.save(plan, tmp_path / "out", spread(plan, mesh(4), 0))
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.metadata(tmp_path / "out").item_metadata.tree
    assert tree["up.weight"].storage.write_shape == (10, 52)


# In one process, without shardings, in chunks


@pytest.mark.parametrize("piece", [64, 1000, 2**26])
def test_chunks_have_the_values_of_the_plan(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(checkpoints, "_PIECE", piece)
    plan, done = small_plan(), []
    initializers.save(plan, tmp_path / "out", advance=done.append)
    assert sum(done) == plan.nbytes
    assert len(done) > len(plan.tensors) or piece == 2**26
    computed = Virtual(plan)
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(tmp_path / "out")
        for name, array in found.items():
            assert equal(array, computed.get_tensor(name)), name
        # another mesh
        target = {
            name: jax.ShapeDtypeStruct(
                computed.get_tensor(name).shape, computed.get_tensor(name).dtype, sharding=sharding
            )
            for name, sharding in spread(plan, mesh(4), 1).items()
        }
        rest = {name: np.empty_like(computed.get_tensor(name)) for name in computed if name not in target}
        spread_out = checkpointer.restore(tmp_path / "out", target | rest)
    for name, array in spread_out.items():
        assert equal(array, computed.get_tensor(name)), name
        if name in target:
            assert array.sharding == target[name].sharding
    assert os.listdir(tmp_path) == ["out"]


def test_zeros_are_never_left_behind(tmp_path):
    def failing(count):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        initializers.save(small_plan(), tmp_path / "out", advance=failing)
    assert not os.listdir(tmp_path)
    initializers.save(small_plan(), tmp_path / "out")
    with pytest.raises(ValueError, match="out exists: orbax saves to a new folder"):
        initializers.save(small_plan(), tmp_path / "out")


MEMORY = """
import sys
import fastinit
from fastinit.adapters.jax import save
from fastinit.checkpoints import Filled, Plan, Tensor

def plan(count):
    def entry(n):
        return fastinit.Entry(f"w{n}", (16384, 1024), "given", fastinit.Normal(), fastinit.Key(n), dtype="float32")
    return Plan(tuple(Tensor(f"w{n}", Filled(entry(n))) for n in range(count)))

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

save(plan(1), sys.argv[1] + "/first")
before = peak()
save(plan(12), sys.argv[1] + "/second")
print(plan(12).nbytes, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded(run_python, tmp_path):
    done = run_python(MEMORY, str(tmp_path), timeout=240)
    assert done.returncode == 0, done.stderr
    size, taken = map(int, done.stdout.split())
    assert size > 800e6
    assert taken < 300e6


def test_exported_complete_or_not_at_all(tmp_path):
    plan, out = small_plan(), tmp_path / "out"
    written = export(plan, out, "orbax")
    assert {"_METADATA", "_CHECKPOINT_METADATA"} <= set(written.files)
    before = sorted(os.listdir(out))
    with pytest.raises(FileExistsError, match="overwrite replaces it"):
        export(plan, out, "orbax")
    other = Plan(plan.tensors[:1])
    export(other, out, "orbax", overwrite=True)
    assert len(os.listdir(out)) == len(before)
    with ocp.StandardCheckpointer() as checkpointer:
        assert set(checkpointer.restore(out)) == {"up.weight"}
    (out / "notes.txt").write_text("mine")
    export(plan, out, "orbax", overwrite=True)
    assert set(os.listdir(out)) == {*before, "notes.txt"}
    with ocp.StandardCheckpointer() as checkpointer:
        assert set(checkpointer.restore(out)) == {tensor.name for tensor in plan}
    assert os.listdir(tmp_path) == ["out"]


def test_bad_input_is_refused_before_anything_is_written(tmp_path):
    plan, out = small_plan(), tmp_path / "out"
    with pytest.raises(ValueError, match="the plan has no tensor 'more'"):
        initializers.save(plan, out, {"more": NamedSharding(mesh(4), P())})
    with pytest.raises(TypeError, match="shardings must be a Sharding or map names to Shardings, got 4"):
        initializers.save(plan, out, 4)
    with pytest.raises(TypeError, match="shardings must be a Sharding or map names to Shardings"):
        initializers.arrays(plan, {"mix": P()})
    with pytest.raises(TypeError, match="'w' has the dtype float6_e2m3fn, which JAX lacks"):
        initializers.save(Plan((Tensor("w", Values("float6_e2m3fn", (4,), bytes(3))),)), out)
    with pytest.raises(ValueError, match="'w': only the digest"):
        initializers.arrays(Plan((Tensor("w", Values("int8", (4,), None, "0" * 64)),)))
    assert not os.listdir(tmp_path)


NARROW = """
import json, sys
import jax, numpy as np
import orbax.checkpoint as ocp
from fastinit.adapters import jax as initializers
from fastinit.adapters.jax import checkpoints
from fastinit.checkpoints import Plan, Virtual

plan = Plan.load(sys.argv[1])
try:
    initializers.arrays(plan)
except TypeError as refusal:
    print(refusal)
initializers.save(plan, sys.argv[2])
with ocp.StandardCheckpointer() as checkpointer:
    target = {name: np.empty_like(Virtual(plan).get_tensor(name)) for name in Virtual(plan)}
    found = checkpointer.restore(sys.argv[2], target)
print(json.dumps({n: bool((np.asarray(v) == np.asarray(Virtual(plan).get_tensor(n))).all()) for n, v in found.items()}))
"""


def test_wide_dtypes_without_x64(run_python, tmp_path):
    plan = small_plan()
    plan.save(tmp_path / "plan.json")
    done = run_python(NARROW, str(tmp_path / "plan.json"), str(tmp_path / "out"), timeout=240, JAX_ENABLE_X64="0")
    assert done.returncode == 0, done.stderr
    refused, equal = done.stdout.splitlines()
    assert refused == "'table' has the dtype int64, which JAX narrows: set jax_enable_x64 (2 of 10 tensors)"
    assert json.loads(equal) == {tensor.name: True for tensor in plan}


def test_a_plans_narrow_dtypes_are_those_of_ml_dtypes():
    found = initializers.arrays(small_plan())
    assert found["eight"].dtype == ml_dtypes.float8_e4m3fn
    assert found["experts/0"].dtype == ml_dtypes.bfloat16
