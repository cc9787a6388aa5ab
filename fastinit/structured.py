"""Structured initializers: tensors whose elements depend on each other, so that they are computed whole.

They obey the same laws as elementwise initializers: the same key and shape give the same bytes on any number of
threads, on any target, and for any slice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fastinit.checks import at_least, finite_number, integer, one_of, shown
from fastinit.dtypes import DTYPES
from fastinit.exact import same
from fastinit.filling import fill, words
from fastinit.householder import write_orthogonal
from fastinit.initializers import Initializer, Moments, Normal, StructuredInitializer, checked_inner
from fastinit.keys import Key
from fastinit.layouts import Axes, axis_roles, checked_layout

__all__ = ["ICNR", "DeltaOrthogonal", "Dirac", "Identity", "Orthogonal", "Sparse", "ZerO"]


def _output_input_spatial(shape: tuple[int, ...], layout: str | Axes, what: str) -> tuple[int, ...]:
    """The axes of `shape` in the order O, I, then the spatial ones."""
    roles = axis_roles(shape, layout)
    if sorted(roles.replace(".", "")) != ["I", "O"]:
        raise ValueError(f"the layout of {what} needs one O, one I and spatial axes, got {shown(layout)}")
    return tuple(sorted(range(len(shape)), key=lambda axis: "OI.".index(roles[axis])))


def _centre(weight: np.ndarray) -> np.ndarray:
    """The (O, I) matrix at the spatial centre of a weight (O, I, spatial...)."""
    return weight[(slice(None), slice(None), *(size // 2 for size in weight.shape[2:]))]


@dataclass(frozen=True, slots=True)
class Identity(StructuredInitializer):
    """`gain` on the diagonal of a matrix, 0 elsewhere; the matrix need not be square.

    Parameters
    ----------
    gain : float
        The value on the diagonal; finite.

    Raises
    ------
    ValueError
        If gain is not finite. When filling, if the shape does not have 2 axes.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> fastinit.fill(np.empty((2, 3)), fastinit.Identity(), fastinit.Key(0))
    array([[1., 0., 0.],
           [0., 1., 0.]])
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", finite_number(self.gain, "gain"))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2:
            raise ValueError(f"an identity needs 2 axes, got shape {shape}")

    def reach(self, shape: tuple[int, ...], dtype: str = "float32") -> float:
        return abs(self.gain)

    def write(self, out: np.ndarray, key: Key, num_threads: int | None, target: str | None) -> None:
        out[...] = 0.0
        np.fill_diagonal(out, self.gain)


@dataclass(frozen=True, slots=True)
class Dirac(StructuredInitializer):
    """A convolution that passes its input through: in each group, output channel d copies input channel d.

    Channels beyond the smaller of the two counts are 0, as in torch.

    Parameters
    ----------
    groups : int
        Groups of the convolution; must divide the output channels.
    gain : float
        The value at the centre.
    layout : str or Axes
        Axes of the output and input channels, as in :func:`fastinit.fans`.

    Raises
    ------
    ValueError
        If the shape does not have 3 to 5 axes, does not fit the layout, or `groups` does not divide the output
        channels.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> kernel = fastinit.fill(np.empty((2, 2, 3)), fastinit.Dirac(layout="OI..."), fastinit.Key(0))
    >>> kernel[:, :, 1]
    array([[1., 0.],
           [0., 1.]])
    """

    groups: int = 1
    gain: float = 1.0
    layout: str | Axes = "...IO"

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", at_least(1, "groups", self.groups))
        object.__setattr__(self, "gain", finite_number(self.gain, "gain"))
        object.__setattr__(self, "layout", checked_layout(self.layout))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if not 3 <= len(shape) <= 5:
            raise ValueError(f"a dirac needs the 3 to 5 axes of a convolution, got shape {shape}")
        output = shape[_output_input_spatial(shape, self.layout, "a dirac")[0]]
        if output % self.groups:
            raise ValueError(f"{self.groups} groups do not divide the {output} output channels of shape {shape}")

    def reach(self, shape: tuple[int, ...], dtype: str = "float32") -> float:
        return abs(self.gain)

    def write(self, out: np.ndarray, key: Key, num_threads: int | None, target: str | None) -> None:
        out[...] = 0.0
        centre = _centre(out.transpose(_output_input_spatial(out.shape, self.layout, "a dirac")))
        per_group = centre.shape[0] // self.groups
        for group in range(self.groups):
            np.fill_diagonal(centre[group * per_group : (group + 1) * per_group], self.gain)


