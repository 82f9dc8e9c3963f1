"""Bias and variance of every estimator on random quadratics, against the exact gradient."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import stdev

import torch
from torch import Tensor

import straightthrough as st
from straightthrough.estimators import (
    MVE,
    CategoricalEstimator,
    GumbelRao,
    GumbelST,
    ReinMax,
    StraightThrough,
)

from ...audit.compare.quadratic import quadratic
from ...core.errors import ArgumentError, check_count
from ...core.progress import Notify, Progress, silent
from ..journal import Journal
from ..one_hots import one_hot_rules
from ..record import Header
from ..training import threads

PUBLISHED_CELL = (4, 0)
PUBLISHED = {
    StraightThrough(): (0.2781, 0.7724),
    ReinMax(): (0.0, 13.79),
    ReinMax(tau=1.5): (0.0474, 2.886),
    GumbelST(tau=0.1): (0.0347, 65.6),
    GumbelRao(tau=0.1, samples=100): (0.0176, 10.87),
    MVE(tau=1e7): (0.0, 13.34),
}
"""Squared bias and variance of 4 classes under seed 0.

Hooper, Shekhovtsov, "Generalized and optimal straight-through estimators", 2026. The temperature
of the two Gumbel rules is about 0.1; their moments are of `PUBLISHED_DRAWS` draws an outcome.
"""

_FOUND = {type(rule) for rule in PUBLISHED}
RULES = (*PUBLISHED, *(rule for rule in one_hot_rules().values() if type(rule) not in _FOUND))
"""Every estimator, the first six as published; `MVEInteger` is for losses of a number."""

PUBLISHED_DRAWS = 1000

RUNS, SMALLER = 8, 64
"""Runs with so many times fewer draws, whose spread tells the error."""

TEMPERATURES: dict[str, tuple[CategoricalEstimator, tuple[float, ...]]] = {
    "StraightThrough": (StraightThrough(), (0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)),
    "ReinMax": (ReinMax(), (1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0)),
    "MVE": (MVE(), (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e4, 1e7)),
    "GumbelST": (GumbelST(), (0.05, 0.07, 0.1, 0.14, 0.2, 0.4, 1.0)),
    "GumbelRao": (GumbelRao(samples=100), (0.05, 0.07, 0.1, 0.14, 0.2, 0.4, 1.0)),
}
"""Families of rules, and the temperatures at which their curves are taken."""


@dataclass(frozen=True)
class Settings:
    """What the study is asked for.

    Attributes:
        sizes: numbers of classes of the one variable.
        seeds: of the quadratic and of the noise; one quadratic each and size.
        draws: vectors of Gumbels an outcome; a rule that averages K gets `draws / K` estimates.
        repetitions: of the published procedure, which draws 1000 estimates an outcome.
    """

    sizes: Sequence[int] = (4, 8, 16)
    seeds: Sequence[int] = (0, 1, 2)
    draws: int = 1_000_000
    repetitions: int = 100


@dataclass
class Row:
    """One rule on one quadratic; the error is the squared bias's standard error."""

    size: int
    seed: int
    rule: str
    bias_squared: float
    error: float
    variance: float


@dataclass
class Spread:
    """The 5 %, 50 % and 95 % quantiles of what a procedure that draws finds."""

    bias_squared: tuple[float, float, float]
    variance: tuple[float, float, float]


@dataclass
class Point:
    """A family of rules at one temperature on the published quadratic.

    Attributes:
        error: of the squared bias, as in `Row`.
        published: squared bias and variance, where they are known.
        procedure: what the published way of measuring finds, where it draws.
    """

    family: str
    rule: str
    tau: float
    bias_squared: float
    error: float
    variance: float
    published: tuple[float, float] | None
    procedure: Spread | None


@dataclass
class Result:
    """The rows of all quadratics, and the curves over temperature."""

    header: Header
    settings: Settings
    rows: list[Row] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)


def run(settings: Settings, notify: Notify = silent, journal: Journal | None = None) -> Result:
    """Measure every rule on every quadratic; Ctrl-C ends it with what there is by then.

    Raises:
        ArgumentError: if sizes are not different or not in 2..4096, the draws or the repetitions
            are below 1, or the journal has nothing to resume.
    """
    check_count("draws", settings.draws)
    check_count("repetitions", settings.repetitions)
    if not settings.sizes or not all(2 <= size <= 4096 for size in settings.sizes):
        raise ArgumentError(f"sizes must be 2 to 4096 classes, got {list(settings.sizes)}")
    if len({*settings.sizes}) < len(settings.sizes):
        raise ArgumentError(f"sizes must be different, got {list(settings.sizes)}")
    journal = journal or Journal()
    with threads(1):
        result = Result(Header("bias"), settings)
        with journal.keep(result):
            for size, seed in itertools.product(settings.sizes, settings.seeds):
                _rows(result, size, seed, notify, journal)
            for family in TEMPERATURES:
                _curve(result, family, notify, journal)
    return result


