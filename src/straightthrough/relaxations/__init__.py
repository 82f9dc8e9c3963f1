"""Smooth functions that stand for a selection in backward, one short file each."""

from ..core.rules import Relaxation
from .softmax import Softmax
from .threshold import Threshold

__all__ = ["Relaxation", "Softmax", "Threshold"]
