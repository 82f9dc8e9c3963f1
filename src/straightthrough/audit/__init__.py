"""How wrong is my gradient: exact and unbiased gradients, and estimators held against them."""

from .compare import compare
from .exact import exact_gradient
from .result import Audit, Row, StandardErrors
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
