"""Keys for init code that runs late: on memory, on shards or after to_empty(), each draw by its tensor's name.

with keyed(model, seed=0) as drawn:
    model.init_weights()
print(drawn.record)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

import fastinit
from fastinit import OWN, Key, Parameter, Program, Record, Replayed, canonical_name
from fastinit.adapters.torch.buffers import attributes_of, exchanged, holding
from fastinit.adapters.torch.deferring import settle_rest, shared_draws, verified
from fastinit.adapters.torch.drawing import drawing_from
from fastinit.adapters.torch.histories import (
    Call,
    Data,
    Empty,
    Output,
    State,
    View,
    Written,
    calls_of,
    first_draw,
    only_call,
)
from fastinit.adapters.torch.internals import (
    address_of,
    carry_hooks,
    has_memory_of_its_own,
    own_buffers,
    own_modules,
    own_parameters,
    versions,
)
from fastinit.adapters.torch.layers import Place, parameters
from fastinit.adapters.torch.models import fill_place, planned_places
from fastinit.adapters.torch.patching import patched
from fastinit.adapters.torch.recording import deferring, is_deferring, not_deferring
from fastinit.adapters.torch.replaying import rebuilt
from fastinit.adapters.torch.tape import DeferralError, Tape, new_memory
from fastinit.adapters.torch.tensors import DTYPES, Kind, kind_of
from fastinit.adapters.torch.translating import program_of
from fastinit.extending import Rename, at_least, changed, in_stream_environment, program_keys, renaming, with_origins

__all__ = ["Drawn", "keyed"]


class Drawn:
    """Results of :func:`keyed`, available once the context has ended.

    Attributes
    ----------
    record : Record
        The record of the written parameters.
    complaints : tuple of str
        The complaints that :meth:`check` returns.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import keyed
    >>> model = torch.nn.Linear(64, 256)
    >>> with keyed(model, seed=0) as drawn:
    ...     _ = torch.nn.init.normal_(model.weight, std=0.02)
    >>> drawn.record["weight"].initializer
    Normal(mean=0.0, std=0.02)
    """

    record: Record
    complaints: tuple[str, ...] = ()

    def check(self) -> tuple[str, ...]:
        """Possible problems: parameters that were never written, that another thread wrote (so the values are lost), or
        that were drawn twice, and draws into other tensors.

        Examples
        --------
        >>> import torch
        >>> from fastinit.adapters.torch import keyed
        >>> model = torch.nn.Linear(64, 256)
        >>> with keyed(model, seed=0) as drawn:
        ...     _ = torch.nn.init.normal_(model.weight, std=0.02)
        >>> drawn.check()
        ('never written: bias',)
        """
        return self.complaints


_HOST: Final = torch.device("cpu")


class _Absent(Empty):
    """Values stored elsewhere: on other ranks, or on a device."""

    __slots__ = ()


def _is_absent(state: State | None, itself: bool = True) -> bool:
    """Whether values depend on values stored elsewhere. Those of the state `itself` may also remain in it."""
    if itself and isinstance(_first(state), _Absent):
        return True
    if only_call(state) is not None:
        return False
    read = (one.state for call in calls_of(state) if _reads(call) for one in call.reads())
    return any(isinstance(_first(one), _Absent) for one in read)


def _first(state: State | None) -> State | None:
    """The state before all writes."""
    while isinstance(state, Written):
        state = state.before
    return state


def _reads(call: Call) -> bool:
    """Whether a call reads more of its tensors than their shapes and dtypes."""
    return not (call.name.endswith("_like") or call.name.startswith("new_"))


class _Ledger(Tape):  # type: ignore[no-untyped-call]
    """A tape that notes the lines of draws, and how often memory is drawn as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.times: Counter[int] = Counter()
        self.drawn_at: list[tuple[Call, int]] = []

    def _wrote(self, call: Call, written: list[Tensor], holds: bool) -> None:
        super()._wrote(call, written, holds)
        if call.identity is not None:
            for address, memory in ((address_of(tensor), self.memory_of(tensor)) for tensor in written):
                if memory is not None and getattr(memory.state, "before", memory) is None:
                    self.times[address] += 1
                self.drawn_at.append((call, address))

    def _refuse(self, state: State) -> None:
        super()._refuse(state)
        if _is_absent(state):
            raise DeferralError("code inside keyed() reads a parameter of which this process holds only a part")

    def _made(self, tensor: Tensor, source: Output, holds: bool) -> None:
        super()._made(tensor, source, holds)
        if source.call.identity is not None:
            self.drawn_at.append((source.call, address_of(tensor)))


