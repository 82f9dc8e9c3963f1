"""The plain straight-through estimator of a categorical draw."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import check_positive
from ..core.kernels import kernel
from ..core.noise import Noise
from ..core.registry import rule
from ..relaxations.jacobian import relative_to, softmax_jacobian_product, tempered
from .categorical import CategoricalEstimator, reference, takes_half


@kernel("(Tensor logits, Tensor index, Tensor grad, float tau) -> Tensor")
@reference
def straight_through(logits: Tensor, index: Tensor, grad: Tensor, tau: float) -> Tensor:
    """`J(p_tau) g / tau`."""
    return softmax_jacobian_product(tempered(logits, tau), relative_to(index, grad)) / tau


@kernel("(Tensor x, Tensor outcome, Tensor grad, float tau) -> Tensor")
@reference
def binary_straight_through(x: Tensor, outcome: Tensor, grad: Tensor, tau: float) -> Tensor:
    """`g s (1 - s) / tau`, s the sigmoid of `x / tau`."""
    return torch.sigmoid(x / tau) * torch.sigmoid(-x / tau) * grad / tau


@rule("straight_through")
@dataclass(frozen=True)
class StraightThrough(CategoricalEstimator):
    """The gradient of the probabilities: `J(p_tau) g / tau`, `p_tau = softmax(logits / tau)`.

    Biased, and the least noisy: it depends on the outcome only through `g`.

    Args:
        tau: temperature of the backward, > 0; above 1 it flattens the gradient.

    Cost: one softmax; no noise.

    Higher order: differentiates the formula, `g` and the outcome held.

    References:
        Bengio, Leonard, Courville, "Estimating or propagating gradients through stochastic
        neurons for conditional computation", 2013, section 4.

    Example:
        >>> rule = st.estimators.StraightThrough()
        >>> rule.vjp(torch.zeros(2), torch.tensor(0), torch.tensor([1.0, 0.0]))
        tensor([ 0.2500, -0.2500])
    """

    tau: float = 1.0

    def __post_init__(self) -> None:
        check_positive("tau", self.tau)

    @takes_half
    def gradient(self, logits: Tensor, index: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        return straight_through(logits, index, grad, self.tau)

    @takes_half
    def binary_gradient(self, x: Tensor, outcome: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        return binary_straight_through(x, outcome, grad, self.tau)
