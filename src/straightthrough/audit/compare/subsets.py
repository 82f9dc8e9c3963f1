"""Subsets as outcomes: each set of k of C is a class of a categorical variable."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from ...core.errors import ArgumentError, check_count
from ...core.noise import Seed
from ...core.rules import Relaxation
from ...estimators import SubsetEstimator
from ...ops.subset.law import centred
from .exact import Outcomes, check_logits, enumerate_outcomes

Rule = SubsetEstimator | Relaxation


@dataclass(frozen=True)
class Subsets:
    """The sets of k of C, and how likely each is; L independent variables.

    Attributes:
        hot: `(S, C)`, the k-hots, float64.
        log_weight: `(L, S)`, a set's log-probability up to a constant.
        shape: that of the logits, `(C,)` or `(L, C)`.
    """

    hot: Tensor
    log_weight: Tensor
    shape: torch.Size

    @property
    def mean(self) -> Tensor:
        """How often each class is chosen, `(L, C)`."""
        return self.log_weight.softmax(-1) @ self.hot

    def outcomes(self, dtype: torch.dtype) -> Iterator[Outcomes]:
        """Yield all of them with their k-hots, a chunk at a time."""
        for found in enumerate_outcomes(self.log_weight):
            yield replace(found, one_hot=self.hot[found.index].to(dtype))


def count_subsets(logits: Tensor, k: int) -> int:
    """Check the logits and return how many outcomes they have."""
    check_logits(logits)
    k = check_count("k", k)
    classes, rows = logits.shape[-1], logits.reshape(-1, logits.shape[-1])
    allowed = int(rows.isneginf().logical_not().sum(-1).min())
    if k > allowed:
        raise ArgumentError(
            f"k must be at most {allowed}, the classes above -inf in every row, got {k}"
        )
    return math.comb(classes, k) ** len(rows)


def subsets_of(logits: Tensor, k: int) -> Subsets:
    """Return the sets of k of the classes of `(C,)` or `(L, C)` logits."""
    classes = logits.shape[-1]
    chosen = torch.tensor([*combinations(range(classes), k)], device=logits.device)
    hot = torch.zeros(len(chosen), classes, dtype=torch.float64, device=logits.device)
    hot.scatter_(-1, chosen, 1)
    rows, _ = centred(logits.detach().reshape(-1, 1, classes), k)
    return Subsets(hot, torch.where(hot > 0, rows, 0).sum(-1), logits.shape)


@dataclass(frozen=True)
class OfSubset:
    """A rule as `Tally` asks for it: of a set's number in the place of a class's.

    A relaxation does not look at the set, and is taken at the logits.
    """

    rule: Rule
    k: int
    hot: Tensor
    draws_noise: ClassVar[bool] = False

    def vjp(self, logits: Tensor, index: Tensor, grad: Tensor, *, seed: Seed) -> Tensor:
        """Return the rule's gradient to `logits`, `(..., C)`, at the sets of those numbers."""
        if isinstance(self.rule, Relaxation):
            return self.rule.vjp(logits, grad, k=self.k)
        return self.rule.vjp(logits, self.hot[index], grad)
