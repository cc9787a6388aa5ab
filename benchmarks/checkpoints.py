"""Figures of checkpoints: ``python -m benchmarks.checkpoints``, in about twenty minutes.

Each command runs in a process of its own, whose memory is what the system says it took at most. Writes alternate with
``dd conv=fsync`` of the same bytes on the same disk, since a disk that others use is fast in one minute and slow in the
next; a rate is that of a whole process where the row says so, and of the writing alone otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

MODELS = {
    "gpt2-xl": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": 1600,
        "n_layer": 48,
        "n_head": 25,
    },
    "llama-3-8b": {
        **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 4096},
        **{"intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8},
        "tie_word_embeddings": False,
    },
    "llama-3.1-405b": {
        **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 16384},
        **{"intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128, "num_key_value_heads": 8},
        "tie_word_embeddings": False,
    },
}
COMMAND = "import sys; from fastinit.cli import main; sys.exit(main())"
THEIRS = """
import sys, time
from transformers import AutoConfig, AutoModelForCausalLM, GPT2LMHeadModel
begin = time.perf_counter()
AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(sys.argv[1])).save_pretrained(sys.argv[2])
print(time.perf_counter() - begin)
"""
OURS = """
import sys, time
from transformers import AutoConfig, AutoModelForCausalLM, GPT2LMHeadModel
import fastinit.adapters.torch.origins
from fastinit.cli import main
begin = time.perf_counter()
sys.argv = ["fastinit", "checkpoint", sys.argv[1], sys.argv[2], "--dtype", "float32"]
main()
print(time.perf_counter() - begin)
"""
FILL = """
import sys, time
import numpy as np
from fastinit.checkpoints import Plan
plan = Plan.load(sys.argv[1])
memory = np.zeros(max(tensor.nbytes for tensor in plan), np.uint8)
begin = time.perf_counter()
for tensor in plan:
    tensor.source.write(memory[: tensor.nbytes], 0)
print(time.perf_counter() - begin)
"""
VERIFY = """
import sys, time
from fastinit.checkpoints import verify
begin = time.perf_counter()
assert verify(sys.argv[1]).is_sound
print(time.perf_counter() - begin)
"""
MAPPED = """
import os, sys, time
import numpy as np
from fastinit.checkpoints import Plan
plan, path = Plan.load(sys.argv[1]), sys.argv[2]
begin = time.perf_counter()
with open(path, "wb") as file:
    os.posix_fallocate(file.fileno(), 0, plan.nbytes)
mapped, at = np.memmap(path, np.uint8, "r+"), 0
for tensor in plan:
    tensor.source.write(mapped[at : at + tensor.nbytes], 0)
    at += tensor.nbytes
mapped.flush()
print(time.perf_counter() - begin)
"""
WRITTEN = """
import os, sys, time
from fastinit.checkpoints import Plan, write
plan = Plan.load(sys.argv[1])
if sys.argv[3] == "cached":
    del os.O_DIRECT
print(write(plan, sys.argv[2], shard_size=2**40).seconds)
"""
VIRTUAL = """
import time
begin = time.perf_counter()
import sys, numpy as np
from fastinit.checkpoints import Virtual
checkpoint = Virtual(sys.argv[1])
first = checkpoint.get_slice("model.layers.100.mlp.down_proj.weight")[5000, :16]
cold = time.perf_counter() - begin
rng, names = np.random.default_rng(0), checkpoint.keys()
begin = time.perf_counter()
for _ in range(10_000):
    part = checkpoint.get_slice(names[rng.integers(len(names))])
    part[tuple(int(rng.integers(size)) for size in part.get_shape())]
print(cold, time.perf_counter() - begin)
"""


class Ran(NamedTuple):
    """A process that has ended."""

    seconds: float
    memory: int
    """Bytes that it took at most."""
    out: str


def run(*command: object) -> Ran:
    """Runs a command and waits for it; its failure is an error."""
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([str(word) for word in command], stdout=out)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        if process.returncode:
            raise SystemExit(f"{command} ended with {process.returncode}: {out.read()}")
        return Ran(time.perf_counter() - begin, used.ru_maxrss * 1024, out.read())


def fastinit(*arguments: object) -> Ran:
    """The ``fastinit`` command."""
    return run(sys.executable, "-c", COMMAND, *arguments)


def removed(path: Path) -> None:
    """Removes a file or a folder and waits until the disk has done it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    os.sync()


