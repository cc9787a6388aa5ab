"""Checks of a model's initialization and signal (:func:`audit`), and scaling by data (:func:`lsuv`).

Stand-ins for the layers' ``call`` measure them while the model runs once. Every architecture works, and the model stays
unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import keras
import numpy as np

from fastinit import Audit, Entry, Record
from fastinit.adapters.keras.internals import (
    CONVOLUTION,
    DEPTHWISE,
    SEPARABLE,
    TRANSPOSED,
    own_variables,
    replaced,
)
from fastinit.adapters.keras.layers import Place, parameters, with_programs
from fastinit.adapters.keras.measuring import array_of, calls, check_batch, hooked, is_floating, left_as_it_was, run
from fastinit.adapters.keras.verifying import compared
from fastinit.extending import Held, UnitVariance, in_stream_environment, judge_chain, judge_parameters, read_record

__all__ = ["audit", "lsuv"]

# Layers whose output, before an activation, is the kernel times the input, plus a bias.
SCALED: Final = {"Dense", "EinsumDense", CONVOLUTION, DEPTHWISE, SEPARABLE, TRANSPOSED}


def audit(model: Any, batch: Any = None, *, record: Record | str | os.PathLike[str] | None = None) -> Audit:
    """Checks a model's initialization.

    For the variables, it finds NaN, unwritten values, constant or identical units, copies, and scales that match no
    scheme, or match one with wrong fans; see :mod:`fastinit.audits`. A variable that matches its layer's own
    initializer, as found by :func:`~fastinit.adapters.keras.initialize`, is never a finding: a kernel or a norm that
    begins at zero, or the author's own scheme. With a batch, the model runs once in training mode, so that norms use
    the batch, and every layer is measured forward and backward, on every backend. The verdict names the layer where
    the signal breaks and the rule that would fix it. The model stays unchanged.

    Parameters
    ----------
    model : keras.Model or keras.Layer
        A model built by an Input, ``build()`` or a call. Functional, Sequential or subclassed.
    batch : array or tensor, or another argument of the model, optional
        The argument of a call: real inputs, or standard normal ones.
    record : Record, str or path, optional
        Record of the model's initialization. Then values are compared with it, and scales with its stds.

    Returns
    -------
    Audit

    Raises
    ------
    TypeError, ValueError
        For an object that is not a model, or a model without variables; a batch that is not finite or does not fit the
        model; and a record that lacks a variable.

    Notes
    -----
    A layer is measured by the first floating tensor of its output, after its own activation
    (``Dense(activation="relu")``). A recurrent layer is measured as one, without its cells. Layers inside a loop or a
    map of the backend are not measured. The gradients are those of the sum of the model's outputs times standard normal
    noise, the same every time. Every call of a shared layer is measured.

    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, name="one")], name="two")
    >>> _ = model.layers[0].kernel.assign(np.ones((64, 64)))
    >>> [(finding.name, finding.kind) for finding in audit(model).findings]
    [('two/one/kernel', 'constant')]
    """
    places = with_programs(model, parameters(model))
    given = None if record is None else read_record(record)
    entries = {} if given is None else {entry.name: entry for entry in given}
    held = (_held(place, entries.get(place.parameter.name)) for place in places if is_floating(place.variable))
    if batch is not None:
        check_batch(batch)
    if batch is None:
        findings, notes = judge_parameters(held, given)
        return Audit(findings, notes=notes)
    ran, output = calls(model, places, batch)
    findings, notes = judge_parameters(held, given, ran)
    verdict, reason, more = judge_chain(ran, output)
    return Audit((*findings, *more), tuple(ran), verdict, reason, notes)


def _held(place: Place, entry: Entry | None) -> Held:
    variable = place.variable
    dtype = keras.backend.standardize_dtype(variable.dtype)
    recorded = None
    if entry is not None and entry.shape == place.parameter.shape:
        recorded = compared(place, entry)
    return Held(place.parameter, array_of(variable.value), dtype, trainable=variable.trainable, recorded=recorded)


# Scaling by data


@in_stream_environment
def lsuv(model: Any, batch: Any, *, tolerance: float = 0.02, rounds: int = 10) -> dict[str, float]:
    """Scales the kernels of a model, layer by layer, until each layer's output on a batch has unit variance.

    Layer-sequential unit variance divides each dense or convolutional layer's kernel by the standard deviation of the
    layer's output before its activation, in the order of execution, so that the next layer sees its final input. Biases
    and all other state stay. The model runs once, as in training.

    Parameters
    ----------
    model : keras.Model or keras.Layer
        A built model. Initialize it first: the paper uses orthogonal matrices, and all independent draws work.
    batch : array or tensor, or another argument of the model
        The argument of a call. A typical batch gives good scales.
    tolerance : float, > 0
        Maximum deviation of a variance from 1.
    rounds : int, >= 1
        Maximum number of scalings per layer. One is enough without a bias.

    Returns
    -------
    dict of str to float
        The factor of each kernel, in the order of execution.

    Raises
    ------
    TypeError, ValueError
        As in :func:`audit` for a model and a batch. Also for a layer whose output variance is zero, not finite, or does
        not approach 1, as with a bias of larger variance. Then nothing has been written.

    Notes
    -----
    Recurrent layers, whose outputs their kernels do not scale, and layers that the batch does not reach stay unchanged.
    A layer with several calls is scaled at its first call.

    D. Mishkin and J. Matas, "All you need is a good init", ICLR 2016, algorithm 1.

    Examples
    --------
    >>> import keras, numpy as np
    >>> from fastinit.adapters.keras import audit, lsuv
    >>> dense = keras.layers.Dense
    >>> model = keras.Sequential([keras.Input((64,)), dense(64, activation="relu"), dense(8)], name="net")
    >>> batch = np.random.default_rng(0).standard_normal((256, 64)).astype("float32")
    >>> factors = lsuv(model, batch)
    >>> len(factors), audit(model, batch).verdict
    (2, 'healthy')
    """
    unit = UnitVariance(tolerance, rounds)
    places = {id(place.variable): place for place in parameters(model)}
    check_batch(batch)
    factors: dict[str, float] = {}

    def stand_in(layer: Any, place: Place) -> Callable[..., Any]:
        call, name, variable = layer.call, place.parameter.name, place.variable

        def scaled(*given: Any, **named: Any) -> Any:
            if name in factors:
                return call(*given, **named)
            factors[name] = 1.0
            for attempt in range(rounds + 1):
                with replaced(layer, "activation", None):
                    variance = float(array_of(call(*given, **named)).astype(np.float64).var())
                factor = unit.factor(name, variance, attempt)
                if factor is None:
                    return call(*given, **named)
                factors[name] *= factor
                variable.assign(variable.value * factor)  # in the scope, not yet in the model
            raise AssertionError

        return scaled

    stand_ins = {}
    for layer in hooked(model):
        for variable in own_variables(layer):
            place = places[id(variable)]
            if set(place.parameter.types) & SCALED and place.parameter.role in ("kernel", "pointwise_kernel"):
                stand_ins[layer] = stand_in(layer, place)
    with left_as_it_was() as scope:
        run(model, batch, stand_ins)
    for place in places.values():
        if place.parameter.name in factors:
            value = scope.get_current_value(place.variable)
            if value is not None:
                place.variable.assign(value)
    return factors