@dataclass(frozen=True, slots=True)
class Orthogonal(StructuredInitializer):
    """A Haar-distributed random matrix with orthonormal rows or columns (whichever are fewer), times `gain`.

    Parameters
    ----------
    gain : float
        Multiplies the matrix.
    column_axis : int
        Axis of the matrix's columns; all other axes together form its rows. -1 for Keras and JAX weights (..., out), 0
        for torch weights (out, ...), which are treated as the transposed matrix.

    Raises
    ------
    ValueError
        If the shape has fewer than 2 axes or lacks the column axis.

    Notes
    -----
    The j-th Householder reflection is built from column j of a Gaussian matrix, from row j down, so no factorization is
    needed: G. W. Stewart, "The efficient generation of random orthogonal matrices", 1980. The signs follow
    F. Mezzadri, "How to generate random matrices from the classical compact groups", 2007. Sums run in one specified
    order on every target, so the matrix has the same bytes everywhere. Motivation: A. M. Saxe et al., "Exact solutions
    to the nonlinear dynamics of learning", 2013.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> weight = fastinit.fill(np.empty((8, 4)), fastinit.Orthogonal(), fastinit.Key(0))
    >>> bool(np.allclose(weight.T @ weight, np.eye(4)))
    True
    """

    gain: float = 1.0
    column_axis: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", finite_number(self.gain, "gain"))
        object.__setattr__(self, "column_axis", integer("column_axis", self.column_axis))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) < 2:
            raise ValueError(f"an orthogonal matrix needs at least 2 axes, got shape {shape}")
        if not -len(shape) <= self.column_axis < len(shape):
            raise ValueError(f"column_axis {self.column_axis} is out of range for shape {shape}")

    def moments(self, shape: tuple[int, ...]) -> Moments | None:
        self.check_shape(shape)
        size, columns = math.prod(shape), shape[self.column_axis]
        if not size:
            return None
        # the squares sum to the length of the shorter side: it counts the unit vectors
        return Moments(0.0, abs(self.gain) * math.sqrt(min(columns, size // columns) / size))

    def reach(self, shape: tuple[int, ...], dtype: str = "float32") -> float:
        return abs(self.gain)

    def write(self, out: np.ndarray, key: Key, num_threads: int | None, target: str | None) -> None:
        axis = self.column_axis % out.ndim
        if axis in (0, out.ndim - 1):
            matrix = out.reshape(-1, out.shape[-1]) if axis else out.reshape(out.shape[0], -1).T
            write_orthogonal(matrix, self.gain, key, num_threads, target)
            return
        moved = np.empty((out.size // out.shape[axis], out.shape[axis]), out.dtype)
        write_orthogonal(moved, self.gain, key, num_threads, target)
        others = out.shape[:axis] + out.shape[axis + 1 :]
        np.copyto(out, np.moveaxis(moved.reshape(*others, out.shape[axis]), -1, axis))


@dataclass(frozen=True, slots=True)
class DeltaOrthogonal(StructuredInitializer):
    """A convolution that keeps norms: an orthogonal matrix at the spatial centre, 0 elsewhere.

    Parameters
    ----------
    gain : float
        Multiplies the matrix.
    layout : str or Axes
        Axes of the output and input channels.

    Raises
    ------
    ValueError
        If the shape does not have 3 to 5 axes, does not fit the layout, or has fewer output than input channels.

    Notes
    -----
    L. Xiao et al., "Dynamical isometry and a mean field theory of CNNs", 2018.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> kernel = fastinit.fill(np.empty((3, 4, 8)), fastinit.DeltaOrthogonal(), fastinit.Key(0))  # (width, in, out)
    >>> bool(np.allclose(kernel[1] @ kernel[1].T, np.eye(4))), bool(kernel[0].any())
    (True, False)
    """

    gain: float = 1.0
    layout: str | Axes = "...IO"

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", finite_number(self.gain, "gain"))
        object.__setattr__(self, "layout", checked_layout(self.layout))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if not 3 <= len(shape) <= 5:
            raise ValueError(f"a delta-orthogonal kernel needs the 3 to 5 axes of a convolution, got shape {shape}")
        output, input_, *_ = _output_input_spatial(shape, self.layout, "a delta-orthogonal kernel")
        if shape[output] < shape[input_]:
            raise ValueError(
                f"a delta-orthogonal kernel needs at least as many output as input channels, got {shape[output]} < "
                f"{shape[input_]} in shape {shape}"
            )

    def reach(self, shape: tuple[int, ...], dtype: str = "float32") -> float:
        return abs(self.gain)

    def write(self, out: np.ndarray, key: Key, num_threads: int | None, target: str | None) -> None:
        out[...] = 0.0
        centre = _centre(out.transpose(_output_input_spatial(out.shape, self.layout, "a delta-orthogonal kernel")))
        matrix = np.empty(centre.shape[::-1], out.dtype)
        write_orthogonal(matrix, self.gain, key, num_threads, target)
        np.copyto(centre, matrix.T)


@dataclass(frozen=True, slots=True)
class Sparse(StructuredInitializer):
    """A normal matrix with an exact fraction of zeros along one axis, at positions drawn without replacement.

    Parameters
    ----------
    sparsity : float or fractions.Fraction
        Fraction of zeros in [0, 1]: ceil(sparsity * n) of the n elements along `axis`. A float means its decimal
        representation: 0.1 is exactly 1/10.
    std : float
        Standard deviation of the normals, in [0, inf).
    axis : int
        Axis along which the zeros are counted. 0, as in torch, gives every unit of an (in, out) weight the same number
        of inputs.

    Raises
    ------
    ValueError
        If the shape does not have 2 axes.

    Notes
    -----
    J. Martens, "Deep learning via Hessian-free optimization", 2010.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> weight = fastinit.fill(np.empty((10, 4)), fastinit.Sparse(0.9), fastinit.Key(0))
    >>> (weight == 0).sum(axis=0)
    array([9, 9, 9, 9])
    """

    sparsity: float | Fraction
    std: float = 0.01
    axis: int = 0

    def __post_init__(self) -> None:
        exact = self.sparsity
        sparsity = exact if isinstance(exact, Fraction) else finite_number(exact, "sparsity")
        if not 0 <= sparsity <= 1:
            raise ValueError(f"sparsity must be in [0, 1], got {shown(sparsity)}")
        object.__setattr__(self, "sparsity", sparsity)
        object.__setattr__(self, "std", Normal(0.0, self.std).std)
        axis = integer("axis", self.axis)
        if axis not in (-2, -1, 0, 1):
            raise ValueError(f"axis must be 0 or 1, got {axis}")
        object.__setattr__(self, "axis", axis % 2)

    def _share(self) -> Fraction:
        """The exact sparsity. The float 0.1 means 1/10."""
        return self.sparsity if isinstance(self.sparsity, Fraction) else Fraction(repr(self.sparsity))

    # compares exact shares: Fraction(1, 10) equals 0.1, but Fraction(0.1), which is slightly larger, does not
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sparse):
            return NotImplemented
        return self._share() == other._share() and same((self.std, self.axis), (other.std, other.axis))

    def __hash__(self) -> int:
        return hash((self._share(), self.std, self.axis))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2:
            raise ValueError(f"a sparse matrix needs 2 axes, got shape {shape}")

    def reach(self, shape: tuple[int, ...], dtype: str = "float32") -> float:
        return Normal(0.0, self.std).reach(shape, dtype)

    def write(self, out: np.ndarray, key: Key, num_threads: int | None, target: str | None) -> None:
        fill(out, Normal(0.0, self.std), key, num_threads=num_threads, target=target)
        axis, length = self.axis, out.shape[self.axis]
        zeros = math.ceil(self._share() * length)
        # Zero the elements with the smallest words. The position breaks ties, which are rare.
        order = words(key.fold_in("zeros"), 0, out.size, num_threads=num_threads).reshape(out.shape).astype(np.uint64)
        order <<= np.uint64(32)
        order |= np.arange(length, dtype=np.uint64).reshape((-1, 1) if axis == 0 else (1, -1))
        chosen = np.argpartition(order, zeros - 1, axis=axis) if 0 < zeros < length else np.argsort(order, axis=axis)
        chosen = chosen[:zeros] if axis == 0 else chosen[:, :zeros]
        np.put_along_axis(out, chosen, 0.0, axis=axis)


@dataclass(frozen=True, slots=True)
class ICNR(StructuredInitializer):
    """A sub-pixel convolution that starts as nearest-neighbour resize: one kernel, repeated for every sub-pixel.

    Parameters
    ----------
    initializer : Initializer
        Initializer of the kernel before repetition. That kernel has O / factor^d output channels, with d spatial axes.
    factor : int
        Upscaling factor of each spatial axis.
    layout : str or Axes
        Axes of the output and input channels.
    order : {"channel", "subpixel"}
        Which index varies more slowly on the output axis: the channel (torch's PixelShuffle) or the sub-pixel
        (TensorFlow's depth_to_space).

    Raises
    ------
    ValueError
        If the shape does not have 3 to 5 axes, does not fit the layout, or factor^d does not divide the output
        channels.

    Notes
    -----
    A. Aitken et al., "Checkerboard artifact free sub-pixel convolution", 2017.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> start = fastinit.ICNR(fastinit.he_normal())
    >>> kernel = fastinit.fill(np.empty((3, 3, 2, 4)), start, fastinit.Key(0))  # one channel, 2 x 2 sub-pixels
    >>> bool((kernel[..., :1] == kernel).all())
    True
    """

    initializer: Initializer
    factor: int = 2
    layout: str | Axes = "...IO"
    order: str = "channel"

    def __post_init__(self) -> None:
        checked_inner(self.initializer)
        object.__setattr__(self, "factor", at_least(1, "factor", self.factor))
        object.__setattr__(self, "layout", checked_layout(self.layout))
        object.__setattr__(self, "order", one_of("order", self.order, ("channel", "subpixel")))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if not 3 <= len(shape) <= 5:
            raise ValueError(f"ICNR needs the 3 to 5 axes of a convolution, got shape {shape}")
        output = shape[_output_input_spatial(shape, self.layout, "ICNR")[0]]
        copies = self.factor ** (len(shape) - 2)
        if output % copies:
            raise ValueError(f"{copies} sub-pixels do not divide the {output} output channels of shape {shape}")

    def check(self, shape: tuple[int, ...], dtype: str = "float32") -> None:
        self.check_shape(shape)
        working = DTYPES[dtype].working
        self.initializer.check(self._kernel_shape(shape), working)
        if dtype != working:  # narrowing supports neither infinity nor NaN
            StructuredInitializer.check(self, shape, dtype)

    def moments(self, shape: tuple[int, ...]) -> Moments | None:
        self.check_shape(shape)
        return self.initializer.moments(self._kernel_shape(shape))

    def reach(self, shape: tuple[int, ...], dtype: str = "float32") -> float:
        return self.initializer.reach(self._kernel_shape(shape), DTYPES[dtype].working)

    def _kernel_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        output = _output_input_spatial(shape, self.layout, "ICNR")[0]
        copies = self.factor ** (len(shape) - 2)
        return (*shape[:output], shape[output] // copies, *shape[output + 1 :])

    def write(self, out: np.ndarray, key: Key, num_threads: int | None, target: str | None) -> None:
        kernel = np.empty(self._kernel_shape(out.shape), out.dtype)
        fill(kernel, self.initializer, key, num_threads=num_threads, target=target)
        axis = _output_input_spatial(out.shape, self.layout, "ICNR")[0]
        copies = self.factor ** (out.ndim - 2)
        if self.order == "channel":
            np.copyto(out, np.repeat(kernel, copies, axis=axis))
        else:
            np.copyto(out, np.concatenate([kernel] * copies, axis=axis))


@dataclass(frozen=True, slots=True)
class ZerO(StructuredInitializer):
    """Deterministic: a (partial) identity, or a part of a scaled Hadamard matrix. The key is not used.

    If out <= in, the weight is a partial identity. If out > in, it is the first `out` rows and `in` columns of
    2^(-(m - 1) / 2) H_m, with H_m the Hadamard matrix of size 2^m >= out > 2^(m - 1). A convolution has that matrix at
    its spatial centre.

    Parameters
    ----------
    layout : str or Axes
        Axes of the output and input channels.

    Raises
    ------
    ValueError
        If the shape does not have 2 to 5 axes or does not fit the layout.

    Notes
    -----
    J. Zhao, F. Schaefer and A. Anandkumar, "ZerO initialization: initializing neural networks with only
    zeros and ones", 2022.

    Examples
    --------
    >>> import numpy as np, fastinit
    >>> fastinit.fill(np.empty((2, 3)), fastinit.ZerO(layout="OI"), fastinit.Key(0))
    array([[1., 0., 0.],
           [0., 1., 0.]])
    """

    layout: str | Axes = "...IO"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", checked_layout(self.layout))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if not 2 <= len(shape) <= 5:
            raise ValueError(f"ZerO needs 2 to 5 axes, got shape {shape}")
        _output_input_spatial(shape, self.layout, "ZerO")

    def reach(self, shape: tuple[int, ...], dtype: str = "float32") -> float:
        return 1.0

    def write(self, out: np.ndarray, key: Key, num_threads: int | None, target: str | None) -> None:
        out[...] = 0.0
        centre = _centre(out.transpose(_output_input_spatial(out.shape, self.layout, "ZerO")))
        rows, columns = centre.shape
        if rows <= columns:
            np.fill_diagonal(centre, 1.0)
            return
        m = (rows - 1).bit_length()
        # Sylvester: the sign of element (i, j) is the parity of popcount(i & j)
        shared = np.arange(rows)[:, None] & np.arange(columns)[None, :]
        scale = math.sqrt(math.ldexp(1.0, -(m - 1)))
        for shift in (32, 16, 8, 4, 2, 1):
            shared ^= shared >> shift
        np.copyto(centre, np.where(shared & 1, -scale, scale))
