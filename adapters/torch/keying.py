"""Init code that runs late: on memory, on shards, after to_empty(), each draw by the name of the tensor that it fills.

with keyed(model, seed=0) as drawn:
    model.init_weights()
print(drawn.record)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import fastinit
from fastinit import OWN, Key, Program, Record
from fastinit.adapters.torch.deferring import settle_rest, verified
from fastinit.adapters.torch.drawing import drawing_from
from fastinit.adapters.torch.histories import Call, Data, Empty, Output
from fastinit.adapters.torch.internals import address_of, own_parameters
from fastinit.adapters.torch.layers import Place, parameters
from fastinit.adapters.torch.models import fill_place, planned_places
from fastinit.adapters.torch.patching import patched
from fastinit.adapters.torch.recording import deferring, is_deferring, not_deferring
from fastinit.adapters.torch.tape import DeferralError, Tape
from fastinit.adapters.torch.tensors import Kind, kind_of
from fastinit.extending import in_stream_environment, with_origins

__all__ = ["Drawn", "keyed"]


class Drawn:
    """What :func:`keyed` saw. Its attributes are there once the context has ended.

    Attributes
    ----------
    record : Record
        Of the parameters that were written.
    complaints : tuple of str
        What :meth:`check` gives.

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
        """What may be amiss: parameters that were never written, that were drawn twice, and draws into anything else.

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


class _Ledger(Tape):  # type: ignore[no-untyped-call]
    """A tape that keeps where is drawn, and how often memory is drawn whole."""

    def __init__(self) -> None:
        super().__init__()
        self.times: Counter[int] = Counter()
        self.drawn_at: list[tuple[Call, int]] = []

    def _wrote(self, call: Call, written: list[Tensor], holds: bool) -> None:
        super()._wrote(call, written, holds)
        if call.identity is not None:
            for tensor in written:
                memory = self.memory_of(tensor)
                if memory is not None and getattr(memory.state, "before", memory) is None:
                    self.times[address_of(tensor)] += 1
                self.drawn_at.append((call, address_of(tensor)))

    def _made(self, tensor: Tensor, source: Output, holds: bool) -> None:
        super()._made(tensor, source, holds)
        if source.call.identity is not None:
            self.drawn_at.append((source.call, address_of(tensor)))


@contextmanager
def keyed(
    model: nn.Module, seed: int | str = 0, *, digests: bool = False, num_threads: int | None = None
) -> Iterator[Drawn]:
    """Inside, init code draws by names: each parameter that it fills gets the bytes of deferred() and materialize().

    For code that runs after construction: ``model.init_weights()``, ``reset_parameters``, on memory, on DTensors
    (FSDP2, tensor parallel), after ``to_empty``. While it runs, the parameters stand for whole tensors that hold
    nothing yet; when it has ended, each process fills what it holds, without communication.

    Parameters
    ----------
    model : torch.nn.Module
        With memory. Parameters that the code does not write keep their bytes, and all stay the objects that they are.
    seed : int or str
        Of all keys.
    digests : bool
        Whether the record holds digests of the bytes.
    num_threads : int, optional
        At most so many threads.

    Yields
    ------
    Drawn
        Its record, once the context has ended, and what :meth:`Drawn.check` finds.

    Raises
    ------
    ValueError
        If two tensors have one canonical name; for parameters on the meta device, in flat parameters, or parametrized,
        by name.
    DeferralError
        Where the code reads a value that is drawn, or writes only a part of a tensor of which this process has no
        whole; also inside :func:`~fastinit.adapters.torch.deferred` or another keyed(). After it, as after any
        exception inside, no parameter has been written.

    Notes
    -----
    What the code writes to buffers has its values; what is random in them is torch's, from a generator that is seeded
    with the seed's key, in the order of the calls.

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
    places = parameters(model)
    _refuse(places)
    tape, drawn = _Ledger(), Drawn()
    try:
        with ExitStack() as stack:
            stack.enter_context(deferring())
            stack.enter_context(patched())
            stack.enter_context(tape)
            stands = [_stand_in(tape, place) for place in places]
            stack.enter_context(_exchanged(places, stands))
            yield drawn
        with not_deferring():
            _finish(model, tape, drawn, places, stands, seed, digests, num_threads)
    finally:
        tape.forget()


