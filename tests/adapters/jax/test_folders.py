"""Folders of orbax's StandardCheckpointer as checkpoints: verified, compared, shown, and taken as templates."""

import json
import os

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import fastinit
from fastinit.adapters import jax as initializers
from fastinit.adapters.jax.folders import Folder
from fastinit.checkpoints import (
    Filled,
    Origin,
    Plan,
    Tensor,
    Values,
    Virtual,
    diff,
    plan_of,
    read_checkpoint,
    statistics,
    verify,
    write,
)
from fastinit.cli import main

ocp = pytest.importorskip("orbax.checkpoint")


def entry(name, shape, initializer, dtype="float32"):
    return fastinit.Entry(name, shape, "given", initializer, fastinit.Key(7).fold_in(name), dtype=dtype)


def small_plan():
    """Every kind of source and of dtype, names with slashes and dots, no axes."""
    experts = entry("experts", (4, 12, 6), fastinit.Normal(std=0.02), "bfloat16")
    return Plan(
        (
            Tensor("up.weight", Filled(entry("up.weight", (40, 52), fastinit.he_normal(layout="OI")))),
            Tensor("mix", Filled(entry("mix", (16, 16), fastinit.Orthogonal(), "float16"))),
            *(Tensor(f"experts/{n}", Filled(experts, (n, 4, 0), (1, 8, 6), (0, 2, 1), (0,))) for n in range(4)),
            Tensor("table", Values("int64", (8, 11), np.arange(88).tobytes())),
            Tensor("flag", Values("bool", (), b"\1")),
            Tensor("eight", Filled(entry("eight", (8, 5), fastinit.Normal(std=0.5), "float8_e4m3fn"))),
            Tensor("five", Filled(entry("five", (8, 5), fastinit.Normal(std=0.5), "float8_e5m2"))),
            Tensor("wide", Filled(entry("wide", (3, 8), fastinit.Uniform(-1, 1), "float64"))),
        ),
        seed=3,
    )


def spread(plan, axis, count=4):
    """Shardings of matrices along an axis, where the devices divide it."""
    mesh = Mesh(np.array(jax.devices()[:count]), ("x",))
    return {
        tensor.name: NamedSharding(mesh, P(*("x" if n == axis else None for n in range(2))))
        for tensor in plan
        if len(tensor.shape) == 2 and tensor.shape[axis] % count == 0
    }


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("piece", [None, 24])
def test_verified_without_further_arguments(tmp_path, monkeypatch, axis, piece):
    if piece is not None:
        monkeypatch.setattr(Folder, "PIECE", piece)
    plan = small_plan()
    initializers.save(plan, tmp_path / "out", None if axis is None else spread(plan, axis))
    assert {row.verdict for row in verify(tmp_path / "out")} == {"equal"}
    assert len(verify(tmp_path / "out")) == len(plan)
    write(plan, tmp_path / "b.safetensors")
    assert {row.verdict for row in diff(tmp_path / "out", tmp_path / "b.safetensors")} == {"equal"}
    if piece is None:
        ours, theirs = ({one.stored.name: one for one in statistics(tmp_path / p)} for p in ("out", "b.safetensors"))
        for name, one in ours.items():
            for what in ("mean", "std", "low", "high", "expected_std"):
                np.testing.assert_equal(getattr(one, what), getattr(theirs[name], what))


def test_orbax_restores_beside_the_plan(tmp_path):
    plan = small_plan()
    initializers.save(plan, tmp_path / "out")
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(tmp_path / "out")
    assert set(tree) == {tensor.name for tensor in plan}
    for name, array in tree.items():
        assert np.asarray(array).tobytes() == np.asarray(Virtual(plan).get_tensor(name)).tobytes()
    assert os.path.isfile(tmp_path / "out/fastinit.json")


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small_plan().save("plan.json")
    assert main(["checkpoint", "plan.json", "out", "--format", "orbax"]) == 0
    assert main(["verify", "out"]) == 0
    assert "11 tensors: 11 equal" in capsys.readouterr().out
    assert main(["show", "out"]) == 0
    assert "experts/0" in capsys.readouterr().out
    assert main(["checkpoint", "out", "again"]) == 0  # by its own plan
    assert main(["diff", "out", "again"]) == 0
    assert main(["checkpoint", "out", "filled", "--rule", "*=zeros", "--rule", "up*=normal:0.02"]) == 0
    assert main(["verify", "filled"]) == 0


