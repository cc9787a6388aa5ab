"""A rehearsal of Llama-3.1-405B on 16,384 ranks: ``python -m tools.rehearsal``.

A few ranks represent all of them, each in its own process. torch's fake process group claims that the others exist, but
they never answer. Each rank builds transformers' model inside ``deferred()``, shards it by tensor parallelism along 8
ranks and ``fully_shard`` along 2048, and materializes its part in bfloat16. Then random elements are compared with
their definition, one by one: ``sample(key, index)``.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

import fastinit
from benchmarks import growth

if TYPE_CHECKING:
    from torch import nn

MESH = (2048, 8)
LAYERS = 126


def built(layers: int) -> nn.Module:
    """transformers' model, on the meta device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from fastinit.adapters.torch import deferred

    configuration = LlamaConfig(
        vocab_size=128256,
        hidden_size=16384,
        intermediate_size=53248,
        num_hidden_layers=layers,
        num_attention_heads=128,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )
    with deferred():
        model: nn.Module = LlamaForCausalLM(configuration)
    return model


def shard(model: Any) -> None:
    """Shards as a trainer does: layers by columns and rows along one mesh axis, everything along the other."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", MESH, mesh_dim_names=("data", "tensor"))
    columns = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"]
    plan: dict[str, Any] = {name: ColwiseParallel() for name in columns}
    plan |= {name: RowwiseParallel() for name in ("self_attn.o_proj", "mlp.down_proj")}
    for layer in model.model.layers:
        parallelize_module(layer, mesh["tensor"], plan)
        fully_shard(layer, mesh=mesh["data"])
    parallelize_module(model, mesh["tensor"], {"model.embed_tokens": RowwiseParallel(), "lm_head": ColwiseParallel()})
    fully_shard(model, mesh=mesh["data"])


def rehearse(rank: int, layers: int, checks: int, chooser: random.Random) -> tuple[str, int]:
    """Fills one rank's part. Returns a report, and the number of elements that differ from their definition."""
    import torch
    from torch import distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from fastinit.adapters.torch import fill_, materialize, state_dict

    distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=MESH[0] * MESH[1])
    built(1)  # imports are not counted
    model, described = timed(lambda: built(layers))
    shard(model)
    _, planned = timed(lambda: state_dict(model, seed=0, dtype=torch.bfloat16))
    record: list[fastinit.Record] = []
    growth.give_back()
    grown = growth.growth(lambda: record.append(materialize(model, seed=0, dtype=torch.bfloat16)))
    entries = list(record[0])
    tensors = [model.get_parameter(entry.name).detach() for entry in entries]
    size = sum(tensor.to_local().numel() for tensor in tensors)  # type: ignore[operator]

    def fill() -> None:
        for tensor, entry in zip(tensors, entries, strict=True):
            fill_(tensor, entry.initializer, entry.key)

    seconds = min(timed(fill)[1] for _ in range(3))
    memory = np.empty(size, np.uint16)
    refill(memory)  # warm, like the parameters
    whole = min(timed(lambda: refill(memory))[1] for _ in range(3))
    differing = looked_up(tensors, entries, checks, chooser)
    distributed.destroy_process_group()
    text = (
        f"rank {rank:5}: {len(entries)} tensors described in {described:.2f} s, planned in {planned:.2f} s; "
        f"{size / 1e6:.1f} M parameters filled in {seconds:.3f} s, as one tensor {whole:.3f} s; "
        f"{grown / 2**20:.0f} MiB of memory for {2 * size / 2**20:.0f} MiB of parameters; "
        f"{checks - differing} of {checks} elements as defined"
    )
    return text, differing


def timed(work: Any) -> tuple[Any, float]:
    """The result and the seconds."""
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start


def refill(memory: np.ndarray) -> None:
    """The rank's share as one tensor of the same distribution."""
    fastinit.fill(memory, fastinit.Normal(0.0, 0.02), fastinit.Key(0), dtype="bfloat16")


def looked_up(tensors: list[Any], entries: list[fastinit.Entry], checks: int, chooser: random.Random) -> int:
    """The number of random elements that differ from their definition."""
    from fastinit.adapters.torch.shards import local_ranges

    locals_, ranges = [tensor.to_local() for tensor in tensors], [local_ranges(tensor) for tensor in tensors]
    sizes = [local.numel() for local in locals_]
    differing = 0
    for number in chooser.choices(range(len(tensors)), sizes, k=checks):
        entry, local = entries[number], locals_[number]
        place = [chooser.randrange(extent) for extent in local.shape]
        coordinates = [_at(pieces, position) for pieces, position in zip(ranges[number], place, strict=True)]
        index = int(np.ravel_multi_index(coordinates, entry.shape))
        initializer = entry.initializer
        assert isinstance(initializer, fastinit.ElementwiseInitializer)
        wanted = fastinit.sample(entry.key, index, initializer, shape=entry.shape, dtype="bfloat16")
        differing += float(local[tuple(place)]) != wanted
    return differing


def _at(pieces: tuple[range, ...], position: int) -> int:
    for piece in pieces:
        if position < len(piece):
            return piece[position]
        position -= len(piece)
    raise IndexError(position)


def main(argv: list[str] | None = None) -> None:
    """Rehearses some ranks; the exit status is 1 if an element differs from its definition."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--ranks", type=int, default=3, help="how many ranks, chosen at random")
    parser.add_argument("--rank", type=int, help="this one alone, in this process")
    parser.add_argument("--checks", type=int, default=10_000, help="how many elements of each are looked up")
    parser.add_argument("--layers", type=int, default=LAYERS, help="fewer layers, to see that everything runs")
    options = parser.parse_args(argv)
    if options.rank is not None:
        text, differing = rehearse(options.rank, options.layers, options.checks, random.Random(options.rank))
        print(text, flush=True)
        sys.exit(f"{differing} elements differ from sample(key, index)" if differing else 0)
    total = sum(parameter.numel() for parameter in built(options.layers).parameters())
    print(
        f"{total / 1e9:.1f} B parameters on {MESH[0]} x {MESH[1]} ranks, {fastinit.default_num_threads()} threads",
        flush=True,
    )
    same = ["--checks", str(options.checks), "--layers", str(options.layers)]
    codes = [
        subprocess.run([sys.executable, "-m", "tools.rehearsal", "--rank", str(rank), *same], check=False).returncode
        for rank in random.Random(0).sample(range(MESH[0] * MESH[1]), options.ranks)
    ]
    sys.exit(any(codes))


if __name__ == "__main__":
    main()