def _refuse(places: Sequence[Place]) -> None:
    for place in places:
        name = place.parameter.name
        if place.tensor.is_meta:
            raise ValueError(f"{name!r} is on the meta device, without memory: call to_empty() first, or materialize()")
        if place.shard is not None:
            raise ValueError(f"{name!r} is in a flat parameter of FSDP's first version: initialize the model before it")
        if place.parametrizations is not None:
            raise ValueError(f"{name!r} is parametrized: initialize it before, or build it inside deferred()")


def _stand_in(tape: Tape, place: Place) -> nn.Parameter:
    """A parameter of the global shape on the tape, in which whatever is in the host's memory can be read."""
    tensor = place.tensor
    data = torch.empty(place.parameter.shape, dtype=tensor.dtype, device="cpu")
    stand = nn.Parameter(data, requires_grad=tensor.requires_grad)
    vars(stand).update(vars(tensor))
    is_all = tensor.is_contiguous() and tensor.storage_offset() == 0
    if kind_of(tensor) is Kind.PLAIN and is_all and data.numel():
        storage = tensor.untyped_storage()
        if storage.nbytes() == data.untyped_storage().nbytes():
            memory = tape.memory_of(data)
            assert memory is not None
            memory.now(Data(storage), False)
    return stand


@contextmanager
def _exchanged(places: Sequence[Place], stands: Sequence[nn.Parameter]) -> Iterator[None]:
    """Modules hold the stand-ins, and their own parameters again afterwards."""
    held: list[tuple[nn.Module, str, Any]] = []
    try:
        for place, stand in zip(places, stands, strict=True):
            for module, role in place.owners:
                own = own_parameters(module)
                held.append((module, role, own[role]))
                own[role] = stand
        yield
    finally:
        for module, role, tensor in held:
            own_parameters(module)[role] = tensor


@in_stream_environment
def _finish(
    model: nn.Module,
    tape: _Ledger,
    drawn: Drawn,
    places: Sequence[Place],
    stands: Sequence[nn.Parameter],
    seed: int | str,
    digests: bool,
    num_threads: int | None,
) -> None:
    programs: dict[str, Program] = {}
    memories = [tape.memory_of(stand) for stand in stands]
    for place, stand, memory in zip(places, stands, memories, strict=True):
        if memory is None or isinstance(memory.state, (Data, Empty)):
            continue
        program = verified(tape, stand, memory.state, list(place.owners))
        if program.uninitialized:
            raise DeferralError(
                f"only a part of {place.parameter.name!r} was written, and this process does not hold all of it: fill "
                "it whole first. No parameter has been written"
            )
        programs[place.parameter.name] = program
    programs = with_origins(programs)
    described = [
        place._replace(parameter=replace(place.parameter, program=programs.get(place.parameter.name)))
        for place in places
    ]
    asked = [place.parameter.name in programs for place in places]
    drawn.complaints = tuple(_complaints(tape, places, stands, programs))
    entries: tuple[fastinit.Entry, ...] = ()
    if any(asked):
        checked, planned = planned_places(described, OWN, seed, frozen=True, asked=asked)
        pairs = zip(checked, planned, asked, strict=True)
        entries = tuple(fill_place(place, entry, digests, num_threads) for place, entry, one in pairs if one)
    drawn.record = Record(entries, seed, OWN.name, fastinit.__version__)
    with drawing_from(Key(seed).fold_in("outside the parameters")):
        settle_rest(tape, list(model.modules()), {id(memory) for memory in memories})


def _complaints(
    tape: _Ledger, places: Sequence[Place], stands: Sequence[nn.Parameter], programs: dict[str, Program]
) -> Iterator[str]:
    names = {address_of(stand): place.parameter.name for place, stand in zip(places, stands, strict=True)}
    never = [place.parameter.name for place in places if place.parameter.name not in programs]
    twice = [name for address, name in names.items() if tape.times[address] > 1]
    if never:
        yield f"never written: {', '.join(never)}"
    if twice:
        yield f"drawn more than once: {', '.join(twice)}"
    used = {draw for program in programs.values() for draw in program.draws}
    outside = [call.name for call, address in tape.drawn_at if address not in names and call.identity not in used]
    if outside:
        yield f"drawn into what is no parameter: {', '.join(sorted(set(outside)))}"
