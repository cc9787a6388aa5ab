"""Initialize a published model with NumPy alone, check every tensor, and time it: `make demo MODEL=resnet-50`.

It fills all parameters of the model by the recipe of its authors, compares what was written with what the recipe
promises, times the fill beside NumPy and memset on the same machine, in cold memory and in warm, and shows that threads
and instruction sets do not change a byte. The exit status is 1 if a digest differs or a tensor is off by more than six
standard errors.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import measuring
from architectures import MODELS, Parameter, parameters
from expectations import fans_of
from measuring import Job, Observation

from fastinit import Initializer, Normal, TruncatedNormal, Uniform, VarianceScaling, default_num_threads, targets

try:
    from rich import box, progress
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text
except ImportError:
    sys.exit("The demo draws with rich, which is not installed: `pip install rich`, or run it as `make demo`.")

LIMIT = 6.0  # standard errors
WIDTH = 100  # columns at most, and where there is no terminal to ask


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--model", choices=MODELS, default="gpt2")
    parser.add_argument("--dtype", choices=measuring.STORAGE, default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=default_num_threads())
    options = parser.parse_args(argv)
    if options.threads < 1:
        parser.error("--threads must be at least 1")
    return options


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    sys.stdout.reconfigure(encoding="utf-8")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    console.width = min(console.width, WIDTH)
    job = Job(parameters(options.model), options.dtype, options.seed, options.threads)
    console.print(heading(options, job))
    with filling_bar(console, job.bytes_of(job.table)) as advance:
        observations = measuring.first_fill(job, advance)
    console.print(parameter_table(observations, gap=2 if console.width >= WIDTH else 1))
    console.print(notes(job))
    with working(console, "timing beside NumPy and memset"):
        cold, warm = measuring.time_cold(job), measuring.time_warm(job)
    console.print(speed_table(job, cold, warm))
    with working(console, "hashing"):
        digests = measuring.digests(job)
    console.print(digest_table(job, digests))
    failures = verdicts(observations, digests)
    console.print(verdict(failures, len(observations)))
    return 1 if failures else 0


# Failures.


def verdicts(observations: list[Observation], digests: dict[tuple[str, int], str]) -> list[str]:
    off = [
        f"{o.parameter.name} is {o.deviation:.1f} standard errors off" for o in observations if not o.deviation <= LIMIT
    ]
    return off + (["the digests differ"] if len(set(digests.values())) > 1 else [])


# Output.


def heading(options: argparse.Namespace, job: Job) -> Group:
    model = MODELS[options.model]
    facts = f"{count(job.table):,} parameters in {len(job.table)} tensors, {options.dtype}, {size(job, job.table)}"
    where = "one buffer, which each tensor reuses" if job.reused else "one arena"
    threads = "1 thread" if job.threads == 1 else f"{job.threads} threads"
    lines = (
        f"recipe   {model.recipe}",
        f"keys     Key({options.seed}).fold_in(name)",
        f"memory   {where}; {threads}, target {targets.current()}",
    )
    return Group("", Text.assemble((model.title, "bold"), "  ", facts), Text("\n".join(lines), style="dim"), "")


def parameter_table(observations: list[Observation], gap: int) -> Table:
    """One row per kind of parameter; the spread is that of all its tensors, pooled."""
    fans_and_rule = (">fan\nin", "fan\nout", "initializer")
    table = plain_table("kind", ">count", "shape", *fans_and_rule, ">expected\nstd", ">observed\nstd", ">s.e.", gap=gap)
    for kind, group in by_kind(observations).items():
        first = group[0].parameter
        fans = fans_of(first)
        weights = [o.parameter.size for o in group]
        expected = pooled_std(weights, [o.expected.std**2 for o in group])
        observed = pooled_std(weights, [o.variance for o in group])
        worst = max(o.deviation for o in group)
        table.add_row(
            kind,
            str(len(group)),
            "×".join(map(str, first.shape)),
            str(fans.fan_in) if fans else "",
            str(fans.fan_out) if fans else "",
            describe(first.initializer),
            number(expected),
            number(observed),
            Text(f"{worst:.1f}", style="green" if worst <= LIMIT else "bold red") if expected else tick(worst == 0),
        )
    return table


def notes(job: Job) -> Text:
    lines = [
        "shape, fans and initializer: of the first tensor of a kind. std: of all its tensors together.",
        f"s.e.: how many standard errors the worst tensor's mean or std is off; {LIMIT:g} would fail.",
    ]
    if job.huge:
        lines.append("observed: from at most 16 pieces of 2^20 elements of each tensor.")
    return Text("\n".join(lines) + "\n", style="dim")


def speed_table(job: Job, cold: dict[str, float] | None, warm: dict[str, float]) -> Group:
    """Times of the whole model; those taken on a sample are scaled up by the number of its parameters."""
    total, scale = count(job.table), count(job.table) / count(job.sample)
    width, numpy_dtype = job.storage.itemsize, measuring.numpy_dtype(job)
    threads = "1 thread" if job.threads == 1 else f"{job.threads} threads"
    rows = {
        "fastinit": (f"fastinit, {threads}", width),
        "memset": (f"memset, {threads}", width),
        "numpy": (f"NumPy {numpy_dtype}, 1 thread", numpy_dtype.itemsize),
    }
    table = plain_table("the whole model", ">time", ">G values/s", ">GB/s", "")
    places = [("cold memory", cold, "the system hands out its pages"), ("warm memory", warm, "written before")]
    for place, seconds, what in places:
        if seconds is None:
            continue
        table.add_row(Text(place, style="dim"), "", "", "", Text(what, style="dim"))
        ours = seconds["fastinit"]
        for name, (label, itemsize) in rows.items():
            elapsed = seconds[name] * scale
            rate = total / elapsed / 1e9
            remark = {
                "fastinit": "",
                "memset": f"fastinit takes {ours / seconds[name]:.1f} × that",
                "numpy": f"fastinit is {seconds[name] / ours:.3g} × as fast",
            }[name]
            style = "bold" if name == "fastinit" else ""
            table.add_row(
                f"  {label}", f"{elapsed * 1e3:,.1f} ms", f"{rate:.2f}", f"{rate * itemsize:.1f}", remark, style=style
            )
    return Group(table, sample_note(job, "Timed on"))


def digest_table(job: Job, digests: dict[tuple[str, int], str]) -> Group:
    reference = next(iter(digests.values()))
    table = plain_table("target", ">threads", "BLAKE2b", "same")
    for (target, threads), digest in digests.items():
        table.add_row(target, str(threads), digest, tick(digest == reference))
    return Group(table, sample_note(job, "Taken of"))


def sample_note(job: Job, verb: str) -> Text:
    if not job.huge:
        return Text("")
    part = f"{count(job.sample) / 1e6:,.0f} of {count(job.table) / 1e6:,.0f} million parameters"
    return Text(f"{verb} the first tensor of each kind and shape, {part}.\n", style="dim")


def verdict(failures: list[str], tensors: int) -> Text:
    if failures:
        return Text("\n".join(["FAILED", *failures[:10]]), style="bold red")
    good = f"All {tensors} tensors hold what the recipe says, and every run wrote the same bytes."
    return Text(good, style="bold green")


# Formatting.


def describe(rule: Initializer) -> str:
    match rule:
        case VarianceScaling(scale=scale, mode=mode, distribution="uniform"):
            return f"U(±√({3 * scale:g}/{mode}))"
        case VarianceScaling(scale=scale, mode=mode):
            return f"N(0, √({scale:g}/{mode}))"
        case Uniform(low=low, high=high) if low == -high:
            return f"U(±{high:.4g})"
        case Normal(mean=mean, std=std):
            return f"N({mean:g}, {std:.4g})"
        case TruncatedNormal(mean=mean, std=std, high=high, bounds=bounds):
            return f"N({mean:g}, {std:.4g}), ±{high:g}{'σ' if bounds == 'sigma' else ''}"
        case _:
            return f"{rule.value:g}"


def by_kind(observations: list[Observation]) -> dict[str, list[Observation]]:
    groups: dict[str, list[Observation]] = {}
    for observation in observations:
        groups.setdefault(observation.parameter.kind, []).append(observation)
    return groups


def pooled_std(weights: list[int], variances: list[float]) -> float:
    return math.sqrt(sum(w * v for w, v in zip(weights, variances, strict=True)) / sum(weights))


def count(table: list[Parameter]) -> int:
    return sum(p.size for p in table)


def size(job: Job, table: list[Parameter]) -> str:
    return f"{job.bytes_of(table) / 1e9:.3g} GB" if job.bytes_of(table) > 1e9 else f"{job.bytes_of(table) / 1e6:.1f} MB"


def number(value: float) -> str:
    return f"{value:#.5g}" if value else "0"


def tick(good: bool) -> Text:
    return Text("✓", style="green") if good else Text("✗", style="bold red")


def plain_table(*headings: str, gap: int = 2) -> Table:
    """A table without side rules. A heading that starts with ">" marks a column of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap - 1, 0, 0), show_edge=False)
    for heading in headings:
        if heading.startswith(">"):
            table.add_column(heading[1:], justify="right", no_wrap=True)
        else:
            table.add_column(heading, no_wrap=heading == "initializer")
    return table


@contextmanager
def filling_bar(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over the bytes of the model, removed when full. Nothing if the output is not a terminal."""
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = ("filling", progress.BarColumn(), progress.DownloadColumn(), progress.TransferSpeedColumn())
    with progress.Progress(*columns, console=console, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task("", total=total)
        yield lambda step: bar.advance(task, step)


@contextmanager
def working(console: Console, what: str) -> Iterator[None]:
    """A line with the current step, on a terminal only. Redrawn rarely, because it shares the cores."""
    if not console.is_terminal:
        yield
        return
    with console.status(what, refresh_per_second=1):
        yield


if __name__ == "__main__":
    sys.exit(main())
