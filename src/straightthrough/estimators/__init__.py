"""Backward rules of draws and of codewords, one short file each."""

from .categorical import CategoricalEstimator
from .count import CountEstimator
from .darn import DARN
from .decoupled import DecoupledST
from .diveq import DiVeQ
from .fini import Fini
from .gapped import GappedST
from .grid import GridEstimator
from .gumbel import GumbelST
from .gumbel_rao import GumbelRao
from .lsq import LSQ, LSQPlus, Poly
from .mve import MVE
from .mve_integer import MVEInteger
from .pair import PairEstimator
from .pair_ste import Both, PairSTE
from .reinmax import ReinMax
from .reinmax_cv import ReinMaxCV
from .reinmax_rao import ReinMaxRao
from .rotation import Rotation
from .rounding import DGE, EWGS, Trust
from .second_order import SecondOrder
from .simple import Simple
from .solver import IMLE, Blackbox, Perturbed, SolverEstimator, SolverIdentity
from .ste import PACT, STE, TQT
from .straight_through import StraightThrough
from .subset import SubsetEstimator

__all__ = [
    "DARN",
    "DGE",
    "EWGS",
    "IMLE",
    "LSQ",
    "MVE",
    "PACT",
    "STE",
    "TQT",
    "Blackbox",
    "Both",
    "CategoricalEstimator",
    "CountEstimator",
    "DecoupledST",
    "DiVeQ",
    "Fini",
    "GappedST",
    "GridEstimator",
    "GumbelRao",
    "GumbelST",
    "LSQPlus",
    "MVEInteger",
    "PairEstimator",
    "PairSTE",
    "Perturbed",
    "Poly",
    "ReinMax",
    "ReinMaxCV",
    "ReinMaxRao",
    "Rotation",
    "SecondOrder",
    "Simple",
    "SolverEstimator",
    "SolverIdentity",
    "StraightThrough",
    "SubsetEstimator",
    "Trust",
]
