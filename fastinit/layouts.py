"""The fans of a weight: how many inputs feed one output, and how many outputs one input feeds.

Every variance-scaling scheme divides by a fan, so a wrong fan is a wrong scale (Glorot & Bengio 2010; He et al. 2015).
A shape does not say which axis is which. A *layout* does, with one letter per axis.

=======  =========================================================================================
letter   axis
=======  =========================================================================================
``I``    input features
``O``    output features
``E``    experts, layers, heads of a stack: independent weights side by side, in neither fan
``M``    depth multiplier: with ``I``, a depthwise kernel; each input channel has M outputs of its own
``V``    vocabulary: with ``D``, an embedding; its input is one-hot, so one row feeds each output
``D``    embedding width, where there is a ``V`` (elsewhere ``D`` is depth, a spatial axis)
other    spatial axes: ``H``, ``W``, ``K``, ``T``, ...
``...`` any number of spatial axes, possibly none; at most once =======
=========================================================================================

A letter that repeats multiplies: ``"IOO"`` is an attention kernel (embedding, heads, head width).

=====================  =============  ===============================
weight                 torch          Keras, JAX, TensorFlow
=====================  =============  ===============================
dense                  ``"OI"``       ``"IO"``
convolution ``"OI..."`` ``"...IO"``, also for dense depthwise ``"OI..."`` ``"...IM"``, or ``"...IO"`` (Flax) transposed
``"IO..."`` ``"...OI"``, or ``"...IO"`` (Flax) embedding ``"VD"`` ``"VD"`` experts ``"EOI"`` ``"EIO"``
===================== ============= ===============================

A shard has the fans of the whole tensor: pass the global shape.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import prod

from fastinit.checks import BITS, MOST_AXES, integer, integer_or_integers, integers, shown, text

__all__ = ["Axes", "Fans", "checked_layout", "fans"]

MOST_BITS = MOST_AXES * BITS  # limit of a product of sizes


@dataclass(frozen=True, slots=True)
class Fans:
    """Exact fans of one weight. They are ints, except for a ``fan_in`` made fractional by a stride.

    Parameters
    ----------
    fan_in, fan_out : int or fractions.Fraction
        Inputs per output, and outputs per input.
    receptive_field_size : int
        Product of the spatial axes.

    Raises
    ------
    TypeError, ValueError
        If a value has another type or is negative.

    Examples
    --------
    >>> import fastinit
    >>> fastinit.fans((64, 32, 3, 3), "OI...")  # a convolution of torch
    Fans(fan_in=288, fan_out=576, receptive_field_size=9)
    """

    fan_in: int | Fraction
    fan_out: int | Fraction
    receptive_field_size: int

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | Fraction):
                raise TypeError(f"{name} must be an int or a Fraction, got {shown(value)}")
            if value < 0:
                raise ValueError(f"{name} must be at least 0, got {shown(value)}")
            if max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_BITS:
                raise ValueError(f"{name} must have at most {MOST_BITS} bits, got {shown(value)}")


@dataclass(frozen=True, slots=True)
class Axes:
    """A layout by axis numbers, as in JAX and Keras. Accepted wherever a layout string is.

    Parameters
    ----------
    in_axis, out_axis, batch_axis : int or iterable of int
        Axes of the input features, of the output features, and of neither (letters I, O and E). Negative numbers count
        from the end. Several axes of one argument multiply. All other axes are spatial. An axis that is both in and out
        counts in neither fan, as in JAX, whose embeddings rely on it.

    Examples
    --------
    >>> fans((64, 8, 16), Axes(in_axis=0, out_axis=(1, 2)))
    Fans(fan_in=64, fan_out=128, receptive_field_size=1)
    """

    in_axis: int | Iterable[int] = -2
    out_axis: int | Iterable[int] = -1
    batch_axis: int | Iterable[int] = ()

    def __post_init__(self) -> None:
        for name in self.__slots__:  # one hashable spelling, for the cache
            object.__setattr__(self, name, integers(name, getattr(self, name)))


def checked_layout(layout: str | Axes) -> str | Axes:
    """Converts a layout to its canonical spelling. Raises TypeError if it is neither a str nor Axes."""
    if isinstance(layout, str):
        return text(layout)
    if not isinstance(layout, Axes):
        raise TypeError(f"layout must be a str or Axes, got {shown(layout)}")
    return layout


def fans(
    shape: Iterable[int],
    layout: str | Axes = "...IO",
    *,
    groups: int = 1,
    transposed: bool = False,
    stride: int | Iterable[int] = 1,
    blocks: int = 1,
) -> Fans:
    """Exact fans of a weight of the given shape.

    I, O and rf are the products of the input, output and spatial axes:

    ==========  ===================================  ==========================
    weight      fan_in                               fan_out
    ==========  ===================================  ==========================
    ordinary    I * rf                               O / groups / blocks * rf
    transposed  I / groups * rf / prod(stride)       O / blocks * rf
    depthwise   rf                                   M / blocks * rf
    embedding   rf (1, without spatial axes)         D / blocks * rf
    ==========  ===================================  ==========================

    An axis of size zero gives a fan of zero.

    Parameters
    ----------
    shape : iterable of int
        Shape of the whole (global) weight, sizes >= 0. At least two axes; one axis is allowed with axis numbers.
    layout : str or Axes
        Role of each axis: letters as in the table of this module, or axis numbers.
    groups : int, >= 1
        Groups of a convolution. As in every framework, the weight's input axis then holds I / groups (ordinary
        convolution), or its output axis O / groups (transposed convolution).
    transposed : bool
        Whether the weight belongs to a transposed convolution. The layout does not imply it.
    stride : int or iterable of int, >= 1
        Stride of a transposed convolution, one for all spatial axes or one per axis. Only one in prod(stride) of the
        kernel's entries meets an input, so ``fan_in`` is the exact mean over the outputs, away from the borders. The
        stride of an ordinary convolution does not change ``fan_in`` and is not a parameter.
    blocks : int, >= 1
        Number of equal blocks packed in the output axis (3 for QKV and GRU, 4 for LSTM, 2 for SwiGLU). ``fan_out`` is
        that of one block.

    Raises
    ------
    TypeError
        If a size, axis, stride or count is not an integer (bool is rejected), or the layout is neither str nor Axes.
    ValueError
        If a size is negative; if the shape has fewer than two axes under a layout of letters; if the layout is invalid
        or does not fit the shape; if groups or blocks do not divide their axis; if a weight without input axis has
        groups; or if a stride is given without ``transposed=True``.

    Examples
    --------
    >>> fans((784, 256))                                                # dense, Keras and JAX
    Fans(fan_in=784, fan_out=256, receptive_field_size=1)
    >>> fans((64, 3, 7, 7), "OI...")                                    # torch Conv2d(3, 64, 7)
    Fans(fan_in=147, fan_out=3136, receptive_field_size=49)
    >>> fans((64, 1, 3, 3), "OI...", groups=32)                         # torch depthwise, multiplier 2
    Fans(fan_in=9, fan_out=18, receptive_field_size=9)
    >>> fans((3, 3, 32, 2), "...IM")                                    # the same in Keras
    Fans(fan_in=9, fan_out=18, receptive_field_size=9)
    >>> fans((6, 4, 3, 3), "IO...", transposed=True, groups=2, stride=2)  # torch ConvTranspose2d
    Fans(fan_in=Fraction(27, 4), fan_out=36, receptive_field_size=9)
    >>> fans((192, 64), "OI", blocks=3)                                 # packed QKV
    Fans(fan_in=64, fan_out=64, receptive_field_size=1)
    >>> fans((50257, 768), "VD")                                        # embedding
    Fans(fan_in=1, fan_out=768, receptive_field_size=1)
    """
    layout = checked_layout(layout)
    if not isinstance(transposed, bool):
        raise TypeError(f"transposed must be a bool, got {shown(transposed)}")
    if not isinstance(shape, Iterable):
        raise TypeError(f"shape must be an iterable of integers, got {shown(shape)}")
    return _fans(
        integers("shape", shape, MOST_AXES),
        layout,
        integer("groups", groups),
        transposed,
        integer_or_integers("stride", stride),
        integer("blocks", blocks),
    )


@lru_cache(maxsize=4096)  # every fill needs the fans, and a model has few distinct shapes
def _fans(
    shape: tuple[int, ...],
    layout: str | Axes,
    groups: int,
    transposed: bool,
    stride: int | tuple[int, ...],
    blocks: int,
) -> Fans:
    """:func:`fans` of normalised arguments, so that equal calls share a cache entry."""
    if any(size < 0 for size in shape):
        raise ValueError(f"the axes of shape must be >= 0, got {shown(shape)}")
    if len(shape) < 2 and not isinstance(layout, Axes):
        raise ValueError(f"fans need a shape with an input and an output axis, got {shape}: {len(shape)}-d")
    roles = axis_roles(shape, layout)
    ins, outs, field = (prod(size for size, role in zip(shape, roles, strict=True) if role == r) for r in "IO.")
    spatial = roles.count(".")

    given = (stride,) if isinstance(stride, int) else stride
    for name, value in ("groups", groups), ("blocks", blocks), ("stride", min(given, default=1)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if any(step != 1 for step in given) and not (transposed and spatial):
        raise ValueError(f"a stride needs transposed=True and spatial axes, got stride {stride} for {shown(layout)}")
    steps = given * spatial if isinstance(stride, int) else given
    if len(steps) != spatial:
        raise ValueError(f"stride must be one integer or {spatial}, one per spatial axis, got {stride}")
    if groups != 1 and "I" not in roles:
        raise ValueError(f"groups must be 1, since {shown(layout)} has no input axis to split, got {groups}")

    if transposed:
        ins = _divided("input", ins, "groups", groups)
        outs = _divided("output", outs, "blocks", blocks)
    else:
        outs = _divided("output", outs, "groups * blocks", groups * blocks)
    fan_in = Fraction(ins * field, prod(steps))
    return Fans(int(fan_in) if fan_in.denominator == 1 else fan_in, outs * field, field)


def axis_roles(shape: tuple[int, ...], layout: str | Axes) -> str:
    """One letter per axis for its role: input I, output O, neither E, spatial "."."""
    return _roles_by_number(layout, shape) if isinstance(layout, Axes) else _roles_by_letter(layout, shape)


# The other letters reduce to the roles I, O and E. The channels of a depthwise kernel and the rows of an embedding are
# not summed over, so their fans have no input factor.
_ROLES = {"IO": {}, "IM": {"I": "E", "M": "O"}, "DV": {"V": "E", "D": "O"}}


def _roles_by_letter(layout: str, shape: tuple[int, ...]) -> str:
    """Roles from a layout's letters."""
    match = re.fullmatch(r"([A-Z]*)(\.\.\.)?([A-Z]*)", layout)
    if match is None:
        raise ValueError(f"layout must be capital letters with at most one '...', got {shown(layout)}")
    before, dots, after = match.groups()
    letters = before + after
    named = "".join(sorted(set(letters) & set("IOMVD" if "V" in letters else "IOM")))
    if named not in _ROLES:
        raise ValueError(f"layout must name its axes by I and O, by I and M, or by V and D, got {shown(layout)}")
    missing = len(shape) - len(letters)
    if missing < 0 or (missing and not dots):
        wanted = f"at least {len(letters)}" if dots else f"{len(letters)}"
        raise ValueError(f"layout {shown(layout)} needs {wanted} axes, got shape {shape}: {len(shape)}-d")
    roles = {"I": "I", "O": "O", "E": "E"} | _ROLES[named]
    return "".join(roles.get(letter, ".") for letter in before + "." * missing + after)


def _roles_by_number(axes: Axes, shape: tuple[int, ...]) -> str:
    """Roles from axis numbers. An axis that is both in and out counts in neither fan: E."""
    roles = ["."] * len(shape)
    for name, role, clash in ("in_axis", "I", "I"), ("out_axis", "O", "OE"), ("batch_axis", "E", "IOE"):
        for axis in integers(name, getattr(axes, name)):
            if not -len(shape) <= axis < len(shape):
                raise ValueError(f"{name} {axis} is out of range for shape {shape}: {len(shape)}-d")
            if roles[axis] in clash:
                raise ValueError(f"{name} names axis {axis} again, got {axes} for shape {shape}")
            roles[axis] = role if roles[axis] == "." else "E"
    return "".join(roles)


def _divided(axis: str, size: int, name: str, count: int) -> int:
    if size % count:
        raise ValueError(f"{name} must divide the {axis} features, got {name} {count} and {size} features")
    return size // count
