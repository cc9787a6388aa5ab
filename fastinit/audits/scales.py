"""The scale of a drawn weight: is it one that a scheme gives, from the true fans or from wrong ones?

A standard deviation alone does not say where it comes from. :func:`wrong_scales` therefore compares each weight with
the schemes in use, with what frameworks do by default, and with the other weights of the model.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Final, NamedTuple

from fastinit.advice.gains import gain
from fastinit.advice.recommending import recommend
from fastinit.composites import Blocks
from fastinit.initializers import VarianceScaling, expected_std
from fastinit.models.configs import brief
from fastinit.models.layers import is_table
from fastinit.models.recipes import AUTO, TORCH
from fastinit.models.records import Entry
from fastinit.models.rules import Parameter, Recipe, UnmatchedParameter
from fastinit.structured import Orthogonal

__all__ = ["Sampled", "advised", "is_embedding", "is_linear_map", "is_weight", "remedy", "wrong_scales"]

WEIGHT_ROLES: Final = ("*weight*", "*kernel*", "w", "W", "[wW]?", "[wW]_*")


def advised(parameter: Parameter, recipe: Recipe = AUTO) -> tuple[Any, float | None]:
    """What a recipe would fill it with, and the standard deviation of that; None where it would refuse."""
    try:
        initializer = recipe.match(parameter)[1]
        return initializer, expected_std(initializer, parameter.shape)
    except (UnmatchedParameter, ValueError):
        return None, None


def is_linear_map(parameter: Parameter) -> bool:
    """Whether a parameter is a weight that the recipe "auto" scales, of a layer known as a linear map.

    Examples
    --------
    >>> import fastinit
    >>> is_linear_map(fastinit.Parameter("up.weight", (64, 128), layer="Linear"))
    True
    >>> is_linear_map(fastinit.Parameter("norm.weight", (64,), layer="LayerNorm"))
    False
    """
    found = advised(parameter)[0]
    return len(parameter.shape) > 1 and isinstance(found, (VarianceScaling, Orthogonal, Blocks))


def is_embedding(parameter: Parameter) -> bool:
    """Whether a parameter is a table of rows."""
    return isinstance(parameter.layout, str) and "V" in parameter.layout


def remedy(parameter: Parameter) -> str:
    """The rule that would mend a parameter, as text: by the activation that follows it and its true fans."""
    initializer = advised(parameter)[0]
    if initializer is None or isinstance(initializer, VarianceScaling):
        try:
            slope = parameter.negative_slope
            initializer = recommend(parameter.activation, negative_slope=slope, **parameter.geometry).initializer
        except ValueError:
            return f"add a rule that says what fills it: Rule({parameter.types[:1]}, {parameter.name!r}, ...)"
    layer = parameter.types[0] if parameter.types else "*"
    return f"Rule({layer!r}, {parameter.name!r}, {brief(initializer)})"


def is_weight(parameter: Parameter) -> bool:
    """Whether it is a linear map, an embedding, or has the looks of a weight and no rule knows it."""
    if is_linear_map(parameter):
        return True
    if sum(size > 1 for size in parameter.shape) < 2:
        return False
    if is_embedding(parameter):
        return is_table(parameter)
    return advised(parameter)[0] is None and any(fnmatchcase(parameter.role, pattern) for pattern in WEIGHT_ROLES)


class _Scheme(NamedTuple):
    """A variance of scale / fan."""

    title: str
    scale: float
    mode: str

    def std(self, fan_in: float, fan_out: float) -> float:
        averages = {"fan_avg": (fan_in + fan_out) / 2, "fan_geo_avg": math.sqrt(fan_in * fan_out)}
        fan = {"fan_in": fan_in, "fan_out": fan_out, **averages}[self.mode]
        return math.sqrt(self.scale / fan) if fan > 0 else 0.0


LECUN, HE = _Scheme("LeCun's scheme", 1.0, "fan_in"), _Scheme("He's scheme", 2.0, "fan_in")
DEFAULT = _Scheme("torch's default", 1 / 3, "fan_in")
GLOROT, HE_OUT = _Scheme("Glorot's scheme", 1.0, "fan_avg"), _Scheme("He's scheme by fan_out", 2.0, "fan_out")
FAMILIES: Final = (LECUN, HE, DEFAULT, GLOROT, HE_OUT)
FIXED, HIGHEST_FIXED = 0.02, 0.1 * 1.05  # as drawn
SHARDS: Final = (2, 4, 8, 16, 32, 64)
LARGEST_GAIN = 1.77
SMALLEST = 0.02 / math.sqrt(2 * 100)  # of the residual layers of a transformer of 100 blocks
FACTOR = 2.0
JUDGED, EXPLAINED = 64, 1024  # elements from which on a scale is judged, and by wrong fans


@lru_cache(maxsize=1)
def _schemes() -> tuple[_Scheme, ...]:
    """With torch's gains and those of the second moment."""
    own = [_Scheme(name, gain(name) ** 2, "fan_in") for name in ("gelu", "silu", "tanh", "mish")]
    own += [_Scheme("torch's selu", 9 / 16, "fan_in")]
    for name, scale in (("tanh", 25 / 9), ("relu", 2.0)):
        own += [_Scheme(f"torch's {name}", scale, mode) for mode in ("fan_in", "fan_avg")]
    return (*FAMILIES, *own)


