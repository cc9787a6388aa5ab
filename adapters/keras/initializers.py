"""keras.initializers on fastinit: the same classes, arguments and configurations; new numbers, more speed.

>>> from fastinit.adapters.keras import initializers
>>> kernel = initializers.HeNormal(seed=0)(shape=(784, 256))
>>> layer = keras.layers.Dense(256, kernel_initializer=initializers.GlorotUniform())

Every class is a subclass of Keras's class of the same name, with the same distribution: ``*Normal`` classes are
truncated at two standard deviations with the variance corrected. An integer seed gives the same values at every call,
None draws a seed once, and a ``SeedGenerator`` advances. A seed may also be a :class:`fastinit.Key`. The values do not
depend on the backend, the device, the layout or the number of threads.

Additional classes are ``*UntruncatedNormal``, ``DeltaOrthogonal``, ``ICNR`` and ``ZerO`` (also ``zero_init``). Classes
that scale by the fans compute them as Keras does, which is wrong for grouped, depthwise, transposed and packed kernels.
These keyword arguments give the true fans (see :func:`fastinit.fans`):

kernel_layout : str
    Meaning of the axes: ``"...IO"``, ``"...IM"`` for a depthwise kernel, ``"...OI"`` for a transposed one, ``"VD"`` for
    an embedding.
groups, transposed, stride, blocks
    Properties of the kernel's layer.

All classes are registered in the package "fastinit": ``kernel_initializer="fastinit>HeNormal"``. Saved models with them
load if this module has been imported; otherwise Keras's error names the import. Classes without random numbers load
everywhere. For unsupported dtypes and distributions, a class falls back to Keras's own, with one warning.
"""

from __future__ import annotations

from typing import Any, Final

import keras

import fastinit
from fastinit.adapters.keras.bases import NEEDS, Filling, Fixed, Random, Scaled
from fastinit.adapters.keras.internals import RandomInitializer
from fastinit.adapters.keras.tensors import distributed
from fastinit.extending import shown

__all__ = [
    "ICNR",
    "STFT",
    "Constant",
    "DeltaOrthogonal",
    "GlorotNormal",
    "GlorotUniform",
    "GlorotUntruncatedNormal",
    "HeNormal",
    "HeUniform",
    "HeUntruncatedNormal",
    "Identity",
    "IdentityInitializer",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "LecunUntruncatedNormal",
    "Ones",
    "Orthogonal",
    "OrthogonalInitializer",
    "RandomNormal",
    "RandomUniform",
    "STFTInitializer",
    "TruncatedNormal",
    "VarianceScaling",
    "ZerO",
    "Zeros",
    "constant",
    "delta_orthogonal",
    "deserialize",
    "get",
    "glorot_normal",
    "glorot_uniform",
    "glorot_untruncated_normal",
    "he_normal",
    "he_uniform",
    "he_untruncated_normal",
    "icnr",
    "identity",
    "lecun_normal",
    "lecun_uniform",
    "lecun_untruncated_normal",
    "ones",
    "orthogonal",
    "random_normal",
    "random_uniform",
    "serialize",
    "stft",
    "truncated_normal",
    "variance_scaling",
    "zer_o",
    "zero_init",
    "zeros",
]

STFT, Initializer, serialize = keras.initializers.STFT, keras.initializers.Initializer, keras.initializers.serialize

_register = keras.saving.register_keras_serializable(package="fastinit")


@_register
class Zeros(Fixed, keras.initializers.Zeros):
    """Every element is 0.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> float(initializers.Zeros()((2, 3)).sum())
    0.0
    """

    def fastinit_initializer(self, shape: tuple[int, ...]) -> fastinit.Initializer:
        return fastinit.Zeros()


@_register
class Ones(Fixed, keras.initializers.Ones):
    """Every element is 1.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> float(initializers.Ones()((2, 3)).sum())
    6.0
    """

    def fastinit_initializer(self, shape: tuple[int, ...]) -> fastinit.Initializer:
        return fastinit.Ones()


