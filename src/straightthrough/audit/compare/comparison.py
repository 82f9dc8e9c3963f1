"""Bias and variance of estimators, against the exact gradient or an unbiased estimate of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.errors import ArgumentError, check_count, check_flag, check_limit
from ...core.noise import Seed
from ...core.registry import resolve
from ...core.rules import Relaxation, Rule
from ...estimators import CategoricalEstimator, SubsetEstimator
from .exact import (
    LIMIT,
    Loss,
    Outcomes,
    check_alone,
    check_finite,
    count_outcomes,
    enumerate_outcomes,
    losses,
)
from .gradient import check_enumerable, expected_gradient, gradient_over_subsets
from .groups import GROUPS, LeaveOneOut, draw_outcomes, group_size
from .result import Audit
from .row import Row
from .subsets import OfSubset, subsets_of
from .tally import SampledTally, Tally

Rules = Sequence[tuple[str, CategoricalEstimator]]


def compare(
    loss: Loss,
    logits: Tensor,
    estimators: Sequence[Rule | str],
    *,
    k: int | None = None,
    samples: int = 1024,
    seed: int = 0,
    rescale: bool = False,
    limit: int = LIMIT,
) -> Audit:
    """Bias and variance of estimators of the gradient of `E[loss(z)]`.

    z are the one-hots of L independent categorical variables, or with a k the k-hots that
    `st.sample_subset` draws. At each outcome a rule gets what a
    training step would give it, the loss's gradient at that hard outcome, and returns an estimate
    for the logits. The outcomes are enumerated and weighted by their probabilities, so that the
    moments of a rule without noise are exact; a rule's own noise is sampled. Where a rule has
    forward draw at another temperature, from `softmax(logits / tau_forward)`, the outcomes and the
    exact gradient are those of that law.

    Args:
        loss: maps one-hots (or k-hots) `(N, C)` or `(N, L, C)`, N outcomes at a time in the
            logits' dtype, to `(N,)`; differentiable, each outcome's loss a function of that outcome
            alone.
        logits: `(C,)`, one variable, or `(L, C)`; floating.
        estimators: rules or their shorthands, e.g. `["reinmax", st.estimators.GumbelST(0.5)]`.
            With a k those of subsets, and relaxations, which are taken at the logits.
        k: how many classes of each variable are chosen; None for one class, drawn as such.
        samples: draws of its own noise an outcome, for a rule that draws any. From 2 on its noise
            is taken off the squared bias, which then may fall below 0, and off the square of the
            mean's length. Past `limit` it is the number of outcomes drawn, rounded up to a multiple
            of 32 that is at least 64, with one draw of noise each.
        seed: of that noise, and of the outcomes where they are drawn; an int.
        rescale: scale the mean estimate to the exact gradient's norm first, and the variance by
            the square of that factor: what is left is the error of the direction. A mean of 0
            stays.
        limit: how many outcomes, C**L, are enumerated at most; of more, `samples` are drawn. With
            a k they are (C choose k)**L, and more are refused.

    Returns:
        An `Audit`: `rows`, `table()`, `plot()`, `to_json()`. Its `method` says whether outcomes
        were `"enumerated"` or `"sampled"`.

    Raises:
        DtypeError, ShapeError: for logits or a loss as in `exact_gradient`.
        ArgumentError: if an estimator is unknown, there is none, `samples` or k is not at least 1,
            there are more than `limit` subsets, or the loss is not differentiable or finite at an
            outcome, or is another one, by far, beside other outcomes (drawn ones may have noise).

    Edge cases: where a rule's own gradient is not finite at an outcome, its row is NaN, and the
    table and the row's `flaw` say at which. An unbiased estimate of a small squared bias may fall
    below 0, and one of a cosine outside [-1, 1]. The cosine and the factor of `rescale` are ratios,
    which have a bias where they are of draws. Of drawn outcomes the jackknife takes that off the
    cosine and the scaled squared bias, up to a rest that falls as 1 over the square of `samples`.
    Of a rule's noise at enumerated outcomes it stays: the scaled squared bias is off by about the
    variance that the noise has along the gradient over `samples`, which is below the error of that
    number. Rare outcomes that were never drawn are in no estimate and no error.

    Cost: the loss twice and its gradient once at C**L outcomes (and once more at one), each rule
    once (with noise `samples` times) an outcome; past `limit` all of it once at `samples` outcomes
    (and once more at one); so for each `tau_forward`. About 2^18 elements are worked on at once.
    Rules are computed in float64.

    Example:
        >>> loss = lambda z: (z @ torch.tensor([1.0, 2.0, 4.0])) ** 2
        >>> audit = st.audit.compare(loss, torch.zeros(3), ["straight_through", "reinmax"])
        >>> [row.bias_squared > 1e-9 for row in audit.rows]
        [True, False]

    References:
        Liu, Dong, Liu, Yu, Gao, "Bridging discrete and backpropagation: straight-through and
        beyond", 2023 (ReinMax is unbiased for quadratics).
    """
    samples, limit = check_count("samples", samples), check_limit("limit", limit)
    check_flag("rescale", rescale)
    seed = int(Seed(seed).value)  # which checks it
    if k is not None:
        total = check_enumerable(logits, k, limit)
        found_rules = _rules(estimators, SubsetEstimator, Relaxation)
        rows = _over_subsets(loss, logits.detach(), k, found_rules, rescale)
        return Audit(rows, total, samples, seed, rescale)
    rules = _rules(estimators, CategoricalEstimator)
    total = count_outcomes(logits)
    measure = _enumerated if total <= limit else _sampled
    found: dict[int, Row] = {}
    for tau in dict.fromkeys(rule.tau_forward for _, rule in rules):
        own = [i for i, (_, rule) in enumerate(rules) if rule.tau_forward == tau]
        drawn = [rules[i] for i in own]
        rows = measure(loss, logits.detach(), tau, drawn, samples, seed, rescale)
        found.update(zip(own, rows, strict=True))
    ordered = tuple(found[i] for i in range(len(rules)))
    if total <= limit:
        return Audit(ordered, total, samples, seed, rescale)
    return Audit(ordered, group_size(samples, 2) * GROUPS, samples, seed, rescale, "sampled")


def _enumerated(
    loss: Loss, logits: Tensor, tau: float, rules: Rules, samples: int, seed: int, rescale: bool
) -> tuple[Row, ...]:
    exact = expected_gradient(loss, logits, tau)
    tallies = [Tally(name, rule, exact) for name, rule in rules]
    wide = logits.reshape(exact.shape).to(torch.float64)
    for outcomes in enumerate_outcomes(logits, tau):
        _, grad = loss_and_gradient(loss, outcomes, logits)
        for tally in tallies:
            tally.add(wide, outcomes, grad, samples, seed)
    return tuple(tally.row(rescale) for tally in tallies)


def _over_subsets(
    loss: Loss, logits: Tensor, k: int, rules: Sequence[tuple[str, Any]], rescale: bool
) -> tuple[Row, ...]:
    exact, subsets = gradient_over_subsets(loss, logits, k), subsets_of(logits, k)
    tallies = [Tally(name, OfSubset(rule, k, subsets.hot), exact) for name, rule in rules]
    wide = logits.reshape(exact.shape).to(torch.float64)
    for outcomes in subsets.outcomes(logits.dtype):
        _, grad = loss_and_gradient(loss, outcomes, logits)
        for tally in tallies:
            tally.add(wide, outcomes, grad, 1, 0)
    return tuple(tally.row(rescale) for tally in tallies)


def _sampled(
    loss: Loss, logits: Tensor, tau: float, rules: Rules, samples: int, seed: int, rescale: bool
) -> tuple[Row, ...]:
    size = group_size(samples, 2)
    reference = LeaveOneOut(size, logits)
    tallies = [SampledTally(name, rule, size, logits) for name, rule in rules]
    wide = logits.reshape(-1, logits.shape[-1]).to(torch.float64)
    for outcomes in draw_outcomes(logits, size * GROUPS, seed, tau):
        value, grad = loss_and_gradient(loss, outcomes, logits)
        if outcomes.first == 0:
            check_alone(loss, outcomes.one_hot, value, logits, noise=True)
        reference.add(outcomes, value)
        for tally in tallies:
            tally.add(wide, outcomes, grad, seed)
    return tuple(tally.row(reference.estimates() / tau, rescale) for tally in tallies)


def _rules(estimators: Sequence[Rule | str], *fits: type[Rule]) -> list[tuple[str, Any]]:
    if isinstance(estimators, str) or not isinstance(estimators, Iterable) or not estimators:
        raise ArgumentError(
            f"estimators must be a list of rules or shorthands, such as ['reinmax'], "
            f"got {estimators!r}"
        )
    return [
        (given if isinstance(given, str) else repr(given), resolve("estimators", given, *fits))
        for given in estimators
    ]


def loss_and_gradient(loss: Loss, outcomes: Outcomes, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss at each hard outcome, `(N,)`, and its gradient there, float64 `(N, L, C)`."""
    with torch.inference_mode(False), torch.enable_grad():
        z = outcomes.one_hot.clone().requires_grad_()  # what inference mode made has no gradient
        value = losses(loss, z, logits)
        total = value.sum()
        (grad,) = (
            torch.autograd.grad(total, z, allow_unused=True) if total.requires_grad else [None]
        )
    if grad is None:
        raise ArgumentError(
            "loss has no gradient to the one-hots: it must be computed from them by "
            "differentiable operations"
        )
    check_finite("the loss's gradient", grad, z)
    return value.detach(), grad.to(torch.float64)
