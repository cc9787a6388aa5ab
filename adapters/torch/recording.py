"""One operator for a fill in the graphs of torch.compile, torch.export, make_fx and torch.jit.trace.

``fastinit::fill_(Tensor(a!) tensor, str initializer, int[] key) -> ()`` fills a tensor with an initializer, given as
JSON, and a key, given as its words. If there are none, it draws the key from the generator of the tensor's device when
the graph runs. So a graph gives the numbers of the eager functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, copy_context
from functools import lru_cache
from operator import index
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from fastinit import Initializer, Key, initializer_config, initializer_from_config
from fastinit.adapters.torch.internals import constant_result, inlined_as, is_traced, not_traced, torch_init, untraced

__all__ = [
    "decoded",
    "deferring",
    "encoded",
    "implement",
    "is_deferring",
    "is_recorded",
    "not_deferring",
    "record",
    "recorded_at_once",
    "traceable",
]

_Fill = Callable[[Tensor, Initializer, Key | None], None]
_Function = TypeVar("_Function", bound=Callable[..., Tensor])

_LIBRARY: Final = torch.library.Library("fastinit", "FRAGMENT")  # type: ignore[no-untyped-call]


def implement(fill: _Fill) -> _Fill:
    """Defines the operator by its implementation, which draws a key where it gets none."""

    def run(tensor: Tensor, initializer: str, key: Sequence[int]) -> None:
        with not_traced():
            fill(tensor, decoded(initializer), Key.from_words(*key) if key else None)

    if not hasattr(torch.ops.fastinit, "fill_"):  # a process has one, and modules may be imported again
        schema = "fill_(Tensor(a!) tensor, str initializer, int[] key) -> ()"
        _LIBRARY.define(schema, tags=(torch.Tag.nondeterministic_seeded,))  # type: ignore[no-untyped-call]
        _LIBRARY.impl("fill_", run, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
        torch.library.register_fake("fastinit::fill_", lambda tensor, initializer, key: None, lib=_LIBRARY)
    return fill


def encoded(initializer: Initializer) -> str:
    """An initializer as the operator's calls name it."""
    try:
        return _encoded(initializer)
    except TypeError:  # one that has no hash
        return json.dumps(initializer_config(initializer))


@lru_cache(maxsize=256)
def _encoded(initializer: Initializer) -> str:
    return json.dumps(initializer_config(initializer))


@lru_cache(maxsize=256)
def decoded(initializer: str) -> Initializer:
    """The initializer that a call of the operator names."""
    return initializer_from_config(json.loads(initializer))


# While a call is asked what it would record, it fills nothing and appends (initializer as JSON, key) of each fill.
_asked: ContextVar[list[tuple[str, tuple[int, ...]]] | None] = ContextVar("fastinit.adapters.torch.asked", default=None)


_Recorder = Callable[[Tensor, Initializer], bool]

# What a tape that records in this context does with a fill, see recorded_at_once(); None where no tape records.
_recorder: Final[ContextVar[_Recorder | None]] = ContextVar("fastinit.adapters.torch.deferring", default=None)


@contextmanager
def deferring(recorder: _Recorder | None) -> Iterator[None]:
    """Inside, fills become operators that a tape sees, or, without a recorder, again do not."""
    token = _recorder.set(recorder)
    try:
        yield
    finally:
        _recorder.reset(token)


def not_deferring() -> AbstractContextManager[None]:
    """Inside, tensors are filled although a tape records outside."""
    return deferring(None)


def is_deferring() -> bool:
    """Whether a tape records in this context."""
    return _recorder.get() is not None


def recorded_at_once(tensor: Tensor, initializer: Initializer) -> bool:
    """Whether a fill, by a key that follows from a name, went to the tape without torch's operator in between.

    Calling an operator takes torch and its modes longer than all else that is done for a small parameter.
    """
    recorder = _recorder.get()
    return recorder is not None and recorder(tensor, initializer)


def is_recorded() -> bool:
    """Whether a fill in this context becomes an operator: of a graph, or on the tape of a deferred model."""
    return is_traced() or is_deferring() or _asked.get() is not None


def record(tensor: Tensor, initializer: Initializer, key: Key | None) -> Tensor:
    """Fills a tensor by the operator, so that the graph in the making records it."""
    text, words = encoded(initializer), [] if key is None else list(key.words)
    answers = _asked.get()
    if answers is not None:
        answers.append((text, tuple(words)))
    else:
        _fill(tensor, text, words)
    return tensor


def _fill(tensor: Tensor, initializer: str, key: list[int]) -> None:
    # detached, since a block of torch.no_grad() that returns nothing is more than torch.export.load can read
    torch.ops.fastinit.fill_.default(tensor.detach(), initializer, key)


# What these functions draw, or whether they may, depends on the sizes of a tensor; and so with these arguments.
_OF_A_SIZE: Final = frozenset({"dirac_", "sparse_", "orthogonal_", "delta_orthogonal_", "icnr_", "zero_init_"})
_OF_A_CONVOLUTION: Final = frozenset({"groups", "transposed", "stride"})

_FUNCTIONS: Final[dict[str, Callable[..., Tensor]]] = {}


@constant_result
def _answer(
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    key: tuple[int, ...] | int | None,
    arguments: tuple[Any, ...],
    named: dict[str, Any],
) -> tuple[str, tuple[int, ...]]:
    """What a function of this name would record for a tensor; "" if torch's own function takes its place.

    The compiler calls this while it traces. It runs the function on a tensor without memory.
    """
    if key is not None:
        named = named | {"key": Key.from_words(*key) if isinstance(key, tuple) else key}
    answers: list[tuple[str, tuple[int, ...]]] = []

    def ask() -> None:
        _asked.set(answers)
        _FUNCTIONS[name](torch.empty(shape, dtype=dtype, device="meta"), *arguments, **named)

    try:
        copy_context().run(ask)
    except (TypeError, ValueError, RuntimeError):  # which torch's function raises where the graph runs, or is made
        return "", ()
    return answers[-1] if answers else ("", ())


def traceable(function: _Function) -> _Function:
    """Makes torch.compile trace the operator in the place of a function that fills.

    Where fastinit has no numbers, torch.compile traces torch's function of the same name. Where there is none, the
    graph breaks, and the function runs as it is.
    """
    name = function.__name__
    torchs = getattr(torch_init, name, None)

    @untraced
    def as_it_is(*arguments: Any, **named: Any) -> Tensor:
        return function(*arguments, **named)

    def traced(tensor: Tensor, *arguments: Any, key: Key | int | None = None, **named: Any) -> Tensor:
        given = key.words if isinstance(key, Key) else key
        # sizes that matter become constants of the graph; 2 stands for those that do not, and may change
        of_convolution = not _OF_A_CONVOLUTION.isdisjoint(named)
        sizes = tensor.shape if name in _OF_A_SIZE or of_convolution else (2,) * tensor.dim()
        shape = tuple([index(size) for size in sizes])
        text, words = _answer(name, shape, tensor.dtype, given, arguments, named)
        if text:
            _fill(tensor, text, list(words))
        elif torchs is not None and key is None and not of_convolution:
            torchs(tensor, *arguments, **named)
        else:
            as_it_is(tensor, *arguments, key=key, **named)
        return tensor

    _FUNCTIONS[name] = function
    return inlined_as(untraced(function), traced)
