"""Checkpoints of any model and size in bounded memory: planned, written, verified, or computed where they are read.

==========================  ===========================================================================================
a plan                      :class:`Plan`, :class:`Tensor`, :class:`Filled`, :class:`Quantized`, :class:`Values`
what a plan is made from    :class:`Origin`, :func:`plan_of`
a plan on disk              :func:`write`, :func:`export`
a checkpoint on disk        :func:`read_checkpoint`, :func:`verify`, :func:`diff`, :func:`statistics`
without a file              :class:`Virtual`
==========================  ===========================================================================================
"""

from fastinit.checkpoints.comparing import Difference, Statistics, diff, statistics
from fastinit.checkpoints.contents import Boxes, Checkpoint, gathered
from fastinit.checkpoints.exporting import export
from fastinit.checkpoints.formats import FORMATS, Stored
from fastinit.checkpoints.headers import Header, Placed, read_header
from fastinit.checkpoints.origins import Origin, plan_of
from fastinit.checkpoints.plans import PLAN_FILE, Plan, Tensor
from fastinit.checkpoints.quantizing import Quantized, quantized
from fastinit.checkpoints.reading import read_checkpoint
from fastinit.checkpoints.sources import Filled, Source, Values
from fastinit.checkpoints.verifying import verify
from fastinit.checkpoints.virtual import Virtual, VirtualSlice
from fastinit.checkpoints.writing import Written, write

__all__ = [
    "FORMATS",
    "PLAN_FILE",
    "Boxes",
    "Checkpoint",
    "Difference",
    "Filled",
    "Header",
    "Origin",
    "Placed",
    "Plan",
    "Quantized",
    "Source",
    "Statistics",
    "Stored",
    "Tensor",
    "Values",
    "Virtual",
    "VirtualSlice",
    "Written",
    "diff",
    "export",
    "gathered",
    "plan_of",
    "quantized",
    "read_checkpoint",
    "read_header",
    "statistics",
    "verify",
    "write",
]
