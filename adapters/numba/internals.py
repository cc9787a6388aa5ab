"""Numba's internals, each used here alone: its switch for the CUDA simulator, and the simulator's arrays.

They were read in Numba 0.68. ``tests/adapters/numba/test_internals.py`` names the one that a new release has changed.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numba
import numpy as np
from numba import config

__all__ = ["IS_SIMULATED", "OLDEST", "is_simulated_array", "simulated_array"]

OLDEST: Final = "0.60"
"""The oldest Numba that this adapter has been tested with."""

if [int(part) for part in re.findall(r"\d+", numba.__version__)[:2]] < [int(part) for part in OLDEST.split(".")]:
    raise ImportError(f"fastinit.adapters.numba needs Numba {OLDEST} or newer, and {numba.__version__} is installed")

IS_SIMULATED: Final = bool(config.ENABLE_CUDASIM)
"""Whether ``cuda`` is the simulator, by ``NUMBA_ENABLE_CUDASIM=1``: ``numba.config.ENABLE_CUDASIM``, which is read when
Numba is imported. Without it kernels would be given device memory that the simulator does not have."""


def is_simulated_array(out: Any) -> bool:
    """Whether it is a device array of the simulator, which has no ``__cuda_array_interface__``.

    Known by ``__cuda_ndarray__``, which Numba's own device arrays have too. Without it the simulator's arrays are taken
    for memory of the host.
    """
    return hasattr(out, "__cuda_ndarray__")


def simulated_array(memory: np.ndarray) -> Any:
    """A device array of the simulator that writes into an array of NumPy.

    ``numba.cuda.simulator.cudadrv.devicearray.FakeCUDAArray``. Without it fills of views cannot be tested without a
    GPU: what ``cuda.to_device`` gives there is a copy.
    """
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    return FakeCUDAArray(memory)
