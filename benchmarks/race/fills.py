"""How fastinit's own fills are measured: each function compares one kind of fill with its peer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import fastinit
from fastinit.adapters import numpy as adapter

from .. import growth, side_by_side
from ..bench_fill import supported
from .lab import Lab, Result, duration

STD = 0.02
KINDS: dict[str, fastinit.Initializer] = {
    "uniform": fastinit.Uniform(-0.05, 0.05),
    "normal": fastinit.Normal(0.0, STD),
    "truncated normal": fastinit.TruncatedNormal(0.0, STD),
}
SHARDS = 8


def torch_fill(torch: Any, kind: str) -> Callable[[Any], object]:
    """torch's own fill of a tensor, on any device, with the parameters of KINDS."""
    init = torch.nn.init
    return {
        "uniform": partial(init.uniform_, a=-0.05, b=0.05),
        "normal": partial(init.normal_, mean=0.0, std=STD),
        "truncated normal": partial(init.trunc_normal_, mean=0.0, std=STD, a=-2 * STD, b=2 * STD),
    }[kind]


def against_torch(lab: Lab, kind: str, target: str = "default", dtype: str = "float32") -> Result:
    """A fill against torch's own fill of the same memory."""
    theirs = torch_fill(lab.torch, kind)
    out = lab.memory.view(growth.STORAGE[dtype])
    ours = partial(lab.fill, KINDS[kind], out, dtype=dtype, target=supported(target))
    return lab.compare(ours, partial(theirs, lab.tensor(out, dtype)), lab.memory.nbytes, "torch")


def against_memset(lab: Lab, kind: str, byte: int = 0x5A, fresh: bool = False) -> Result:
    """A fill against a memset of the same memory, or of fresh memory on both sides."""
    name, write = side_by_side.Memset(lab.threads, byte).faster(lab.memory, lab.rounds)
    memory = lab.fresh if fresh else lambda: lab.memory
    ours, peer = (lambda: lab.fill(KINDS[kind], memory())), (lambda: write(memory()))
    nbytes = lab.memory.nbytes
    return lab.compare(ours, peer, nbytes, f"{name} (the faster memset)", fresh=2 * nbytes * fresh)


def two_threads(lab: Lab, kind: str) -> Result:
    if lab.threads < 2:
        raise NotImplementedError("this process may use one processor only")
    two, one = (partial(lab.fill, KINDS[kind], num_threads=threads) for threads in (2, 1))
    return lab.compare(two, one, lab.memory.nbytes, "one thread")


def against_numpy(lab: Lab, dtype: str, fresh: bool = False) -> Result:
    """A normal fill against NumPy's standard_normal."""
    memory = lab.fresh if fresh else lambda: lab.memory.view(dtype)
    ours = lambda: lab.fill(fastinit.Normal(), memory())  # noqa: E731
    peer = lambda: lab.generator.standard_normal(out=memory(), dtype=np.dtype(dtype).type)  # noqa: E731
    return lab.compare(ours, peer, lab.memory.nbytes, "NumPy PCG64", fresh=2 * lab.memory.nbytes * fresh)


def small_fill(lab: Lab, function: str, torch_name: str) -> Result:
    """Microseconds of one 16x16 call; torch's are given where it is installed."""
    out, ours = np.zeros((16, 16), np.float32), getattr(adapter, function)
    counts = {"groups": 5, "blocks": 5, "calls": 20} if lab.quick else {}
    samples = [1e6 * sample for sample in side_by_side.per_call(lambda: ours(out=out, key=lab.key), **counts)]
    try:
        torch = lab.torch
    except NotImplementedError:
        return Result(samples, "")
    tensor = torch.from_numpy(out)
    peer = side_by_side.per_call(lambda: getattr(torch.nn.init, torch_name)(tensor), **counts)
    return Result(samples, f"torch's {torch_name} {duration(min(peer))}")


def column_shard(lab: Lab, kind: str) -> Result:
    """Time of eight column shards, filled in turn, over the time of the whole: both write as much memory."""
    shape = (lab.side, lab.side)
    width = lab.side // SHARDS
    buffers = lab.memory.reshape(SHARDS, lab.side, width)
    whole = lab.memory.reshape(shape)

    def in_turn() -> None:
        for i, out in enumerate(buffers):
            lab.fill(KINDS[kind], out, global_shape=shape, offsets=(0, i * width))

    found = lab.compare(partial(lab.fill, KINDS[kind], whole), in_turn, whole.nbytes, f"{SHARDS} shards in turn")
    return found._replace(note=f"whole {found.note}")


def orthogonal(lab: Lab, n: int) -> Result:
    n = 64 if lab.quick else n
    torch, out = lab.torch, np.zeros((n, n), np.float32)
    peer = partial(torch.nn.init.orthogonal_, torch.from_numpy(out))
    return lab.compare(partial(lab.fill, fastinit.Orthogonal(), out), peer, 0, "torch")


def extra_memory(lab: Lab) -> Result:
    """KiB per thread: the largest over all distributions and dtypes."""
    found = growth.measured(lab.threads, lab.memory.nbytes // 4)
    worst = max(found, key=found.__getitem__)
    note = f"the most of {len(found)} distributions and dtypes, {worst}, on {lab.threads} threads"
    return Result([found[worst] / lab.threads / 1024], note)


def huge_pages(lab: Lab, kind: str) -> Result:
    def on(huge: bool) -> np.ndarray:
        with side_by_side.pages(huge):
            return lab.fill(KINDS[kind], lab.fresh())

    nbytes = lab.memory.nbytes
    return lab.compare(partial(on, True), partial(on, False), nbytes, "4 KiB pages", fresh=2 * nbytes)


def warm_and_fresh(lab: Lab, kind: str) -> Result:
    ours, peer = partial(lab.fill, KINDS[kind]), lambda: lab.fill(KINDS[kind], lab.fresh())
    return lab.compare(ours, peer, lab.memory.nbytes, "fresh", fresh=2 * lab.memory.nbytes)
