"""Audits: checks of a model's parameters, of their scales, and of the signal that passes through its layers.

judging        findings and verdicts, with the table of kinds
values         tests for unwritten memory and identical units
agreement      comparison of a tensor with an initializer
measuring      measurements of a layer that ran
scales         tests whether a scale follows from a known scheme
propagation    whether a signal survives a stack of layers
"""

from fastinit.audits.judging import Audit, Finding, judge_chain, judge_parameters
from fastinit.audits.measuring import Measured, UnitVariance, Unscalable
from fastinit.audits.propagation import Propagation, propagate
from fastinit.audits.values import Held

__all__ = [
    "Audit",
    "Finding",
    "Held",
    "Measured",
    "Propagation",
    "UnitVariance",
    "Unscalable",
    "judge_chain",
    "judge_parameters",
    "propagate",
]