@contextmanager
def keyed(
    model: nn.Module,
    seed: int | str = 0,
    *,
    rename: Rename | None = None,
    digests: bool = False,
    num_threads: int | None = None,
) -> Iterator[Drawn]:
    """A context in which init code draws by names, with the bytes of deferred() and materialize().

    It is for code that runs after construction, such as ``model.init_weights()`` and ``reset_parameters``, on memory,
    on DTensors (FSDP2, tensor parallel) or after ``to_empty``. While the code runs, stand-ins represent whole tensors
    without values. When the context ends, each process fills its part, without communication.

    Parameters
    ----------
    model : torch.nn.Module
        A model with memory. Parameters that the code does not write keep their bytes, and all keep their objects.
        Parameters that the code adds or replaces are drawn by their names too.
    seed : int or str
        Seed of all keys.
    rename : callable, mapping of str to str, or None
        Maps the names of this model to those of the definition, as in :func:`~fastinit.adapters.torch.initialize_`.
    digests : bool
        As in :func:`~fastinit.adapters.torch.initialize_`.
    num_threads : int, optional
        Maximum number of threads.

    Yields
    ------
    Drawn
        The record, once the context has ended, and the findings of :meth:`Drawn.check`.

    Raises
    ------
    ValueError
        If two tensors have one canonical name, also through `rename`; for parameters on the meta device, in flat
        parameters, or parametrized, by name; for num_threads below 1. An invalid seed raises TypeError. All of these
        are raised before the code inside runs.
    DeferralError
        If the code reads a drawn value; reads, or writes part of, a tensor that this process does not hold in full;
        changes a parameter's shape or dtype; replaces a sharded parameter; or writes to a parameter through an earlier
        reference. Also inside :func:`~fastinit.adapters.torch.deferred` or another keyed(). After this error, as after
        any exception inside, no parameter has been written.

    Notes
    -----
    Buffers, and parameters of dtypes that fastinit does not fill, get the code's values. Random values in buffers are
    drawn by the buffers' names, as in :func:`~fastinit.adapters.torch.materialize`. Other random values are torch's, in
    the order of the calls, from a generator seeded with the seed's key. The context applies to the thread that entered
    it. Writes of other threads to parameters are lost, and :meth:`Drawn.check` reports them.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import deferred, keyed, materialize
    >>> late = torch.nn.Linear(64, 256)
    >>> with keyed(late, seed=0) as drawn:
    ...     late.reset_parameters()
    >>> with deferred():
    ...     model = torch.nn.Linear(64, 256)
    >>> record = materialize(model, seed=0)
    >>> torch.equal(late.weight, model.weight), drawn.record["bias"].key == record["bias"].key
    (True, True)
    """
    if is_deferring():
        raise DeferralError("keyed() inside deferred() or another keyed(): one of them records what is drawn")
    Key(seed)  # otherwise it raises, before the code has run
    if num_threads is not None:
        at_least(1, "num_threads", num_threads)
    places = _places(model, rename)
    _refuse(places)
    naming = renaming(rename)
    tape, drawn, before = _Ledger(), Drawn(), _structure(model)
    try:
        stands = [_stand_in(tape, place) for place in places]
        with ExitStack() as stack:
            # outside the tape, which need not see these reads
            stack.enter_context(_exchanged(model, places, stands))
            stack.enter_context(deferring(tape.fill))
            stack.enter_context(patched())
            stack.enter_context(tape)
            yield drawn
        with not_deferring():
            if _structure(model) != before:
                own = {id(stand.tensor): stand for stand in stands}
                places = _places(model, None if rename is None else naming)
                _refuse(places)
                stands = [own.get(id(place.tensor)) or _Stand(place.tensor, place.tensor, None) for place in places]
            _finish(model, tape, drawn, places, stands, seed, naming, digests, num_threads)
    finally:
        tape.forget()


def _places(model: nn.Module, rename: Rename | None) -> list[Place]:
    """The parameters that fastinit fills. Complex and integer ones get the code's values, as buffers do."""
    return [place for place in parameters(model, rename) if place.tensor.dtype in DTYPES]


def _structure(model: nn.Module) -> list[tuple[Any, ...]]:
    """The structure of modules and parameters. While it is unchanged, names and places are too."""
    tables = [(module, own_modules(module), own_parameters(module)) for module in model.modules()]
    return [
        (id(module), *children, *map(id, children.values()), *own, *map(id, own.values()))
        for module, children, own in tables
    ]


