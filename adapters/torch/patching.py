"""Code that calls torch.nn.init, on fastinit: :func:`patched`.

A function of torch.nn.init is bound in many places: in torch.nn.init, in modules that imported it by name, in tables
such as that of transformers, in partial functions, default arguments and class attributes. No search finds them all,
and whoever replaces and restores names itself (transformers does, while it loads a model) would undo ours, or we
theirs. So the names are left alone. All bindings share one function object, and :func:`patched` exchanges the code
of that object (``function.__code__``) for a line that asks this module which function to call, here and now:
fastinit's where :func:`patched` is in force, torch's own elsewhere. The last exit puts torch's code back.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Callable, Generator
from contextvars import ContextVar
from types import CodeType, FunctionType, TracebackType
from typing import Any, TypeGuard, TypeVar, overload

import torch

from fastinit.adapters.torch import init

_F = TypeVar("_F", bound=Callable[..., Any])

# What writes. The private ones are what the public ones share and other packages import; the deprecated aliases call
# the public ones; calculate_gain and the fans are the same in both.
_OURS: dict[str, Callable[..., Any]] = {
    name: getattr(init, name)
    for name in (
        *("uniform_", "normal_", "trunc_normal_", "constant_", "ones_", "zeros_", "eye_", "dirac_", "sparse_"),
        *("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "orthogonal_"),
        *("_no_grad_uniform_", "_no_grad_normal_", "_no_grad_trunc_normal_", "_no_grad_fill_", "_no_grad_zero_"),
    )
}

# An entry is a mere object; an exit ends it for good, also in contexts copied from the one that entered. In a context
# variable, because other threads, and other tasks of the same thread, have entered nothing.
_entered: ContextVar[tuple[object, ...]] = ContextVar("fastinit.adapters.torch.patched", default=())
_in_force: set[object] = set()  # entries not left yet, of all threads


class _Exchange:
    """A function of torch.nn.init, torch's code and the code that stands in for it."""

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        self.code = function.__code__
        self.stand_in = _stand_in(self.code)
        self.torchs = FunctionType(self.code, function.__globals__, function.__name__, function.__defaults__)


_exchanges: dict[str, _Exchange] = {}
_lock = threading.RLock()  # reentrant, because the garbage collector may close a generator, and so leave, at any time
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def _stand_in(code: CodeType) -> CodeType:
    """Code with the name, parameters and place of this one, so that signatures, sources and tracebacks stay right.

    It imports what it calls, since it runs with the globals of torch.nn.init, to which nothing is added.
    """
    parameters = ", ".join(code.co_varnames[: code.co_argcount])
    source = (
        f"def {code.co_name}({parameters}): "
        f"from {__name__} import _chosen; return _chosen({code.co_name!r})({parameters})"
    )
    compiled = compile("\n" * (code.co_firstlineno - 1) + source, code.co_filename, "exec", dont_inherit=True)
    return next(constant for constant in compiled.co_consts if isinstance(constant, CodeType))


def _chosen(name: str) -> Callable[..., Any]:
    """The function that a call of torch.nn.init's `name` means here and now."""
    # torch.compile and torch.export trace torch's own operators, and nothing else
    if torch.compiler.is_compiling() or _in_force.isdisjoint(_entered.get()):
        return _exchanges[name].torchs
    return functools.partial(_call, _OURS[name])


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls fastinit's function; where that in turn calls torch's, torch's it is."""
    token = _entered.set(())
    try:
        return function(*arguments)
    finally:
        _entered.reset(token)


def _is_torchs(function: Any, name: str) -> TypeGuard[FunctionType]:
    """Whether torch defined it under this name; what somebody else put there is not torch's, and stays what it is."""
    if not isinstance(function, FunctionType) or function.__globals__ is not vars(torch.nn.init):
        return False
    return function.__name__ == name


