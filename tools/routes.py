"""Counts how often a tensor or a model passes from file to file: ``python -m tools.routes``.

It traces calls. A file of the package counts if a call there receives the tensor, its shape, the model, or one of the
model's modules and parameters. It also runs on older commits, for comparisons.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from fastinit.adapters.torch import init, initialize_


def place(code: CodeType) -> str | None:
    """The package's file that contains the code; None for other code."""
    path = os.path.realpath(code.co_filename).replace(os.sep, "/")
    inside = max(path.rfind("/fastinit/"), path.rfind("/adapters/"))
    return None if inside < 0 or "site-packages/torch/" in path else path[inside + 1 :].removeprefix("fastinit/")


def route(call: Callable[[], object], carries: Callable[[Any], bool]) -> list[str]:
    """The files that a value passes, there and back, during a call."""
    stack: list[str | None] = []
    places: list[str] = []

    def follow(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            here = place(frame.f_code)
            stack.append(here if here and any(map(carries, list(frame.f_locals.values()))) else None)
        elif event == "return" and stack:
            stack.pop()
        else:
            return
        here = next((one for one in reversed(stack) if one), None)
        if here and places[-1:] != [here]:
            places.append(here)

    sys.setprofile(follow)
    try:
        call()
    finally:
        sys.setprofile(None)
    return places


TENSORS: dict[str, tuple[Callable[[], torch.Tensor], Callable[[torch.Tensor], object]]] = {
    "plain": (lambda: torch.empty(16, 16), init.kaiming_normal_),
    "with a key": (lambda: torch.empty(16, 16), lambda tensor: init.kaiming_normal_(tensor, key=1)),
    "grouped": (lambda: torch.empty(16, 4, 3, 3), lambda tensor: init.kaiming_normal_(tensor, groups=4)),
    "transposed": (lambda: torch.empty(16, 16).T, init.kaiming_normal_),
    "meta": (lambda: torch.empty(16, 16, device="meta"), init.kaiming_normal_),
    "complex": (lambda: torch.empty(16, 16, dtype=torch.complex64), init.kaiming_normal_),
}


def of_tensor(make: Callable[[], torch.Tensor], fill: Callable[[torch.Tensor], object]) -> list[str]:
    """The route of a tensor with warm caches."""
    fill(make())
    tensor = make()
    shape = tensor.shape
    return route(lambda: fill(tensor), lambda value: value is tensor or value is shape)


def of_model() -> list[str]:
    """The route of a model of three layers and six parameters."""
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    initialize_(model, seed=1)
    parts = {id(part) for part in (*model.modules(), *model.parameters())}

    def carries(value: Any, depth: int = 2) -> bool:
        if id(value) in parts:
            return True
        return depth > 0 and isinstance(value, (list, tuple)) and any(carries(one, depth - 1) for one in value)

    return route(lambda: initialize_(model, seed=0), carries)


def main() -> None:
    warnings.simplefilter("ignore")
    print("changes of place of kaiming_normal_'s tensor, and of initialize_'s model")
    for name, (make, fill) in TENSORS.items():
        places = of_tensor(make, fill)
        print(f"{name:12} {len(places):3}  {' '.join(places)}")
    places = of_model()
    print(f"{'model':12} {len(places):3}  {' '.join(places)}")


if __name__ == "__main__":
    main()
