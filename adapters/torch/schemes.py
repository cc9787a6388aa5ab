"""Initializers that torch lacks, in torch's style: they work in place, without autograd, and return the tensor.

All take ``generator``, as torch's do, and these keyword arguments:

key : Key or int
    The stream, instead of 64 bits drawn once from the generator.
groups, transposed, stride
    Properties of the weight's convolution, for its true fans; see :func:`fastinit.fans`. The weight of a transposed
    convolution has shape (in, out / groups, ...), any other (out, in / groups, ...).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import fastinit
from fastinit import Initializer, Key, StructuredInitializer, VarianceScaling
from fastinit.adapters.torch.drawing import Made, factory, given_key, notices, plain_number
from fastinit.adapters.torch.internals import is_fake, is_watched, shape_of, torch_init
from fastinit.adapters.torch.parametrized import tell_if_lost
from fastinit.adapters.torch.recording import is_recorded, record, traceable
from fastinit.adapters.torch.tensors import Kind, draw, drawn_key, is_recordable, kind_of, not_a_tensor, write
from fastinit.extending import at_least, in_stream_environment, remembered, shown

__all__ = [
    "delta_orthogonal_",
    "icnr_",
    "kaiming_truncated_normal_",
    "lecun_normal_",
    "lecun_truncated_normal_",
    "lecun_uniform_",
    "variance_scaling_",
    "xavier_truncated_normal_",
    "zero_init_",
]

LAYOUT = "OI..."


@factory
def xavier(distribution: str, gain: float) -> Made:
    """Initializer for torch's ``xavier_*_``, with torch's fans, which are the true ones for weights without groups."""
    if gain == 0:
        return ""  # torch fills zeros
    if gain < 0:
        raise ValueError(f"gain must be at least 0, got {gain}")
    return VarianceScaling(gain * gain, "fan_avg", distribution, LAYOUT)


def _kaiming(distribution: str, a: float | None, mode: str, nonlinearity: Any) -> Made:
    """Initializer for torch's ``kaiming_*_``, with torch's fans and gains."""
    gain = torch_init.calculate_gain(nonlinearity, a)  # refuses some slopes and all unknown names
    if mode.lower() not in ("fan_in", "fan_out"):
        raise ValueError(f"mode must be fan_in or fan_out, got {shown(mode)}")
    scale = gain * gain
    if nonlinearity in ("relu", "leaky_relu"):  # the same number, exactly
        slope = 0.0 if nonlinearity == "relu" else 0.01 if a is None else a
        scale = fastinit.he_normal(negative_slope=slope).scale
    return VarianceScaling(scale, mode.lower(), distribution, LAYOUT)


kaiming = factory(_kaiming, number=lambda value: value)  # torch refuses slopes that are tensors


def of_weight(
    initializer: Made,
    groups: int,
    transposed: bool,
    stride: int | Iterable[int],
    original: Callable[..., Tensor],
    *arguments: Any,
) -> tuple[Any, ...]:
    """The arguments of :func:`draw` to fill a weight with the true fans of its convolution.

    `original` and its arguments are torch's, which ignores groups, or those of :func:`_by_torch`.
    """
    if (groups == 1 and not transposed and stride == 1) or not isinstance(initializer, VarianceScaling):
        return (initializer, original, *arguments)
    steps: int | tuple[int, ...] = 1
    if isinstance(stride, Iterable) and not isinstance(stride, (str, bytes, bytearray, memoryview)):
        steps = tuple(at_least(1, "stride", step) for step in stride)
    else:
        steps = at_least(1, "stride", stride)
    initializer = _of_convolution(initializer, groups, transposed, steps)
    return initializer, _by_torch, initializer, original, arguments


@remembered
def _of_convolution(
    initializer: VarianceScaling, groups: int, transposed: bool, stride: int | tuple[int, ...]
) -> VarianceScaling:
    layout = "IO..." if transposed else LAYOUT
    return replace(initializer, layout=layout, groups=groups, transposed=transposed, stride=stride)


def _by_torch(
    tensor: Tensor,
    initializer: VarianceScaling,
    original: Callable[..., Tensor] | None = None,
    arguments: tuple[Any, ...] = (),
    *,
    generator: torch.Generator | None,
) -> Tensor:
    """Fills the tensor with torch from an initializer's distribution; without elements, as `original` does."""
    _check_tensor(tensor)
    sampling = initializer.sampling(tuple(tensor.shape))
    if is_fake(tensor) and not is_recorded():
        return tensor
    if not tensor.numel():
        return tensor if original is None else original(tensor, *arguments, generator=generator)
    if sampling.distribution == "uniform":
        return torch_init.uniform_(tensor, sampling.low, sampling.high, generator)
    if sampling.distribution == "normal":
        return torch_init.normal_(tensor, sampling.mean, sampling.std, generator)
    if sampling.distribution == "truncated_normal":
        return torch_init.trunc_normal_(tensor, sampling.mean, sampling.std, sampling.low, sampling.high, generator)
    return torch_init.constant_(tensor, sampling.mean)


