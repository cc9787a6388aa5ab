"""A rehearsal of Llama-3.1-405B on a mesh of 128 x 8 ranks: ``python -m tools.rehearsal``.

Every rank's parameters are what its coordinate on the mesh, the parameters' names and the seed make of them, so a few
ranks stand for all 1024: each is filled here as it would be there, in bfloat16, sharded by ``fully_shard`` along 128
ranks after tensor parallelism along 8. Then random elements are looked up in the definition, one by one:
``sample(key, index)``.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

import fastinit
from benchmarks import growth
from fastinit.models.recipes import Parameter, assigned

if TYPE_CHECKING:
    import torch

    from fastinit.adapters.torch.shards import Ranges

MESH = (128, 8)
LAYERS, WIDTH, HIDDEN, KEYS, VOCABULARY = 126, 16384, 53248, 1024, 128256
COLUMNS, ROWS, WHOLE = "columns", "rows", "whole"  # what tensor parallelism does to a weight (out, in)


def table(layers: int) -> Iterator[tuple[Parameter, str]]:
    """Every parameter, and how tensor parallelism shards it."""

    def linear(name: str, out: int, inputs: int, parallel: str, **facts: str) -> tuple[Parameter, str]:
        return Parameter(f"{name}.weight", (out, inputs), layer="Linear", **facts), parallel

    def norm(name: str) -> tuple[Parameter, str]:
        return Parameter(f"{name}.weight", (WIDTH,), layer="RMSNorm"), WHOLE

    yield Parameter("model.embed_tokens.weight", (VOCABULARY, WIDTH), layer="Embedding", layout="VD"), COLUMNS
    for number in range(layers):
        layer = f"model.layers.{number}"
        for name, out in (("q", WIDTH), ("k", KEYS), ("v", KEYS)):
            yield linear(f"{layer}.self_attn.{name}_proj", out, WIDTH, COLUMNS)
        yield linear(f"{layer}.self_attn.o_proj", WIDTH, WIDTH, ROWS)
        yield linear(f"{layer}.mlp.gate_proj", HIDDEN, WIDTH, COLUMNS, activation="silu")
        yield linear(f"{layer}.mlp.up_proj", HIDDEN, WIDTH, COLUMNS)
        yield linear(f"{layer}.mlp.down_proj", WIDTH, HIDDEN, ROWS)
        yield norm(f"{layer}.input_layernorm")
        yield norm(f"{layer}.post_attention_layernorm")
    yield norm("model.norm")
    yield linear("lm_head", VOCABULARY, WIDTH, COLUMNS)


def held(parameter: Parameter, parallel: str, coordinate: tuple[int, int]) -> Ranges:
    """What a rank holds: ``fully_shard`` cuts axis 0 of what tensor parallelism leaves on each rank."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.placement_types import _StridedShard

    from fastinit.adapters.torch.shards import ranges_of

    sharded = _StridedShard(0, split_factor=MESH[1]) if parallel == COLUMNS else Shard(0)
    tensor_parallel = {COLUMNS: Shard(0), ROWS: Shard(1), WHOLE: Replicate()}[parallel]
    return ranges_of(parameter.shape, MESH, coordinate, [sharded, tensor_parallel])


def rehearse(coordinate: tuple[int, int], layers: int, checks: int, chooser: random.Random) -> tuple[str, int]:
    """Fills one rank; what to say about it, and how many elements differ from their definition."""
    import torch

    from fastinit.adapters.torch import fill_

    parameters = list(table(layers))
    entries = assigned([parameter for parameter, _ in parameters], "auto", seed=0)
    ranges = [held(parameter, parallel, coordinate) for parameter, parallel in parameters]
    tensors: list[torch.Tensor] = []

    def fill() -> None:
        for entry, own in zip(entries, ranges, strict=True):
            local = torch.empty([sum(map(len, axis)) for axis in own], dtype=torch.bfloat16)
            fill_(local, entry.initializer, entry.key, global_shape=entry.shape, ranges=own)
            tensors.append(local)

    growth.give_back()
    start = time.perf_counter()
    grown = growth.growth(fill)
    seconds = time.perf_counter() - start
    size = sum(tensor.numel() for tensor in tensors)
    differing = 0
    for _ in range(checks):
        number = chooser.choices(range(len(tensors)), [tensor.numel() for tensor in tensors])[0]
        entry, own = entries[number], ranges[number]
        place = [chooser.randrange(extent) for extent in tensors[number].shape]
        coordinates = [_at(pieces, position) for pieces, position in zip(own, place, strict=True)]
        index = int(np.ravel_multi_index(coordinates, entry.shape))
        wanted = fastinit.sample(entry.key, index, entry.initializer, shape=entry.shape, dtype="bfloat16")
        differing += float(tensors[number][tuple(place)]) != wanted
    text = (
        f"rank {coordinate[0]:3},{coordinate[1]}: {len(tensors)} tensors, {size / 1e6:.1f} M parameters in"
        f" {seconds:.2f} s ({size / seconds / 1e9:.2f} Gval/s, fresh memory); {grown / 2**20:.0f} MiB of memory for"
        f" {2 * size / 2**20:.0f} MiB of parameters; {checks - differing} of {checks} elements as defined"
    )
    return text, differing


def _at(pieces: tuple[range, ...], position: int) -> int:
    for piece in pieces:
        if position < len(piece):
            return piece[position]
        position -= len(piece)
    raise IndexError(position)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--ranks", type=int, default=4, help="how many ranks, chosen at random")
    parser.add_argument("--checks", type=int, default=10_000, help="how many elements are looked up, over all ranks")
    parser.add_argument("--layers", type=int, default=LAYERS, help="fewer layers, to see that everything runs")
    options = parser.parse_args(argv)
    chooser = random.Random(0)
    total = sum(math.prod(parameter.shape) for parameter, _ in table(options.layers))
    print(f"{total / 1e9:.1f} B parameters on {MESH[0]} x {MESH[1]} ranks, {fastinit.default_num_threads()} threads")
    differing = 0
    for _ in range(options.ranks):
        coordinate = (chooser.randrange(MESH[0]), chooser.randrange(MESH[1]))
        text, wrong = rehearse(coordinate, options.layers, options.checks // options.ranks, chooser)
        print(text, flush=True)
        differing += wrong
    if differing:
        sys.exit(f"{differing} elements differ from sample(key, index)")


if __name__ == "__main__":
    main()
