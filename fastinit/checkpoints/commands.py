"""The commands of checkpoints: ``fastinit checkpoint | verify | diff | show``.

::

    fastinit checkpoint config.json out/ --dtype bfloat16
    fastinit verify out/
    fastinit diff out/ other/
    fastinit show out/

``verify`` and ``diff`` have the exit status 1 where something differs.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import fastinit
from fastinit.checkpoints.comparing import Statistics, diff, statistics
from fastinit.checkpoints.exporting import export, format_of
from fastinit.checkpoints.layouts import SHARD_SIZE
from fastinit.checkpoints.libraries import LIBRARIES
from fastinit.checkpoints.origins import QUANTIZATIONS, Origin, plan_of
from fastinit.checkpoints.plans import Plan
from fastinit.checkpoints.verifying import verify
from fastinit.checkpoints.writing import Written, write
from fastinit.checks import shown
from fastinit.dtypes import DTYPES

__all__ = ["add_commands"]

_UNITS: Final = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS_OF_TWO: Final = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def _size(text: str) -> int:
    """Bytes: ``5GB``, ``1GiB``, ``512MiB``, ``1000``."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"must be a number of bytes such as 5GB or 512MiB, got {shown(text)}")
    number, unit, binary = found.groups()
    size = int(float(number) * (_UNITS_OF_TWO if binary else _UNITS).get(unit.lower(), 1))
    if size < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1 byte, got {shown(text)}")
    return size


