"""New rows of a tensor that already holds others: a resized embedding, or an output head and its bias.

The old rows keep every bit. The new rows get an initializer's values for those rows of the whole tensor, or follow from
the old rows: their mean, or normal draws with their mean and covariance.

>>> import numpy as np, fastinit
>>> table = fastinit.fill(np.empty((1000, 64), np.float32), fastinit.Normal(std=0.02), fastinit.Key(0))
>>> grown = np.concatenate([table, np.zeros((24, 64), np.float32)])
>>> grown = fastinit.fill_rows(grown, fastinit.NewRows(1000, fastinit.Normal(std=0.02)), fastinit.Key(0))
>>> whole = fastinit.fill(np.empty((1024, 64), np.float32), fastinit.Normal(std=0.02), fastinit.Key(0))
>>> bool((grown == whole).all())
True

**The values.** Let x_k be row k of the n old rows in float64, and mean the sum of all x_k in their order, divided by n.
New row r, counted from the first new one, is::

    mean + sqrt(scale / n) * sum over k of z(r, k) * (x_k - mean)

with standard normals z(r, k): element r * n + k of ``Normal()`` in float32 under ``key.fold_in("new rows")``. Given the
old rows, a new row is exactly normal, with their mean and `scale` times their covariance (over n, not n - 1). No matrix
is factorized. The sum runs over integers, so its order does not matter: z is rounded to multiples of 2^-13, and column
j of x_k - mean to multiples of 2^(e_j - 24), where 2^e_j exceeds the column's largest magnitude. A sum over 4096 rows
is below 2^53 and therefore exact in float64. So the bytes are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from fastinit.buffers import Buffer, buffer_of
from fastinit.checks import at_least, finite_number, one_of, shown
from fastinit.comparing import Comparison, compare_buffer, numbers, together
from fastinit.exact import in_stream_environment
from fastinit.filling import fill, fill_buffer
from fastinit.initializers import Initializer, Moments, Normal, StructuredInitializer, checked_inner
from fastinit.keys import Key, checked_key
from fastinit.shards import Shard, check_distinct

__all__ = ["NewRows", "check_rows", "compare_rows", "fill_rows", "fill_rows_of", "uncompared"]

WAYS: Final = ("own", "mean", "mean_covariance")
# Old rows per sum, and the fraction bits of its factors: 2^12 * 2^(3 + 13) * 2^24 = 2^52, exact in float64.
BLOCK: Final = 2**12
DRAW_BITS, COLUMN_BITS = 13, 24
# New rows computed at a time; bounds the memory.
MOST_ROWS: Final = 2**10
# Smallest e_j: columns of smaller magnitude are rounded to this grid.
LEAST_EXPONENT: Final = -900


@dataclass(frozen=True, slots=True)
class NewRows(Initializer):
    """Fills the rows of a tensor from `first` on. The rows before it stay unchanged.

    Pass it to :func:`fastinit.fill_rows`, or as `rows=` of a whole model. :func:`fastinit.fill` does not accept it,
    because it reads the tensor's present values.

    Parameters
    ----------
    first : int, >= 1
        Index of the first new row along axis 0; equals the number of old rows.
    initializer : Initializer or {"own", "mean", "mean_covariance"}
        Source of the new rows. An initializer gives its values for these rows of the whole tensor. ``"own"`` uses the
        initializer that the model's recipe assigns to the parameter. ``"mean"`` is the mean of the old rows.
        ``"mean_covariance"`` draws normals with the mean of the old rows and `scale` times their covariance.
    scale : float, >= 0
        Multiplies the covariance. 1 gives new rows the spread of the old rows. A small scale stays near the mean, so
        that new words take no probability from old ones, and still makes the rows differ. J. Hewitt's default is 1e-5;
        transformers' is 1e-9, most of which bfloat16 rounds away.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    Notes
    -----
    J. Hewitt, "Initializing new word embeddings for pretrained language models", 2021: the mean bounds how far the
    probabilities of the old words move.

    Examples
    --------
    >>> import fastinit
    >>> fastinit.NewRows(50257, "mean")
    NewRows(first=50257, initializer='mean', scale=1e-05)
    """

    first: int
    initializer: Initializer | str = "own"
    scale: float = 1e-5

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", at_least(1, "first", self.first))
        if isinstance(self.initializer, str):
            object.__setattr__(self, "initializer", one_of("initializer of NewRows", self.initializer, WAYS))
        else:
            checked_inner(self.initializer)
        object.__setattr__(self, "scale", finite_number(self.scale, "scale"))
        if self.scale < 0:
            raise ValueError(f"scale must be at least 0, got {self.scale}")

    @property
    def is_open(self) -> bool:
        """Whether a recipe must supply the initializer."""
        return self.initializer == "own"

    @property
    def reads_rows(self) -> bool:
        """Whether the new rows follow from the old rows."""
        return self.initializer in ("mean", "mean_covariance")

    def check(self, shape: tuple[int, ...], dtype: str = "float32") -> None:
        if not shape:
            raise ValueError("new rows need a tensor with at least 1 axis, got shape ()")
        if self.first >= shape[0]:
            raise ValueError(f"the first new row must be one of the {shape[0]} of shape {shape}, got {self.first}")
        if self.is_open:
            raise ValueError("NewRows with initializer 'own' needs a model's recipe: pass it as rows= of a model")
        if isinstance(self.initializer, Initializer):
            self.initializer.check(shape, dtype)

    def moments(self, shape: tuple[int, ...]) -> Moments | None:
        return None

    def reach(self, shape: tuple[int, ...], dtype: str = "float32") -> float:
        return self.initializer.reach(shape, dtype) if isinstance(self.initializer, Initializer) else 0.0


Out = TypeVar("Out")


def fill_rows(out: Out, rows: NewRows, key: Key, *, dtype: Any = None, num_threads: int | None = None) -> Out:
    """Fills the new rows of a whole tensor in place. The old rows keep every bit.

    Parameters
    ----------
    out : numpy.ndarray or writable buffer
        The whole tensor, old and new rows, in any layout that :func:`fastinit.fill` accepts.
    rows : NewRows
        The new rows and their initializer.
    key : Key
        The tensor's key.
    dtype : str, optional
        Format of raw memory, as in :func:`fastinit.fill`.
    num_threads : int, optional
        Maximum number of fastinit's threads. The values do not depend on it.

    Returns
    -------
    out
        The same object.

    Raises
    ------
    TypeError, ValueError, BufferError
        As in :func:`fastinit.fill`. Also if the tensor lacks the first new row, the initializer is ``"own"``, or the
        required mean of the old rows is not finite. Nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> table = np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]])
    >>> fastinit.fill_rows(table, fastinit.NewRows(2, "mean"), fastinit.Key(0))
    array([[1., 2.],
           [3., 4.],
           [2., 3.]])
    """
    checked_key(key)
    fill_rows_of(buffer_of(out, dtype), rows, key, num_threads=num_threads)
    return out


@in_stream_environment
def fill_rows_of(
    buffer: Buffer, rows: NewRows, key: Key, shard: Shard | None = None, *, num_threads: int | None = None
) -> None:
    """:func:`fill_rows` for adapters: fills memory given by its address.

    Parameters
    ----------
    buffer : Buffer
        The memory.
    rows, key
        As in :func:`fill_rows`.
    shard : Shard, optional
        The elements of the global tensor that the buffer holds; by default all.
    num_threads : int, optional
        At most this many threads.

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.extending import buffer_of
    >>> out = np.array([1.0, 3.0, 0.0])
    >>> fill_rows_of(buffer_of(out, None), fastinit.NewRows(2, "mean"), fastinit.Key(0))
    >>> out
    array([1., 3., 2.])
    """
    shard = _checked(buffer, rows, shard)
    for piece in list(_pieces(buffer, rows, key, shard, num_threads, is_checked=True)):
        fill_buffer(piece.buffer, piece.initializer, key, piece.shard, num_threads=num_threads)


@in_stream_environment
def check_rows(buffer: Buffer, rows: NewRows, shard: Shard | None = None) -> None:
    """Checks that filling new rows will succeed. Raises the error of :func:`fill_rows` otherwise; writes nothing.

    Parameters
    ----------
    buffer : Buffer
        The memory, with the old rows.
    rows : NewRows
        The new rows and their initializer.
    shard : Shard, optional
        The elements of the global tensor that the memory holds; by default all.

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.extending import buffer_of
    >>> check_rows(buffer_of(np.array([1.0, np.nan, 0.0]), None), fastinit.NewRows(2, "mean"))
    Traceback (most recent call last):
        ...
    ValueError: the mean of the 2 old rows is not finite
    """
    shard = _checked(buffer, rows, shard)
    if rows.reads_rows:
        old = _old_rows(buffer, rows, shard)
        if buffer.size:
            _Columns.of(old).check(rows)


def _checked(buffer: Buffer, rows: NewRows, shard: Shard | None) -> Shard:
    """Checks everything except the values of the old rows. Returns the shard."""
    if not isinstance(rows, NewRows):
        raise TypeError(f"rows must be a NewRows, got {shown(rows)}")
    shard = Shard.whole(buffer.shape) if shard is None else shard
    if shard.shape is None:
        raise ValueError(f"{shown(rows)} depends on the shape of the whole tensor, got a flat range without it")
    check_distinct(buffer)
    rows.check(shard.shape, buffer.dtype.name)
    return shard


@in_stream_environment
def compare_rows(
    buffer: Buffer,
    rows: NewRows,
    key: Key,
    shard: Shard | None = None,
    *,
    drawn_in: str | None = None,
    num_threads: int | None = None,
) -> Comparison:
    """Compares new rows with those that :func:`fill_rows` would write for the same old rows.

    Parameters
    ----------
    buffer : Buffer
        The memory, with the old rows.
    rows, key, shard, num_threads
        As in :func:`fill_rows_of`.
    drawn_in : str, optional
        As in :func:`fastinit.extending.compare_buffer`.

    Returns
    -------
    Comparison
        Comparison of the new rows only. Its indices count from the start of the memory.

    Raises
    ------
    ValueError
        As in :func:`check_rows`, except that old rows that are not finite show as differences.

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.extending import buffer_of
    >>> compare_rows(buffer_of(np.array([1.0, 3.0, 2.5]), None), fastinit.NewRows(2, "mean"), fastinit.Key(0))
    Comparison(size=1, different=1, first=2, last=2, change=0.25)
    """
    shard = _checked(buffer, rows, shard)
    found: list[tuple[int, Comparison]] = []
    for piece in _pieces(buffer, rows, key, shard, num_threads):
        one = compare_buffer(
            piece.buffer, piece.initializer, key, piece.shard, drawn_in=drawn_in, num_threads=num_threads
        )
        found.append((piece.before, one))
    return together(found)


class _Piece(NamedTuple):
    """New rows that lie side by side in memory, with their initializer."""

    buffer: Buffer
    shard: Shard
    initializer: Initializer
    before: int
    """Number of elements of the memory before them."""


def _pieces(
    buffer: Buffer, rows: NewRows, key: Key, shard: Shard, num_threads: int | None, is_checked: bool = False
) -> Iterator[_Piece]:
    """Yields the new rows in a buffer. `is_checked` raises ValueError if the old rows are not finite."""
    if not buffer.size:
        return
    made: np.ndarray | None = None
    done = 0
    if rows.reads_rows:
        assert shard.shape is not None
        old = _old_rows(buffer, rows, shard)
        columns = _Columns.of(old)
        if is_checked:
            columns.check(rows)
        made = _made(old, columns, rows, key, shard.shape[0] - rows.first, num_threads)
    for piece, part, before in _new(buffer, rows.first, shard):
        if made is None:
            assert isinstance(rows.initializer, Initializer)
            yield _Piece(piece, part, rows.initializer, before)
        else:
            values = made.reshape(-1)[done : done + piece.size].reshape(piece.shape)
            done += piece.size
            yield _Piece(piece, Shard.whole(piece.shape), _Given(values), before)


def _new(buffer: Buffer, first: int, shard: Shard) -> Iterator[tuple[Buffer, Shard, int]]:
    """Yields stretches of new rows: the memory, its shard, and the number of elements before it."""
    assert shard.shape is not None
    if shard.ranges is None:  # a flat range of the tensor
        assert shard.start is not None
        begin = max(first * math.prod(shard.shape[1:]) - shard.start, 0)
        count = buffer.size - begin
        if count > 0:
            if not buffer.is_contiguous:
                raise ValueError("new rows of a flat range need contiguous memory, got a strided buffer")
            itemsize = buffer.dtype.itemsize
            piece = Buffer(buffer.address + begin * itemsize, (count,), (itemsize,), buffer.dtype, buffer.owner)
            yield piece, Shard(shard.shape, None, shard.start + begin), begin
        return
    row, place = buffer.size // buffer.shape[0], 0
    for indices in shard.ranges[0]:
        new = indices[-(-max(first - indices.start, 0) // indices.step) :]
        begin = place + len(indices) - len(new)
        if new:
            address = buffer.address + begin * buffer.byte_strides[0]
            shape = (len(new), *buffer.shape[1:])
            piece = Buffer(address, shape, buffer.byte_strides, buffer.dtype, buffer.owner)
            yield piece, Shard(shard.shape, ((new,), *shard.ranges[1:])), begin * row
        place += len(indices)


def _old_rows(buffer: Buffer, rows: NewRows, shard: Shard) -> _Old:
    """The old rows, for the columns in the memory. Raises ValueError unless the memory holds all rows in order."""
    assert shard.shape is not None
    if not _holds_all(buffer, shard):
        raise ValueError(
            f"the mean of old rows needs all {shard.shape[0]} rows, got a part of them in this process: use 'own', or "
            "fill the new rows before the tensor is sharded by rows"
        )
    if shard.ranges is not None:
        return _Old(buffer, rows.first)
    itemsize, columns = buffer.dtype.itemsize, math.prod(shard.shape[1:])
    memory = Buffer(
        buffer.address, (shard.shape[0], columns), (columns * itemsize, itemsize), buffer.dtype, buffer.owner
    )
    return _Old(memory, rows.first)


def _holds_all(buffer: Buffer, shard: Shard) -> bool:
    """Whether the memory holds all rows in order (of any columns), or an empty flat range."""
    assert shard.shape is not None
    if shard.ranges is None and not buffer.size:
        return True
    if shard.ranges is None:
        return shard.start == 0 and buffer.size == math.prod(shard.shape) and buffer.is_contiguous
    return list(shard.ranges[0]) == [range(shard.shape[0])]


def uncompared(buffer: Buffer, rows: NewRows, shard: Shard | None, drawn_in: str | None) -> str:
    """Reason why new rows cannot be compared with the old rows; empty if :func:`compare_rows` can.

    Parameters
    ----------
    buffer : Buffer
        The memory, with the old rows.
    rows : NewRows
        The new rows and their initializer.
    shard : Shard or None
        The elements of the global tensor that the buffer holds; None for all.
    drawn_in : str or None
        Format of the tensor at the time of filling.

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.extending import buffer_of
    >>> held = buffer_of(np.zeros(3, np.float32), None)
    >>> uncompared(held, fastinit.NewRows(2, "mean"), None, "bfloat16")
    'new rows that follow from old ones in bfloat16'
    """
    if not rows.reads_rows or not buffer.size:
        return ""
    if drawn_in not in (None, buffer.dtype.name):
        return f"new rows that follow from old ones in {drawn_in}"
    if shard is not None and not _holds_all(buffer, shard):
        return "new rows that follow from old ones, only partly held by this process"
    return ""


class _Old(NamedTuple):
    """The old rows of a tensor, read in blocks."""

    buffer: Buffer
    number: int

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields the rows in float64, BLOCK at a time."""
        memory = self.buffer.array(self.buffer.dtype.raw)
        for begin in range(0, self.number, BLOCK):
            some = np.ascontiguousarray(memory[begin : min(begin + BLOCK, self.number)])
            yield numbers(some.reshape(-1), self.buffer.dtype).reshape(len(some), -1)


