"""jax.nn.initializers on fastinit: the same factories, with the same arguments; new numbers, more speed.

>>> import jax
>>> from fastinit.adapters import jax as initializers  # instead of: from jax.nn import initializers
>>> initializers.he_normal()(jax.random.key(0), (784, 256)).shape
(784, 256)
>>> jax.jit(initializers.he_normal(), static_argnums=1)(jax.random.key(0), (784, 256)).dtype
dtype('float32')

A factory returns ``init(key, shape, dtype, out_sharding)``, which flax takes as ``kernel_init``:

key : jax.Array or Key
    One JAX key, typed (``jax.random.key``) or raw (``PRNGKey``), of any implementation, or a :class:`fastinit.Key`. The
    words of a JAX key are used unchanged: two as ``Key.from_words(k0, k1)``, four as ``(k0, k1, c2, c3)``. Initializers
    without random numbers also take None.
shape : sequence of int
dtype : dtype, optional
    Floating-point dtype, by default the factory's, otherwise JAX's default. Narrow dtypes take every value in range.
    Complex numbers and unsupported float8 variants fall back to JAX's own function, with one warning.
out_sharding : NamedSharding or PartitionSpec, optional
    Each device fills its own piece, without the others. Together the pieces equal the unsharded array to the byte.

The functions raise TypeError for an invalid key, and ValueError for a batch of keys (use ``jax.vmap``) and for
parameters out of range. Other errors are JAX's own, raised while tracing. An eager array takes over the filled memory
and is placed where JAX would place its own. Under ``jit``, ``vmap``, ``eval_shape`` and ``shard_map`` the fill is a
host callback that runs with the compiled function, on each device for its piece, with the same bytes. A traced scale
multiplies a draw of scale 1 and has JAX's gradient. A function exported by ``jax.export`` cannot call the host, so it
draws JAX's own numbers, with one warning.

Additional factories are `*_untruncated_normal` (JAX's ``*_normal`` presets are truncated at two standard deviations,
with the variance corrected), ``dirac``, ``icnr``, ``identity``, ``sparse`` and ``zero_init`` (also ``zero``). They take
the parameters of fastinit's classes, and ``dtype`` by name. :func:`initializer` converts any initializer of fastinit.
The keyword arguments ``groups``, ``transposed``, ``stride`` and ``blocks`` give the true fans of special kernels; see
:func:`fastinit.fans`. ``zeros``, ``ones`` and ``constant`` are JAX's own.

:func:`arrays` and :func:`save` make the arrays of a plan (:mod:`fastinit.checkpoints`) and their checkpoint by orbax.
"""

# first: refuses a JAX that is too old for the next imports
from fastinit.adapters.jax import versions  # noqa: F401

# isort: split
from jax.nn.initializers import Initializer, constant, ones, zeros

import fastinit.extending  # noqa: F401 (first: detects an unrelated package that overwrote this one)
from fastinit.adapters.jax.arrays import filled
from fastinit.adapters.jax.checkpoints import arrays, save
from fastinit.adapters.jax.initializers import (
    delta_orthogonal,
    dirac,
    glorot_normal,
    glorot_uniform,
    glorot_untruncated_normal,
    he_normal,
    he_uniform,
    he_untruncated_normal,
    icnr,
    identity,
    initializer,
    kaiming_normal,
    kaiming_uniform,
    kaiming_untruncated_normal,
    lecun_normal,
    lecun_uniform,
    lecun_untruncated_normal,
    normal,
    orthogonal,
    sparse,
    truncated_normal,
    uniform,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
    xavier_untruncated_normal,
    zero,
    zero_init,
)

__all__ = [
    "Initializer",
    "arrays",
    "constant",
    "delta_orthogonal",
    "dirac",
    "filled",
    "glorot_normal",
    "glorot_uniform",
    "glorot_untruncated_normal",
    "he_normal",
    "he_uniform",
    "he_untruncated_normal",
    "icnr",
    "identity",
    "initializer",
    "kaiming_normal",
    "kaiming_uniform",
    "kaiming_untruncated_normal",
    "lecun_normal",
    "lecun_uniform",
    "lecun_untruncated_normal",
    "normal",
    "ones",
    "orthogonal",
    "save",
    "sparse",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "xavier_untruncated_normal",
    "zero",
    "zero_init",
    "zeros",
]
