"""What the rows measure in: shared memory, threads and peers, and a comparison in turn."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

import fastinit

from .. import side_by_side


class Result(NamedTuple):
    """One sample per round, and the times behind them in words."""

    samples: list[float]
    note: str


class Lab:
    """Memory, threads and peers that the rows share. Every contestant writes the same warm memory."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.rounds, self.budget = (5, 0.0) if quick else (7, 5.0)
        self.side = 256 if quick else 8192
        self.memory = np.zeros(self.side * self.side, np.float32)
        self.threads = fastinit.default_num_threads()
        self.memset = side_by_side.Memset(self.threads)
        self.key = fastinit.Key(0)
        self.load = side_by_side.load()
        self.generator = np.random.Generator(np.random.PCG64(0))

    def with_rounds(self, rounds: int) -> Lab:
        """The same lab for slow contestants: exactly this many rounds."""
        other = copy.copy(self)
        other.rounds, other.budget = rounds, 0.0
        return other

    @cached_property
    def torch(self) -> Any:
        return side_by_side.torch_on_as_many_threads()

    def tensor(self, out: np.ndarray, dtype: str) -> Any:
        """The memory of an array as torch's tensor."""
        if dtype != "bfloat16":
            return self.torch.from_numpy(out)
        return self.torch.from_numpy(out.view(np.int16)).view(self.torch.bfloat16)

    def fill(self, initializer: Any, out: np.ndarray | None = None, **options: Any) -> np.ndarray:
        options = {"num_threads": self.threads, **options}
        return fastinit.fill(self.memory if out is None else out, initializer, self.key, **options)

    def fresh(self) -> np.ndarray:
        """As much memory as the warm one, untouched."""
        return np.empty_like(self.memory)

    def compare(
        self, ours: Callable[[], object], peer: Callable[[], object], nbytes: int, name: str, fresh: int = 0
    ) -> Result:
        """The peer's time over ours: how many times faster we are. `fresh` is how much new memory a run takes."""
        before = partial(side_by_side.settle_memory, fresh) if fresh and not self.quick else None
        our_times, peer_times = side_by_side.alternate(ours, peer, self.rounds, self.budget, before)
        ratios = [theirs / own for own, theirs in zip(our_times, peer_times, strict=True)]
        return Result(ratios, f"{speed(our_times, nbytes)}; {name} {speed(peer_times, nbytes)}")


def speed(times: list[float], nbytes: int) -> str:
    seconds = statistics.median(times)
    return f"{duration(seconds)}, {nbytes / seconds / 1e9:.3g} GB/s" if nbytes else duration(seconds)


def duration(seconds: float) -> str:
    factor, unit = (1, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "us")
    return f"{seconds * factor:.3g} {unit}"
