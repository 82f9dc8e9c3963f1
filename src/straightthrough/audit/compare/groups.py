"""Draws of outcomes in groups: independent replicates, whose scatter is the error of their mean."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...core.errors import check_count
from ...core.noise import Noise, Seed
from ...ops.categorical.reference import draw
from .exact import CHUNK, Outcomes

GROUPS = 32
"""Groups that draws fall into. Each has a mean, a baseline and a variance of its own."""


def group_size(samples: int, least: int) -> int:
    """Return how many draws a group has for `samples` in all, rounded up, `least` at least."""
    samples = check_count("samples", samples)
    return max(least, -(-samples // GROUPS))


def draw_outcomes(logits: Tensor, count: int, seed: int, tau: float = 1.0) -> Iterator[Outcomes]:
    """Yield `count` independent draws from `logits / tau`, `(C,)` or `(L, C)`, by chunks."""
    rows = logits.detach().reshape(-1, logits.shape[-1]).to(torch.float64) / tau
    value, step = Seed(seed).tensor(logits.device), max(1, CHUNK // logits.numel())
    for first in range(0, count, step):
        size = min(step, count - first)
        one_hot, index = draw(rows.expand(size, *rows.shape), Noise(value, first * len(rows)))
        weight = torch.full((size,), 1 / count, dtype=torch.float64, device=logits.device)
        yield Outcomes(first, index, one_hot.to(logits.dtype), weight)


class Sums:
    """One sum a group over draws that come in chunks, in float64."""

    def __init__(self, size: int, *shape: int, like: Tensor) -> None:
        self.size = size
        self.total = torch.zeros(GROUPS, *shape, dtype=torch.float64, device=like.device)

    def add(self, first: int, values: Tensor) -> None:
        """Add one value a draw, the first of them draw number `first`."""
        number = torch.arange(first, first + len(values), device=values.device)
        self.total.index_add_(0, number // self.size, values.to(torch.float64))

    def mean(self) -> Tensor:
        """Return the mean of each group."""
        return self.total / self.size


class LeaveOneOut:
    """The leave-one-out REINFORCE estimate of each group.

    A draw's advantage is its loss less the mean loss of the others in its group; the mean of
    advantage times score is the covariance of loss and one-hot over the group.
    """

    def __init__(self, size: int, logits: Tensor) -> None:
        shape = logits.shape[:-1].numel(), logits.shape[-1]
        self.size = size
        self.loss = Sums(size, like=logits)
        self.one_hot = Sums(size, *shape, like=logits)
        self.product = Sums(size, *shape, like=logits)

    def add(self, outcomes: Outcomes, value: Tensor) -> None:
        """Add draws with their losses."""
        value, one_hot = value.to(torch.float64), outcomes.one_hot.to(torch.float64)
        self.loss.add(outcomes.first, value)
        self.one_hot.add(outcomes.first, one_hot)
        self.product.add(outcomes.first, value[:, None, None] * one_hot)

    def estimates(self) -> Tensor:
        """Return one unbiased estimate a group, `(GROUPS, L, C)`."""
        explained = self.loss.mean()[:, None, None] * self.one_hot.mean()
        return (self.product.mean() - explained) * (self.size / (self.size - 1))
