""":func:`patched`: code that calls torch.nn.init runs on fastinit.

A function of torch.nn.init is bound in many places: in torch.nn.init, in modules that imported it by name, in tables
such as that of transformers, in partial functions, default arguments and class attributes. No search finds them all.
Replacing names would also clash with other code that replaces and restores them, as transformers does while it loads a
model. So the names stay as they are. All bindings share one function object, and :func:`patched` exchanges the code of
that object (``function.__code__``) for one line, which asks this module for the function to call: fastinit's where
:func:`patched` is in force, torch's own elsewhere. The last exit restores torch's code.

An exception may come between any two steps of this: Ctrl-C, an alarm, an exception that another thread sends. So no
step relies on a later one.

- A stand-in carries torch's code with it, and calls that where nothing is in force.
- An entry is an object that only its ``with`` statement holds. The entry ends when the object is freed, in C.
- One call into C sets all codes to what is due at that moment. Every entry, every exit, and every call of a left-over
  stand-in does this again.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator
from contextlib import nullcontext, suppress
from contextvars import ContextVar, copy_context
from itertools import chain, repeat
from operator import attrgetter, call, getitem
from types import CodeType, FunctionType
from typing import Any, Final, TypeGuard, TypeVar, overload

import torch

from fastinit.adapters.torch import init
from fastinit.extending import shown

_F = TypeVar("_F", bound=Callable[..., Any])

# Every function that writes. The public ones share the private ones, which other packages import; deprecated aliases
# call the public ones; calculate_gain and the fans are the same in both.
_OURS: dict[str, Callable[..., Any]] = {
    name: getattr(init, name)
    for name in (
        *("uniform_", "normal_", "trunc_normal_", "constant_", "ones_", "zeros_", "eye_", "dirac_", "sparse_"),
        *("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "orthogonal_"),
        *("_no_grad_uniform_", "_no_grad_normal_", "_no_grad_trunc_normal_", "_no_grad_fill_", "_no_grad_zero_"),
    )
}


# The exchange of codes


class _Exchange:
    """A function of torch.nn.init, torch's code for it and the code that stands in for that."""

    def __init__(self, function: FunctionType, code: CodeType) -> None:
        self.function = function
        self.codes = (code, _stand_in(code))
        self.torchs = FunctionType(code, function.__globals__, function.__name__, function.__defaults__)


_exchanges: Final[dict[FunctionType, _Exchange]] = {}
_torchs: Final[dict[str, FunctionType]] = {}
"""Each function as torch wrote it, by name."""


def _stand_in(code: CodeType) -> CodeType:
    """Code with the same name, parameters and line, so that signatures, sources and tracebacks stay right.

    It imports `_chosen` itself, because it runs with the globals of torch.nn.init, to which nothing is added. Its last
    constant is unused: the code that it stands in for.
    """
    parameters = ", ".join(code.co_varnames[: code.co_argcount])
    source = (
        f"def {code.co_name}({parameters}): "
        f"from {__name__} import _chosen; return _chosen({code.co_name!r})({parameters})"
    )
    compiled = compile("\n" * (code.co_firstlineno - 1) + source, code.co_filename, "exec", dont_inherit=True)
    found = next(constant for constant in compiled.co_consts if isinstance(constant, CodeType))
    return found.replace(co_consts=(*found.co_consts, code))


def _own_code(function: FunctionType) -> CodeType:
    """Torch's own code for a function of torch.nn.init, even while a stand-in replaces it."""
    code = function.__code__
    if __name__ not in code.co_names:
        return code
    return next(constant for constant in reversed(code.co_consts) if isinstance(constant, CodeType))


def _is_torchs(function: Any, name: str) -> TypeGuard[FunctionType]:
    """Whether torch defined it under this name. A function that other code put there stays as it is."""
    if not isinstance(function, FunctionType) or function.__globals__ is not vars(torch.nn.init):
        return False
    return function.__name__ == name


_learned: Final[list[object]] = []


def _learn() -> None:
    """Finds the functions to exchange in torch.nn.init, where other code may have replaced some."""
    functions = list(map(vars(torch.nn.init).get, _OURS))
    present = [functions, list(map(getattr, functions, repeat("__code__"), repeat(None)))]
    if present == _learned:
        return
    for (name, ours), function in zip(_OURS.items(), functions, strict=True):
        if function is ours or not _is_torchs(function, name):  # the drop-in offers some of torch's as they are
            continue
        known, code = _exchanges.get(function), _own_code(function)
        if known is None or known.codes[0] is not code:
            made = _Exchange(function, code)
            _torchs[name] = made.torchs
            _exchanges[function] = made
    _learned[:] = present


_learn()


class _Reference(weakref.ref[Any]):
    """A weak reference that is equal to itself alone, and has a hash at any time."""

    __slots__ = ()
    __hash__ = object.__hash__
    __eq__ = object.__eq__
    __ne__ = object.__ne__


# References to all entries in force, in any thread. The end of an entry removes its reference.
_in_force: Final[set[_Reference]] = set()

# The entries of this context: other threads, and other tasks of the same thread, have their own. An entry that was left
# has also been left in every context copied from the one that entered it.
_entered: ContextVar[tuple[_Reference, ...]] = ContextVar("fastinit.adapters.torch.patched", default=())

