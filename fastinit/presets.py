"""The named schemes: a table of presets of :class:`~fastinit.initializers.VarianceScaling`.

Every row is also a function, under its name and its aliases (`he_normal`, `kaiming_normal`). The function returns the
initializer of a weight. Three more functions are schemes without fans.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, Protocol

from fastinit.checks import finite_number
from fastinit.exact import in_stream_environment
from fastinit.initializers import Normal, Uniform, VarianceScaling
from fastinit.layouts import Axes
from fastinit.structured import Orthogonal

__all__ = [
    "ALIASES",
    "PRESETS",
    "Preset",
    "fan_in_normal",
    "glorot_normal",
    "glorot_truncated_normal",
    "glorot_uniform",
    "he_normal",
    "he_truncated_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_truncated_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_truncated_normal",
    "lecun_uniform",
    "naive_normal",
    "naive_uniform",
    "orthogonal",
    "torch_default_uniform",
    "xavier_normal",
    "xavier_truncated_normal",
    "xavier_uniform",
]


class Preset(NamedTuple):
    """One row of the table: a named preset of :class:`VarianceScaling`. Calling it returns the initializer.

    Parameters
    ----------
    name : str
        Key of the row in `PRESETS`, and the name of its function.
    scale, mode, distribution
        As in :class:`VarianceScaling`: Var(W) = scale / fan.
    source : str
        The publication.
    takes_slope : bool
        Whether `negative_slope` divides the scale by 1 + negative_slope^2, for leaky rectifiers.

    Raises
    ------
    TypeError, ValueError
        When called with a `negative_slope` that the row does not take, or with arguments out of range.

    Examples
    --------
    >>> import fastinit
    >>> row = fastinit.PRESETS["he_normal"]
    >>> row.scale, row.mode, row.distribution
    (2.0, 'fan_in', 'normal')
    >>> row(layout="OI") == fastinit.he_normal(layout="OI")
    True
    """

    name: str
    scale: float
    mode: str
    distribution: str
    source: str
    takes_slope: bool = False

    @in_stream_environment
    def __call__(
        self,
        *,
        negative_slope: float = 0.0,
        layout: str | Axes = "...IO",
        groups: int = 1,
        transposed: bool = False,
        stride: int | tuple[int, ...] = 1,
        blocks: int = 1,
    ) -> VarianceScaling:
        """The initializer of a weight with this `layout`, `groups`, `transposed`, `stride` and `blocks`.

        Raises
        ------
        TypeError
            If the row does not take `negative_slope`, or an argument has the wrong type.
        ValueError
            If an argument is out of range.
        """
        scale = self.scale
        if self.takes_slope:
            slope = finite_number(negative_slope, "negative_slope")
            square = slope * slope
            if not math.isfinite(square):
                raise ValueError(f"the square of negative_slope must be finite, got {slope}")
            scale = scale / (1.0 + square)
        elif negative_slope:
            raise TypeError(f"{self.name} does not take negative_slope")
        return VarianceScaling(scale, self.mode, self.distribution, layout, groups, transposed, stride, blocks)


GLOROT, HE, LECUN = "Glorot and Bengio 2010", "He et al. 2015", "LeCun et al. 1998, Efficient BackProp"
TORCH = "torch's layers: U(+-1/sqrt(fan_in)), spelled kaiming_uniform_(a=sqrt(5))"

# glorot_normal, he_normal and lecun_normal are untruncated, as in torch. Keras and JAX give these names to the
# truncated normals.
PRESETS: Final = {
    row.name: row
    for row in (
        Preset("glorot_uniform", 1.0, "fan_avg", "uniform", GLOROT),
        Preset("glorot_normal", 1.0, "fan_avg", "normal", GLOROT),
        Preset("glorot_truncated_normal", 1.0, "fan_avg", "truncated_normal", GLOROT),
        Preset("he_uniform", 2.0, "fan_in", "uniform", HE, takes_slope=True),
        Preset("he_normal", 2.0, "fan_in", "normal", HE, takes_slope=True),
        Preset("he_truncated_normal", 2.0, "fan_in", "truncated_normal", HE, takes_slope=True),
        Preset("lecun_uniform", 1.0, "fan_in", "uniform", LECUN),
        Preset("lecun_normal", 1.0, "fan_in", "normal", LECUN),
        Preset("lecun_truncated_normal", 1.0, "fan_in", "truncated_normal", LECUN),
        Preset("torch_default_uniform", 1.0 / 3.0, "fan_in", "uniform", TORCH),
    )
}
"""The named schemes by name. Each is callable."""
ALIASES: Final = {
    **{name.replace("glorot", "xavier"): name for name in PRESETS if name.startswith("glorot")},
    **{name.replace("he_", "kaiming_"): name for name in PRESETS if name.startswith("he_")},
    "fan_in_normal": "lecun_normal",  # N(0, 1/n_in), as introductions write it
}


# The functions of the rows


class Scheme(Protocol):
    """Type of a row's function."""

    def __call__(
        self,
        *,
        layout: str | Axes = "...IO",
        groups: int = 1,
        transposed: bool = False,
        stride: int | tuple[int, ...] = 1,
        blocks: int = 1,
    ) -> VarianceScaling: ...


