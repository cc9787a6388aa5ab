"""torch.nn.init on fastinit: the same names, arguments, defaults, errors and warnings; new numbers, more speed.

>>> from fastinit.adapters.torch import init
>>> weight = init.kaiming_normal_(torch.empty(256, 128), nonlinearity="relu")

Every function fills its tensor in place, without autograd, and returns it. The numbers follow ``torch.manual_seed`` or
``generator=``: each call draws 64 bits from the generator as its key. The functions have these keyword arguments:

key : Key or int
    The stream, instead of the bits from the generator.
groups, transposed, stride
    Properties of the weight's convolution, for its true fans. Without them the fans are torch's, which are wrong for
    grouped and transposed convolutions. See :func:`fastinit.fans`.

Unsupported tensors and parameters (complex tensors, unknown subclasses, a standard deviation that float16 cannot hold)
fall back to torch, with one warning; torch may also raise. Most functions without random numbers are torch's own. This
module also offers the initializers of :mod:`fastinit.adapters.torch.schemes`, which torch lacks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn.init import calculate_gain, constant_, ones_, zeros_

from fastinit import Dirac, Identity, Key, Normal, Orthogonal, Sparse, TruncatedNormal, Uniform
from fastinit.adapters.torch import internals
from fastinit.adapters.torch.drawing import Made, factory, notices
from fastinit.adapters.torch.internals import is_fake, shape_of, torch_init
from fastinit.adapters.torch.recording import is_recorded, traceable
from fastinit.adapters.torch.schemes import (
    LAYOUT,
    delta_orthogonal_,
    icnr_,
    kaiming,
    kaiming_normal_by_torch,
    kaiming_truncated_normal_,
    kaiming_uniform_by_torch,
    lecun_normal_,
    lecun_truncated_normal_,
    lecun_uniform_,
    of_weight,
    variance_scaling_,
    xavier,
    xavier_truncated_normal_,
    zero_init_,
)
from fastinit.adapters.torch.tensors import Kind, draw, kind_of, place

__all__ = [
    "calculate_gain",
    "constant",
    "constant_",
    "delta_orthogonal_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "icnr_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_truncated_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "lecun_normal_",
    "lecun_truncated_normal_",
    "lecun_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "variance_scaling_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_truncated_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zero_init_",
    "zeros_",
]

# private, but used by other packages
_no_grad_fill_ = internals.no_grad_fill_
_no_grad_zero_ = internals.no_grad_zero_
_calculate_fan_in_and_fan_out = internals.calculate_fan_in_and_fan_out
_calculate_correct_fan = internals.calculate_correct_fan


@factory
def _uniform(a: float, b: float) -> Made:
    if a == b or b - a > torch.finfo(torch.float32).max:
        return ""  # torch fills with a; torch refuses
    return Uniform(a, b)


@factory
def _truncated_normal(mean: float, std: float, a: float, b: float) -> Made:
    if std == 0 or a == b:
        return ""  # torch divides by zero; torch fills with a
    if _share(mean, std, a, b) <= 0.3 and not (math.isfinite(a) and math.isfinite(b)):
        return ""  # torch refuses
    return TruncatedNormal(mean, std, a, b, bounds="absolute")


def _share(mean: float, std: float, a: float, b: float) -> float:
    """Probability of [a, b], computed as in torch."""
    lower, upper = ((1.0 + math.erf((bound - mean) / std / math.sqrt(2.0))) / 2.0 for bound in (a, b))
    return upper - lower


@factory
def _orthogonal(gain: float) -> Made:
    return Orthogonal(gain, column_axis=0)


@factory
def _sparse(zeros: int, rows: int, std: float) -> Made:
    # slice semantics, as in torch: too large a number means all rows, and a negative one counts from the end
    return Sparse(Fraction(len(range(rows)[:zeros]), rows), std)


@factory
def _dirac(groups: int) -> Made:
    return Dirac(groups, layout=LAYOUT)


_normal = factory(Normal)


@traceable
def uniform_(
    tensor: Tensor,
    a: float = 0.0,
    b: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Fills a tensor of any shape from the uniform distribution on [a, b); see :class:`fastinit.Uniform`.

    Raises RuntimeError if a > b, or if the dtype cannot hold a or b.

    Parameters
    ----------
    tensor : torch.Tensor
        Tensor, filled in place and returned.
    a, b : float
        The interval.
    generator, key
        Source of the numbers; see :mod:`fastinit.adapters.torch.init`.

    Examples
    --------
    >>> from fastinit.adapters.torch import init
    >>> weight = init.uniform_(torch.empty(1000), -0.5, 0.25, key=0)
    >>> bool(weight.min() >= -0.5), bool(weight.max() < 0.25)
    (True, True)
    """
    return draw(tensor, key, generator, _uniform(a, b), torch_init.uniform_, a, b)