@_register
class Constant(Fixed, keras.initializers.Constant):
    """Every element is `value`, rounded once to the dtype.

    Parameters
    ----------
    value : float or array
        Any number, or an array that Keras broadcasts.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> float(initializers.Constant(0.5)((2, 3)).sum())
    3.0
    """

    def __call__(self, shape: Any, dtype: Any = None, layout: Any = None) -> Any:
        if not isinstance(self.value, (int, float)):  # an array, which Keras broadcasts
            return distributed(self.keras_call()(shape, dtype=dtype), layout)
        return super().__call__(shape, dtype, layout)

    def fastinit_initializer(self, shape: tuple[int, ...]) -> fastinit.Initializer:
        return fastinit.Constant(self.value)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        unknown = sorted(set(config) - {"value", "stream_version"})  # Keras would ignore them
        if unknown:
            raise TypeError(f"a configuration of Constant has the field 'value', got {', '.join(unknown)}")
        return super().from_config({"value": 0.0, **config})  # Keras needs the value, and "constant" has none


@_register
class Identity(Fixed, keras.initializers.Identity):
    """`gain` on the diagonal of a matrix, 0 elsewhere. Raises ValueError for other than two axes.

    Parameters
    ----------
    gain : float
        The value on the diagonal.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> np.asarray(initializers.Identity()((2, 3)))
    array([[1., 0., 0.],
           [0., 1., 0.]], dtype=float32)
    """

    def fastinit_initializer(self, shape: tuple[int, ...]) -> fastinit.Initializer:
        return fastinit.Identity(float(self.gain))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gain": self.gain}  # Keras omits it


@_register
class RandomNormal(Random, keras.initializers.RandomNormal):
    """The normal distribution, untruncated; see :class:`fastinit.Normal`.

    If stddev < 0 or either is not finite, the numbers are Keras's own, with one warning.

    Parameters
    ----------
    mean, stddev : float
        Mean and standard deviation.
    seed : int, SeedGenerator, Key or None
        Source of the numbers; see the module's docstring.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> kernel = initializers.RandomNormal(stddev=0.5, seed=0)((512, 256))
    >>> print(f"{np.asarray(kernel).std():.2f}")
    0.50
    """

    def __init__(self, mean: Any = 0.0, stddev: Any = 0.05, seed: Any = None) -> None:
        super().__init__(mean, stddev, seed=seed)

    def fastinit_initializer(self, shape: tuple[int, ...]) -> fastinit.Initializer:
        return fastinit.Normal(float(self.mean), float(self.stddev))


@_register
class TruncatedNormal(Random, keras.initializers.TruncatedNormal):
    """The normal distribution truncated at mean +- 2 stddev, with one draw per element.

    See :class:`fastinit.TruncatedNormal`. If stddev < 0 or either is not finite, the numbers are Keras's own, with one
    warning.

    Parameters
    ----------
    mean, stddev : float
        Mean and standard deviation before truncation.
    seed : int, SeedGenerator, Key or None
        Source of the numbers; see the module's docstring.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> kernel = initializers.TruncatedNormal(stddev=0.5, seed=0)((512, 256))
    >>> bool((abs(np.asarray(kernel)) <= 1).all())
    True
    """

    def __init__(self, mean: Any = 0.0, stddev: Any = 0.05, seed: Any = None) -> None:
        super().__init__(mean, stddev, seed=seed)

    def fastinit_initializer(self, shape: tuple[int, ...]) -> fastinit.Initializer:
        return fastinit.TruncatedNormal(float(self.mean), float(self.stddev))


