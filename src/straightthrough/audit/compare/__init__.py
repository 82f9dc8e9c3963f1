"""Bias and variance of estimators, against exact and unbiased gradients."""

from .comparison import compare
from .gradient import exact_gradient
from .result import Audit
from .row import Row, StandardErrors
from .unbiased import Estimate, disarm, reinforce

__all__ = [
    "Audit",
    "Estimate",
    "Row",
    "StandardErrors",
    "compare",
    "disarm",
    "exact_gradient",
    "reinforce",
]
