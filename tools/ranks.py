"""A few of 16,384 ranks that write their share of a checkpoint of trillions of parameters: ``python -m tools.ranks``.

The plan of the model says what every tensor holds. Each rank would hold an equal range of the elements of every tensor
and needs nothing of the others. Some ranks, drawn at random, fill their ranges here, and elements, drawn at random, are
compared with the definition, one by one: ``sample(key, index)``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import fastinit
from fastinit.checkpoints import Filled, Plan
from fastinit.dtypes import dtype_named

RANKS = 16_384
ELEMENTS = 2_000
MODELS: dict[str, dict[str, Any]] = {
    "Llama-3.1-405B": {
        **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 16384},
        **{"intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128, "num_key_value_heads": 8},
        "tie_word_embeddings": False,
    },
    "a mixture of 512 experts": {
        **{"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "vocab_size": 151936},
        **{"hidden_size": 8192, "moe_intermediate_size": 2048, "num_hidden_layers": 78, "num_experts": 512},
        **{"num_experts_per_tok": 8, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128},
        **{"intermediate_size": 24576, "tie_word_embeddings": False},
    },
}


def share(size: int, rank: int, ranks: int) -> range:
    """The elements of a tensor that a rank holds."""
    return range(size * rank // ranks, size * (rank + 1) // ranks)


def rehearse(plan: Plan, rank: int, seed: int) -> dict[str, float]:
    """Fills what a rank holds, and looks some of it up; gives the seconds, bytes and elements."""
    begin = time.perf_counter()
    held = []
    for tensor in plan:
        own = share(math.prod(tensor.shape), rank, RANKS)
        out = np.empty(len(own) * tensor.format.bits // 8, np.uint8)
        tensor.source.write(out, own.start)
        held.append((tensor, own, out))
    seconds = time.perf_counter() - begin
    chosen, equal = random.Random(seed), 0
    filled = [one for one in held if one[1] and isinstance(one[0].source, Filled) and one[0].source.is_whole]
    for _ in range(ELEMENTS):
        tensor, own, out = chosen.choice(filled)
        entry, place = tensor.source.entry, chosen.randrange(len(own))
        dtype = dtype_named(entry.dtype)
        value = fastinit.sample(entry.key, own.start + place, entry.initializer, shape=entry.shape, dtype=entry.dtype)
        equal += int(out.view(dtype.raw)[place]) == dtype.bits(value)
    return {
        "seconds": seconds,
        "bytes": sum(out.nbytes for _, _, out in held),
        "equal": equal,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def rows(ranks: int) -> None:
    """Prints a row for each model."""
    head = "{:26}{:>18}{:>10}{:>9}{:>13}{:>9}{:>9}  {}"
    print(head.format("model", "parameters", "plan", "planned", "of a rank", "seconds", "memory", "elements"))
    with tempfile.TemporaryDirectory() as folder:
        for name, config in MODELS.items():
            source, path = Path(folder, "config.json"), Path(folder, "plan.json")
            source.write_text(json.dumps(config))
            begin = time.perf_counter()
            program = "import sys; from fastinit.cli import main; sys.exit(main())"
            arguments = ["checkpoint", source, path, "--dtype", "bfloat16"]
            subprocess.run([sys.executable, "-c", program, *arguments], check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - begin
            found = []
            for rank in random.Random(20).sample(range(RANKS), ranks):
                command = [sys.executable, "-m", "tools.ranks", "--rank", str(rank), str(path)]
                found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            size = sum(math.prod(tensor.shape) for tensor in Plan.load(path))
            most = {what: max(one[what] for one in found) for what in found[0]}
            equal, looked = sum(one["equal"] for one in found), ELEMENTS * len(found)
            print(
                f"{name:26}{size:>18,}{path.stat().st_size / 1e6:7.2f} MB{seconds:7.1f} s"
                f"{most['bytes'] / 2**20:9.1f} MiB{most['seconds']:9.2f}{most['memory'] / 2**20:5.0f} MiB"
                f"  {equal:,.0f} of {looked:,} equal",
                flush=True,
            )
            if equal < looked:
                raise SystemExit(1)


def main() -> None:
    """Rehearses one rank, or prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", nargs="?")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--ranks", type=int, default=5, help="of how many ranks")
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    if options.rank is None:
        rows(options.ranks)
    else:
        print(json.dumps(rehearse(Plan.load(options.plan), options.rank, options.rank)))


if __name__ == "__main__":
    main()
