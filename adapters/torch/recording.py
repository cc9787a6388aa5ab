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
    """Defines the operator by its implementation, which draws a key if it gets none."""

    def run(tensor: Tensor, initializer: str, key: Sequence[int]) -> None:
        with not_traced():
            fill(tensor, decoded(initializer), Key.from_words(*key) if key else None)

    if not hasattr(torch.ops.fastinit, "fill_"):  # a process has one operator, but may import this module again
        schema = "fill_(Tensor(a!) tensor, str initializer, int[] key) -> ()"
        _LIBRARY.define(schema, tags=(torch.Tag.nondeterministic_seeded,))  # type: ignore[no-untyped-call]
        _LIBRARY.impl("fill_", run, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
        torch.library.register_fake("fastinit::fill_", lambda tensor, initializer, key: None, lib=_LIBRARY)
    return fill


def encoded(initializer: Initializer) -> str:
    """The text of an initializer in the operator's calls."""
    try:
        return _encoded(initializer)
    except TypeError:  # an unhashable initializer
        return json.dumps(initializer_config(initializer))


@lru_cache(maxsize=256)
def _encoded(initializer: Initializer) -> str:
    return json.dumps(initializer_config(initializer))


@lru_cache(maxsize=256)
def decoded(initializer: str) -> Initializer:
    """The initializer of a call of the operator."""
    return initializer_from_config(json.loads(initializer))


# While a call is being inspected, it fills nothing and appends (initializer as JSON, key) for each fill.
_asked: ContextVar[list[tuple[str, tuple[int, ...]]] | None] = ContextVar("fastinit.adapters.torch.asked", default=None)


_Recorder = Callable[[Tensor, Initializer], bool]

# The current tape's handler of a fill, see recorded_at_once(); None without a tape.
_recorder: Final[ContextVar[_Recorder | None]] = ContextVar("fastinit.adapters.torch.deferring", default=None)


@contextmanager
def deferring(recorder: _Recorder | None) -> Iterator[None]:
    """Inside, fills become operators that a tape sees; without a recorder they are ordinary again."""
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
    """Whether a fill with a named key went directly to the tape, without torch's operator.

    For a small parameter, torch and its modes take longer to call an operator than all other steps together.
    """
    recorder = _recorder.get()
    return recorder is not None and recorder(tensor, initializer)


def is_recorded() -> bool:
    """Whether a fill in this context becomes an operator: of a graph, or on the tape of a deferred model."""
    return is_traced() or is_deferring() or _asked.get() is not None


def record(tensor: Tensor, initializer: Initializer, key: Key | None) -> Tensor:
    """Fills a tensor with the operator, so that the current graph records it."""
    text, words = encoded(initializer), [] if key is None else list(key.words)
    answers = _asked.get()
    if answers is not None:
        answers.append((text, tuple(words)))
    else:
        _fill(tensor, text, words)
    return tensor


def _fill(tensor: Tensor, initializer: str, key: list[int]) -> None:
    # detached, because torch.export.load cannot read a block of torch.no_grad() that returns nothing
    torch.ops.fastinit.fill_.default(tensor.detach(), initializer, key)


# The distribution or validity of these functions depends on the tensor's sizes, and likewise with these arguments.
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
    """The record of a function of this name for a tensor; "" if the function falls back to torch.

    The compiler calls this while tracing. It runs the function on a tensor without memory.
    """
    if key is not None:
        named = named | {"key": Key.from_words(*key) if isinstance(key, tuple) else key}
    answers: list[tuple[str, tuple[int, ...]]] = []

    def ask() -> None:
        _asked.set(answers)
        _FUNCTIONS[name](torch.empty(shape, dtype=dtype, device="meta"), *arguments, **named)

    try:
        copy_context().run(ask)
    except (TypeError, ValueError, RuntimeError):  # torch's function raises this error later
        return "", ()
    return answers[-1] if answers else ("", ())


def traceable(function: _Function) -> _Function:
    """Makes torch.compile trace the operator instead of a function that fills.

    If fastinit has no numbers, torch.compile traces torch's function of the same name. If torch has no such function,
    the graph breaks, and the function runs normally.
    """
    name = function.__name__
    torchs = getattr(torch_init, name, None)

    @untraced
    def as_it_is(*arguments: Any, **named: Any) -> Tensor:
        return function(*arguments, **named)

    def traced(tensor: Tensor, *arguments: Any, key: Key | int | None = None, **named: Any) -> Tensor:
        given = key.words if isinstance(key, Key) else key
        # relevant sizes become constants of the graph; 2 stands for the others, which may change
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
