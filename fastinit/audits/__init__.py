"""Is it right? Judgements of a model's parameters, of its scales, and of the signal that passes through its layers.

judging        findings and verdicts: the table of kinds
values         whether a parameter was written, and whether its units differ
measuring      what a layer that ran has given, in numbers
scales         whether a scale is one that a scheme gives
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