@_register
class RandomUniform(Random, keras.initializers.RandomUniform):
    """The uniform distribution on [minval, maxval), or (minval, maxval) if minval = -maxval.

    See :class:`fastinit.Uniform`. If minval > maxval or either is not finite, the numbers are Keras's own, with one
    warning, if Keras's backend supports it.

    Parameters
    ----------
    minval, maxval : float
        The interval.
    seed : int, SeedGenerator, Key or None
        Source of the numbers; see the module's docstring.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> kernel = initializers.RandomUniform(-0.5, 0.5, seed=0)((512, 256))
    >>> bool((abs(np.asarray(kernel)) < 0.5).all())
    True
    """

    def __init__(self, minval: Any = -0.05, maxval: Any = 0.05, seed: Any = None) -> None:
        super().__init__(minval, maxval, seed=seed)

    def fastinit_initializer(self, shape: tuple[int, ...]) -> fastinit.Initializer:
        low, high = float(self.minval), float(self.maxval)
        return fastinit.Constant(low) if low == high else fastinit.Uniform(low, high)


@_register
class VarianceScaling(Scaled, keras.initializers.VarianceScaling):
    """Var(W) = scale / n, where n is the fan named by `mode`, but at least 1.

    `distribution` is "truncated_normal" (also called "normal"; truncated at 2 standard deviations, with the standard
    deviation sqrt(scale / n) after truncation), "untruncated_normal" or "uniform". See
    :class:`fastinit.VarianceScaling`.

    Parameters
    ----------
    scale : float
        Multiplies the variance.
    mode : {"fan_in", "fan_out", "fan_avg", "fan_geo_avg"}
        The fan that scales the kernel.
    distribution : str
        As above.
    seed : int, SeedGenerator, Key or None
        Source of the numbers; see the module's docstring.
    input_axes, output_axes
        As in Keras. By name only: `kernel_layout`, `groups`, `transposed`, `stride`, `blocks`, for the true fans.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> kernel = initializers.VarianceScaling(2.0, "fan_out", seed=0)((512, 256))
    >>> print(f"{np.asarray(kernel).std():.2f}")  # sqrt(2 / 256)
    0.09
    """

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: Any = None,
        input_axes: Any = None,
        output_axes: Any = None,
        **weight: Any,
    ) -> None:
        super().__init__(scale, mode, distribution, seed=seed, input_axes=input_axes, output_axes=output_axes, **weight)


class _Preset(VarianceScaling):
    """A preset of VarianceScaling."""

    def __init__(self, seed: Any = None, input_axes: Any = None, output_axes: Any = None, **weight: Any) -> None:
        # skips VarianceScaling's own arguments, which Keras's class of the preset sets
        super(VarianceScaling, self).__init__(seed=seed, input_axes=input_axes, output_axes=output_axes, **weight)


class _Untruncated(VarianceScaling):
    """A preset that Keras lacks."""

    _point: tuple[float, str]

    def __init__(self, seed: Any = None, input_axes: Any = None, output_axes: Any = None, **weight: Any) -> None:
        axes = {"input_axes": input_axes, "output_axes": output_axes}
        scale, mode = self._point
        super().__init__(scale, mode, "untruncated_normal", seed=seed, **axes, **weight)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {name: value for name, value in config.items() if name not in ("scale", "mode", "distribution")}


@_register
class GlorotUniform(_Preset, keras.initializers.GlorotUniform):
    """Uniform, Var(W) = 2 / (fan_in + fan_out). X. Glorot and Y. Bengio, 2010.

    Parameters
    ----------
    seed : int, SeedGenerator, Key or None
        Source of the numbers; see the module's docstring.
    input_axes, output_axes
        As in Keras. By name only: `kernel_layout`, `groups`, `transposed`, `stride`, `blocks`, for the true fans.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> kernel = initializers.GlorotUniform(seed=0)((512, 256))
    >>> print(f"{np.asarray(kernel).std():.2f}")  # sqrt(2 / (512 + 256))
    0.05
    """


@_register
class GlorotNormal(_Preset, keras.initializers.GlorotNormal):
    """Truncated normal, Var(W) = 2 / (fan_in + fan_out). X. Glorot and Y. Bengio, 2010.

    Parameters
    ----------
    seed : int, SeedGenerator, Key or None
        Source of the numbers; see the module's docstring.
    input_axes, output_axes
        As in Keras. By name only: `kernel_layout`, `groups`, `transposed`, `stride`, `blocks`, for the true fans.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> kernel = initializers.GlorotNormal(seed=0)((512, 256))
    >>> print(f"{np.asarray(kernel).std():.2f}")  # sqrt(2 / (512 + 256))
    0.05
    """


