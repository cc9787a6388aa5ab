"""Restores buffers, and tensors that modules hold as plain attributes, without values.

A model built under ``deferred()`` has its buffers in memory, with their programs, so they can be restored after
``to_empty``. Other models may have buffers on the meta device. Three kinds of these can be restored: running statistics
of norms, buffers set by transformers' ``_init_weights``, and buffers set by a method
``init_weights(buffer_device=...)`` as in torchtitan. The caller supplies all others, or they are refused by name.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Container, Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn

from fastinit import Key, Parameter, canonical_name
from fastinit.adapters.torch.drawing import drawing_from
from fastinit.adapters.torch.internals import (
    MARK,
    PROGRAMS,
    SELF_MADE,
    initialize_as_transformers,
    is_as_constructed,
    is_pretrained,
    is_table,
    mark_as_constructed,
    own_buffers,
    own_parameters,
    programs_of,
)
from fastinit.adapters.torch.replaying import equal, rebuilt
from fastinit.extending import Keyed, Rename, program_keys, renamed_program, renaming

__all__ = [
    "attributes_of",
    "exchanged",
    "holding",
    "is_made_again",
    "keyed_buffers",
    "remake_buffers",
    "reset_norms",
    "restore_buffers",
    "statistics_of",
]

_STATISTICS: Final = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0}


def statistics_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """The running statistics among a module's buffers: a mean and a variance, in any norm, including custom ones."""
    found = {name: buffer for name, buffer in own_buffers(module).items() if name in _STATISTICS and buffer is not None}
    return found if {"running_mean", "running_var"} <= found.keys() else {}


def reset_norms(model: nn.Module, kept: Container[nn.Module] = ()) -> None:
    """Resets running statistics to mean 0, variance 1 and no batches, except in `kept` modules."""
    with torch.no_grad():
        for module in model.modules():
            for name, buffer in statistics_of(module).items() if module not in kept else ():
                buffer.fill_(_STATISTICS[name])


def exchanged(value: Any, function: Callable[[str, Tensor], Tensor], path: str = "", depth: int = 4) -> Any:
    """An attribute with its tensors replaced, also within lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return function(path, value)
    if depth and type(value) in (list, tuple):
        new = [exchanged(one, function, f"{path}[{place}]", depth - 1) for place, one in enumerate(value)]
        return value if all(map(_is, new, value)) else type(value)(new)
    if depth and type(value) is dict:
        changed = {key: exchanged(one, function, f"{path}[{key!r}]", depth - 1) for key, one in value.items()}
        return value if all(changed[key] is value[key] for key in value) else changed
    return value


def attributes_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The tensors that a module holds as plain attributes, with their locations."""
    found: list[tuple[str, Tensor]] = []

    def see(path: str, tensor: Tensor) -> Tensor:
        found.append((path, tensor))
        return tensor

    for name, value in holding(module):
        exchanged(value, see, name)
    return found


def holding(module: nn.Module) -> list[tuple[str, Any]]:
    """The plain attributes of a module that are, or may hold, tensors."""
    return [
        (name, value)
        for name, value in vars(module).items()
        if (isinstance(value, Tensor) or (type(value) in _HOLDING and value)) and not is_table(module, value)
    ]


_HOLDING: Final = frozenset({list, tuple, dict})


def _is(one: Any, other: Any) -> bool:
    return one is other


def restore_buffers(
    model: nn.Module,
    device: torch.device,
    key: Key,
    hook: Callable[[nn.Module], object] | None = None,
    rename: Rename | None = None,
) -> None:
    """Gives memory and values to buffers on the meta device, except those computed from the parameters.

    `hook` is called with the model first. `rename` maps to the names for keys of random buffers.

    Raises
    ------
    ValueError
        Names all buffers with unknown values. Then everything but the hook's changes is undone.
    """
    if hook is not None:
        hook(model)
    _call_init_weights(model, device)
    naming = renaming(rename)
    lost: list[str] = []
    before: list[tuple[nn.Module, dict[str, torch.Tensor]]] = []
    try:
        for prefix, module, trained in _with_pretrained(model, "", None):
            lost += _lost_attributes(prefix, module)
            known = set(own_buffers(module) if type(module).__name__ in SELF_MADE else statistics_of(module))
            known |= programs_of(module).keys()
            own = ((name, buffer) for name, buffer in own_buffers(module).items() if name not in known)
            meta = {name: buffer for name, buffer in own if buffer is not None and buffer.is_meta}
            if not meta:
                continue
            if trained is not None:
                before.append((module, meta))
                outer = naming(canonical_name(prefix + next(iter(meta)))).rpartition(".")[0]
                name = f"{outer}.buffers" if outer else "buffers"
                _restore_by_transformers(trained, module, meta, device, key.fold_in(name))
            lost += [prefix + name for name in meta if trained is None or _is_unset(own_buffers(module)[name])]
        if lost:
            raise ValueError(
                f"on the meta device, with values that cannot be known: {', '.join(lost)}. Build the model under "
                "deferred(), which keeps buffers in memory, or give buffers=, a function of the model that sets them"
            )
    except BaseException:
        for module, meta in before:
            own_buffers(module).update(meta)
        raise


