"""Histories of storages as values: states, calls and reads. This module runs no operators.

A storage has a :class:`State`: never written, external memory, or the result of an operator over an earlier state. An
operator is a :class:`Call`, whose tensor arguments are stored with their states (:class:`Read`). So the state of a
parameter's storage is its whole history, without holding tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from fastinit import Constant, Initializer, Key, Normal, Uniform
from fastinit.adapters.torch.internals import negative_view, schema_of
from fastinit.adapters.torch.recording import decoded
from fastinit.extending import is_random

__all__ = [
    "Call",
    "Data",
    "Empty",
    "Output",
    "Read",
    "Signature",
    "State",
    "View",
    "Written",
    "calls_of",
    "drawn_by",
    "fill_of",
    "first_draw",
    "flattened",
    "mapped",
    "only_call",
    "operators_of",
    "signature_of",
    "tensors_in",
]


# Results with more elements are computed only when read: the limits for constants, and for all others.
LARGE: Final = 2**21
LARGER: Final = 2**22


class View(NamedTuple):
    """The elements of a storage that a tensor views."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    is_conjugate: bool = False
    """Whether the elements are conjugates of the stored ones, as after torch's ``conj()``."""
    is_negative: bool = False
    """Whether the elements are negatives of the stored ones, as in the imaginary part of such a tensor."""

    @classmethod
    def of(cls, tensor: Tensor) -> View:
        """The view of a tensor."""
        shape, strides, offset = tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())
        return cls(shape, strides, offset, tensor.dtype, tensor.is_conj(), tensor.is_neg())

    def within(self, storage: torch.UntypedStorage) -> Tensor:
        """The tensor of a storage."""
        empty = torch.empty(0, dtype=self.dtype, device=storage.device)
        found: Tensor = empty.set_(storage, self.offset, self.shape, self.strides)
        if self.is_conjugate:
            found = found.conj()
        return negative_view(found) if self.is_negative else found

    @property
    def size(self) -> int:
        """Number of elements."""
        return torch.Size(self.shape).numel()

    def is_whole(self, nbytes: int) -> bool:
        """Whether the view covers a whole storage of this size."""
        return _is_whole(self, nbytes)

    @property
    def is_dense(self) -> bool:
        """Whether the elements are contiguous, in any order, without repetition."""
        steps = list(zip(self.strides, self.shape, strict=True))
        return _side_by_side(reversed(steps)) or _side_by_side(sorted(steps))  # the common case, or another order

    @property
    def repeats(self) -> bool:
        """Whether elements share memory, as in an expanded tensor."""
        reach = 0
        for stride, extent in sorted(zip(self.strides, self.shape, strict=True)):
            if extent > 1:
                if stride <= reach:
                    return True
                reach += stride * (extent - 1)
        return False


@lru_cache(maxsize=4096)
def _is_whole(view: View, nbytes: int) -> bool:
    return view.offset == 0 and view.size * view.dtype.itemsize == nbytes and view.is_dense


def _side_by_side(steps: Iterable[tuple[int, int]]) -> bool:
    """Whether axes of such strides and extents, the innermost first, leave no gap."""
    reach = 1
    for stride, extent in steps:
        if extent == 1:
            continue
        if stride != reach:
            return False
        reach *= extent
    return True


class State:
    """The content of a storage at one moment."""

    __slots__ = ("memory", "nbytes")

    nbytes: int
    memory: Any
    """The storage whose memory still holds this state, if any."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.memory = None


class Empty(State):
    """Memory that was never written."""

    __slots__ = ()


class Data(State):
    """External memory: from Python numbers, from NumPy, or from before."""

    __slots__ = ("storage",)

    def __init__(self, storage: torch.UntypedStorage) -> None:
        super().__init__(storage.nbytes())
        self.storage = storage


class Written(State):
    """An operator's write into a view. `before` is None if the view covers the whole storage."""

    __slots__ = ("before", "source", "view")

    def __init__(self, nbytes: int, before: State | None, view: View, source: Output) -> None:
        self.nbytes, self.memory = nbytes, None
        self.before, self.view, self.source = before, view, source