class LeakyScheme(Protocol):
    """Type of the function of a row that takes the slope of a leaky rectifier."""

    def __call__(
        self,
        *,
        negative_slope: float = 0.0,
        layout: str | Axes = "...IO",
        groups: int = 1,
        transposed: bool = False,
        stride: int | tuple[int, ...] = 1,
        blocks: int = 1,
    ) -> VarianceScaling: ...


_DOCUMENTATION = """\
{title}: Var(W) = {variance}.

{law}{alias}

Parameters
----------{slope}
layout : str or Axes
    Order of the axes: "...IO" for Keras and JAX weights (in, out), "OI..." for torch weights (out, in).
groups, transposed, stride, blocks
    Grouped, transposed and packed weights; see :func:`fastinit.fans`.

Returns
-------
VarianceScaling
    The initializer, for :func:`fastinit.fill`.

Raises
------
TypeError, ValueError
    If an argument has the wrong type or is out of range. When filling, if the shape does not fit the layout.

Notes
-----
{paper}.

Examples
--------
>>> import numpy as np, fastinit
>>> initializer = fastinit.{name}(layout="OI")  # a torch weight (out, in)
>>> round(fastinit.expected_std(initializer, (512, 256)), 4)
{example}
>>> weight = fastinit.fill(np.empty((512, 256), np.float32), initializer, fastinit.Key(0))
"""
_LAWS = {
    "uniform": "Values are uniform on (-limit, limit), limit = sqrt(3 Var(W)).",
    "normal": "The normal is untruncated, as in torch. In Keras and JAX the same name is the truncated normal.",
    "truncated_normal": "The normal is truncated at +-2 standard deviations and widened so that Var(W) holds after "
    "truncation.\nKeras and JAX call this scheme `normal`.",
}
_SLOPE = """
negative_slope : float
    Slope of the leaky rectifier for negative inputs; 0 for ReLU."""
_FORMULAS = {
    GLOROT: "2 / (fan_in + fan_out)",
    HE: "2 / ((1 + negative_slope^2) fan_in)",
    LECUN: "1 / fan_in",
    TORCH: "1 / (3 fan_in)",
}
_PAPERS = {
    GLOROT: "X. Glorot and Y. Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010",
    HE: "K. He et al., Delving deep into rectifiers, 2015",
    LECUN: "Y. LeCun et al., Efficient BackProp, 1998",
    TORCH: "U(+-1/sqrt(fan_in)), spelled kaiming_uniform_(a=sqrt(5)) in torch",
}


def documentation(name: str, row: Preset) -> str:
    """Docstring of the function `name` of a row; `name` may be an alias."""
    family = row.source.partition(",")[0].partition(":")[0]
    return _DOCUMENTATION.format(
        title=f"{family}, {row.distribution.replace('_', ' ')}",
        variance=_FORMULAS[row.source],
        law=_LAWS[row.distribution],
        slope=_SLOPE if row.takes_slope else "",
        alias="" if name == row.name else f"\n\nAnother name of :func:`{row.name}`.",
        paper=_PAPERS[row.source],
        name=name,
        example=round(math.sqrt(row.scale / {"fan_in": 256, "fan_avg": 384}[row.mode]), 4),
    )


