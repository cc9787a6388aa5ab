"""The scale of a drawn weight: whether it follows from a known scheme, with the true fans or with wrong ones.

A standard deviation alone does not reveal its origin. :func:`wrong_scales` therefore compares each weight with common
schemes, with the frameworks' defaults, and with the other weights of the model.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

from fastinit.advice.gains import gain
from fastinit.advice.recommending import recommend
from fastinit.composites import Blocks
from fastinit.initializers import VarianceScaling, expected_std
from fastinit.models.configs import brief
from fastinit.models.recipes import AUTO, TORCH
from fastinit.models.records import Entry
from fastinit.models.rules import Parameter, Recipe, UnmatchedParameter
from fastinit.structured import Orthogonal

__all__ = [
    "PEERS",
    "Sampled",
    "WrongScale",
    "advised",
    "is_embedding",
    "is_linear_map",
    "is_weight",
    "place_of",
    "remedy",
    "wrong_scales",
]


def advised(parameter: Parameter, recipe: Recipe = AUTO) -> tuple[Any, float | None]:
    """A recipe's initializer for a parameter, and its standard deviation; None if no rule matches."""
    try:
        initializer = recipe.match(parameter)[1]
        return initializer, expected_std(initializer, parameter.shape)
    except (UnmatchedParameter, ValueError):
        return None, None


def by_layer(parameter: Parameter, recipe: Recipe = AUTO) -> tuple[Any, float | None]:
    """As :func:`advised`, but ignores the author's program."""
    return advised(parameter if parameter.program is None else replace(parameter, program=None), recipe)


def is_linear_map(parameter: Parameter) -> bool:
    """Whether a parameter is the weight of a linear map in one of the framework's layers.

    Parameters
    ----------
    parameter : Parameter
        Description of the parameter.

    Examples
    --------
    >>> import fastinit
    >>> is_linear_map(fastinit.Parameter("up.weight", (64, 128), layer="Linear"))
    True
    >>> is_linear_map(fastinit.Parameter("norm.weight", (64,), layer="LayerNorm"))
    False
    """
    found = by_layer(parameter)[0]
    return len(parameter.shape) > 1 and isinstance(found, (VarianceScaling, Orthogonal, Blocks))


def is_embedding(parameter: Parameter) -> bool:
    """Whether a parameter is the table of an embedding."""
    return isinstance(parameter.layout, str) and "V" in parameter.layout


def remedy(parameter: Parameter) -> str:
    """Text of a rule that fixes a parameter, from the following activation and its true fans."""
    initializer = by_layer(parameter)[0]
    if initializer is None and parameter.program is not None:
        return "initialize_(model, 'own') fills it as the author's code does"
    if initializer is None or isinstance(initializer, VarianceScaling):
        try:
            slope = parameter.negative_slope
            initializer = recommend(parameter.activation, negative_slope=slope, **parameter.geometry).initializer
        except (TypeError, ValueError):  # not a linear map
            return f"add a rule for it: Rule({parameter.types[:1]}, {parameter.name!r}, ...)"
    layer = parameter.types[0] if parameter.types else "*"
    return f"Rule({layer!r}, {parameter.name!r}, {brief(initializer)})"


def is_weight(parameter: Parameter) -> bool:
    """Whether it is the weight of a linear map, or an embedding with more than one row and column."""
    if is_linear_map(parameter):
        return True
    return is_embedding(parameter) and sum(size > 1 for size in parameter.shape) > 1


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
# used by the heads of EfficientNets
DEFAULT_OUT = _Scheme("torch's default by fan_out", 1 / 3, "fan_out")
# LeCun's scheme divided by the standard deviation of a normal truncated at +-2 sigma, but without the truncation
UNTRUNCATED = _Scheme("LeCun's scheme, made larger for a truncation", 1 / 0.87962566103423978**2, "fan_in")
FAMILIES: Final = (LECUN, HE, DEFAULT, GLOROT, HE_OUT)
FIXED, HIGHEST_FIXED = 0.02, 0.1 * 1.05  # 5% tolerance for sampling
SHARDS: Final = (2, 4, 8, 16, 32, 64)
LARGEST_GAIN = 1.77
SMALLEST = 0.02 / math.sqrt(2 * 100)  # residual layers of a transformer with 100 blocks
FACTOR = 2.0
JUDGED, EXPLAINED = 64, 1024  # minimum elements for judging a scale, and for wrong fans
PEERS: Final = 3  # minimum weights with one scale in the same place of other blocks, to call another one an outlier


