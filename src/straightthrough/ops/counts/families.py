"""Four families of counts and their draws, in plain torch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.noise import Noise, in_blocks
from ...core.portable import Portable
from ...core.precision import compute_dtype
from ..bernoulli.reference import logit

LARGEST = 2.0**20
"""The largest mean of a count without an upper end."""

TRIALS = 2**15
"""The most trials of a binomial count."""

ATTEMPTS = 12
"""Of a gamma draw; each is refused with a probability below 0.05, all of them below 3e-16."""


@dataclass(frozen=True)
class Family(Portable, ABC):
    """A natural exponential family of counts of variance `mean (1 + mean / size)`.

    Attributes:
        direct: whether the parameter is the rate or the probability, rather than its log or logit.
        total_count: of trials, or of failures; infinite for Poisson.
    """

    numbers_move: ClassVar[bool] = False  # they shape the draw
    direct: bool
    total_count: float = math.inf

    @property
    def size(self) -> float:
        """The size in the variance; negative for binomial counts."""
        return self.total_count

    @abstractmethod
    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean at the parameter `x`, and `1 + mean / size`."""

    @abstractmethod
    def slope(self, mean: Tensor, dispersion: Tensor) -> Tensor | float:
        """Return the derivative of the mean in the parameter."""

    @abstractmethod
    def draw(self, x: Tensor, noise: Noise) -> Tensor:
        """Return a count an element of `x`; both are float64 and flat."""

    def exact(self, count: Tensor) -> Tensor:
        """Return a count that was rounded to its dtype, in what it is computed in."""
        return count.to(compute_dtype(count.dtype))

    def largest(self, dtype: torch.dtype) -> float:
        """Return the largest mean; in float16 one whose counts don't overflow."""
        return min(LARGEST, torch.finfo(dtype).max / 64 * min(1, self.total_count))

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean at `x` in float64; NaN where there is no outcome."""
        mean = self.moments(x.to(torch.float64))[0]
        return torch.where((mean >= 0) & (mean <= self.largest(x.dtype)), mean, torch.nan)


def uniform(x: Tensor, noise: Noise) -> Tensor:
    """Return one 53-bit uniform an element of `x`, which is flat."""
    return noise.elements(x.shape[0], torch.float64)


def poisson_quantile(u: Tensor, rate: Tensor) -> Tensor:
    """Return the smallest count whose distribution function is at least `u`.

    The normal approximation with its first correction is at most 11 too high and 2 too low, for
    every 53-bit uniform and every rate; four steps of a binary search find the dispersion.
    """
    normal = torch.special.ndtri(u)
    guess = rate + rate.sqrt() * normal + (normal.square() + 2) / 6
    count = (guess.floor() - 12).clamp(min=0)
    for step in (8, 4, 2, 1):
        further = count + step
        below = torch.special.gammaincc(further, rate) < u  # P(z < further)
        count = torch.where(below, further, count)
    return count


class Poisson(Family):
    """Of a rate, or its logarithm."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x if self.direct else x.exp(), torch.ones_like(x)

    def slope(self, mean: Tensor, dispersion: Tensor) -> Tensor | float:
        return 1.0 if self.direct else mean

    def draw(self, x: Tensor, noise: Noise) -> Tensor:
        def block(first: int, x: Tensor) -> Tensor:
            return poisson_quantile(uniform(x, noise.after(first)), self.moments(x)[0])

        return in_blocks(block, x)


