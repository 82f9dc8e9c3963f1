"""The law of k of n by enumeration, in float64: what the tree is held against."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import torch
from torch import Tensor


@dataclass
class Enumerated:
    """All subsets of k, their probabilities, and moments of the drawn k-hot; logits `(n,)`."""

    logits: Tensor
    k: int

    @cached_property
    def subsets(self) -> Tensor:
        chosen = torch.tensor([*combinations(range(len(self.logits)), self.k)])
        hot = torch.zeros(len(chosen), len(self.logits), dtype=torch.float64)
        return hot.scatter(-1, chosen, 1)

    @cached_property
    def log_weights(self) -> Tensor:
        return torch.where(self.subsets > 0, self.logits.double(), 0).sum(-1)

    @cached_property
    def p(self) -> Tensor:
        return self.log_weights.softmax(0)

    @cached_property
    def mean(self) -> Tensor:
        return self.p @ self.subsets

    @cached_property
    def off(self) -> Tensor:
        return self.subsets - self.mean

    @cached_property
    def covariance(self) -> Tensor:
        return self.off.T @ (self.p[:, None] * self.off)

    def third(self, v: Tensor, w: Tensor) -> Tensor:
        """The third cumulant contracted with two directions."""
        return (self.p * (self.off @ v) * (self.off @ w)) @ self.off

    def gradient(self, loss: Tensor) -> Tensor:
        """The exact gradient of the mean of a loss, given at every subset."""
        return (self.p * loss) @ self.off


def quadratic(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """The matrix and the vector of a random loss `<z, A z> + <b, z>`, A positive definite."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, dtype=torch.float64, generator=generator)
    return root.T @ root, torch.randn(n, dtype=torch.float64, generator=generator)
