"""What binary operators are held against: the mean of a draw, and gradients in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.noise import Noise, logistic
from ...core.precision import compute_dtype
from ...core.rules import Derivative
from ...estimators import CategoricalEstimator
from .reference import stretch, uniform_like


def probability(logits: Tensor, **_: object) -> Tensor:
    """Return the mean of a draw, in float64."""
    return torch.sigmoid(logits.double())


def gradient(
    rule: CategoricalEstimator | Derivative, x: Tensor, y: Tensor, grad: Tensor, noise: Noise
) -> tuple[Tensor]:
    """The surrogate's derivative, or the estimator's formula on the classes 0 and `x`."""
    if isinstance(rule, Derivative):
        return (grad.double() * rule.derivative(x.double()),)
    if rule.draws_noise:
        wide = compute_dtype(x.dtype)
        return (rule.binary_gradient(x.to(wide), y > 0, grad.to(wide), noise).double(),)
    return (CategoricalEstimator.binary_gradient(rule, x.double(), y > 0, grad.double(), noise),)


def soft_gradient(
    rule: None,
    x: Tensor,
    y: Tensor,
    grad: Tensor,
    noise: Noise,
    *,
    hard: bool,
    tau: float,
    gamma: float = 0.0,
    zeta: float = 1.0,
) -> tuple[Tensor]:
    """The gradient of the soft gate under the same noise."""
    shift = logistic(uniform_like(x, noise)).double()

    def soft(logits: Tensor) -> Tensor:
        return stretch(torch.sigmoid((logits + shift) / tau), gamma, zeta)

    pulled: tuple[Tensor] = torch.func.vjp(soft, x.double())[1](grad.double())
    return pulled