class Binomial(Family):
    """Successes among `total_count` trials, of the probability of one, or its logit."""

    @property
    def size(self) -> float:
        return -self.total_count

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p, q = (x, 1 - x) if self.direct else (torch.sigmoid(x), torch.sigmoid(-x))
        return self.total_count * p, q

    def slope(self, mean: Tensor, dispersion: Tensor) -> Tensor | float:
        return self.total_count if self.direct else mean * dispersion

    def exact(self, count: Tensor) -> Tensor:
        # Where a probability is all but 1 there is no other count than that of all trials, which
        # half precision may round.
        every = count == torch.full_like(count, self.total_count)
        return torch.where(every, self.total_count, super().exact(count))

    def largest(self, dtype: torch.dtype) -> float:
        return self.total_count

    def draw(self, x: Tensor, noise: Noise) -> Tensor:
        """By inverse CDF over the counts near the mean; by Hoeffding, all others have 2^-54."""
        trials = int(self.total_count)
        near = math.ceil(4.4 * math.sqrt(trials)) + 1
        width = min(trials, 2 * near) + 1
        every = torch.arange(trials + 1, dtype=torch.float64, device=x.device)
        log_ways = -torch.lgamma(every + 1) - torch.lgamma(trials - every + 1)

        def block(first: int, rows: Tensor) -> Tensor:
            x = rows[:, :1]
            odds = (logit(x) if self.direct else x).clamp(-1e5, 1e5)
            lowest = (self.moments(x)[0].floor() - near).nan_to_num().clamp(0, trials + 1 - width)
            count = lowest + every[:width]
            cumulative = torch.softmax(log_ways[count.long()] + count * odds, -1).cumsum(-1)
            u = uniform(x[:, 0], noise.after(first)).unsqueeze(-1)
            return lowest[:, 0] + (cumulative <= u * cumulative[:, -1:]).sum(-1)

        return in_blocks(block, x.unsqueeze(-1).expand(-1, width))


class Geometric(Family):
    """Failures before the first success, of its probability, or its logit."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.direct:
            return (1 - x) / x, 1 / x
        odds = (-x).exp()
        return odds, 1 + odds

    def slope(self, mean: Tensor, dispersion: Tensor) -> Tensor | float:
        return -dispersion.square() if self.direct else -mean

    def draw(self, x: Tensor, noise: Noise) -> Tensor:
        def block(first: int, x: Tensor) -> Tensor:
            log_failure = torch.log1p(-x) if self.direct else F.logsigmoid(-x)
            return (uniform(x, noise.after(first)).log() / log_failure).floor()

        return in_blocks(block, x)


class NegativeBinomial(Family):
    """Successes before `total_count` failures, of the probability of one, or its logit."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.direct:
            return self.total_count * x / (1 - x), 1 / (1 - x)
        odds = x.exp()
        return self.total_count * odds, 1 + odds

    def slope(self, mean: Tensor, dispersion: Tensor) -> Tensor | float:
        return self.total_count * dispersion.square() if self.direct else mean

    def draw(self, x: Tensor, noise: Noise) -> Tensor:
        """A Poisson draw, its rate the odds times a gamma draw of the shape `total_count`."""
        width = 2 * ATTEMPTS + 1

        def block(first: int, rows: Tensor) -> Tensor:
            x = rows[:, 0]
            # Another stream than that of the Poisson draw, and no rule of counts reads it.
            attempts = noise.after(first).classes(x.shape[0], width, torch.float64)
            rate = self.moments(x)[0] / self.total_count * gamma(self.total_count, attempts)
            return poisson_quantile(uniform(x, noise.after(first)), rate)

        return in_blocks(block, x.unsqueeze(-1).expand(-1, width))


def gamma(shape: float, noise: Tensor) -> Tensor:
    """Draw from the gamma law of scale 1 by Marsaglia and Tsang: the first attempt that passes.

    `noise` holds a row of `2 ATTEMPTS + 1` uniforms a draw.
    """
    # Below 1, a draw for the shape plus 1 times a power of a uniform.
    d = (shape if shape >= 1 else shape + 1) - 1 / 3
    normal = torch.special.ndtri(noise[:, :ATTEMPTS])
    cube = (1 + normal / math.sqrt(9 * d)) ** 3
    bound = normal.square() / 2 + d - d * cube + d * cube.log()  # NaN where the cube is negative
    passes = noise[:, ATTEMPTS:-1].log() < bound
    value = d * cube.gather(-1, passes.int().argmax(-1, keepdim=True))[:, 0]
    return value if shape >= 1 else value * (noise[:, -1].log() / shape).exp()
