"""What subset operators are held against: values, and gradients in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.noise import Noise
from ...core.rules import Relaxation


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