def _refuse(places: Sequence[Place]) -> None:
    for place in places:
        name = place.parameter.name
        if place.tensor.is_meta:
            raise ValueError(f"{name!r} is on the meta device, without memory: call to_empty() first, or materialize()")
        if place.is_flat:
            raise ValueError(f"{name!r} is in a flat parameter of FSDP's first version: initialize the model before it")
        if place.parametrizations is not None:
            raise ValueError(
                f"{name!r} is parametrized: parametrize it after the init code has run inside keyed(), or build the "
                "model inside deferred()"
            )


class _Stand(NamedTuple):
    """The stand-in for a parameter inside the context. A parameter created inside is its own stand-in."""

    tensor: Any
    """The parameter."""
    inside: Any
    """The tensor that the code sees instead."""
    state: State | None
    """The initial state of that tensor."""


def _stand_in(tape: Tape, place: Place) -> _Stand:
    """A parameter of the global shape on the tape. Values in host memory can be read from it."""
    tensor, shape = place.tensor, place.parameter.shape
    is_here = kind_of(tensor) is Kind.PLAIN and place.shard is None
    storage = tensor.untyped_storage() if is_here else None
    if storage is not None and View.of(tensor).is_whole(storage.nbytes()):
        like = tensor
    else:
        like, storage = torch.empty(shape, dtype=tensor.dtype, device="meta"), None
    data = new_memory(like, _HOST)
    stand = nn.Parameter(data, requires_grad=tensor.requires_grad)
    vars(stand).update(vars(tensor))
    carry_hooks(tensor, stand)
    if not math.prod(shape):
        state: State = Empty(0)
    else:
        state = _Absent(data.untyped_storage().nbytes()) if storage is None else Data(storage)
    tape.take(data, state)
    return _Stand(tensor, stand, state)


@contextmanager
def _exchanged(model: nn.Module, places: Sequence[Place], stands: Sequence[_Stand]) -> Iterator[None]:
    """A context in which modules hold the stand-ins. Afterwards, and after an exception, they hold their parameters."""
    held = [(module, role, stand) for place, stand in zip(places, stands, strict=True) for module, role in place.owners]
    try:
        for module, role, stand in held:
            own_parameters(module)[role] = stand.inside
        yield
        _refuse_changes(places, stands)
        for stand in stands:
            _carry(stand)
    except BaseException:
        for module, role, stand in held:
            own_parameters(module)[role] = stand.tensor
        raise
    finally:
        real = {id(stand.inside): stand.tensor for stand in stands}
        for module in {*model.modules(), *(module for module, _, _ in held)}:
            own = own_parameters(module)
            own.update({role: real[id(one)] for role, one in own.items() if id(one) in real})
            for name, value in holding(module):  # also lists of them, such as an RNN's flat weights
                if (new := exchanged(value, lambda _, one: real.get(id(one), one))) is not value:
                    vars(module)[name] = new


def _carry(stand: _Stand) -> None:
    """Applies the code's changes to a parameter: ``requires_grad``, attributes and hooks."""
    said, known = vars(stand.inside), vars(stand.tensor)
    if said or known:
        for name in known.keys() - said.keys():
            del known[name]
        known.update(said)
    if stand.tensor.requires_grad != stand.inside.requires_grad:
        stand.tensor.requires_grad_(stand.inside.requires_grad)
    carry_hooks(stand.inside, stand.tensor)


def _refuse_changes(places: Sequence[Place], stands: Sequence[_Stand]) -> None:
    for place, stand in zip(places, stands, strict=True):
        name, inside = place.parameter.name, stand.inside
        if inside.dtype != stand.tensor.dtype:
            raise DeferralError(
                f"{name!r} was given another dtype inside keyed(), {inside.dtype} in the place of "
                f"{stand.tensor.dtype}: convert the model before keyed(), or after it. No parameter was written"
            )
        if inside.shape != place.parameter.shape:
            raise DeferralError(
                f"{name!r} was given another shape inside keyed(), {tuple(inside.shape)} in the place of "
                f"{place.parameter.shape}: put a new Parameter in its place. No parameter was written"
            )
        module, role = place.owners[0]
        is_there = own_parameters(module).get(role) is inside
        if not is_there and (kind_of(stand.tensor) is Kind.DISTRIBUTED or place.shard is not None):
            raise DeferralError(f"{name!r} is sharded, and was replaced inside keyed(). No parameter was written")


