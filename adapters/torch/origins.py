"""Plans from what only PyTorch reads: a configuration of transformers, a function of a module."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastinit.adapters.torch.balancing import balanced
from fastinit.adapters.torch.configurations import STEMS, library_of, model_of
from fastinit.adapters.torch.deferring import deferred
from fastinit.adapters.torch.internals import address_of, built_from, ignored_on_save, takes_configuration
from fastinit.adapters.torch.plans import plan
from fastinit.adapters.torch.quantizing import quantized_plan
from fastinit.adapters.torch.tape import DeferralError
from fastinit.adapters.torch.tiny import tiny_config
from fastinit.checkpoints import Filled, Origin, Plan
from fastinit.checkpoints import Tensor as Planned
from fastinit.extending import shown

__all__ = ["built_plan", "pretrained_plan"]


def _dtype(origin: Origin) -> torch.dtype | None:
    return None if origin.dtype is None else getattr(torch, origin.dtype)


# A function that builds a model


def built_plan(module: str, function: str, origin: Origin) -> Plan:
    """The plan of the model that a function of a module builds, called without arguments under ``deferred()``.

    Parameters
    ----------
    module, function : str
        Their names; the module is looked for in the current folder, too.
    origin : Origin
        Recipe, seed and dtype.

    Raises
    ------
    ImportError, AttributeError
        If there is no such module or function.
    ValueError
        If its model cannot be deferred.
    TypeError
        If it gives anything but a ``torch.nn.Module``. Keras's models are ones on its torch backend, but built by
        another adapter, which needs ``import keras`` outside the function.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    build = getattr(importlib.import_module(module), function)
    try:
        with deferred():
            model = build()
    except DeferralError as problem:
        raise ValueError(f"{module}:{function} cannot be deferred: {problem}") from problem
    if any(base.__module__.partition(".")[0] == "keras" for base in type(model).__mro__):
        raise TypeError(f"{module}:{function} gives a model of Keras: {module} must import keras outside the function")
    if not isinstance(model, nn.Module):
        raise TypeError(f"{module}:{function} must give a torch.nn.Module, got {shown(model)}")
    return plan(model, origin.recipe, origin.seed, dtype=_dtype(origin))


# A configuration


def pretrained_plan(path: str, origin: Origin) -> Plan:
    """The plan of a checkpoint of the model that a configuration describes, in its author's own scheme.

    The tensors have the names and the layout of ``save_pretrained``, where the model's conversions only slice and
    transpose; otherwise those that the model has in memory. ``from_pretrained`` reads both.

    Parameters
    ----------
    path : str
        A ``config.json`` of transformers, diffusers or timm. A ``generation_config.json`` beside it is copied.
    origin : Origin
        Recipe, seed and dtype; for transformers also `tiny`, `trust_remote_code`, `quantize` and `balanced_experts`.

    Raises
    ------
    ValueError
        If the configuration is not one, or needs code that lies beside it and `trust_remote_code` is False; for a
        choice that only transformers' models have.
    """
    with open(path, encoding="utf-8") as file:
        text = file.read()
    written = json.loads(text)
    if not isinstance(written, dict):
        raise ValueError(f"{path} must hold an object, got {shown(written)}")
    library = library_of(written)
    if library == "transformers":
        return _transformers_plan(path, written, origin)
    if origin.tiny or origin.balanced_experts or origin.quantize is not None:
        raise ValueError(
            f"only models of transformers can be shrunk, quantized or balanced, and {path} is one of {library}"
        )
    with _building(path, library), deferred():
        model = model_of(written, os.path.dirname(path) or ".", library)
    made = plan(model, origin.recipe, origin.seed, dtype=_dtype(origin))
    return replace(made, files={"config.json": text}, stem=STEMS[library])


def _transformers_plan(path: str, written: dict[str, Any], origin: Origin) -> Plan:
    """The same for a configuration of transformers, which was read from a path."""
    from transformers import AutoConfig

    folder = os.path.dirname(path)
    if not origin.trust_remote_code and _needs_code(written):
        raise ValueError(f"{path} needs code of its own (auto_map): it runs only with trust_remote_code")
    with _building(path, "transformers"):
        config = AutoConfig.from_pretrained(folder or ".", trust_remote_code=origin.trust_remote_code)
    if origin.tiny:
        config, changes = tiny_config(config, lambda one: _model_of(one, origin))
        origin.notes.extend(changes)
        version = written.get("transformers_version")
        written = json.loads(config.to_json_string())
        written["transformers_version"] = version  # the same file with every version
        if version is None:
            del written["transformers_version"]
    if origin.dtype is not None:
        written["dtype"] = origin.dtype
        _set_dtype(written, origin.dtype)
    with _building(path, "transformers"), deferred():
        model = _model_of(config, origin)
    made = plan(model, origin.recipe, origin.seed, dtype=_dtype(origin), without=_not_saved(model))
    if origin.balanced_experts:
        made, notes = balanced(model, made)
        origin.notes.extend(notes)
    made = saved_layout(model, made)
    if written.pop("quantization_config", None) is not None and origin.quantize is None:
        origin.notes.append("not quantized: the configuration's quantization_config is left out")
    if origin.quantize is not None:
        made, written["quantization_config"], notes = quantized_plan(model, made, origin.quantize)
        origin.notes.extend(notes)
    files = {"config.json": json.dumps(written, indent=2, ensure_ascii=False) + "\n"}
    generation = os.path.join(folder, "generation_config.json")
    if os.path.isfile(generation):
        with open(generation, encoding="utf-8") as file:
            files["generation_config.json"] = file.read()
    if _needs_code(written):
        files |= _code_of(folder, written)
    return replace(made, files=files)


