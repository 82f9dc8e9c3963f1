"""The loss of a live model as a function of its discrete outcomes."""

from .probe import probe

__all__ = ["probe"]
