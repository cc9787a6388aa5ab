"""Replay of calls: on the tape while a model is built, or from the graph in a record.

A graph is JSON. ``calls`` lists the operators in order with their arguments. A tensor argument is a view of a storage's
state, and ``states`` lists which call wrote which result over which state. Each draw has a number and a key. Normals
and uniforms are fastinit's; other random operators are torch's, with a generator seeded from the key.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from fastinit import Constant, Initializer, Key, Replayed
from fastinit.adapters.torch.drawing import drawing_from
from fastinit.adapters.torch.histories import (
    Call,
    Data,
    Empty,
    Output,
    Read,
    State,
    View,
    Written,
    calls_of,
    drawn_by,
    mapped,
    operators_of,
    signature_of,
)
from fastinit.adapters.torch.internals import operator_named, without_modes
from fastinit.adapters.torch.recording import not_deferring
from fastinit.adapters.torch.tensors import DTYPES, fill_part
from fastinit.extending import runs_graphs

__all__ = ["equal", "evaluated", "graph_of", "rebuilt"]

Draw = Callable[[Call], Key | None]


def evaluated(state: State, draw: Draw | None = None, live: bool = True) -> torch.UntypedStorage:
    """A storage that holds a state.

    `draw` gives the key of each drawing call; without it, torch's own generator draws. If `live`, memory that holds an
    earlier state is read instead of being recomputed.
    """
    with not_deferring(), torch.no_grad():
        return _Evaluation(state, draw, live).storage(state)


def memory_of(nbytes: int, zero: bool = True) -> torch.UntypedStorage:
    """New memory."""
    make = torch.zeros if zero else torch.empty
    return make(nbytes, dtype=torch.uint8, device="cpu").untyped_storage()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """A context with this default dtype. It is torch's setting for the whole process, and rarely changed."""
    before = torch.get_default_dtype()
    if before is dtype:
        yield
        return
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _Evaluation:
    """Repeats calls in order. Frees states without later readers, and continues a state in its predecessor's memory."""

    def __init__(self, state: State, draw: Draw | None, live: bool) -> None:
        self._draw, self._live = draw, live
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._own: set[int] = set()
        self._uses: dict[int, int] = {id(state): 1}
        calls, written = self._needed(state)
        for call in calls:
            outputs = self._called(call)
            for read in call.reads():
                self._used(read.state)
            for one in written[id(call)]:
                self._write(one, outputs[one.source.number])

    def _needed(self, state: State) -> tuple[list[Call], dict[int, list[Written]]]:
        """The calls to make, in order, with the states that each writes. States in live memory need no call."""
        calls: dict[int, Call] = {}
        written: dict[int, list[Written]] = {}
        seen: set[int] = set()
        left: list[State] = [state]
        while left:
            one: State | None = left.pop()
            while isinstance(one, Written) and id(one) not in seen and self._living(one) is None:
                seen.add(id(one))
                call = one.source.call
                written.setdefault(id(call), []).append(one)
                if id(call) not in calls:
                    calls[id(call)] = call
                    for read in call.reads():
                        if read.state is not None:
                            self._uses[id(read.state)] = self._uses.get(id(read.state), 0) + 1
                            left.append(read.state)
                if one.before is not None:
                    self._uses[id(one.before)] = self._uses.get(id(one.before), 0) + 1
                one = one.before
        for states in written.values():
            states.sort(key=lambda one: one.source.number)  # in one storage, the earlier state comes first
        return sorted(calls.values(), key=lambda call: call.number), written

    def _living(self, state: State) -> torch.UntypedStorage | None:
        memory = state.memory
        if not self._live or memory is None or memory.state is not state or not memory.holds:
            return None
        found: torch.UntypedStorage | None = memory.storage()
        return found

    def _used(self, state: State | None) -> None:
        if state is not None:
            self._uses[id(state)] -= 1
            if not self._uses[id(state)]:
                self._storages.pop(id(state), None)
                self._own.discard(id(state))

    def _write(self, state: Written, values: Tensor) -> None:
        """Computes a state, in its predecessor's memory if nothing else needs that."""
        before = state.before
        if before is None:
            storage = memory_of(state.nbytes, zero=False)
        elif id(before) in self._own and self._uses[id(before)] == 1:
            storage = self._storages[id(before)]
        else:
            storage = memory_of(state.nbytes, zero=isinstance(before, Empty))
            if not isinstance(before, Empty):
                storage.copy_(self.storage(before))
        state.view.within(storage).copy_(values)
        self._used(before)
        self._storages[id(state)] = storage
        self._own.add(id(state))

    def storage(self, state: State) -> torch.UntypedStorage:
        """The storage of a state, for reading only."""
        found = self._storages.get(id(state))
        if found is None and isinstance(state, Data):
            return state.storage
        if found is None and not isinstance(state, Written):
            return memory_of(state.nbytes)
        found = self._living(state) if found is None else found
        assert found is not None
        return found

    def _called(self, call: Call) -> list[Tensor]:
        key = None if call.identity is None or self._draw is None else self._draw(call)
        signature = signature_of(call.function)
        own = set(signature.written)

        def argument(position: Any, value: Any) -> Any:
            def tensor(one: Any) -> Any:
                if not isinstance(one, Read):
                    return torch.device("cpu") if isinstance(one, torch.device) else one
                if one.state is None:
                    return torch.empty_strided(one.view.shape, one.view.strides, dtype=one.view.dtype)
                found = one.view.within(self.storage(one.state))
                return found.clone() if position in own else found

            return mapped(tensor, value)

        args = [argument(position, value) for position, value in enumerate(call.args)]
        kwargs = {name: argument(name, value) for name, value in call.kwargs.items()}
        with _default_dtype(call.default):
            result = _draw(call, key, args, kwargs) if key is not None else call.function(*args, **kwargs)
        if own:
            return signature.arguments_written(args, kwargs)
        return [result] if isinstance(result, Tensor) else list(result)


