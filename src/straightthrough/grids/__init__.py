"""Grids: the values that a quantized number may take, in units of its scale."""

from .block import MX, NVFP4
from .floating import Float
from .grid import Grid, Placed
from .uniform import Binary, HalfInt, Int, Stretched, Ternary

__all__ = [
    "MX",
    "NVFP4",
    "Binary",
    "Float",
    "Grid",
    "HalfInt",
    "Int",
    "Placed",
    "Stretched",
    "Ternary",
]