@contextmanager
def _building(path: str, library: str) -> Iterator[None]:
    """Says which configuration it is that a library cannot build, whatever its error."""
    try:
        yield
    except (ImportError, OSError):
        raise
    except Exception as problem:
        raise ValueError(
            f"{library} cannot build the model of {path}: {type(problem).__name__}: {problem}"
        ) from problem


def _needs_code(config: Mapping[str, Any]) -> bool:
    from transformers import CONFIG_MAPPING

    return "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING


def _code_of(folder: str, config: Mapping[str, Any]) -> dict[str, str]:
    """The modules beside a configuration that it needs, so that the checkpoint is complete."""
    from transformers.dynamic_module_utils import get_relative_import_files

    references = [one for some in config["auto_map"].values() for one in (some if isinstance(some, list) else [some])]
    here = {one.partition(".")[0] for one in references if isinstance(one, str) and "--" not in one}
    modules = [os.path.join(folder, f"{module}.py") for module in sorted(here)]
    found = {}
    for path in [*modules, *(other for module in modules for other in get_relative_import_files(module))]:
        with open(path, encoding="utf-8") as file:
            found[os.path.basename(path)] = file.read()
    return found


def _set_dtype(config: dict[str, Any], dtype: str) -> None:
    """Changes the dtype that a configuration says, and those that the configurations in it say."""
    for name, value in config.items():
        if name in ("dtype", "torch_dtype") and isinstance(value, str):
            config[name] = dtype
        elif isinstance(value, dict):
            _set_dtype(value, dtype)


def _model_of(config: Any, origin: Origin) -> nn.Module:
    """The model of the class that the configuration names first, or of the one that its type has."""
    import transformers

    options = {} if origin.dtype is None else {"dtype": _dtype(origin)}
    own = type(config).__module__.rpartition(".")[0]  # a class that transformers has, but not under its name there
    places = [transformers, *([importlib.import_module(own)] if own.startswith("transformers.") else [])]
    for name in getattr(config, "architectures", None) or ():
        for place in places:
            kind = getattr(place, name, None)
            if kind is not None:
                return built_from(kind, config, **options)
    code = getattr(config, "auto_map", None) or {} if origin.trust_remote_code else {}
    for name in ("AutoModelForCausalLM", "AutoModel", *sorted(code)):
        auto: Any = getattr(transformers, name, None)
        if auto is not None and (name in code or takes_configuration(auto, config)):
            made: nn.Module = auto.from_config(config, trust_remote_code=name in code, **options)
            return made
    raise ValueError(f"transformers has no model for {shown(config.model_type)}")


def _not_saved(model: Any) -> set[str]:
    """Names of the state dict that ``save_pretrained`` leaves out: tied tensors but the first, and ignored ones."""
    tensors = dict(model.state_dict(keep_vars=True))
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    found = {name for name, first in tied.items() if tensors.get(name) is tensors.get(first)}
    return found | {name for name in tensors if name in ignored_on_save(model)}


def saved_layout(model: Any, made: Plan) -> Plan:
    """The plan with the names and the layout that ``save_pretrained`` gives the tensors.

    transformers keeps experts and other weights packed, and unpacks them when it saves. Its own conversion is run on
    tensors without memory, and what each result is a view of says which slice of which parameter it is.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model.
    made : Plan
        Of its tensors, by the names that they have in memory.

    Returns
    -------
    Plan
        The same plan where the conversion does more than slice, transpose and rename.
    """
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before the fifth version nothing was packed
        return made
    known = {tensor.name: tensor for tensor in made}
    empty = {
        name: torch.empty(tensor.shape, dtype=getattr(torch, tensor.format.name), device="meta")
        for name, tensor in known.items()
    }
    bases = {address_of(tensor): name for name, tensor in empty.items()}
    try:
        with _NoCopies():
            converted = revert_weight_conversion(model, dict(empty))
    except Exception:
        return made
    found = []
    for name, view in converted.items():
        base = bases.get(address_of(view)) if isinstance(view, Tensor) else None
        own = None if base is None else _view_of(known[base], empty[base], view, name)
        if own is None:
            return made
        found.append(own)
    return replace(made, tensors=tuple(found))


class _NoCopies(TorchFunctionMode):
    """A mode in which ``contiguous()`` gives the view itself, so that it can be seen what it is a view of."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is Tensor.contiguous else func(*args, **(kwargs or {}))


def _view_of(tensor: Planned, base: Tensor, view: Tensor, name: str) -> Planned | None:
    """The slice of a planned tensor that a view of its empty twin shows; None where it is not a slice."""
    if view.shape == base.shape and view.stride() == base.stride() and not view.storage_offset():
        return Planned(name, tensor.source)
    source = tensor.source
    if not isinstance(source, Filled) or not source.is_whole:
        return None
    offsets, rest = [], int(view.storage_offset())
    for stride in base.stride():
        offsets.append(rest // stride if stride else 0)
        rest -= offsets[-1] * stride
    free = list(range(base.dim()))
    places: list[int | None] = [None] * view.dim()
    for axis in sorted(range(view.dim()), key=lambda axis: view.shape[axis] == 1):
        size, stride = view.shape[axis], view.stride(axis)
        for candidate in free:
            fits = offsets[candidate] + size <= base.shape[candidate]
            if fits and (size == 1 or base.stride(candidate) == stride):
                places[axis] = candidate
                free.remove(candidate)
                break
        else:
            return None
    extent = [1] * base.dim()
    for axis, place in enumerate(places):
        assert place is not None
        extent[place] = view.shape[axis]
    order = tuple(place for place in places if place is not None) + tuple(free)
    return Planned(name, Filled(source.entry, tuple(offsets), tuple(extent), order, tuple(free)))
