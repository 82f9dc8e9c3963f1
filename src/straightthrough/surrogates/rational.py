"""Rules that decay as 1 / x^2: cheap, no exponential, heavy tails."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import check_positive
from ..core.registry import rule
from ..core.rules import Derivative
from .fused import fused


@rule("fast_sigmoid")
@fused
@dataclass(frozen=True)
class FastSigmoid(Derivative):
    """The fast sigmoid of spiking nets, with height 1.

    `derivative(x) = 1 / (1 + slope |x|)^2`, `primitive(x) = x / (1 + slope |x|)`.

    Args:
        slope: > 0; the larger, the narrower.

    References:
        Zenke, Ganguli, "SuperSpike: supervised learning in multilayer spiking neural networks",
        2018, eq. 8.

    Example:
        >>> st.surrogates.FastSigmoid(1.0).derivative(torch.tensor([0.0, 1.0]))
        tensor([1.0000, 0.2500])
    """

    slope: float = 25.0

    def __post_init__(self) -> None:
        check_positive("slope", self.slope)

    def derivative(self, x: Tensor) -> Tensor:
        return _falling(self.slope * x)

    def primitive(self, x: Tensor) -> Tensor:
        return _soft_sign(self.slope * x) / self.slope


@rule("super_spike")
@fused
@dataclass(frozen=True)
class SuperSpike(Derivative):
    """The SuperSpike rule: width 1, height `alpha`.

    `derivative(x) = alpha / (1 + |x|)^2`, `primitive(x) = alpha x / (1 + |x|)`.

    Args:
        alpha: the derivative at 0, > 0.

    References:
        Zenke, Ganguli, 2018; Shrestha, Orchard, "SLAYER", 2018.

    Example:
        >>> st.surrogates.SuperSpike().derivative(torch.tensor([1.0]))
        tensor([0.2500])
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)

    def derivative(self, x: Tensor) -> Tensor:
        return self.alpha * _falling(x)

    def primitive(self, x: Tensor) -> Tensor:
        return self.alpha * _soft_sign(x)


@rule("soft_sign")
@fused
@dataclass(frozen=True)
class SoftSign(Derivative):
    """The soft sign, scaled to rise from 0 to 1.

    `derivative(x) = 1 / (2 alpha (1 / alpha + |x|)^2)`,
    `primitive(x) = (alpha x / (1 + alpha |x|) + 1) / 2`.

    Args:
        alpha: > 0; twice the derivative at 0.

    Example:
        >>> st.surrogates.SoftSign().derivative(torch.tensor([0.0, 0.5]))
        tensor([1.0000, 0.2500])
    """

    alpha: float = 2.0

    def __post_init__(self) -> None:
        check_positive("alpha", self.alpha)

    def derivative(self, x: Tensor) -> Tensor:
        return self.alpha / 2 * _falling(self.alpha * x)

    def primitive(self, x: Tensor) -> Tensor:
        return 0.5 * (_soft_sign(self.alpha * x) + 1)


def _falling(z: Tensor) -> Tensor:
    # The square of 1 / (1 + |z|), as that of 1 + |z| has an infinite slope far out.
    return (1 / (1 + z.abs())).square()


def _soft_sign(z: Tensor) -> Tensor:
    largest = torch.finfo(z.dtype).max  # infinity / infinity would be NaN
    z = z.clamp(-largest, largest)
    return z / (1 + z.abs())