@_register
class GlorotUntruncatedNormal(_Untruncated):
    """Normal, Var(W) = 2 / (fan_in + fan_out), torch's Xavier normal. X. Glorot and Y. Bengio, 2010.

    Parameters
    ----------
    seed : int, SeedGenerator, Key or None
        Source of the numbers; see the module's docstring.
    input_axes, output_axes
        As in Keras. By name only: `kernel_layout`, `groups`, `transposed`, `stride`, `blocks`, for the true fans.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> kernel = initializers.GlorotUntruncatedNormal(seed=0)((512, 256))
    >>> print(f"{np.asarray(kernel).std():.2f}")  # sqrt(2 / (512 + 256))
    0.05
    """

    _point = (1.0, "fan_avg")


@_register
class HeUniform(_Preset, keras.initializers.HeUniform):
    """Uniform, Var(W) = 2 / fan_in. K. He et al., 2015.

    Parameters
    ----------
    seed : int, SeedGenerator, Key or None
        Source of the numbers; see the module's docstring.
    input_axes, output_axes
        As in Keras. By name only: `kernel_layout`, `groups`, `transposed`, `stride`, `blocks`, for the true fans.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> kernel = initializers.HeUniform(seed=0)((512, 256))
    >>> print(f"{np.asarray(kernel).std():.2f}")  # sqrt(2 / 512)
    0.06
    """


@_register
class HeNormal(_Preset, keras.initializers.HeNormal):
    """Truncated normal, Var(W) = 2 / fan_in. K. He et al., 2015.

    Parameters
    ----------
    seed : int, SeedGenerator, Key or None
        Source of the numbers; see the module's docstring.
    input_axes, output_axes
        As in Keras. By name only: `kernel_layout`, `groups`, `transposed`, `stride`, `blocks`, for the true fans.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> kernel = initializers.HeNormal(seed=0)((512, 256))
    >>> print(f"{np.asarray(kernel).std():.2f}")  # sqrt(2 / 512)
    0.06
    """


@_register
class HeUntruncatedNormal(_Untruncated):
    """Normal, Var(W) = 2 / fan_in, torch's Kaiming normal. K. He et al., 2015.

    Parameters
    ----------
    seed : int, SeedGenerator, Key or None
        Source of the numbers; see the module's docstring.
    input_axes, output_axes
        As in Keras. By name only: `kernel_layout`, `groups`, `transposed`, `stride`, `blocks`, for the true fans.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> kernel = initializers.HeUntruncatedNormal(seed=0)((512, 256))
    >>> print(f"{np.asarray(kernel).std():.2f}")  # sqrt(2 / 512)
    0.06
    """

    _point = (2.0, "fan_in")


@_register
class LecunUniform(_Preset, keras.initializers.LecunUniform):
    """Uniform, Var(W) = 1 / fan_in. Y. LeCun et al., "Efficient BackProp", 1998.

    Parameters
    ----------
    seed : int, SeedGenerator, Key or None
        Source of the numbers; see the module's docstring.
    input_axes, output_axes
        As in Keras. By name only: `kernel_layout`, `groups`, `transposed`, `stride`, `blocks`, for the true fans.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> kernel = initializers.LecunUniform(seed=0)((512, 256))
    >>> print(f"{np.asarray(kernel).std():.2f}")  # sqrt(1 / 512)
    0.04
    """


@_register
class LecunNormal(_Preset, keras.initializers.LecunNormal):
    """Truncated normal, Var(W) = 1 / fan_in. Y. LeCun et al., "Efficient BackProp", 1998.

    Parameters
    ----------
    seed : int, SeedGenerator, Key or None
        Source of the numbers; see the module's docstring.
    input_axes, output_axes
        As in Keras. By name only: `kernel_layout`, `groups`, `transposed`, `stride`, `blocks`, for the true fans.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> kernel = initializers.LecunNormal(seed=0)((512, 256))
    >>> print(f"{np.asarray(kernel).std():.2f}")  # sqrt(1 / 512)
    0.04
    """


