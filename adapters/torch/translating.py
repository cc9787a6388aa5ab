"""Translation from the tape to a program: torch's operations on a parameter, in fastinit's terms.

Operators that scale, shift and clamp, partial writes and copies fold (:mod:`fastinit.folding`). Other operators are
stored as a graph and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

import torch

from fastinit import Box, Constant, Identity, Initializer, Key, Painted, Program, Replayed
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
    fill_of,
    only_call,
    operators_of,
)
from fastinit.adapters.torch.replaying import evaluated, graph_of
from fastinit.extending import (
    InverseErf,
    apart,
    box_of,
    clamped,
    disjoint,
    finished,
    inverse_erf,
    is_random,
    of_elements,
    over,
    painted,
    plus,
    renumbered,
    times,
)

__all__ = ["program_of"]

# Maximum size of computed constants that are inspected, and of those that other values are computed with.
_LOOKED_AT: Final = 2**24
_NUMBERS: Final = 2**8


# Reading these dtypes does not round the code's numbers, because constants are stored in float64.
_EXACT: Final = frozenset({torch.float32, torch.float64, torch.complex64, torch.complex128})
# Programs with more parts are replayed, and so are programs of many parts that are not consecutive along one axis.
_PARTS: Final = 4096
_SCATTERED: Final = 256


class _Leaf(NamedTuple):
    """One initializer and the source of its numbers."""

    found: Initializer | InverseErf
    call: Call | None = None
    """The drawing call, if any."""
    key: Key | None = None
    """The author's key, if any."""


class _Part(NamedTuple):
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    leaf: _Leaf


@dataclass(frozen=True, slots=True)
class _Form:
    """A tensor as a base with parts painted over it."""

    base: _Leaf
    parts: tuple[_Part, ...] = ()
    unwritten: bool = False
    """Whether the base is unwritten memory."""


_ZERO: Final = _Leaf(Constant(0.0))


def program_of(state: State, view: View, shared: Container[str] = ()) -> Program:
    """The program of a tensor. Elements of `shared` draws, which other tensors also use, keep their positions."""
    at_once = _made_at_once(state, view)
    if at_once is not None:
        return at_once
    found = _Folding(shared).form(state, view)
    calls = calls_of(state)
    names = operators_of(calls)
    if found is not None and len(found.parts) > _SCATTERED and not apart(_boxes(found.parts)):
        found = None
    if found is None and not any(call.identity for call in calls):
        found = _constant(state, view)
    if found is None:
        draws = [call for call in calls if call.identity is not None]
        identities = tuple(call.identity for call in draws if call.identity is not None)
        chosen = any(call.chosen for call in draws)
        replayed = Replayed(graph_of(state, view, draws))
        return Program(replayed, identities, operators=names, chosen=chosen, shape=view.shape)
    leaves = [found.base, *(part.leaf for part in found.parts)]
    drawing = sorted({leaf.call.number: leaf.call for leaf in leaves if leaf.call is not None}.items())
    number_of = {number: draw for draw, (number, _) in enumerate(drawing)}

    def numbered(leaf: _Leaf) -> tuple[int, Key | None]:
        return (0 if leaf.call is None else number_of[leaf.call.number]), leaf.key

    boxes = [Box(part.offsets, part.shape, finished(part.leaf.found), *numbered(part.leaf)) for part in found.parts]
    draw, key = numbered(found.base)
    base = finished(found.base.found)
    if key is not None or (boxes and draw):
        initializer: Initializer = Painted(base, tuple(boxes), draw, key)
    else:
        initializer, draw = painted(base, boxes, view.shape, draw)
        if draw:
            initializer = Painted(initializer, (), draw)
    covered = _area(found.parts) >= view.size
    initializer, left = renumbered(initializer, len(drawing))
    identities = tuple(drawing[number][1].identity or "" for number in left)
    return Program(
        initializer,
        identities,
        operators=names,
        uninitialized=found.unwritten and not covered,
        chosen=any(drawing[number][1].chosen for number in left),
        shape=view.shape,
    )


def _made_at_once(state: State, view: View) -> Program | None:
    """The program of a tensor that a single call draws or sets to a number, the common case; otherwise None."""
    call = only_call(state)
    if call is None or not isinstance(state, Written) or state.view != view or state.source.number:
        return None
    if call.identity is None:
        number = _ONE_NUMBER.get(call.function)
        return None if number is None else _of_number(number, operators_of([call]), view.shape)
    initializer = drawn_by(call)
    if initializer is None or isinstance(initializer, Painted) or not is_random(initializer):
        return None
    operators = operators_of([call])
    return Program(initializer, (call.identity,), operators=operators, chosen=call.chosen, shape=view.shape)


