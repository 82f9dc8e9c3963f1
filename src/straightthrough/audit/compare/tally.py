"""The moments of one rule, gathered over chunks of outcomes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from ...core.noise import Seed
from ...estimators import CategoricalEstimator
from .exact import CHUNK, Outcomes
from .groups import GROUPS, Sums
from .row import Row, StandardErrors
from .subsets import OfSubset


class Tally:
    """The moments of one rule's error over enumerated outcomes.

    Its noise makes the square of the mean error too large by the variance of that mean, which the
    scatter of the draws at each outcome tells, and which is taken off.
    """

    def __init__(self, name: str, rule: CategoricalEstimator | OfSubset, exact: Tensor) -> None:
        self.name, self.rule, self.exact = name, rule, exact
        self.mean_error = torch.zeros_like(exact)
        self.mse = self.noise = self.seconds = 0.0

    def add(
        self, logits: Tensor, outcomes: Outcomes, grad: Tensor, samples: int, seed: int
    ) -> None:
        started = time.perf_counter()
        draws = samples if self.rule.draws_noise else 1
        total, square = torch.zeros_like(grad), torch.zeros_like(outcomes.weight)
        for estimate in _estimates(self.rule, logits, outcomes, grad, draws, seed):
            error = estimate - self.exact
            total += error.sum(0)
            square += error.square().sum((0, 2, 3))
        mean, square = total / draws, square / draws
        self.mean_error += torch.einsum("n,nlc->lc", outcomes.weight, mean)
        self.mse += float(outcomes.weight @ square)
        if draws > 1:
            variance = (square - mean.square().sum((1, 2))).clamp(min=0) / (draws - 1)
            self.noise += float(outcomes.weight.square() @ variance)
        self.seconds += time.perf_counter() - started

    def row(self, rescale: bool) -> Row:
        mean, exact = self.exact + self.mean_error, self.exact
        lengths = float(mean.norm()), float(exact.norm())
        factor = lengths[1] / lengths[0] if rescale and lengths[0] else 1.0
        spread = self.mse - float(self.mean_error.square().sum())
        variance = factor**2 * max(spread + self.noise, 0.0)
        bias_squared = float((factor * mean - exact).square().sum()) - factor**2 * self.noise
        product = lengths[0] * lengths[1]
        cosine = float((mean * exact).sum()) / product if product else math.nan
        mse = bias_squared + variance
        return Row(self.name, bias_squared, variance, cosine, mse, lengths[1] ** 2, self.seconds)


class SampledTally:
    """The moments of one rule over groups of drawn outcomes, with their standard errors."""

    def __init__(self, name: str, rule: CategoricalEstimator, size: int, like: Tensor) -> None:
        self.name, self.rule, self.size = name, rule, size
        self.total = Sums(size, like.numel(), like=like)
        self.square = Sums(size, like=like)
        self.seconds = 0.0

    def add(self, logits: Tensor, outcomes: Outcomes, grad: Tensor, seed: int) -> None:
        started = time.perf_counter()
        (estimate,) = _estimates(self.rule, logits, outcomes, grad, 1, seed)
        each = estimate.reshape(len(outcomes.index), -1)
        self.total.add(outcomes.first, each)
        self.square.add(outcomes.first, each.square().sum(-1))
        self.seconds += time.perf_counter() - started

    def row(self, reference: Tensor, rescale: bool) -> Row:
        """Return the row, `reference` holding one unbiased gradient a group, `(GROUPS, L, C)`.

        Groups are independent, so products of means of different groups have no noise to be
        subtracted. The errors are those of the jackknife, which leaves out one group at a time.
        """
        mean, reference = self.total.mean(), reference.reshape(GROUPS, -1)
        spread = self.square.mean() - mean.square().sum(-1)
        variance = spread.clamp(min=0) * (self.size / (self.size - 1))
        products = torch.stack([mean @ mean.T, mean @ reference.T, reference @ reference.T]).cpu()
        found, exact = _moments(products, variance, rescale)
        others = [torch.arange(GROUPS) != group for group in range(GROUPS)]
        left = [_moments(products[:, i][..., i], variance[i], rescale)[0] for i in others]
        errors = ((GROUPS - 1) * torch.tensor(left).var(0, correction=0)).sqrt()
        return Row(self.name, *found, exact, self.seconds, StandardErrors(*errors.tolist()))


def _moments(
    products: Tensor, variance: Tensor, rescale: bool
) -> tuple[tuple[float, float, float, float], float]:
    """Return squared bias, variance, cosine and mse, and the squared norm of the reference.

    Args:
        products: `(3, G, G)`, of the groups' mean estimates and references with each other: mean
            with mean, mean with reference, reference with reference.
        variance: `(G,)`, of one estimate.
        rescale: as in `compare`.
    """
    groups = len(variance)
    apart = products.sum((-2, -1)) - products.diagonal(dim1=-2, dim2=-1).sum(-1)
    length, along, exact = (apart / (groups * (groups - 1))).tolist()
    factor = math.sqrt(max(exact, 0.0) / length) if rescale and length > 0 else 1.0
    bias_squared = factor**2 * length - 2 * factor * along + exact
    spread = factor**2 * float(variance.mean())
    cosine = along / math.sqrt(length * exact) if length > 0 and exact > 0 else math.nan
    return (bias_squared, spread, cosine, bias_squared + spread), exact


@torch.no_grad()
def _estimates(
    rule: CategoricalEstimator | OfSubset,
    logits: Tensor,
    outcomes: Outcomes,
    grad: Tensor,
    draws: int,
    seed: int,
) -> Iterator[Tensor]:
    """Yield `draws` estimates an outcome, `(S, N, L, C)` at a time, each with its own noise."""
    count, variables, classes = grad.shape
    at_once = max(1, CHUNK // grad.numel())
    for done in range(0, draws, at_once):
        shape = (min(at_once, draws - done), count, variables)
        offset = (outcomes.first * draws + done * count) * variables
        yield rule.vjp(
            logits.expand(*shape, classes),
            outcomes.index.expand(shape),
            grad.expand(*shape, classes),
            seed=Seed(seed, offset),
        )
