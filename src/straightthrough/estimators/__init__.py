"""Backward rules of draws and of codewords, one short file each."""

from .categorical import CategoricalEstimator
from .count import CountEstimator
from .darn import DARN
from .decoupled import DecoupledST
from .diveq import DiVeQ
from .fini import Fini
from .gapped import GappedST
from .gumbel import GumbelST
from .gumbel_rao import GumbelRao
from .mve import MVE
from .mve_integer import MVEInteger
from .pair import PairEstimator
from .pair_ste import Both, PairSTE
from .reinmax import ReinMax
from .reinmax_cv import ReinMaxCV
from .reinmax_rao import ReinMaxRao
from .rotation import Rotation
from .softmax import Softmax
from .straight_through import StraightThrough

__all__ = [
    "DARN",
    "MVE",
    "Both",
    "CategoricalEstimator",
    "CountEstimator",
    "DecoupledST",
    "DiVeQ",
    "Fini",
    "GappedST",
    "GumbelRao",
    "GumbelST",
    "MVEInteger",
    "PairEstimator",
    "PairSTE",
    "ReinMax",
    "ReinMaxCV",
    "ReinMaxRao",
    "Rotation",
    "Softmax",
    "StraightThrough",
]