_ONE_NUMBER: Final = {
    torch.ops.aten.zero_.default: 0.0,
    torch.ops.aten.zeros.default: 0.0,
    torch.ops.aten.ones.default: 1.0,
}


@lru_cache(maxsize=64)
def _of_number(number: float, operators: tuple[str, ...], shape: tuple[int, ...]) -> Program:
    return Program(Constant(number), operators=operators, shape=shape)


def _boxes(parts: Sequence[_Part]) -> list[Box]:
    """Positions of parts."""
    return [Box(part.offsets, part.shape, Constant(0.0)) for part in parts]


def _area(parts: Sequence[_Part]) -> int:
    """Number of elements of disjoint parts; 0 if some overlap."""
    boxes = _boxes(parts)
    return sum(torch.Size(part.shape).numel() for part in parts) if disjoint(boxes) else 0


def _constant(state: State, view: View) -> _Form | None:
    """A form of one number, if all elements are equal."""
    if not 0 < view.size <= _LOOKED_AT or view.dtype.is_complex:
        return None
    values = view.within(evaluated(state))
    first = values.flatten()[0]
    if not bool((values == first).all()):
        return None
    return _Form(_Leaf(Constant(float(first))))


class _Missing(Exception):
    """Another state must be folded first. It replaces recursion: histories may be longer than Python's stack."""

    def __init__(self, state: State, view: View) -> None:
        super().__init__()
        self.state, self.view = state, view


class _Folding:
    """Folds the history of one tensor. States read by several calls are folded once."""

    def __init__(self, shared: Container[str] = ()) -> None:
        self._shared = shared
        self._found: dict[tuple[int, View], _Form | None] = {}
        self._drawn: dict[int, bool] = {}
        self._outputs: dict[tuple[int, int, tuple[int, ...]], _Form | None] = {}

    def form(self, state: State, view: View) -> _Form | None:
        """The form of a view of a state."""
        left = [(state, view)]
        while left:
            try:
                found = self._of_state(*left[-1])
            except _Missing as missing:
                left.append((missing.state, missing.view))
                continue
            first, own = left.pop()
            if found is None and own.size <= _NUMBERS and not self._is_drawn(first):
                found = _constant(first, own)
            self._found[id(first), own] = found
        return self._found[id(state), view]

    def _is_drawn(self, state: State) -> bool:
        """Whether a state depends on a draw."""
        left, known = [state], self._drawn
        while left:
            one = left[-1]
            if id(one) not in known:
                if isinstance(one, Written) and one.source.call.identity is None:
                    before = [one.before, *(read.state for read in one.source.call.reads())]
                    unknown = [other for other in before if other is not None and id(other) not in known]
                    if unknown:
                        left += unknown
                        continue
                    known[id(one)] = any(known[id(other)] for other in before if other is not None)
                else:
                    known[id(one)] = isinstance(one, Written)
            left.pop()
        return known[id(state)]

    def _of_state(self, state: State | None, view: View) -> _Form | None:
        painted_over: list[_Part] = []
        covered: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
        while True:
            if state is None or isinstance(state, Empty):
                return _Form(_ZERO, tuple(reversed(painted_over)), unwritten=True)
            if isinstance(state, Data):
                base = _constant(state, view)
                if base is None and painted_over and _area(painted_over) >= view.size:
                    base = _Form(_ZERO)  # fully overwritten
                return None if base is None else replace(base, parts=tuple(reversed(painted_over)))
            assert isinstance(state, Written)
            there = _where(view, state.view)
            if there is None:
                inside = self._part_of(state, view)
                return None if inside is None or painted_over else inside
            if there != _NOWHERE:
                offsets, shape, in_order = there
                if (offsets, shape) in covered:
                    state = state.before
                    continue
                covered.add((offsets, shape))
                form = self._of_output(state.source, state.view.shape)
                if form is None or not (in_order or self._is_free(form)):
                    return None
                if shape == view.shape:
                    form = _as_seen(form, state.view.shape, view.shape, in_order)
                    if form is None:
                        return None
                    return replace(form, parts=(*form.parts, *reversed(painted_over)))
                parts = _as_parts(form, state.view.shape, offsets, shape, in_order)
                if parts is None:
                    return None
                painted_over += reversed(parts)
                if len(painted_over) > _PARTS:
                    return None
            state = state.before

    def _is_free(self, form: _Form) -> bool:
        """Whether the order of a form's elements is irrelevant: no other tensor and no author's key uses it."""
        leaves = (form.base, *(part.leaf for part in form.parts))
        return all(
            isinstance(leaf.found, Constant)
            or (leaf.key is None and (leaf.call is None or leaf.call.identity not in self._shared))
            for leaf in leaves
        )

    def _part_of(self, state: Written, view: View) -> _Form | None:
        """The form of a view into a written part, if it is one number."""
        if _where(state.view, view) in (None, _NOWHERE):
            return None
        form = self._of_output(state.source, state.view.shape)
        return form if form is not None and not form.parts and isinstance(form.base.found, Constant) else None

    def _of_output(self, output: Output, shape: tuple[int, ...]) -> _Form | None:
        """The form of a call's result."""
        known = id(output.call), output.number, shape
        if known not in self._outputs:
            self._outputs[known] = self._folded(output, shape)
        return self._outputs[known]

    def _folded(self, output: Output, shape: tuple[int, ...]) -> _Form | None:
        call = output.call
        initializer = drawn_by(call) if call.identity is not None or call.function.namespace == "fastinit" else None
        if initializer is not None:
            key = fill_of(call.args)[1] if call.function.namespace == "fastinit" else None
            return _Form(_Leaf(initializer, call if call.identity is not None else None, key))
        fold = _FOLDS.get(call.name.rstrip("_") if call.name != "_to_copy" else call.name)
        return None if fold is None or output.number else fold(self, call, shape)

    def of_read(self, value: Any, shape: tuple[int, ...]) -> _Form | None:
        """An argument: a tensor of this shape, or a number."""
        if isinstance(value, (bool, int, float)):
            return _Form(_Leaf(Constant(float(value))))
        if not isinstance(value, Read) or value.state is None:
            return None
        known = id(value.state), value.view
        if known not in self._found:
            raise _Missing(value.state, value.view)
        found = self._found[known]
        if found is not None and value.view.dtype not in _EXACT:
            found = _rounded(found, value.view.dtype)
        if found is None or found.unwritten:
            return None
        is_one = not found.parts and isinstance(found.base.found, Constant)
        return found if value.view.shape == shape or is_one else None


