"""Subset operators: every forward with its backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.operation import Operation
from ...core.rules import Relaxation


def topk_hot(scores: Tensor, k: int) -> Tensor:
    """Return the k-hot of the k largest scores a row.

    Ties go to the lowest index; `torch.topk` alone leaves them open. A row has no outcome when
    it holds NaN or fewer than k scores above -infinity; it is NaN.
    """
    largest = scores.topk(k, -1).values
    least = largest[..., -1:]
    above, tied = scores > least, scores == least
    room = k - above.sum(-1, keepdim=True, dtype=torch.int32)
    chosen = above | (tied & (tied.cumsum(-1, dtype=torch.int32) <= room))
    invalid = largest[..., :1].isnan() | least.isneginf()
    return torch.where(invalid, torch.nan, chosen.to(scores.dtype))


@dataclass(frozen=True)
class TopK(Operation):
    """The k-hot of the k largest scores forward, k times a relaxation backward."""

    dims = ("... C",)

    k: int
    relaxation: Relaxation

    def forward(self, scores: Tensor) -> tuple[Tensor]:
        return (topk_hot(scores, self.k),)

    def backward(self, grad: Tensor, scores: Tensor) -> tuple[Tensor]:
        return (self.relaxation.backward(scores, grad, self.k),)

    def jvp(self, tangents: Sequence[Tensor], scores: Tensor) -> Tensor:
        return self.relaxation.forward(scores, tangents[0], self.k)