def _scheme(name: str) -> Scheme:
    row = PRESETS[ALIASES.get(name, name)]

    def scheme(
        *,
        layout: str | Axes = "...IO",
        groups: int = 1,
        transposed: bool = False,
        stride: int | tuple[int, ...] = 1,
        blocks: int = 1,
    ) -> VarianceScaling:
        return row(layout=layout, groups=groups, transposed=transposed, stride=stride, blocks=blocks)

    scheme.__name__ = scheme.__qualname__ = name
    scheme.__doc__ = documentation(name, row)
    return scheme


def _leaky_scheme(name: str) -> LeakyScheme:
    row = PRESETS[ALIASES.get(name, name)]

    def scheme(
        *,
        negative_slope: float = 0.0,
        layout: str | Axes = "...IO",
        groups: int = 1,
        transposed: bool = False,
        stride: int | tuple[int, ...] = 1,
        blocks: int = 1,
    ) -> VarianceScaling:
        return row(
            negative_slope=negative_slope,
            layout=layout,
            groups=groups,
            transposed=transposed,
            stride=stride,
            blocks=blocks,
        )

    scheme.__name__ = scheme.__qualname__ = name
    scheme.__doc__ = documentation(name, row)
    return scheme


glorot_uniform = _scheme("glorot_uniform")
glorot_normal = _scheme("glorot_normal")
glorot_truncated_normal = _scheme("glorot_truncated_normal")
xavier_uniform = _scheme("xavier_uniform")
xavier_normal = _scheme("xavier_normal")
xavier_truncated_normal = _scheme("xavier_truncated_normal")
he_uniform = _leaky_scheme("he_uniform")
he_normal = _leaky_scheme("he_normal")
he_truncated_normal = _leaky_scheme("he_truncated_normal")
kaiming_uniform = _leaky_scheme("kaiming_uniform")
kaiming_normal = _leaky_scheme("kaiming_normal")
kaiming_truncated_normal = _leaky_scheme("kaiming_truncated_normal")
lecun_uniform = _scheme("lecun_uniform")
lecun_normal = _scheme("lecun_normal")
lecun_truncated_normal = _scheme("lecun_truncated_normal")
fan_in_normal = _scheme("fan_in_normal")
torch_default_uniform = _scheme("torch_default_uniform")


# Schemes without fans


def naive_uniform() -> Uniform:
    """U(-0.1, 0.1), independent of the fans. Common before 2010; textbooks show it as a bad example.

    Examples
    --------
    >>> import fastinit
    >>> fastinit.naive_uniform()
    Uniform(low=-0.1, high=0.1)
    """
    return Uniform(-0.1, 0.1)


def naive_normal() -> Normal:
    """N(0, 0.1^2), independent of the fans: a standard deviation of 0.1.

    Examples
    --------
    >>> import fastinit
    >>> fastinit.naive_normal()
    Normal(mean=0.0, std=0.1)
    """
    return Normal(0.0, 0.1)


def orthogonal(gain: float = 1.0, column_axis: int = -1) -> Orthogonal:
    """Saxe et al. 2013: a random matrix with orthonormal rows or columns (whichever are fewer), times `gain`.

    Parameters
    ----------
    gain : float
        Multiplies the matrix; finite.
    column_axis : int
        Axis of the matrix's columns: -1 for Keras and JAX weights (..., out), 0 for torch weights (out, ...).

    Returns
    -------
    Orthogonal
        The initializer, for :func:`fastinit.fill`.

    Raises
    ------
    TypeError, ValueError
        If `gain` is not a finite number, or `column_axis` is not an integer. When filling, if the shape has fewer than
        2 axes or lacks the column axis.

    Notes
    -----
    A. M. Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks", 2013.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> weight = fastinit.fill(np.empty((8, 4)), fastinit.orthogonal(gain=2.0), fastinit.Key(0))
    >>> bool(np.allclose(weight.T @ weight, 4 * np.eye(4)))
    True
    """
    return Orthogonal(gain, column_axis)