def _rounded(form: _Form, dtype: torch.dtype) -> _Form:
    """A form with its numbers rounded to a dtype, as a reader finds them: 2.7 is 2 in an integer tensor."""

    def rounded(leaf: _Leaf) -> _Leaf:
        if not isinstance(leaf.found, Constant):
            return leaf
        number = torch.tensor(leaf.found.value, dtype=torch.float64, device="cpu").to(dtype).to(torch.float64)
        return leaf._replace(found=Constant(float(number)))

    parts = tuple(part._replace(leaf=rounded(part.leaf)) for part in form.parts)
    return replace(form, base=rounded(form.base), parts=parts)


_NOWHERE: Final = ((), (), False)


def _where(view: View, part: View) -> tuple[tuple[int, ...], tuple[int, ...], bool] | None:
    """The box of one view within another; `_NOWHERE` if they share no element, None in all other cases."""
    if not view.size or not part.size:
        return _NOWHERE
    if view == part and not view.repeats:
        return (0,) * len(view.shape), view.shape, True
    if view[3:] == part[3:] and not (view.repeats or part.repeats):
        found = box_of(view.shape, view.strides, part.shape, part.strides, part.offset - view.offset)
        if found is not None:
            return found
    (start, end), (part_start, part_end) = _span(view), _span(part)
    return _NOWHERE if end <= part_start or part_end <= start else None


def _span(view: View) -> tuple[int, int]:
    """The byte range of a view in its storage."""
    if not view.size:
        return 0, 0
    last = sum((extent - 1) * stride for extent, stride in zip(view.shape, view.strides, strict=True))
    return view.offset * view.dtype.itemsize, (view.offset + last + 1) * view.dtype.itemsize


def _as_seen(form: _Form, own: tuple[int, ...], shape: tuple[int, ...], in_order: bool) -> _Form | None:
    """A form of a tensor of shape `own`, reshaped to another shape with the same elements."""
    if own == shape and in_order:
        return form
    leaf = _reshaped(form.base, own, shape, in_order)
    return None if leaf is None or form.parts else replace(form, base=leaf)


