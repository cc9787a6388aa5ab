"""The named schemes: rows of one table, each a point of :class:`~fastinit.initializers.VarianceScaling`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final, NamedTuple

from fastinit.checks import finite_number
from fastinit.exact import in_stream_environment
from fastinit.initializers import Normal, Uniform, VarianceScaling

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
    "torch_default_uniform",
    "xavier_normal",
    "xavier_truncated_normal",
    "xavier_uniform",
]


class Preset(NamedTuple):
    """One row of the table: a named point of :class:`VarianceScaling`. Calling it gives the initializer."""

    name: str
    scale: float
    mode: str
    distribution: str
    source: str
    takes_slope: bool = False

    @in_stream_environment
    def __call__(self, *, negative_slope: float = 0.0, **weight: Any) -> VarianceScaling:
        """The initializer, for a weight described by `layout`, `groups`, `transposed`, `stride` and `blocks`.

        The rows of He et al. divide their scale by 1 + negative_slope^2, for leaky rectifiers.
        """
        scale = self.scale
        if self.takes_slope:
            scale = scale / (1.0 + finite_number(negative_slope, "negative_slope") ** 2)
        elif negative_slope:
            raise TypeError(f"{self.name} takes no negative_slope")
        unknown = sorted(set(weight) - WEIGHT_ARGUMENTS)
        if unknown:
            raise TypeError(f"{self.name} takes {', '.join(sorted(WEIGHT_ARGUMENTS))}; got {', '.join(unknown)}")
        return VarianceScaling(scale, self.mode, self.distribution, **weight)


WEIGHT_ARGUMENTS: Final = frozenset(field.name for field in fields(VarianceScaling)[3:])
GLOROT, HE, LECUN = "Glorot and Bengio 2010", "He et al. 2015", "LeCun et al. 1998, Efficient BackProp"
TORCH = "torch's layers: U(+-1/sqrt(fan_in)), written kaiming_uniform_(a=sqrt(5))"

# glorot_normal, he_normal and lecun_normal are untruncated, as torch's are; Keras and JAX mean the truncated rows by
# these names.
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
ALIASES: Final = {
    **{name.replace("glorot", "xavier"): name for name in PRESETS if name.startswith("glorot")},
    **{name.replace("he_", "kaiming_"): name for name in PRESETS if name.startswith("he_")},
    "fan_in_normal": "lecun_normal",  # N(0, 1/n_in), as introductions write it
}

glorot_uniform = xavier_uniform = PRESETS["glorot_uniform"]
glorot_normal = xavier_normal = PRESETS["glorot_normal"]
glorot_truncated_normal = xavier_truncated_normal = PRESETS["glorot_truncated_normal"]
he_uniform = kaiming_uniform = PRESETS["he_uniform"]
he_normal = kaiming_normal = PRESETS["he_normal"]
he_truncated_normal = kaiming_truncated_normal = PRESETS["he_truncated_normal"]
lecun_uniform = PRESETS["lecun_uniform"]
lecun_normal = fan_in_normal = PRESETS["lecun_normal"]
lecun_truncated_normal = PRESETS["lecun_truncated_normal"]
torch_default_uniform = PRESETS["torch_default_uniform"]


def naive_uniform() -> Uniform:
    """U(-0.1, 0.1), whatever the fans: what was done before 2010, and the textbook's bad example."""
    return Uniform(-0.1, 0.1)


def naive_normal() -> Normal:
    """N(0, 0.1), whatever the fans: a standard deviation of 0.1."""
    return Normal(0.0, 0.1)
