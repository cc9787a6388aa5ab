"""The figures of fastinit, each beside its peer in the same run: ``python benchmarks/figures.py``.

A figure is a ratio: fastinit and its peer are run in turn, A B A B, in the same warm memory with the same number of
threads allowed, and the median of the ratios of neighbouring runs is printed with their smallest and largest. Times and
rates beneath a figure are medians of the same runs. Peers that are not installed, and targets that this processor does
not run, are skipped.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fastinit
from fastinit.adapters import numpy as adapter

if __package__:
    from . import cuda_figures, growth, jax_figures, keras_figures, numba_figures, report, side_by_side, torch_figures
    from .lab import Lab, Result, Row, duration, under
    from .report import Bar, Figure
else:  # run as a script
    import cuda_figures
    import growth
    import jax_figures
    import keras_figures
    import numba_figures
    import report
    import side_by_side
    import torch_figures
    from lab import Lab, Result, Row, duration, under
    from report import Bar, Figure

UNIFORM = fastinit.Uniform(-0.05, 0.05)
NORMAL = fastinit.Normal(0.0, 0.02)
TRUNCATED = fastinit.TruncatedNormal(0.0, 0.02)
SHARDS = 8


# One function per kind of figure.


def torch_fill(
    lab: Lab,
    initializer: fastinit.Initializer,
    method: Callable[[Any, Any], object],
    target: str | None = None,
    dtype: str = "float32",
) -> Result:
    """A fill against torch's own of the same memory."""
    torch = lab.torch
    if target is not None and target not in fastinit.targets.supported():
        raise NotImplementedError(f"this build or this processor does not run the target {target}")
    out = lab.memory if dtype == "float32" else lab.memory.view(np.uint16)
    tensor = torch.from_numpy(out) if dtype == "float32" else torch.from_numpy(out.view(np.int16)).view(torch.bfloat16)
    ours = partial(lab.fill, initializer, out, dtype=dtype, target=target)
    return lab.compare(ours, lambda: method(torch, tensor), lab.memory.nbytes, "torch")


def torch_uniform(_: Any, tensor: Any) -> None:
    tensor.uniform_(-0.05, 0.05)


def torch_normal(_: Any, tensor: Any) -> None:
    tensor.normal_(0.0, 0.02)


def torch_truncated(torch: Any, tensor: Any) -> None:
    torch.nn.init.trunc_normal_(tensor, std=0.02, a=-0.04, b=0.04)


def memset(lab: Lab, initializer: fastinit.Initializer, zeros: bool = False) -> Result:
    name, write = (lab.memset_of_zeros if zeros else lab.memset).faster(lab.memory, lab.rounds)
    peer = partial(write, lab.memory)
    return lab.compare(partial(lab.fill, initializer), peer, lab.memory.nbytes, f"{name} (the faster memset)")


def two_threads(lab: Lab, initializer: fastinit.Initializer) -> Result:
    if lab.threads < 2:
        raise NotImplementedError("this process may use one processor only")
    two, one = (partial(lab.fill, initializer, num_threads=threads) for threads in (2, 1))
    return lab.compare(two, one, lab.memory.nbytes, "one thread")


def numpy_float64(lab: Lab) -> Result:
    out = lab.memory.view(np.float64)
    ours, peer = partial(lab.fill, fastinit.Normal(), out), partial(lab.generator.standard_normal, out=out)
    return lab.compare(ours, peer, out.nbytes, "NumPy PCG64")


def small_fill(lab: Lab, function: Callable[..., np.ndarray], torch_name: str) -> Result:
    """Microseconds of one 16x16 call; torch's are given where it is installed."""
    out = np.zeros((16, 16), np.float32)
    counts = {"groups": 5, "blocks": 5, "calls": 20} if lab.quick else {}
    samples = side_by_side.per_call(lambda: function(out=out, key=lab.key), **counts)
    try:
        torch = lab.torch
    except NotImplementedError:
        return Result([1e6 * sample for sample in samples], "")
    tensor = torch.from_numpy(out)
    peer = side_by_side.per_call(lambda: getattr(torch.nn.init, torch_name)(tensor), **counts)
    return Result([1e6 * sample for sample in samples], f"torch's {torch_name} {duration(min(peer))}")


