"""Programs: the author's initialization of a parameter, as a value that fills the tensor or any shard of it.

A framework's adapter records a model's constructor. The steps on one parameter become a :class:`Program`: an
initializer in canonical form, and the identities of its draws. Most programs are one ordinary initializer. Three
classes cover the rest:

Painted    a base with overwritten boxes, each with its own initializer
Replayed   the author's operators, run again by the adapter on the whole tensor with the stream's draws
Keep       leaves the tensor's values unchanged

Draw 0 of a parameter uses the parameter's key. Draw n > 0 uses that key with n folded in. So a program of one
``Normal`` has the same bytes as a rule that says ``Normal``.

>>> import numpy as np, fastinit
>>> start = Painted(fastinit.Normal(std=0.02), (Box((0, 0), (1, 4), fastinit.Zeros()),))
>>> table = fastinit.fill(np.empty((3, 4), np.float32), start, fastinit.Key(0))
>>> bool(table[0].any()), bool(table[1].any())
(False, True)
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from fastinit.checks import at_least, checked_shape, sequence_of, shown, text
from fastinit.composites import Composite
from fastinit.initializers import Initializer, Moments, Part, StructuredInitializer, checked_inner
from fastinit.keys import Key
from fastinit.sampling import STREAM_VERSION

__all__ = [
    "Box",
    "Keep",
    "Painted",
    "Program",
    "Replayed",
    "apart",
    "disjoint",
    "draw_key",
    "rekeyed",
    "runs_graphs",
    "within",
]


def _key_of(draw: int, key: Key | None) -> int | Key | None:
    """`key_data` of a part: its own key, or the number of the draw to fold into the tensor's key."""
    return key if key is not None else draw or None


def draw_key(key: Key, draw: int) -> Key:
    """The key of a tensor's draw: the tensor's key for draw 0, and that key with `draw` folded in for the others.

    Parameters
    ----------
    key : Key
        The tensor's key.
    draw : int
        Number of the draw.

    Examples
    --------
    >>> import fastinit
    >>> key = fastinit.Key(0)
    >>> draw_key(key, 0) == key, draw_key(key, 2) == key.fold_in(2)
    (True, True)
    """
    return key.fold_in(draw) if draw else key


def _checked_key(key: Key | None) -> Key | None:
    if key is not None and not isinstance(key, Key):
        raise TypeError(f"key must be a Key or None, got {shown(key)}")
    return key


@dataclass(frozen=True, slots=True)
class Keep(Composite):
    """Leaves the tensor unchanged: nothing is written.

    A rule with this initializer leaves its parameters alone.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> fastinit.fill(np.arange(3.0), fastinit.Keep(), fastinit.Key(0))
    array([0., 1., 2.])
    """

    def parts(self, shape: tuple[int, ...]) -> Sequence[Part]:
        return ()

    def moments(self, shape: tuple[int, ...]) -> Moments | None:
        return None


@dataclass(frozen=True, slots=True)
class Box:
    """An overwritten box of a tensor; see :class:`Painted`.

    Parameters
    ----------
    offsets, shape : tuple of int
        Start of the box in the tensor, and its shape. Both have the tensor's number of axes.
    initializer : Initializer
        Initializer of the box, applied to a tensor of the box's shape.
    draw : int, >= 0
        Number of the draw. Draw 0 uses the tensor's key, draw n > 0 that key with n folded in.
    key : Key, optional
        Key of another tensor's draw, if this draw is a copy of it. `draw` is then ignored.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, or the numbers of axes differ.

    Examples
    --------
    >>> import fastinit
    >>> fastinit.Box((0, 0), (1, 4), fastinit.Zeros()).shape
    (1, 4)
    """

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    initializer: Initializer
    draw: int = 0
    key: Key | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "offsets", checked_shape(self.offsets, "offsets"))
        object.__setattr__(self, "shape", checked_shape(self.shape))
        if len(self.offsets) != len(self.shape):
            raise ValueError(
                f"offsets {self.offsets} and shape {self.shape} of a box must have the same number of axes"
            )
        checked_inner(self.initializer)
        object.__setattr__(self, "draw", at_least(0, "draw", self.draw))
        _checked_key(self.key)

    def part(self) -> Part:
        """Converts the box to a part of a composite."""
        return Part(self.offsets, self.shape, self.initializer, _key_of(self.draw, self.key))

    def covers(self, other: Box) -> bool:
        """Whether this box contains another box of the same tensor."""
        return within(other.offsets, other.shape, self.offsets, self.shape)

    def overlaps(self, other: Box) -> bool:
        """Whether two boxes of one tensor share an element."""
        return all(
            start < other_start + other_extent and other_start < start + extent
            for start, extent, other_start, other_extent in zip(
                self.offsets, self.shape, other.offsets, other.shape, strict=True
            )
        )


