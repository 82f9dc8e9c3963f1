"""Bias and variance of estimators, against the exact gradient."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.errors import ArgumentError, check_count
from ..core.noise import Seed
from ..core.registry import resolve
from ..core.rules import Rule
from ..estimators import Estimator
from .exact import (
    CHUNK,
    LIMIT,
    Loss,
    Outcomes,
    check_finite,
    count_outcomes,
    enumerate_outcomes,
    expected_gradient,
    losses,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Row:
    """What an audit says about one estimator, the gradient taken as one vector.

    Attributes:
        name: the shorthand that was given, or the rule as it prints.
        bias_squared: the squared norm of the mean estimate less the exact gradient.
        variance: the trace of the estimate's covariance, over outcomes and the rule's noise.
        cosine: of the mean estimate and the exact gradient; NaN where one of them is 0.
        mse: `bias_squared + variance`, the mean squared norm of the error.
        seconds: wall time of the rule's calls and their sums; a rule that draws noise is called
            `samples` times an outcome, others once.
    """

    name: str
    bias_squared: float
    variance: float
    cosine: float
    mse: float
    seconds: float


@dataclass(frozen=True)
class Audit:
    """The rows of `compare`, in the order given, and what they were computed with."""

    rows: tuple[Row, ...]
    outcomes: int
    samples: int
    seed: int
    rescale: bool

    def table(self) -> str:
        """Return the rows as a text table."""
        head = ("estimator", "bias^2", "variance", "cosine", "mse", "seconds")
        body = [
            (
                row.name,
                f"{row.bias_squared:.4g}",
                f"{row.variance:.4g}",
                f"{row.cosine:.4f}",
                f"{row.mse:.4g}",
                f"{row.seconds:.3f}",
            )
            for row in self.rows
        ]
        name, *numbers = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        return "\n".join(
            "  ".join([line[0].ljust(name), *map(str.rjust, line[1:], numbers)])
            for line in (head, *body)
        )

    def plot(self, path: str | PathLike[str] | None = None) -> Figure:
        """Return bias against variance as a matplotlib figure, saved to `path` if given.

        Raises:
            StraightThroughError: if matplotlib is not installed.
        """
        from .plot import draw

        return draw(self, path)

    def to_json(self) -> str:
        """Return everything as JSON; an undefined cosine is null."""
        record = dataclasses.asdict(self)
        for row in record["rows"]:
            row["cosine"] = None if math.isnan(row["cosine"]) else row["cosine"]
        return json.dumps(record, indent=1)


def compare(
    loss: Loss,
    logits: Tensor,
    estimators: Sequence[Estimator | str],
    *,
    samples: int = 1024,
    seed: int = 0,
    rescale: bool = False,
    limit: int = LIMIT,
) -> Audit:
    """Bias and variance of estimators of the gradient of `E[loss(z)]`.

    z are the one-hots of L independent categorical variables. At each outcome a rule gets what a
    training step would give it, the loss's gradient at that hard outcome, and returns an estimate
    for the logits. The outcomes are enumerated and weighted by their probabilities, so that the
    moments of a rule without noise are exact; a rule's own noise is sampled. Where a rule has
    forward draw at another temperature, from `softmax(logits / tau_forward)`, the outcomes and the
    exact gradient are those of that law.

    Args:
        loss: maps one-hots `(N, C)` or `(N, L, C)`, N outcomes at a time in the logits' dtype,
            to `(N,)`; differentiable, each outcome's loss a function of that outcome alone.
        logits: `(C,)`, one variable, or `(L, C)`; floating.
        estimators: rules or their shorthands, e.g. `["reinmax", st.estimators.GumbelST(0.5)]`.
        samples: draws of its own noise an outcome, for a rule that draws any. The squared bias
            of such a rule comes out too high by about its variance over noise / `samples`.
        seed: of that noise.
        rescale: scale the mean estimate to the exact gradient's norm first, and the variance by
            the square of that factor: what is left is the error of the direction. A mean of 0
            stays.
        limit: how many outcomes, C**L, are enumerated at most.

    Returns:
        An `Audit`: `rows`, `table()`, `plot()`, `to_json()`.

    Raises:
        DtypeError, ShapeError: for logits or a loss as in `exact_gradient`.
        ArgumentError: if an estimator is unknown, there is none, `samples` is not at least 1,
            there are more than `limit` outcomes, or the loss is not differentiable or finite at
            one.

    Cost: the loss twice and its gradient once at C**L outcomes (for each `tau_forward`), each rule
    once (with noise `samples` times) an outcome; about 2^18 elements are worked on at once. Rules
    are computed in float64.

    Example:
        >>> loss = lambda z: (z @ torch.tensor([1.0, 2.0, 4.0])) ** 2
        >>> audit = st.audit.compare(loss, torch.zeros(3), ["straight_through", "reinmax"])
        >>> [row.bias_squared > 1e-9 for row in audit.rows]
        [True, False]

    References:
        Liu, Dong, Liu, Yu, Gao, "Bridging discrete and backpropagation: straight-through and
        beyond", 2023 (ReinMax is unbiased for quadratics).
    """
    rules = _rules(estimators)
    check_count("samples", samples)
    total = count_outcomes(logits, limit)
    logits = logits.detach()
    rows = logits.reshape(-1, logits.shape[-1]).to(torch.float64)
    temperatures = {rule.tau_forward for _, rule in rules}
    exact = {tau: expected_gradient(loss, logits, tau) for tau in temperatures}
    tallies = [_Tally(name, rule, exact[rule.tau_forward]) for name, rule in rules]
    for tau in temperatures:
        drawn = [tally for tally in tallies if tally.rule.tau_forward == tau]
        for outcomes in enumerate_outcomes(logits, tau):
            grad = _gradient(loss, outcomes, logits).to(torch.float64)
            for tally in drawn:
                tally.add(rows, outcomes, grad, samples, seed)
    return Audit(tuple(tally.row(rescale) for tally in tallies), total, samples, seed, rescale)


def _rules(estimators: Sequence[Estimator | str]) -> list[tuple[str, Estimator]]:
    if isinstance(estimators, str | Rule) or not estimators:
        raise ArgumentError(
            f"estimators must be a list of rules or shorthands, such as ['reinmax'], "
            f"got {estimators!r}"
        )
    return [
        (given if isinstance(given, str) else repr(given), resolve("estimators", given, Estimator))
        for given in estimators
    ]


def _gradient(loss: Loss, outcomes: Outcomes, logits: Tensor) -> Tensor:
    """Return the loss's gradient at each hard outcome, `(N, L, C)`."""
    with torch.enable_grad():
        z = outcomes.one_hot.requires_grad_()
        total = losses(loss, z, logits).sum()
        (grad,) = (
            torch.autograd.grad(total, z, allow_unused=True) if total.requires_grad else [None]
        )
    if grad is None:
        raise ArgumentError(
            "loss has no gradient to the one-hots: it must be computed from them by "
            "differentiable operations"
        )
    check_finite("the loss's gradient", grad, z)
    return grad


