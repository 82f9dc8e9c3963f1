"""How the operators of a model fare while it trains."""

from .monitor import Monitor
from .sinks import JsonLines, Observation, TensorBoard

__all__ = ["JsonLines", "Monitor", "Observation", "TensorBoard"]
