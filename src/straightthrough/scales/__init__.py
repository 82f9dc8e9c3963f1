"""Scales: where the unit of a grid comes from, and which elements share one."""

from .fixed import AbsMax, AbsMean, Observed
from .learned import Learned
from .scale import Scale

__all__ = ["AbsMax", "AbsMean", "Learned", "Observed", "Scale"]
