"""Measurements of layers that ran, from arrays that an adapter makes of its framework's tensors.

An adapter runs a model once and passes each layer's output, and the gradient with respect to it, as matrices of shape
(values per unit, units). :func:`measured` and :func:`differentiated` turn them into a :class:`Measured`.
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
"""Key of an audit's random numbers, so that audits are repeatable."""

# Upper limit of the scale of an almost closed gate; it reduces a branch's variance to less than the square.
ALMOST_CLOSED: Final = 0.03
# Minimum numbers of rows and columns for rows of equal size to be no coincidence.
NORMED: Final = (2, 8)
# Minimum number of values per unit to call it dead.
ENOUGH: Final = 8


@dataclass(frozen=True, slots=True)
class Measured:
    """One call of a layer.

    Attributes
    ----------
    name : str
        Name of the layer.
    width : int
        Number of units: the size of the output's last axis, or of its channel axis.
    variance : float
        The output's variance.
    gradient_variance : float, optional
        Variance of the gradient with respect to the output; None if not measured.
    response : float, optional
        First-order change (as a variance) of the differentiated quantity when each element of the output is multiplied
        by 1 plus independent noise of variance 1: the sum of squares of element times gradient. Unlike the gradients,
        it depends neither on widths and positions, nor on scales that a norm removes.
    dead : float, optional
        Fraction of units, in [0, 1], whose gradient is 0 and whose values all have the same sign for the whole batch,
        as in a rectifier that never opens. Values of both signs without a gradient have another cause, such as a
        dropped branch.
    identical : bool
        Whether all units compute the same values, other than 0.
    closed : bool
        Whether almost nothing passes at first: the weight is 0 everywhere, or the layer scales a branch by almost 0.
    weight : Parameter, optional
        The weight of a linear map. Linear maps form the chain.
    norm : bool
        Whether it is a norm, which rescales its input.
    received : float, optional
        Variance of the input; None if unknown.
    starts : bool
        Whether its input comes from the model's inputs only, not from earlier layers.
    reads : tuple of int, optional
        Positions of the calls whose outputs are its inputs, unchanged by other layers, in order. A layer after a
        residual sum reads a call before the branch, and the branch's last call. None if unknown.

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
    """Measures one call of a layer from its output, and returns a Measured.

    Parameters
    ----------
    name : str
        Name of the layer.
    values : array of float64
        The output, of shape (values per unit, units).
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
    """Whether all rows have the same root mean square, as after a custom norm.

    Parameters
    ----------
    values : array of float64
        The output, of shape (values per unit, units).

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
    """Whether a layer without its own linear map lets almost nothing of a branch pass.

    Parameters
    ----------
    own : iterable of array
        The layer's own trainable parameters.
    received, variance : float
        Variances of its input and output.
    norm : bool
        Whether it is a norm. A norm is closed if its output is zero.
    holds_others : bool
        Whether it contains other layers. It is then closed if one of its vectors is almost 0 everywhere, since that
        vector scales a branch.

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
    """A call with the measurements of its gradients added.

    Parameters
    ----------
    call : Measured
        Result of :func:`measured` for the values.
    values, gradients : numpy.ndarray
        The layer's output and its gradient, both of the shape given in :func:`measured`.

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
    """The calls, with a number in the name of each repeated call of a layer.

    Parameters
    ----------
    calls : iterable of Measured
        The calls, in the order of execution.

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
    """Standard normal float32 noise. A model's output is multiplied by it before it is summed and differentiated.

    The noise is the same every time.

    Parameters
    ----------
    shape : tuple of int
        Shape of the output.
    number : int
        Number of the output in the model.

    Examples
    --------
    >>> noise((2, 3), 0).shape, bool((noise((2, 3), 0) == noise((2, 3), 0)).all())
    ((2, 3), True)
    """
    return fill(np.empty(shape, np.float32), Normal(), AUDIT_KEY.fold_in(number))


def shares(sizes: Iterable[float]) -> tuple[list[float], float]:
    """The factors of several outputs that are differentiated together, and the response of their sum.

    Parameters
    ----------
    sizes : iterable of float
        For each output, the sum of squares of the output times its :func:`noise`. A single output keeps factor 1;
        several outputs get equal shares.

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
    """Raises ValueError if a batch has floating-point numbers that are not finite.

    Parameters
    ----------
    batch : iterable of numpy.ndarray
        Arrays of other dtypes pass.

    Raises
    ------
    ValueError
        If a number is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> check_finite([np.ones(3)])
    >>> check_finite([np.array([1.0, np.nan])])
    Traceback (most recent call last):
        ...
    ValueError: expected a finite batch, got NaN or infinity
    """
    for array in batch:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError("expected a finite batch, got NaN or infinity")


@contextmanager
def called(model: str) -> Iterator[None]:
    """Context in which a model is called.

    Parameters
    ----------
    model : str
        The model's name, for messages.

    Raises
    ------
    ValueError
        If the model raises anything; the message has the original error. An :class:`Unscalable` passes unchanged.

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
    """Raised if a layer's output cannot be scaled to unit variance. The batch itself fits the model.

    Examples
    --------
    >>> raise Unscalable("up: its output is 0 for the whole batch")
    Traceback (most recent call last):
        ...
    fastinit.audits.measuring.Unscalable: up: its output is 0 for the whole batch
    """


@dataclass(frozen=True, slots=True)
class UnitVariance:
    """Iteration that scales a layer's weight until its output has unit variance.

    Parameters
    ----------
    tolerance : float, > 0
        Allowed difference of the variance from 1.
    rounds : int, >= 1
        Maximum number of scalings of a weight.

    Raises
    ------
    ValueError
        If `tolerance` or `rounds` is out of range.
    Unscalable
        From :meth:`factor`, if the variance cannot be brought to 1.

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
        """Factor of the weight after `attempt` earlier scalings; None if the variance is close enough to 1.

        Raises
        ------
        Unscalable
            If the variance is 0 or not finite, or `rounds` scalings did not suffice.
        """
        if abs(variance - 1) <= self.tolerance:
            return None
        if attempt == self.rounds or not variance > 0 or not math.isfinite(variance):
            raise Unscalable(f"{name!r} cannot be scaled: its output has the variance {variance:.3g}")
        return float(variance**-0.5)
