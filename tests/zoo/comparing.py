"""Whether a model that was deferred and materialized is what its author's constructor makes, but for the draws.

    for difference in compared(lambda: timm.create_model("resnet18")):
        print(difference)

The author's constructor runs with three seeds: what is then the same three times is no draw, and the deferred model
has to have it exactly. The rest is drawn, and the deferred model has to have its distribution in every part.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import special
from torch import nn

AUTHORS_SEEDS = (1, 2, 3)
OWN_SEEDS = (0, 1)

# The chance that a test of one parameter of one model fails by accident, over all tests of that model.
ACCIDENT = 1e-6
# The same in standard errors, for means and standard deviations.
ERRORS = 6.0
# Elements of a tensor in the test of its distribution, and in how many parts an axis is compared.
SAMPLE = 4096
PARTS = 8


class Difference(NamedTuple):
    """What the deferred model has otherwise than its author's.

    Parameters
    ----------
    kind : str
        "structure", "constant", "drawn", "distribution", "buffer", "attribute", "copy" or "failed".
    name : str
        The parameter, buffer or module.
    reason : str
        What was found and what was expected.
    """

    kind: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}: {self.reason}"


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The author's own construction; generators other than torch's start the same for every seed."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(seed)
    return build()


def own(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The same model, deferred and materialized."""
    from fastinit.adapters.torch import deferred, materialize

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(99)  # buffers that are drawn are torch's
    with deferred():
        model = build()
    materialize(model, seed=seed)
    return model


def compared(build: Callable[[], nn.Module], made: Callable[..., nn.Module] = own) -> list[Difference]:
    """All differences between the author's construction and ours.

    Parameters
    ----------
    build : callable
        The author's constructor.
    made : callable
        made(build, seed): the model that is judged.
    """
    authors = [seeded(build, seed) for seed in AUTHORS_SEEDS]
    try:
        models = [made(build, seed) for seed in OWN_SEEDS]
    except Exception as error:
        return [Difference("failed", type(error).__name__, str(error))]
    return list(differences(authors, models))


def differences(authors: list[nn.Module], models: list[nn.Module]) -> Iterator[Difference]:
    """Between several constructions by the author, each with a seed of its own, and several of ours."""
    found = list(_structure(authors[0], models[0]))
    yield from found
    if found:
        return
    names = list(dict(authors[0].named_parameters()))
    chance = ACCIDENT / max(1, len(names))
    for name in names:
        tensors = [[model.get_parameter(name).detach() for model in group] for group in (authors, models)]
        if any(tensor.is_meta for tensor in tensors[1]):
            yield Difference("drawn", name, "still on the meta device")
        elif found_here := other_values(*tensors, chance):
            yield Difference(found_here[0], name, found_here[1])
    yield from _copies(authors, models)
    yield from _buffers(authors, models)
    yield from _attributes(authors, models)


# What a model consists of


def _structure(author: nn.Module, model: nn.Module) -> Iterator[Difference]:
    """Modules, names, dtypes, ties, flags."""
    facts = list(zip(_facts(author), _facts(model), strict=True))
    for (fact, expected), (_, got) in facts:
        if expected != got:
            key = next(key for key in [*expected, *got] if expected.get(key) != got.get(key))
            yield Difference("structure", key, f"{fact}: {got.get(key, 'nothing')}, not {expected.get(key, 'nothing')}")
            return
        if list(expected) != list(got):
            yield Difference("structure", "", f"{fact}: the order is another")
            return