# Checkpoints of others


def test_trees_have_names_with_slashes(tmp_path):
    tree = {
        "params": {"dense": {"kernel": jax.numpy.ones((4, 3), "bfloat16"), "bias": np.arange(3, dtype=np.float16)}},
        "steps": [np.int32(3), 4.5],
        "key": jax.numpy.ones((), ml_dtypes.float8_e5m2),
    }
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "out", tree)
    with read_checkpoint(tmp_path / "out") as found:
        assert {one.name: (one.shape, one.format.name) for one in found} == {
            "params/dense/kernel": ((4, 3), "bfloat16"),
            "params/dense/bias": ((3,), "float16"),
            "steps/0": ((), "int32"),
            "steps/1": ((), "float64"),
            "key": ((), "float8_e5m2"),
        }
        assert found.read("params/dense/bias").tobytes() == np.arange(3, dtype=np.float16).tobytes()
        assert found.read("steps/1").view(np.float64) == 4.5
        assert found.plan is None
    rules = [("*", fastinit.Zeros()), ("*kernel", fastinit.Normal())]
    assert len(plan_of(Origin(str(tmp_path / "out"), rules=rules))) == 5
    with pytest.raises(ValueError, match="carries no plan of fastinit"):
        verify(tmp_path / "out")


def test_a_manager_names_its_items(tmp_path):
    with ocp.CheckpointManager(tmp_path / "all") as manager:
        manager.save(3, args=ocp.args.StandardSave({"w": np.ones((4, 3))}))
    with pytest.raises(ValueError, match=r"all/3 has no _METADATA: name the folder of one item, such as .*default"):
        read_checkpoint(tmp_path / "all/3")
    with read_checkpoint(tmp_path / "all/3/default") as found:
        assert [(one.name, one.shape) for one in found] == [("w", (4, 3))]
        assert (found.read("w").view(np.float64) == 1).all()


@pytest.mark.parametrize("options", [{"use_zarr3": True}, {"use_ocdbt": False}])
def test_other_layouts_of_orbax(tmp_path, options):
    tree = {"a": np.arange(24, dtype=np.float32).reshape(6, 4), "b": {"c": np.arange(3)}}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
        arguments = ocp.args.PyTreeSave(tree, save_args=jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=32), tree))
        checkpointer.save(tmp_path / "out", args=arguments)
    with read_checkpoint(tmp_path / "out") as found:
        assert found.read("a").tobytes() == tree["a"].tobytes()
        assert found.read("a", 20, 60).tobytes() == tree["a"].tobytes()[20:60]
        assert found.read("b/c").tobytes() == tree["b"]["c"].tobytes()


# Damage


def test_what_orbax_does_not_save_is_refused(tmp_path):
    none = Tensor("none", Filled(entry("none", (0, 5), fastinit.Normal())))
    with pytest.raises(ValueError, match="'none' has no elements, and orbax does not save that"):
        initializers.save(Plan((*small_plan().tensors, none)), tmp_path / "out")
    with pytest.raises(ValueError, match="the plan has no tensors"):
        initializers.save(Plan(()), tmp_path / "out")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"tree_metadata": 3}', '{"tree_metadata": {"a": 1}}', "\0", "[" * 10000]
)
def test_damaged_metadata(tmp_path, text):
    initializers.save(small_plan(), tmp_path / "out")
    (tmp_path / "out/_METADATA").write_text(text)
    with pytest.raises(ValueError, match="out is no checkpoint of orbax"):
        read_checkpoint(tmp_path / "out")


def test_damaged_arrays(tmp_path):
    initializers.save(small_plan(), tmp_path / "out")
    for path in (tmp_path / "out").rglob("d/*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        path.write_bytes(data)
    with pytest.raises(ValueError, match=str(tmp_path / "out")):
        verify(tmp_path / "out")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of orbax, which cancels what it reads
def test_a_changed_name(tmp_path):
    initializers.save(small_plan(), tmp_path / "out")
    text = (tmp_path / "out/_METADATA").read_text()
    assert json.loads(text)
    (tmp_path / "out/_METADATA").write_text(text.replace("mix", "mux"))
    with pytest.raises((ValueError, OSError), match=str(tmp_path / "out")):
        verify(tmp_path / "out")