@traceable
def normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Fills a tensor of any shape from the normal distribution; see :class:`fastinit.Normal`.

    Raises RuntimeError if std < 0 or std is NaN.

    Parameters
    ----------
    tensor : torch.Tensor
        Tensor, filled in place and returned.
    mean, std : float
        Mean and standard deviation, std >= 0.
    generator, key
        Source of the numbers; see :mod:`fastinit.adapters.torch.init`.

    Examples
    --------
    >>> from fastinit.adapters.torch import init
    >>> print(f"{init.normal_(torch.empty(100_000), std=0.02, key=0).std():.3f}")
    0.020
    """
    return draw(tensor, key, generator, _normal(mean, std), torch_init.normal_, mean, std)


@traceable
def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Fills a tensor of any shape from a normal distribution truncated to [a, b], in units of the values.

    Takes one draw per element for every interval; see :class:`fastinit.TruncatedNormal`.

    Raises ZeroDivisionError if std = 0, RuntimeError if a > b, and warns if the mean is more than 2 std outside.

    Parameters
    ----------
    tensor : torch.Tensor
        Tensor, filled in place and returned.
    mean, std : float
        Mean and standard deviation of the normal before truncation.
    a, b : float
        The interval, in units of the values.
    generator, key
        Source of the numbers; see :mod:`fastinit.adapters.torch.init`.

    Examples
    --------
    >>> from fastinit.adapters.torch import init
    >>> weight = init.trunc_normal_(torch.empty(1000), std=0.02, a=-0.04, b=0.04, key=0)
    >>> bool(weight.abs().max() <= 0.04)
    True
    """
    if not isinstance(tensor, Tensor):
        return torch_init.trunc_normal_(tensor, mean, std, a, b, generator)  # raises the error of this torch
    far = not tensor.is_meta and (mean < a - 2 * std or mean > b + 2 * std)
    if far:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect.",
            stacklevel=notices.caller(),
        )
    return draw(tensor, key, generator, _truncated_normal(mean, std, a, b), _truncated_by_torch, mean, std, a, b)


def _truncated_by_torch(
    tensor: Tensor, mean: float, std: float, a: float, b: float, generator: torch.Generator | None
) -> Tensor:
    if is_fake(tensor) and not is_recorded():  # the check would read the values
        return tensor
    with warnings.catch_warnings():  # already warned
        warnings.filterwarnings("ignore", "mean is more than 2 std", UserWarning)
        return torch_init.trunc_normal_(tensor, mean, std, a, b, generator)


@traceable
def xavier_uniform_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | int | None = None,
    groups: int = 1,
    transposed: bool = False,
    stride: int | Iterable[int] = 1,
) -> Tensor:
    """Fills a weight (out, in, ...) from U(-bound, bound), bound = gain * sqrt(6 / (fan_in + fan_out)).

    Raises ValueError for fewer than two axes.

    X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.

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
    >>> weight = init.xavier_uniform_(torch.empty(512, 256), key=0)
    >>> print(f"{weight.std():.2f}")  # sqrt(2 / (256 + 512))
    0.05
    """
    initializer = xavier("uniform", gain)
    if groups != 1 or transposed or stride != 1:
        weight = of_weight(initializer, groups, transposed, stride, torch_init.xavier_uniform_, gain)
        return draw(tensor, key, generator, *weight)
    return draw(tensor, key, generator, initializer, torch_init.xavier_uniform_, gain)


