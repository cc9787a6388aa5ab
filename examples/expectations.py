"""Expected moments of each parameter's distribution by its recipe, also after rounding to a narrow dtype.

The code uses only the formulas, in float64 and without fastinit's sampler, so that the demo's comparison of expected
and observed values is independent.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from architectures import Parameter

from fastinit import Initializer, Normal, TruncatedNormal, Uniform, VarianceScaling
from fastinit.layouts import Fans, fans


@dataclass(frozen=True)
class Moments:
    """Mean, standard deviation and kurtosis (3 for a normal, 1 for a constant)."""

    mean: float
    std: float
    kurtosis: float


def fans_of(parameter: Parameter) -> Fans | None:
    if parameter.layout is None:
        return None
    return fans(parameter.shape, parameter.layout, groups=parameter.groups, blocks=parameter.blocks)


def plain(parameter: Parameter) -> Initializer:
    """The parameter's initializer with its scale computed: a normal, a uniform, a truncated normal or a constant."""
    rule = parameter.initializer
    if not isinstance(rule, VarianceScaling):
        return rule
    std = math.sqrt(rule.scale / getattr(fans_of(parameter), rule.mode))
    if rule.distribution == "normal":
        return Normal(0.0, std)
    if rule.distribution == "uniform":
        return Uniform(-math.sqrt(3.0) * std, math.sqrt(3.0) * std)
    raise NotImplementedError(f"no recipe of these models scales a {rule.distribution}")


def bounds_in_sigma(rule: TruncatedNormal) -> tuple[float, float]:
    if rule.bounds == "sigma":
        return rule.low, rule.high
    return (rule.low - rule.mean) / rule.std, (rule.high - rule.mean) / rule.std


@cache
def moments(rule: Initializer, dtype: str) -> Moments:
    """Moments of `rule`. Eight-bit floats are coarse, so their moments are those of the representable values."""
    match rule:
        case Normal(mean=mean, std=std):
            exact = Moments(mean, std, 3.0)
        case Uniform(low=low, high=high):
            exact = Moments((low + high) / 2, (high - low) / math.sqrt(12.0), 1.8)
        case TruncatedNormal():
            exact = _truncated_moments(rule)
        case _:
            return Moments(rule.value, 0.0, 1.0)
    return _rounded_moments(rule, dtype) if dtype.startswith("float8") else exact


def _truncated_moments(rule: TruncatedNormal) -> Moments:
    """For bounds -c and c, symmetric about the mean: E z^k = (k - 1) E z^(k-2) - 2 c^(k-1) phi(c) / P."""
    low, high = bounds_in_sigma(rule)
    if low != -high:
        raise NotImplementedError(f"the published recipes truncate symmetrically, got {rule!r}")
    edge = 2.0 * math.exp(-high * high / 2) / math.sqrt(2 * math.pi) / math.erf(high / math.sqrt(2))
    second = 1.0 - high * edge
    fourth = 3.0 * second - high**3 * edge
    return Moments(rule.mean, rule.std * math.sqrt(second), fourth / second**2)


def _rounded_moments(rule: Initializer, dtype: str) -> Moments:
    """Each representable value has the probability between the midpoints to its neighbours."""
    values = np.unique(_table(dtype)[np.isfinite(_table(dtype))])
    low, high = -math.inf, math.inf
    if isinstance(rule, Uniform):
        low, high = rule.low, rule.high
    elif isinstance(rule, TruncatedNormal):
        low, high = (rule.mean + bound * rule.std for bound in bounds_in_sigma(rule))

    def below(x: float) -> float:  # up to a factor and a constant
        return x if isinstance(rule, Uniform) else math.erf((x - rule.mean) / (rule.std * math.sqrt(2.0)))

    values = values[(values >= low) & (values <= high)]  # values rounded past a bound are clamped to it
    edges = np.array([low, *(values[1:] + values[:-1]) / 2, high])
    weights = np.diff([below(edge) for edge in edges])
    weights /= weights.sum()
    mean = float(weights @ values)
    second, fourth = (float(weights @ (values - mean) ** power) for power in (2, 4))
    return Moments(mean, math.sqrt(second), fourth / second**2)


@cache
def _table(dtype: str) -> np.ndarray:
    """All 256 values of an eight-bit float, by its bits (Micikevicius et al. 2022): sign, exponent, mantissa."""
    mantissa_bits, bias = {"float8_e4m3fn": (3, 7), "float8_e5m2": (2, 15)}[dtype]
    bits = np.arange(256)
    exponent, fraction = bits >> mantissa_bits & (0x7F >> mantissa_bits), bits & ((1 << mantissa_bits) - 1)
    significand = np.where(exponent > 0, 1 << mantissa_bits, 0) + fraction
    values = np.ldexp(significand.astype(np.float64), np.maximum(exponent, 1) - bias - mantissa_bits)
    special = (bits & 0x7F) == 0x7F if dtype == "float8_e4m3fn" else exponent == 0x1F
    return np.where(special, np.nan, np.where(bits < 128, values, -values))


def decode(raw: np.ndarray, dtype: str) -> np.ndarray:
    """The float64 values of raw memory that holds `dtype`."""
    if dtype.startswith("float8"):
        return _table(dtype)[raw]
    if dtype == "bfloat16":
        return (raw.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return raw.astype(np.float64)
