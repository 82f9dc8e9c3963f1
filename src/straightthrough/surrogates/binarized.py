"""Rules of binarized nets, made for `sign`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import check_positive
from ..core.registry import rule
from ..core.rules import Derivative
from .fused import fused


@rule("approx_sign")
@fused
@dataclass(frozen=True)
class ApproxSign(Derivative):
    """The piecewise quadratic sign of Bi-Real nets.

    `derivative(x) = 2 - 2 |x|` where `|x| <= 1`, else 0; `primitive(x) = 2 x - x |x|` there, and
    the sign outside.

    References:
        Liu et al., "Bi-Real net: enhancing the performance of 1-bit CNNs", 2018, eq. 7.

    Example:
        >>> st.surrogates.ApproxSign().derivative(torch.tensor([0.0, 0.5, 2.0]))
        tensor([2., 1., 0.])
    """

    def derivative(self, x: Tensor) -> Tensor:
        return torch.relu(2 - 2 * x.abs())

    def primitive(self, x: Tensor) -> Tensor:
        z = x.clamp(-1, 1)
        return 2 * z - z * z.abs()


@rule("swish_sign")
@fused
@dataclass(frozen=True)
class SwishSign(Derivative):
    """The sign-swish: steeper at 0 than the sign's own gradient, slightly negative beyond.

    `derivative(x) = beta (2 - beta x tanh(beta x / 2)) / (1 + cosh(beta x))`,
    `primitive(x) = 2 s (1 + beta x (1 - s)) - 1`, `s = 1 / (1 + exp(-beta x))`.

    Args:
        beta: > 0; the derivative at 0.

    References:
        Darabi, Belbahri, Courbariaux, Nia, "Regularized binary network training", 2018, eq. 4.

    Example:
        >>> st.surrogates.SwishSign().derivative(torch.tensor([0.0]))
        tensor([5.])
    """

    beta: float = 5.0

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)

    def derivative(self, x: Tensor) -> Tensor:
        # 1 / (1 + cosh z) as 2 e / (1 + e)^2 with e = exp(-|z|), which cannot overflow; the
        # clamp only keeps infinity * 0 away, the product is 0 well before it.
        z = (self.beta * x).clamp(-1e4, 1e4)
        e = torch.exp(-z.abs())
        return self.beta * (2 - z * torch.tanh(z / 2)) * (2 * e / (1 + e).square())

    def primitive(self, x: Tensor) -> Tensor:
        z = (self.beta * x).clamp(-1e4, 1e4)
        s = torch.sigmoid(z)
        return 2 * s * (1 + z * torch.sigmoid(-z)) - 1


@rule("error_decay")
@fused
@dataclass(frozen=True)
class ErrorDecay(Derivative):
    """The error decay estimator of IR-Net: from the identity to the sign as `t` grows.

    `derivative(x) = k t (1 - tanh(t x)^2)`, `primitive(x) = k tanh(t x)`, `k = max(1 / t, 1)`.

    Args:
        t: > 0; scheduled from 1e-3 (near the identity) to 10 (near the sign) on a log scale,
            for instance by `st.nn.schedules.Exponential(1e-3, 10, steps)`.

    References:
        Qin et al., "Forward and backward information retention for accurate binary neural
        networks", 2020, eqs. 10-12.

    Example:
        >>> st.surrogates.ErrorDecay(0.1).derivative(torch.tensor([0.0]))
        tensor([1.])
    """

    t: float

    def __post_init__(self) -> None:
        check_positive("t", self.t)

    def derivative(self, x: Tensor) -> Tensor:
        e = torch.exp(-2 * self.t * x.abs())
        return _at_least_one(self.t) * (4 * e / (1 + e).square())

    def primitive(self, x: Tensor) -> Tensor:
        return _at_least_one(1 / self.t) * torch.tanh(self.t * x)


def _at_least_one(number: Any) -> Any:
    return number.clamp(min=1) if isinstance(number, Tensor) else max(number, 1.0)