def _of_truncated(
    initializer: Made,
    groups: int,
    transposed: bool,
    stride: int | Iterable[int],
    original: Callable[..., Tensor],
    *arguments: Any,
) -> tuple[Any, ...]:
    """:func:`of_weight` if torch's function has another distribution: the fallback then draws fastinit's with torch."""
    if not isinstance(initializer, VarianceScaling):
        return (initializer, original, *arguments)
    return of_weight(initializer, groups, transposed, stride, _by_torch, initializer, original, arguments)


def _said_of_no_elements(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch's function, with its warning about weights without elements attributed to the caller's line."""

    def by_torch(tensor: Tensor, *parameters: Any, generator: torch.Generator | None) -> Tensor:
        if kind_of(tensor) is Kind.PLAIN and not tensor.numel() and not is_watched():
            warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=notices.caller())
            return tensor
        return original(tensor, *parameters, generator=generator)

    return by_torch


kaiming_uniform_by_torch = _said_of_no_elements(torch_init.kaiming_uniform_)
kaiming_normal_by_torch = _said_of_no_elements(torch_init.kaiming_normal_)


@traceable
def variance_scaling_(
    tensor: Tensor,
    scale: float = 1.0,
    mode: str = "fan_in",
    distribution: str = "truncated_normal",
    generator: torch.Generator | None = None,
    *,
    key: Key | int | None = None,
    groups: int = 1,
    transposed: bool = False,
    stride: int | Iterable[int] = 1,
) -> Tensor:
    """Fills a weight so that its variance is ``scale / fan``.

    Parameters
    ----------
    tensor : torch.Tensor
        Weight (out, in, ...) with at least two axes, filled in place and returned.
    scale : float
        Multiplies the variance, in (0, inf).
    mode : {"fan_in", "fan_out", "fan_avg", "fan_geo_avg"}
        The fan: inputs, outputs, or their arithmetic or geometric mean.
    distribution : {"truncated_normal", "normal", "uniform"}
        The truncated normal is truncated at +-2 standard deviations and has the given variance after truncation.
    generator, key, groups, transposed, stride
        As in all functions of this module.

    Raises
    ------
    ValueError
        If an argument is out of range, or the shape does not fit.

    Examples
    --------
    >>> from fastinit.adapters.torch import init
    >>> import torch
    >>> weight = init.variance_scaling_(torch.empty(512, 256), 2.0, "fan_out", "normal", key=0)
    >>> print(f"{weight.std():.2f}")  # sqrt(2 / 512)
    0.06
    """
    try:
        initializer = _variance_scaling(plain_number(scale), mode, distribution)
    except TypeError:  # an unhashable argument, which is invalid but not checked yet
        initializer = VarianceScaling(plain_number(scale), mode, distribution, LAYOUT)
    _check_tensor(tensor)
    return draw(tensor, key, generator, *of_weight(initializer, groups, transposed, stride, _by_torch, initializer))


def _check_tensor(tensor: Tensor) -> None:
    """Raises TypeError, because torch has no such function to raise it."""
    if not isinstance(tensor, Tensor):
        raise not_a_tensor(tensor)


@remembered
def _variance_scaling(scale: float, mode: str, distribution: str) -> VarianceScaling:
    return VarianceScaling(scale, mode, distribution, LAYOUT)


def _lecun(
    tensor: Tensor,
    distribution: str,
    generator: torch.Generator | None,
    key: Key | int | None,
    groups: int,
    transposed: bool,
    stride: int | Iterable[int],
) -> Tensor:
    _check_tensor(tensor)
    initializer = _variance_scaling(1.0, "fan_in", distribution)
    return draw(tensor, key, generator, *of_weight(initializer, groups, transposed, stride, _by_torch, initializer))


@traceable
def lecun_uniform_(
    tensor: Tensor,
    generator: torch.Generator | None = None,
    *,
    key: Key | int | None = None,
    groups: int = 1,
    transposed: bool = False,
    stride: int | Iterable[int] = 1,
) -> Tensor:
    """Fills a weight (out, in, ...) with variance 1 / fan_in, uniform on +-sqrt(3 / fan_in).

    Y. LeCun et al., "Efficient BackProp", 1998; G. Klambauer et al., "Self-normalizing neural networks", 2017.

    Parameters
    ----------
    tensor : torch.Tensor
        Tensor of at least two axes, filled in place and returned.
    generator, key
        Source of the numbers; see :mod:`fastinit.adapters.torch.init`.
    groups, transposed, stride
        Properties of the weight's convolution, for its true fans; see :func:`fastinit.fans`.

    Raises
    ------
    ValueError
        For a shape of fewer than two axes.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import init
    >>> weight = init.lecun_uniform_(torch.empty(512, 256), key=0)
    >>> print(f"{weight.std():.2f}")  # sqrt(1 / 256)
    0.06
    """
    return _lecun(tensor, "uniform", generator, key, groups, transposed, stride)


@traceable
def lecun_normal_(
    tensor: Tensor,
    generator: torch.Generator | None = None,
    *,
    key: Key | int | None = None,
    groups: int = 1,
    transposed: bool = False,
    stride: int | Iterable[int] = 1,
) -> Tensor:
    """Fills a weight (out, in, ...) with variance 1 / fan_in, normal and untruncated.

    Y. LeCun et al., "Efficient BackProp", 1998; G. Klambauer et al., "Self-normalizing neural networks", 2017.

    Parameters
    ----------
    tensor : torch.Tensor
        Tensor of at least two axes, filled in place and returned.
    generator, key
        Source of the numbers; see :mod:`fastinit.adapters.torch.init`.
    groups, transposed, stride
        Properties of the weight's convolution, for its true fans; see :func:`fastinit.fans`.

    Raises
    ------
    ValueError
        For a shape of fewer than two axes.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import init
    >>> weight = init.lecun_normal_(torch.empty(512, 256), key=0)
    >>> print(f"{weight.std():.2f}")  # sqrt(1 / 256)
    0.06
    """
    return _lecun(tensor, "normal", generator, key, groups, transposed, stride)


@traceable
def lecun_truncated_normal_(
    tensor: Tensor,
    generator: torch.Generator | None = None,
    *,
    key: Key | int | None = None,
    groups: int = 1,
    transposed: bool = False,
    stride: int | Iterable[int] = 1,
) -> Tensor:
    """Fills a weight (out, in, ...) with variance 1 / fan_in, normal and truncated at +-2 standard deviations.

    Y. LeCun et al., "Efficient BackProp", 1998; G. Klambauer et al., "Self-normalizing neural networks", 2017.

    Parameters
    ----------
    tensor : torch.Tensor
        Tensor of at least two axes, filled in place and returned.
    generator, key
        Source of the numbers; see :mod:`fastinit.adapters.torch.init`.
    groups, transposed, stride
        Properties of the weight's convolution, for its true fans; see :func:`fastinit.fans`.

    Raises
    ------
    ValueError
        For a shape of fewer than two axes.

    Examples
    --------
    >>> import torch
    >>> from fastinit.adapters.torch import init
    >>> weight = init.lecun_truncated_normal_(torch.empty(512, 256), key=0)
    >>> print(f"{weight.std():.2f}")  # sqrt(1 / 256)
    0.06
    """
    return _lecun(tensor, "truncated_normal", generator, key, groups, transposed, stride)


@traceable
def xavier_truncated_normal_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | int | None = None,
    groups: int = 1,
    transposed: bool = False,
    stride: int | Iterable[int] = 1,
) -> Tensor:
    """``xavier_normal_`` truncated at +-2 standard deviations, with the same variance after truncation.

    Keras, JAX and TensorFlow call it glorot_normal. X. Glorot and Y. Bengio, "Understanding the difficulty of
    training deep feedforward neural networks", 2010.

    Parameters
    ----------
    tensor : torch.Tensor
        Tensor of at least two axes, filled in place and returned.
    gain : float
        Multiplies the standard deviation.
    generator, key
        Source of the numbers; see :mod:`fastinit.adapters.torch.init`.
    groups, transposed, stride
        Properties of the weight's convolution, for its true fans; see :func:`fastinit.fans`.

    Examples
    --------
    >>> from fastinit.adapters.torch import init
    >>> import torch
    >>> weight = init.xavier_truncated_normal_(torch.empty(512, 256), key=0)
    >>> print(f"{weight.std():.2f}")  # sqrt(2 / (256 + 512))
    0.05
    """
    initializer, original = xavier("truncated_normal", gain), torch_init.xavier_normal_
    return draw(tensor, key, generator, *_of_truncated(initializer, groups, transposed, stride, original, gain))


@traceable
def kaiming_truncated_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    key: Key | int | None = None,
    groups: int = 1,
    transposed: bool = False,
    stride: int | Iterable[int] = 1,
) -> Tensor:
    """``kaiming_normal_`` truncated at +-2 standard deviations, with the same variance after truncation.

    Keras, JAX and TensorFlow call it he_normal. K. He et al., "Delving deep into rectifiers", 2015.

    Parameters
    ----------
    tensor : torch.Tensor
        Tensor of at least two axes, filled in place and returned.
    a : float
        Negative slope of a leaky_relu.
    mode : {"fan_in", "fan_out"}
        The fan that scales the weight.
    nonlinearity : str
        Name of the following activation, as in ``calculate_gain``.
    generator, key
        Source of the numbers; see :mod:`fastinit.adapters.torch.init`.
    groups, transposed, stride
        Properties of the weight's convolution, for its true fans; see :func:`fastinit.fans`.

    Examples
    --------
    >>> from fastinit.adapters.torch import init
    >>> import torch
    >>> weight = init.kaiming_truncated_normal_(torch.empty(512, 256), nonlinearity="relu", key=0)
    >>> print(f"{weight.std():.2f}")  # sqrt(2 / 256)
    0.09
    """
    initializer, torchs = kaiming("truncated_normal", a, mode, nonlinearity), (kaiming_normal_by_torch, a, mode)
    weight = _of_truncated(initializer, groups, transposed, stride, *torchs, nonlinearity)
    return draw(tensor, key, generator, *weight)


@traceable
def delta_orthogonal_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Fills a norm-preserving convolution: an orthogonal matrix at the spatial centre, 0 elsewhere.

    Parameters
    ----------
    tensor : torch.Tensor
        Weight (out, in, ...) with one to three spatial axes and out >= in, filled in place and returned.
    gain : float
        Multiplies the matrix.
    generator, key
        As in all functions of this module.

    Raises
    ------
    ValueError
        If the shape does not have 3 to 5 axes, or out < in.

    Notes
    -----
    L. Xiao et al., "Dynamical isometry and a mean field theory of CNNs", 2018.

    Examples
    --------
    >>> from fastinit.adapters.torch import init
    >>> import torch
    >>> kernel = init.delta_orthogonal_(torch.empty(8, 4, 3), key=0)
    >>> torch.allclose(kernel[:, :, 1].T @ kernel[:, :, 1], torch.eye(4), atol=1e-6), bool(kernel[:, :, 0].any())
    (True, False)
    """
    return _whole(tensor, fastinit.DeltaOrthogonal(plain_number(gain), LAYOUT), key, generator)


@traceable
def icnr_(
    tensor: Tensor,
    factor: int = 2,
    initializer: Initializer | None = None,
    generator: torch.Generator | None = None,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Fills a convolution before PixelShuffle so that the two start as a nearest-neighbour resize.

    Parameters
    ----------
    tensor : torch.Tensor
        Weight (out, in, ...) with d = 1 to 3 spatial axes, filled in place and returned; factor^d must divide out.
    factor : int
        The PixelShuffle's upscale_factor.
    initializer : Initializer, optional
        Initializer of the kernel that all sub-pixels share, by default ``fastinit.he_normal(layout="OI...")``.
    generator, key
        As in all functions of this module.

    Raises
    ------
    ValueError
        If the shape does not have 3 to 5 axes, or factor^d does not divide out.

    Notes
    -----
    A. Aitken et al., "Checkerboard artifact free sub-pixel convolution", 2017.

    Examples
    --------
    >>> from fastinit.adapters.torch import init
    >>> import torch
    >>> kernel = init.icnr_(torch.empty(4, 2, 3, 3), factor=2, key=0)  # one channel, 2 x 2 sub-pixels
    >>> bool((kernel == kernel[:1]).all())
    True
    """
    kernel = fastinit.he_normal(layout=LAYOUT) if initializer is None else initializer
    return _whole(tensor, fastinit.ICNR(kernel, factor, LAYOUT), key, generator)


@traceable
def zero_init_(tensor: Tensor) -> Tensor:
    """Fills a weight (out, in, ...) of two to five axes with zeros and ones only: ZerO. It draws nothing.

    The spatial centre is an identity, a part of one, or a part of a scaled Hadamard matrix. See
    :class:`fastinit.ZerO`, also for the errors.

    J. Zhao, F. Schaefer and A. Anandkumar, "ZerO initialization", 2022.

    Parameters
    ----------
    tensor : torch.Tensor
        Tensor of two to five axes, filled in place and returned.

    Examples
    --------
    >>> from fastinit.adapters.torch import init
    >>> import torch
    >>> init.zero_init_(torch.empty(2, 3))
    tensor([[1., 0., 0.],
            [0., 1., 0.]])
    """
    return _whole(tensor, _ZERO, 0, None)


_ZERO = fastinit.ZerO(LAYOUT)


@in_stream_environment
def _whole(
    tensor: Tensor, initializer: StructuredInitializer, key: Key | int | None, generator: torch.Generator | None
) -> Tensor:
    """Fills a tensor with a structured initializer. A tensor that fastinit cannot write gets a copy of the values."""
    _check_tensor(tensor)
    initializer.check_shape(shape_of(tensor))
    kind = kind_of(tensor)
    if is_recordable(kind, tensor, initializer):
        if generator is not None:
            raise ValueError("a graph cannot hold a generator: give a key, or none of both")
        return record(tensor, initializer, None if key is None else given_key(key))
    if kind is Kind.UNREAL:
        return tensor
    if tensor.requires_grad:
        tell_if_lost(tensor)
    if not (tensor.is_floating_point() or tensor.is_complex()):
        raise TypeError(f"the tensor must be of a floating-point or complex dtype, not {tensor.dtype}")
    given = drawn_key(tensor, generator) if key is None else given_key(key, generator)
    if kind is not Kind.FOREIGN and not (kind is Kind.PLAIN and is_watched()):
        return write(kind, tensor, initializer, given)
    # another dtype or class, or a mode that must see the operation
    double = tensor.dtype in (torch.float64, torch.complex128)
    host = torch.empty(tensor.shape, dtype=torch.float64 if double else torch.float32, device="cpu")
    with torch.no_grad():
        return tensor.copy_(write(Kind.PLAIN, host, initializer, given))
