"""How programs are measured: init code inside keyed(), models filled and verified, checkpoints that are computed."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .. import growth, side_by_side
from ..bench_programs import Late, Overhead
from ..bench_torch import adapter
from ..side_by_side import optional
from .adapters import gpt2
from .lab import Lab, Result, duration

RANKS = 8


def late(lab: Lab) -> Result:
    """transformers' init code of GPT-2 on memory that it has, bare, over the same inside keyed()."""
    assert lab.torch
    case = Late()
    case.prepare(layers=1 if lab.quick else 12)
    return lab.compare(case.keyed, case.bare, 0, "bare")


def overhead(lab: Lab) -> Result:
    """Microseconds of a processor that keyed() adds for each parameter of a model of many tiny ones."""
    assert lab.torch
    case = Overhead()
    case.prepare(50 if lab.quick else 1000)
    inside, bare = case.seconds(lab.rounds)
    own = [(one - other) / case.count * 1e6 for one, other in zip(inside, bare, strict=True)]
    return Result(
        own, f"{duration(statistics.median(inside))} for {case.count}; bare {duration(statistics.median(bare))}"
    )


def small_gpt2(lab: Lab) -> Any:
    """GPT-2 with memory, and the initialization of its author."""
    assert lab.torch
    transformers = optional("transformers")
    size = {"n_embd": 64, "n_layer": 2, "n_head": 4} if lab.quick else {}
    with adapter().deferred():
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**size))
    return model, adapter().materialize(model, seed=0)


def fills_of(model: Any, record: Any) -> Callable[[], None]:
    """What a model's parameters are filled with, and nothing else."""
    fill_, tensors = adapter().fill_, dict(model.named_parameters())
    pairs = [(tensors[entry.name], entry.initializer, entry.key) for entry in record]

    def fill() -> None:
        for pair in pairs:
            fill_(*pair)

    return fill


def initialized(lab: Lab) -> Result:
    """The sum of a model's fills over initialize_() without digests, in warm memory."""
    model, record = small_gpt2(lab)
    ours = partial(adapter().initialize_, model, "own", digests=False)
    return lab.compare(ours, fills_of(model, record), 0, "its fills")


def verified(lab: Lab) -> Result:
    """The sum of a model's fills over verify() of what they left."""
    model, record = small_gpt2(lab)
    return lab.compare(partial(adapter().verify, record, model), fills_of(model, record), 0, "its fills")


class Eighth:
    """What one of eight ranks holds of GPT-2 XL, each tensor cut along its first axis, and what computes it."""

    def __init__(self, lab: Lab, dtype: str) -> None:
        torch = lab.torch
        distributed = optional("torch.distributed")
        tensors = optional("torch.distributed.tensor")
        if not distributed.is_initialized():
            store = optional("torch.testing._internal.distributed.fake_pg").FakeStore()
            distributed.init_process_group("fake", store=store, rank=3, world_size=RANKS)
        mesh = distributed.init_device_mesh("cpu", (RANKS,))
        default = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, dtype))
        try:
            with adapter().deferred():
                self.model = gpt2(lab)()
        finally:
            torch.set_default_dtype(default)
        self.state = {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            rows = -(-len(tensor) // RANKS)
            here = max(0, min(rows, len(tensor) - 3 * rows))
            local = torch.zeros(here, *tensor.shape[1:], dtype=tensor.dtype)
            whole = {"shape": tensor.shape, "stride": tensor.stride()}
            self.state[name] = tensors.DTensor.from_local(local, mesh, [tensors.Shard(0)], **whole)
        self.reader = adapter().InitReader(self.model, seed=0)
        self.nothing = adapter().InitReader(self.model, seed=0)
        self.nothing.read_data = lambda plan, planner: torch.futures.collect_all([])

    def load(self, reader: Any) -> None:
        checkpoint = optional("torch.distributed.checkpoint")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            checkpoint.load(self.state, storage_reader=reader, no_dist=True)


def eighth(lab: Lab, dtype: str) -> Result:
    """Time of InitReader, without torch's planning, over an eighth of the fill's; both in warm memory.

    The planning is what a load takes by a reader that computes nothing.
    """
    torch, fill_, held = lab.torch, adapter().fill_, Eighth(lab, dtype)
    record = adapter().state_dict(held.model, seed=0)
    sources = [source for source in record._sources.values() if source.entry is not None]
    sizes = [int(np.prod(source.shape)) for source in sources]
    memory = torch.zeros(max(sizes), dtype=sources[0].dtype)

    def fill() -> None:
        for source, size in zip(sources, sizes, strict=True):
            fill_(memory[:size].view(source.shape), source.entry.initializer, source.entry.key)

    runs = (partial(held.load, held.reader), partial(held.load, held.nothing), fill)
    times: list[list[float]] = [[], [], []]
    with side_by_side.without_garbage_collection():
        for number in range(lab.rounds + 1):
            for run, own in zip(runs, times, strict=True):
                seconds = side_by_side.seconds_of(run)
                if number:
                    own.append(seconds)
    ratios = [max(0.0, ours - planning) / (whole / RANKS) for ours, planning, whole in zip(*times, strict=True)]
    ours, planning, whole = map(statistics.median, times)
    words = f"{duration(ours)} with {duration(planning)} of planning; the whole fill {duration(whole)}"
    return Result(ratios, words)


def memory_of_an_eighth(lab: Lab, dtype: str) -> Result:
    """MiB beyond the shard while InitReader fills it."""
    held = Eighth(lab, dtype)
    held.load(held.nothing)
    found = growth.growth(partial(held.load, held.reader))
    nbytes = sum(tensor.to_local().nbytes for tensor in held.state.values())
    return Result([found / 2**20], f"a shard of {nbytes / 2**20:.0f} MiB")
