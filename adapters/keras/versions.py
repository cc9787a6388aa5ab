"""What differs between releases of Keras; an older one than the oldest is refused here, before anything of it is used.

Releases are told apart by what they have, not by their numbers.
"""

from __future__ import annotations

import copy
import inspect
import re
from typing import Any, Final

import keras

__all__ = ["AXES_OF_FANS", "OLDEST", "with_axes"]

OLDEST: Final = "3.10"  # as in pyproject.toml

if [int(part) for part in re.findall(r"\d+", keras.__version__)[:2]] < [int(part) for part in OLDEST.split(".")]:
    raise ImportError(f"fastinit.adapters.keras needs Keras {OLDEST} or newer, and {keras.__version__} is installed")

AXES_OF_FANS: Final = "input_axes" in inspect.signature(keras.initializers.VarianceScaling).parameters
"""Whether Keras's initializers have the axes of their fans, as from 3.15; without them ours have their own."""


def with_axes(source: Any, layer: Any, role: str) -> Any:
    """What a variable was made with, as Keras from 3.15 makes it: EinsumDense tells its kernel's initializer the axes.

    Before, Keras drew the kernels of EinsumDense, and of MultiHeadAttention, with the fans of their shape alone, which
    are those of a convolution.
    """
    if (
        AXES_OF_FANS
        or role != "kernel"
        or not isinstance(layer, keras.layers.EinsumDense)
        or not isinstance(source, keras.initializers.VarianceScaling)
        or None not in (getattr(source, "input_axes", None), getattr(source, "output_axes", None))
    ):
        return source
    operands, _, result = layer.equation.replace("...", "").replace(" ", "").partition("->")
    kernel = operands.partition(",")[2]
    told = copy.copy(source)
    told.input_axes = [axis for axis, letter in enumerate(kernel) if letter not in result]
    told.output_axes = [axis for axis, letter in enumerate(kernel) if letter in result]
    return told