class Read(NamedTuple):
    """A tensor as an operator's argument, without a state if the operator ignores its values."""

    state: State | None
    view: View


class Call:
    """One call of an operator."""

    __slots__ = ("_reads", "args", "chosen", "default", "function", "identity", "kwargs", "number")

    def __init__(
        self,
        function: Any,
        args: Any,
        kwargs: Any,
        number: int,
        identity: str | None,
        chosen: bool = False,
        reads: tuple[Read, ...] | None = None,
    ) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self.number = number
        self.identity = identity
        """Identity of the draw; None if the call does not draw."""
        self.chosen = chosen
        """Whether it draws and was called by the author's code, not by a layer of torch.nn."""
        self.default = torch.get_default_dtype()
        """The default dtype at the time of the call."""
        self._reads = reads

    @property
    def name(self) -> str:
        """The operator's name without its overload."""
        return str(self.function.overloadpacket.__name__)

    def given(self, name: str, otherwise: Any = None) -> Any:
        """An argument by name, whether it was passed by name or by position."""
        if name in self.kwargs:
            return self.kwargs[name]
        place = places_of(self.function).get(name)
        return self.args[place] if place is not None and place < len(self.args) else otherwise

    def reads(self) -> tuple[Read, ...]:
        """The tensors among the arguments."""
        if self._reads is None:
            self._reads = tuple(one for one in flattened((self.args, self.kwargs)) if isinstance(one, Read))
        return self._reads


class Output(NamedTuple):
    """One of the tensors that a call returned."""

    call: Call
    number: int


def flattened(value: Any) -> Iterator[Any]:
    """The leaves of lists, tuples and mappings."""
    if isinstance(value, dict):
        for one in value.values():
            yield from flattened(one)
    elif isinstance(value, (list, tuple)) and not isinstance(value, (Read, View, torch.Size)):
        for one in value:
            yield from flattened(one)
    else:
        yield value