def within(
    offsets: tuple[int, ...], shape: tuple[int, ...], others_offsets: tuple[int, ...], others_shape: tuple[int, ...]
) -> bool:
    """Whether a box of a tensor lies within another.

    Parameters
    ----------
    offsets, shape : tuple of int
        Start and shape of the box.
    others_offsets, others_shape : tuple of int
        Start and shape of the other box.

    Examples
    --------
    >>> within((1, 2), (1, 1), (0, 0), (2, 3)), within((1, 2), (2, 1), (0, 0), (2, 3))
    (True, False)
    """
    return all(
        outer <= start and start + extent <= outer + whole
        for start, extent, outer, whole in zip(offsets, shape, others_offsets, others_shape, strict=True)
    )


def disjoint(boxes: Sequence[Box]) -> bool:
    """Whether no two boxes of one tensor share an element.

    Parameters
    ----------
    boxes : sequence of Box
        Boxes with the same number of axes.

    Examples
    --------
    >>> import fastinit
    >>> disjoint([fastinit.Box((row,), (2,), fastinit.Zeros()) for row in (0, 2, 3)])
    False
    """
    if apart(boxes):  # fast path: the test below is quadratic
        return True
    return not any(one.overlaps(two) for number, one in enumerate(boxes) for two in boxes[:number])


def apart(boxes: Sequence[Box]) -> bool:
    """Whether boxes are disjoint along one axis, like rows of a table. Takes O(n log n) time.

    Parameters
    ----------
    boxes : sequence of Box
        Boxes with the same number of axes.

    Examples
    --------
    >>> import fastinit
    >>> apart([fastinit.Box((row, 0), (2, 4), fastinit.Zeros()) for row in (6, 0, 2)])
    True
    """
    for axis in range(len(boxes[0].shape) if boxes else 0):
        spans = sorted((box.offsets[axis], box.offsets[axis] + box.shape[axis]) for box in boxes)
        if all(end <= start for (_, end), (start, _) in itertools.pairwise(spans)):
            return True
    return not boxes


@dataclass(frozen=True, slots=True)
class Painted(Composite):
    """A filled tensor with overwritten boxes. Later boxes paint over earlier ones.

    Parameters
    ----------
    initializer : Initializer
        Initializer of the whole tensor, applied first.
    boxes : tuple of Box
        Boxes to paint over it, in this order.
    draw : int, >= 0
        Number of the draw of `initializer`, as in :class:`Box`.
    key : Key, optional
        Key of another tensor's draw, if the draw of `initializer` is a copy of it.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type. When filling, if a box exceeds the tensor.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> ones = fastinit.Box((0, 2), (2, 1), fastinit.Ones())
    >>> fastinit.fill(np.empty((2, 3)), fastinit.Painted(fastinit.Zeros(), (ones,)), fastinit.Key(0))
    array([[0., 0., 1.],
           [0., 0., 1.]])
    """

    initializer: Initializer
    boxes: tuple[Box, ...]
    draw: int = 0
    key: Key | None = None

    def __post_init__(self) -> None:
        checked_inner(self.initializer)
        object.__setattr__(self, "boxes", sequence_of(Box, "boxes must be a sequence of Box", self.boxes))
        object.__setattr__(self, "draw", at_least(0, "draw", self.draw))
        _checked_key(self.key)

    def parts(self, shape: tuple[int, ...]) -> Sequence[Part]:
        for box in self.boxes:
            if len(box.shape) != len(shape) or any(
                start + extent > whole for start, extent, whole in zip(box.offsets, box.shape, shape, strict=True)
            ):
                raise ValueError(f"the box of shape {box.shape} at {box.offsets} exceeds a tensor of shape {shape}")
        whole = Part((0,) * len(shape), shape, self.initializer, _key_of(self.draw, self.key))
        return [whole, *(box.part() for box in self.boxes)]

    def moments(self, shape: tuple[int, ...]) -> Moments | None:
        size = math.prod(shape)
        if not size or not disjoint(self.boxes):
            return None
        shares = [math.prod(box.shape) for box in self.boxes]
        found = [self.initializer.moments(shape), *(box.initializer.moments(box.shape) for box in self.boxes)]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        weights = [(size - sum(shares)) / size, *(share / size for share in shares)]
        mean = math.fsum(weight * one.mean for weight, one in zip(weights, known, strict=True))
        square = [
            weight * (one.std * one.std + (one.mean - mean) * (one.mean - mean))
            for weight, one in zip(weights, known, strict=True)
        ]
        return Moments(mean, math.sqrt(math.fsum(square)))


