"""The tape: a context that records what operators do to storages and computes values only if they are read.

Small tensors without random values are computed at once, because constructors read them. Large tensors, and all that
depend on draws, have lazily mapped memory. Large ones are computed when the code reads them; drawn values cannot be
read. The records are :mod:`fastinit.adapters.torch.histories`.
"""

from __future__ import annotations

import inspect
import itertools
import mmap
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastinit import Initializer, Key
from fastinit.adapters.torch.drawing import REFUSALS
from fastinit.adapters.torch.histories import (
    Call,
    Data,
    Empty,
    Output,
    Read,
    Signature,
    State,
    View,
    Written,
    fill_of,
    first_draw,
    flattened,
    mapped,
    signature_of,
    tensors_in,
)
from fastinit.adapters.torch.internals import (
    DispatchMode,
    StorageReference,
    address_of,
    has_memory_of_its_own,
    is_innermost,
    returned_by,
    storage_behind,
    without_function_modes,
    without_modes,
)
from fastinit.adapters.torch.recording import encoded
from fastinit.adapters.torch.replaying import evaluated
from fastinit.adapters.torch.tensors import DTYPES, Kind, kind_of
from fastinit.extending import is_random

__all__ = ["DeferralError", "Tape", "new_memory"]

# Inputs up to this number of elements do not produce large results in any realistic constructor.
SMALL: Final = 2**14
# Number of draws on which a condition on drawn values is evaluated.
CONDITIONS: Final = 16
# Size in bytes from which memory is mapped lazily.
MAPPED: Final = 2**20
_NO_RESERVE: Final = getattr(mmap, "MAP_NORESERVE", 0x4000)


class DeferralError(RuntimeError):
    """A constructor read a drawn value, so it cannot be deferred.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import DeferralError, deferred
    >>> try:
    ...     with deferred():
    ...         print(torch.randn(3).sum().item())
    ... except DeferralError as error:
    ...     print(str(error).partition(":")[0])
    a drawn value cannot be read while a model is deferred
    """


class _Memory:
    """The tape's knowledge about one storage."""

    __slots__ = ("__weakref__", "born", "data", "holds", "is_meta", "is_read", "nbytes", "reference", "state")

    def __init__(self, storage: torch.UntypedStorage, state: State, born: bool) -> None:
        self.reference = StorageReference(storage)
        self.nbytes = storage.nbytes()
        self.is_meta = storage.device.type == "meta"
        self.born = born
        """Whether the storage was created while the tape ran."""
        self.data = state if isinstance(state, Data) else None
        self.is_read = False
        """Whether a recorded call reads the storage."""
        self.now(state, not self.is_meta)

    def now(self, state: State, holds: bool) -> None:
        """Sets another state, and whether the memory holds its values."""
        self.state, self.holds = state, holds
        state.memory = self if holds else None

    @property
    def is_late(self) -> bool:
        """Whether the values remain to be computed."""
        return not self.holds

    def storage(self) -> torch.UntypedStorage | None:
        """The storage, if it is alive."""
        return storage_behind(self.reference)


