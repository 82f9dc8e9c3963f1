"""Rules whose primitive is a classical sigmoid."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import check_positive
from ..core.registry import rule
from ..core.rules import Derivative
from .fused import fused


@rule("tanh")
@fused
@dataclass(frozen=True)
class Tanh(Derivative):
    """The hyperbolic tangent, the natural partner of `sign`.

    `derivative(x) = slope (1 - tanh(slope x)^2)`, `primitive(x) = tanh(slope x)`.

    Args:
        slope: > 0; the derivative at 0.

    References:
        Gong et al., "Differentiable soft quantization", 2019, eq. 3.

    Example:
        >>> st.surrogates.Tanh(2.0).derivative(torch.tensor([0.0]))
        tensor([2.])
    """

    slope: float = 1.0

    def __post_init__(self) -> None:
        check_positive("slope", self.slope)

    def derivative(self, x: Tensor) -> Tensor:
        # 4 e / (1 + e)^2 with e = exp(-2 |slope x|) keeps the digits that 1 - tanh^2 loses.
        e = torch.exp(-2 * self.slope * x.abs())
        return self.slope * (4 * e / (1 + e).square())

    def primitive(self, x: Tensor) -> Tensor:
        return torch.tanh(self.slope * x)


@rule("sigmoid")
@fused
@dataclass(frozen=True)
class Sigmoid(Derivative):
    """The logistic function, the natural partner of `heaviside`.

    `derivative(x) = slope s (1 - s)`, `primitive(x) = s = 1 / (1 + exp(-slope x))`.

    Args:
        slope: > 0; four times the derivative at 0. Spiking nets use 4 or 25.

    References:
        Bengio, Leonard, Courville, 2013; Chung, Ahn, Bengio, "Hierarchical multiscale recurrent
        neural networks", 2017, section 2.3 (slope annealing).

    Example:
        >>> st.surrogates.Sigmoid().derivative(torch.tensor([0.0]))
        tensor([1.])
    """

    slope: float = 4.0

    def __post_init__(self) -> None:
        check_positive("slope", self.slope)

    def derivative(self, x: Tensor) -> Tensor:
        e = torch.exp(-self.slope * x.abs())
        return self.slope * (e / (1 + e).square())

    def primitive(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.slope * x)


@rule("atan")
@fused
@dataclass(frozen=True)
class Atan(Derivative):
    """The arc tangent: heavy tails, so that far units still learn.

    `derivative(x) = (alpha / 2) / (1 + (pi alpha x / 2)^2)`,
    `primitive(x) = atan(pi alpha x / 2) / pi + 1/2`.

    Args:
        alpha: > 0; twice the derivative at 0.

    References:
        Fang et al., "Incorporating learnable membrane time constant to enhance learning of
        spiking neural networks", 2021, eq. 11.

    Example:
        >>> st.surrogates.Atan().derivative(torch.tensor([0.0]))
        tensor([1.])
    """

    alpha: float = 2.0

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)

    def derivative(self, x: Tensor) -> Tensor:
        # Where its square is infinite, z itself is not: the slope there is 0 and not NaN.
        largest = torch.finfo(x.dtype).max / 2
        z = (math.pi / 2 * self.alpha * x).clamp(-largest, largest)
        return self.alpha / 2 / (1 + z.square())

    def primitive(self, x: Tensor) -> Tensor:
        return torch.atan(math.pi / 2 * self.alpha * x) / math.pi + 0.5


@rule("erf")
@fused
@dataclass(frozen=True)
class Erf(Derivative):
    """The Gaussian distribution function: the density of a normal threshold.

    `derivative(x) = alpha / sqrt(pi) exp(-alpha^2 x^2)`, `primitive(x) = erfc(-alpha x) / 2`.

    Args:
        alpha: > 0; the threshold's standard deviation is `1 / (alpha sqrt(2))`.

    References:
        Esser et al., "Backpropagation for energy-efficient neuromorphic computing", 2015.

    Example:
        >>> st.surrogates.Erf().primitive(torch.tensor([0.0]))
        tensor([0.5000])
    """

    alpha: float = 2.0

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)

    def derivative(self, x: Tensor) -> Tensor:
        # The clamp only keeps infinity * 0 out of the slope; the value is 0 well before it.
        z = (self.alpha * x).clamp(-1e4, 1e4)
        return self.alpha / math.sqrt(math.pi) * torch.exp(-z.square())

    def primitive(self, x: Tensor) -> Tensor:
        return 0.5 * torch.erfc(-self.alpha * x)