def _call_init_weights(model: nn.Module, device: torch.device) -> None:
    """Lets a model set its buffers as torchtitan's models do. Its parameters are on the meta device, and not drawn."""
    function = getattr(model, "init_weights", None)
    if not callable(function) or not any(buffer.is_meta for buffer in model.buffers()):
        return
    try:
        takes = "buffer_device" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return
    if takes:
        with drawing_from(Key("init_weights")):
            function(buffer_device=device)


def remake_buffers(
    model: nn.Module,
    parameters: list[Parameter],
    seed: int | str,
    kept: Container[nn.Module] = (),
    rename: Rename | None = None,
) -> None:
    """Fills buffers from their programs, if they are random or have lost their values.

    Running statistics get the constructor's values, which may differ from those of a new norm. Random tensors that
    modules hold as plain attributes are filled too.

    A buffer has lost its values if it is on the meta device, or if both its memory and its values differ from those of
    construction. `parameters` are the model's, whose draws buffers may share. Buffers of `kept` modules stay. `rename`
    maps to the names for keys.
    """
    with torch.no_grad():
        for module, role, buffer, keyed in keyed_buffers(model, parameters, seed, kept, rename):
            if not is_made_again(module, role, buffer):
                continue
            values = rebuilt(keyed.initializer, buffer, keyed.key)
            if buffer.is_meta and role not in own_buffers(module):
                continue
            if buffer.is_meta:
                own_buffers(module)[role] = values
                mark_as_constructed(values)
            elif not equal(values, buffer):
                buffer.copy_(values)


def is_made_again(module: nn.Module, role: str, buffer: Tensor) -> bool:
    """Whether to fill a buffer from its program: it is random, or may have lost its values."""
    stays = is_as_constructed(buffer) and role not in statistics_of(module)
    return programs_of(module)[role].is_drawn or buffer.is_meta or not stays


def keyed_buffers(
    model: nn.Module,
    parameters: list[Parameter],
    seed: int | str,
    kept: Container[nn.Module] = (),
    rename: Rename | None = None,
) -> list[tuple[nn.Module, str, Tensor, Keyed]]:
    """The buffers and attributes with programs, each with its module, its role there, and its key.

    `parameters` are the model's, whose draws they may share. Those of `kept` modules are left out. `rename` maps to the
    names for keys.
    """
    buffers = [
        (canonical_name(f"{prefix}.{role}" if prefix else role), module, role, buffer)
        for prefix, module in model.named_modules()
        for role, buffer in (*own_buffers(module).items(), *_attributes_with_programs(module))
        if buffer is not None and role in vars(module).get(PROGRAMS, ()) and module not in kept
    ]
    if not buffers:
        return []
    naming = renaming(rename)
    described = []
    for name, module, role, buffer in buffers:
        program = renamed_program(programs_of(module)[role], name, naming(name), naming)
        described.append(Parameter(naming(name), tuple(buffer.shape), program=program))
    keyed = program_keys([*parameters, *described], seed)
    return [(module, role, buffer, keyed[naming(name)]) for name, module, role, buffer in buffers]


def _attributes_with_programs(module: nn.Module) -> list[tuple[str, Tensor]]:
    own = programs_of(module).keys() - own_parameters(module).keys() - own_buffers(module).keys()
    return attributes_of(module) if own else []


def _lost_attributes(prefix: str, module: nn.Module) -> list[str]:
    """Tensors computed on the meta device that their module has not registered."""
    return [prefix + path for path, tensor in attributes_of(module) if tensor.is_meta and not tensor.requires_grad]


def _with_pretrained(
    module: nn.Module, prefix: str, trained: nn.Module | None
) -> Iterator[tuple[str, nn.Module, nn.Module | None]]:
    """Every module with the innermost transformers model around it."""
    if is_pretrained(module):
        trained = module
    yield prefix, module, trained
    for name, child in module.named_children():
        yield from _with_pretrained(child, f"{prefix}{name}.", trained)


def _restore_by_transformers(
    trained: nn.Module, module: nn.Module, meta: dict[str, torch.Tensor], device: torch.device, key: Key
) -> None:
    """Sets buffers as transformers does when it loads a checkpoint. Parameters stay unchanged."""
    for name, buffer in meta.items():
        own_buffers(module)[name] = torch.full_like(buffer, _unset(buffer), device=device)
    marked = [tensor for tensor in module.parameters() if not (tensor.is_meta or hasattr(tensor, MARK))]
    try:
        for tensor in marked:
            setattr(tensor, MARK, True)
        with drawing_from(key):
            initialize_as_transformers(trained, module)
    finally:
        for tensor in marked:
            vars(tensor).pop(MARK, None)


def _unset(buffer: torch.Tensor) -> float | int:
    """A value that buffers do not contain."""
    if buffer.dtype == torch.bool:
        return 0
    return math.nan if buffer.is_floating_point() or buffer.is_complex() else torch.iinfo(buffer.dtype).min


def _is_unset(buffer: torch.Tensor | None) -> bool:
    """Whether an element still has that value. Always possible for booleans."""
    assert buffer is not None
    unset = _unset(buffer)
    return buffer.dtype == torch.bool or bool((buffer.isnan() if math.isnan(unset) else buffer == unset).any())