def column_shard(lab: Lab, initializer: fastinit.Initializer) -> Result:
    """Time of the shards over the time of the whole: all eight in turn, so that both write as much memory."""
    shape = (lab.side, lab.side)
    shards = side_by_side.column_shards(shape, SHARDS, lab.memory)
    whole = lab.memory.reshape(shape)

    def in_turn() -> None:
        for out, offsets in shards:
            lab.fill(initializer, out, global_shape=shape, offsets=offsets)

    found = lab.compare(partial(lab.fill, initializer, whole), in_turn, whole.nbytes, f"{SHARDS} shards in turn")
    return found._replace(note=f"whole {found.note}")


def orthogonal(lab: Lab, n: int) -> Result:
    n = 64 if lab.quick else n
    torch, out = lab.torch, np.zeros((n, n), np.float32)
    tensor = torch.from_numpy(out)
    return lab.compare(
        partial(lab.fill, fastinit.Orthogonal(), out), lambda: torch.nn.init.orthogonal_(tensor), 0, "torch"
    )


def extra_memory(lab: Lab) -> Result:
    """KiB per thread, of every distribution and dtype; the figure is the largest."""
    found = growth.measured(lab.threads, lab.memory.nbytes // 4)
    worst = max(found, key=found.__getitem__)
    note = f"the most of {len(found)} distributions and dtypes, {worst}, on {lab.threads} threads"
    return Result([found[worst] / lab.threads / 1024], note)


def fresh_numpy(lab: Lab) -> Result:
    ours = lambda: lab.fill(NORMAL, lab.fresh())  # noqa: E731
    peer = lambda: lab.generator.standard_normal(out=lab.fresh(), dtype=np.float32)  # noqa: E731
    return lab.compare(ours, peer, lab.memory.nbytes, "NumPy PCG64", fresh=2 * lab.memory.nbytes)


def fresh_memset(lab: Lab) -> Result:
    name, write = lab.memset.faster(lab.memory, lab.rounds)
    ours, peer = (lambda: lab.fill(UNIFORM, lab.fresh())), (lambda: write(lab.fresh()))
    return lab.compare(ours, peer, lab.memory.nbytes, f"{name} (the faster memset)", fresh=2 * lab.memory.nbytes)


def huge_pages(lab: Lab, initializer: fastinit.Initializer) -> Result:
    def on(huge: bool) -> np.ndarray:
        with side_by_side.pages(huge):
            return lab.fill(initializer, lab.fresh())

    contestants = partial(on, True), partial(on, False)
    return lab.compare(*contestants, lab.memory.nbytes, "4 KiB pages", fresh=2 * lab.memory.nbytes)


def warm_and_fresh(lab: Lab, initializer: fastinit.Initializer) -> Result:
    ours, peer = partial(lab.fill, initializer), lambda: lab.fill(initializer, lab.fresh())
    return lab.compare(ours, peer, lab.memory.nbytes, "fresh", fresh=2 * lab.memory.nbytes)


WARM = (
    Row("uniform against torch uniform_", Bar(15, 20), partial(torch_fill, initializer=UNIFORM, method=torch_uniform)),
    Row("normal against torch normal_", Bar(12, 15), partial(torch_fill, initializer=NORMAL, method=torch_normal)),
    Row(
        "truncated normal +-2 sigma against torch trunc_normal_",
        Bar(120, 200),
        partial(torch_fill, initializer=TRUNCATED, method=torch_truncated),
    ),
    Row(
        "bfloat16 normal against torch's",
        Bar(15, 19),
        partial(torch_fill, initializer=NORMAL, method=torch_normal, dtype="bfloat16"),
    ),
    Row("uniform against memset with the same threads", Bar(0.5, 0.9), partial(memset, initializer=UNIFORM)),
    Row(
        "uniform against memset of zeros with the same threads",
        Bar(0.5, 0.9),
        partial(memset, initializer=UNIFORM, zeros=True),
    ),
    *(
        Row(
            f"target {target}: {name} against torch",
            bar,
            partial(torch_fill, initializer=initializer, method=method, target=target),
        )
        for target, bars in (("x86_v3", (Bar(9, 11), Bar(5.5, 7))), ("baseline", (Bar(4, 4.5), Bar(2.7, 3.4))))
        for name, initializer, method, bar in (
            ("uniform", UNIFORM, torch_uniform, bars[0]),
            ("normal", NORMAL, torch_normal, bars[1]),
        )
    ),
    Row("two threads against one: uniform", Bar(1.85), partial(two_threads, initializer=UNIFORM)),
    Row("two threads against one: normal", Bar(1.85), partial(two_threads, initializer=NORMAL)),
    Row("float64 normal against NumPy's standard_normal", Bar(15), numpy_float64),
    Row(
        "one 16x16 he_normal through the NumPy adapter with out=",
        under(6, 3),
        partial(small_fill, function=adapter.he_normal, torch_name="kaiming_normal_"),
        "us",
    ),
    Row(
        "one 16x16 xavier_uniform through the NumPy adapter with out=",
        under(6, 3),
        partial(small_fill, function=adapter.xavier_uniform, torch_name="xavier_uniform_"),
        "us",
    ),
    Row(
        "a column shard (1/8 of the columns) against 1/8 of the whole: uniform",
        under(1.3),
        partial(column_shard, initializer=UNIFORM),
    ),
    Row(
        "a column shard (1/8 of the columns) against 1/8 of the whole: normal",
        under(1.3),
        partial(column_shard, initializer=NORMAL),
    ),
    Row("orthogonal 1024 against torch.nn.init.orthogonal_", Bar(1.3, 2), partial(orthogonal, n=1024)),
    Row("orthogonal 4096 against torch.nn.init.orthogonal_", Bar(1.3, 2), partial(orthogonal, n=4096)),
    Row("extra memory per thread during any elementwise fill", under(1024), extra_memory, "KiB"),
)
FRESH = (
    Row("normal against NumPy's standard_normal, fresh memory each", None, fresh_numpy),
    Row("uniform against memset, fresh memory each", None, fresh_memset),
    Row("uniform, huge pages against 4 KiB pages", None, partial(huge_pages, initializer=UNIFORM)),
    Row("normal, huge pages against 4 KiB pages", None, partial(huge_pages, initializer=NORMAL)),
    Row("uniform, warm memory against fresh", None, partial(warm_and_fresh, initializer=UNIFORM)),
    Row("normal, warm memory against fresh", None, partial(warm_and_fresh, initializer=NORMAL)),
)
SECTIONS = {
    "Warm memory": WARM,
    "Fresh memory": FRESH,
    "PyTorch adapter": torch_figures.ROWS,
    "Keras adapter, fresh memory": keras_figures.ROWS,
    "JAX adapter, fresh memory": jax_figures.ROWS,
    "Numba adapter": numba_figures.ROWS,
    "CUDA device": cuda_figures.ROWS,
}


def measure(lab: Lab, section: str, row: Row) -> Figure:
    try:
        found = row.measure(lab)
    except NotImplementedError as reason:
        return Figure(section, row.what, row.unit, row.bar, skipped=str(reason))
    return Figure(section, row.what, row.unit, row.bar, tuple(found.samples), found.note, judged=not lab.quick)


def heading(lab: Lab) -> list[str]:
    """When, on what, with which versions."""
    versions = ", ".join(f"{name} {version}" for name, version in lab.versions().items())
    size = f"{lab.memory.nbytes / 2**20:g} MiB"
    lines = [
        f"{datetime.datetime.now(datetime.UTC).date()}, {side_by_side.processor()}, {lab.load} at the start",
        f"{versions}; target {fastinit.targets.current()}, {lab.threads} threads, buffers of {size}",
    ]
    return [*lines, "A quick run: too small to be compared with the targets."] if lab.quick else lines


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="small buffers, to see that everything runs")
    parser.add_argument("--only", default="", metavar="TEXT", help="the figures whose name contains this")
    parser.add_argument("--section", choices=SECTIONS, help="the figures of one section")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample there")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    options = parser.parse_args(argv)
    lab = Lab(options.quick)
    chosen = [
        (section, row)
        for section, rows in SECTIONS.items()
        for row in rows
        if options.only in row.what and options.section in (None, section)
    ]
    figures = [measure(lab, section, row) for section, row in report.each(chosen, lambda one: one[1].what)]
    lines = heading(lab)
    if options.markdown:
        print(report.markdown(figures, lines))
    else:
        report.show(figures, lines)
    if options.json:
        record = {"heading": lines, "versions": lab.versions(), "figures": [figure.as_dict() for figure in figures]}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
