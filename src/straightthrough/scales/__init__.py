"""Scales: where the unit of a grid comes from, and which elements share one."""

from .fixed import RMS, AbsMax, AbsMean, Fixed, Observed
from .learned import Learned
from .scale import Scale

__all__ = ["RMS", "AbsMax", "AbsMean", "Fixed", "Learned", "Observed", "Scale"]