def tensors_in(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among values, including those in lists, tuples and mappings."""
    found: list[Tensor] = []
    for one in values:
        if isinstance(one, Tensor):
            found.append(one)
        elif isinstance(one, (list, tuple)):
            found += tensors_in(one)
        elif isinstance(one, dict):
            found += tensors_in(one.values())
    return found


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """The same lists, tuples and mappings with other leaves."""
    if isinstance(value, dict):
        return {key: mapped(function, one) for key, one in value.items()} if value else {}
    if isinstance(value, list):
        return [mapped(function, one) for one in value]
    if isinstance(value, tuple) and not isinstance(value, (Read, View, torch.Size)):
        return tuple([mapped(function, one) for one in value])
    return function(value)


def only_call(state: State | None) -> Call | None:
    """The only call behind a state, which read no other values; None if it is not a single call."""
    if not isinstance(state, Written) or state.before is not None:
        return None
    for read in state.source.call.reads():
        if read.state is not None:
            return None
    return state.source.call


def calls_of(state: State | None) -> list[Call]:
    """Every call that a state depends on, in chronological order."""
    if (only := only_call(state)) is not None:  # the case of most parameters
        return [only]
    calls: dict[int, Call] = {}
    seen: set[int] = set()
    left = [state]
    while left:
        one = left.pop()
        while isinstance(one, Written) and id(one) not in seen:
            seen.add(id(one))
            call = one.source.call
            if id(call) not in calls:
                calls[id(call)] = call
                left += [read.state for read in call.reads()]
            one = one.before
    return sorted(calls.values(), key=lambda call: call.number)


def first_draw(state: State | None) -> Call | None:
    """The first drawing call that a state depends on; None if there is none."""
    return next((call for call in calls_of(state) if call.identity is not None), None)


# Operators


class Signature(NamedTuple):
    """The tape's facts about an operator."""

    is_view: bool
    draws: bool
    written: tuple[int | str, ...]
    """Positions and names of the written arguments."""
    overwrites: bool
    """Whether these are written without being read."""
    gives_tensors: bool
    gives_bool: bool
    gives_number: bool
    is_constant: bool
    """Whether it writes one number everywhere."""
    makes_empty: bool
    is_dynamic: bool
    """Whether the shapes of its results depend on values."""

    @property
    def most(self) -> int:
        """Maximum number of elements for results that are computed at once."""
        return LARGE if self.is_constant else LARGER

    def arguments_written(self, args: Any, kwargs: Any) -> list[Any]:
        """The written arguments, including those in lists."""
        if not self.written:
            return []
        given = [args[one] if isinstance(one, int) else kwargs.get(one) for one in self.written]
        return [one for one in flattened(given) if one is not None]


_OVERWRITING: Final = frozenset(
    {
        "normal_",
        "uniform_",
        "zero_",
        "fill_",
        "copy_",
        "exponential_",
        "random_",
        "log_normal_",
        "cauchy_",
        "geometric_",
    }
)


_CONSTANT: Final = frozenset({"zeros", "ones", "full", "zero", "fill"})


@lru_cache(maxsize=4096)
def signature_of(function: Any) -> Signature:
    """The tape's facts about an operator."""
    schema, name = schema_of(function), function.overloadpacket.__name__
    written: list[int | str] = []
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written.append(argument.name if argument.kwarg_only else position)
    outs = bool(written) and all(isinstance(one, str) for one in written)
    return Signature(
        is_view=function.is_view or torch.Tag.inplace_view in function.tags,
        draws=torch.Tag.nondeterministic_seeded in function.tags,
        written=tuple(written),
        overwrites=outs or name in _OVERWRITING or (name == "bernoulli_" and schema.overload_name == "float"),
        gives_tensors=all("Tensor" in str(one.type) for one in schema.returns),
        gives_bool=[str(one.type) for one in schema.returns] == ["bool"],
        gives_number=[str(one.type) for one in schema.returns] == ["number"],
        is_dynamic=torch.Tag.dynamic_output_shape in function.tags,
        is_constant=name.removeprefix("new_").removesuffix("_").removesuffix("_like") in _CONSTANT,
        makes_empty=name.removeprefix("new_").startswith("empty") and not written,
    )


@lru_cache(maxsize=4096)
def places_of(function: Any) -> dict[str, int]:
    """The positions of an operator's arguments."""
    return {argument.name: place for place, argument in enumerate(schema_of(function).arguments)}


# Draws


def fill_of(args: Any) -> tuple[Initializer, Key | None, bool]:
    """The initializer of a call of ``fastinit::fill_``, its key, and whether it is random."""
    initializer = decoded(args[1])
    draws = is_random(initializer)
    key = Key.from_words(*args[2]) if draws and len(args) > 2 and args[2] else None
    return initializer, key, draws


def operators_of(calls: Sequence[Call]) -> tuple[str, ...]:
    """The names of the calls in order, without repetition. For fills by fastinit, the initializer's name."""
    names = (
        type(fill_of(call.args)[0]).__name__ if call.function.namespace == "fastinit" else call.name.rstrip("_")
        for call in calls
        if not call.name.startswith(("empty", "new_empty"))
    )
    return tuple(dict.fromkeys(names))


def drawn_by(call: Call) -> Initializer | None:
    """The distribution of a call that draws each element independently; None for other calls."""
    if call.function.namespace == "fastinit":
        return fill_of(call.args)[0] if call.name == "fill_" else None
    name = call.name
    if name.endswith("_") and not _is_real(call.args[0].view.dtype):
        return None
    if not _is_real(call.given("dtype")) or (name.endswith("_like") and not _is_real(call.args[0].view.dtype)):
        return None
    if name in ("normal", "normal_"):
        mean, std = call.given("mean", 0.0), call.given("std", 1.0)
        return None if isinstance(mean, Read) or isinstance(std, Read) else Normal(float(mean), float(std))
    if name == "uniform_":
        low, high = float(call.given("from", 0.0)), float(call.given("to", 1.0))
        return Uniform(low, high) if low < high else Constant(low)
    if name in ("randn", "randn_like"):
        return Normal()
    return Uniform() if name in ("rand", "rand_like") else None


def _is_real(dtype: torch.dtype | None) -> bool:
    """Whether a dtype, or the default one, is real. Complex normals have another variance."""
    return (dtype or torch.get_default_dtype()).is_floating_point
