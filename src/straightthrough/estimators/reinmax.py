"""ReinMax: second-order accurate, at the cost of the plain estimator."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import check_positive
from ..core.kernels import kernel
from ..core.noise import Noise
from ..core.registry import rule
from ..relaxations.jacobian import is_one, relative_to, softmax_jacobian_product, tempered
from .categorical import CategoricalEstimator, one_hot, reference, takes_half


@kernel("(Tensor logits, Tensor index, Tensor grad, float tau) -> Tensor")
@reference
def reinmax(logits: Tensor, index: Tensor, grad: Tensor, tau: float) -> Tensor:
    """`2 J((p_tau + D) / 2) g - J(p) g / 2`; the closed form where tau is 1."""
    p, difference = tempered(logits, 1.0), relative_to(index, grad)
    if is_one(tau):
        others = 0.5 * p * difference
        return others.scatter_add(-1, index.unsqueeze(-1), -others.sum(-1, keepdim=True))
    middle = 0.5 * (tempered(logits, tau) + one_hot(index, p))
    return 2 * softmax_jacobian_product(middle, difference) - 0.5 * softmax_jacobian_product(
        p, difference
    )


@kernel("(Tensor x, Tensor outcome, Tensor grad, float tau) -> Tensor")
@reference
def binary_reinmax(x: Tensor, outcome: Tensor, grad: Tensor, tau: float) -> Tensor:
    """The same between logits 0 and `x`; `g (1 - p) / 2` or `g p / 2` where tau is 1."""
    if is_one(tau):
        return 0.5 * torch.sigmoid(torch.where(outcome, -x, x)) * grad
    above = torch.sigmoid(x / tau) + outcome
    below = torch.sigmoid(-x / tau) + ~outcome
    return 0.5 * (above * below - torch.sigmoid(x) * torch.sigmoid(-x)) * grad


@rule("reinmax")
@dataclass(frozen=True)
class ReinMax(CategoricalEstimator):
    """`2 J((p_tau + D) / 2) g - J(p) g / 2`, D the outcome: Heun's method for the expectation.

    With `tau = 1` this is `(J(p) g + (D - p)(g_x - <p, g>)) / 2`, the mean of the straight-through
    and the DARN estimator, that is `p_j (g_j - g_x) / 2` for the classes that were not drawn and
    minus their sum for the one that was, and it is unbiased for quadratic losses.

    Args:
        tau: temperature, >= 1 in practice; larger trades variance for bias (1.1 to 1.5 used).

    Cost: one softmax at `tau = 1`, else two; no noise.

    Higher order: differentiates the formula, `g` and the outcome held.

    References:
        Liu, Dong, Liu, Yu, Gao, "Bridging discrete and backpropagation: straight-through and
        beyond", 2023, theorem 3.1 and algorithm 2. Shekhovtsov, "Cold analysis of Rao-Blackwellized
        straight-through Gumbel-softmax gradient estimator", 2023, eq. 16 (the closed form).

    Example:
        >>> rule = st.estimators.ReinMax()
        >>> rule.vjp(torch.zeros(4), torch.tensor(0), torch.tensor([1.0, 0.0, 0.0, 0.0]))
        tensor([ 0.3750, -0.1250, -0.1250, -0.1250])
    """

    tau: float = 1.0

    def __post_init__(self) -> None:
        check_positive("tau", self.tau)

    @takes_half
    def gradient(self, logits: Tensor, index: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        return reinmax(logits, index, grad, self.tau)

    @takes_half
    def binary_gradient(self, x: Tensor, outcome: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        return binary_reinmax(x, outcome, grad, self.tau)