_lock = threading.RLock()  # reentrant: the garbage collector may close a generator, and thus leave, at any time
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def _settle() -> None:
    """Sets the code of every function: its stand-in while any entry is in force, torch's own otherwise.

    Asynchronous exceptions come between bytecodes. So one call without bytecode takes the lock, determines the codes,
    sets them and releases the lock.
    """
    exchanges = tuple(_exchanges.values())
    due = map(getitem, map(attrgetter("codes"), exchanges), map(bool, repeat(_in_force)))
    setting = map(setattr, map(attrgetter("function"), exchanges), repeat("__code__"), due)
    steps = chain(map(call, (_lock.acquire,)), setting, map(call, (_lock.release,)))
    try:
        deque(steps, maxlen=0)
    except BaseException:  # of an audit hook, which runs where a code is set
        with suppress(RuntimeError):  # the lock was not taken, or was released
            _lock.release()
        raise


# Dispatch


def _chosen(name: str) -> Callable[..., Any]:
    """The function that a call of torch.nn.init's `name` should run in this context."""
    # torch.compile and torch.export trace torch's own operators, and nothing else
    if torch.compiler.is_compiling():
        return _torchs[name]
    if not _in_force:  # an exit was interrupted
        _settle()
    if _in_force.isdisjoint(_entered.get()):
        return _torchs[name]
    return functools.partial(copy_context().run, _call, _OURS[name])


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls fastinit's function in a context without entries, where torch.nn.init's functions are torch's own."""
    _entered.set(())
    return function(*arguments)


# Entries


class _Latest(threading.local):
    """This thread's latest `__exit__` that was looked up but not used yet."""

    found: _Reference | None = None


_latest: Final = _Latest()


class _Exit:
    """``__exit__``: each lookup makes a new function, and that function is the entry.

    A ``with`` statement looks it up before it calls ``__enter__``, and nothing else holds it. So the entry ends with
    the statement, even where an exception comes before the first line of the body and no exit is called.
    """

    def __get__(self, patched: _Patched | None, _: type) -> Callable[..., None]:
        if patched is None:  # looked up in the class by contextlib.ExitStack, which binds it to the object itself
            return _leave_latest
        itself: list[_Reference] = []  # weakly, so that the frame of a call, in a traceback, keeps nothing alive
        entry = functools.partial(_leave, itself, patched)
        itself.append(_Reference(entry, _in_force.discard))
        _latest.found = itself[0]
        return entry


def _leave(itself: list[_Reference], patched: _Patched, *raised: Any) -> None:
    (entry,) = itself
    if entry not in _in_force:  # nothing was entered with it
        _leave_latest(patched)
        return
    _in_force.discard(entry)
    _tidy()


def _leave_latest(patched: _Patched, *raised: Any) -> None:
    """Leaves the latest entry that was made without a ``with`` statement."""
    held = patched._held
    if not held:
        raise RuntimeError("this patched() has been left as often as it was entered")
    # the latest entry of this context; a generator may be closed in another context than it was started in
    latest = next((entry for entry in reversed(_entered.get()) if entry in held), next(reversed(held)))
    del held[latest]
    _tidy()


def _tidy() -> None:
    _settle()
    _entered.set(tuple(filter(_in_force.__contains__, _entered.get())))


class _Held:
    """An entry without a ``with`` statement."""

    __slots__ = ("__weakref__",)


class _Patched:
    """What :func:`patched` returns. It may be entered any number of times, nested, and by several threads."""

    __exit__: Final = _Exit()

    def __init__(self) -> None:
        self._held: dict[_Reference, object] = {}  # entries made without a with statement

    def __enter__(self) -> None:
        entry = self._made()
        if not _in_force:
            _learn()
        try:
            _in_force.add(entry)
            _entered.set((*filter(_in_force.__contains__, _entered.get()), entry))
            _settle()
        except BaseException:
            _in_force.discard(entry)
            self._held.pop(entry, None)
            raise

    def __reduce__(self) -> tuple[type[_Patched], tuple[()]]:
        """A copy, by a pickle too, has no entries."""
        return _Patched, ()

    def _made(self) -> _Reference:
        """The entry of the ``with`` statement that calls ``__enter__``, or one that this object holds."""
        found, _latest.found = _latest.found, None
        entry = None if found is None else found()
        if found is None or entry is None or entry.args[1] is not self:
            entry = _Held()
            found = _Reference(entry, _in_force.discard)
            self._held[found] = entry
        return found

    def __call__(self, function: _F) -> _F:
        """The function with each call inside its own patched()."""
        if isinstance(function, type):
            raise TypeError(f"patched() decorates functions, got the class {function.__name__}; decorate its __init__")
        if not callable(function):
            raise TypeError(f"patched() decorates functions, got {type(function).__name__}")
        if inspect.isasyncgenfunction(function):
            raise TypeError(
                f"patched() cannot decorate an async generator, got {shown(function)}; use `with` in its body"
            )
        return functools.wraps(function)(_decorated(function))  # type: ignore[return-value]


def _decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with _Patched():
            return function(*args, **kwargs)

    async def wait(*args: Any, **kwargs: Any) -> Any:
        with _Patched():
            return await function(*args, **kwargs)

    def generate(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        # in force while the body runs; between the steps, the caller's state applies
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

    All calls of functions of torch.nn.init, under any name, then use ``fastinit.adapters.torch.init``. This includes
    constructors and ``reset_parameters`` of torch's modules. Arguments, errors and distributions are torch's; the
    numbers and the speed differ. The numbers follow ``torch.manual_seed`` and do not depend on the number of threads.
    Fills without torch.nn.init, such as ``weight.data.normal_()``, and code compiled by torch.compile are not affected.

    The context applies to the thread, or asynchronous task, that entered it. Other threads keep torch's functions until
    they enter it themselves. Entries may nest, overlap and end in any order. The last exit restores
    torch.nn.init.

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
        If the decorated object is not a function, or is an async generator function.

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
    if function is None and torch.compiler.is_compiling():  # compiled code keeps torch's operators
        return nullcontext()
    return _Patched() if function is None else _Patched()(function)
