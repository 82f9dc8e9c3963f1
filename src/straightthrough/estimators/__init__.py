"""Backward rules of categorical and binary draws, one short file each."""

from .base import Estimator
from .gumbel import GumbelST
from .gumbel_rao import GumbelRao
from .reinmax import ReinMax
from .softmax import Softmax
from .straight_through import StraightThrough

__all__ = [
    "Estimator",
    "GumbelRao",
    "GumbelST",
    "ReinMax",
    "Softmax",
    "StraightThrough",
]
