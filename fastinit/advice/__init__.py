"""Advice: which initializer suits which activation and layer.

activations    what activations compute, and their slopes
gains          what an activation takes from the size of a signal
recommending   which initializer, why, and who says so
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
