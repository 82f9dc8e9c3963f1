"""Grids: the values that a quantized number may take, in units of its scale."""

from .grid import Grid, Placed
from .uniform import Binary, Int, Stretched, Ternary

__all__ = ["Binary", "Grid", "Int", "Placed", "Stretched", "Ternary"]
