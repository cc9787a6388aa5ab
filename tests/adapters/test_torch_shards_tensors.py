"""The law of shards for DTensors, in 2, 4 and 6 real processes: every rank fills its part of one process's tensor."""

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
CHECKS = [
    "each_rank_fills_what_torch_would_give_it",
    "the_gathered_tensor_is_that_of_one_process",
    "every_dtype",
    "ranks_fill_one_after_another",
    "parameters_that_require_gradients",
    "a_redistributed_tensor_keeps_the_law",
    "an_order_of_the_mesh_axes_that_only_the_specification_tells",
    "what_does_not_fit_is_refused",
    "ranks_outside_the_mesh_hold_nothing",
]


@pytest.fixture(scope="module", params=[2, 4, 6])
def outcomes(request, tmp_path_factory):
    return OUTCOMES(HERE / "torch" / "test_tensors_sharded.py", request.param, CHECKS, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("check", CHECKS)
def test_in_several_processes(outcomes, check):
    found, output = outcomes
    assert found[check] == [], output
