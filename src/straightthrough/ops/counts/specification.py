"""What counts are held against: means, and gradients in float64 from the textbook's moments."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...core.noise import Noise
from ...estimators import Fini
from .families import LARGEST

Central = tuple[Tensor, Tensor, Tensor, Tensor]
"""The mean, and the central moments 2 to 4."""


def poisson(log_rate: Tensor) -> Central:
    """Of `exp(log_rate)`."""
    rate = log_rate.exp()
    return rate, rate, rate, rate + 3 * rate.square()


def binomial(logits: Tensor, total_count: int) -> Central:
    """Of `total_count` trials."""
    p, q = torch.sigmoid(logits), torch.sigmoid(-logits)
    variance = total_count * p * q
    fourth = variance + (3 - 6 / total_count) * variance.square()
    return total_count * p, variance, variance * (q - p), fourth


def negative_binomial(logits: Tensor, total_count: float) -> Central:
    """Of the successes before `total_count` failures."""
    odds = logits.exp()
    variance = total_count * odds * (1 + odds)
    fourth = variance.square() * (3 + 6 / total_count) + variance
    return total_count * odds, variance, variance * (1 + 2 * odds), fourth


def geometric(logits: Tensor) -> Central:
    """Of the failures before one success."""
    return negative_binomial(-logits, 1)


def mean_of(moments: Callable[..., Central], bounded: bool = False) -> Callable[..., Tensor]:
    """Return the specification of the mean in float64, NaN where it is too large.

    Counts that are `bounded` are none of them too large.
    """

    def mean(x: Tensor, **arguments: float) -> Tensor:
        mean = moments(x.double(), **arguments)[0]
        if bounded:
            return mean
        largest = torch.finfo(x.dtype).max / 64 * min(1, arguments.get("total_count", 1))
        return torch.where(mean <= min(LARGEST, largest), mean, torch.nan)

    return mean


def gradient_of(
    moments: Callable[..., Central], slope: Callable[[Tensor], Tensor | float]
) -> Callable[..., tuple[Tensor]]:
    """Return the specification of the backward; `slope` is the natural parameter's in x.

    The weight is the projection onto the polynomials 1, `d = z - mean` and
    `d^2 - M3 d / V - V`, which are orthogonal, of what has the moments that it must have.
    """

    def gradient(
        rule: Fini, x: Tensor, y: Tensor, grad: Tensor, noise: Noise, **arguments: float
    ) -> tuple[Tensor]:
        x = x.double()
        mean, variance, third, fourth = moments(x, **arguments)
        certain = variance == 0
        v, d = torch.where(certain, 1, variance), y.double() - mean
        weight = variance
        if rule.order >= 2:
            weight = weight + third / (2 * v) * d
        norm = fourth - third.square() / v - v.square()
        if rule.order == 3:
            polynomial = d.square() - third / v * d - v
            wanted = fourth / 3 - third.square() / (2 * v) - v.square()
            weight = weight + wanted / norm * polynomial
        gradient = torch.where(certain, 0, weight * slope(x)) * grad.double()
        return (gradient.masked_fill(y.isnan(), torch.nan),)

    return gradient