def _part(text: str) -> tuple[int, int]:
    """One of several processes: ``2/16``, counted from 1."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"must be K/N with K in [1, N], such as 2/16, got {shown(text)}")
    return int(number) - 1, int(count)


def _seed(text: str) -> int | str:
    try:
        return int(text, 0)
    except ValueError:
        return text


Named = Callable[[str], fastinit.Initializer]


def add_commands(commands: Any, initializer_named: Named) -> None:
    """Adds the commands to those of a parser.

    Parameters
    ----------
    commands : argparse subparsers
        Where they go.
    initializer_named : callable
        The initializer that a text names.
    """

    def rule(text: str) -> tuple[str, fastinit.Initializer]:
        pattern, equals, name = text.rpartition("=")
        if not equals or not pattern:
            raise argparse.ArgumentTypeError(f"must be PATTERN=INIT, such as '*.bias=zeros', got {shown(text)}")
        try:
            return pattern, initializer_named(name)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None

    made = commands.add_parser(
        "checkpoint",
        allow_abbrev=False,
        help="write a checkpoint of a model's initial weights",
        description="Writes the initial weights of a model as safetensors: complete, or not at all. SOURCE is the "
        "config.json of a model of transformers, diffusers or timm, or its folder; module:function; a checkpoint; or a "
        "plan.",
    )
    made.add_argument("source", metavar="SOURCE")
    made.add_argument("out", metavar="OUT", help="a folder, a .safetensors file, or a .json file for the plan alone")
    made.add_argument(
        "--format", choices=("safetensors", *LIBRARIES), help="of the checkpoint; by default what OUT's name says"
    )
    made.add_argument("--dtype", choices=DTYPES, help="of the floating-point tensors")
    made.add_argument("--recipe", metavar="NAME", help="own (the author's scheme), auto, fans, ...; own by default")
    made.add_argument("--seed", type=_seed, default=0, help="an integer or a text (0)")
    made.add_argument("--only", action="append", metavar="PATTERN", help="only tensors of such names")
    made.add_argument("--skip", action="append", metavar="PATTERN", help="no tensors of such names")
    made.add_argument(
        "--rule", action="append", type=rule, metavar="PATTERN=INIT", help="what fills a template's tensors"
    )
    made.add_argument("--tiny", action="store_true", help="a small model of the same configuration, for tests")
    made.add_argument("--quantize", choices=QUANTIZATIONS, help="the weights of linear layers, in a layout of engines")
    made.add_argument("--balanced-experts", action="store_true", help="spread random tokens evenly over the experts")
    made.add_argument(
        "--shard-size", type=_size, default=SHARD_SIZE, metavar="BYTES", help="of a file of a folder (5GB)"
    )
    made.add_argument("--max-memory", type=_size, metavar="BYTES", help="that the process may take")
    made.add_argument("--overwrite", action="store_true", help="replace what exists, once the new files are complete")
    made.add_argument("--resume", action="store_true", help="go on with what an interrupted run has left")
    made.add_argument("--part", type=_part, metavar="K/N", help="write the K-th of N shares of the files")
    made.add_argument("--trust-remote-code", action="store_true", help="let a configuration run code beside it")
    made.set_defaults(run=_checkpoint)

    verified = commands.add_parser(
        "verify", allow_abbrev=False, help="does a checkpoint hold its initial weights, bit by bit?"
    )
    verified.add_argument("checkpoint", metavar="CHECKPOINT")
    verified.add_argument("--record", metavar="FILE", help="the plan or the record; by default what the files carry")
    verified.set_defaults(run=_verify)

    compared = commands.add_parser("diff", allow_abbrev=False, help="how two checkpoints differ, bit by bit")
    compared.add_argument("first", metavar="A")
    compared.add_argument("second", metavar="B")
    compared.set_defaults(run=_diff)

    table = commands.add_parser("show", allow_abbrev=False, help="the tensors of a checkpoint and their values")
    table.add_argument("checkpoint", metavar="CHECKPOINT")
    table.set_defaults(run=_show)


def _checkpoint(options: argparse.Namespace) -> int:
    origin = Origin(
        options.source,
        options.recipe,
        options.seed,
        options.dtype,
        options.rule or (),
        options.tiny,
        options.trust_remote_code,
        options.quantize,
        options.balanced_experts,
    )
    plan = _chosen(plan_of(origin), options.only, options.skip)
    for note in origin.notes:
        print(note)
    if options.out.endswith(".json"):
        plan.save(options.out)
        print(f"{options.out}: a plan of {len(plan):,} tensors, {_bytes(plan.nbytes)}")
        return 0
    written = _written(plan, options)
    rate = (written.nbytes - written.resumed) / written.seconds if written.seconds else 0.0
    resumed = f", {_bytes(written.resumed)} of them by an earlier run" if written.resumed else ""
    print(
        f"{written.path}: {len(plan):,} tensors, {_bytes(written.nbytes)} in {written.seconds:.1f} s "
        f"({_bytes(rate)}/s){resumed}"
    )
    if not written.is_complete:
        print("other processes have not finished their parts: the last one moves the files to their place")
    return 0


def _written(plan: Plan, options: argparse.Namespace) -> Written:
    """Writes the checkpoint in the format that the command asks for."""
    format = options.format or format_of(options.out)
    if format not in LIBRARIES:
        return write(
            plan,
            options.out,
            shard_size=options.shard_size,
            max_memory=options.max_memory,
            overwrite=options.overwrite,
            resume=options.resume,
            part=options.part,
        )
    given = {"--shard-size": options.shard_size != SHARD_SIZE, "--max-memory": options.max_memory is not None}
    given |= {"--resume": options.resume, "--part": options.part is not None}
    if any(given.values()):
        unknown = ", ".join(name for name, is_given in given.items() if is_given)
        raise ValueError(f"the format {format} is written by its own library, without {unknown}")
    return export(plan, options.out, format, overwrite=options.overwrite)


def _chosen(plan: Plan, only: Sequence[str] | None, skip: Sequence[str] | None) -> Plan:
    """The plan of the tensors that patterns select, by their names in the checkpoint or without those of wrappers."""
    known = [fastinit.Parameter(tensor.name, tensor.shape, layout=None, other_names=(tensor.name,)) for tensor in plan]
    kept = fastinit.selected(known, only or None, skip or None)
    return plan.only(tensor.name for tensor, is_kept in zip(plan, kept, strict=True) if is_kept)


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count:,.0f} bytes"


def _verify(options: argparse.Namespace) -> int:
    found = verify(options.checkpoint, options.record)
    print(found)
    return 0 if found.is_sound else 1


def _diff(options: argparse.Namespace) -> int:
    rows = diff(options.first, options.second)
    different = [row for row in rows if row.verdict != "equal"]
    print(f"{len(rows):,} tensors: {len(rows) - len(different):,} equal, {len(different):,} different")
    _table([(row.name, row.verdict, row.detail) for row in different])
    return 1 if different else 0


def _show(options: argparse.Namespace) -> int:
    rows: list[tuple[str, ...]] = [("tensor", "dtype", "shape", "mean", "std", "expected", "min", "max", "")]
    rows += [_row(one) for one in statistics(options.checkpoint)]
    _table(rows)
    return 0


def _row(found: Statistics) -> tuple[str, ...]:
    stored = found.stored
    figures = (found.mean, found.std, found.expected_std, found.low, found.high)
    texts = ("" if one is None or math.isnan(one) else f"{one:.4g}" for one in figures)
    note = f"{found.not_finite:,} not finite" if found.not_finite else ""
    return (stored.name, stored.format.name, " x ".join(map(str, stored.shape)) or "scalar", *texts, note)


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
