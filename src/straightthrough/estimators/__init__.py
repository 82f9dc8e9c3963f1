"""Backward rules of categorical and binary draws, one short file each."""

from .base import Estimator
from .darn import DARN
from .gapped import GappedST
from .gumbel import GumbelST
from .gumbel_rao import GumbelRao
from .reinmax import ReinMax
from .softmax import Softmax
from .straight_through import StraightThrough

__all__ = [
    "DARN",
    "Estimator",
    "GappedST",
    "GumbelRao",
    "GumbelST",
    "ReinMax",
    "Softmax",
    "StraightThrough",
]