def _rows(result: Result, size: int, seed: int, notify: Notify, journal: Journal) -> None:
    label = f"{size} classes, seed {seed}"
    known = {row.rule for row in result.rows if (row.size, row.seed) == (size, seed)}
    for done, rule in enumerate(RULES):
        notify(Progress(label, done, len(RULES), type(rule).__name__))
        if repr(rule) not in known:
            moments = _moments(rule, size, seed, result.settings.draws)
            result.rows.append(Row(size, seed, repr(rule), *moments))
            journal.write()
    notify(Progress(label, len(RULES), len(RULES), ""))


def _curve(result: Result, family: str, notify: Notify, journal: Journal) -> None:
    (size, seed), (of_family, temperatures) = PUBLISHED_CELL, TEMPERATURES[family]
    known = {point.tau for point in result.points if point.family == family}
    for done, tau in enumerate(temperatures):
        notify(Progress(f"{family} over tau", done, len(temperatures), f"tau {tau:g}"))
        if tau in known:
            continue
        rule = replace(of_family, tau=tau)  # type: ignore[type-var]  # all are dataclasses
        moments = _moments(rule, size, seed, result.settings.draws)
        spread = _procedure(rule, size, seed, result.settings.repetitions)
        published = PUBLISHED.get(rule)
        result.points.append(Point(family, repr(rule), tau, *moments, published, spread))
        journal.write()
    notify(Progress(f"{family} over tau", len(temperatures), len(temperatures), ""))


def _moments(
    rule: CategoricalEstimator, size: int, seed: int, draws: int
) -> tuple[float, float, float]:
    """Return squared bias, its error and the variance, the mean scaled to the exact one's norm.

    The error is told by the spread of smaller runs, whose noise is `sqrt(SMALLER)` times as large.
    """
    loss, logits = quadratic(size, seed)

    def row(samples: int, noise: int) -> st.audit.Row:
        samples = max(2, samples)
        rows = st.audit.compare(loss, logits, [rule], samples=samples, seed=noise, rescale=True)
        return rows.rows[0]

    averaged = getattr(rule, "samples", 1)
    whole, error = row(draws // averaged, seed), 0.0
    if rule.draws_noise:
        smaller = [row(draws // averaged // SMALLER, seed + 1 + i) for i in range(RUNS)]
        error = stdev(found.bias_squared for found in smaller) / math.sqrt(SMALLER)
    return whole.bias_squared, error, whole.variance


def _procedure(rule: CategoricalEstimator, size: int, seed: int, repetitions: int) -> Spread | None:
    """Return what the published procedure finds, over so many repetitions.

    It draws 1000 estimates an outcome, and takes their mean for the rule's: the noise that the mean
    still has stays in its squared bias, and in the norm that both numbers are scaled by.
    """
    if not rule.draws_noise:
        return None
    loss, logits = quadratic(size, seed)
    exact = st.audit.exact_gradient(loss, logits)
    outcomes = torch.eye(size, dtype=logits.dtype, requires_grad=True)
    (grad,) = torch.autograd.grad(loss(outcomes).sum(), outcomes)
    shape = (PUBLISHED_DRAWS, size)
    found = []
    for number in range(repetitions):
        estimates = rule.vjp(
            logits.expand(*shape, size),
            torch.arange(size).expand(shape),
            grad.expand(*shape, size),
            seed=number,
        )
        found.append(naive_moments(estimates, logits.softmax(-1), exact))
    levels = torch.tensor([0.05, 0.5, 0.95], dtype=logits.dtype)
    bias_squared, variance = torch.stack(found).quantile(levels, 0).T.tolist()
    return Spread(tuple(bias_squared), tuple(variance))


def naive_moments(estimates: Tensor, p: Tensor, exact: Tensor) -> Tensor:
    """Return squared bias and variance of `(M, outcomes, C)` estimates, as published, `(2,)`.

    The variance over outcomes of probability `p` and over the noise is without bias; the squared
    bias is that of the sample mean.
    """
    average, noise = estimates.mean(0), estimates.var(0)
    total = p @ average
    spread = p @ noise + p @ average.square() - total.square()
    spread = spread - (p @ noise - p.square() @ noise) / len(estimates)
    scale = exact.norm() / total.norm()
    return torch.stack([(scale * total - exact).square().sum(), scale.square() * spread.sum()])
