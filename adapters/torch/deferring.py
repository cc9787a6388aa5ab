"""Deferred constructors: parameters end up on the meta device, each with the program of its initialization.

with deferred():
    model = Transformer(configuration)
materialize(model, seed=0, dtype=torch.bfloat16)
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from fastinit import Key, Program, Replayed, canonical_name
from fastinit.adapters.torch.buffers import attributes_of, exchanged, holding
from fastinit.adapters.torch.histories import Data, State, View, calls_of, first_draw
from fastinit.adapters.torch.internals import (
    carry_hooks,
    has_memory_of_its_own,
    is_initialized,
    keep_program,
    mark_as_constructed,
    own_buffers,
    own_parameters,
    programs_of,
    swapped,
)
from fastinit.adapters.torch.patching import patched
from fastinit.adapters.torch.recording import deferring, is_deferring, not_deferring
from fastinit.adapters.torch.replaying import equal, evaluated, rebuilt
from fastinit.adapters.torch.tape import DeferralError, Tape
from fastinit.adapters.torch.tensors import DTYPES, Kind, kind_of
from fastinit.adapters.torch.translating import program_of
from fastinit.extending import with_origins

__all__ = ["deferred", "settle_rest", "verified"]

# Maximum length of a stored graph for a buffer; longer ones are stored as tables.
_LONG = 2**18
# A buffer without random values that follows from more calls is stored as a table.
_MANY = 32


@contextmanager
def deferred() -> Iterator[None]:
    """A context in which constructors record their initialization instead of drawing.

    Each parameter ends up on the meta device with its author's initialization. The context records what the code does
    to a parameter: functions of torch.nn.init, tensor methods, factories, arithmetic, views and copies, in any order
    and number. :func:`materialize` then fills each parameter accordingly, on any device and mesh, with a key derived
    from its name. Buffers are in memory and have their values.

    The context applies to the thread that entered it, until the outermost of nested contexts ends. Parameters of
    modules that existed before keep their memory.

    Raises
    ------
    DeferralError
        If the code reads a drawn value. The error names the line.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import deferred, materialize
    >>> with deferred():
    ...     model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.BatchNorm1d(256))
    ...     torch.nn.init.trunc_normal_(model[0].weight, std=0.02)
    Parameter containing:
    tensor(..., device='meta', size=(256, 64), requires_grad=True)
    >>> model[0].weight.device.type, model[1].running_var.device.type
    ('meta', 'cpu')
    >>> record = materialize(model, seed=0, dtype=torch.bfloat16)
    >>> record["0.weight"].initializer
    TruncatedNormal(mean=0.0, std=0.02, low=-2.0, high=2.0, bounds='absolute', correct_variance=False)
    """
    if is_deferring():  # the outermost context does the work
        yield
        return
    tape, modules = Tape(), weakref.WeakSet[nn.Module]()
    thread = threading.get_ident()
    inside = [True]  # a hook left behind by an asynchronous exception has no effect

    def see(module: nn.Module, name: str, one: Any) -> None:
        if inside and threading.get_ident() == thread:
            modules.add(module)

    try:
        with ExitStack() as stack:
            stack.callback(inside.clear)
            for register in (register_module_parameter_registration_hook, register_module_module_registration_hook):
                stack.callback(register(see).remove)
            stack.enter_context(deferring(tape.fill))
            stack.enter_context(patched())
            stack.enter_context(tape)
            yield
        with not_deferring():
            _finish(tape, modules)
    finally:
        tape.forget()


def _finish(tape: Tape, seen: Iterable[nn.Module]) -> None:
    modules = _all_modules(seen)
    if _has_unowned(tape, modules):
        modules = _all_modules([*modules, *_every_module()])
    _refuse_sharded(tape, modules)
    parameters = _parameters(tape, modules)
    states = {id(tensor): tape.memory_of(tensor).state for tensor, _ in parameters.values()}  # type: ignore[union-attr]
    programs = {
        number: verified(tape, tensor, states[number], owners) for number, (tensor, owners) in parameters.items()
    }
    shared = shared_draws(programs.values(), _others(tape, modules))
    for number, (tensor, owners) in parameters.items():
        if not shared.isdisjoint(programs[number].draws):
            programs[number] = verified(tape, tensor, states[number], owners, shared)
    _keep(parameters, programs)
    _keep_of_buffers(tape, modules, shared)
    _name_copies(modules)
    _keep_of_attributes(tape, modules, shared)
    # a local variable or a view that still holds the memory has no values: they would not be the parameter's
    given_up = {id(tape.memory_of(tensor)) for tensor, _ in parameters.values()}
    for tensor, owners in parameters.values():
        _to_meta(tensor, owners)
    parameters.clear()
    states.clear()
    settle_rest(tape, modules, given_up)


def _all_modules(roots: Iterable[nn.Module]) -> list[nn.Module]:
    found: dict[int, nn.Module] = {}
    for root in roots:
        if id(root) not in found:
            found |= {id(module): module for module in root.modules()}
    return list(found.values())


def _every_module() -> list[nn.Module]:
    """All live modules, because the construction of copied and unpickled ones was not seen."""
    return [one for one in gc.get_objects() if issubclass(type(one), nn.Module) and is_initialized(one)]


def _has_unowned(tape: Tape, modules: Iterable[nn.Module]) -> bool:
    """Whether a storage created on the tape belongs to none of these modules."""
    owned = set()
    for module in modules:
        for tensor in (*own_parameters(module).values(), *own_buffers(module).values()):
            if tensor is not None and (memory := _memory(tape, tensor)) is not None:
                owned.add(id(memory))
    return any(memory.born and id(memory) not in owned for memory in tape.memories())


def _memory(tape: Tape, tensor: Tensor) -> Any:
    return tape.memory_of(tensor) if has_memory_of_its_own(tensor) else None


Owners = list[tuple[nn.Module, str]]


def _parameters(tape: Tape, modules: Iterable[nn.Module]) -> dict[int, tuple[Tensor, Owners]]:
    """The parameters that were created on the tape and that fastinit fills, each with its owners."""
    found: dict[int, tuple[Tensor, Owners]] = {}
    for module in modules:
        for role, tensor in own_parameters(module).items():
            if tensor is None or type(tensor) is not nn.Parameter or tensor.dtype not in DTYPES:
                continue
            memory = _memory(tape, tensor)
            if memory is not None and memory.born:
                found.setdefault(id(tensor), (tensor, []))[1].append((module, role))
    return found


def _refuse_sharded(tape: Tape, modules: Iterable[nn.Module]) -> None:
    for module in modules:
        for role, tensor in own_parameters(module).items():
            if tensor is not None and kind_of(tensor) is Kind.DISTRIBUTED:
                memory = _memory(tape, tensor.to_local())  # type: ignore[attr-defined]
                if memory is not None and memory.born:
                    raise DeferralError(
                        f"{role!r} of {type(module).__name__} was sharded inside deferred(), before it has a program: "
                        "leave the context first, and shard the model before materialize()"
                    )


def _keep(parameters: dict[int, tuple[Tensor, Owners]], programs: dict[int, Program]) -> None:
    for number, (_, owners) in parameters.items():
        for module, role in owners:
            keep_program(module, role, programs[number])


def shared_draws(programs: Iterable[Program], others: Iterable[State]) -> set[str]:
    """The draws that several tensors depend on: parameters with programs, and other tensors with states."""
    uses = Counter(draw for program in programs for draw in set(program.draws))
    for state in others:
        uses.update({call.identity for call in calls_of(state) if call.identity is not None})
    return {draw for draw, times in uses.items() if times > 1}


def _others(tape: Tape, modules: Iterable[nn.Module]) -> list[State]:
    """The states of buffers and of tensors in plain attributes."""
    found: dict[int, State] = {}
    for module in modules:
        for _, tensor in (*own_buffers(module).items(), *attributes_of(module)):
            memory = None if tensor is None or isinstance(tensor, nn.Parameter) else _memory(tape, tensor)
            if memory is not None and memory.born:
                found[id(memory)] = memory.state
    return list(found.values())


_ANY_KEY: Final = Key(0)


def verified(tape: Tape, tensor: Tensor, state: State, owners: Owners, shared: Container[str] = ()) -> Program:
    """The program of a parameter. If the memory's values contradict it, the program is those values.

    This happens if code wrote to the memory without torch, for example through NumPy.
    """
    view = View.of(tensor)
    try:
        program = program_of(state, view, shared)
    except (TypeError, ValueError, RuntimeError) as problem:
        module, role = owners[0]
        raise DeferralError(
            f"the initialization of {role!r} of {type(module).__name__} cannot be recorded: {problem}"
        ) from problem
    memory = tape.memory_of(tensor)
    if program.is_drawn or memory is None or not memory.holds or isinstance(state, Data):
        return program
    expected = rebuilt(program.initializer, tensor, _ANY_KEY)
    here = tensor.detach()
    if program.uninitialized or equal(expected, here):
        return program
    alone = here.contiguous().clone()
    return program_of(Data(alone.untyped_storage()), View.of(alone))


def _keep_of_buffers(tape: Tape, modules: Iterable[nn.Module], shared: Container[str]) -> None:
    """Stores the programs of buffers, so that random ones are drawn again and lost ones can be restored."""
    for module in modules:
        for role, buffer in own_buffers(module).items():
            memory = None if buffer is None else _memory(tape, buffer)
            if buffer is None or memory is None or not memory.born:
                continue
            state = memory.state
            if first_draw(state) is None:
                tape.settle(buffer)  # computed once for the next steps
                if len(calls_of(state)) > _MANY and not memory.is_meta:
                    state = Data(buffer.untyped_storage())
            program = program_of(state, View.of(buffer), shared)
            graph = program.initializer.graph if isinstance(program.initializer, Replayed) else ""
            if program.uninitialized or (len(graph) > _LONG and not program.is_drawn):
                continue
            keep_program(module, role, program)
            mark_as_constructed(buffer)


def _keep_of_attributes(tape: Tape, modules: Iterable[nn.Module], shared: Container[str]) -> None:
    """Stores the programs of random plain tensors in modules, such as a copy of the initial weights."""
    for module in modules:
        for path, tensor in attributes_of(module):
            memory = None if isinstance(tensor, nn.Parameter) else _memory(tape, tensor)
            if memory is not None and memory.born and first_draw(memory.state) is not None:
                program = program_of(memory.state, View.of(tensor), shared)
                if program.is_drawn and not program.uninitialized:
                    keep_program(module, path, program)


def _name_copies(modules: list[nn.Module]) -> None:
    """Stores the source's name in copies of draws."""
    inner = {id(child) for module in modules for child in module.children()}
    for root in (module for module in modules if id(module) not in inner):
        places = {
            canonical_name(f"{prefix}.{role}" if prefix else role): (module, role)
            for prefix, module in root.named_modules()
            for role in programs_of(module)
        }
        named = with_origins({name: programs_of(module)[role] for name, (module, role) in places.items()})
        for name, (module, role) in places.items():
            if named[name] is not programs_of(module)[role]:
                keep_program(module, role, named[name])


