"""A recommended initializer for an activation and layer, with the reason and the source.

>>> advice = recommend("relu")
>>> advice.initializer == he_normal(), advice.reason
(True, 'half of the signal is cut off, so the variance is doubled: gain 1.414')
>>> recommend("gelu").initializer.scale == gain("gelu") ** 2
True
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, SupportsIndex, TypedDict, Unpack

from fastinit.advice.activations import PRELU_SLOPE, Activation, activation_named
from fastinit.advice.gains import gain
from fastinit.checks import at_least, one_of
from fastinit.exact import in_stream_environment
from fastinit.initializers import Initializer, Normal, VarianceScaling
from fastinit.layouts import Axes
from fastinit.presets import glorot_uniform, he_normal, lecun_normal
from fastinit.structured import Orthogonal

__all__ = ["LAYERS", "RECTIFIERS", "SATURATING", "SELF_NORMALIZING", "Recommendation", "recommend"]

RECTIFIERS: Final = frozenset({"relu", "leaky_relu", "prelu", "relu6"})
SLOPES: Final = {"leaky_relu": 0.01, "prelu": PRELU_SLOPE}
# Bounded, and linear around 0: the case for which Glorot and Bengio derived their scheme.
SATURATING: Final = frozenset({"tanh", "sigmoid", "softsign", "hardtanh", "hardsigmoid"})
SELF_NORMALIZING: Final = frozenset({"identity", "selu"})
LAYERS: Final = ("dense", "residual", "recurrent", "embedding")

GLOROT = 'X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010'
HE = 'K. He et al., "Delving deep into rectifiers", 2015'
LECUN = 'Y. LeCun et al., "Efficient BackProp", 1998'
KLAMBAUER = 'G. Klambauer et al., "Self-normalizing neural networks", 2017'
SAXE = 'A. M. Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks", 2013'
RADFORD = 'A. Radford et al., "Language models are unsupervised multitask learners", 2019'


class Weight(TypedDict, total=False):
    """Description of a weight for type checkers; see :func:`fastinit.fans`."""

    layout: str | Axes
    groups: int
    transposed: bool
    stride: int | tuple[int, ...]
    blocks: int


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A recommended initializer, with the reason and the source.

    Attributes
    ----------
    initializer : Initializer
        The recommended initializer.
    gain : float
        Factor of the standard deviation 1 / sqrt(fan), or of an orthogonal matrix.
    reason, source : str
        The reason, and the publication.

    Examples
    --------
    >>> import fastinit
    >>> advice = fastinit.recommend("relu", layout="OI")
    >>> advice.initializer == fastinit.he_normal(layout="OI")
    True
    >>> print(advice.source)
    K. He et al., "Delving deep into rectifiers", 2015
    """

    initializer: Initializer
    gain: float
    reason: str
    source: str

    def __str__(self) -> str:
        return f"{self.initializer!r}\n  {self.reason}\n  {self.source}"


@in_stream_environment
def recommend(
    activation: str | Activation | None,
    layer: str = "dense",
    *,
    negative_slope: float | None = None,
    depth: SupportsIndex | None = None,
    **weight: Unpack[Weight],
) -> Recommendation:
    """The recommended initializer for the weights of a layer, from the activation that follows it.

    Parameters
    ----------
    activation : str, callable or None
        The activation after the layer: a name from :func:`fastinit.gain`, or a function of an array. None if there is
        none.
    layer : {"dense", "residual", "recurrent", "embedding"}
        "dense" is any linear map, including convolutions. "residual" is the last map of a residual branch. "recurrent"
        is the hidden-to-hidden weight of a recurrent layer.
    negative_slope : float, optional
        Slope of a leaky rectifier; by default 0.01 for leaky_relu, 0.25 for prelu, 0 for the others.
    depth : int, >= 1
        Number of residual branches, for a residual layer.
    **weight
        `layout`, `groups`, `transposed`, `stride` and `blocks` of the weight; see :func:`fastinit.fans`.

    Raises
    ------
    TypeError, ValueError
        If the activation is unknown (the error suggests similar names) or gives NaN, the layer is unknown, or depth and
        a residual layer are not given together.

    Examples
    --------
    >>> import fastinit
    >>> fastinit.recommend("relu").initializer == fastinit.he_normal()
    True
    >>> fastinit.recommend("gelu", "residual", depth=24, layout="OI").initializer.distribution
    'normal'
    """
    layer = one_of("layer", layer, LAYERS)
    if (depth is None) == (layer == "residual"):
        raise ValueError(
            f"depth is required for a residual layer and for no other, got depth={depth} for layer={layer!r}"
        )
    if layer == "recurrent":
        own = Orthogonal(column_axis=0 if str(weight.get("layout", "")).startswith("O") else -1)
        return Recommendation(own, 1.0, "an orthogonal map keeps the length of the state at every step", SAXE)
    if layer == "embedding":
        return Recommendation(Normal(), 1.0, "a row is picked, not summed over: its elements have unit variance", LECUN)
    found = _of_activation(activation, negative_slope, weight)
    if depth is None:
        return found
    branches = at_least(1, "depth", depth)
    assert isinstance(found.initializer, VarianceScaling)
    return Recommendation(
        replace(found.initializer, scale=found.initializer.scale / branches),
        found.gain / math.sqrt(branches),
        f"{found.reason}; and {branches} branches are added up, so each has 1/{branches} of the variance",
        RADFORD,
    )


def _of_activation(activation: str | Activation | None, negative_slope: float | None, weight: Weight) -> Recommendation:
    name = "identity" if activation is None else activation_named(activation)[0]
    if not isinstance(activation, (str, type(None))):
        name = ""  # a function: its own name does not count
    if name in SATURATING:
        why = (
            f"{name} is linear around 0: fan_in keeps the signal, fan_out the gradients, and their mean is a compromise"
        )
        return Recommendation(glorot_uniform(**weight), 1.0, why, GLOROT)
    if name in RECTIFIERS:
        slope = SLOPES.get(name, 0.0) if negative_slope is None else negative_slope
        own = he_normal(negative_slope=slope, **weight)
        lost = "half of the signal is cut off, so the variance is doubled"
        if slope:
            lost = f"half of the signal is cut to {slope:g} of its size"
        return Recommendation(own, math.sqrt(own.scale), f"{lost}: gain {math.sqrt(own.scale):.4g}", HE)
    if name == "selu":
        return Recommendation(lecun_normal(**weight), 1.0, "selu brings its input back to unit variance", KLAMBAUER)
    if name in SELF_NORMALIZING:
        return Recommendation(lecun_normal(**weight), 1.0, "nothing is lost, so the variance stays 1 / fan_in", LECUN)
    assert activation is not None
    own_gain = gain(activation)
    scale = own_gain * own_gain
    return Recommendation(
        VarianceScaling(scale, "fan_in", "normal", **weight),
        own_gain,
        f"{name or 'the function'} of a standard normal has a mean square of {1.0 / scale:.4g}, which gain "
        f"{own_gain:.4g} compensates",
        HE,
    )
