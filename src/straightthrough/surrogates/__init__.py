"""Pointwise backward rules, one short file a family."""

from ..core.rules import Derivative
from .binarized import ApproxSign, ErrorDecay, SwishSign
from .bounded import Clipped, LeakyRectangle, Rectangle
from .identity import Identity
from .rational import FastSigmoid, SoftSign, SuperSpike
from .sigmoidal import Atan, Erf, Sigmoid, Tanh
from .spiking import Exponential, MultiGaussian, SquareWave, Triangle

__all__ = [
    "ApproxSign",
    "Atan",
    "Clipped",
    "Derivative",
    "Erf",
    "ErrorDecay",
    "Exponential",
    "FastSigmoid",
    "Identity",
    "LeakyRectangle",
    "MultiGaussian",
    "Rectangle",
    "Sigmoid",
    "SoftSign",
    "SquareWave",
    "SuperSpike",
    "SwishSign",
    "Tanh",
    "Triangle",
]
