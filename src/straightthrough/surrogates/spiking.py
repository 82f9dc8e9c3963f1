"""Further rules of spiking nets: triangle, exponential, Gaussians, square wave."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import check_count, check_positive
from ..core.registry import rule
from ..core.rules import Derivative
from .fused import fused


@rule("triangle")
@fused
@dataclass(frozen=True)
class Triangle(Derivative):
    """A triangle of area 1.

    `derivative(x) = max(alpha - alpha^2 |x|, 0)`; `primitive` is its integral, from 0 to 1.

    Args:
        alpha: the derivative at 0, > 0; the triangle ends at `|x| = 1 / alpha`.

    References:
        Esser et al., "Convolutional networks for fast, energy-efficient neuromorphic
        computing", 2016; Bellec et al., "Long short-term memory in networks of spiking
        neurons", 2018.

    Example:
        >>> st.surrogates.Triangle().derivative(torch.tensor([0.0, 0.25, 2.0]))
        tensor([1.0000, 0.7500, 0.0000])
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)

    def derivative(self, x: Tensor) -> Tensor:
        return torch.relu(self.alpha - self.alpha**2 * x.abs())

    def primitive(self, x: Tensor) -> Tensor:
        z = (self.alpha * x).clamp(-1, 1)
        return 0.5 + z - 0.5 * z * z.abs()


@rule("exponential")
@fused
@dataclass(frozen=True)
class Exponential(Derivative):
    """Two exponential flanks: the density of a Laplace threshold.

    `derivative(x) = (alpha / 2) exp(-alpha |x|)`; `primitive` is its integral, from 0 to 1.

    Args:
        alpha: > 0; twice the derivative at 0.

    References:
        Shrestha, Orchard, "SLAYER: spike layer error reassignment in time", 2018.

    Example:
        >>> st.surrogates.Exponential().derivative(torch.tensor([0.0]))
        tensor([0.5000])
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)

    def derivative(self, x: Tensor) -> Tensor:
        return self.alpha / 2 * torch.exp(-self.alpha * x.abs())

    def primitive(self, x: Tensor) -> Tensor:
        below = torch.where(x < 0, x, -x)  # -|x| with a slope at 0, which is that from above
        tail = 0.5 * torch.exp(self.alpha * below)
        return torch.where(x < 0, tail, 1 - tail)


@rule("multi_gaussian")
@fused
@dataclass(frozen=True)
class MultiGaussian(Derivative):
    """A Gaussian with a negative bump on either side.

    `derivative(x) = gamma [(1 + height) N(x; 0, sigma) - height N(x; sigma, 6 sigma)
    - height N(x; -sigma, 6 sigma)]`, N the normal density with that mean and deviation;
    `primitive` is its integral.

    Args:
        gamma: scale of the whole, > 0.
        sigma: deviation of the inner Gaussian, > 0.
        height: weight of the bumps, > 0.

    References:
        Yin, Corradi, Bohte, "Accurate and efficient time-domain classification with adaptive
        spiking recurrent neural networks", 2021, eq. 10.

    Example:
        >>> st.surrogates.MultiGaussian().derivative(torch.tensor([0.0]))
        tensor([0.4391])
    """

    gamma: float = 0.5
    sigma: float = 0.5
    height: float = 0.15

    def __post_init__(self) -> None:
        for name in ("gamma", "sigma", "height"):
            check_positive(name, getattr(self, name))

    def derivative(self, x: Tensor) -> Tensor:
        s, h = self.sigma, self.height
        inner = (1 + h) * _normal_density(x, s)
        bumps = h * (_normal_density(x - s, 6 * s) + _normal_density(x + s, 6 * s))
        return self.gamma * (inner - bumps)

    def primitive(self, x: Tensor) -> Tensor:
        s, h = self.sigma, self.height
        inner = (1 + h) * _normal_cdf(x, s)
        bumps = h * (_normal_cdf(x - s, 6 * s) + _normal_cdf(x + s, 6 * s))
        return self.gamma * (inner - bumps)


@rule("square_wave")
@dataclass(frozen=True)
class SquareWave(Derivative):
    """The first terms of the Fourier series of a square wave.

    `derivative(x) = 4 / period sum_i cos((2 i - 1) 2 pi x / period)`,
    `primitive(x) = 1/2 + 2 / pi sum_i sin((2 i - 1) 2 pi x / period) / (2 i - 1)`,
    i from 1 to `terms`; where `x / period` is infinite the derivative is 0. At infinity the
    primitive has no limit and is NaN.

    Args:
        terms: number of terms, an int >= 1.
        period: > 0.

    Example:
        >>> st.surrogates.SquareWave().derivative(torch.tensor([0.0]))
        tensor([1.])
    """

    terms: int = 2
    period: float = 8.0

    def __post_init__(self) -> None:
        check_positive("period", self.period)
        check_count("terms", self.terms)

    def derivative(self, x: Tensor) -> Tensor:
        far = (x / self.period).isinf()
        phase = 2 * math.pi / self.period * torch.fmod(x.masked_fill(far, 0), self.period)
        waves = [torch.cos(n * phase) for n in range(1, 2 * self.terms, 2)]
        return (4 / self.period * torch.stack(waves).sum(0)).masked_fill(far, 0)

    def primitive(self, x: Tensor) -> Tensor:
        phase = 2 * math.pi / self.period * torch.fmod(x, self.period)
        waves = [torch.sin(n * phase) / n for n in range(1, 2 * self.terms, 2)]
        return 0.5 + 2 / math.pi * torch.stack(waves).sum(0)


def _normal_density(x: Tensor, deviation: float) -> Tensor:
    # The clamp only keeps infinity * 0 out of the slope; the value is 0 well before it.
    z = (x / deviation).clamp(-1e4, 1e4)
    return torch.exp(-0.5 * z.square()) / (deviation * math.sqrt(2 * math.pi))


def _normal_cdf(x: Tensor, deviation: float) -> Tensor:
    return 0.5 * torch.erfc(-x / (deviation * math.sqrt(2)))