def _refuse_aliases(tape: Tape, places: Sequence[Place], stands: Sequence[_Stand]) -> None:
    """Refuses writes to the parameters themselves, through references from before the context."""
    for place, stand in zip(places, stands, strict=True):
        if stand.inside is stand.tensor or kind_of(stand.tensor) is not Kind.PLAIN:
            continue
        memory = tape.memory_of(stand.tensor)
        if memory is not None and isinstance(memory.state, Written):
            raise DeferralError(
                f"{place.parameter.name!r} was written through a reference to it, or a view of it, that was made "
                "before keyed(): take it from the model inside"
            )


@in_stream_environment
def _finish(
    model: nn.Module,
    tape: _Ledger,
    drawn: Drawn,
    places: Sequence[Place],
    stands: Sequence[_Stand],
    seed: int | str,
    naming: Callable[[str], str],
    digests: bool,
    num_threads: int | None,
) -> None:
    _refuse_aliases(tape, places, stands)
    modules = [(prefix, module, attributes_of(module)) for prefix, module in model.named_modules()]
    programs, buffers = _recorded(tape, places, stands, modules, naming)
    described = [
        place._replace(parameter=changed(place.parameter, program=programs.get(place.parameter.name)))
        for place in places
    ]
    asked = [place.parameter.name in programs for place in places]
    drawn.complaints = tuple(_complaints(tape, places, stands, programs))
    checked, planned = planned_places(described, OWN, seed, frozen=True, asked=asked) if any(asked) else ([], [])
    # before the parameters, whose earlier values they may hold
    _give_buffers(tape, [place.parameter for place in described], buffers, seed)
    with drawing_from(Key(seed).fold_in("outside the parameters")):
        own = {id(tape.memory_of(stand.inside)) for stand in stands}
        settle_rest(tape, [module for _, module, _ in modules], own)
    _give_views(model, stands)
    pairs = zip(checked, planned, asked, strict=True) if any(asked) else ()
    entries = tuple(fill_place(place, entry, digests, num_threads) for place, entry, one in pairs if one)
    drawn.record = Record(entries, seed, OWN.name, fastinit.__version__)


_Buffers = dict[str, tuple[Tensor, Program]]
"""Random buffers and tensors in plain attributes, by name."""


def _recorded(
    tape: _Ledger,
    places: Sequence[Place],
    stands: Sequence[_Stand],
    modules: _Modules,
    naming: Callable[[str], str],
) -> tuple[dict[str, Program], _Buffers]:
    """The programs of the written parameters and the random buffers, by name."""
    states = _written(tape, places, stands)
    programs = {name: _whole_program(tape, place, stand, state) for name, (place, stand, state) in states.items()}
    drawn_buffers = list(_drawn_buffers(modules, tape, naming))
    shared = shared_draws(programs.values(), [state for _, _, state in drawn_buffers])
    for name, (place, stand, state) in states.items():
        if not shared.isdisjoint(programs[name].draws):
            programs[name] = verified(tape, stand.inside, state, list(place.owners), shared)
    buffers = {
        name: (tensor, program)
        for name, tensor, state in drawn_buffers
        if not (program := program_of(state, View.of(tensor), shared)).uninitialized
    }
    found = {**programs, **{name: program for name, (_, program) in buffers.items()}}
    # attributes come last, as in deferred(), so that a parameter never counts as a copy of an attribute
    named = found | with_origins({name: found[name] for name in map(naming, _names(modules)) if name in found})
    return {name: named[name] for name in programs}, {name: (one, named[name]) for name, (one, _) in buffers.items()}


def _written(
    tape: _Ledger, places: Sequence[Place], stands: Sequence[_Stand]
) -> dict[str, tuple[Place, _Stand, State]]:
    """The parameters that the code wrote, by name, with their states."""
    found = {}
    for place, stand in zip(places, stands, strict=True):
        memory = tape.memory_of(stand.inside)
        if memory is None or memory.state is stand.state or (stand.state is None and _is_given(memory.state)):
            continue
        found[place.parameter.name] = place, stand, memory.state
    return found


def _whole_program(tape: _Ledger, place: Place, stand: _Stand, state: State) -> Program:
    """The program of a parameter. Refused if it needs values stored elsewhere."""
    program = verified(tape, stand.inside, state, list(place.owners))
    if program.uninitialized or _is_absent(state, isinstance(program.initializer, Replayed)):
        raise DeferralError(
            f"only a part of {place.parameter.name!r} was written, or what was is computed from another parameter, "
            "of which this process does not hold all: fill it whole first. No parameter has been written"
        )
    return program


