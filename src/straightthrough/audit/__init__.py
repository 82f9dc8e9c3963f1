"""How wrong is my gradient, against exact and unbiased ones, and how do my operators fare."""

from .advise import Advice, Candidate, advise
from .compare import (
    Audit,
    Estimate,
    Row,
    StandardErrors,
    compare,
    disarm,
    exact_gradient,
    reinforce,
)
from .monitor import JsonLines, Monitor, Observation, TensorBoard
from .probe import probe

__all__ = [
    "Advice",
    "Audit",
    "Candidate",
    "Estimate",
    "JsonLines",
    "Monitor",
    "Observation",
    "Row",
    "StandardErrors",
    "TensorBoard",
    "advise",
    "compare",
    "disarm",
    "exact_gradient",
    "probe",
    "reinforce",
]