def _near(found: float, expected: float, size: int, sigmas: float) -> bool:
    """Within so many standard errors of the root mean square of normal values; of uniform ones it is smaller."""
    return abs(found - expected) <= max(0.005, sigmas / math.sqrt(2 * size)) * expected


def _true_fans(parameter: Parameter) -> tuple[float, float]:
    found = parameter.fans
    assert found is not None
    return float(found.fan_in), float(found.fan_out)


def _read_off(parameter: Parameter) -> list[tuple[float, float]]:
    """The fans that torch and Keras read off the shape, whatever its axes mean."""
    shape = parameter.shape
    field, front = math.prod(shape[2:]), math.prod(shape[:-2])
    return [(shape[1] * field, shape[0] * field), (shape[-2] * front, shape[-1] * front)]


def _plausible(parameter: Parameter) -> list[float]:
    """The root mean squares of the schemes, from the true fans, and of what frameworks do by default."""
    fans, shape = _true_fans(parameter), parameter.shape
    found = [FIXED, *(scheme.std(*fans) for scheme in _schemes())]
    found += [std for _, std in (advised(parameter, recipe) for recipe in (AUTO, TORCH)) if std]
    assert parameter.fans is not None
    depthwise = fans[0] == parameter.fans.receptive_field_size > 1  # no matrix that could be orthogonal
    for side in (max(shape[0], math.prod(shape[1:])), max(shape[-1], math.prod(shape[:-1]))) if not depthwise else ():
        found += [one / math.sqrt(side) for one in (1.0, math.sqrt(2.0), 5 / 3)]
    if parameter.blocks > 1:
        found.append(GLOROT.std(fans[0], fans[1] * parameter.blocks))
    if parameter.role.endswith("kernel"):
        found.append(GLOROT.std(*_read_off(parameter)[1]))
    return found


def _wrong_fans(parameter: Parameter) -> Iterator[tuple[str, float, float]]:
    (fan_in, fan_out), groups = _true_fans(parameter), parameter.groups
    for count in SHARDS:
        if fan_in / count >= 1:
            yield f"fan_in / {count}, as of a shard", fan_in / count, fan_out
        if fan_out / count >= 1:
            yield f"fan_out / {count}, as of a shard", fan_in, fan_out / count
    if groups > 1:
        yield "without the groups", fan_in * groups, fan_out * groups
        yield "fan_out without the groups", fan_in, fan_out * groups
    for own in _read_off(parameter):
        yield "read off the shape, whatever its axes mean", *own
        yield "read off the shape and exchanged", *own[::-1]
    if parameter.transposed:
        strides = (parameter.stride,) if isinstance(parameter.stride, int) else parameter.stride
        number = math.prod(strides) if len(strides) > 1 else strides[0] ** (len(parameter.shape) - 2)
        yield "without the stride", fan_in * number, fan_out
    yield "exchanged", fan_out, fan_in
    field = parameter.fans.receptive_field_size if parameter.fans else 1
    yield "without the receptive field", fan_in / field, fan_out / field