@lru_cache(maxsize=1)
def _schemes() -> tuple[_Scheme, ...]:
    """All schemes, including those with torch's gains and with gains by the second moment."""
    own = [_Scheme(name, gain(name) ** 2, "fan_in") for name in ("gelu", "silu", "tanh", "mish")]
    own += [_Scheme("torch's selu", 9 / 16, "fan_in"), UNTRUNCATED]
    for name, scale in (("tanh", 25 / 9), ("relu", 2.0)):
        own += [_Scheme(f"torch's {name}", scale, mode) for mode in ("fan_in", "fan_avg")]
    return (*FAMILIES, *own)


def _near(found: float, expected: float, size: int, sigmas: float) -> bool:
    """Whether `found` is within `sigmas` standard errors of the expected root mean square.

    The error is that of normal values; for uniform values it is smaller.
    """
    return abs(found - expected) <= max(0.005, sigmas / math.sqrt(2 * size)) * expected


def _true_fans(parameter: Parameter) -> tuple[float, float]:
    found = parameter.fans
    assert found is not None
    return float(found.fan_in), float(found.fan_out)


def _read_off(parameter: Parameter) -> list[tuple[float, float]]:
    """The fans that torch and Keras read off the shape, regardless of the meaning of its axes."""
    shape = parameter.shape
    field, front = math.prod(shape[2:]), math.prod(shape[:-2])
    return [(shape[1] * field, shape[0] * field), (shape[-2] * front, shape[-1] * front)]


def _plausible(parameter: Parameter) -> list[float]:
    """Root mean squares of the schemes with the true fans, and of the frameworks' defaults."""
    fans, shape = _true_fans(parameter), parameter.shape
    found = [FIXED, *(scheme.std(*fans) for scheme in _schemes())]
    found += [std for _, std in (by_layer(parameter, recipe) for recipe in (AUTO, TORCH)) if std]
    assert parameter.fans is not None
    depthwise = (
        fans[0] == parameter.fans.receptive_field_size > 1
    )  # a depthwise kernel is not a matrix and cannot be orthogonal
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
        yield "read off the shape, regardless of its axes", *own
        yield "read off the shape and exchanged", *own[::-1]
    if parameter.transposed:
        strides = (parameter.stride,) if isinstance(parameter.stride, int) else parameter.stride
        number = math.prod(strides) if len(strides) > 1 else strides[0] ** (len(parameter.shape) - 2)
        yield "without the stride", fan_in * number, fan_out
    yield "exchanged", fan_out, fan_in
    field = parameter.fans.receptive_field_size if parameter.fans else 1
    yield "without the receptive field", fan_in / field, fan_out / field


class Sampled(NamedTuple):
    """A weight, the number of values seen, their mean and root mean square, and its entry in a record."""

    parameter: Parameter
    size: int
    mean: float
    rms: float
    entry: Entry | None = None

    @property
    def spread(self) -> float:
        """The standard deviation."""
        return math.sqrt(max(self.rms**2 - self.mean**2, 0.0))


class WrongScale(NamedTuple):
    """A wrong scale.

    `misread`: the scale follows from the fans that ``torch.nn.init`` reads off a convolution's shape; a following norm
    compensates it. `slight`: its effect on the signal is no worse than that of the framework's default. `unless_last`:
    it is wrong only if a norm follows the weight; otherwise the weight may be a head.
    """

    message: str
    misread: bool = False
    slight: bool = False
    unless_last: bool = False


