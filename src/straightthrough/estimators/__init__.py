"""Backward rules of draws, one short file each."""

from .categorical import CategoricalEstimator
from .count import CountEstimator
from .darn import DARN
from .decoupled import DecoupledST
from .fini import Fini
from .gapped import GappedST
from .grid import GridEstimator
from .gumbel import GumbelST
from .gumbel_rao import GumbelRao
from .lsq import LSQ, LSQPlus, Poly
from .mve import MVE
from .mve_integer import MVEInteger
from .reinmax import ReinMax
from .reinmax_cv import ReinMaxCV
from .reinmax_rao import ReinMaxRao
from .rounding import DGE, EWGS, Trust
from .softmax import Softmax
from .ste import PACT, STE, TQT
from .straight_through import StraightThrough

__all__ = [
    "DARN",
    "DGE",
    "EWGS",
    "LSQ",
    "MVE",
    "PACT",
    "STE",
    "TQT",
    "CategoricalEstimator",
    "CountEstimator",
    "DecoupledST",
    "Fini",
    "GappedST",
    "GridEstimator",
    "GumbelRao",
    "GumbelST",
    "LSQPlus",
    "MVEInteger",
    "Poly",
    "ReinMax",
    "ReinMaxCV",
    "ReinMaxRao",
    "Softmax",
    "StraightThrough",
    "Trust",
]
