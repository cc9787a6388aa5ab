"""Figures of fills by a CUDA device: the Numba adapter's kernels, as torch's tensors get them, against torch's own."""

from __future__ import annotations

from functools import partial
from typing import Any

import fastinit

if __package__:
    from . import side_by_side
    from .lab import Lab, Result, Row
else:  # run as a script
    import side_by_side
    from lab import Lab, Result, Row

STD = 0.02
JOBS = {
    "uniform": (fastinit.Uniform(-0.05, 0.05), lambda tensor, init: init.uniform_(tensor, -0.05, 0.05)),
    "normal": (fastinit.Normal(0.0, STD), lambda tensor, init: init.normal_(tensor, 0.0, STD)),
    "truncated normal": (
        fastinit.TruncatedNormal(0.0, STD),
        lambda tensor, init: init.trunc_normal_(tensor, 0.0, STD, -2 * STD, 2 * STD),
    ),
}
# Fills in one timed run: so many that the time to start a kernel does not matter.
REPEATS = 10


def device_of(lab: Lab) -> Any:
    """torch, where it has a CUDA device that Numba can use as well."""
    torch = lab.torch
    if not torch.cuda.is_available():
        raise NotImplementedError("no CUDA device")
    side_by_side.optional("numba")
    from numba import cuda

    if not cuda.is_available():
        raise NotImplementedError("Numba has no CUDA device")
    return torch


def fill(lab: Lab, job: str, dtype: str) -> Result:
    """REPEATS fills of a tensor of 1 GiB (float32), and the wait for the device."""
    torch = device_of(lab)
    from fastinit.adapters.torch import fill_

    initializer, theirs = JOBS[job]
    side = lab.side if lab.quick else 2 * lab.side
    tensor = torch.empty(side, side, dtype=getattr(torch, dtype), device="cuda")

    def timed(run: Any) -> None:
        for _ in range(REPEATS):
            run()
        torch.cuda.synchronize()

    ours = partial(timed, lambda: fill_(tensor, initializer, lab.key))
    peer = partial(timed, lambda: theirs(tensor, torch.nn.init))
    name = f"torch on {torch.cuda.get_device_name()}"
    return lab.compare(ours, peer, REPEATS * tensor.nbytes, name)


def memset(lab: Lab, job: str) -> Result:
    """The same against the device's own memset."""
    torch = device_of(lab)
    from fastinit.adapters.torch import fill_

    side = lab.side if lab.quick else 2 * lab.side
    tensor = torch.empty(side, side, device="cuda")

    def timed(run: Any) -> None:
        for _ in range(REPEATS):
            run()
        torch.cuda.synchronize()

    ours = partial(timed, lambda: fill_(tensor, JOBS[job][0], lab.key))
    return lab.compare(ours, partial(timed, tensor.zero_), REPEATS * tensor.nbytes, "zero_ on the device")


ROWS = (
    *(
        Row(f"CUDA: {job} {dtype} against torch's own", None, partial(fill, job=job, dtype=dtype))
        for dtype in ("float32", "bfloat16")
        for job in JOBS
    ),
    *(Row(f"CUDA: {job} against a memset of the device's memory", None, partial(memset, job=job)) for job in JOBS),
)  # fmt: skip