class _Columns(NamedTuple):
    """The mean of each column, and the largest distance of its values from the mean."""

    mean: np.ndarray
    reach: np.ndarray

    @classmethod
    def of(cls, old: _Old) -> _Columns:
        size = old.buffer.size // old.buffer.shape[0]
        total, low, high = np.zeros(size), np.full(size, np.inf), np.full(size, -np.inf)
        with np.errstate(over="ignore", invalid="ignore"):
            for block in old.blocks():
                np.minimum(low, block.min(axis=0, initial=np.inf), out=low)
                np.maximum(high, block.max(axis=0, initial=-np.inf), out=high)
                for row in block:  # in order: the order of numpy.sum depends on the machine
                    np.add(total, row, out=total)
            mean = total / old.number
            return cls(mean, np.maximum(high - mean, mean - low))

    def check(self, rows: NewRows) -> None:
        """Raises ValueError if a value is not finite."""
        if not (np.isfinite(self.mean).all() and np.isfinite(self.reach).all()):
            raise ValueError(f"the mean of the {rows.first} old rows is not finite")


def _made(old: _Old, columns: _Columns, rows: NewRows, key: Key, count: int, num_threads: int | None) -> np.ndarray:
    """All new rows in float64, clipped to the dtype's range."""
    made = np.repeat(columns.mean[None], count, axis=0)
    if rows.initializer == "mean_covariance" and rows.scale:
        with np.errstate(over="ignore", invalid="ignore"):
            exponents = np.frexp(np.where(np.isfinite(columns.reach), columns.reach, 1.0))[1]
            exponents = np.maximum(exponents, LEAST_EXPONENT)
            factor = math.sqrt(rows.scale / old.number)
            steps = np.ldexp(1.0, exponents - (COLUMN_BITS + DRAW_BITS))
            for begin in range(0, count, MOST_ROWS):
                end = min(begin + MOST_ROWS, count)
                made[begin:end] += (
                    _sums(old, columns.mean, exponents, key, range(begin, end), num_threads) * steps * factor
                )
    limit = old.buffer.dtype.max
    return np.clip(made, -limit, limit, out=made)


