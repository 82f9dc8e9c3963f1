"""Subset operators: every forward with its backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...core.operation import Operation
from ...core.rules import Relaxation
from .reference import topk_hot


@dataclass(frozen=True)
class TopK(Operation):
    """The k-hot of the k largest scores forward, a relaxation backward."""

    dims = ("... C",)

    k: int
    relaxation: Relaxation

    def forward(self, scores: Tensor) -> tuple[Tensor]:
        return (topk_hot(scores, self.k),)

    def backward(self, grad: Tensor, scores: Tensor) -> tuple[Tensor]:
        return (self.relaxation.backward(scores, grad, self.k),)

    def jvp(self, tangents: Sequence[Tensor], scores: Tensor) -> Tensor:
        return self.relaxation.forward(scores, tangents[0], self.k)
