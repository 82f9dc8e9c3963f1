"""Four families of counts: their parameters, and what draws them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.noise import Noise
from ...core.portable import Portable
from . import reference

LARGEST = 2.0**20
"""The largest mean of a count without an upper end."""

TRIALS = 2**15
"""The most trials of a binomial count."""


@dataclass(frozen=True)
class Family(Portable, ABC):
    """A natural exponential family of counts of variance `mean (1 + mean / size)`.

    Attributes:
        direct: whether the parameter is the rate or the probability, rather than its log or logit.
        total_count: of trials, or of failures; infinite for Poisson.
        of_failure: whether the probability is that of what ends the count.
    """

    numbers_move: ClassVar[bool] = False  # they shape the draw
    of_failure: ClassVar[bool] = False
    direct: bool
    total_count: float = math.inf

    @property
    def size(self) -> float:
        """The size in the variance; negative for binomial counts."""
        return self.total_count

    @property
    def parameter(self) -> tuple[float, bool, bool]:
        """What the parameter says, as `reference.moments` is told."""
        return self.size, self.direct, self.of_failure

    @abstractmethod
    def draw(self, x: Tensor, noise: Noise) -> Tensor:
        """Return a count an element in the dtype of `x`, NaN where there is no outcome."""

    def largest(self, dtype: torch.dtype) -> float:
        """Return the largest mean; in float16 one whose counts don't overflow."""
        return min(LARGEST, torch.finfo(dtype).max / 64 * min(1, self.total_count))

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean at `x` in float64; NaN where there is no outcome."""
        mean = reference.moments(x.to(torch.float64), *self.parameter)[0]
        return reference.within(mean, self.largest(x.dtype), mean)


class Poisson(Family):
    """Of a rate, or its logarithm."""

    def draw(self, x: Tensor, noise: Noise) -> Tensor:
        return reference.poisson(x, self.direct, self.largest(x.dtype), noise)


class Binomial(Family):
    """Successes among `total_count` trials, of the probability of one, or its logit."""

    numbers_move = True

    @property
    def size(self) -> float:
        return -self.total_count

    def largest(self, dtype: torch.dtype) -> float:
        return self.total_count

    def draw(self, x: Tensor, noise: Noise) -> Tensor:
        return reference.binomial(x, self.direct, int(self.total_count), noise)


class Geometric(Family):
    """Failures before the first success, of its probability, or its logit."""

    of_failure = True

    def draw(self, x: Tensor, noise: Noise) -> Tensor:
        return reference.geometric(x, self.direct, self.largest(x.dtype), noise)


class NegativeBinomial(Family):
    """Successes before `total_count` failures, of the probability of one, or its logit."""

    def draw(self, x: Tensor, noise: Noise) -> Tensor:
        near, largest = reference.nearest(self.total_count), self.largest(x.dtype)
        return reference.negative_binomial(x, self.direct, self.total_count, near, largest, noise)
