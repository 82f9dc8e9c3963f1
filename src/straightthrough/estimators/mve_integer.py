"""The estimator of minimum variance for a loss of the class number."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import check_positive
from ..core.kernels import kernel
from ..core.noise import Noise
from ..core.registry import rule
from ..relaxations.jacobian import tempered
from .categorical import CategoricalEstimator, reference, takes_half


@kernel("(Tensor logits, Tensor index, Tensor grad, float tau) -> Tensor")
@reference
def mve_integer(logits: Tensor, index: Tensor, grad: Tensor, tau: float) -> Tensor:
    """`p (a + (y - m) (a^2 - v) / (1 / tau + 2 v)) s`, as `MVEInteger` says."""
    p, classes = tempered(logits, 1.0), logits.shape[-1]
    slope = grad.narrow(-1, min(1, classes - 1), 1) - grad.narrow(-1, 0, 1)
    # Counted from the outcome, so that a row that is certain of it loses no digits.
    number = torch.arange(classes, device=logits.device) - index.unsqueeze(-1)
    mean = (p * number).sum(-1, keepdim=True)
    away = number - mean
    variance = (p * away.square()).sum(-1, keepdim=True)
    epsilon = torch.zeros_like(variance) + 1 / tau
    epsilon = epsilon.clamp(min=torch.finfo(p.dtype).tiny)
    skew = -mean * (away.square() - variance) / (epsilon + 2 * variance)
    return p * (away + skew) * slope


@rule("mve_integer")
@dataclass(frozen=True)
class MVEInteger(CategoricalEstimator):
    """`p (a + (y - m) (a^2 - v) / (1 / tau + 2 v)) s`, for a loss of the number y of the class.

    m and v are mean and variance of the number under p, `a_i = i - m`, and s is the derivative of
    the loss at y. For `st.categorical_integer`, or a one-hot times (0, ..., C - 1): there the
    gradient to the one-hot is `g_i = i s`, of which `s = g_1 - g_0` is read. Any other loss of a
    one-hot needs another rule, `MVE` for one.

    It is unbiased for linear losses of the number. As `tau` goes to 0 it becomes
    `StraightThrough()`; as it grows, it is unbiased for quadratic losses too.

    Args:
        tau: the weight of the bias, > 0; the smaller, the less variance and the more bias.

    Cost: one softmax and a few sums, where `MVE` solves an equation; no noise.

    Higher order: differentiates the formula, `g` and the outcome held.

    References:
        Hooper, Shekhovtsov, "Generalized and optimal straight-through estimators", 2026; centred
        at the mean here, so that nothing cancels at a large `tau`.

    Example:
        >>> rule = st.estimators.MVEInteger()
        >>> rule.vjp(torch.zeros(3), torch.tensor(2), torch.tensor([0.0, 1.0, 2.0]))
        tensor([-0.2500, -0.1667,  0.4167])
    """

    tau: float = 1e6

    def __post_init__(self) -> None:
        check_positive("tau", self.tau)

    @takes_half
    def gradient(self, logits: Tensor, index: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        return mve_integer(logits, index, grad, self.tau)