def _sums(
    old: _Old, mean: np.ndarray, exponents: np.ndarray, key: Key, new: range, num_threads: int | None
) -> np.ndarray:
    """For a range of new rows, the sums of draws times distances from the mean, both as integers."""
    normals, place = key.fold_in("new rows"), 0
    powers = np.ldexp(1.0, COLUMN_BITS - exponents)
    sums = np.zeros((len(new), mean.size))
    for block in old.blocks():
        draws = np.empty((len(new), len(block)), np.float32)
        within, first = (new.stop, old.number), (new.start, place)
        fill(draws, Normal(), normals, global_shape=within, offsets=first, num_threads=num_threads)
        np.multiply(np.subtract(block, mean, out=block), powers, out=block)
        sums += _exact_product(np.rint(np.multiply(draws, 2.0**DRAW_BITS, dtype=np.float64)), np.rint(block, out=block))
        place += len(block)
    return sums


def _exact_product(draws: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Product of integer matrices. Sums stay below 2^53, so every order gives the same result, with or without FMA."""
    found: np.ndarray = draws @ distances
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Given(StructuredInitializer):
    """An initializer with the given values."""

    values: np.ndarray

    def check_shape(self, shape: tuple[int, ...]) -> None:
        pass

    def reach(self, shape: tuple[int, ...], dtype: str = "float32") -> float:
        return 0.0  # the values are within the dtype's range

    def write(self, out: np.ndarray, key: Key, num_threads: int | None, target: str | None) -> None:
        np.copyto(out, self.values, casting="same_kind")