class Sampled(NamedTuple):
    """A weight, how many of its values were seen, their mean and root mean square, and what a record says of it."""

    parameter: Parameter
    size: int
    mean: float
    rms: float
    entry: Entry | None = None

    @property
    def spread(self) -> float:
        """The standard deviation."""
        return math.sqrt(max(self.rms**2 - self.mean**2, 0.0))


def wrong_scales(weights: Iterable[Sampled]) -> dict[str, str]:
    """What is wrong with the scale of the weights of a model, by their names.

    By their root mean squares. A weight of 64 elements or more is wrong

    - with an entry of a record: where its std is not the entry's, by six standard errors;
    - where its mean is not about 0: more than a quarter of the root mean square, and six standard errors;
    - where it is what the rule for the activation that follows, or what the scheme of at least two weights of the
      model, gives with wrong fans (those of a shard, of all groups for one, exchanged, without the stride or the
      receptive field, read off the shape), to three standard errors, in 1024 elements or more;
    - where it is more than twice what any scheme gives, or less than half.

    The last two are not asked where it agrees, to five standard errors, with LeCun's, Glorot's or He's scheme with true
    fans, with an activation's gain, an orthogonal matrix, the defaults of torch, transformers and Keras, or a std of at
    most 0.1 that weights with other fans share. So a wrong fan that happens to give another scheme is not seen: half of
    fan_in makes LeCun's scheme He's.
    """
    judged = [one for one in weights if one.size >= JUDGED and one.rms > 0 and _fans_known(one.parameter)]
    common = Counter(scheme for one in judged for scheme in _families(one))
    families = [scheme for scheme, count in common.items() if count >= 2]
    found = {}
    for one in judged:
        fixed = [other.rms for other in judged if other.rms <= HIGHEST_FIXED and _share_std(one, other)]
        text = _wrong_scale(one, families, fixed)
        if text:
            found[one.parameter.name] = text
    return found


def _fans_known(parameter: Parameter) -> bool:
    try:
        found = parameter.fans
    except ValueError:
        return False
    return found is not None and found.fan_in > 0 and found.fan_out > 0 and not is_embedding(parameter)


def _families(one: Sampled) -> list[_Scheme]:
    fans = _true_fans(one.parameter)
    return [scheme for scheme in FAMILIES if _near(one.rms, scheme.std(*fans), one.size, 4.0)]


def _share_std(one: Sampled, other: Sampled) -> bool:
    ratio = _true_fans(one.parameter)[0] / _true_fans(other.parameter)[0]
    return abs(math.log(ratio)) > 0.1 and _near(one.rms, other.rms, min(one.size, other.size), 3.0)


def _wrong_scale(one: Sampled, families: Sequence[_Scheme], fixed: Sequence[float]) -> str:
    """What is wrong with the scale of a weight; nothing is the empty text."""
    parameter, size, rms, entry = one.parameter, one.size, one.rms, one.entry
    fan_in, fan_out = _true_fans(parameter)
    own, expected = advised(parameter)
    if entry is not None:
        expected = entry.std
        if expected is None or _near(one.spread, expected, size, 6.0):
            return ""
    else:
        if abs(one.mean) > max(6 / math.sqrt(size), 0.25) * rms:
            return f"mean {one.mean:.3g} with std {one.spread:.3g}, where weights are drawn around 0"
        if any(_near(rms, std, size, 5.0) for std in (*_plausible(parameter), *fixed)):
            return ""
    text = f"std {one.spread:.4g}" + ("" if expected is None else f", expected {expected:.4g}")
    text += f" for fan_in {fan_in:g} and fan_out {fan_out:g}"
    bases = list(families)
    if isinstance(own, VarianceScaling):
        bases.insert(0, _Scheme("the rule for its activation", own.scale, own.mode))
    if size >= EXPLAINED:
        for scheme, (why, *fans) in itertools.product(bases, _wrong_fans(parameter)):
            if _near(rms, scheme.std(*fans), size, 3.0):
                return f"{text}: what {scheme.title} gives with wrong fans, {why}"
    if rms > max(LARGEST_GAIN / math.sqrt(fan_in), FIXED) * FACTOR:
        return f"{text}: more than {FACTOR:g} times what any scheme gives"
    if rms < min(SMALLEST, 1 / fan_in) / FACTOR:
        return f"{text}: less than 1 / {FACTOR:g} of what any scheme gives"
    return text if entry is not None else ""