def _to_meta(tensor: Tensor, owners: Owners) -> None:
    """Exchanges a parameter's memory and keeps the object, if possible."""
    data = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    new = nn.Parameter(data, requires_grad=tensor.requires_grad)
    vars(new).update(vars(tensor))
    carry_hooks(tensor, new)
    if not swapped(tensor, new):
        for module, role in owners:
            own_parameters(module)[role] = new


def settle_rest(tape: Tape, modules: Iterable[nn.Module], given_up: Container[int]) -> None:
    """Computes the values of all other live tensors. Their random values are torch's, in the order of the calls."""
    for memory in tape.memories():
        if memory.holds or id(memory) in given_up:
            continue
        storage = memory.storage()
        if storage is not None and not memory.is_meta:
            storage.copy_(evaluated(memory.state))
            memory.now(memory.state, True)

    def known(_: str, tensor: Tensor) -> Tensor:
        found = _memory(tape, tensor)
        if found is None or not found.is_meta or tensor.requires_grad or not calls_of(found.state):
            return tensor
        return View.of(tensor).within(evaluated(found.state))

    for module in modules:
        for role, buffer in own_buffers(module).items():
            if buffer is not None and (values := known(role, buffer)) is not buffer:
                own_buffers(module)[role] = values
                if role in programs_of(module):
                    mark_as_constructed(values)
        for name, value in holding(module):
            if (new := exchanged(value, known)) is not value:
                vars(module)[name] = new
