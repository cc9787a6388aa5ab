"""All of both zoos: has every parameter a program, and is every model what its author makes: `make test-zoo`.

Models are looked at in processes of their own, with limits of memory and time. What is compared with the author's own
construction, which takes memory, has at most so many parameters; larger ones are compared with fewer layers and rows.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

GIB = 2**30
MEMORY = 6 * GIB
SECONDS = 300.0
BATCH = 60

# How a parameter came by its program, in the order of the table's columns.
KINDS = ("one initializer", "folded", "parts", "replayed", "constant", "none")
# The share of architectures of which every parameter has a program, and up to which size they count.
BARS = {"timm": (0.99, 400e6), "transformers": (0.98, float("inf"))}


# The process that looks at models


def kinds(model: Any) -> Counter[str]:
    """How many parameters of a deferred model have which kind of program."""
    from fastinit import Composite, Replayed

    found: Counter[str] = Counter()
    seen = set()
    for module in model.modules():
        programs = vars(module).get("_fastinit_programs", {})
        for role, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            program = programs.get(role)
            if program is None:
                found["none"] += 1
            elif isinstance(program.initializer, Replayed):
                found["replayed"] += 1
            elif isinstance(program.initializer, Composite):
                found["parts"] += 1
            elif not program.is_drawn:
                found["constant"] += 1
            else:
                found["one initializer" if len(program.operators) == 1 else "folded"] += 1
    return found


def without_program(model: Any) -> list[str]:
    """The names of the parameters that have none."""
    names = []
    for prefix, module in model.named_modules():
        programs = vars(module).get("_fastinit_programs", {})
        names += [f"{prefix}.{role}" for role, _ in module.named_parameters(recurse=False) if role not in programs]
    return names


def looked_at(architecture: Any, most: float, smaller: bool) -> dict[str, Any]:
    """What one line of the table is made of."""
    import comparing
    import zoos

    from fastinit.adapters.torch import deferred

    row: dict[str, Any] = {"name": architecture.name}
    start = time.perf_counter()
    _forget_peak()
    before = _peak()
    try:
        with deferred():
            model = architecture.build()
    except zoos.NotByItself as error:
        return row | {"not by itself": _shown(error)}
    except Exception as error:
        return row | _judged(architecture.build, error)
    row |= {
        "seconds": time.perf_counter() - start,
        "memory": _peak() - before,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "kinds": dict(kinds(model)),
        "without": without_program(model)[:5],
    }
    del model
    gc.collect()
    build, size = architecture.build, "own size"
    if row["parameters"] > most:
        build, size = architecture.smaller() if smaller else None, "smaller"
        if build is None:
            return row | {"compared": "too large"}
    gc.collect()
    found = comparing.compared(build)
    return row | {"compared": size, "differences": [str(one)[:500] for one in found[:20]], "count": len(found)}


def _judged(build: Callable[[], Any], error: Exception) -> dict[str, str]:
    """Whether the author's constructor fails, too, or the deferred one alone."""
    import zoos

    reason = _shown(error)
    for other in (lambda: zoos.size_on_meta(build), build):
        try:
            other()
            break
        except Exception as same:
            if _shown(same) == reason:
                return {"not by itself": reason}
    return {"refused": reason}