def _facts(model: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "module", {name: type(module).__qualname__ for name, module in model.named_modules()}
    yield "training", {name: module.training for name, module in model.named_modules()}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    yield "parameter", {name: tuple(tensor.shape) for name, tensor in parameters.items()}
    yield "class", {name: type(tensor).__name__ for name, tensor in parameters.items()}
    yield "dtype", {name: tensor.dtype for name, tensor in parameters.items()}
    yield "stride", {name: tensor.stride() for name, tensor in parameters.items()}
    yield "requires_grad", {name: tensor.requires_grad for name, tensor in parameters.items()}
    yield "attributes", {name: sorted(vars(tensor)) for name, tensor in parameters.items()}
    first: dict[int, str] = {}
    yield "tied to", {name: first.setdefault(id(tensor), name) for name, tensor in parameters.items()}
    buffers = dict(model.named_buffers(remove_duplicate=False))
    yield "buffer", {name: (tuple(tensor.shape), tensor.dtype, tensor.device) for name, tensor in buffers.items()}
    first = {}
    yield "buffer tied to", {name: first.setdefault(id(tensor), name) for name, tensor in buffers.items()}
    modules = model.named_modules()
    yield "not persistent", {name: sorted(module._non_persistent_buffers_set) for name, module in modules}
    yield "state_dict", dict.fromkeys(model.state_dict())


# Values of a parameter


def other_values(
    authors: list[torch.Tensor], models: list[torch.Tensor], chance: float = ACCIDENT
) -> tuple[str, str] | None:
    """In what one parameter differs: ("constant", "drawn" or "distribution", what was found), or None.

    Parameters
    ----------
    authors, models : list of tensor
        As the author's three constructions have it, and as two of ours.
    chance : float
        That the test of its distribution fails by accident.
    """
    if not authors[0].numel():
        return None
    same = _same(authors[0], authors[1]) & _same(authors[0], authors[2])
    if not bool(same.all()) and _by_accident(authors, same):
        same[...] = False
    share = float(same.mean(dtype=torch.float64))
    where = "" if share == 1 else f" in {share:.2%} of the elements"
    for model in models if share else ():
        near = _near(authors[0], model) | ~same
        if not bool(near.all()):
            place = tuple((~near).nonzero()[0].tolist())
            count = int((~near).sum())
            kind = "drawn" if not bool(_same(models[0], models[1])[same].all()) else "other values"
            return "constant", (
                f"{authors[0][place].item():.6g} with every seed of the author's{where}; {kind} in {count} elements, "
                f"{model[place].item():.6g} at {place}"
            )
    if share == 1:
        return None
    again, expected = (float(_same(*group[:2])[~same].mean(dtype=torch.float64)) for group in (models, authors))
    if again > 0.01 and again > 2 * expected:
        return "drawn", f"the author draws{' elsewhere' * bool(share)}; here {again:.2%} are the same with every seed"
    reason = _distribution(authors, models, ~same if share else None, chance)
    return ("distribution", reason) if reason else None


def _same(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    equal = one == two
    if one.is_floating_point() and not bool(equal.all()):
        nan = one.isnan()
        if bool(nan.any()):
            equal |= nan & two.isnan()
    return equal


def _near(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """Equal but for four units in the last place: a fold rounds once where the author's steps round at each."""
    if not one.is_floating_point():
        return _same(one, two)
    limit = 4 * torch.finfo(one.dtype).eps * one.double().abs()
    return _same(one, two) | ((one.double() - two.double()).abs() <= limit)


def _by_accident(authors: list[torch.Tensor], same: torch.Tensor) -> bool:
    """Whether so many equal elements are to be expected of independent draws: of sparse zeros, of a narrow dtype."""
    pairs = [float(_same(one, two).mean(dtype=torch.float64)) for one, two in itertools.combinations(authors, 2)]
    share, pair = float(same.mean(dtype=torch.float64)), sum(pairs) / 3
    if share < 1e-3 and authors[0].dtype in (torch.bfloat16, torch.float16):
        return True
    # of fixed elements as many are the same twice as thrice
    return pair > 0 and authors[0].numel() > 100 and share < 0.9 * pair


def _distribution(
    authors: list[torch.Tensor], models: list[torch.Tensor], drawn: torch.Tensor | None, chance: float
) -> str | None:
    """What differs of the drawn elements (None: all), by more than the author's seeds differ from each other."""
    if all(bool(tensor.isfinite().all()) for tensor in authors):
        wrong = max(int((~tensor.isfinite()).sum()) for tensor in models)
        if wrong:
            return f"{wrong} elements are not finite"
    expected, got = ([_some(tensor, drawn) for tensor in group] for group in (authors, models))
    pooled = [torch.cat(group).numpy() for group in (expected, got)]
    p = _kolmogorov_smirnov(*pooled)
    if p < chance:
        control = _kolmogorov_smirnov(pooled[0][: len(pooled[0]) // 3], pooled[0][len(pooled[0]) // 3 :])
        if control > chance:
            (mean, std), (own_mean, own_std) = map(_moments, (expected, got))
            return f"std {own_std:.6g}, not {std:.6g}; mean {own_mean:.6g}, not {mean:.6g}; Kolmogorov-Smirnov {p:.1e}"
    return _moments_of_parts(authors, models, drawn)


def _some(tensor: torch.Tensor, drawn: torch.Tensor | None, most: int = SAMPLE) -> torch.Tensor:
    """A sample of the drawn elements, spread over the tensor; an odd distance visits every column."""
    flat = tensor.flatten()
    if drawn is None:
        return flat[:: max(1, flat.numel() // most) | 1].double()
    chosen = drawn.flatten()
    step = max(1, int(chosen.sum()) // most) | 1
    found = flat[::step][chosen[::step]]
    return (found if found.numel() >= min(most, 8) else flat[chosen]).double()


def _moments(tensors: list[torch.Tensor]) -> tuple[float, float]:
    joined = torch.cat(tensors)
    return float(joined.mean()), float(joined.std(correction=0))


def _kolmogorov_smirnov(one: np.ndarray, two: np.ndarray) -> float:
    """The probability of a distance like this between two samples of one distribution."""
    one, two = np.sort(one), np.sort(two)
    joined = np.concatenate([one, two])
    distance = np.abs(
        np.searchsorted(one, joined, "right") / one.size - np.searchsorted(two, joined, "right") / two.size
    ).max()
    return float(special.kolmogorov(distance * math.sqrt(one.size * two.size / (one.size + two.size))))


def _moments_of_parts(
    authors: list[torch.Tensor], models: list[torch.Tensor], drawn: torch.Tensor | None
) -> str | None:
    """Means and standard deviations of parts along the first two axes.

    timm's truncated normal holds a few values a hundred standard deviations away, which are cut here.
    """
    every = torch.cat([_some(tensor, drawn) for tensor in authors])
    low, high = every.quantile(0.002), every.quantile(0.998)
    low, high = low - (high - low), high + (high - low)
    every = every.clamp(low, high)
    spread = every.std(correction=0)
    if not bool(spread.isfinite()) or spread == 0:
        return None
    tails = max(3.0, float((((every - every.mean()) / spread) ** 4).mean()))
    for axis in range(min(2, authors[0].dim())):
        size = authors[0].shape[axis]
        bounds = np.linspace(0, size, min(PARTS, size) + 1).astype(int).tolist()
        for start, end in [*[(0, size)] * (axis == 0), *itertools.pairwise(bounds)]:
            mask = None if drawn is None else drawn.narrow(axis, start, end - start)
            parts = [
                [_some(tensor.narrow(axis, start, end - start), mask, 4 * SAMPLE).clamp(low, high) for tensor in group]
                for group in (authors, models)
            ]
            count = parts[0][0].numel()
            if count < 32:
                continue
            means = [np.array([float(part.mean()) for part in group]) for group in parts]
            stds = [np.array([float(part.std(correction=0)) for part in group]) for group in parts]
            here = float(stds[0].mean())
            # of one seed; where the author's seeds differ by more, the elements are no independent draws
            for what, values, error in (
                ("mean", means, here / math.sqrt(count)),
                ("std", stds, here * math.sqrt((tails - 1) / 4 / count)),
            ):
                seeds = float(values[0].std(ddof=1))
                # three seeds say little of how far elements go that follow from a few draws together
                largest = max(error, seeds if seeds < 2.5 * error else 10 * seeds)
                away = abs(values[0].mean() - values[1].mean())
                if away > ERRORS * largest * math.sqrt(1 / 3 + 1 / 2) and away > 1e-6 * here:
                    return (
                        f"{what} of [{start}:{end}] along axis {axis} is {values[1].mean():.6g}, "
                        f"not {values[0].mean():.6g}"
                    )
    return None


# Draws that several parameters share


def _copies(authors: list[nn.Module], models: list[nn.Module]) -> Iterator[Difference]:
    """Parameters of equal drawn values: those that the author copied, as by deepcopy, and no others."""
    expected, got = (_groups(*group[:2]) for group in (authors, models))
    for name in expected.keys() | got.keys():
        if expected.get(name) != got.get(name):
            yield Difference("copy", name, f"equal to {got.get(name, 'none')}, not to {expected.get(name, 'none')}")
    for name in _normalized(authors[0]) - _normalized(models[0]):
        yield Difference("copy", name, "weight norm: the norms are not those of the directions")


def _groups(one: nn.Module, two: nn.Module) -> dict[str, str]:
    """Every parameter with drawn values that another has, too, by the first with these values."""
    alike: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    parameters = dict(one.named_parameters())
    for name, tensor in parameters.items():
        if tensor.numel() >= 16 and not torch.equal(tensor, two.get_parameter(name)):
            values = tensor.detach().flatten()
            step = max(1, values.numel() // 64)
            alike[tuple(tensor.shape), tensor.dtype, tuple(values[::step].tolist())].append(name)
    groups: dict[str, str] = {}
    for names in alike.values():
        for name in names[1:]:
            if torch.equal(parameters[name], parameters[names[0]]):
                groups[name] = names[0]
    return groups


def _normalized(model: nn.Module) -> set[str]:
    """The parametrizations by weight norm that hold the norms of their directions."""
    found = set()
    for name, module in model.named_modules():
        tensors = dict(module.named_parameters(recurse=False))
        for one, two in (("original0", "original1"), ("weight_g", "weight_v")):
            if one in tensors and two in tensors:
                norms, directions = tensors[one].detach().double(), tensors[two].detach().double()
                axes = [axis for axis, size in enumerate(norms.shape) if size == 1]
                if norms.dim() == directions.dim():
                    actual = directions.square().sum(dim=axes, keepdim=True).sqrt()
                    if actual.shape == norms.shape and torch.allclose(actual, norms, rtol=1e-4):
                        found.add(name)
    return found


# Buffers and attributes


def _buffers(authors: list[nn.Module], models: list[nn.Module]) -> Iterator[Difference]:
    """Every buffer is the author's to the bit, unless the author draws it."""
    for name, _ in authors[0].named_buffers():
        expected = [model.get_buffer(name) for model in authors]
        reason = _other_tensor(expected, models[0].get_buffer(name))
        if reason:
            yield Difference("buffer", name, reason)


def _other_tensor(expected: list[torch.Tensor], got: torch.Tensor) -> str | None:
    for fact in ("device", "dtype", "shape", "requires_grad"):
        if getattr(expected[0], fact) != getattr(got, fact):
            return f"{fact} {getattr(got, fact)}, not {getattr(expected[0], fact)}"
    got = got.detach()
    if bool(_same(expected[0], got).all()):
        return None
    if not all(bool(_same(expected[0], other).all()) for other in expected[1:]):
        shapes = {tuple(tensor.shape) for tensor in expected}
        if got.is_floating_point() and len(shapes) == 1:
            (_, std), (_, own_std) = (
                _moments([t.double().flatten() for t in expected]),
                _moments([got.double().flatten()]),
            )
            if got.numel() >= 64 and not 0.5 < own_std / std < 2:
                return f"the author draws it with std {std:.6g}; here it is {own_std:.6g}"
        return None
    place = tuple((~_same(expected[0], got)).nonzero()[0].tolist())
    return f"{got[place].item():.9g} at {place}, not {expected[0][place].item():.9g}"


def _attributes(authors: list[nn.Module], models: list[nn.Module]) -> Iterator[Difference]:
    """Tensors that a module holds without registering them, and its plain values."""
    groups = [dict(_attributes_of(model)) for model in [*authors, models[0]]]
    for name in groups[0].keys() | groups[-1].keys():
        if not all(name in group for group in groups):
            where = [name in group for group in groups]
            if all(where[:-1]) or not any(where[:-1]):
                yield Difference("attribute", name, "is missing" if all(where[:-1]) else "is none of the author's")
            continue
        expected, got = [group[name] for group in groups[:-1]], groups[-1][name]
        if isinstance(got, torch.Tensor) and isinstance(expected[0], torch.Tensor):
            reason = _other_tensor(expected, got)
            if reason:
                yield Difference("attribute", name, reason)
        elif expected[0] == expected[1] and expected[0] != got:
            yield Difference("attribute", name, f"{got!r}, not {expected[0]!r}")


# Attributes of nn.Module itself, and what fastinit leaves there.
IGNORED = {*vars(nn.Module()), "_fastinit_programs", "training"}


def _attributes_of(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(place, value): a tensor; "parameter NAME" for one that is registered; a number, a string."""
    registered: dict[int, str] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        registered.setdefault(id(tensor), f"the registered {name}")
    for prefix, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute not in IGNORED:
                for name, inner in _within(f"{prefix}.{attribute}", value, 0):
                    yield name, registered.get(id(inner), inner)


def _within(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor | int | float | str | complex) or value is None:
        if not (isinstance(value, float) and math.isnan(value)):
            yield name, value
    elif depth < 3 and isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _within(f"{name}[{number}]", inner, depth + 1)
    elif depth < 3 and isinstance(value, dict):
        for key, inner in value.items():
            yield from _within(f"{name}[{key!r}]", inner, depth + 1)
