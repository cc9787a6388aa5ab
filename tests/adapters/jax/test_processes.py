"""JAX on several processes: each saves its own shards through orbax, and any mesh restores them."""

import os
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import fastinit
from fastinit.checkpoints import Filled, Plan, Tensor, Values, Virtual

ocp = pytest.importorskip("orbax.checkpoint")

PROCESS = """
import sys
import jax
number, meeting, plan, folder = sys.argv[1:]
jax.distributed.initialize(meeting, 2, int(number))
from jax.sharding import NamedSharding, PartitionSpec as P
from fastinit.adapters.jax import arrays, save
mesh = jax.make_mesh((4,), ("rows",))
shardings = {"embed": NamedSharding(mesh, P("rows"))}
computed = []
save(plan, folder, shardings, advance=computed.append)
print("computed", *computed)
if "wide" not in open(plan).read():
    found = arrays(plan, shardings)
    print("held", *(sum(shard.data.nbytes for shard in array.addressable_shards) for array in found.values()))
"""


def small_plan(*, wide):
    """A matrix to be sharded, arrays that have no sharding, and one of a dtype that JAX narrows by default."""
    key, normal = fastinit.Key(7), fastinit.Normal(std=0.02)
    kinds = {"embed": ((64, 6), "float32"), "bias": ((10,), "bfloat16")}
    if wide:
        kinds["wide"] = (3, 8), "float64"
    filled = [
        Tensor(name, Filled(fastinit.Entry(name, shape, "given", normal, key.fold_in(name), dtype=dtype)))
        for name, (shape, dtype) in kinds.items()
    ]
    return Plan((*filled, Tensor("steps", Values("int32", (3,), np.arange(3, dtype=np.int32).tobytes()))))


def run(plan, folder):
    """What each of two processes of two devices prints."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        meeting = f"localhost:{free.getsockname()[1]}"
    environment = {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_X64"}
    environment |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    plan.save(folder / "plan.json")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(number), meeting, folder / "plan.json", folder / "out"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    found = []
    try:
        for process in started:
            out, err = process.communicate(timeout=180)
            assert process.returncode == 0, err
            found.append(dict(re.findall(r"^(computed|held) (.*)$", out, re.MULTILINE)))
    finally:  # one that has failed leaves the other waiting
        for process in started:
            process.kill()
            process.communicate()
    return found


def restored(plan, folder, sharding):
    target = {
        tensor.name: jax.ShapeDtypeStruct(
            tensor.shape, tensor.format.name, sharding=sharding if tensor.name == "embed" else one()
        )
        for tensor in plan
    }
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder / "out", target)


def one():
    return SingleDeviceSharding(jax.devices()[0])


@pytest.mark.parametrize("wide", [False, True])
def test_two_processes_save_one_checkpoint(wide, tmp_path):
    plan = small_plan(wide=wide)
    ranks = run(plan, tmp_path)
    small = [str(tensor.nbytes) for tensor in plan if tensor.name not in ("embed", "wide")]
    own = ["384", "384"]  # 16 of the 64 rows for each of the two devices of a process
    for rank in ranks:
        assert rank["computed"].split() == [*own, *small] + ["192"] * wide
        assert wide or rank["held"].split() == ["768", *(str(2 * int(size)) for size in small)]
    other = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("columns",)), P(None, "columns"))
    for sharding in (one(), other):
        found = restored(plan, tmp_path, sharding)
        for name in (expected := Virtual(plan)).keys():  # noqa: SIM118 (it is no mapping)
            assert np.asarray(found[name]).tobytes() == np.ascontiguousarray(expected.get_tensor(name)).tobytes()
