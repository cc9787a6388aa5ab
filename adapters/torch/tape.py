"""The tape: what a constructor's operators did to every storage, as values that can be read, folded and run again.

A storage has a :class:`State`: nothing yet, memory that came from elsewhere, or what an operator wrote over an earlier
state. An operator is a :class:`Call`; where its arguments were tensors it has the state that they had (:class:`Read`).
So the state of a parameter's storage is its whole history, and holds no tensor.

Small tensors that nothing random reached are computed at once, since constructors read them. Large ones, and all that
follow from a draw, have lazily mapped memory and are computed only when somebody reads them: what was drawn cannot be.
"""

from __future__ import annotations

import itertools
import mmap
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastinit.adapters.torch.internals import StorageReference, has_memory_of_its_own, storage_behind

__all__ = ["Call", "Data", "DeferralError", "Empty", "Output", "Read", "State", "Tape", "View", "Written", "calls_of"]

# Results of more elements are computed only when they are read.
LARGE: Final = 2**20
# Inputs of no more elements do not make large results, but for what no constructor does.
SMALL: Final = 2**14
# Memory of so many bytes is mapped lazily.
MAPPED: Final = 2**20
_NO_RESERVE: Final = getattr(mmap, "MAP_NORESERVE", 0x4000)


class DeferralError(RuntimeError):
    """A constructor read a value that is drawn, so that it cannot be deferred.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import DeferralError, deferred
    >>> try:
    ...     with deferred():
    ...         print(torch.randn(3).sum().item())
    ... except DeferralError as error:
    ...     print(str(error).partition(":")[0])
    a value that is drawn cannot be read while a model is deferred
    """


class View(NamedTuple):
    """Which elements of a storage a tensor is."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> View:
        """The view that a tensor is."""
        return cls(tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()), tensor.dtype)

    def within(self, storage: torch.UntypedStorage) -> Tensor:
        """The tensor of a storage."""
        empty = torch.empty(0, dtype=self.dtype, device=storage.device)
        return empty.set_(storage, self.offset, self.shape, self.strides)

    @property
    def size(self) -> int:
        """How many elements."""
        return torch.Size(self.shape).numel()

    def is_whole(self, nbytes: int) -> bool:
        """Whether it is all of a storage of so many bytes."""
        return self.offset == 0 and self.size * self.dtype.itemsize == nbytes and self.is_dense

    @property
    def is_dense(self) -> bool:
        """Whether its elements lie side by side, in whatever order, each once."""
        reach = 1
        for stride, extent in sorted(zip(self.strides, self.shape, strict=True)):
            if extent == 1:
                continue
            if stride != reach:
                return False
            reach *= extent
        return True


class State:
    """What a storage holds at one moment."""

    __slots__ = ("memory", "nbytes")

    nbytes: int
    memory: _Memory | None
    """The storage whose memory holds it, if that is the case still."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.memory = None


class Empty(State):
    """Memory that was never written."""

    __slots__ = ()


class Data(State):
    """Memory that came from elsewhere: from Python's numbers, from NumPy, from before."""

    __slots__ = ("storage",)

    def __init__(self, storage: torch.UntypedStorage) -> None:
        super().__init__(storage.nbytes())
        self.storage = storage


class Written(State):
    """What an operator wrote into a view; `before` is None where that is all of the storage."""

    __slots__ = ("before", "source", "view")

    def __init__(self, nbytes: int, before: State | None, view: View, source: Output) -> None:
        super().__init__(nbytes)
        self.before, self.view, self.source = before, view, source


class Read(NamedTuple):
    """A tensor as an operator found it; without a state if the operator does not look at its values."""

    state: State | None
    view: View


class Call:
    """One call of an operator."""

    __slots__ = ("args", "function", "identity", "kwargs", "number")

    def __init__(self, function: Any, args: Any, kwargs: Any, number: int, identity: str | None) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self.number = number
        self.identity = identity
        """Of a call that draws."""

    @property
    def name(self) -> str:
        """The operator without what tells it from its overloads."""
        return str(self.function.overloadpacket.__name__)

    def reads(self) -> Iterator[Read]:
        """The tensors among its arguments."""
        return (one for one in flattened((self.args, self.kwargs)) if isinstance(one, Read))


class Output(NamedTuple):
    """One of the tensors that a call gave."""

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


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """The same lists, tuples and mappings with other leaves."""
    if isinstance(value, dict):
        return {key: mapped(function, one) for key, one in value.items()}
    if isinstance(value, list):
        return [mapped(function, one) for one in value]
    if isinstance(value, tuple) and not isinstance(value, (Read, View, torch.Size)):
        return tuple(mapped(function, one) for one in value)
    return function(value)


