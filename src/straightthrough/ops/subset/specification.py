"""What subset operators are held against: values, and gradients in float64."""

from __future__ import annotations

from itertools import combinations, permutations

import torch
from torch import Tensor

from ...core.noise import Noise
from ...core.rules import Relaxation
from ...estimators import SubsetEstimator
from .reference import perturbed


def first_largest(scores: Tensor, k: int) -> Tensor:
    """The k-hot of the first k of a stable sort, NaN where a row has none."""
    order = torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :k]
    y = torch.zeros_like(scores).scatter(-1, order, 1)
    invalid = scores.isnan().any(-1) | (scores.isneginf().logical_not().sum(-1) < k)
    return y.masked_fill(invalid.unsqueeze(-1), torch.nan)


def gradient(
    rule: Relaxation, scores: Tensor, y: Tensor, grad: Tensor, noise: Noise, *, k: int
) -> tuple[Tensor]:
    """The gradient of the relaxed k-hot, NaN in a row that holds one."""

    def soft(x: Tensor) -> Tensor:
        return rule.soft_topk(x, k)

    gradient = torch.func.vjp(soft, scores.double())[1](grad.double())[0]
    return (gradient.masked_fill(scores.isnan().any(-1, keepdim=True), torch.nan),)


def inclusions(logits: Tensor, k: int) -> Tensor:
    """How often each class is among k that are drawn one after the other, by all orders."""
    x = logits.double()
    rows = torch.zeros_like(x)
    for order in permutations(range(x.shape[-1]), k):
        left, log_p = x, torch.zeros_like(x[..., 0])
        for i in order:
            log_p = log_p + left.log_softmax(-1)[..., i]
            left = left.index_fill(-1, torch.tensor(i, device=x.device), -torch.inf)
        hot = torch.zeros_like(x[..., :1].expand_as(x)).index_fill(
            -1, torch.tensor(order, device=x.device), 1
        )
        rows = rows + hot * log_p.exp().nan_to_num().unsqueeze(-1)
    return rows.masked_fill(without_outcome(x, k), torch.nan)


def marginals(logits: Tensor, k: int) -> Tensor:
    """How often each class is in a subset of k, by all subsets."""
    x = logits.double()
    subsets = [*combinations(range(x.shape[-1]), k)]
    hot = torch.zeros(len(subsets), x.shape[-1], dtype=x.dtype, device=x.device)
    hot.scatter_(-1, torch.tensor(subsets, device=x.device), 1)
    # Relative to the largest, as sums of the largest numbers overflow.
    relative = torch.where(x.isneginf(), x, (x - x.amax(-1, keepdim=True)).clamp(min=-1e300))
    weights = torch.where(hot > 0, relative.unsqueeze(-2), 0).sum(-1).softmax(-1)
    return (weights @ hot).masked_fill(without_outcome(x, k), torch.nan)


def without_outcome(x: Tensor, k: int) -> Tensor:
    """Which rows hold NaN or +infinity, or fewer than k classes above -infinity."""
    few = x.isneginf().logical_not().sum(-1, keepdim=True) < k
    return few | (x.isnan() | x.isposinf()).any(-1, keepdim=True)


def perturbed_gradient(
    rule: Relaxation, logits: Tensor, y: Tensor, grad: Tensor, noise: Noise, *, k: int
) -> tuple[Tensor]:
    """The gradient at the keys that were drawn, whose k largest `y` is."""
    return gradient(rule, perturbed(logits, k, noise).double(), y, grad, noise, k=k)


def estimated_gradient(
    rule: SubsetEstimator, logits: Tensor, y: Tensor, grad: Tensor, noise: Noise, *, k: int
) -> tuple[Tensor]:
    """The estimator's formula at the outcome."""
    return (rule.gradient(logits.double(), k, y.double(), grad.double()),)
