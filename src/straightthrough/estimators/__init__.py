"""Backward rules of draws, one short file each."""

from .categorical import CategoricalEstimator
from .count import CountEstimator
from .darn import DARN
from .decoupled import DecoupledST
from .fini import Fini
from .gapped import GappedST
from .gumbel import GumbelST
from .gumbel_rao import GumbelRao
from .mve import MVE
from .mve_integer import MVEInteger
from .reinmax import ReinMax
from .reinmax_cv import ReinMaxCV
from .reinmax_rao import ReinMaxRao
from .softmax import Softmax
from .straight_through import StraightThrough

__all__ = [
    "DARN",
    "MVE",
    "CategoricalEstimator",
    "CountEstimator",
    "DecoupledST",
    "Fini",
    "GappedST",
    "GumbelRao",
    "GumbelST",
    "MVEInteger",
    "ReinMax",
    "ReinMaxCV",
    "ReinMaxRao",
    "Softmax",
    "StraightThrough",
]