@_register
class LecunUntruncatedNormal(_Untruncated):
    """Normal, Var(W) = 1 / fan_in. Y. LeCun et al., "Efficient BackProp", 1998.

    Parameters
    ----------
    seed : int, SeedGenerator, Key or None
        Source of the numbers; see the module's docstring.
    input_axes, output_axes
        As in Keras. By name only: `kernel_layout`, `groups`, `transposed`, `stride`, `blocks`, for the true fans.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> kernel = initializers.LecunUntruncatedNormal(seed=0)((512, 256))
    >>> print(f"{np.asarray(kernel).std():.2f}")  # sqrt(1 / 512)
    0.04
    """

    _point = (1.0, "fan_in")


@_register
class Orthogonal(Random, keras.initializers.Orthogonal):
    """A random matrix (all axes but the last, the last) with orthonormal rows or columns, times `gain`.

    Exactly Haar-distributed, in every dtype; see :class:`fastinit.Orthogonal`. Raises ValueError for fewer than two
    axes. A. M. Saxe et al., 2013.

    Parameters
    ----------
    gain : float
        Multiplies the matrix.
    seed : int, SeedGenerator, Key or None
        Source of the numbers; see the module's docstring.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> kernel = np.asarray(initializers.Orthogonal(seed=0)((8, 4)))
    >>> bool(np.allclose(kernel.T @ kernel, np.eye(4), atol=1e-6))
    True
    """

    def __init__(self, gain: float = 1.0, seed: Any = None) -> None:
        super().__init__(gain, seed=seed)

    def fastinit_initializer(self, shape: tuple[int, ...]) -> fastinit.Initializer:
        return fastinit.Orthogonal(float(self.gain))


@_register
class DeltaOrthogonal(Orthogonal):
    """A norm-preserving convolution: an orthogonal matrix at the spatial centre, 0 elsewhere.

    Raises ValueError for other than 3 to 5 axes, or fewer output than input channels. L. Xiao et al., 2018.

    Parameters
    ----------
    gain : float
        Multiplies the matrix.
    seed : int, SeedGenerator, Key or None
        Source of the numbers; see the module's docstring.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> kernel = np.asarray(initializers.DeltaOrthogonal(seed=0)((3, 4, 8)))  # (width, in, out)
    >>> bool(np.allclose(kernel[1] @ kernel[1].T, np.eye(4), atol=1e-6)), bool(kernel[0].any())
    (True, False)
    """

    def keras_call(self) -> None:
        return None

    def fastinit_initializer(self, shape: tuple[int, ...]) -> fastinit.Initializer:
        return fastinit.DeltaOrthogonal(float(self.gain))


@_register
class ICNR(Random, RandomInitializer):
    """A sub-pixel convolution that starts as nearest-neighbour resize; see :class:`fastinit.ICNR`.

    Parameters
    ----------
    initializer : initializer of this module, its name or its configuration
        Initializer of the kernel before repetition. Its own seed is not used.
    factor : int
        Growth factor of each spatial axis.
    order : {"subpixel", "channel"}
        The index that varies more slowly on the last axis. "subpixel" is TensorFlow's depth_to_space.
    seed : int, SeedGenerator, Key or None

    Raises
    ------
    ValueError
        If `factor` or `order` is out of range, or the initializer is not one of this module.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> kernel = np.asarray(initializers.ICNR(seed=0)((3, 3, 2, 4)))  # one channel, 2 x 2 sub-pixels
    >>> bool((kernel[..., :1] == kernel).all())
    True
    """

    def __init__(
        self, initializer: Any = "he_normal", factor: int = 2, order: str = "subpixel", seed: Any = None
    ) -> None:
        self.initializer, self.factor, self.order = get(initializer), factor, order
        if not isinstance(self.initializer, Filling):
            raise ValueError(f"initializer must be one of fastinit's, got {shown(self.initializer)}")
        super().__init__(seed=seed)

    def keras_call(self) -> None:
        return None

    def fastinit_initializer(self, shape: tuple[int, ...]) -> fastinit.Initializer:
        kernel = (*shape[:-1], shape[-1] // self.factor ** max(len(shape) - 2, 0)) if shape else shape
        return fastinit.ICNR(self.initializer.fastinit_initializer(kernel), self.factor, order=self.order)

    def get_config(self) -> dict[str, Any]:
        own = {"initializer": serialize(self.initializer), "factor": self.factor, "order": self.order}
        return {**super().get_config(), **own}


@_register
class ZerO(Filling, keras.initializers.Initializer):
    """Zeros and ones only: a partial identity or a scaled Hadamard matrix at the spatial centre, without a seed.

    Raises ValueError for other than 2 to 5 axes. J. Zhao, F. Schaefer and A. Anandkumar, 2022.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> import numpy as np
    >>> np.asarray(initializers.ZerO()((3, 2)))
    array([[1., 0.],
           [0., 1.],
           [0., 0.]], dtype=float32)
    """

    def fastinit_initializer(self, shape: tuple[int, ...]) -> fastinit.Initializer:
        return fastinit.ZerO()

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **NEEDS}


