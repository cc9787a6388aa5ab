"""The law of shards for FSDP2, tensor parallel and FSDP1 models, in 2, 4 and 6 real processes, training included."""

import functools
import runpy
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if (
    not torch.distributed.is_available()
    or not hasattr(torch.distributed, "ProcessGroupGloo")
    or sys.platform == "win32"
):
    pytest.skip("needs torch.distributed with gloo, and fork", allow_module_level=True)

HERE = Path(__file__).parent
OUTCOMES = runpy.run_path(str(HERE / "torch" / "ranks.py"))["outcomes"]
CHECKS = {
    "a_fully_sharded_model": (2, 4, 6),
    "a_model_without_memory_at_first": (2, 4),
    "a_model_sharded_on_another_axis": (2, 4, 6),
    "a_model_replicated_and_sharded": (4, 6),
    "tensor_parallel_and_fully_sharded": (4, 6),
    "tensor_parallel_training": (4, 6),
    "flat_parameters": (2, 4),
    "pieces_of_flat_parameters": (2, 4, 6),
    "flat_parameters_that_cannot_be_filled": (2,),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    @functools.cache
    def of(world):
        names = [name for name, worlds in CHECKS.items() if world in worlds]
        return OUTCOMES(HERE / "torch" / "test_shards_models.py", world, names, tmp_path_factory.mktemp("ranks"))

    return of


@pytest.mark.parametrize(("world", "check"), [(world, check) for check, worlds in CHECKS.items() for world in worlds])
def test_in_several_processes(outcomes, world, check):
    found, output = outcomes(world)
    assert found[check] == [], output