@traceable
def xavier_normal_(
    tensor: Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    key: Key | int | None = None,
    groups: int = 1,
    transposed: bool = False,
    stride: int | Iterable[int] = 1,
) -> Tensor:
    """Fills a weight (out, in, ...) from N(0, std^2), std = gain * sqrt(2 / (fan_in + fan_out)), untruncated.

    Raises ValueError for fewer than two axes, RuntimeError for a negative gain.

    X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.

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
    >>> weight = init.xavier_normal_(torch.empty(512, 256), key=0)
    >>> print(f"{weight.std():.2f}")  # sqrt(2 / (256 + 512))
    0.05
    """
    initializer = xavier("normal", gain)
    if groups != 1 or transposed or stride != 1:
        weight = of_weight(initializer, groups, transposed, stride, torch_init.xavier_normal_, gain)
        return draw(tensor, key, generator, *weight)
    return draw(tensor, key, generator, initializer, torch_init.xavier_normal_, gain)


@traceable
def kaiming_uniform_(
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
    """Fills a weight (out, in, ...) from U(-bound, bound), bound = gain * sqrt(3 / fan).

    `mode` names the fan, "fan_in" or "fan_out"; the gain is ``calculate_gain(nonlinearity, a)``, where `a` is the
    negative slope of a leaky_relu. A weight without elements is left alone, with a warning.

    Raises ValueError for fewer than two axes, another mode, another nonlinearity.

    K. He et al., "Delving deep into rectifiers", 2015.

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
    >>> weight = init.kaiming_uniform_(torch.empty(512, 256), nonlinearity="relu", key=0)
    >>> print(f"{weight.std():.2f}")  # sqrt(2 / 256)
    0.09
    """
    initializer = kaiming("uniform", a, mode, nonlinearity)
    if groups != 1 or transposed or stride != 1:
        weight = of_weight(initializer, groups, transposed, stride, kaiming_uniform_by_torch, a, mode, nonlinearity)
        return draw(tensor, key, generator, *weight)
    return draw(tensor, key, generator, initializer, kaiming_uniform_by_torch, a, mode, nonlinearity)


@traceable
def kaiming_normal_(
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
    """Fills a weight (out, in, ...) from N(0, std^2), std = gain / sqrt(fan), untruncated.

    The arguments, the warning and the errors are those of :func:`kaiming_uniform_`.

    K. He et al., "Delving deep into rectifiers", 2015.

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
    >>> weight = init.kaiming_normal_(torch.empty(512, 256), nonlinearity="relu", key=0)
    >>> print(f"{weight.std():.2f}")  # sqrt(2 / 256)
    0.09
    """
    initializer = kaiming("normal", a, mode, nonlinearity)
    if groups != 1 or transposed or stride != 1:
        weight = of_weight(initializer, groups, transposed, stride, kaiming_normal_by_torch, a, mode, nonlinearity)
        return draw(tensor, key, generator, *weight)
    return draw(tensor, key, generator, initializer, kaiming_normal_by_torch, a, mode, nonlinearity)


@traceable
def orthogonal_(
    tensor: Tensor,
    gain: float = 1,
    generator: torch.Generator | None = None,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Fills a weight (out, ...) with an orthogonal matrix (out, all other axes), times gain.

    Its rows or columns are orthonormal.

    Exactly Haar-distributed, in any dtype and layout; see :class:`fastinit.Orthogonal`.

    Raises ValueError for fewer than two axes.

    A. M. Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks", 2013.

    Parameters
    ----------
    tensor : torch.Tensor
        Tensor of at least two axes, filled in place and returned.
    gain : float
        Multiplies the matrix.
    generator, key
        Source of the numbers; see :mod:`fastinit.adapters.torch.init`.

    Examples
    --------
    >>> from fastinit.adapters.torch import init
    >>> weight = init.orthogonal_(torch.empty(4, 8), key=0)
    >>> torch.allclose(weight @ weight.T, torch.eye(4), atol=1e-6)
    True
    """
    return draw(tensor, key, generator, _orthogonal(gain), torch_init.orthogonal_, gain)


@traceable
def sparse_(
    tensor: Tensor,
    sparsity: float,
    std: float = 0.01,
    generator: torch.Generator | None = None,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Fills a matrix (rows, columns) from N(0, std^2), with ceil(sparsity * rows) zeros in each column.

    The positions of the zeros come from the same stream as the values; see :class:`fastinit.Sparse`.

    Raises ValueError for other than two axes.

    J. Martens, "Deep learning via Hessian-free optimization", 2010.

    Parameters
    ----------
    tensor : torch.Tensor
        Tensor of two axes, filled in place and returned.
    sparsity : float
        Share of zeros in each column, in [0, 1].
    std : float
        Standard deviation of the other values.
    generator, key
        Source of the numbers; see :mod:`fastinit.adapters.torch.init`.

    Examples
    --------
    >>> from fastinit.adapters.torch import init
    >>> (init.sparse_(torch.empty(10, 4), sparsity=0.9, key=0) == 0).sum(dim=0)
    tensor([9, 9, 9, 9])
    """
    initializer: Made = ""
    if tensor.ndimension() == 2 and (not tensor.is_meta or is_recorded()):
        rows = shape_of(tensor)[0]
        initializer = _sparse(math.ceil(sparsity * rows), rows, std)
    return draw(tensor, key, generator, initializer, _sparse_by_torch, sparsity, std, key is not None)


def _sparse_by_torch(
    tensor: Tensor, sparsity: float, std: float, seeded: bool, generator: torch.Generator | None
) -> Tensor:
    if is_fake(tensor) and not is_recorded() and tensor.ndimension() == 2:  # the operation would read the positions
        return tensor
    if not seeded or generator is None:
        return torch_init.sparse_(tensor, sparsity, std, generator)
    with torch.random.fork_rng(devices=()):  # torch always draws the positions from the default generator
        torch.default_generator.manual_seed(generator.initial_seed())
        return torch_init.sparse_(tensor, sparsity, std, generator)


@traceable
def eye_(tensor: Tensor) -> Tensor:
    """Fills a matrix with the identity, square or not.

    Raises ValueError for other than two axes.

    Parameters
    ----------
    tensor : torch.Tensor
        Tensor of two axes, filled in place and returned.

    Examples
    --------
    >>> from fastinit.adapters.torch import init
    >>> init.eye_(torch.empty(2, 3))
    tensor([[1., 0., 0.],
            [0., 1., 0.]])
    """
    original = torch_init.eye_  # which refuses DTensors
    return place(tensor, Identity(), original) if kind_of(tensor) is Kind.DISTRIBUTED else original(tensor)


@traceable
def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fills the weight (out, in / groups, ...) of a convolution so that each group is an identity map.

    Raises ValueError for other than three to five axes, or groups that do not divide the output channels.

    Parameters
    ----------
    tensor : torch.Tensor
        Tensor of three to five axes, filled in place and returned.
    groups : int
        Groups of the convolution.

    Examples
    --------
    >>> from fastinit.adapters.torch import init
    >>> init.dirac_(torch.empty(2, 2, 3))[:, :, 1]
    tensor([[1., 0.],
            [0., 1.]])
    """
    return place(tensor, _dirac(groups), torch_init.dirac_, groups)


@traceable
def _no_grad_uniform_(tensor: Tensor, a: float, b: float, generator: torch.Generator | None = None) -> Tensor:
    return draw(tensor, None, generator, _uniform(a, b), internals.no_grad_uniform_, a, b)


@traceable
def _no_grad_normal_(tensor: Tensor, mean: float, std: float, generator: torch.Generator | None = None) -> Tensor:
    return draw(tensor, None, generator, _normal(mean, std), internals.no_grad_normal_, mean, std)


@traceable
def _no_grad_trunc_normal_(
    tensor: Tensor, mean: float, std: float, a: float, b: float, generator: torch.Generator | None = None
) -> Tensor:
    return trunc_normal_(tensor, mean, std, a, b, generator)


uniform = internals.make_deprecate(uniform_)
normal = internals.make_deprecate(normal_)
constant = internals.make_deprecate(constant_)
eye = internals.make_deprecate(eye_)
dirac = internals.make_deprecate(dirac_)
xavier_uniform = internals.make_deprecate(xavier_uniform_)
xavier_normal = internals.make_deprecate(xavier_normal_)
kaiming_uniform = internals.make_deprecate(kaiming_uniform_)
kaiming_normal = internals.make_deprecate(kaiming_normal_)
orthogonal = internals.make_deprecate(orthogonal_)
sparse = internals.make_deprecate(sparse_)
