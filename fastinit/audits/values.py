"""The values of a parameter: tests for unwritten memory and identical units, and moments."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np

from fastinit.audits.agreement import differs
from fastinit.audits.scales import Sampled, advised, is_embedding, is_weight
from fastinit.composites import Blocks, ZeroRow
from fastinit.dtypes import DTYPES
from fastinit.initializers import Constant, ElementwiseInitializer
from fastinit.layouts import axis_roles
from fastinit.models.digests import digest
from fastinit.models.recipes import RECIPES
from fastinit.models.records import Entry
from fastinit.models.rules import Parameter
from fastinit.models.verifying import Verified
from fastinit.structured import Orthogonal

__all__ = ["Held", "Seen", "seen"]

Array = np.ndarray[Any, np.dtype[Any]]

NONE: Final = type(None)
HUGE, TINY, TINY_SHARE = 1e6, 1e-25, 1e-3
# Minimum random bits of rows or tensors; with fewer they may coincide by chance.
BITS: Final = 60
# Large weights with at most this many distinct magnitudes are designed, not drawn.
DESIGNED: Final = 16


@dataclass(frozen=True, slots=True)
class Held:
    """A parameter and its values.

    Attributes
    ----------
    parameter : Parameter
        Description of the parameter.
    values : array of float
        All values, or those that this process holds, in any dtype that represents them exactly.
    dtype : str
        The parameter's dtype.
    other_names : tuple of str
        Other names of the same tensor in the model.
    repeated : bool
        Whether layers share the tensor by mistake.
    trainable : bool
        Whether the parameter is trained.
    recorded : Verified, optional
        Result of comparing it with a record; None without a record.
    normed : bool, optional
        Whether a norm follows its layer and compensates its scale; None if unknown.

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
    recorded: Verified | None = None
    normed: bool | None = None


class Seen(NamedTuple):
    """Facts about a parameter, kept after its values are released."""

    sampled: Sampled
    shared_with: tuple[str, ...] = ()
    trainable: bool = True
    digest: str = ""
    kind: str = ""
    message: str = ""
    as_written: bool = False
    designed: bool = False
    normed: bool | None = None
    remark: tuple[str, str] = ("", "")

    @property
    def is_scaled(self) -> bool:
        """Whether to judge its scale: it is drawn and trainable."""
        return self.trainable and not (self.kind or self.designed or self.remark[0])

    @property
    def is_zero(self) -> bool:
        """Whether it is a weight of zeros that no record explains."""
        return not (self.kind or self.sampled.rms) and self.trainable and _explains_nothing(self)

    def is_copy_of(self, other: Seen) -> bool:
        """Whether the author's code copied one from the other, or computed both without draws."""
        mine, others = self.sampled.parameter.program, other.sampled.parameter.program
        if mine is None or others is None or not (self.as_written and other.as_written):
            return False
        return bool(set(mine.draws) & set(others.draws)) or not (mine.draws or others.draws)


def _explains_nothing(one: Seen) -> bool:
    entry = one.sampled.entry
    return entry is None or not isinstance(entry.initializer, Constant)


def _bits_of(held: Held) -> int:
    """Minimum random bits per value; 1 for dtypes that fastinit does not write."""
    dtype = DTYPES.get(held.dtype)
    return 1 if dtype is None else dtype.precision


def _moments(values: Array) -> tuple[float, float]:
    """Mean and root mean square in float64, computed piecewise to bound memory."""
    flat, step = values.reshape(-1), 2**20
    sums, squares = [], []
    for start in range(0, flat.size, step):
        piece = flat[start : start + step].astype(np.float64)
        sums.append(float(piece.sum()))
        squares.append(float(np.dot(piece, piece)))
    return math.fsum(sums) / flat.size, math.sqrt(math.fsum(squares) / flat.size)


def _units(parameter: Parameter, values: Array) -> Array:
    """The weights of each unit as (units, weights). The units of an embedding are its rows."""
    if is_embedding(parameter):
        return values.reshape(values.shape[0], -1)
    assert parameter.layout is not None
    roles = axis_roles(parameter.shape, parameter.layout)
    ahead = [axis for axis, role in enumerate(roles) if role in "OE"]
    moved = np.moveaxis(values, ahead, range(len(ahead)))
    units = math.prod(moved.shape[: len(ahead)])
    if parameter.transposed and parameter.groups > 1:  # the input axis holds the groups, each with its own units
        return moved.reshape(units, parameter.groups, -1).reshape(units * parameter.groups, -1)
    return np.ascontiguousarray(moved).reshape(units, -1)


def _rows(parameter: Parameter, values: Array, bits: int) -> tuple[str, str] | None:
    """Finding for constant or identical units. Units of zeros are allowed: padding, or closed at first."""
    rows = np.ascontiguousarray(_units(parameter, values) + 0.0)  # -0.0 becomes 0.0
    count, length = rows.shape
    if count < 2 or length * bits < BITS or length < 3:
        return None
    filled = (rows != 0).sum(axis=1)
    if filled.max(initial=0) <= 1:  # an identity or a Dirac kernel
        return None
    alike = bool((rows == rows[0]).all())
    if not (alike and parameter.groups == 1) and _is_designed(rows):
        return None
    constant = (rows == rows[:, :1]).all(axis=1) & (filled > 0)
    if constant.any():
        return "constant rows", f"{constant.sum()} of {count} units have one value everywhere"
    rows = rows[filled > 0]
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * length)))[:, 0]
    copies = Counter(key.tobytes() for key in keys)
    most = max(copies.values(), default=1)
    if most == 1 or (len(copies) > 1 and _by_subpixel(keys, set(copies.values()))):
        return None
    same = sum(number for number in copies.values() if number > 1)
    return "identical rows", f"{same} of {count} units have the weights of another unit, up to {most} the same"


