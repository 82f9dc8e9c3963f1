"""Fini: exact gradients of polynomial losses of a count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import ArgumentError, as_int
from ..core.registry import rule
from .count import CountEstimator

ORDERS = (1, 2, 3)


@rule("fini")
@dataclass(frozen=True)
class Fini(CountEstimator):
    """A count's rule of order 1, 2 or 3: unbiased for losses of that degree in the count.

    The gradient to the mean m is `g w(z) / V`, z the count, g the gradient to it, and w the
    polynomial of degree `order - 1` with `E[f'(z) w(z)] = Cov(f(z), z)` for every polynomial f of
    degree up to `order`; that covariance is the derivative of `E f(z)` in the natural parameter.
    For a natural exponential family whose variance is `V = m (1 + m / size)` (size infinite for
    Poisson, minus the number of trials for binomial counts, the number of failures for negative
    binomial ones), with `a = z / m` and `b = (1 + z / size) / (1 + m / size)`:

    - order 1, the straight-through estimator: `w / V = 1`;
    - order 2: `w / V = (a + b) / 2`;
    - order 3: that less `(z (z - 1) / m^2 - 2 a b + b c) / (12 (1 + 1 / size))`,
      `c = (1 + (z + 1) / size) / (1 + m / size)`.

    For Poisson counts of rate l, w is `(z + l) / 2` of order 2 and
    `5 l / 12 + (8 l + 1) z / (12 l) - z^2 / (12 l)` of order 3. Order 2 on a count of one trial is
    `ReinMax`, and its weights are never negative. Order 3 has negative weights at counts far above
    the mean. One trial has two outcomes and no rule of order 3, which is then that of order 2.

    Args:
        order: 1, 2 or 3; higher is exact for more losses.

    Cost: a few operations an element; no noise.

    Higher order: differentiates the formula, g and the count held.

    Example:
        >>> rule = st.estimators.Fini(order=2)
        >>> rule.vjp(torch.tensor([4.0]), torch.tensor([6.0]), torch.tensor([1.0]))
        tensor([1.2500])

    References:
        Morris, "Natural exponential families with quadratic variance functions", Annals of
        Statistics, 1982, for the families and their orthogonal polynomials.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if as_int(self.order) not in ORDERS:
            raise ArgumentError(f"order must be 1, 2 or 3, got {self.order!r}")

    def gradient(
        self, mean: Tensor, dispersion: Tensor, size: float, count: Tensor, grad: Tensor
    ) -> Tensor:
        if self.order == 1:
            return grad
        # Where a mean is 0 so is its count, and the ratio.
        mean, dispersion = (
            torch.where(mean == 0, 1, mean),
            torch.where(dispersion == 0, 1, dispersion),
        )
        ratio, dispersion_ratio = count / mean, (1 + count / size) / dispersion
        weight = (ratio + dispersion_ratio) / 2
        if self.order == 3 and size != -1:
            following = (1 + (count + 1) / size) / dispersion
            third = count * (count - 1) / mean / mean - 2 * ratio * dispersion_ratio
            weight = weight - (third + dispersion_ratio * following) / (12 * (1 + 1 / size))
        return grad * weight