def wrong_scales(weights: Iterable[Sampled]) -> dict[str, WrongScale]:
    """Wrong scales of the weights of a model, by name.

    Judges the root mean square of each weight with at least 64 elements. The scale is wrong if

    - the weight has an entry in a record, and its std differs from the entry's by more than six standard errors;
    - the mean is not about 0: it exceeds a quarter of the root mean square, and six standard errors;
    - the weight has at least 1024 elements, and the scale matches (to three standard errors) a known scheme computed
      with the wrong fans: those of a shard, of all groups for one, exchanged, without the stride or the receptive
      field, or read off the shape. Known schemes are the rule for the following activation, and the schemes of at least
      two weights of the model;
    - it is more than twice the largest of any scheme;
    - it is less than half of the smallest of any scheme, and an activation follows or most weights of the model are as
      small. A head or the last layer of a branch may begin small;
    - a norm follows, it is less than half of what the schemes give this weight, and most weights of the model follow
      one scheme;
    - it is more than twice, or less than half, the common scale of three or more weights in the same place of other
      blocks: names that differ in numbers only, the same shape and class;
    - the weight belongs to a grouped or transposed convolution, the scale matches a scheme with the fans that torch
      reads off the shape, and is more than twice, or less than half, that scheme's scale with the true fans.

    Only the first two apply if the scale agrees, to five standard errors, with LeCun's, Glorot's or He's scheme with
    the true fans, with an activation's gain, an orthogonal matrix, the defaults of torch, transformers or Keras, or
    with a std of at most 0.1 that weights with other fans share. The same holds if it matches the fans that torch reads
    off the shape of any other layer. Not detected: a wrong fan that gives another scheme's scale. Halving fan_in turns
    LeCun's variance 1/fan_in into He's 2/fan_in.
    """
    judged = [one for one in weights if one.size >= JUDGED and one.rms > 0 and _fans_known(one.parameter)]
    common = Counter(scheme for one in judged for scheme in _families(one))
    families = [scheme for scheme, count in common.items() if count >= 2]
    small = {one.parameter.name for one in judged if one.entry is None and _is_small(one)}
    found = _apart_from_peers(judged)
    for one in judged:
        fixed = [other.rms for other in judged if other.rms <= HIGHEST_FIXED and _share_std(one, other)]
        wrong = _wrong_scale(one, families, fixed) or found.get(one.parameter.name)
        wrong = wrong or _below_the_scheme(one, common, len(judged))
        alone = one.parameter.name in small and one.parameter.activation is None and 2 * len(small) <= len(judged)
        if wrong and not alone:
            found[one.parameter.name] = wrong
    return found


def place_of(parameter: Parameter) -> Any:
    """Value that weights in the same place of several blocks share; None for a weight outside blocks.

    The layer's own number, as in a sequence of layers, identifies the layer, not the block.
    """
    *outer, layer, role = ["", "", *parameter.name.split(".")]
    if not any(part.isdigit() for part in outer):
        return None
    blocks = tuple("0" if part.isdigit() else part for part in outer)
    return (*blocks, layer, role), parameter.shape, parameter.types


def _apart_from_peers(weights: Iterable[Sampled]) -> dict[str, WrongScale]:
    """Weights whose scale differs from the common scale of those in the same place of other blocks."""
    places: defaultdict[Any, list[Sampled]] = defaultdict(list)
    for one in weights:
        place = place_of(one.parameter)
        if one.entry is None and place is not None:
            places[place].append(one)
    found = {}
    for group in places.values():
        middle = statistics.median(one.rms for one in group)
        peers = [one for one in group if _near(one.rms, middle, one.size, 6.0)]
        apart = [one for one in group if not 1 / FACTOR <= one.rms / middle <= FACTOR]
        if len(apart) == 1 and len(peers) == len(group) - 1 >= PEERS:
            text = (
                f"std {apart[0].spread:.4g}; {len(peers)} weights in the same place of other blocks have {middle:.4g}"
            )
            found[apart[0].parameter.name] = WrongScale(text)
    return found


def _is_small(one: Sampled) -> bool:
    return one.rms < min(SMALLEST, 1 / _true_fans(one.parameter)[0]) / FACTOR


def _fans_known(parameter: Parameter) -> bool:
    try:
        found = parameter.fans
    except ValueError:
        return False
    table = parameter.tied or is_embedding(parameter)  # a tied weight may be an embedding
    return found is not None and found.fan_in > 0 and found.fan_out > 0 and not table


def _families(one: Sampled) -> list[_Scheme]:
    fans = _true_fans(one.parameter)
    return [scheme for scheme in FAMILIES if _near(one.rms, scheme.std(*fans), one.size, 4.0)]


