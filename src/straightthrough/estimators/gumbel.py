"""Straight-through Gumbel-softmax, with the Gumbels drawn given the outcome."""

from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import check_positive
from ..core.kernels import kernel
from ..core.noise import CONDITIONAL, Noise, exponential, in_blocks
from ..core.registry import rule
from ..core.straight_through import stop_gradient_as
from ..relaxations.jacobian import over, relative_to, softmax_jacobian_product
from .categorical import CategoricalEstimator, reference, takes_half


@kernel("(Tensor logits, Tensor index, Tensor grad, float tau, int samples, Noise noise) -> Tensor")
@reference
def gumbel_st(
    logits: Tensor,
    index: Tensor,
    grad: Tensor,
    tau: float,
    samples: int,
    noise: Noise,
) -> Tensor:
    """The mean over `samples` conditional draws of `J(y) g / tau`."""
    classes = logits.shape[-1]

    def block(first: int, logits: Tensor, index: Tensor, grad: Tensor) -> Tensor:
        difference = relative_to(index, grad)

        def product(sample: int) -> Tensor:
            perturbed = conditional_gumbels(logits.detach(), index, noise.after(first), sample)
            y = F.softmax(over(stop_gradient_as(perturbed, logits), tau), -1)
            return softmax_jacobian_product(y, difference)

        return over(reduce(torch.add, map(product, range(samples))), tau * samples)

    rows = (logits.reshape(-1, classes), index.reshape(-1), grad.reshape(-1, classes))
    return in_blocks(block, *rows).reshape(logits.shape)


@kernel("(Tensor x, Tensor outcome, Tensor grad, float tau, int samples, Noise noise) -> Tensor")
@reference
def binary_gumbel_st(
    x: Tensor,
    outcome: Tensor,
    grad: Tensor,
    tau: float,
    samples: int,
    noise: Noise,
) -> Tensor:
    """`g` times the mean of `s (1 - s) / tau`, s the sigmoid of the noisy `x` over tau.

    The noise is logistic, given the outcome.
    """

    def block(first: int, x: Tensor, outcome: Tensor, grad: Tensor) -> Tensor:
        def slope(sample: int) -> Tensor:
            noisy = conditional_logistic(x.detach(), outcome, noise.after(first), sample)
            y = over(stop_gradient_as(noisy, x), tau)
            return torch.sigmoid(y) * torch.sigmoid(-y)

        return over(reduce(torch.add, map(slope, range(samples))) * grad, tau * samples)

    flat = (x.reshape(-1), outcome.reshape(-1), grad.reshape(-1))
    return in_blocks(block, *flat).reshape(x.shape)


@rule("gumbel")
@dataclass(frozen=True)
class GumbelST(CategoricalEstimator):
    """Straight-through Gumbel-softmax: `J(y) g / tau`, `y = softmax((logits + G) / tau)`.

    G are Gumbels given that their argmax is the outcome, so outcome and gradient have the same
    joint law as `F.gumbel_softmax(hard=True)`, while forward draws one uniform a row. With E
    iid Exp(1), p the probabilities and x the outcome, up to a constant of the row,
    `(logits + G)_x = -log E_x` and `(logits + G)_j = log p_j - log(E_j + E_x p_j)`.

    Args:
        tau: temperature, > 0; lower is less biased and noisier (0.3 to 0.7 used).

    Cost: one exponential a class; the noise is made again from the seed, never stored.

    Higher order: differentiates the formula, `g`, the outcome and the Gumbels held.

    References:
        Jang, Gu, Poole, "Categorical reparameterization with Gumbel-softmax", 2017, section
        2.2; Maddison, Mnih, Teh, "The concrete distribution", 2017. The conditional law:
        Paulus, Maddison, Krause, "Rao-Blackwellizing the straight-through Gumbel-softmax
        gradient estimator", 2021, eq. 7.

    Example:
        >>> rule = st.estimators.GumbelST(tau=0.5)
        >>> rule.vjp(torch.zeros(3), torch.tensor(0), torch.tensor([1.0, 0.0, 0.0]), seed=0).shape
        torch.Size([3])
    """

    tau: float = 1.0
    draws_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("tau", self.tau)

    @takes_half
    def gradient(self, logits: Tensor, index: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        return gumbel_st(logits, index, grad, self.tau, 1, noise)

    @takes_half
    def binary_gradient(self, x: Tensor, outcome: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        return binary_gumbel_st(x, outcome, grad, self.tau, 1, noise)


def conditional_gumbels(logits: Tensor, index: Tensor, noise: Noise, sample: int = 0) -> Tensor:
    """Draw `logits + G - log sum exp logits`, `(rows, C)`, given that its argmax is `index`."""
    rows, classes = logits.shape
    time = exponential(noise.classes(rows, classes, logits.dtype, sample))
    log_p = F.log_softmax(logits, -1)
    chosen = index.unsqueeze(-1)
    least = time.gather(-1, chosen)
    others = log_p - torch.addcmul(time, least, log_p.exp()).log()
    return others.scatter(-1, chosen, -least.log())


def conditional_logistic(x: Tensor, outcome: Tensor, noise: Noise, sample: int = 0) -> Tensor:
    """Draw `x` plus logistic noise, `(count,)`, given that its sign is `outcome`."""
    v = noise.elements(x.numel(), x.dtype, CONDITIONAL, sample)
    toward = torch.where(outcome, x, -x)
    # Solves P(distance > d | outcome) = v for d; nothing cancels at large logits.
    distance = F.softplus(toward + torch.log1p(-v)) - v.log()
    return torch.where(outcome, distance, -distance)