def _is_designed(values: Array) -> bool:
    """Whether a tensor is a pattern of few distinct magnitudes, not a draw."""
    few = np.unique(np.abs(values.reshape(-1)[: 64 * DESIGNED])).size <= min(DESIGNED, values.size // 4)
    return few and np.unique(np.abs(values)).size <= DESIGNED


def _by_subpixel(keys: Array, copies: set[int]) -> bool:
    """Whether every unit is repeated r^2 times, side by side or in whole blocks, as before a pixel shuffle."""
    number = min(copies)
    if len(copies) > 1 or number not in (4, 9, 16, 64):
        return False
    return bool(
        (keys == np.repeat(keys[::number], number)).all()
        or (keys == np.tile(keys[: len(keys) // number], number)).all()
    )


def seen(held: Held, entry: Entry | None = None) -> Seen:
    """Examines a parameter, with its entry in a record if there is one."""
    parameter, values = held.parameter, held.values
    program = parameter.program if entry is None else None
    shared = held.other_names if held.repeated and program is None else ()
    difference = None if program is None else differs(program.initializer, values, parameter.shape, _bits_of(held))
    if not np.isfinite(values).all() and difference != "":
        message = f"{int((~np.isfinite(values)).sum())} of {values.size} elements are NaN or infinite"
        return Seen(Sampled(parameter, values.size, 0.0, 0.0), shared, kind="not finite", message=message)
    mean, rms = _moments(values)
    weight, bits = is_weight(parameter), _bits_of(held)
    remark = "", ""
    if difference == "":
        kind, message = _never_written(parameter)
        if weight and held.trainable and not kind:
            remark = _pattern(held, entry, mean)
    else:
        kind, message = _wrong_values(held, entry, mean) if weight and held.trainable else _strange(values)
        if difference and not kind and not _by_a_recipe(held):
            kind = "scale" if difference.startswith(("std", "mean")) else "not as written"
            message = f"{difference} by the author's code"
    if not kind and entry is not None and held.recorded is not None and not held.recorded.is_sound:
        kind, message = "not as recorded", f"differs from the values that {entry.rule!r} gave: {held.recorded}"
    telling = weight and values.size * bits >= BITS and len(set(values.reshape(-1)[:64].tolist())) > 2
    found = digest(np.ascontiguousarray(values)) if telling else ""
    sampled = Sampled(parameter, values.size, mean, rms, entry)
    designed = weight and _is_designed(values)
    return Seen(sampled, shared, held.trainable, found, kind, message, difference == "", designed, held.normed, remark)


def _never_written(parameter: Parameter) -> tuple[str, str]:
    program = parameter.program
    if program is None or not program.uninitialized:
        return "", ""
    return "untouched", "the author's code did not write all of this memory; the unwritten part holds zeros"


def _by_a_recipe(held: Held) -> bool:
    """Whether the values agree with a recipe of the library, and so differ from the author's on purpose."""
    parameter = held.parameter
    given = (advised(parameter, recipe)[0] for recipe in RECIPES.values())
    bare = (advised(replace(parameter, program=None), recipe)[0] for recipe in RECIPES.values())
    return any(
        initializer is not None and not differs(initializer, held.values, parameter.shape, _bits_of(held))
        for initializer in (*given, *bare)
    )


def _strange(values: Array) -> tuple[str, str]:
    """Finding for values that look like unwritten memory."""
    size = np.abs(values)
    tiny = int(((size > 0) & (size < TINY)).sum())
    if size.max() > HUGE:
        return "untouched", f"its largest element is {size.max():.3g}, as in unwritten memory"
    if tiny > TINY_SHARE * values.size:
        return "untouched", f"{tiny} of {values.size} elements are below {TINY:g} and not 0, as in unwritten memory"
    return "", ""


def _wrong_values(held: Held, entry: Entry | None, mean: float) -> tuple[str, str]:
    """Finding about the values of a weight, apart from their scale. Zeros are judged with the whole model."""
    found = _strange(held.values)
    return found if found[0] else _pattern(held, entry, mean)


def _pattern(held: Held, entry: Entry | None, mean: float) -> tuple[str, str]:
    """Finding for a constant weight, or for constant or identical units."""
    parameter, values = held.parameter, held.values
    initializer = None if entry is None else entry.initializer
    if isinstance(initializer, Constant) or not values.any():
        return "", ""
    if _several_units(parameter) and (values == values.reshape(-1)[0]).all():
        return "constant", f"all its elements are {mean:.4g}"
    random = isinstance(initializer, (ElementwiseInitializer, Orthogonal, Blocks, ZeroRow, NONE))
    whole = values.shape == parameter.shape  # the units of a shard are unknown
    return (_rows(parameter, values, _bits_of(held)) if random and whole else None) or ("", "")


def _several_units(parameter: Parameter) -> bool:
    """Whether there is more than one unit, so that a constant would make units identical."""
    if is_embedding(parameter):
        return parameter.shape[0] > 1
    assert parameter.layout is not None
    roles = axis_roles(parameter.shape, parameter.layout)
    return math.prod(size for size, role in zip(parameter.shape, roles, strict=True) if role in "OE") > 1