constant, zeros, ones, identity, stft = Constant, Zeros, Ones, Identity, STFT
random_normal, random_uniform, truncated_normal = RandomNormal, RandomUniform, TruncatedNormal
variance_scaling, orthogonal = VarianceScaling, Orthogonal
glorot_uniform, glorot_normal, glorot_untruncated_normal = GlorotUniform, GlorotNormal, GlorotUntruncatedNormal
he_uniform, he_normal, he_untruncated_normal = HeUniform, HeNormal, HeUntruncatedNormal
lecun_uniform, lecun_normal, lecun_untruncated_normal = LecunUniform, LecunNormal, LecunUntruncatedNormal
delta_orthogonal, icnr, zero_init = DeltaOrthogonal, ICNR, ZerO
zer_o = ZerO  # the name by Keras's rule for classes
IdentityInitializer, OrthogonalInitializer, STFTInitializer = Identity, Orthogonal, STFT

# Names that keras.initializers.get also accepts, but that are not names of the module.
_SHORT: Final = {"normal": RandomNormal, "uniform": RandomUniform, "one": Ones, "zero": Zeros}
_NAMED: Final = _SHORT | {name: value for name, value in vars().items() if name in __all__ and isinstance(value, type)}


def deserialize(config: Any, custom_objects: dict[str, Any] | None = None) -> Any:
    """The initializer of a configuration, as in ``keras.initializers.deserialize``. Bare names mean fastinit's classes.

    A configuration of Keras's own class names Keras's module and gives that class.

    Parameters
    ----------
    config : dict or str
        The result of :func:`serialize`.
    custom_objects : dict, optional
        Further classes by name.

    Returns
    -------
    keras.initializers.Initializer
        The described initializer.

    Raises
    ------
    ValueError
        For a configuration of another stream version, and as in Keras.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> initializers.deserialize({"class_name": "HeNormal", "config": {"seed": 0}}).__class__.__module__
    'fastinit.adapters.keras.initializers'
    """
    return keras.initializers.deserialize(config, custom_objects={**_NAMED, **(custom_objects or {})})


def get(identifier: Any) -> Any:
    """The initializer for a name, a configuration, a class or a callable, as in ``keras.initializers.get``.

    Parameters
    ----------
    identifier : str, dict, class, callable or None
        A representation of the initializer.

    Returns
    -------
    keras.initializers.Initializer
        An instance.

    Raises
    ------
    ValueError
        For anything else.

    Examples
    --------
    >>> from fastinit.adapters.keras import initializers
    >>> initializers.get("he_normal").__class__ is initializers.HeNormal
    True
    """
    if isinstance(identifier, str):
        identifier = {"class_name": identifier, "config": {}}
    if isinstance(identifier, dict):
        identifier = deserialize(identifier)
    return keras.initializers.get(identifier)
