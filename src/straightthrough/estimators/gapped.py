"""The gapped straight-through estimator: the effect of Gumbels, without Gumbels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import ArgumentError, check_at_least, check_positive
from ..core.kernels import kernel
from ..core.noise import Noise
from ..core.registry import rule
from ..relaxations.jacobian import relative_to, softmax_jacobian_product, tempered
from .categorical import CategoricalEstimator, one_hot, reference, takes_half


@kernel("(Tensor logits, Tensor index, Tensor grad, float tau, float gap) -> Tensor")
@reference
def gapped(logits: Tensor, index: Tensor, grad: Tensor, tau: float, gap: float) -> Tensor:
    """`J(softmax(t / tau)) g / tau`, the outcome leading by `gap`."""
    below = logits - logits.amax(-1, keepdim=True)
    return _at_lead(below, index, grad, tau, gap + torch.zeros_like(below[..., :1]))


@reference
def expected_gap(logits: Tensor, index: Tensor, grad: Tensor, tau: float) -> Tensor:
    """The same, the outcome leading by what Gumbels give it on average."""
    below = logits - logits.amax(-1, keepdim=True)
    least = torch.finfo(below.dtype).min  # not -infinity, whose logsumexp has no derivative
    others = below.masked_fill(one_hot(index, below).bool(), least).logsumexp(-1, keepdim=True)
    lead = mean_lead(below.gather(-1, index.unsqueeze(-1)) - others)
    return _at_lead(below, index, grad, tau, lead)


def _at_lead(below: Tensor, index: Tensor, grad: Tensor, tau: float, lead: Tensor) -> Tensor:
    moved = torch.where(one_hot(index, below).bool(), 0.0, torch.minimum(below, -lead))
    return softmax_jacobian_product(tempered(moved, tau), relative_to(index, grad)) / tau


def mean_lead(logit: Tensor) -> Tensor:
    """Return the mean lead that Gumbels give an outcome whose log-odds are `logit`."""
    least = torch.finfo(logit.dtype).tiny  # both ends of the fraction are p_x there
    return F.softplus(logit).clamp(min=least) / torch.sigmoid(logit).clamp(min=least)


@rule("gapped")
@dataclass(frozen=True)
class GappedST(CategoricalEstimator):
    """`J(softmax(t / tau)) g / tau`, t the logits moved as little as makes the outcome stand out.

    `t_x = max(logits)` at the outcome x, and `t_j = min(logits_j, max(logits) - gap)` at the other
    classes. It stands in for straight-through Gumbel-softmax, whose perturbed logits have the
    outcome on top as well.

    Args:
        tau: temperature, > 0.
        gap: by how much the outcome leads, >= 0 (1 is usual); or `"expected"`, the mean lead that
            Gumbels give it, `-log(1 - p_x) / p_x`, p_x the probability of the outcome.

    Cost: one softmax, with `"expected"` two passes more; no noise.

    Higher order: differentiates the formula, `g` and the outcome held.

    References:
        Fan, Chi, Rudnicky, Ramadge, "Training discrete deep generative models via gapped
        straight-through estimator", 2022.

    Example:
        >>> rule = st.estimators.GappedST(gap=2.0)
        >>> rule.vjp(torch.zeros(2), torch.tensor(0), torch.tensor([1.0, 0.0]))
        tensor([ 0.1050, -0.1050])
    """

    tau: float = 1.0
    gap: float | str = 1.0

    def __post_init__(self) -> None:
        check_positive("tau", self.tau)
        if isinstance(self.gap, str):
            if self.gap != "expected":
                raise ArgumentError(f"gap must be a number or 'expected', got {self.gap!r}")
            return
        check_at_least("gap", self.gap, 0)

    @takes_half
    def gradient(self, logits: Tensor, index: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        if isinstance(self.gap, str):
            return expected_gap(logits, index, grad, self.tau)
        return gapped(logits, index, grad, self.tau, self.gap)

    def binary_gradient(self, x: Tensor, outcome: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        toward = torch.where(outcome, x, -x)
        lead = mean_lead(toward) if isinstance(self.gap, str) else torch.zeros_like(x) + self.gap
        t = torch.maximum(toward, lead) / self.tau
        return torch.sigmoid(t) * torch.sigmoid(-t) * grad / self.tau
