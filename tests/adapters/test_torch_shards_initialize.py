"""initialize_ and materialize of whole models, transformers too, over 2 and 4 real processes: the bytes of one."""

import functools
import runpy
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
if (
    not torch.distributed.is_available()
    or not hasattr(torch.distributed, "ProcessGroupGloo")
    or sys.platform == "win32"
):
    pytest.skip("needs torch.distributed with gloo, and fork", allow_module_level=True)

HERE = Path(__file__).parent
OUTCOMES = runpy.run_path(str(HERE / "torch" / "ranks.py"))["outcomes"]
CHECKS = {
    "fully_sharded": (2, 4),
    "materialized": (2, 4),
    "tensor_parallel_and_fully_sharded": (2, 4),
    "flat_parameters": (2, 4),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    @functools.cache
    def of(world):
        names = [name for name, worlds in CHECKS.items() if world in worlds]
        return OUTCOMES(HERE / "torch" / "test_models_sharded.py", world, names, tmp_path_factory.mktemp("ranks"))

    return of


@pytest.mark.parametrize(("world", "check"), [(world, check) for check, worlds in CHECKS.items() for world in worlds])
def test_in_several_processes(outcomes, world, check):
    found, output = outcomes(world)
    assert found[check] == [], output