def copied(path: Path, size: int, *options: str) -> float:
    """Seconds in which dd writes so many bytes to the disk."""
    begin = time.perf_counter()
    blocks = -(-size // 2**23)
    command = ["dd", "if=/dev/zero", f"of={path}", "bs=8M", f"count={blocks}", "conv=fsync", *options]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - begin
    removed(path)
    return seconds


def planned(folder: Path, model: str, dtype: str) -> Path:
    """The plan of a model, from its configuration."""
    source = folder / model
    source.mkdir(exist_ok=True)
    (source / "config.json").write_text(json.dumps(MODELS[model]))
    plan = folder / f"{model}-{dtype}.json"
    fastinit("checkpoint", source / "config.json", plan, "--dtype", dtype)
    return plan


def size_of(path: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())


def against_dd(
    what: str, bound: str, folder: Path, source: Path, rounds: int, *options: str
) -> Iterator[tuple[str, str, str]]:
    """Writes against dd, alternated: the ratio of the rates, and the peak memory. The last checkpoint stays."""
    out = folder / "out"
    ratios: dict[str, list[float]] = {}
    peak = 0
    for number in range(rounds):
        removed(out)
        done = fastinit("checkpoint", source, out, *options)
        peak = max(peak, done.memory)
        size = size_of(out)
        written = float(done.out.rsplit(" in ", 1)[1].split(" s ")[0])
        if number < rounds - 1:
            removed(out)
        cached, direct = (copied(folder / "dd", size, *flags) for flags in ((), ("oflag=direct",)))
        found = {"of dd conv=fsync": cached / written, "with the start of the process": cached / done.seconds}
        for name, ratio in (found | {"of dd past the page cache": direct / written}).items():
            ratios.setdefault(name, []).append(ratio)
    for name, own in ratios.items():
        asked = "at least 0.9" if name == "of dd conv=fsync" else ""
        yield f"{what}, {name}", asked, f"{statistics.median(own):.2f} ({min(own):.2f} to {max(own):.2f})"
    yield f"{what}, peak memory", f"under {bound}", f"{peak / 2**20:.0f} MiB"


def gpt2_xl(folder: Path, rounds: int) -> Iterator[tuple[str, str, str]]:
    """Written, verified, and against transformers."""
    planned(folder, "gpt2-xl", "float32")
    source = folder / "gpt2-xl" / "config.json"
    yield from against_dd("GPT-2 XL float32", "512 MiB", folder, source, rounds, "--dtype", "float32")
    out = folder / "out"
    fastinit("verify", out)  # reads it into the page cache
    looked = min(float(run(sys.executable, "-c", VERIFY, out).out) for _ in range(rounds))
    filled = min(float(run(sys.executable, "-c", FILL, folder / "gpt2-xl-float32.json").out) for _ in range(rounds))
    yield "verify of it in the page cache, of a fill's rate", "at least 0.5", f"{filled / looked:.2f}"
    yield from against_transformers(folder / "gpt2-xl", out, rounds)


def against_transformers(source: Path, out: Path, rounds: int) -> Iterator[tuple[str, str, str]]:
    """Both ways from a configuration to a checkpoint, alternated: whole processes, and without their imports."""
    whole, calls, memory, largest = [], [], [], 0
    for _ in range(rounds):
        both = []
        for code in (THEIRS, OURS):
            removed(out)
            both.append(run(sys.executable, "-c", code, source, out))
        theirs, ours = both
        whole.append(theirs.seconds / ours.seconds)
        calls.append(float(theirs.out.split()[-1]) / float(ours.out.split()[-1]))
        memory.append(theirs.memory / ours.memory)
        largest = max(largest, theirs.memory)
    removed(out)
    asked = "at least 5x"
    yield "transformers, from_config and save_pretrained: time", asked, f"{statistics.median(calls):.1f}x"
    yield "with the imports of torch and transformers in both", "", f"{statistics.median(whole):.1f}x"
    yield "its memory", "at least 10x", f"{statistics.median(memory):.1f}x ({largest / 2**30:.1f} GiB)"


def ways(folder: Path, rounds: int) -> Iterator[tuple[str, str, str]]:
    """Ways to the disk: what fastinit does, against the page cache and a memory map, alternated."""
    plan, out = planned(folder, "gpt2-xl", "float32"), folder / "out.safetensors"
    found: dict[str, list[float]] = {"the page cache": [], "a memory map": []}
    for _ in range(rounds):
        seconds = []
        for code, way in ((WRITTEN, "direct"), (WRITTEN, "cached"), (MAPPED, "mapped")):
            seconds.append(float(run(sys.executable, "-c", code, plan, out, way).out))
            removed(out)
        direct, *others = seconds
        for ratios, one in zip(found.values(), others, strict=True):
            ratios.append(one / direct)
    for name, own in found.items():
        yield f"GPT-2 XL float32 through {name}: time", "", f"{statistics.median(own):.1f}x"


def llama_8b(folder: Path, rounds: int) -> Iterator[tuple[str, str, str]]:
    """16 GB within a bound of memory."""
    planned(folder, "llama-3-8b", "bfloat16")
    source = folder / "llama-3-8b" / "config.json"
    options = ("--dtype", "bfloat16", "--max-memory", "1GiB")
    yield from against_dd("Llama-3-8B bfloat16", "1.1 GiB", folder, source, rounds, *options)
    removed(folder / "out")


def llama_405b(folder: Path, rounds: int) -> Iterator[tuple[str, str, str]]:
    """A virtual checkpoint in a cold process."""
    plan = planned(folder, "llama-3.1-405b", "bfloat16")
    found = [tuple(map(float, run(sys.executable, "-c", VIRTUAL, plan).out.split())) for _ in range(rounds)]
    cold, elements = (statistics.median(column) for column in zip(*found, strict=True))
    yield "virtual Llama-3.1-405B: first slice, cold process", "under 2 s", f"{cold:.2f} s"
    yield "then 10,000 random elements", "under 1 s", f"{elements:.2f} s"
    yield "its plan", "", f"{plan.stat().st_size / 1000:,.0f} kB"


PARTS: dict[str, Callable[[Path, int], Iterator[tuple[str, str, str]]]] = {
    "405b": llama_405b,
    "gpt2-xl": gpt2_xl,
    "ways": ways,
    "8b": llama_8b,
}


def main() -> None:
    """Prints the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; a temporary one by default")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    print(f"{'what':58}{'asked':15}measured", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for part in options.parts:
            for row in PARTS[part](Path(folder), options.rounds):
                print("{:58}{:15}{}".format(*row), flush=True)


if __name__ == "__main__":
    main()