def calls_of(state: State | None) -> list[Call]:
    """Every call that a state follows from, in the order of their time."""
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


# Operators


class _Signature(NamedTuple):
    """What the tape needs to know of an operator."""

    is_view: bool
    draws: bool
    written: tuple[int | str, ...]
    """Positions and names of the arguments that are written."""
    overwrites: bool
    """Whether those are written without being read."""
    gives_tensors: bool
    makes_empty: bool


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


@lru_cache(maxsize=4096)
def signature_of(function: Any) -> _Signature:
    """What the tape needs to know of an operator."""
    schema, name = function._schema, function.overloadpacket.__name__
    written: list[int | str] = []
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written.append(argument.name if argument.kwarg_only else position)
    outs = bool(written) and all(isinstance(one, str) for one in written)
    return _Signature(
        is_view=function.is_view or torch.Tag.inplace_view in function.tags,
        draws=torch.Tag.nondeterministic_seeded in function.tags,
        written=tuple(written),
        overwrites=outs or name in _OVERWRITING or (name == "bernoulli_" and schema.overload_name == "float"),
        gives_tensors=all("Tensor" in str(one.type) for one in schema.returns),
        makes_empty=name.removeprefix("new_").startswith("empty") and not written,
    )


# The tape


class _Memory:
    """What the tape knows of one storage."""

    __slots__ = ("__weakref__", "born", "data", "holds", "is_meta", "nbytes", "reference", "state")

    def __init__(self, storage: torch.UntypedStorage, state: State, born: bool) -> None:
        self.reference = StorageReference(storage)
        self.nbytes = storage.nbytes()
        self.is_meta = storage.device.type == "meta"
        self.born = born
        """Whether it was made while the tape ran."""
        self.data = state if isinstance(state, Data) else None
        self.now(state, not self.is_meta)

    def now(self, state: State, holds: bool) -> None:
        """Another state, and whether the memory holds its values."""
        self.state, self.holds = state, holds
        state.memory = self if holds else None

    @property
    def is_late(self) -> bool:
        """Whether its values are still to be computed."""
        return not self.holds

    def storage(self) -> torch.UntypedStorage | None:
        """The storage, if it lives."""
        return storage_behind(self.reference)


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records what happens to tensors in its context; see the module."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not to be wrapped by torch.compile, which would be imported for it."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.identity = uuid.uuid4().hex[:16]
        self._memories: dict[int, _Memory] = {}
        self._counter = itertools.count()
        self._readers = _Readers(self)
        self._calls = 0

    def __enter__(self) -> Any:
        self._readers.__enter__()  # type: ignore[no-untyped-call]
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self._readers.__exit__(*raised)  # type: ignore[no-untyped-call]

    # what is known of storages

    def memory_of(self, tensor: Tensor) -> _Memory | None:
        """What is known of a tensor's storage."""
        return self._memories.get(tensor.untyped_storage()._cdata)

    def memories(self) -> list[_Memory]:
        """Those of all storages that live."""
        return [memory for memory in self._memories.values() if not memory.reference.expired()]

    def forget(self) -> None:
        """Empties the tape."""
        self._memories.clear()

    def _known(self, tensor: Tensor, born: bool = False) -> _Memory:
        storage = tensor.untyped_storage()
        memory = self._memories.get(storage._cdata)
        if memory is None:
            state = Empty(storage.nbytes()) if tensor.is_meta else Data(storage)
            memory = self._memories[storage._cdata] = _Memory(storage, state, born)
        return memory

    def _made(self, tensor: Tensor, source: Output, holds: bool) -> None:
        """A tensor that a call gave, in a storage of its own."""
        storage, view = tensor.untyped_storage(), View.of(tensor)
        nbytes = storage.nbytes()
        before = None if view.is_whole(nbytes) else Empty(nbytes)
        state = Written(nbytes, before, view, source)
        memory = self._memories[storage._cdata] = _Memory(storage, state, True)
        memory.now(state, holds and not memory.is_meta)

    # the operators

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._calls += 1
        if self._calls % 4096 == 0:
            self._memories = {key: one for key, one in self._memories.items() if not one.reference.expired()}
        tensors = [one for one in flattened((args, kwargs)) if isinstance(one, Tensor)]
        if not all(map(has_memory_of_its_own, tensors)):
            for tensor in filter(has_memory_of_its_own, tensors):
                self.settle(tensor)
            return func(*args, **kwargs)
        signature = signature_of(func)
        if signature.is_view:
            result = func(*args, **kwargs)
            if func is torch.ops.aten.lift_fresh.default:  # what torch.tensor and its like have just made
                self._known(result, born=True)
            return result
        if not signature.gives_tensors:
            return func(*mapped(self._valued, args), **mapped(self._valued, kwargs))
        return self._recorded(func, signature, args, kwargs, tensors)

    def _recorded(self, func: Any, signature: _Signature, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        written = [args[one] if isinstance(one, int) else kwargs[one] for one in signature.written]
        unread = {id(one) for one in written} if signature.overwrites else set()
        if unread and any(id(one) not in unread and _same_storage(one, written) for one in tensors):
            unread = set()
        memories = [self._known(tensor) for tensor in tensors]
        late = signature.draws or any(
            memory.is_late and (id(tensor) not in unread or not View.of(tensor).is_whole(memory.nbytes))
            for tensor, memory in zip(tensors, memories, strict=True)
        )
        number = next(self._counter)

        def frozen(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return Read(None if id(value) in unread else self._known(value).state, View.of(value))

        identity = f"{self.identity}:{number}" if signature.draws and _draws(func, args) else None
        call = Call(func, mapped(frozen, args), mapped(frozen, kwargs), number, identity)
        if written:
            late = late or sum(one.numel() for one in written) > LARGE or any(one.is_meta for one in written)
            if late and _is_known_to_write(written, signature, func):
                return self._write_late(call, written)
        elif late or not tensors or any(tensor.numel() > SMALL for tensor in tensors):
            shapes = self._on_meta(func, args, kwargs)
            if shapes is not None:
                outputs = [shapes] if isinstance(shapes, Tensor) else list(shapes)
                if late or sum(one.numel() for one in outputs if isinstance(one, Tensor)) > LARGE:
                    return self._made_late(call, shapes, outputs, signature, _device_of(kwargs, tensors))
        return self._run(call, signature, args, kwargs, written)

    def _run(self, call: Call, signature: _Signature, args: Any, kwargs: Any, written: list[Tensor]) -> Any:
        """Calls it now."""
        for tensor in written:
            memory = self._known(tensor)
            if memory.is_late and not (signature.overwrites and View.of(tensor).is_whole(memory.nbytes)):
                self.settle(tensor)
            if memory.data is not None and memory.data.storage._cdata == tensor.untyped_storage()._cdata:
                # calls that were recorded read what was there
                memory.data.storage = memory.data.storage.clone()  # type: ignore[no-untyped-call]
        result = call.function(*mapped(self._valued_but(written), args), **mapped(self._valued_but(written), kwargs))
        if written:
            self._wrote(call, written, holds=True)
            return result
        known = {one.untyped_storage()._cdata for one in flattened((args, kwargs)) if isinstance(one, Tensor)}
        outputs = [result] if isinstance(result, Tensor) else list(result or ())
        for number, output in enumerate(outputs):
            if (
                isinstance(output, Tensor)
                and has_memory_of_its_own(output)
                and output.untyped_storage()._cdata not in known
            ):
                if signature.makes_empty:
                    self._born_empty(output)
                else:
                    self._made(output, Output(call, number), holds=True)
        return result

    def _born_empty(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._memories[storage._cdata] = _Memory(storage, Empty(storage.nbytes()), True)

    def _write_late(self, call: Call, written: list[Tensor]) -> Any:
        self._wrote(call, written, holds=False)
        results = written[: len(call.function._schema.returns)]
        return None if not results else results[0] if len(results) == 1 else tuple(results)

    def _wrote(self, call: Call, written: list[Tensor], holds: bool) -> None:
        for number, tensor in enumerate(written):
            memory, view = self._known(tensor), View.of(tensor)
            before = None if view.is_whole(memory.nbytes) else memory.state
            memory.now(Written(memory.nbytes, before, view, Output(call, number)), holds)

    def _made_late(
        self, call: Call, shapes: Any, outputs: list[Any], signature: _Signature, device: torch.device
    ) -> Any:
        made = [new_memory(one, device) if isinstance(one, Tensor) else one for one in outputs]
        for number, tensor in enumerate(made):
            if isinstance(tensor, Tensor):
                if signature.makes_empty:
                    self._born_empty(tensor)
                else:
                    self._made(tensor, Output(call, number), holds=False)
        return made[0] if isinstance(shapes, Tensor) else type(shapes)(made)

    def _on_meta(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What the operator gives, without memory; None if that takes values."""

        def bare(value: Any) -> Any:
            if isinstance(value, Tensor):
                return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
            return torch.device("meta") if isinstance(value, torch.device) else value

        options = mapped(bare, kwargs)
        if "device" in kwargs:
            options["device"] = torch.device("meta")
        options.pop("pin_memory", None)
        try:
            return func(*mapped(bare, args), **options)
        except (RuntimeError, NotImplementedError, TypeError, ValueError):
            return None

    # values

    def _valued(self, value: Any) -> Any:
        """A tensor whose memory holds its values."""
        if not isinstance(value, Tensor):
            return value
        memory = self.memory_of(value)
        if memory is None or memory.holds:
            return value
        if memory.is_meta:
            return self._evaluated(memory.state, View.of(value))
        self.settle(value)
        return value

    def _valued_but(self, written: list[Tensor]) -> Callable[[Any], Any]:
        keep = {id(one) for one in written}
        return lambda value: value if id(value) in keep else self._valued(value)

    def settle(self, tensor: Tensor) -> None:
        """Computes what a tensor's memory is to hold.

        Raises DeferralError where that is drawn.
        """
        memory = self.memory_of(tensor)
        if memory is None or memory.holds or memory.is_meta:
            return
        values = self._evaluated(memory.state, None)
        tensor.untyped_storage().copy_(values)
        memory.now(memory.state, True)

    def _evaluated(self, state: State, view: View | None) -> Any:
        from fastinit.adapters.torch.replaying import evaluated

        for call in calls_of(state):
            if call.identity is not None:
                raise DeferralError(
                    f"a value that is drawn cannot be read while a model is deferred: {_place()} reads what "
                    f"{call.name} draws. Construct this module outside deferred(), or draw the value by Python's or "
                    "NumPy's generator"
                )
        storage = evaluated(state)
        return storage if view is None else view.within(storage)


def _same_storage(tensor: Tensor, others: Iterable[Tensor]) -> bool:
    own = tensor.untyped_storage()._cdata
    return any(own == other.untyped_storage()._cdata for other in others)


def _is_known_to_write(written: Sequence[Tensor], signature: _Signature, func: Any) -> bool:
    """Whether the tensors that are written keep their shapes: those of ``out=`` may be resized."""
    return all(isinstance(one, int) for one in signature.written) or all(one.numel() for one in written)


def _draws(func: Any, args: Any) -> bool:
    """Whether a call that may draw does: a fill by fastinit of what has no randomness does not."""
    if func is not torch.ops.fastinit.fill_.default:
        return True
    from fastinit.adapters.torch.replaying import fill_of

    _, key, draws = fill_of(args)
    return draws and key is None


def _device_of(kwargs: dict[str, Any], tensors: Sequence[Tensor]) -> torch.device:
    given = kwargs.get("device")
    if given is not None:
        return torch.device(given)
    return tensors[0].device if tensors else torch.device("cpu")


def new_memory(like: Tensor, device: torch.device) -> Tensor:
    """Memory for a tensor of this shape and dtype, which takes none until it is written."""
    nbytes = like.untyped_storage().nbytes()
    if device.type != "cpu" or nbytes < MAPPED or sys.platform == "win32":
        return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device)
    region = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    storage = torch.frombuffer(region, dtype=torch.uint8).untyped_storage()
    return View.of(like).within(storage)


def _place() -> str:
    """The innermost line of the caller's code that is neither torch's nor the adapter's."""
    frame = sys._getframe(1)
    found = None
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith(("torch.", "fastinit.")) and name not in ("torch", "contextlib"):
            found = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            break
        frame = frame.f_back  # type: ignore[assignment]
    return found or "the constructor"


# Reads that are no operators


class _Readers(TorchFunctionMode):
    """Sees to it that memory which is read without an operator holds its values."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READING:
            (tensor, *rest) = args
            if has_memory_of_its_own(tensor):
                if func is Tensor.__deepcopy__ and type(tensor) is Tensor:
                    return _copied(tensor, *rest)
                if func is not Tensor.__deepcopy__:
                    self._tape.settle(tensor)
        return func(*args, **(kwargs or {}))


_READING: Final = frozenset(
    {
        *(Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.data_ptr, Tensor.__deepcopy__, Tensor.__reduce_ex__),
        *(Tensor.untyped_storage, Tensor.storage, Tensor.__dlpack__),
    }
)


def _copied(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """A deep copy by an operator, which the tape sees."""
    if id(tensor) in memo:
        return memo[id(tensor)]  # type: ignore[no-any-return]
    if not tensor.is_leaf:
        raise RuntimeError(
            "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the moment."
        )
    copy = tensor.detach().clone()
    if tensor.requires_grad:
        copy.requires_grad_()
    vars(copy).update(vars(tensor))
    memo[id(tensor)] = copy
    return copy
