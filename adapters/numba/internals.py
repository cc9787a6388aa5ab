"""All uses of Numba's internals: the switch for the CUDA simulator, and the simulator's arrays.

They follow Numba 0.68. If a release changes one, ``tests/adapters/numba/test_internals.py`` names it.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numba
import numpy as np
from numba import config

__all__ = ["IS_SIMULATED", "OLDEST", "is_simulated_array", "simulated_array"]

OLDEST: Final = "0.60"
"""The oldest supported Numba."""

if [int(part) for part in re.findall(r"\d+", numba.__version__)[:2]] < [int(part) for part in OLDEST.split(".")]:
    raise ImportError(f"fastinit.adapters.numba needs Numba {OLDEST} or newer, and {numba.__version__} is installed")

IS_SIMULATED: Final = bool(config.ENABLE_CUDASIM)
"""Whether ``cuda`` is the simulator (``NUMBA_ENABLE_CUDASIM=1``): ``numba.config.ENABLE_CUDASIM``, read at import.

Without this check, kernels would get device memory that the simulator lacks."""


def is_simulated_array(out: Any) -> bool:
    """Whether `out` is a device array of the simulator, which lacks ``__cuda_array_interface__``.

    The sign is ``__cuda_ndarray__``, which Numba's own device arrays also have. Without this check, the simulator's
    arrays would count as host memory.
    """
    return hasattr(out, "__cuda_ndarray__")


def simulated_array(memory: np.ndarray) -> Any:
    """A device array of the simulator that writes into a NumPy array.

    It is a ``numba.cuda.simulator.cudadrv.devicearray.FakeCUDAArray``. It allows tests of fills of views without a GPU,
    because ``cuda.to_device`` returns a copy.
    """
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    return FakeCUDAArray(memory)