Runner = Callable[[Any, Sequence[Key], "int | None", "str | None"], np.ndarray]

Check = Callable[[Any], None]

_runners: Final[dict[str, tuple[Runner, Check | None]]] = {}


def runs_graphs(framework: str, check: Check | None = None) -> Callable[[Runner], Runner]:
    """Decorator that registers the function that runs graphs of a framework's operators.

    Parameters
    ----------
    framework : str
        Name of the framework in graphs.
    check : callable, optional
        Function of a graph that raises ValueError if the graph cannot be run.

    Examples
    --------
    >>> @runs_graphs("counting")
    ... def count(graph, keys, num_threads, target):
    ...     return np.arange(graph["size"], dtype=np.float32)
    >>> import fastinit
    >>> graph = '{"framework": "counting", "shape": [3], "operators": ["range"], "draws": 0, "size": 3}'
    >>> fastinit.fill(np.empty(3), fastinit.Replayed(graph), fastinit.Key(0))
    array([0., 1., 2.])
    """

    def made(run: Runner) -> Runner:
        _runners[framework] = run, check
        return run

    return made


@functools.lru_cache(maxsize=256)
def _read(graph: str) -> dict[str, Any]:
    """Parses a graph's JSON. Raises ValueError if it is invalid."""
    try:
        found = json.loads(graph)
    except (ValueError, RecursionError):
        found = None
    expected = {"framework": str, "shape": list, "operators": list, "draws": int}
    if not isinstance(found, dict) or any(not isinstance(found.get(name), kind) for name, kind in expected.items()):
        raise ValueError(f"graph must be the JSON of an object with {', '.join(expected)}, got {shown(graph)}")
    return found


@dataclass(frozen=True, slots=True)
class Replayed(StructuredInitializer):
    """The author's operators, run again on the whole tensor with the stream's draws in place of random operators.

    The framework's adapter runs the operators, so it must be imported.

    Parameters
    ----------
    graph : str
        The operators as JSON: an object with ``framework``, the ``shape`` of the tensor, the names of the
        ``operators``, the number of ``draws``, and further data of the adapter.
    keys : tuple of Key or None
        For each draw that copies another tensor's draw, that draw's key; otherwise None. Missing entries are None.

    Raises
    ------
    TypeError, ValueError
        If `graph` is not such JSON. When filling, if the tensor has another shape, or the framework's adapter is not
        imported.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> from fastinit.programs import runs_graphs
    >>> @runs_graphs("powers")
    ... def run(graph, keys, num_threads, target):
    ...     return np.array([2.0**number for number in range(graph["shape"][0])])
    >>> powers = fastinit.Replayed('{"framework": "powers", "shape": [4], "operators": ["pow"], "draws": 0}')
    >>> fastinit.fill(np.empty(4), powers, fastinit.Key(0))
    array([1., 2., 4., 8.])
    """

    graph: str
    keys: tuple[Key | None, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.graph, str):
            raise TypeError(f"graph must be a str, got {shown(self.graph)}")
        object.__setattr__(self, "graph", text(self.graph))
        keys = (self.keys,) if self.keys is None or isinstance(self.keys, Key) else tuple(self.keys)
        object.__setattr__(self, "keys", tuple(map(_checked_key, keys)))
        _read(self.graph)

    @property
    def framework(self) -> str:
        """The framework whose operators they are."""
        return str(_read(self.graph)["framework"])

    @property
    def operators(self) -> tuple[str, ...]:
        """Names of the operators, in the order of their first call."""
        return tuple(_read(self.graph)["operators"])

    @property
    def draws(self) -> int:
        """Number of draws."""
        return int(_read(self.graph)["draws"])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return tuple(_read(self.graph)["shape"])

    def draw_keys(self, key: Key) -> list[Key]:
        """The keys of the draws in a tensor with this key."""
        given = [*self.keys, *[None] * self.draws]
        return [given[draw] or draw_key(key, draw) for draw in range(self.draws)]

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if tuple(shape) != self.shape:
            raise ValueError(f"operators recorded for shape {self.shape} cannot fill a tensor of shape {shape}")
        graph = _read(self.graph)
        framework = graph["framework"]
        if framework not in _runners:
            raise ValueError(f"the operators belong to {framework}: import fastinit.adapters.{framework} first")
        _, check = _runners[framework]
        if check is not None:
            check(graph)

    def reach(self, shape: tuple[int, ...], dtype: str = "float32") -> float:
        self.check_shape(shape)
        return 0.0  # unknown before the operators run

    def write(self, out: np.ndarray, key: Key, num_threads: int | None, target: str | None) -> None:
        graph = _read(self.graph)
        run, _ = _runners[graph["framework"]]
        np.copyto(out, run(graph, self.draw_keys(key), num_threads, target))


