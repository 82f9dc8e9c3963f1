"""How wrong is my gradient, against exact and unbiased ones, and how do my operators fare."""

from .advice import Advice, Candidate
from .advise import advise
from .compare import compare
from .exact import exact_gradient
from .monitor import Monitor
from .result import Audit, Row, StandardErrors
from .sinks import JsonLines, Observation, TensorBoard
from .unbiased import Estimate, disarm, reinforce

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
    "reinforce",
]