class Tape(DispatchMode):
    """Records what happens to tensors in its context; see the module."""

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

    # knowledge about storages

    def memory_of(self, tensor: Tensor) -> _Memory | None:
        """The knowledge about a tensor's storage."""
        return self._memories.get(address_of(tensor))

    def memories(self) -> list[_Memory]:
        """The knowledge about all live storages."""
        return [memory for memory in self._memories.values() if not memory.reference.expired()]

    def forget(self) -> None:
        """Empties the tape."""
        self._memories.clear()

    def _known(self, tensor: Tensor, born: bool = False) -> _Memory:
        storage = tensor.untyped_storage()
        memory = self._memories.get(address_of(storage))
        if memory is None:
            state = Empty(storage.nbytes()) if tensor.is_meta else Data(storage)
            memory = self._memories[address_of(storage)] = _Memory(storage, state, born)
        return memory

    def take(self, tensor: Tensor, state: State) -> None:
        """Follows an earlier tensor, in this state, whose memory does not have its values yet."""
        self._born_empty(tensor).now(state, False)

    def _made(self, tensor: Tensor, source: Output, holds: bool) -> None:
        """A tensor that a call returned, in its own storage."""
        storage, view = tensor.untyped_storage(), View.of(tensor)
        nbytes = storage.nbytes()
        before = None if view.is_whole(nbytes) else Empty(nbytes)
        state = Written(nbytes, before, view, source)
        memory = self._memories[address_of(storage)] = _Memory(storage, state, True)
        memory.now(state, holds and not memory.is_meta)

    # the operators

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._calls += 1
        if self._calls % 4096 == 0:
            self._memories = {key: one for key, one in self._memories.items() if not one.reference.expired()}
        tensors = tensors_in((args, kwargs))
        if not all(map(has_memory_of_its_own, tensors)):
            for tensor in filter(has_memory_of_its_own, tensors):
                self.settle(tensor)
            return func(*args, **kwargs)
        signature = signature_of(func)
        if signature.draws and isinstance(kwargs.get("generator"), torch.Generator):
            return self._drawn_by_authors(func, args, kwargs)
        if signature.is_view:
            result = func(*args, **kwargs)
            if func is torch.ops.aten.lift_fresh.default:  # from torch.tensor and similar functions
                self._known(result, born=True)
            return result
        if not signature.gives_tensors:
            if self._is_condition(signature, tensors):
                return self._answered(func, args, kwargs)
            return func(*mapped(self._valued, args), **mapped(self._valued, kwargs))
        return self._recorded(func, signature, args, kwargs, tensors)

    def fill(self, tensor: Tensor, initializer: Initializer) -> bool:
        """Records a fill by fastinit with a named key, without an operator. Returns whether that was possible."""
        if not is_innermost(self):
            return False
        with without_function_modes():
            kind = kind_of(tensor)
            if not (kind is Kind.PLAIN or (kind is Kind.UNREAL and tensor.is_meta)) or not tensor.numel():
                return False
            try:
                initializer.check(tuple(tensor.shape), DTYPES[tensor.dtype])
            except REFUSALS:
                return False
            number = next(self._counter)
            identity = f"{self.identity}:{number}" if is_random(initializer) else None
            read = Read(None, View.of(tensor))
            args: Any = (read, encoded(initializer), [])
            chosen = identity is not None and not _is_within_a_layer()
            call = Call(torch.ops.fastinit.fill_.default, args, {}, number, identity, chosen, (read,))
            self._wrote(call, [tensor], holds=False)
        return True

    def _drawn_by_authors(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Draws from the author's own generator are the author's numbers, like a table."""
        result = func(*mapped(self._valued, args), **mapped(self._valued, kwargs))
        for output in flattened(result):
            if isinstance(output, Tensor):
                memory = self._known(output, born=True)
                numbers = output.untyped_storage().clone()  # type: ignore[no-untyped-call]
                memory.now(Data(numbers), True)
        return result

    def _recorded(self, func: Any, signature: Signature, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        written = signature.arguments_written(args, kwargs)
        unread = {id(one) for one in written} if signature.overwrites else set()
        if unread and sum(_same_storage(one, written) for one in tensors) > len(written):
            unread = set()  # overwritten memory may also be read, as when a tied weight is copied into itself
        found = [(id(tensor), self._known(tensor), View.of(tensor)) for tensor in tensors]
        late = signature.draws or any(
            memory.is_late and (which not in unread or not view.is_whole(memory.nbytes))
            for which, memory, view in found
        )
        number = next(self._counter)
        reads = {}
        for which, memory, view in found:
            memory.is_read |= which not in unread
            reads[which] = Read(None if which in unread else memory.state, view)

        def frozen(value: Any) -> Any:
            return reads[id(value)] if isinstance(value, Tensor) else value

        identity = f"{self.identity}:{number}" if signature.draws and _draws(func, args) else None
        chosen = identity is not None and not _is_within_a_layer()
        read = tuple([reads[id(tensor)] for tensor in tensors])
        call = Call(func, mapped(frozen, args), mapped(frozen, kwargs), number, identity, chosen, read)
        if written:
            late = late or sum(one.numel() for one in written) > signature.most or any(one.is_meta for one in written)
            if late and _is_known_to_write(written, signature):
                return self._write_late(call, written)
        elif late or not tensors or any(tensor.numel() > SMALL for tensor in tensors):
            shapes = self._on_meta(func, args, kwargs)
            if shapes is None and late and not signature.draws and not signature.is_dynamic:
                shapes = func(*mapped(self._stand_in, args), **mapped(self._stand_in, kwargs))
            if shapes is not None:
                outputs = [shapes] if isinstance(shapes, Tensor) else list(shapes)
                if late or sum(one.numel() for one in outputs if isinstance(one, Tensor)) > signature.most:
                    return self._made_late(call, shapes, outputs, signature, _device_of(kwargs, tensors))
        return self._run(call, signature, args, kwargs, written)

    def _run(self, call: Call, signature: Signature, args: Any, kwargs: Any, written: list[Tensor]) -> Any:
        """Executes the call now."""
        for tensor in written:
            memory = self._known(tensor)
            if memory.is_late and not (signature.overwrites and View.of(tensor).is_whole(memory.nbytes)):
                self.settle(tensor)
            self._spare(memory, tensor)
        if len(call.reads()) > len(written):
            valued = self._valued_but(written)
            args, kwargs = mapped(valued, args), mapped(valued, kwargs)
        result = call.function(*args, **kwargs)
        if written:
            self._wrote(call, written, holds=True)
            return result
        known = {address_of(one) for one in tensors_in((args, kwargs))}
        outputs = [result] if isinstance(result, Tensor) else list(result or ())
        for number, output in enumerate(outputs):
            if isinstance(output, Tensor) and has_memory_of_its_own(output) and address_of(output) not in known:
                if signature.makes_empty:
                    self._born_empty(output)
                else:
                    self._made(output, Output(call, number), holds=True)
        return result

    @staticmethod
    def _spare(memory: _Memory, tensor: Tensor) -> None:
        """Saves external memory before a write, because recorded calls read it."""
        if memory.data is not None and address_of(memory.data.storage) == address_of(tensor):
            memory.data.storage = memory.data.storage.clone()  # type: ignore[no-untyped-call]

    def _born_empty(self, tensor: Tensor) -> _Memory:
        storage = tensor.untyped_storage()
        memory = self._memories[address_of(storage)] = _Memory(storage, Empty(storage.nbytes()), True)
        return memory

    def _write_late(self, call: Call, written: list[Tensor]) -> Any:
        for tensor in written:
            memory = self._known(tensor)
            if memory.is_read:
                self._spare(memory, tensor)
        self._wrote(call, written, holds=False)
        results = written[: returned_by(call.function)]
        return None if not results else results[0] if len(results) == 1 else tuple(results)

    def _wrote(self, call: Call, written: list[Tensor], holds: bool) -> None:
        for number, tensor in enumerate(written):
            memory, view = self._known(tensor), View.of(tensor)
            before = None if view.is_whole(memory.nbytes) else memory.state
            memory.now(Written(memory.nbytes, before, view, Output(call, number)), holds)

    def _made_late(
        self, call: Call, shapes: Any, outputs: list[Any], signature: Signature, device: torch.device
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
        """The operator's result without memory; None if the operator needs values."""

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

    def _is_condition(self, signature: Signature, tensors: Sequence[Tensor]) -> bool:
        """Whether the call is a condition on drawn values."""
        if not signature.gives_bool and (not signature.gives_number or tensors[0].dtype != torch.bool):
            return False
        return any(first_draw(self._known(tensor).state) is not None for tensor in tensors)

    def _answered(self, func: Any, args: Any, kwargs: Any) -> bool:
        """The answer to a condition on drawn values, if all draws agree: no weight is NaN, none is orthogonal.

        Raises DeferralError if they disagree.
        """

        answers = set()
        for number in range(CONDITIONS):
            stand_in = partial(self._stand_in, number=number)
            answers.add(bool(func(*mapped(stand_in, args), **mapped(stand_in, kwargs))))
        if len(answers) > 1:
            self._refuse(self._known(next(one for one in flattened(args) if isinstance(one, Tensor))).state)
        return answers.pop()

    def _stand_in(self, value: Any, number: int = 0) -> Any:
        """A tensor with one possible draw of its values."""
        if not isinstance(value, Tensor):
            return value
        key = Key(number)
        storage = evaluated(self._known(value).state, lambda call: key.fold_in(call.identity or ""))
        return View.of(value).within(storage)

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
        """Computes the values of a tensor's memory.

        Raises DeferralError if they are drawn.
        """
        memory = self.memory_of(tensor)
        if memory is None or memory.holds or memory.is_meta:
            return
        with without_modes():
            values = self._evaluated(memory.state, None)
            tensor.untyped_storage().copy_(values)
        memory.now(memory.state, True)

    def _refuse(self, state: State) -> None:
        """Raises DeferralError if a state is drawn."""
        call = first_draw(state)
        if call is not None:
            raise DeferralError(
                f"a drawn value cannot be read while a model is deferred: {_place()} reads a draw of {call.name}. "
                "Construct this module outside deferred(), or draw the value with Python's or NumPy's generator"
            )

    def _evaluated(self, state: State, view: View | None) -> Any:
        self._refuse(state)
        storage = evaluated(state)
        return storage if view is None else view.within(storage)


def _same_storage(tensor: Tensor, others: Iterable[Tensor]) -> bool:
    own = address_of(tensor)
    return any(own == address_of(other) for other in others)


def _is_known_to_write(written: Sequence[Tensor], signature: Signature) -> bool:
    """Whether the written tensors keep their shapes. Those of ``out=`` may be resized."""
    return all(isinstance(one, int) for one in signature.written) or all(one.numel() for one in written)


def _draws(func: Any, args: Any) -> bool:
    """Whether a call draws. A fill by fastinit with a deterministic initializer does not."""
    if func is not torch.ops.fastinit.fill_.default:
        return True
    _, key, draws = fill_of(args)
    return draws and key is None


def _device_of(kwargs: dict[str, Any], tensors: Sequence[Tensor]) -> torch.device:
    given = kwargs.get("device")
    if given is not None:
        return torch.device(given)
    return tensors[0].device if tensors else torch.device("cpu")


def new_memory(like: Tensor, device: torch.device) -> Tensor:
    """Memory for a tensor of this shape and dtype, allocated lazily on the first write."""
    nbytes = like.untyped_storage().nbytes()
    if device.type != "cpu" or nbytes < MAPPED or sys.platform == "win32":
        return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device)
    region = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    storage = torch.frombuffer(region, dtype=torch.uint8).untyped_storage()
    return View.of(like).within(storage)


def _callers() -> Iterator[tuple[str, FrameType]]:
    """The frames outside this adapter, innermost first, each with its module's name."""
    frame = inspect.currentframe()
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name != "contextlib" and not name.startswith("fastinit."):
            yield name, frame
        frame = frame.f_back


def _is_torchs(module: str) -> bool:
    return module == "torch" or module.startswith("torch.")


def _place() -> str:
    """The innermost line outside torch and the adapter."""
    found = next((frame for name, frame in _callers() if not _is_torchs(name)), None)
    return "the constructor" if found is None else f"{found.f_code.co_filename}:{found.f_lineno}"


def _is_within_a_layer() -> bool:
    """Whether the innermost code, apart from torch's helpers, is in a layer of torch.nn, such as `reset_parameters`."""
    for name, _ in _callers():
        if not _is_torchs(name) or name.startswith("torch.nn.modules."):
            return _is_torchs(name)
    return False


# Reads without an operator


class _Readers(TorchFunctionMode):
    """Ensures that memory read without an operator holds its values."""

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
        *(Tensor.untyped_storage, Tensor.storage, Tensor.__dlpack__, Tensor.share_memory_),
    }
)


def _copied(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """A deep copy through an operator, so that the tape sees it."""
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