def _share_std(one: Sampled, other: Sampled) -> bool:
    ratio = _true_fans(one.parameter)[0] / _true_fans(other.parameter)[0]
    return abs(math.log(ratio)) > 0.1 and _near(one.rms, other.rms, min(one.size, other.size), 3.0)


def _wrong_scale(one: Sampled, families: Sequence[_Scheme], fixed: Sequence[float]) -> WrongScale | None:
    """The wrong scale of a weight, or None."""
    parameter, size, rms, entry = one.parameter, one.size, one.rms, one.entry
    fan_in, fan_out = _true_fans(parameter)
    own, expected = by_layer(parameter)
    if entry is not None:
        expected = entry.std
        if expected is None or _near(one.spread, expected, size, 6.0):
            return None
    text = f"std {one.spread:.4g}" + ("" if expected is None else f", expected {expected:.4g}")
    text += f" for fan_in {fan_in:g} and fan_out {fan_out:g}"
    if entry is None:
        if abs(one.mean) > max(6 / math.sqrt(size), 0.25) * rms:
            return WrongScale(f"mean {one.mean:.3g} with std {one.spread:.3g}, expected a mean of 0")
        if any(_near(rms, std, size, 5.0) for std in (*_plausible(parameter), *fixed)):
            return None
        torch_fans = _read_off(parameter)[0]
        for scheme in (
            HE_OUT,
            DEFAULT_OUT,
            *FAMILIES,
        ):  # HE_OUT before GLOROT: fan_avg is half of fan_out if fan_out is large
            if _near(rms, scheme.std(*torch_fans), size, 5.0):
                return _misread(parameter, scheme, text)
    bases = list(families)
    if isinstance(own, VarianceScaling):
        bases.insert(0, _Scheme("the rule for its activation", own.scale, own.mode))
    if size >= EXPLAINED:
        for scheme, (why, *fans) in itertools.product(bases, _wrong_fans(parameter)):
            if _near(rms, scheme.std(*fans), size, 3.0):
                return WrongScale(f"{text}: matches {scheme.title} with wrong fans, {why}")
    if rms > max(LARGEST_GAIN / math.sqrt(fan_in), FIXED) * FACTOR:
        return WrongScale(f"{text}: more than {FACTOR:g} times the largest of any scheme")
    if _is_small(one):
        return WrongScale(f"{text}: less than 1 / {FACTOR:g} of the smallest of any scheme")
    return None if entry is None else WrongScale(text)


def _below_the_scheme(one: Sampled, common: Counter[_Scheme], count: int) -> WrongScale | None:
    """A scale below half of any scheme's, if most weights of the model follow one scheme."""
    parameter = one.parameter
    scheme, following = max(common.items(), key=lambda item: item[1], default=(LECUN, 0))
    if one.entry is not None or 2 * following <= count:
        return None
    read = (scheme.std(*_read_off(parameter)[0]) for scheme in (*FAMILIES, DEFAULT_OUT))
    least = min(*_plausible(parameter), *read)
    if one.rms >= least / FACTOR:
        return None
    text = f"std {one.spread:.4g}, less than 1 / {FACTOR:g} of the smallest of any scheme"
    return WrongScale(f"{text}; {following} of {count} weights follow {scheme.title}", unless_last=True)


def _misread(parameter: Parameter, scheme: _Scheme, text: str) -> WrongScale | None:
    """A scale from the fans that torch reads off the shape of a convolution, if that matters."""
    fans, read = _true_fans(parameter), _read_off(parameter)[0]
    right, given = scheme.std(*fans), scheme.std(*read)
    if not (parameter.groups > 1 or parameter.transposed) or 1 / FACTOR <= given / right <= FACTOR:
        return None
    why = "of a transposed convolution" if parameter.transposed else "without the groups"
    factor = f"{given**2 / right**2:.2g} times the right variance"
    text = f"{text}: matches {scheme.title} with wrong fans, read off the shape {why}: {factor}"
    slight = DEFAULT.std(*fans) / FACTOR <= given <= LARGEST_GAIN / math.sqrt(fans[0]) * FACTOR
    return WrongScale(text, misread=True, slight=slight)