def _as_parts(
    form: _Form, own: tuple[int, ...], offsets: tuple[int, ...], shape: tuple[int, ...], in_order: bool
) -> list[_Part] | None:
    """A form of a tensor of shape `own` as parts of its box in a larger tensor."""
    leaf = _reshaped(form.base, own, shape, in_order)
    if leaf is None or form.unwritten:
        return None
    parts = [_Part(offsets, shape, leaf)]
    if form.parts and (own != shape or not in_order):
        return None
    for part in form.parts:
        begin = tuple(outer + inner for outer, inner in zip(offsets, part.offsets, strict=True))
        parts.append(_Part(begin, part.shape, part.leaf))
    return parts


def _reshaped(leaf: _Leaf, own: tuple[int, ...], shape: tuple[int, ...], in_order: bool) -> _Leaf | None:
    """A leaf of a tensor of shape `own`, reshaped, if its elements are independent of each other."""
    if own == shape and in_order:
        return leaf
    if isinstance(leaf.found, InverseErf):
        return leaf
    found = of_elements(leaf.found, own)
    return None if found is None else leaf._replace(found=found)


# Operators


def _every(form: _Form | None, fold: Callable[[Any, tuple[int, ...]], Any], shape: tuple[int, ...]) -> _Form | None:
    """A form with each of its leaves folded."""
    if form is None or form.unwritten:
        return None
    base = fold(form.base.found, shape)
    parts = [part._replace(leaf=part.leaf._replace(found=fold(part.leaf.found, part.shape))) for part in form.parts]
    if base is None or any(part.leaf.found is None for part in parts):
        return None
    return _Form(_without_draw(form.base._replace(found=base)), tuple(parts))


def _without_draw(leaf: _Leaf) -> _Leaf:
    return _Leaf(leaf.found) if isinstance(leaf.found, Constant) else leaf


def _number(form: _Form | None) -> float | None:
    """The number of a constant form, if it is one."""
    if form is None or form.parts or not isinstance(form.base.found, Constant):
        return None
    return form.base.found.value


def _two(folding: _Folding, call: Call, shape: tuple[int, ...]) -> tuple[_Form | None, _Form | None]:
    first, second = (folding.of_read(value, shape) for value in call.args[:2])
    return first, second


def _mul(folding: _Folding, call: Call, shape: tuple[int, ...]) -> _Form | None:
    first, second = _two(folding, call, shape)
    for form, other in ((first, _number(second)), (second, _number(first))):
        if form is not None and other is not None and _has(form, call, shape):
            return _scaled(form, other, shape)
    return None


def _scaled(form: _Form, factor: float, shape: tuple[int, ...]) -> _Form | None:
    return _every(form, lambda found, box: times(found, factor, box), shape)


def _div(folding: _Folding, call: Call, shape: tuple[int, ...]) -> _Form | None:
    first, second = _two(folding, call, shape)
    divisor = _number(second)
    if divisor is None or call.given("rounding_mode"):
        return None
    return _every(first, lambda found, box: over(found, divisor, box), shape)


def _add(folding: _Folding, call: Call, shape: tuple[int, ...], sign: float = 1.0) -> _Form | None:
    first, second = _two(folding, call, shape)
    alpha = sign * float(call.given("alpha", 1))
    offset = _number(second)
    if offset is not None:
        return _every(first, lambda found, box: plus(found, alpha * offset, box), shape)
    base = _number(first)
    if base is None or second is None:
        return None
    scaled = _every(second, lambda found, box: times(found, alpha, box), shape)
    return _every(scaled, lambda found, box: plus(found, base, box), shape)


def _sub(folding: _Folding, call: Call, shape: tuple[int, ...]) -> _Form | None:
    return _add(folding, call, shape, -1.0)


def _rsub(folding: _Folding, call: Call, shape: tuple[int, ...]) -> _Form | None:
    first, second = _two(folding, call, shape)
    base = _number(second)
    if base is None or call.given("alpha", 1) != 1:
        return None
    negative = _every(first, lambda found, box: times(found, -1.0, box), shape)
    return _every(negative, lambda found, box: plus(found, base, box), shape)


def _neg(folding: _Folding, call: Call, shape: tuple[int, ...]) -> _Form | None:
    return _every(folding.of_read(call.args[0], shape), lambda found, box: times(found, -1.0, box), shape)


