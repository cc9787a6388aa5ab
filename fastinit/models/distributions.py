"""Comparison of distributions: whether two initializers agree for a shape, and how they differ.

>>> import fastinit
>>> by_hand = fastinit.Uniform(-0.25, 0.25)
>>> same_distribution(by_hand, fastinit.torch_default_uniform(layout="OI"), (8, 16))  # 1 / sqrt(16)
True
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final, NamedTuple

from fastinit.initializers import ElementwiseInitializer, Initializer, StructuredInitializer
from fastinit.programs import Keep, Replayed, within
from fastinit.sampling import Sampling
from fastinit.structured import Dirac, Identity, ZerO

__all__ = ["difference", "is_drawn", "same_distribution", "short"]

TOLERANCE: Final = 1e-6
# No normal draw exceeds this many standard deviations, in any dtype.
NEVER: Final = 9.5


class _Box(NamedTuple):
    """A box of a tensor, with the distribution of its elements or the initializer of the whole box."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    content: Sampling | Initializer

    def covers(self, other: _Box) -> bool:
        return within(other.offsets, other.shape, self.offsets, self.shape)


def _boxes(initializer: Initializer, shape: tuple[int, ...], offsets: tuple[int, ...]) -> list[_Box]:
    """Boxes that an initializer paints, without those that are painted over."""
    if isinstance(initializer, ElementwiseInitializer):
        return [_Box(offsets, shape, _plain(initializer.sampling(shape)))]
    parts = initializer.parts(shape) if isinstance(initializer, StructuredInitializer) else None
    if parts is None or isinstance(initializer, Keep):
        return [_Box(offsets, shape, initializer)]
    found: list[_Box] = []
    for part in parts:
        start = tuple(map(sum, zip(offsets, part.offsets, strict=True)))
        if math.prod(part.shape):
            new = _boxes(part.initializer, part.shape, start)
            found = [old for old in found if not any(box.covers(old) for box in new)] + new
    return found


def _plain(sampling: Sampling) -> Sampling:
    """The canonical form of a distribution."""
    if sampling.distribution != "uniform" and sampling.std == 0.0:
        return Sampling("constant", mean=sampling.expected_mean)
    if sampling.distribution == "truncated_normal" and -sampling.low_sigma > NEVER < sampling.high_sigma:
        return Sampling("normal", mean=sampling.mean, std=sampling.std)
    return sampling


def _near(one: float, other: float, scale: float) -> bool:
    return one == other or abs(one - other) <= TOLERANCE * scale or (math.isnan(one) and math.isnan(other))


def _equal(one: Sampling, other: Sampling) -> bool:
    if one.distribution != other.distribution:
        return False
    if one.distribution == "constant":
        return _near(one.mean, other.mean, max(abs(one.mean), abs(other.mean)))
    scale = min(one.high - one.low, other.high - other.low) if one.distribution == "uniform" else one.std
    fields = ("mean", "std", "low", "high")
    return all(_near(getattr(one, field), getattr(other, field), scale) for field in fields)


def same_distribution(one: Initializer, other: Initializer, shape: tuple[int, ...]) -> bool:
    """Whether two initializers draw from one distribution for a tensor of this shape.

    Parameters
    ----------
    one, other : Initializer
        Elementwise initializers are compared by their parameters, within a millionth; composites part by part; others
        by equality. An initializer that does not support the shape differs from all others.
    shape : tuple of int
        Shape of the whole tensor.
    """
    if one == other:
        return not isinstance(one, Keep)
    try:
        first, second = (_boxes(initializer, shape, (0,) * len(shape)) for initializer in (one, other))
    except ValueError:
        return False
    return len(first) == len(second) and all(
        _Box(*mine[:2], None) == _Box(*others[:2], None) and _same_content(mine.content, others.content)  # type: ignore[arg-type]
        for mine, others in zip(first, second, strict=True)
    )


def _same_content(one: Sampling | Initializer, other: Sampling | Initializer) -> bool:
    if isinstance(one, Sampling) and isinstance(other, Sampling):
        return _equal(one, other)
    return one == other and not isinstance(one, Keep)