def _draw(call: Call, key: Key, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """The result of a drawing call, from the stream of a key."""
    initializer = drawn_by(call)
    if initializer is None:
        with drawing_from(key):
            return call.function(*args, **kwargs)
    if call.name.endswith("_"):
        return fill_part(args[0], initializer, key)
    if call.name == "normal":  # a factory with a size and a dtype, and without moments
        options = {name: value for name, value in kwargs.items() if name not in ("generator", "mean", "std")}
        like = torch.ops.aten.empty.memory_format(call.given("size"), **options)
    else:
        like = call.function(*args, **kwargs)  # uses only its shape and dtype
    return fill_part(like, initializer, key)


# Graphs


def graph_of(state: State, view: View, draws: Sequence[Call]) -> str:
    """The JSON of a graph that computes a view of a state. `draws` are the drawing calls, in order."""
    calls = calls_of(state)
    place = {id(call): number for number, call in enumerate(calls)}
    drawn = {id(call): number for number, call in enumerate(draws)}
    states: dict[int, int] = {}
    written: list[Any] = []

    def state_number(one: State | None) -> int | None:
        chain: list[State] = []
        while one is not None and id(one) not in states:
            chain.append(one)
            one = one.before if isinstance(one, Written) else None
        before = None if one is None else states[id(one)]
        for new in reversed(chain):
            if isinstance(new, Written):
                source = [place[id(new.source.call)], new.source.number]
                written.append({"before": before, "bytes": new.nbytes, "view": _view(new.view), "from": source})
            elif isinstance(new, Data):
                raw = View((new.nbytes,), (1,), 0, torch.uint8).within(new.storage).numpy().tobytes()
                text = base64.b64encode(zlib.compress(raw, 9)).decode()
                written.append({"bytes": new.nbytes, "data": text})
            else:
                written.append({"bytes": new.nbytes})
            before = states[id(new)] = len(written) - 1
        return before

    def value(one: Any) -> Any:
        if isinstance(one, Read):
            return {"view": _view(one.view), "state": state_number(one.state)}
        if isinstance(one, float) and not math.isfinite(one):
            return {"float": repr(one)}
        if one is None or isinstance(one, (bool, int, float, str)):
            return one
        if isinstance(one, complex):
            return {"complex": [value(one.real), value(one.imag)]}
        if isinstance(one, (torch.dtype, torch.layout, torch.memory_format)):
            return {"torch": str(one).removeprefix("torch.")}
        if isinstance(one, torch.device):
            return None
        raise TypeError(f"an argument of {type(one).__name__} cannot be recorded")

    steps = []
    for call in calls:
        step: dict[str, Any] = {"name": str(call.function), "args": mapped(value, list(call.args))}
        kwargs = {name: mapped(value, one) for name, one in call.kwargs.items() if name != "device"}
        if kwargs:
            step["kwargs"] = kwargs
        if call.default is not torch.float32:
            step["default"] = str(call.default).removeprefix("torch.")
        if id(call) in drawn:
            step["draw"] = drawn[id(call)]
        steps.append(step)
    last = state_number(state)
    graph = {
        "framework": "torch",
        "shape": list(view.shape),
        "operators": list(operators_of(calls)),
        "draws": len(draws),
        "states": written,
        "calls": steps,
        "result": {"view": _view(view), "state": last},
    }
    return json.dumps(graph, separators=(",", ":"))


def _view(view: View) -> list[Any]:
    signs = [view.is_conjugate, view.is_negative]
    found = [list(view.shape), list(view.strides), view.offset, str(view.dtype).removeprefix("torch.")]
    return found + signs if any(signs) else found


# Operators that would read files or run arbitrary code.
_REFUSED: Final = frozenset({"from_file"})


def _operator(name: str) -> Any:
    function = operator_named(name)
    if function is None or function.overloadpacket.__name__ in _REFUSED:
        raise ValueError(f"the operator {name!r} cannot be replayed: this torch has none of that name")
    return function


def check_graph(steps: Iterable[dict[str, Any]]) -> None:
    """Raises ValueError if this torch lacks one of the operators."""
    for step in steps:
        _operator(step["name"])


class _Reading:
    """Calls and states from a graph."""

    def __init__(self, graph: dict[str, Any]) -> None:
        self._states: list[State] = []
        self._calls: list[Call] = []
        self._graph = graph
        for step in graph["calls"]:
            self._calls.append(self._call(step))
        self.state = self._state(graph["result"]["state"])
        self.view = _view_of(graph["result"]["view"])

    def _state(self, number: int) -> State:
        while len(self._states) <= number:
            found = self._graph["states"][len(self._states)]
            nbytes = found["bytes"]
            if "from" in found:
                before = None if found["before"] is None else self._states[found["before"]]
                call, output = found["from"]
                self._states.append(Written(nbytes, before, _view_of(found["view"]), Output(self._calls[call], output)))
            elif "data" in found:
                raw = np.frombuffer(zlib.decompress(base64.b64decode(found["data"])), np.uint8).copy()
                self._states.append(Data(torch.from_numpy(raw).untyped_storage()))
            else:
                self._states.append(Empty(nbytes))
        return self._states[number]

    def _call(self, step: dict[str, Any]) -> Call:
        function = _operator(step["name"])
        draw = step.get("draw")
        args = [self._value(one) for one in step["args"]]
        kwargs = {key: self._value(one) for key, one in step.get("kwargs", {}).items()}
        call = Call(function, args, kwargs, len(self._calls), None if draw is None else str(draw))
        call.default = getattr(torch, step.get("default", "float32"))
        return call

    def _value(self, one: Any) -> Any:
        if isinstance(one, list):
            return [self._value(each) for each in one]
        if not isinstance(one, dict):
            return one
        if "view" in one:
            return Read(None if one["state"] is None else self._state(one["state"]), _view_of(one["view"]))
        if "complex" in one:
            return complex(*map(self._value, one["complex"]))
        return float(one["float"]) if "float" in one else getattr(torch, one["torch"])


def _view_of(found: list[Any]) -> View:
    shape, strides, offset, dtype, *signs = found
    return View(tuple(shape), tuple(strides), offset, getattr(torch, dtype), *signs)


def _values(graph: dict[str, Any], keys: Sequence[Key]) -> Tensor:
    read = _Reading(graph)

    def key_of(call: Call) -> Key:
        assert call.identity is not None
        return keys[int(call.identity)]

    with without_modes(), torch.device("cpu"), torch.random.fork_rng(devices=()):
        return read.view.within(evaluated(read.state, key_of, live=False)).resolve_conj().resolve_neg()


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors, one of them in host memory, have the same values. NaN equals NaN."""
    here = other.detach().cpu()
    return torch.equal(one, here) or bool(((one == here) | (one.isnan() & here.isnan())).all())


def rebuilt(initializer: Initializer, like: Tensor, key: Key) -> Tensor:
    """The values of a buffer, in host memory.

    Parameters
    ----------
    initializer : Initializer
        The initializer of its program.
    like : torch.Tensor
        A tensor with the buffer's shape and dtype.
    key : Key
        Key of the buffer's draws, if any.
    """
    if isinstance(initializer, Replayed):
        return _values(json.loads(initializer.graph), initializer.draw_keys(key)).to(like.dtype)
    if isinstance(initializer, Constant):
        return torch.full(like.shape, initializer.value, dtype=like.dtype)
    wide = like.dtype if like.dtype in DTYPES else torch.float32
    return fill_part(torch.empty(like.shape, dtype=wide), initializer, key).to(like.dtype)


@runs_graphs("torch", check=lambda graph: check_graph(graph["calls"]))
def run(graph: dict[str, Any], keys: Sequence[Key], num_threads: int | None, target: str | None) -> np.ndarray:
    """The values of a graph, in float32 or float64."""
    values = _values(graph, keys)
    wide = values if values.dtype == torch.float64 else values.float()
    array: np.ndarray = wide.numpy()
    return array