def _erfinv(folding: _Folding, call: Call, shape: tuple[int, ...]) -> _Form | None:
    return _every(folding.of_read(call.args[0], shape), lambda found, box: inverse_erf(found), shape)


def _clamp(folding: _Folding, call: Call, shape: tuple[int, ...]) -> _Form | None:
    low, high = call.given("min"), call.given("max")
    if any(isinstance(bound, Read) for bound in (low, high)):
        return None
    bottom = -float("inf") if low is None else float(low)
    top = float("inf") if high is None else float(high)
    return _every(folding.of_read(call.args[0], shape), lambda found, box: clamped(found, bottom, top, box), shape)


def _same(folding: _Folding, call: Call, shape: tuple[int, ...]) -> _Form | None:
    """The form of a copy, whose dtype and order of memory may differ."""
    dtype = call.given("dtype")
    if dtype is not None and not dtype.is_floating_point:
        return None
    return _floating(folding, call.args[0], shape)


def _floating(folding: _Folding, value: Any, shape: tuple[int, ...]) -> _Form | None:
    if isinstance(value, Read) and not value.view.dtype.is_floating_point:
        form = folding.of_read(value, shape)
        return form if _number(form) is not None else None
    return folding.of_read(value, shape)


def _copy(folding: _Folding, call: Call, shape: tuple[int, ...]) -> _Form | None:
    return _floating(folding, call.args[1], shape)


def _zeros(folding: _Folding, call: Call, shape: tuple[int, ...]) -> _Form | None:
    return _Form(_ZERO)


def _ones(folding: _Folding, call: Call, shape: tuple[int, ...]) -> _Form | None:
    return _Form(_Leaf(Constant(1.0)))


def _full(folding: _Folding, call: Call, shape: tuple[int, ...]) -> _Form | None:
    number = _number(folding.of_read(call.args[1], ()))
    return None if number is None else _Form(_Leaf(Constant(number)))


def _scalar(folding: _Folding, call: Call, shape: tuple[int, ...]) -> _Form | None:
    number = _number(folding.of_read(call.args[0], ()))
    return None if number is None else _Form(_Leaf(Constant(number)))


def _eye(folding: _Folding, call: Call, shape: tuple[int, ...]) -> _Form | None:
    return _Form(_Leaf(Identity())) if len(shape) == 2 else None


def _cat(folding: _Folding, call: Call, shape: tuple[int, ...]) -> _Form | None:
    axis = call.given("dim", 0)
    axis %= max(len(shape), 1)
    begin, parts = 0, []
    for one in call.args[0]:
        if one.view.shape == (0,):
            continue
        form = _floating(folding, one, one.view.shape)
        own = (*shape[:axis], one.view.shape[axis], *shape[axis + 1 :])
        if form is None:
            return None
        offsets = tuple(begin if number == axis else 0 for number in range(len(shape)))
        found = _as_parts(form, one.view.shape, offsets, own, True)
        if found is None:
            return None
        parts += found
        begin += one.view.shape[axis]
    return _Form(_ZERO, tuple(parts))


def _has(form: _Form, call: Call, shape: tuple[int, ...]) -> bool:
    """Whether a form has the result's shape, so that no element is repeated."""
    for value in call.args[:2]:
        if isinstance(value, Read) and value.view.shape == shape:
            return True
    return isinstance(form.base.found, Constant) and not form.parts


_Fold = Callable[[_Folding, Call, "tuple[int, ...]"], "_Form | None"]

_FOLDS: Final[dict[str, _Fold]] = {
    "mul": _mul,
    "div": _div,
    "add": _add,
    "sub": _sub,
    "rsub": _rsub,
    "neg": _neg,
    "erfinv": _erfinv,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "clone": _same,
    "_to_copy": _same,
    "contiguous": _same,
    "copy": _copy,
    "zero": _zeros,
    "zeros": _zeros,
    "zeros_like": _zeros,
    "new_zeros": _zeros,
    "ones": _ones,
    "ones_like": _ones,
    "new_ones": _ones,
    "full": _full,
    "full_like": _full,
    "fill": _full,
    "new_full": lambda folding, call, shape: _full(folding, _shifted(call), shape),
    "scalar_tensor": _scalar,
    "eye": _eye,
    "cat": _cat,
}


def _shifted(call: Call) -> Call:
    return Call(call.function, call.args[1:], call.kwargs, call.number, call.identity)