def _give_buffers(tape: _Ledger, parameters: Sequence[Parameter], buffers: _Buffers, seed: int | str) -> None:
    """Fills random buffers, keyed by their names."""
    others = [Parameter(name, tuple(tensor.shape), program=program) for name, (tensor, program) in buffers.items()]
    keys = program_keys([*parameters, *others], seed) if others else {}
    for name, (tensor, _) in buffers.items():
        with torch.no_grad():
            tensor.copy_(rebuilt(keys[name].initializer, tensor, keys[name].key))
        memory = tape.memory_of(tensor)
        assert memory is not None
        memory.now(memory.state, True)


def _give_views(model: nn.Module, stands: Sequence[_Stand]) -> None:
    """Turns buffers and attributes that view a stand-in into views of the final parameter."""
    own_memory = {address_of(stand.inside): stand for stand in stands if isinstance(stand.state, Data)}

    def view(_: str, one: Tensor) -> Tensor:
        if isinstance(one, nn.Parameter) or not has_memory_of_its_own(one):
            return one
        stand = own_memory.get(address_of(one))
        if stand is None or View.of(stand.inside) != View.of(stand.tensor):
            return one
        return View.of(one).within(stand.tensor.untyped_storage())

    for module in model.modules():
        own = own_buffers(module)
        own.update({role: view(role, one) for role, one in own.items() if one is not None})
        for name, value in holding(module):
            if (new := exchanged(value, view)) is not value:
                vars(module)[name] = new


_Modules = Sequence[tuple[str, nn.Module, list[tuple[str, Tensor]]]]
"""Modules with their names and the tensors in their plain attributes."""


def _names(modules: _Modules) -> Iterator[str]:
    """Canonical names of parameters and buffers, module by module: the order in which deferred() names copies."""
    for prefix, module, _ in modules:
        for role in (*own_parameters(module), *own_buffers(module)):
            yield canonical_name(f"{prefix}.{role}" if prefix else role)


def _is_given(state: State) -> bool:
    """Whether memory has an external source, or was never written."""
    return isinstance(state, (Data, Empty))


def _drawn_buffers(modules: _Modules, tape: Tape, naming: Callable[[str], str]) -> Iterator[tuple[str, Tensor, State]]:
    """Random buffers and tensors in plain attributes, which may share a parameter's draws."""
    seen: set[int] = set()
    for prefix, module, attributes in modules:
        for role, tensor in (*own_buffers(module).items(), *attributes):
            if tensor is None or isinstance(tensor, nn.Parameter) or not has_memory_of_its_own(tensor):
                continue
            memory = tape.memory_of(tensor)
            if memory is None or memory.holds or memory.is_meta or id(memory) in seen:
                continue
            if _is_absent(memory.state):
                raise DeferralError(
                    f"{role!r} of {type(module).__name__} is computed from a parameter of which this process holds "
                    "only a part. No parameter has been written"
                )
            if first_draw(memory.state) is None or not View.of(tensor).is_whole(memory.nbytes):
                continue
            seen.add(id(memory))
            yield naming(canonical_name(f"{prefix}.{role}" if prefix else role)), tensor, memory.state


def _complaints(
    tape: _Ledger, places: Sequence[Place], stands: Sequence[_Stand], programs: dict[str, Program]
) -> Iterator[str]:
    names = {address_of(stand.inside): place.parameter.name for place, stand in zip(places, stands, strict=True)}
    unwritten = [pair for pair in zip(places, stands, strict=True) if pair[0].parameter.name not in programs]
    lost = [place.parameter.name for place, stand in unwritten if stand.state is not None and versions(stand.inside)]
    never = [place.parameter.name for place, _ in unwritten if place.parameter.name not in lost]
    if lost:
        yield f"written in another thread, where keyed() does not see it, and lost: {', '.join(lost)}"
    twice = [name for address, name in names.items() if tape.times[address] > 1]
    if never:
        yield f"never written: {', '.join(never)}"
    if twice:
        yield f"drawn more than once: {', '.join(twice)}"
    used = {draw for program in programs.values() for draw in program.draws}
    outside = [call.name for call, address in tape.drawn_at if address not in names and call.identity not in used]
    if outside:
        yield f"drawn into other tensors than parameters: {', '.join(sorted(set(outside)))}"