@dataclass(frozen=True, slots=True)
class Program:
    """The author's initialization of a parameter.

    Parameters
    ----------
    initializer : Initializer
        The initialization in canonical form.
    draws : tuple of str
        Identity of each draw, in order. Parameters whose programs share a draw are copies of each other.
    origin : tuple of two str, optional
        For a copy: its own name and its source's name, in the model that the code built.
    operators : tuple of str
        Operators that the code called on the parameter.
    uninitialized : bool
        Whether the code left some elements unwritten; the initializer has zeros there.
    chosen : bool
        Whether the author's own code made the draws, rather than a layer of the framework. It then counts as the
        author's choice, even if the layer would do the same.
    stream_version : int
        Stream version of the draws.
    shape : tuple of int, optional
        Shape of the tensor that the code saw; None if unknown.

    Raises
    ------
    TypeError
        If an argument has the wrong type.

    Examples
    --------
    >>> import fastinit
    >>> program = fastinit.Program(fastinit.Normal(std=0.02), ("1:0",), operators=("normal_",))
    >>> program.initializer
    Normal(mean=0.0, std=0.02)
    """

    initializer: Initializer
    draws: tuple[str, ...] = ()
    origin: tuple[str, str] | None = None
    operators: tuple[str, ...] = ()
    uninitialized: bool = False
    chosen: bool = False
    stream_version: int = STREAM_VERSION
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        checked_inner(self.initializer)
        if self.shape is not None:
            object.__setattr__(self, "shape", checked_shape(self.shape))
        for what in ("draws", "operators"):
            given = sequence_of(str, f"{what} of a program must be a sequence of str", getattr(self, what))
            object.__setattr__(self, what, given)
        if self.origin is not None:
            object.__setattr__(self, "origin", sequence_of(str, "origin must be two names", self.origin))

    @property
    def is_drawn(self) -> bool:
        """Whether any value is random."""
        return bool(self.draws)


def rekeyed(initializer: Initializer, keys: Sequence[Key | None]) -> Initializer:
    """A canonical initializer with some draws replaced by copies of other tensors' draws.

    Parameters
    ----------
    initializer : Initializer
        Initializer of a program.
    keys : sequence of Key or None
        The key of each draw; None for the tensor's own.

    Examples
    --------
    >>> import fastinit
    >>> painted = fastinit.Painted(fastinit.Zeros(), (fastinit.Box((0,), (2,), fastinit.Normal(), 0),))
    >>> rekeyed(painted, [fastinit.Key(1)]).boxes[0].key == fastinit.Key(1)
    True
    """
    if not any(key is not None for key in keys):
        return initializer
    if isinstance(initializer, Replayed):
        return replace(initializer, keys=tuple(keys))
    if isinstance(initializer, Painted):
        boxes = tuple(replace(box, key=box.key or _at(keys, box.draw)) for box in initializer.boxes)
        return replace(initializer, boxes=boxes, key=initializer.key or _at(keys, initializer.draw))
    whole = _at(keys, 0)
    return Painted(initializer, (), key=whole)


def _at(keys: Sequence[Key | None], draw: int) -> Key | None:
    return keys[draw] if draw < len(keys) else None
