"""Advice: the right initializer for an activation and layer.

activations    activations and their slopes
gains          gains, which compensate an activation's effect on the size of the signal
recommending   a recommended initializer, with the reason and the source
"""

from fastinit.advice.gains import backward_gain, gain
from fastinit.advice.recommending import (
    LAYERS,
    RECTIFIERS,
    SATURATING,
    SELF_NORMALIZING,
    Recommendation,
    recommend,
)

__all__ = [
    "LAYERS",
    "RECTIFIERS",
    "SATURATING",
    "SELF_NORMALIZING",
    "Recommendation",
    "backward_gain",
    "gain",
    "recommend",
]
