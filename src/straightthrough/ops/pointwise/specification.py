"""What pointwise operators are held against: gradients in float64."""

from __future__ import annotations

from torch import Tensor

from ...core.noise import Noise
from ...core.rules import Derivative


def gradient(
    rule: Derivative, x: Tensor, y: Tensor, grad: Tensor, noise: Noise, **_: float
) -> tuple[Tensor]:
    """`grad * derivative(x)`."""
    return (grad.double() * rule.derivative(x.double()),)


def gradient_at_threshold(
    rule: Derivative, x: Tensor, y: Tensor, grad: Tensor, noise: Noise, *, threshold: float
) -> tuple[Tensor]:
    """`grad * derivative(x - threshold)`."""
    return (grad.double() * rule.derivative(x.double() - threshold),)
