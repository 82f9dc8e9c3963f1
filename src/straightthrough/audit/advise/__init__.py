"""Which estimator, at which temperature, for a loss of one's own."""

from .candidate import Candidate
from .result import Advice
from .search import advise

__all__ = ["Advice", "Candidate", "advise"]
