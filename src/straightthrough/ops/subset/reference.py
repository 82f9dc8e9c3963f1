"""Subset operators: the specification, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.noise import Seed
from ...core.rules import Relaxation
from ...core.straight_through import Operation


def topk_hot(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k-hot of the k largest scores a row, and which rows have none.

    Ties go to the lowest index; `torch.topk` alone leaves them open. A row has no outcome when
    it holds NaN or fewer than k scores above -infinity; it is NaN.
    """
    largest = scores.topk(k, -1).values
    least = largest[..., -1:]
    above, tied = scores > least, scores == least
    room = k - above.sum(-1, keepdim=True)
    chosen = above | (tied & (tied.cumsum(-1) <= room))
    invalid = largest[..., :1].isnan() | least.isneginf()
    return torch.where(invalid, torch.nan, chosen.to(scores.dtype)), invalid.squeeze(-1)


def first_largest(scores: Tensor, k: int) -> Tensor:
    """The k-hot of the first k of a stable sort, NaN where a row has none."""
    order = torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :k]
    y = torch.zeros_like(scores).scatter(-1, order, 1)
    invalid = scores.isnan().any(-1) | (scores.isneginf().logical_not().sum(-1) < k)
    return y.masked_fill(invalid.unsqueeze(-1), torch.nan)


def gradient(
    rule: Relaxation, scores: Tensor, y: Tensor, grad: Tensor, seed: Seed, *, k: int
) -> Tensor:
    """The gradient of `k * soft`."""
    return k * torch.func.vjp(rule.soft, scores.double())[1](grad.double())[0]


@dataclass(frozen=True)
class TopK(Operation):
    """The k-hot of the k largest scores forward, k times a relaxation backward."""

    k: int
    relaxation: Relaxation

    def forward(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return topk_hot(scores, self.k)

    def keep(self, inputs: Sequence[Tensor], residuals: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs

    def backward(self, grad: Tensor, scores: Tensor) -> tuple[Tensor]:
        return (self.k * self.relaxation.vjp(scores, grad),)

    def jvp(self, tangents: Sequence[Tensor], scores: Tensor) -> Tensor:
        return self.k * self.relaxation.jvp(scores, tangents[0])
