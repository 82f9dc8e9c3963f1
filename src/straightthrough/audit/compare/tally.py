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
from .moments import Moments
from .row import Row, StandardErrors
from .subsets import OfSubset


class Tally:
    """The moments of one rule's error over enumerated outcomes.

    Its noise makes the squares of the mean and of its error too large by the variance of that mean,
    which the scatter of the draws at each outcome tells, and which is taken off.
    """

    def __init__(self, name: str, rule: CategoricalEstimator | OfSubset, exact: Tensor) -> None:
        self.name, self.rule, self.exact = name, rule, exact
        self.mean_error = torch.zeros_like(exact)
        self.mse = self.noise = self.seconds = 0.0
        self.flaw = ""

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
        self.flaw = self.flaw or _flaw(outcomes, mean)
        self.mean_error += torch.einsum("n,nlc->lc", outcomes.weight, mean)
        self.mse += float(outcomes.weight @ square)
        if draws > 1:
            variance = (square - mean.square().sum((1, 2))).clamp(min=0) / (draws - 1)
            self.noise += float(outcomes.weight.square() @ variance)
        self.seconds += time.perf_counter() - started

    def row(self, rescale: bool) -> Row:
        mean, exact = self.exact + self.mean_error, self.exact
        moments = Moments(
            length=float(mean.square().sum()) - self.noise,
            along=float((mean * exact).sum()),
            exact=float(exact.square().sum()),
            variance=max(self.mse - float(self.mean_error.square().sum()) + self.noise, 0.0),
        )
        factor = moments.factor(rescale)
        variance = factor**2 * moments.variance
        # Not out of the moments: where there is no bias, digits of them would be left.
        bias_squared = float((factor * mean - exact).square().sum()) - factor**2 * self.noise
        cosine = moments.cosine
        return _row(self.name, moments, bias_squared, variance, cosine, self.seconds, self.flaw)


class SampledTally:
    """The moments of one rule over groups of drawn outcomes, with their standard errors."""

    def __init__(self, name: str, rule: CategoricalEstimator, size: int, like: Tensor) -> None:
        self.name, self.rule, self.size = name, rule, size
        self.total = Sums(size, like.numel(), like=like)
        self.square = Sums(size, like=like)
        self.seconds = 0.0
        self.flaw = ""

    def add(self, logits: Tensor, outcomes: Outcomes, grad: Tensor, seed: int) -> None:
        started = time.perf_counter()
        (estimate,) = _estimates(self.rule, logits, outcomes, grad, 1, seed)
        each = estimate.reshape(len(outcomes.index), -1)
        self.flaw = self.flaw or _flaw(outcomes, each)
        self.total.add(outcomes.first, each)
        self.square.add(outcomes.first, each.square().sum(-1))
        self.seconds += time.perf_counter() - started

    def row(self, reference: Tensor, rescale: bool) -> Row:
        """Return the row, `reference` holding one unbiased gradient a group, `(GROUPS, L, C)`.

        Groups are independent, so products of means of different groups have no noise to be
        subtracted. The errors are those of the jackknife, which leaves out one group at a time. It
        takes the bias of a ratio off the cosine too, and so off the squared bias of scaled means.
        """
        mean, reference = self.total.mean(), reference.reshape(GROUPS, -1)
        scatter = self.square.mean() - mean.square().sum(-1)
        variance = scatter.clamp(min=0) * (self.size / (self.size - 1))
        products = torch.stack([mean @ mean.T, mean @ reference.T, reference @ reference.T]).cpu()
        found = _moments(products, variance)
        bias_squared, spread, cosine, _ = _numbers(found, rescale)
        others = [torch.arange(GROUPS, device="cpu") != group for group in range(GROUPS)]
        each = [_numbers(_moments(products[:, i][..., i], variance[i]), rescale) for i in others]
        left = torch.tensor(each, dtype=torch.float64, device="cpu")
        errors = StandardErrors(*((GROUPS - 1) * left.var(0, correction=0)).sqrt().tolist())
        less = GROUPS * cosine - (GROUPS - 1) * float(left[:, 2].mean())
        if not math.isnan(less):
            cosine = less
            bias_squared = 2 * (1 - cosine) * found.exact if rescale else bias_squared
        numbers = found, bias_squared, spread, cosine, self.seconds
        return _row(self.name, *numbers, self.flaw, errors)


def _row(
    name: str,
    moments: Moments,
    bias_squared: float,
    variance: float,
    cosine: float,
    seconds: float,
    flaw: str,
    errors: StandardErrors | None = None,
) -> Row:
    mse = bias_squared + variance
    if not math.isfinite(mse) and not flaw:
        flaw = "squares of its gradient are beyond float64; scale the loss down"
    numbers = bias_squared, variance, cosine, mse, moments.exact, seconds
    return Row(name, *numbers, errors, moments, flaw)


def _numbers(moments: Moments, rescale: bool) -> tuple[float, float, float, float]:
    """Return squared bias, variance, cosine and mse."""
    bias_squared = moments.bias_squared(rescale)
    variance = moments.factor(rescale) ** 2 * moments.variance
    return bias_squared, variance, moments.cosine, bias_squared + variance


def _moments(products: Tensor, variance: Tensor) -> Moments:
    """Return the moments of groups of draws.

    Args:
        products: `(3, G, G)`, of the groups' mean estimates and references with each other: mean
            with mean, mean with reference, reference with reference.
        variance: `(G,)`, of one estimate.
    """
    groups = len(variance)
    apart = products.sum((-2, -1)) - products.diagonal(dim1=-2, dim2=-1).sum(-1)
    length, along, exact = (apart / (groups * (groups - 1))).tolist()
    return Moments(length, along, exact, float(variance.mean()))


def _flaw(outcomes: Outcomes, estimate: Tensor) -> str:
    """Return where estimates, one an outcome, are not finite, or "" where they are."""
    bad = ~estimate.flatten(1).sum(-1).isfinite()
    if not bad.any():
        return ""
    return f"its gradient is not finite at the outcome with classes {outcomes.classes(bad)}"


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
