"""Smooth functions that stand for a selection in backward, one short file each."""

from .softmax import Softmax
from .threshold import Threshold

__all__ = ["Softmax", "Threshold"]
