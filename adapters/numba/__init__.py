"""Numba: single elements in compiled code, and fills of host arrays and CUDA device arrays.

========================  ==============================================================================
words                     one 32-bit word of a stream
uniform                   one float32 of ``fastinit.Uniform(low, high)``
normal                    one float32 of ``fastinit.Normal(mean, std)``
truncated_normal          one float32 of ``fastinit.TruncatedNormal(mean, std)``, truncated at +-2 sigma
uniform_float64           the same three in float64
normal_float64
truncated_normal_float64
fill                      whole NumPy arrays, and arrays with ``__cuda_array_interface__``
========================  ==============================================================================

The functions of one element take ``key.words`` and an index. They run in ``@njit`` code, in ``@cuda.jit`` kernels and
in Python. Their values equal the core's bit for bit, whatever options the calling code is compiled with. CUDA is needed
only to fill a device array or to compile a kernel. The generated PTX was inspected, and the kernels were run in Numba's
simulator and on an H200.

>>> import numpy as np, numba, fastinit
>>> from fastinit.adapters.numba import normal
>>> @numba.njit
... def sum_of_weights(key, n):
...     total = 0.0
...     for i in range(n):
...         total += normal(key, i, 0.0, 0.02)
...     return total
>>> key = fastinit.Key(0).fold_in("embedding")
>>> whole = fastinit.fill(np.empty(1000, np.float32), fastinit.Normal(0.0, 0.02), key)
>>> bool(np.isclose(sum_of_weights(key.words, 1000), whole.sum(dtype=np.float64)))
True
"""

import fastinit.extending  # noqa: F401 (first: detects an unrelated package that overwrote this one)
from fastinit.adapters.numba.elements import (
    normal,
    normal_float64,
    truncated_normal,
    truncated_normal_float64,
    uniform,
    uniform_float64,
    words,
)
from fastinit.adapters.numba.filling import fill

__all__ = [
    "fill",
    "normal",
    "normal_float64",
    "truncated_normal",
    "truncated_normal_float64",
    "uniform",
    "uniform_float64",
    "words",
]