def is_drawn(initializer: Initializer, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of this shape is entirely random, without a constant, kept or computed part.

    Raises ValueError if the shape does not fit.

    >>> import fastinit
    >>> is_drawn(fastinit.Normal(), (3, 4)), is_drawn(fastinit.ZeroRow(fastinit.Normal(), 0), (3, 4))
    (True, False)
    """
    boxes = _boxes(initializer, shape, (0,) * len(shape))
    return bool(boxes) and not any(_is_fixed(box.content) for box in boxes)


def _is_fixed(content: Sampling | Initializer) -> bool:
    if isinstance(content, Sampling):
        return content.distribution == "constant"
    return isinstance(content, (Keep, Replayed, Identity, Dirac, ZerO))


NAMES: Final = {"normal": "normal", "uniform": "uniform", "truncated_normal": "truncated normal"}


def short(initializer: Initializer, shape: tuple[int, ...]) -> str:
    """Short description of an initializer for a table: its distribution and standard deviation, or its constant.

    Raises ValueError if the shape does not fit.

    >>> import fastinit
    >>> short(fastinit.he_normal(layout="OI"), (64, 128)), short(fastinit.Ones(), (3,))
    ('normal 0.125', '1')
    >>> short(fastinit.ZeroRow(fastinit.Normal(), 0), (3, 4))
    'normal 1, 0 in a part'
    """
    if isinstance(initializer, Keep):
        return "kept"
    if isinstance(initializer, Replayed):
        return f"replayed: {', '.join(initializer.operators)}"
    found: dict[str, None] = {}
    boxes = _boxes(initializer, shape, (0,) * len(shape))
    for box in boxes:
        found.setdefault(_words(box.content, box.shape))
    first, *others = found or ["nothing"]
    if len(boxes) > 1 and not others:
        return f"{first} in {len(boxes)} parts"
    return ", ".join([first, *(f"{other} in a part" for other in others)])


def _words(content: Sampling | Initializer, shape: tuple[int, ...]) -> str:
    if isinstance(content, Sampling):
        if content.distribution == "constant":
            return f"{content.mean:.4g}"
        mean, std = content.expected_mean, content.expected_std
        around = f" around {mean:.3g}" if abs(mean) > TOLERANCE * std else ""
        return f"{NAMES[content.distribution]} {std:.3g}{around}"
    moments = content.moments(shape)
    name = type(content).__name__.lower()
    return name if moments is None else f"{name} {moments.std:.3g}"


def difference(one: Initializer, other: Initializer, shape: tuple[int, ...]) -> str:
    """The kind of difference between two initializers.

    One of "same", "scale" (same distribution, other scale), "distribution", "constant instead of drawn", "drawn instead
    of constant", "other constant" and "structure" (other parts, or a whole matrix).

    Raises ValueError if the shape does not fit.

    >>> import fastinit
    >>> difference(fastinit.Normal(std=0.02), fastinit.he_normal(layout="OI"), (64, 128))
    'scale'
    """
    if same_distribution(one, other, shape):
        return "same"
    first, second = (_boxes(initializer, shape, (0,) * len(shape)) for initializer in (one, other))
    if [box[:2] for box in first] != [box[:2] for box in second]:
        return "structure"
    kinds = {_difference(mine.content, others.content) for mine, others in zip(first, second, strict=True)}
    kinds.discard("same")
    return kinds.pop() if len(kinds) == 1 else "structure"


def _difference(one: Sampling | Initializer, other: Sampling | Initializer) -> str:
    if _same_content(one, other):
        return "same"
    if not isinstance(one, Sampling) or not isinstance(other, Sampling):
        return "structure"
    constant = [sampling.distribution == "constant" for sampling in (one, other)]
    if any(constant):
        return "other constant" if all(constant) else f"{_kind(other)} instead of {_kind(one)}"
    if one.distribution != other.distribution:
        return "distribution"
    ratio = other.expected_std / one.expected_std
    scaled = replace(one, **{name: getattr(one, name) * ratio for name in ("mean", "std", "low", "high")})
    return "scale" if _equal(scaled, other) else "distribution"


def _kind(sampling: Sampling) -> str:
    return "constant" if sampling.distribution == "constant" else "drawn"
