"""All of keras.applications and KerasHub: is every model what its author's construction makes? Part of `make test-zoo`.

Models are looked at in processes of their own, on the backend that KERAS_BACKEND names. What has too many parameters is
compared at a smaller size, or not at all.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from survey import table

SECONDS = 1800.0
BATCH = 6

# What the variables that are made to be trained are made with, in the order of the table's columns.
KINDS = ("one initializer", "parts", "replayed", "constant", "none")


# The process that looks at models


def looked_at(architecture: Any, most: float) -> dict[str, Any]:
    """What one line of the table is made of."""
    import comparing_keras
    import zoos_keras

    start = time.perf_counter()
    row: dict[str, Any] = {"name": architecture.name, "backend": zoos_keras.keras.config.backend()}
    build = architecture.build
    try:
        model = build()
    except zoos_keras.NotByItself as error:
        return row | {"not by itself": " ".join(str(error).split())[:300]}
    row |= {"parameters": model.count_params(), "variables": len(model.variables), "compared": "own size"}
    if model.count_params() > most:
        del model
        gc.collect()
        build, row["compared"] = architecture.smaller(), "smaller"
        model = None if build is None else build()
        if model is None or model.count_params() > most:
            return row | {"compared": "too large"}
    row["kinds"] = dict(kinds(model))
    del model
    gc.collect()
    found = comparing_keras.compared(build)
    row |= {"differences": [str(one)[:500] for one in found[:20]], "count": len(found)}
    return row | {"seconds": time.perf_counter() - start}


def kinds(model: Any) -> Counter[str]:
    """How many variables have which kind of program."""
    from fastinit import Composite, Replayed
    from fastinit.adapters.keras.layers import parameters, with_programs

    found: Counter[str] = Counter()
    for place in with_programs(model, parameters(model)):
        program = place.parameter.program
        if program is None:
            found["none"] += 1
        elif isinstance(program.initializer, Replayed):
            found["replayed"] += 1
        elif isinstance(program.initializer, Composite):
            found["parts"] += 1
        else:
            found["one initializer" if program.is_drawn else "constant"] += 1
    return found


def zoo(libraries: Sequence[str]) -> Iterator[Any]:
    """The models of these libraries."""
    import zoos_keras

    if "keras.applications" in libraries:
        yield from zoos_keras.applications_zoo()
    if "keras_hub" in libraries:
        yield from zoos_keras.keras_hub_zoo()


def work(names: Sequence[str], most: float) -> None:
    """A line of JSON before and after each model."""
    import warnings

    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = {architecture.name: architecture for architecture in zoo({name.split("/")[0] for name in names})}
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what authors print
        for name in names:
            print(json.dumps({"begun": name}), file=answers, flush=True)
            try:
                row = looked_at(found[name], most)
            except Exception as error:
                said = " ".join(f"{type(error).__name__}: {error}".split())[:400]
                row = {"name": name, "differences": [f"failed: {said}"], "count": 1, "compared": "failed"}
            print(json.dumps(row), file=answers, flush=True)
            gc.collect()


# The process that starts them


def survey(names: Sequence[str], most: float) -> Iterator[dict[str, Any]]:
    """Looks at every model, some in one process; one that ends it is named, and the next process goes on after it."""
    left = list(names)
    while left:
        command = [sys.executable, __file__, "--most", str(most), "--work", *left[:BATCH]]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                timeout=SECONDS,
                check=False,
            )
            lines, ended = done.stdout, f"the process ended ({done.returncode})"
        except subprocess.TimeoutExpired as stopped:
            lines, ended = stopped.stdout or b"", "too slow"
        rows = [json.loads(line) for line in lines.splitlines() if line.endswith(b"}")]
        whole = [row for row in rows if "begun" not in row]
        yield from whole
        left = left[len(whole) :]
        if "begun" in rows[-1] if rows else left:
            yield {"name": left.pop(0), "stopped": ended}


PREFACE = """# Keras's zoo

`make test-zoo` writes this page. Every model of keras.applications, and every backbone of KerasHub as its own
documentation constructs it, with fewer layers and rows. Columns count the variables that are made to be trained by what
they are made with.

A model is compared with its author's own construction: constants by value, draws by their distribution, state left
alone; `audit` finds nothing in it, and `explain` says what `auto` and `fans` do. Larger models are compared with few
classes and small images."""


def page(rows: Iterable[dict[str, Any]]) -> str:
    """docs/zoo-keras.md."""
    rows = sorted(rows, key=lambda row: row["name"].lower())
    built = [row for row in rows if "not by itself" not in row]
    compared = [row for row in built if "count" in row]
    tensors: Counter[str] = Counter()
    for row in built:
        tensors.update(row.get("kinds", {}))
    total = (
        f"{len(compared)} models with {sum(row['variables'] for row in compared):,} variables were compared on "
        f"{', '.join(sorted({row['backend'] for row in compared}))}, and {sum(not row['count'] for row in compared)} "
        f"are their authors'. Made with: {', '.join(f'{kind} {tensors[kind]:,}' for kind in KINDS)}."
    )
    lines = [
        (row["name"], f"{row['parameters']:,}" if "parameters" in row else "", *_counts(row), _said(row))
        for row in built
    ]
    parts = [PREFACE, total, table(("model", "parameters", *KINDS, "compared"), lines)]
    alone = [(row["name"], row["not by itself"][:160].replace("|", "/")) for row in rows if "not by itself" in row]
    if alone:
        parts += ["## Not constructed by their documentation alone", table(("model", "error"), alone)]
    return "\n\n".join(parts) + "\n"


def _counts(row: dict[str, Any]) -> list[Any]:
    return [row.get("kinds", {}).get(kind) or "" for kind in KINDS]


def _said(row: dict[str, Any]) -> str:
    said = row.get("stopped") or row.get("compared", "")
    return "<br>".join([said, *row.get("differences", [])[:3]]).replace("|", "/")


def main() -> None:
    """Looks at both libraries, and writes the page."""
    libraries = ("keras.applications", "keras_hub")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", nargs="+", choices=libraries, default=libraries)
    parser.add_argument("--every", type=int, default=1, help="look at every n-th model only")
    parser.add_argument("--most", type=float, default=40e6, help="parameters of a model that is compared")
    parser.add_argument("--json", type=Path, help="keeps what was found, line by line, and goes on from there")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.most)
        return
    rows = {}
    if options.json and options.json.exists():
        rows = {row["name"]: row for row in map(json.loads, options.json.read_text().splitlines())}
    names = [architecture.name for architecture in zoo(options.library)][:: options.every]
    for row in survey([name for name in names if name not in rows], options.most):
        rows[row["name"]] = row
        print(row["name"], row.get("not by itself", "") or _said(row), flush=True)
        if options.json:
            with options.json.open("a") as file:
                print(json.dumps(row), file=file)
    if options.markdown:
        options.markdown.write_text(page(rows.values()))
    wrong = [row["name"] for row in rows.values() if row.get("count") or row.get("stopped")]
    print("\n".join(wrong) or f"{len(rows)} models: every variable is its author's")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
