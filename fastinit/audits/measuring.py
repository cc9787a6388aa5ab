"""Layers that ran: what audits measure of them, from arrays that an adapter makes of its framework's tensors.

An adapter runs a model once and hands over each layer's output, and the gradient with respect to it, as matrices of
shape (values of a unit, units). :func:`measured` and :func:`differentiated` make a :class:`Measured` of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from fastinit.filling import fill
from fastinit.initializers import Normal
from fastinit.keys import Key
from fastinit.models.rules import Parameter

__all__ = [
    "AUDIT_KEY",
    "Measured",
    "UnitVariance",
    "Unscalable",
    "called",
    "check_finite",
    "differentiated",
    "is_closed",
    "is_normed",
    "measured",
    "noise",
    "numbered",
    "shares",
]

Array = np.ndarray[Any, np.dtype[Any]]

AUDIT_KEY: Final = Key("fastinit.audit")
"""Key of the random numbers that an audit needs: the same every time."""

# A gate: parameters that scale a branch by less than this, so that its variance falls to less than the square.
ALMOST_CLOSED: Final = 0.03
# Rows and columns from which on one size of all rows is no accident.
NORMED: Final = (2, 8)
# A unit without a gradient is dead if it has at least this many values.
ENOUGH: Final = 8


@dataclass(frozen=True, slots=True)
class Measured:
    """One call of a layer.

    Attributes
    ----------
    name : str
    width : int
        Its units: the size of the last axis of its output, or of the channels.
    variance : float
        The output's variance.
    gradient_variance : float, optional
        The variance of the gradient with respect to the output; None where none was measured.
    response : float, optional
        By how much (as a variance) what was differentiated changes, to first order, when each element of the output is
        multiplied by 1 plus independent noise of variance 1: the sum of the squares of element times gradient. Unlike
        the gradients it depends neither on widths and positions, nor on the scale of what a norm rescales.
    dead : float, optional
        The share, in [0, 1], of the units whose gradient is 0, and whose values have one sign, the same for all of
        them, for the whole batch: as of a rectifier that never opens. Where values of both signs have no gradient,
        something else holds it back, such as a branch that is dropped.
    identical : bool
        Whether all its units compute the same, and not 0.
    closed : bool
        Whether next to nothing passes at first: its weight is 0 everywhere, or it scales a branch by almost 0.
    weight : Parameter, optional
        The weight of a linear map: these make the chain.
    norm : bool
        Whether it is a norm, which brings its input to a scale of its own.
    received : float, optional
        The variance of what it was given; None if unknown.
    starts : bool
        Whether no earlier layer gave it anything: it has an input of the model's.
    reads : tuple of int, optional
        The positions of the calls whose outputs it is given, unchanged by other layers, in order: a layer after a
        residual sum reads a call before the branch, and the branch's last. None if unknown.

    Examples
    --------
    >>> import numpy as np
    >>> call = measured("up", np.array([[1.0, 0.0], [-1.0, 0.0]]))
    >>> call.width, call.variance
    (2, 0.5)
    """

    name: str
    width: int
    variance: float
    gradient_variance: float | None = None
    response: float | None = None
    dead: float | None = None
    identical: bool = False
    closed: bool = False
    weight: Parameter | None = None
    norm: bool = False
    received: float | None = None
    starts: bool = False
    reads: tuple[int, ...] | None = None


def measured(
    name: str,
    values: Array,
    *,
    weight: Parameter | None = None,
    closed: bool = False,
    norm: bool = False,
    received: float | None = None,
    starts: bool = False,
    reads: tuple[int, ...] | None = None,
) -> Measured:
    """A call of a layer, from the output's values.

    Parameters
    ----------
    name : str
    values : array of float64
        Of shape (values of a unit, units).
    weight, closed, norm, received, starts, reads
        See :class:`Measured`.

    Examples
    --------
    >>> import numpy as np
    >>> measured("up", np.array([[1.0, 1.0], [2.0, 2.0]])).identical
    True
    """
    with np.errstate(all="ignore"):
        variance = float(values.var())
        identical = values.shape[1] > 1 and variance > 0 and bool((values == values[:, :1]).all())
    facts: dict[str, Any] = {"closed": closed, "weight": weight, "norm": norm, "received": received}
    facts |= {"starts": starts, "reads": reads}
    return Measured(name, values.shape[1], variance, identical=identical, **facts)


def is_normed(values: Array) -> bool:
    """Whether every row has one root mean square, as after a norm of somebody's own.

    Parameters
    ----------
    values : array of float64
        Of shape (values of a unit, units).

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.arange(16.0).reshape(2, 8)
    >>> is_normed(rows), is_normed(rows / np.sqrt(np.square(rows).mean(axis=1, keepdims=True)))
    (False, True)
    """
    if any(size < least for size, least in zip(values.shape, NORMED, strict=True)):
        return False
    with np.errstate(all="ignore"):
        sizes = np.sqrt(np.square(values).mean(axis=1))
        return bool(sizes.max() - sizes.min() <= 0.01 * sizes.max() > 0)


def is_closed(
    own: Iterable[Array], received: float | None, variance: float, *, norm: bool = False, holds_others: bool = False
) -> bool:
    """Whether a layer without a linear map of its own lets next to nothing of a branch pass.

    Parameters
    ----------
    own : iterable of array
        Its own parameters that are to be trained.
    received, variance : float
        The variances of what it was given and of what it gave.
    norm : bool
        Whether it is a norm: it is closed where it gives nothing.
    holds_others : bool
        Whether it runs layers within it: then one of its vectors, that is almost 0 everywhere, scales a branch.

    Examples
    --------
    >>> import numpy as np
    >>> is_closed([np.full(8, 1e-6)], 1.0, 1e-12), is_closed([np.ones(8)], 1.0, 1.0)
    (True, False)
    """
    arrays = list(own)
    if not arrays or not received or not math.isfinite(received):
        return False
    if norm:
        return variance == 0
    if not holds_others:
        return variance <= ALMOST_CLOSED**2 * received
    vectors = (one.reshape(-1) for one in arrays if sum(size > 1 for size in one.shape) <= 1 and one.size)
    return any(0 < abs(float(one[0])) <= ALMOST_CLOSED and bool((one == one[0]).all()) for one in vectors)


def differentiated(call: Measured, values: Array, gradients: Array) -> Measured:
    """A call with what the gradients say.

    Parameters
    ----------
    call : Measured
        What :func:`measured` gave of the values.
    values, gradients : numpy.ndarray
        The layer's output and its gradient, of one shape, as in :func:`measured`.

    Examples
    --------
    >>> import numpy as np
    >>> values, gradients = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.5, 0.0], [-0.5, 0.0]])
    >>> differentiated(measured("up", values), values, gradients).gradient_variance
    0.125
    """
    with np.errstate(all="ignore"):
        unchanged = (gradients == 0).all(axis=0)
        shut = [float((unchanged & signs.all(axis=0)).mean()) for signs in (values <= 0, values >= 0)]
        dead = max(shut) if len(gradients) >= ENOUGH else None
        response = float(np.square(values * gradients).sum())
        return replace(call, gradient_variance=float(gradients.var()), response=response, dead=dead)


def numbered(calls: Iterable[Measured]) -> list[Measured]:
    """The calls, with numbers in the names of those of one layer after its first.

    Parameters
    ----------
    calls : iterable of Measured
        In the order in which the layers ran.

    Examples
    --------
    >>> import numpy as np
    >>> call = measured("up", np.ones((3, 2)))
    >>> [one.name for one in numbered([call, call])]
    ['up', 'up, call 2']
    """
    count: dict[str, int] = {}
    found = []
    for call in calls:
        count[call.name] = number = count.get(call.name, 0) + 1
        found.append(call if number == 1 else replace(call, name=f"{call.name}, call {number}"))
    return found


def noise(shape: tuple[int, ...], number: int) -> Array:
    """Standard normal float32: what the output of this number is multiplied by, before it is summed and differentiated.

    The same every time.

    Parameters
    ----------
    shape : tuple of int
        The output's.
    number : int
        Which output of the model it is.

    Examples
    --------
    >>> noise((2, 3), 0).shape, bool((noise((2, 3), 0) == noise((2, 3), 0)).all())
    ((2, 3), True)
    """
    return fill(np.empty(shape, np.float32), Normal(), AUDIT_KEY.fold_in(number))


def shares(sizes: Iterable[float]) -> tuple[list[float], float]:
    """What several outputs are multiplied by before they are differentiated together, and the response of the sum.

    Parameters
    ----------
    sizes : iterable of float
        The sum of the squares of each output times its :func:`noise`. One alone is taken as it is; several get a like
        share.

    Examples
    --------
    >>> shares([4.0]), shares([4.0, 16.0])
    (([1.0], 4.0), ([0.5, 0.25], 2.0))
    """
    given = list(sizes)
    if len(given) == 1:
        return [1.0], given[0]
    usual = [0 < size < math.inf for size in given]
    factors = [1 / math.sqrt(size) if one else 1.0 for size, one in zip(given, usual, strict=True)]
    return factors, math.fsum(1.0 if one else size for size, one in zip(given, usual, strict=True))


def check_finite(batch: Iterable[Array]) -> None:
    """Refuses a batch with floating-point numbers that are not finite.

    Parameters
    ----------
    batch : iterable of numpy.ndarray
        Arrays of other dtypes pass.

    Raises
    ------
    ValueError
        If one is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> check_finite([np.ones(3)])
    >>> check_finite([np.array([1.0, np.nan])])
    Traceback (most recent call last):
        ...
    ValueError: the batch is not finite
    """
    for array in batch:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError("the batch is not finite")


@contextmanager
def called(model: str) -> Iterator[None]:
    """Where a model of this name is called.

    Parameters
    ----------
    model : str
        The model's name, for messages.

    Raises
    ------
    ValueError
        If it raises anything, naming that; an :class:`Unscalable` passes as it is.

    Examples
    --------
    >>> try:
    ...     with called("Net"):
    ...         raise RuntimeError("shapes differ")
    ... except ValueError as error:
    ...     print(error)
    the batch does not fit Net, which raised RuntimeError: shapes differ
    """
    try:
        yield
    except Unscalable:
        raise
    except Exception as problem:
        raise ValueError(
            f"the batch does not fit {model}, which raised {type(problem).__name__}: {problem}"
        ) from problem


# Scaling by data


class Unscalable(ValueError):
    """A layer whose output cannot be brought to unit variance; the batch fits.

    Examples
    --------
    >>> raise Unscalable("up: its output is 0 for the whole batch")
    Traceback (most recent call last):
        ...
    fastinit.audits.measuring.Unscalable: up: its output is 0 for the whole batch
    """


@dataclass(frozen=True, slots=True)
class UnitVariance:
    """When a layer's output is of unit variance, and what its weight is to be multiplied by until it is.

    Parameters
    ----------
    tolerance : float, > 0
        By how much a variance may differ from 1.
    rounds : int, >= 1
        How often a weight is scaled at most.

    Raises
    ------
    ValueError
        If `tolerance` or `rounds` is out of range.

    Examples
    --------
    >>> wanted = UnitVariance(tolerance=0.01, rounds=10)
    >>> wanted.factor("up", variance=4.0, attempt=0), wanted.factor("up", variance=1.005, attempt=1)
    (0.5, None)
    """

    tolerance: float
    rounds: int

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be above 0, got {self.tolerance}")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")

    def factor(self, name: str, variance: float, attempt: int) -> float | None:
        """What to multiply the weight by after so many times before; None where the variance is near enough to 1.

        Raises
        ------
        Unscalable
            If there is no variance, none that is finite, or it has been tried often enough.
        """
        if abs(variance - 1) <= self.tolerance:
            return None
        if attempt == self.rounds or not variance > 0 or not math.isfinite(variance):
            raise Unscalable(f"{name!r} cannot be scaled: its output has the variance {variance:.3g}")
        return float(variance**-0.5)
