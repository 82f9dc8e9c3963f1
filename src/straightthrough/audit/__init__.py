"""How wrong is my gradient: exact gradients, and estimators held against them."""

from .compare import Audit, Row, compare
from .exact import exact_gradient

__all__ = ["Audit", "Row", "compare", "exact_gradient"]
