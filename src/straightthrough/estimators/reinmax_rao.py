"""ReinMax-Rao: ReinMax, its midpoint relaxed by Gumbels and averaged over them."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import check_count, check_positive
from ..core.noise import Noise
from ..core.registry import rule
from ..relaxations.jacobian import relative_to, softmax_jacobian_product, tempered
from .categorical import CategoricalEstimator
from .gumbel import binary_gumbel_st, gumbel_st


def midpoint(logits: Tensor, index: Tensor) -> Tensor:
    """Return `log((p + D) / 2)` up to a constant of the row, D the one-hot of `index`."""
    log_p, chosen = F.log_softmax(logits, -1), index.unsqueeze(-1)
    return log_p.scatter(-1, chosen, torch.log1p(log_p.gather(-1, chosen).exp()))


def binary_midpoint(x: Tensor, outcome: Tensor) -> Tensor:
    """Return the logit of `(p + outcome) / 2`, p the sigmoid of `x`."""
    distance = F.softplus(torch.where(outcome, x, -x) + math.log(2))
    return torch.where(outcome, distance, -distance)


@rule("reinmax_rao")
@dataclass(frozen=True)
class ReinMaxRao(CategoricalEstimator):
    """`2/K sum_k J(y_k) g / tau - J(p) g / 2`, y_k relaxed outcomes at a midpoint, k = 1..K.

    `y_k = softmax((theta_D + G_k) / tau)`, `theta_D = log((p + D) / 2)`, D the one-hot of the
    outcome, K = `samples`; the Gumbels `G_k` are drawn given that it is their argmax. It is
    `ReinMax` with `J((p + D) / 2)` replaced by its `GumbelRao` estimate: on many losses less
    variance, at the price of some bias.

    Args:
        tau: temperature, > 0.
        samples: K, an int of at least 1.

    Cost: K exponentials a class and two softmaxes; the draws are summed one by one, so memory is
    that of one. A double backward keeps all K.

    Higher order: differentiates the formula, `g`, the outcome and the Gumbels held.

    References:
        Wang, Bui, "Beyond ReinMax: low-variance gradient estimators for discrete latent
        variables", 2026.

    Example:
        >>> rule = st.estimators.ReinMaxRao(tau=0.5)
        >>> rule.vjp(torch.zeros(3), torch.tensor(0), torch.tensor([1.0, 0.0, 0.0]), seed=0).shape
        torch.Size([3])
    """

    tau: float = 1.0
    samples: int = 100
    draws_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("tau", self.tau)
        check_count("samples", self.samples)

    def gradient(self, logits: Tensor, index: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        middle = midpoint(logits, index)
        at_middle = gumbel_st(middle, index, grad, self.tau, self.samples, noise)
        p = tempered(logits, 1.0)
        return 2 * at_middle - 0.5 * softmax_jacobian_product(p, relative_to(index, grad))

    def binary_gradient(self, x: Tensor, outcome: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        middle = binary_midpoint(x, outcome)
        at_middle = binary_gumbel_st(middle, outcome, grad, self.tau, self.samples, noise)
        return 2 * at_middle - 0.5 * torch.sigmoid(x) * torch.sigmoid(-x) * grad
