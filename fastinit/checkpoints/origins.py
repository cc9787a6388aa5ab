"""Sources of plans: a saved plan, the header of a checkpoint, or a model built by a framework's adapter."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import fastinit
from fastinit import Entry, Initializer, Key
from fastinit.checkpoints.contents import Checkpoint
from fastinit.checkpoints.formats import format_named
from fastinit.checkpoints.libraries import built_plan, pretrained_plan
from fastinit.checkpoints.plans import Plan, Tensor
from fastinit.checkpoints.reading import read_checkpoint
from fastinit.checkpoints.sources import Filled, Source, Values
from fastinit.checks import one_of, shown
from fastinit.dtypes import DTYPES

__all__ = ["QUANTIZATIONS", "Origin", "plan_like", "plan_of"]


QUANTIZATIONS: Final = ("float8_block", "float8_tensor", "mxfp4", "nvfp4")
"""How a checkpoint can be quantized: see :class:`fastinit.checkpoints.Quantized`."""


@dataclass(frozen=True)
class Origin:
    """The source of a plan, and the choices.

    Attributes
    ----------
    source : str
        A plan's JSON, a ``config.json`` or its folder, a checkpoint of any format that
        :func:`fastinit.checkpoints.read_checkpoint` reads, or ``module:function``.
    recipe : str or None
        Name of a recipe; by default the author's own scheme.
    seed : int or str
    dtype : str or None
        Dtype of the floating-point tensors; by default each keeps its own.
    rules : sequence of (str, Initializer)
        For a checkpoint as a template: pairs of a name pattern and an initializer. The last match counts.
    tiny : bool
        Whether a configuration is shrunk.
    trust_remote_code : bool
        Whether a configuration may run code that lies beside it.
    quantize : str or None
        How the linear maps of a configuration's model are quantized: one of ``QUANTIZATIONS``.
    balanced_experts : bool
        Whether the experts of a configuration's model are to get about as many random tokens each.
    notes : list of str
        Messages for the user about decisions made while planning.

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
    quantize: str | None = None
    balanced_experts: bool = False
    notes: list[str] = field(default_factory=list)


def plan_of(origin: Origin) -> Plan:
    """The plan of a source.

    Parameters
    ----------
    origin : Origin
        The source and the choices.

    Raises
    ------
    OSError
        If the source cannot be read; FileNotFoundError if it does not exist.
    ValueError, TypeError
        If the source is not of a known kind, or as raised by the adapter.
    ImportError
        If the source needs a framework that is not installed.

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
    names = set(os.listdir(source)) if os.path.isdir(source) else set()
    if "config.json" in names:
        source = os.path.join(source, "config.json")
    if os.path.isfile(source) and os.path.basename(source) == "config.json":
        if origin.quantize is not None:
            one_of("quantize", origin.quantize, QUANTIZATIONS)
        return _checked(pretrained_plan(source, origin))
    if origin.quantize is not None or origin.balanced_experts:
        raise ValueError(f"only the model of a config.json can be quantized or balanced, got {shown(origin.source)}")
    if os.path.isdir(source):
        return _of_template(source, origin)
    if os.path.isfile(source):
        if not source.endswith(".json") or source.endswith(".index.json"):
            return _of_template(source, origin)
        return Plan.load(source)
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
        made = built_plan("keras")(build, origin)
        if made is not None:
            return _checked(made)
    return _checked(built_plan("torch")(module, function, origin))


def _checked(plan: Any) -> Plan:
    assert isinstance(plan, Plan)
    return plan


def _of_template(path: str, origin: Origin) -> Plan:
    """The plan of a checkpoint's tensors: its own where it carries one, or that of the rules."""
    with read_checkpoint(path) as found:
        carried = None if origin.rules else found.plan
        if carried is not None:
            return _with_values(carried, found)
        return plan_like([(stored.name, stored.shape, stored.format.name) for stored in found], origin)


def _with_values(plan: Plan, found: Checkpoint) -> Plan:
    """The plan with the values of which it has the digests alone, from the checkpoint that carries it."""
    tensors = []
    for tensor in plan:
        source = tensor.source
        if isinstance(source, Values) and source.data is None and tensor.name in found:
            data = found.read(tensor.name).tobytes()
            if hashlib.sha256(data).hexdigest() != source.digest:
                raise ValueError(f"{found.path}: {tensor.name!r} has other values than those of which it was written")
            source = Values(source.kind, source.shape, data)
        tensors.append(Tensor(tensor.name, source))
    return replace(plan, tensors=tuple(tensors))


def plan_like(tensors: Sequence[tuple[str, tuple[int, ...], str]], origin: Origin) -> Plan:
    """The plan of tensors with known names, shapes and dtypes, filled by rules.

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
