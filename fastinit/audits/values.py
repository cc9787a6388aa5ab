"""The values of a parameter: were they written, are its units different, what are their moments?"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

import numpy as np

from fastinit.audits.scales import Sampled, advised, is_embedding, is_weight
from fastinit.composites import Blocks, ZeroRow
from fastinit.dtypes import DTYPES
from fastinit.initializers import Constant, ElementwiseInitializer
from fastinit.layouts import axis_roles
from fastinit.models.digests import digest
from fastinit.models.records import Entry
from fastinit.models.rules import Parameter
from fastinit.structured import Orthogonal

__all__ = ["Held", "Seen", "seen"]

Array = np.ndarray[Any, np.dtype[Any]]

NONE: Final = type(None)
HUGE, TINY, TINY_SHARE = 1e6, 1e-25, 1e-3
# Rows or tensors are the same by chance where they hold fewer random bits than this.
BITS: Final = 60
ZERO_ON_PURPOSE: Final = ("*lora_B*", "*lora_embedding_B*", "*adaLN*", "*zero_conv*", "*zero_proj*")


@dataclass(frozen=True, slots=True)
class Held:
    """A parameter and its values.

    Attributes
    ----------
    parameter : Parameter
    values : array of float
        All of them, or those that this process holds. Of any dtype that holds them exactly.
    dtype : str
        The parameter's dtype.
    other_names : tuple of str
        Other names of the same tensor in the model.
    repeated : bool
        Whether layers share the tensor by mistake.
    trainable : bool
    digest : str, optional
        Digest of its bytes, to be compared with a record's.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> held = Held(fastinit.Parameter("head.weight", (4, 3), ("Linear",)), np.ones((4, 3)), "bfloat16")
    >>> held.parameter.name, held.values.size, held.dtype
    ('head.weight', 12, 'bfloat16')
    """

    parameter: Parameter
    values: Array
    dtype: str = "float32"
    other_names: tuple[str, ...] = ()
    repeated: bool = False
    trainable: bool = True
    digest: str | None = None


class Seen(NamedTuple):
    """What is kept of a parameter once its values are gone."""

    sampled: Sampled
    shared_with: tuple[str, ...] = ()
    trainable: bool = True
    digest: str = ""
    kind: str = ""
    message: str = ""


def _bits_of(held: Held) -> int:
    """Random bits of a value, at least; 1 of a dtype that fastinit does not write."""
    dtype = DTYPES.get(held.dtype)
    return 1 if dtype is None else dtype.precision


def _moments(values: Array) -> tuple[float, float]:
    """Mean and root mean square, in float64, a piece at a time."""
    flat, step = values.reshape(-1), 2**20
    sums, squares = [], []
    for start in range(0, flat.size, step):
        piece = flat[start : start + step].astype(np.float64)
        sums.append(float(piece.sum()))
        squares.append(float(np.dot(piece, piece)))
    return math.fsum(sums) / flat.size, math.sqrt(math.fsum(squares) / flat.size)


def _units(parameter: Parameter, values: Array) -> Array:
    """The weights of each unit, (units, weights); of an embedding its rows."""
    if is_embedding(parameter):
        return values.reshape(values.shape[0], -1)
    assert parameter.layout is not None
    roles = axis_roles(parameter.shape, parameter.layout)
    ahead = [axis for axis, role in enumerate(roles) if role in "OE"]
    moved = np.moveaxis(values, ahead, range(len(ahead)))
    units = math.prod(moved.shape[: len(ahead)])
    if parameter.transposed and parameter.groups > 1:  # the input axis holds the groups, each with units of its own
        return moved.reshape(units, parameter.groups, -1).reshape(units * parameter.groups, -1)
    return np.ascontiguousarray(moved).reshape(units, -1)


def _rows(parameter: Parameter, values: Array, bits: int) -> tuple[str, str] | None:
    """Constant or identical units, if there are any."""
    rows = np.ascontiguousarray(_units(parameter, values) + 0.0)  # one zero
    count, length = rows.shape
    if count < 2 or length * bits < BITS or length < 3:
        return None
    filled = (rows != 0).sum(axis=1)
    if filled.max(initial=0) <= 1:  # an identity, or Dirac's deltas
        return None
    constant = (rows == rows[:, :1]).all(axis=1)
    if is_embedding(parameter) or (filled[~constant] < length).any():
        constant &= filled > 0  # padding; and zeros among others are those of a sparse weight
    if constant.any():
        return "constant rows", f"{constant.sum()} of {count} units have one value everywhere"
    rows = rows[filled > 0]
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * length)))[:, 0]
    copies = Counter(key.tobytes() for key in keys)
    most = max(copies.values(), default=1)
    if most == 1 or (len(copies) > 1 and _by_subpixel(keys, set(copies.values()))):
        return None
    same = sum(number for number in copies.values() if number > 1)
    return "identical rows", f"{same} of {count} units have the weights of another one, up to {most} the same"


def _by_subpixel(keys: Array, copies: set[int]) -> bool:
    """Whether every unit stands r^2 times, side by side or as whole blocks, as it should before a pixel shuffle."""
    number = min(copies)
    if len(copies) > 1 or number not in (4, 9, 16, 64):
        return False
    return bool(
        (keys == np.repeat(keys[::number], number)).all()
        or (keys == np.tile(keys[: len(keys) // number], number)).all()
    )


def seen(held: Held, entry: Entry | None = None) -> Seen:
    """Looks at a parameter, given the entry of a record for it or none."""
    parameter, values = held.parameter, held.values
    shared = held.other_names if held.repeated else ()
    if not np.isfinite(values).all():
        message = f"{int((~np.isfinite(values)).sum())} of {values.size} elements are NaN or infinite"
        return Seen(Sampled(parameter, values.size, 0.0, 0.0), shared, kind="not finite", message=message)
    mean, rms = _moments(values)
    weight, bits = is_weight(parameter), _bits_of(held)
    kind, message = _wrong_values(held, entry, mean, rms) if weight else _strange(values)
    if not kind and entry is not None and entry.digest and held.digest and entry.digest != held.digest:
        kind, message = "not as recorded", f"its bytes are not those that {entry.rule!r} gave it"
    telling = weight and values.size * bits >= BITS and len(set(values.reshape(-1)[:64].tolist())) > 2
    found = digest(np.ascontiguousarray(values)) if telling else ""
    return Seen(Sampled(parameter, values.size, mean, rms, entry), shared, held.trainable, found, kind, message)


def _strange(values: Array) -> tuple[str, str]:
    """Whether values look like memory that was never written."""
    size = np.abs(values)
    tiny = int(((size > 0) & (size < TINY)).sum())
    if size.max() > HUGE:
        return "untouched", f"its largest element is {size.max():.3g}, as in memory that nobody wrote"
    if tiny > TINY_SHARE * values.size:
        return "untouched", f"{tiny} of {values.size} elements are below {TINY:g} and not 0, as in memory nobody wrote"
    return "", ""


def _wrong_values(held: Held, entry: Entry | None, mean: float, rms: float) -> tuple[str, str]:
    """What is wrong with the values of a weight, apart from their scale."""
    parameter, values = held.parameter, held.values
    found = _strange(values)
    initializer = advised(parameter)[0] if entry is None else entry.initializer
    constant = isinstance(initializer, Constant)
    if found[0] or constant or any(fnmatchcase(parameter.name, pattern) for pattern in ZERO_ON_PURPOSE):
        return found
    if rms == 0:
        return "untouched", "all its elements are 0"
    if values.size > 1 and (values == values.reshape(-1)[0]).all():
        return "constant", f"all its elements are {mean:.4g}"
    random = isinstance(initializer, (ElementwiseInitializer, Orthogonal, Blocks, ZeroRow, NONE))
    whole = values.shape == parameter.shape  # which units a shard holds is unknown
    return (_rows(parameter, values, _bits_of(held)) if random and whole else None) or ("", "")