class _Tally:
    """The moments of one rule's error, summed over chunks of outcomes."""

    def __init__(self, name: str, rule: Estimator, exact: Tensor) -> None:
        self.name, self.rule, self.exact = name, rule, exact
        self.mean_error = torch.zeros_like(exact)
        self.mse = self.seconds = 0.0

    def add(
        self, logits: Tensor, outcomes: Outcomes, grad: Tensor, samples: int, seed: int
    ) -> None:
        started = time.perf_counter()
        draws = samples if self.rule.draws_noise else 1
        weight = outcomes.probability / draws
        for estimate in _estimates(self.rule, logits, outcomes, grad, draws, seed):
            error = estimate - self.exact
            self.mean_error += torch.einsum("n,snlc->lc", weight, error)
            self.mse += float(torch.einsum("n,snlc->", weight, error.square()))
        self.seconds += time.perf_counter() - started

    def row(self, rescale: bool) -> Row:
        mean, exact = self.exact + self.mean_error, self.exact
        variance = max(self.mse - float(self.mean_error.square().sum()), 0.0)
        lengths = float(mean.norm()), float(exact.norm())
        factor = lengths[1] / lengths[0] if rescale and lengths[0] else 1.0
        bias_squared = float((factor * mean - exact).square().sum())
        variance *= factor**2
        product = lengths[0] * lengths[1]
        cosine = float((mean * exact).sum()) / product if product else math.nan
        mse = bias_squared + variance
        return Row(self.name, bias_squared, variance, cosine, mse, self.seconds)


@torch.no_grad()
def _estimates(
    rule: Estimator, logits: Tensor, outcomes: Outcomes, grad: Tensor, draws: int, seed: int
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