def _install() -> None:
    for name, ours in _OURS.items():
        function = vars(torch.nn.init).get(name)
        if function is ours or not _is_torchs(function, name):  # some of fastinit's are torch's
            continue
        known = _exchanges.get(name)
        if known is None or known.function is not function or known.code is not function.__code__:
            _exchanges[name] = _Exchange(function)
    for exchange in _exchanges.values():
        exchange.function.__code__ = exchange.stand_in


def _uninstall() -> None:
    for exchange in _exchanges.values():
        exchange.function.__code__ = exchange.code


class _Patched:
    """What :func:`patched` returns: may be entered any number of times, nested too, and by several threads."""

    def __init__(self) -> None:
        self._entries: list[object] = []

    def __enter__(self) -> None:
        entry = object()
        with _lock:
            if not _in_force:
                _install()
            _in_force.add(entry)
            self._entries.append(entry)
        _entered.set((*filter(_in_force.__contains__, _entered.get()), entry))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with _lock:
            if not self._entries:
                raise RuntimeError("this patched() has been left as often as it was entered")
            # the latest entry of this context; a generator may be closed in another context than it was started in
            entry = next((e for e in reversed(_entered.get()) if e in self._entries), self._entries[-1])
            self._entries.remove(entry)
            _in_force.remove(entry)
            if not _in_force:
                _uninstall()
        _entered.set(tuple(filter(_in_force.__contains__, _entered.get())))

    def __call__(self, function: _F) -> _F:
        """The function with its calls inside a patched() of their own."""
        if isinstance(function, type):
            raise TypeError(f"patched() decorates functions, got the class {function.__name__}; decorate its __init__")
        if not callable(function):
            raise TypeError(f"patched() decorates functions, got {type(function).__name__}")
        if inspect.isasyncgenfunction(function):
            raise TypeError(f"patched() cannot decorate an async generator, got {function!r}; use `with` in its body")
        return functools.wraps(function)(_decorated(function))  # type: ignore[return-value]


def _decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with _Patched():
            return function(*args, **kwargs)

    async def wait(*args: Any, **kwargs: Any) -> Any:
        with _Patched():
            return await function(*args, **kwargs)

    def generate(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        # in force while the body runs; between the steps, the caller has what it had
        body = function(*args, **kwargs)
        step, given = body.send, None
        while True:
            try:
                with _Patched():
                    value = step(given)
            except StopIteration as end:
                return end.value
            try:
                step, given = body.send, (yield value)
            except GeneratorExit:
                with _Patched():
                    body.close()
                raise
            except BaseException as error:
                step, given = body.throw, error

    if inspect.iscoroutinefunction(function):
        return wait
    return generate if inspect.isgeneratorfunction(function) else call


@overload
def patched() -> _Patched: ...
@overload
def patched(function: _F) -> _F: ...
def patched(function: Any = None) -> Any:
    """A context, or a decorator, in which the functions of torch.nn.init are fastinit's.

    Constructors and ``reset_parameters`` of torch's modules, and everything else that calls a function of
    torch.nn.init, under whatever name and wherever it was bound, then fill with the functions of
    ``fastinit.adapters.torch.init``: torch's arguments, errors and distributions, other numbers, more speed.
    ``torch.manual_seed`` governs the numbers, and the number of threads does not. What fills tensors without
    torch.nn.init, such as ``weight.data.normal_()``, is not touched, nor is code compiled by torch.compile.

    In force in the thread, or asynchronous task, that entered it, until it leaves. Other threads keep torch's functions
    until they enter their own. Entries may nest, overlap and end in any order; after the last nothing is left.

    Parameters
    ----------
    function : callable, optional
        A function, generator function or coroutine function, for use as ``@patched``; ``@patched()`` is the same.

    Returns
    -------
    context manager, or the decorated function
        The context manager may be entered repeatedly, nested, and by several threads.

    Raises
    ------
    TypeError
        If what is decorated is not a function, or is an async generator function.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import patched
    >>> with patched():
    ...     layer = torch.nn.Linear(4096, 4096)
    >>> @patched
    ... def build():
    ...     return torch.nn.TransformerEncoderLayer(512, 8)
    """
    return _Patched() if function is None else _Patched()(function)
