"""What a plan is made from: a plan, the header of a checkpoint, or a model that a framework's adapter builds."""

from __future__ import annotations

import fnmatch
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import fastinit
from fastinit import Entry, Initializer, Key
from fastinit.checkpoints.formats import format_named
from fastinit.checkpoints.plans import Plan, Tensor
from fastinit.checkpoints.reading import read_checkpoint
from fastinit.checkpoints.sources import Filled, Source, Values
from fastinit.checks import shown
from fastinit.dtypes import DTYPES

__all__ = ["Origin", "plan_like", "plan_of"]


@dataclass(frozen=True)
class Origin:
    """What to make a plan from, and how.

    Attributes
    ----------
    source : str
        A plan's JSON, a ``config.json`` or its folder, a safetensors file or index or its folder, the folder of a DCP
        checkpoint, or ``module:function``.
    recipe : str or None
        Name of a recipe; by default the author's own scheme.
    seed : int or str
    dtype : str or None
        Of the floating-point tensors; by default the one that each has.
    rules : sequence of (str, Initializer)
        For a checkpoint as a template: patterns of names, and what fills the tensors. The last that matches counts.
    tiny : bool
        Whether a configuration is shrunk.
    trust_remote_code : bool
        Whether a configuration may run code that lies beside it.
    notes : list of str
        What was decided on the way, for the user.

    Examples
    --------
    >>> Origin("gpt2/config.json", dtype="bfloat16").seed
    0
    """

    source: str
    recipe: str | None = None
    seed: int | str = 0
    dtype: str | None = None
    rules: Sequence[tuple[str, Initializer]] = ()
    tiny: bool = False
    trust_remote_code: bool = False
    notes: list[str] = field(default_factory=list)


def plan_of(origin: Origin) -> Plan:
    """The plan of what a source describes.

    Parameters
    ----------
    origin : Origin
        The source and the choices.

    Raises
    ------
    OSError
        If it cannot be read, or there is nothing of this name: FileNotFoundError.
    ValueError, TypeError
        If it is of no known kind, or as the adapter's functions.
    ImportError
        If it needs a framework that is not installed.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastinit.checkpoints import Plan
    >>> path = os.path.join(tempfile.mkdtemp(), "plan.json")
    >>> Plan(()).save(path)
    >>> len(plan_of(Origin(path)))
    0
    """
    source = origin.source
    if os.path.isdir(source):
        names = set(os.listdir(source))
        if "config.json" in names:
            source = os.path.join(source, "config.json")
        elif ".metadata" in names:
            return plan_like(_adapter().dcp_tensors(source), origin)
        else:
            return _of_template(source, origin)
    if os.path.isfile(source):
        if os.path.basename(source) == "config.json":
            return _checked(_adapter().pretrained_plan(source, origin))
        if not source.endswith(".json") or source.endswith(".index.json"):
            return _of_template(source, origin)
        return _known(Plan.load(source))
    module, colon, function = source.partition(":")
    if colon and function.isidentifier() and all(part.isidentifier() for part in module.split(".")):
        return _built(module, function, origin)
    raise FileNotFoundError(f"{shown(source)} is neither a file nor a folder, and not the module:function of a model")


def _built(module: str, function: str, origin: Origin) -> Plan:
    """The plan of the model that a function builds: of Keras, which its module imports, or else of PyTorch."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    build = getattr(importlib.import_module(module), function)
    if "keras" in sys.modules:
        made = importlib.import_module("fastinit.adapters.keras.plans").built_plan(build, origin)
        if made is not None:
            return _checked(made)
    return _checked(_adapter().built_plan(module, function, origin))


def _adapter() -> Any:
    """The module of the PyTorch adapter that knows other sources; imported only where one is asked for."""
    try:
        return importlib.import_module("fastinit.adapters.torch.origins")
    except ModuleNotFoundError as problem:
        raise ModuleNotFoundError(f"this source needs {problem.name}: pip install {problem.name}") from None


def _checked(plan: Any) -> Plan:
    assert isinstance(plan, Plan)
    return plan


def _known(plan: Plan) -> Plan:
    """A plan whose operators can be run: it imports the adapters that they need."""
    for framework in sorted(plan.frameworks & {"torch"}):
        importlib.import_module(f"fastinit.adapters.{framework}")
    return plan


def _of_template(path: str, origin: Origin) -> Plan:
    """The plan of a checkpoint's tensors: its own where it carries one, or that of the rules."""
    found = read_checkpoint(path)
    carried = found.plan
    if carried is not None and not origin.rules:
        return _known(carried)
    return plan_like([(stored.name, stored.shape, stored.format.name) for stored in found], origin)


def plan_like(tensors: Sequence[tuple[str, tuple[int, ...], str]], origin: Origin) -> Plan:
    """The plan of tensors of which only names, shapes and dtypes are known: rules say what fills them.

    Parameters
    ----------
    tensors : sequence of (str, tuple of int, str)
        Name, shape and dtype of each.
    origin : Origin
        Seed, dtype and rules.

    Raises
    ------
    ValueError
        By name, for tensors that no rule covers, and for integers that a rule does not fill with zeros.

    Examples
    --------
    >>> import fastinit
    >>> origin = Origin("", rules=[("*", fastinit.Normal(std=0.02)), ("*.bias", fastinit.Zeros())])
    >>> plan = plan_like([("up.weight", (64, 32), "bfloat16"), ("up.bias", (64,), "bfloat16")], origin)
    >>> [tensor.source.entry.initializer for tensor in plan]
    [Normal(mean=0.0, std=0.02), Constant(value=0.0)]
    """
    made, uncovered = [], []
    for name, shape, dtype in tensors:
        matching = [rule for rule in origin.rules if fnmatch.fnmatchcase(name, rule[0])]
        if not matching:
            uncovered.append(name)
            continue
        pattern, initializer = matching[-1]
        made.append(Tensor(name, _source(name, shape, dtype, pattern, initializer, origin)))
    if uncovered:
        raise ValueError(
            f"no rule covers {', '.join(map(shown, uncovered[:5]))}{' ...' * (len(uncovered) > 5)} "
            f"({len(uncovered)} of {len(tensors)} tensors): a checkpoint says nothing of how its tensors were "
            "initialized, so give rules"
        )
    return Plan(tuple(made), origin.seed, "rules")


def _source(
    name: str, shape: tuple[int, ...], dtype: str, pattern: str, initializer: Initializer, origin: Origin
) -> Source:
    if dtype not in DTYPES:
        if initializer != fastinit.Zeros():
            raise ValueError(f"{name!r} is of {dtype}: only zeros can fill it, got the rule {shown(initializer)}")
        return Values(dtype, shape, bytes(format_named(dtype).nbytes(shape)))
    key = Key(origin.seed).fold_in(name)
    return Filled(Entry(name, shape, f"rule {pattern}", initializer, key, dtype=origin.dtype or dtype))
