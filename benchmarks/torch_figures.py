"""The figures of the PyTorch adapter: drop-in functions, modules, whole models and shards, each beside torch's own."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import fastinit

if __package__:
    from . import growth, side_by_side
    from .lab import Lab, Result, Row, duration, under
    from .report import Bar
else:  # run as a script
    import growth
    import side_by_side
    from lab import Lab, Result, Row, duration, under
    from report import Bar

MESH = (8, 8)
FUNCTIONS = {
    "xavier_uniform_": {},
    "kaiming_normal_": {},
    "trunc_normal_": {"std": 0.02, "a": -0.04, "b": 0.04},
}


def adapter(lab: Lab) -> Any:
    assert lab.torch
    import fastinit.adapters.torch

    return fastinit.adapters.torch


def drop_in(lab: Lab, name: str, n: int) -> Result:
    """One function on a square matrix in warm memory, against torch's of the same name."""
    torch, arguments = lab.torch, FUNCTIONS[name]
    n = min(n, lab.side)
    tensor = torch.from_numpy(lab.memory[: n * n].reshape(n, n))
    ours = partial(getattr(adapter(lab).init, name), tensor, **arguments)
    return lab.compare(ours, partial(getattr(torch.nn.init, name), tensor, **arguments), 4 * n * n, "torch")


def small_drop_in(lab: Lab, name: str, n: int) -> Result:
    """The same on a matrix so small that the call is what counts."""
    torch, arguments = lab.torch, FUNCTIONS[name]
    tensor = torch.zeros(n, n)
    functions = (getattr(adapter(lab).init, name), getattr(torch.nn.init, name))
    counts = {"blocks": 5, "calls": 20} if lab.quick else {"blocks": 20, "calls": 200}
    ours, theirs = ([], [])
    for _ in range(lab.rounds):
        for function, times in zip(functions, (ours, theirs), strict=True):
            times.extend(side_by_side.per_call(lambda f=function: f(tensor, **arguments), groups=1, **counts))
    ratios = [peer / own for own, peer in zip(ours, theirs, strict=True)]
    return Result(ratios, f"{duration(min(ours))}; torch {duration(min(theirs))}")


def constructed(lab: Lab) -> Result:
    """Layers constructed in fresh memory under patched(), against torch's own constructors."""
    torch, width = lab.torch, 64 if lab.quick else 4096
    patched = adapter(lab).patched

    def construct() -> Any:
        return torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(16))

    def ours() -> Any:
        with patched():
            return construct()

    nbytes = 16 * 4 * width * width
    return lab.compare(ours, construct, nbytes, "torch", fresh=2 * nbytes)


def gpt2_xl(lab: Lab) -> Callable[[], Any]:
    """The constructor of a model of the size of GPT-2 XL: 1.56e9 parameters."""
    transformers = side_by_side.optional("transformers")
    size = {"n_embd": 64, "n_layer": 2, "n_head": 4} if lab.quick else {"n_embd": 1600, "n_layer": 48, "n_head": 25}
    return partial(transformers.GPT2LMHeadModel, transformers.GPT2Config(**size))


# Bytes of GPT-2 XL in float32.
GPT2_XL = 4 * 1_557_611_200


def gpt2_constructed(lab: Lab) -> Result:
    """Under patched(), against torch constructing the same model, both in float32 and fresh memory."""
    assert lab.torch
    build, patched = gpt2_xl(lab), adapter(lab).patched

    def ours() -> Any:
        with patched():
            return build()

    found = (lab if lab.quick else lab.with_rounds(3)).compare(ours, build, 0, "torch", fresh=GPT2_XL)
    gc.collect()
    return found


def materialized(lab: Lab) -> Result:
    """From meta into bfloat16, against torch constructing the model as usual, both in fresh memory."""
    torch, build, materialize = lab.torch, gpt2_xl(lab), adapter(lab).materialize

    def ours() -> Any:
        with torch.device("meta"):
            model = build()
        materialize(model, dtype=torch.bfloat16)
        return model

    found = (lab if lab.quick else lab.with_rounds(3)).compare(ours, build, 0, "torch", fresh=GPT2_XL)
    gc.collect()
    return found


def shards_of_a_mesh(lab: Lab, initializer: fastinit.Initializer) -> Result:
    """Time of 64 shards over the time of the whole: all in turn, so that both write as much memory."""
    torch, fill_ = lab.torch, adapter(lab).fill_
    side = 1024 if lab.quick else 16384
    whole = torch.zeros(side, side)
    rows, columns = (side // n for n in MESH)
    shards = whole.view(-1, rows, columns)
    offsets = [(rows * i, columns * j) for i in range(MESH[0]) for j in range(MESH[1])]

    def in_turn() -> None:
        for shard, begin in zip(shards.unbind(), offsets, strict=True):
            fill_(shard, initializer, lab.key, global_shape=whole.shape, offsets=begin)

    found = lab.compare(lambda: fill_(whole, initializer, lab.key), in_turn, whole.nbytes, "64 shards in turn")
    return found._replace(note=f"whole {found.note}")


def memory_of_a_shard(lab: Lab) -> Result:
    """KiB beyond the shard itself while one of 1024 shards of a matrix that no memory holds is filled."""
    torch, fill_ = lab.torch, adapter(lab).fill_
    shard = torch.zeros(2048, 2048)
    options = {"global_shape": (2**20, 2**20), "offsets": (2**19, 2**19)}
    fill_(shard[:8, :8], fastinit.Normal(), lab.key, **options)
    found = growth.growth(lambda: fill_(shard, fastinit.Normal(), lab.key, **options))
    return Result([found / 1024], f"a shard of {shard.nbytes >> 20} MiB of a tensor of 4 TiB")


ROWS = (
    Row("init.xavier_uniform_ 4096x4096 against torch's", Bar(12), partial(drop_in, name="xavier_uniform_", n=4096)),
    Row("init.kaiming_normal_ 4096x4096 against torch's", Bar(9), partial(drop_in, name="kaiming_normal_", n=4096)),
    Row("init.trunc_normal_ 4096x4096 against torch's", Bar(80), partial(drop_in, name="trunc_normal_", n=4096)),
    *(
        Row(f"init.{name} {n}x{n} against torch's", Bar(least), partial(small_drop_in, name=name, n=n))
        for n, least in ((64, 1.5), (16, 1.0))
        for name in FUNCTIONS
    ),
    Row("16 x Linear(4096, 4096) under patched(), fresh memory, against torch's", Bar(5), constructed),
    Row("GPT-2 XL materialized in bfloat16 against torch constructing it", Bar(10), materialized),
    Row("a 1/64 shard (8 x 8 mesh) of 16384x16384 against 1/64 of the whole: uniform", under(1.5),
        partial(shards_of_a_mesh, initializer=fastinit.Uniform(-0.05, 0.05))),
    Row("a 1/64 shard (8 x 8 mesh) of 16384x16384 against 1/64 of the whole: normal", under(1.5),
        partial(shards_of_a_mesh, initializer=fastinit.Normal(0.0, 0.02))),
    Row("a shard's memory beyond its own: one of 2^18", under(1024), memory_of_a_shard, "KiB"),
)  # fmt: skip
