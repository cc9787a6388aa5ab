"""Composite initializers: tensors made of parts. Each part is initialized as a separate tensor.

For a given shape, a composite lists its parts: boxes of the tensor, each with its own initializer and key. A box gets
the values of a tensor of the box's shape under the box's key, so its fans are those of the box. The boxes cover the
tensor; later boxes paint over earlier ones. A shard is filled from its intersections with the boxes, so the law of
shards holds because it holds for every box.

>>> import numpy as np, fastinit
>>> gates = Blocks(fastinit.Orthogonal(column_axis=0), 4)  # an LSTM's recurrent weight, (4 h, h)
>>> weight = fastinit.fill(np.empty((32, 8), np.float32), gates, fastinit.Key(0))
>>> third = fastinit.fill(np.empty((8, 8), np.float32), fastinit.Orthogonal(column_axis=0), fastinit.Key(0).fold_in(2))
>>> bool((weight[16:24] == third).all())
True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastinit.checks import at_least, integer
from fastinit.filling import fill
from fastinit.initializers import Constant, Initializer, Moments, Part, StructuredInitializer, checked_inner
from fastinit.keys import Key

__all__ = ["Blocks", "Composite", "ZeroRow"]


class Composite(StructuredInitializer):
    """An initializer whose tensors consist of parts.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np, fastinit
    >>> @dataclass(frozen=True)
    ... class FirstColumnOne(fastinit.Composite):
    ...     def parts(self, shape):
    ...         whole = fastinit.Part((0, 0), shape, fastinit.Zeros(), None)
    ...         return [whole, fastinit.Part((0, 0), (shape[0], 1), fastinit.Ones(), None)]
    >>> fastinit.fill(np.empty((2, 3)), FirstColumnOne(), fastinit.Key(0))
    array([[1., 0., 0.],
           [1., 0., 0.]])
    """

    __slots__ = ()

    def parts(self, shape: tuple[int, ...]) -> Sequence[Part]:
        """The parts of a tensor of this shape, in painting order.

        Raises
        ------
        ValueError
            If the composite does not support the shape.
        """
        raise NotImplementedError

    def check_shape(self, shape: tuple[int, ...]) -> None:
        self.parts(shape)

    def check(self, shape: tuple[int, ...], dtype: str = "float32") -> None:
        for part in self.parts(shape):
            part.initializer.check(part.shape, dtype)

    def reach(self, shape: tuple[int, ...], dtype: str = "float32") -> float:
        found = [part.initializer.reach(part.shape, dtype) for part in self.parts(shape)]
        return math.nan if any(map(math.isnan, found)) else max(found, default=0.0)

    def write(self, out: np.ndarray, key: Key, num_threads: int | None, target: str | None) -> None:
        fill(out, self, key, num_threads=num_threads, target=target)  # fills part by part, after checking all parts


@dataclass(frozen=True, slots=True)
class Blocks(Composite):
    """Equal blocks along one axis, each initialized separately: LSTM gates, or packed queries, keys and values.

    Block b uses the key ``key.fold_in(b)`` and the fans of one block. Leave `blocks` of its initializer at 1.

    Parameters
    ----------
    initializers : initializer, or tuple or list of initializers
        One initializer for all blocks, or one per block.
    count : int, >= 1
        Number of blocks. Required for a single initializer; for a tuple, by default its length.
    axis : int
        Axis that the blocks divide: 0 for torch weights (out, in), -1 for Keras and JAX weights (in, out).

    Raises
    ------
    TypeError, ValueError
        If `count` is missing, below 1, or not the length of the tuple. When filling, if the shape lacks the axis,
        if `count` does not divide it, or if an initializer does not support the shape of a block.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> gates = fastinit.Blocks((fastinit.Zeros(), fastinit.Ones()))
    >>> fastinit.fill(np.empty(4), gates, fastinit.Key(0))
    array([0., 0., 1., 1.])
    """

    initializers: Initializer | tuple[Initializer, ...]
    count: int | None = None
    axis: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "axis", integer("axis", self.axis))
        count = None if self.count is None else at_least(1, "count", self.count)
        if isinstance(self.initializers, Initializer):
            if count is None:
                raise TypeError("one initializer for all blocks needs a count, got None")
        elif isinstance(self.initializers, (tuple, list)):
            object.__setattr__(self, "initializers", tuple(self.initializers))
            if count not in (None, len(self.initializers)):
                raise ValueError(f"expected {count} initializers for {count} blocks, got {len(self.initializers)}")
            count = at_least(1, "count", len(self.initializers))
        for initializer in self.each():
            checked_inner(initializer)
        object.__setattr__(self, "count", count)

    def each(self) -> tuple[Initializer, ...]:
        """The initializers as a tuple. A single initializer applies to all blocks."""
        return self.initializers if isinstance(self.initializers, tuple) else (self.initializers,)

    def parts(self, shape: tuple[int, ...]) -> Sequence[Part]:
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(f"the blocks' axis {self.axis} is out of range for shape {shape}")
        axis, count = self.axis % len(shape), self.count or 1
        size, rest = divmod(shape[axis], count)
        if rest:
            raise ValueError(f"{count} blocks do not divide axis {axis} of shape {shape}")
        block = (*shape[:axis], size, *shape[axis + 1 :])
        initializers = self.each() * (count // len(self.each()))
        return [
            Part(tuple(b * size if a == axis else 0 for a in range(len(shape))), block, initializer, b)
            for b, initializer in enumerate(initializers)
        ]

    def moments(self, shape: tuple[int, ...]) -> Moments | None:
        found = [part.initializer.moments(part.shape) for part in self.parts(shape)]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        mean = math.fsum(one.mean for one in known) / len(known)
        variance = math.fsum(one.std * one.std + (one.mean - mean) * (one.mean - mean) for one in known) / len(known)
        return Moments(mean, math.sqrt(variance))


@dataclass(frozen=True, slots=True)
class ZeroRow(Composite):
    """Another initializer with one row of axis 0 set to zero: an embedding with a padding row.

    The other rows equal those of the other initializer under the same key.

    Parameters
    ----------
    initializer : Initializer
        Initializer of the whole tensor.
    row : int, >= 0
        Index of the zero row.

    Raises
    ------
    ValueError
        If `row` is negative. When filling, if the shape lacks the row.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> fastinit.fill(np.empty((3, 2)), fastinit.ZeroRow(fastinit.Ones(), row=0), fastinit.Key(0))
    array([[0., 0.],
           [1., 1.],
           [1., 1.]])
    """

    initializer: Initializer
    row: int

    def __post_init__(self) -> None:
        checked_inner(self.initializer)
        object.__setattr__(self, "row", at_least(0, "row", self.row))

    def parts(self, shape: tuple[int, ...]) -> Sequence[Part]:
        if not shape or self.row >= shape[0]:
            raise ValueError(f"row {self.row} is out of range for shape {shape}")
        first = (0,) * len(shape)
        return [
            Part(first, shape, self.initializer, None),
            Part((self.row, *first[1:]), (1, *shape[1:]), Constant(0.0), None),
        ]

    def moments(self, shape: tuple[int, ...]) -> Moments | None:
        self.check_shape(shape)
        found = self.initializer.moments(shape)
        if found is None:
            return None
        share = 1 - 1 / shape[0]  # fraction of the elements outside the zero row
        variance = share * found.std * found.std + share * (1 - share) * found.mean * found.mean
        return Moments(share * found.mean, math.sqrt(variance))
