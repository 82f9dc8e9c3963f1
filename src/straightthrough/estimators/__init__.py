"""Backward rules of draws, one short file each."""

from .base import Estimator
from .fini import Fini
from .gumbel import GumbelST
from .reinmax import ReinMax
from .softmax import Softmax
from .straight_through import StraightThrough

__all__ = ["Estimator", "Fini", "GumbelST", "ReinMax", "Softmax", "StraightThrough"]
