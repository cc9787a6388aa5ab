"""jax.nn.initializers on fastinit: the same factories, with the same arguments; other numbers, more speed.

>>> import jax
>>> from fastinit.adapters import jax as initializers  # instead of: from jax.nn import initializers
>>> initializers.he_normal()(jax.random.key(0), (784, 256)).shape
(784, 256)
>>> jax.jit(initializers.he_normal(), static_argnums=1)(jax.random.key(0), (784, 256)).dtype
dtype('float32')

A factory returns ``init(key, shape, dtype, out_sharding)``, which flax takes as ``kernel_init``:

key : jax.Array or Key
    One JAX key, typed (``jax.random.key``) or raw (``PRNGKey``), of any implementation, or a :class:`fastinit.Key`. Of
    a JAX key the words are taken as they are: two as ``Key.from_words(k0, k1)``, four as ``(k0, k1, c2, c3)``. None
    will do for what draws nothing.
shape : sequence of int
dtype : dtype, optional
    Floating-point, by default the factory's, or else JAX's default. Narrow ones have all the values that they can.
    Complex numbers, and float8 variants that fastinit does not fill, are drawn by JAX's own function, with one warning.
out_sharding : NamedSharding or PartitionSpec, optional
    Each device fills its own piece, alone; together they are, to the byte, the array without a sharding.

They raise TypeError for anything that is not a key, ValueError for a batch of keys (use ``jax.vmap``) and for
parameters out of range, and, already while tracing, what JAX raises for the rest, in its words. Eagerly, an array takes
over the memory that was filled, and is where JAX's own would be. Under ``jit``, ``vmap``, ``eval_shape`` and
``shard_map`` the fill is a call on the host that the compiled function makes when it runs, on each device for its
piece; the values are the same bytes. A scale that is traced multiplies a draw of scale 1, and has JAX's gradient. A
function that is exported by ``jax.export`` cannot call the host: it draws JAX's own numbers, with one warning.

Beyond JAX come `*_untruncated_normal` (JAX's ``*_normal`` presets are cut at two standard deviations, with the variance
corrected), ``dirac``, ``icnr``, ``identity``, ``sparse`` and ``zero_init`` (also ``zero``), with the parameters of
fastinit's classes and ``dtype`` by name, :func:`initializer` for any initializer of fastinit, and, by name only,
``groups``, ``transposed``, ``stride`` and ``blocks`` for the true fans of kernels that need them; see
:func:`fastinit.fans`. ``zeros``, ``ones`` and ``constant`` are JAX's own.
"""

# first, since it refuses a JAX that is too old for what follows
from fastinit.adapters.jax import versions  # noqa: F401

# isort: split
from jax.nn.initializers import Initializer, constant, ones, zeros

import fastinit.extending  # noqa: F401 (first: detects an unrelated package that overwrote this one)
from fastinit.adapters.jax.arrays import filled
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