def _shown(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def work(options: argparse.Namespace) -> None:
    """Looks at the models that come by name on stdin; a line of JSON before and after each."""
    import warnings

    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    zoo = {architecture.name: architecture for architecture in _zoo(options)}
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what authors print
        for name in map(str.strip, sys.stdin):
            print(json.dumps({"begun": name}), file=answers, flush=True)
            try:
                row = looked_at(zoo[name], options.most, not options.own_size)
            except Exception as error:
                row = {"name": name, "differences": [f"failed: {_shown(error)}"], "count": 1, "compared": "failed"}
            print(json.dumps(row), file=answers, flush=True)
            gc.collect()


# The process that starts them


def _zoo(options: argparse.Namespace) -> Iterator[Any]:
    import zoos

    if "timm" in options.library:
        yield from zoos.timm_zoo()
    if "transformers" in options.library:
        yield from zoos.transformers_zoo(options.every_class)


def survey(names: list[str], arguments: list[str], workers: int, told: Callable[[dict[str, Any]], None]) -> None:
    """Looks at every model, some at a time; a process that takes too much memory or time is ended, and named."""
    batches: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    for start in range(0, len(names), BATCH):
        batches.put(names[start : start + BATCH])

    def run() -> None:
        while True:
            try:
                batch = batches.get_nowait()
            except queue.Empty:
                return
            while batch:
                batch = batch[_batch(batch, arguments, told) :]

    threads = [threading.Thread(target=run) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _batch(names: list[str], arguments: list[str], told: Callable[[dict[str, Any]], None]) -> int:
    """How many of these models one process came to look at."""
    command = [sys.executable, __file__, "--work", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write("\n".join(names) + "\n")
        process.stdin.close()
        state: dict[str, Any] = {"since": time.monotonic(), "ended": ""}
        watch = threading.Thread(target=_watched, args=(process, state), daemon=True)
        watch.start()
        done, begun = 0, ""
        for line in process.stdout:
            row = json.loads(line)
            state["since"] = time.monotonic()
            begun = row.get("begun", "")
            if not begun:
                told(row)
                done += 1
        process.wait()
        watch.join()
    if done < len(names):
        told({"name": begun or names[done], "stopped": state["ended"] or f"the process ended ({process.returncode})"})
        done += 1
    return done


def _watched(process: subprocess.Popen[str], state: dict[str, Any]) -> None:
    while process.poll() is None:
        try:
            memory = psutil.Process(process.pid).memory_info().rss
        except psutil.NoSuchProcess:
            return
        if memory > MEMORY:
            state["ended"] = f"more than {MEMORY // GIB} GiB of memory"
        elif time.monotonic() - state["since"] > SECONDS:
            state["ended"] = f"more than {SECONDS:.0f} seconds"
        if state["ended"]:
            process.kill()
            return
        time.sleep(0.1)


# The page


def page(rows: Iterable[dict[str, Any]], of: int) -> str:
    """docs/zoo.md, of some or all of so many architectures."""
    rows = sorted(rows, key=lambda row: row["name"].lower())
    built = [row for row in rows if "not by itself" not in row]
    looked_at = "all" if len(rows) >= of else f"{len(rows):,} of"
    parts = [PREFACE, f"This page is of {looked_at} {of:,} architectures.", _totals(rows)]
    refused = [row for row in built if "kinds" not in row or row["kinds"].get("none")]
    if refused:
        parts += ["## Refused", table(("architecture", "reason"), ((row["name"], _reason(row)) for row in refused))]
    different = [row for row in built if row.get("count")]
    if different:
        lines = ((row["name"], "<br>".join(map(_cell, row["differences"][:3]))) for row in different)
        parts += ["## Other than the author's", table(("architecture", "what differs"), lines)]
    parts += ["## Every architecture", table(("architecture", "parameters", *KINDS, "compared"), map(_row, built))]
    alone = [(row["name"], _cell(row["not by itself"][:160])) for row in rows if "not by itself" in row]
    if alone:
        parts += [
            "## Not constructed by their configuration alone",
            "The author's constructor raises this with the default configuration.",
            table(("architecture", "error"), alone),
        ]
    return "\n\n".join(parts) + "\n"


PREFACE = """# Both zoos

`make test-zoo` writes this page. Each model was built at its default size under `deferred()`. Columns count
parameters (tensors) by their program: one call that draws, several steps that fold into one initializer, a tensor of
parts, the author's operators replayed, a constant, none.

"Compared" says at which size the model was materialized and compared with the author's own construction: constants and
buffers by value, draws by their distribution, and names, ties, dtypes, flags and attributes. Models above the limit are
compared with fewer layers and rows of the same classes."""


def _totals(rows: list[dict[str, Any]]) -> str:
    lines = []
    for library, (bar, most) in BARS.items():
        own = [row for row in rows if row["name"].startswith(library + "/") and "not by itself" not in row]
        counted = [row for row in own if row.get("parameters", 0) <= most]
        if not counted:
            continue
        whole = [row for row in counted if "kinds" in row and not row["kinds"].get("none")]
        compared = [row for row in own if row.get("compared") in ("own size", "smaller")]
        seconds = sorted(row["seconds"] for row in own if "seconds" in row)
        tensors = Counter()  # type: ignore[var-annotated]
        for row in own:
            tensors.update(row.get("kinds", {}))
        lines.append(
            (
                library + (f", up to {most / 1e6:.0f} M parameters" if most < 1e12 else ""),
                len(counted),
                f"{len(whole) / len(counted):.2%} (at least {bar:.0%})",
                *(f"{tensors[kind]:,}" for kind in KINDS),
                f"{sum(not row['count'] for row in compared)} of {len(compared)}",
                f"{seconds[len(seconds) // 2]:.2f}, {seconds[-1]:.1f}" if seconds else "",
            )
        )
    head = (
        "",
        "architectures",
        "all parameters have a program",
        *KINDS,
        "equal, of compared",
        "seconds: median, most",
    )
    return table(head, lines)


def _reason(row: dict[str, Any]) -> str:
    if "kinds" in row:
        return _cell(f"{row['kinds']['none']} without a program: {', '.join(row['without'])}")
    return _cell(row.get("refused") or row.get("stopped") or "")


def _row(row: dict[str, Any]) -> tuple[Any, ...]:
    kinds = row.get("kinds")
    counts = ("refused", *[""] * (len(KINDS) - 1)) if kinds is None else [kinds.get(kind) or "" for kind in KINDS]
    compared = row.get("compared", "")
    if row.get("count"):
        compared += f", {row['count']} differences"
    return row["name"], f"{row['parameters']:,}" if "parameters" in row else "", *counts, compared


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """In Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def failures(rows: Iterable[dict[str, Any]]) -> list[str]:
    """What `make test-zoo` fails for: a share below its bar, a model that is not its author's."""
    rows = [row for row in rows if "not by itself" not in row]
    found = [f"{row['name']}: {row['differences'][0]}" for row in rows if row.get("count")]
    for library, (bar, most) in BARS.items():
        counted = [row for row in rows if row["name"].startswith(library + "/") and row.get("parameters", 0) <= most]
        whole = [row for row in counted if "kinds" in row and not row["kinds"].get("none")]
        if counted and len(whole) / len(counted) < bar:
            found.append(f"{library}: {len(whole)} of {len(counted)} have all programs, fewer than {bar:.0%}")
    return found


def main() -> None:
    """Looks at both zoos, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", nargs="+", choices=list(BARS), default=list(BARS))
    parser.add_argument("--every", type=int, default=1, help="look at every n-th architecture only")
    parser.add_argument("--first", type=int, default=0, help="from this one on")
    parser.add_argument("--most", type=float, default=40e6, help="parameters of a model compared at its own size")
    parser.add_argument(
        "--own-size", action="store_true", help="compare none with fewer layers in place of its own size"
    )
    parser.add_argument("--every-class", action="store_true", help="all classes of each configuration, not two")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="keeps what was found, line by line, and goes on from there")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options)
        return
    rows = {}
    if options.json and options.json.exists():
        found = map(json.loads, options.json.read_text().splitlines())
        rows = {row["name"]: row for row in found}
    everything = [architecture.name for architecture in _zoo(options)]
    names = everything[options.first :: options.every]
    arguments = ["--library", *options.library, "--most", str(options.most)]
    arguments += ["--every-class"] * options.every_class + ["--own-size"] * options.own_size
    lock = threading.Lock()

    def told(row: dict[str, Any]) -> None:
        with lock:
            rows[row["name"]] = row
            left = len(names) - len(rows)
            print(f"{left:5} {row['name']}: {_said(row)}", flush=True)
            if options.json:
                with options.json.open("a") as file:
                    print(json.dumps(row), file=file)

    survey([name for name in names if name not in rows], arguments, options.workers, told)
    if options.markdown:
        options.markdown.write_text(page(rows.values(), len(everything)))
    complaints = failures(rows.values())
    print("\n".join(complaints) or f"{len(rows)} architectures: every program is its author's")
    sys.exit(bool(complaints))


def _said(row: dict[str, Any]) -> str:
    for what in ("not by itself", "refused", "stopped"):
        if what in row:
            return f"{what}: {row[what]}"
    said = f"{row.get('parameters', 0):,} parameters, compared: {row['compared']}"
    return said + "".join(f"\n      {one}" for one in row.get("differences", [])[:3])


if __name__ == "__main__":
    main()
