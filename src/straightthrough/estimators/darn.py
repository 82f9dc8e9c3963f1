"""DARN: the score function with a baseline of first order."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.kernels import kernel
from ..core.noise import Noise
from ..core.registry import rule
from ..relaxations.jacobian import relative_to, tempered
from .categorical import CategoricalEstimator, one_hot, reference, takes_half


@kernel("(Tensor logits, Tensor index, Tensor grad) -> Tensor")
@reference
def darn(logits: Tensor, index: Tensor, grad: Tensor) -> Tensor:
    """`(D - p)(g_x - <p, g>)`."""
    p = tempered(logits, 1.0)
    advantage = -(p * relative_to(index, grad)).sum(-1, keepdim=True)
    return (one_hot(index, p) - p) * advantage


@rule("darn")
@dataclass(frozen=True)
class DARN(CategoricalEstimator):
    """`(D - p)(g_x - <p, g>)`, x the outcome and D its one-hot, p the probabilities.

    REINFORCE with the loss's first-order expansion at the outcome as baseline. Its mean is the
    exact gradient of a linear loss, and of a quadratic one it errs as much as `StraightThrough`
    does, to the other side: their mean is `ReinMax`.

    Cost: one softmax; no noise.

    Higher order: differentiates the formula, `g` and the outcome held.

    References:
        Gregor, Danihelka, Mnih, Blundell, Wierstra, "Deep autoregressive networks", 2014. The
        name and the form: Gu, Levine, Sutskever, Mnih, "MuProp: unbiased backpropagation for
        stochastic neural networks", 2016.

    Example:
        >>> rule = st.estimators.DARN()
        >>> rule.vjp(torch.zeros(2), torch.tensor(0), torch.tensor([1.0, 0.0]))
        tensor([ 0.2500, -0.2500])
    """

    @takes_half
    def gradient(self, logits: Tensor, index: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        return darn(logits, index, grad)

    def binary_gradient(self, x: Tensor, outcome: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        return torch.where(outcome, torch.sigmoid(-x), torch.sigmoid(x)).square() * grad
