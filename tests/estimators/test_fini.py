"""Fini: weights by hand, and gradients of polynomials against sums over every outcome."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch

import straightthrough as st
from laws import Law, binomial, geometric, negative_binomial, poisson
from straightthrough import testing
from straightthrough.estimators import Fini, ReinMax
from straightthrough.ops.counts.operation import CountDraw

INFINITY = math.inf


# Weights by hand.


def of(numerator: int, denominator: int) -> Fraction:
    return Fraction(numerator, denominator)


# Order, size, mean, count, w / V; the arithmetic of w stands above each row.
BY_HAND = [
    # Poisson, l = 4: (6 + 4) / 2 = 5, V = 4.
    (2, INFINITY, 4, 6, of(5, 4)),
    # 20/12 + 33 * 6 / 48 - 36 / 48 = (80 + 198 - 36) / 48 = 121/24.
    (3, INFINITY, 4, 6, of(121, 96)),
    # l = 1: 5/12 + 9 * 2 / 12 - 4 / 12 = 19/12.
    (3, INFINITY, 1, 2, of(19, 12)),
    # 5/12 at z = 0, over l: never 0 by 0.
    (3, INFINITY, of(1, 8), 0, of(5, 12)),
    # Binomial, n = 3, p = 1/3, V = 2/3; z = 2, m = 1: (2 * 2/3 + 1/3) / 2 = 5/6.
    (2, -3, 1, 2, of(5, 4)),
    # 5/6 + 2 / 12 - (2 * 2 + 0) / 24 = 5/6.
    (3, -3, 1, 2, of(5, 4)),
    # z = 3, m = 0: 3 * 2/3 / 2 = 1, and 1 - 6 * 2 / 24 = 1/2.
    (2, -3, 1, 3, of(3, 2)),
    (3, -3, 1, 3, of(3, 4)),
    # One trial, p = 1/4, V = 3/16: q / 2 = 3/8 at 1 and p / 2 = 1/8 at 0, in both orders.
    (2, -1, of(1, 4), 1, 2),
    (3, -1, of(1, 4), 1, 2),
    (3, -1, of(1, 4), 0, of(2, 3)),
    # Negative binomial, r = 2, p = 1/2, V = 4; z = 4, s = 6: (4 + 3) / (2 q) = 7.
    (2, 2, 2, 4, of(7, 4)),
    # 7 - (12 / p - 48 + 42 p) / 36 = 7 + 3 / 36.
    (3, 2, 2, 4, of(85, 48)),
    # Geometric, q = 2/3, m = 2, V = 6; z = 1: (1 + 4/3) / (2/3) = 7/2.
    (2, 1, 2, 1, of(7, 12)),
    # 7/2 - (0 - 4 + 2/3 * 6) / 24 = 7/2.
    (3, 1, 2, 1, of(7, 12)),
    # z = 3: (3 + 8/3) / (2/3) = 17/2; less (6 * 3/2 - 24 + 2/3 * 20) / 24 = -5/72.
    (3, 1, 2, 3, (of(17, 2) + of(5, 72)) / 6),
    (1, 2, 2, 4, 1),
]


@pytest.mark.parametrize(("order", "size", "mean", "count", "expected"), BY_HAND)
def test_weights_are_those_worked_out_by_hand(
    order: int, size: float, mean: float, count: int, expected: Fraction
) -> None:
    m, z = (torch.tensor(float(value), dtype=torch.float64) for value in (mean, count))
    got = Fini(order).vjp(m, z, torch.full_like(m, 3.0), size=size)
    torch.testing.assert_close(got.item(), 3 * float(expected), rtol=1e-14, atol=0)


# Gradients against sums over every outcome.

LAWS = [
    *poisson(0.05),
    *poisson(1.7),
    *poisson(40.0),
    *binomial(1, 0.3),
    *binomial(2, 0.85),
    *binomial(12, 0.4),
    *binomial(90, 0.02),
    *geometric(0.7),
    *geometric(0.12),
    *negative_binomial(0.6, 0.4),
    *negative_binomial(5.0, 0.75),
]


def gradients(law: Law, order: int, degree: int) -> tuple[float, float, float]:
    """The mean of the rule's gradient of `z^degree`, the true one, and their terms' size."""
    end = -law.family.size if law.family.size < 0 else 600
    z = torch.arange(end + 1, dtype=torch.float64)
    x = torch.tensor(law.x, dtype=torch.float64, requires_grad=True)
    probability = law.theirs(x).log_prob(z).exp()
    assert abs(1 - probability.sum().item()) < 1e-12
    (exact,) = torch.autograd.grad((probability * z**degree).sum(), x)
    slope = degree * z ** (degree - 1)
    rule = CountDraw(Fini(order), law.family, 0)
    terms = probability * rule.backward(slope, x.detach().expand_as(z), z)[0]
    return terms.sum().item(), exact.item(), terms.abs().sum().item()


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("law", LAWS, ids=str)
def test_gradients_of_polynomials_are_exact_up_to_the_order(law: Law, order: int) -> None:
    """And not above it; one trial alone has no order 3."""
    reached = 2 if order == 3 and law.family.size == -1 else order
    for degree in range(1, reached + 1):
        mean, exact, size = gradients(law, order, degree)
        assert abs(mean - exact) < 1e-10 * max(1.0, size)
    mean, exact, size = gradients(law, order, reached + 1)
    assert abs(mean - exact) > 1e-7 * size


@pytest.mark.parametrize("law", [laws[-1] for laws in (
    poisson(1.7), binomial(12, 0.4), geometric(0.3), negative_binomial(3.0, 0.4)
)], ids=str)  # fmt: skip
def test_the_gradient_of_draws_is_unbiased_for_a_cubic(law: Law) -> None:
    """CountDraw and backward together: five deviations, which one seed in 1.7 million fails."""
    rows = 200_000
    x = torch.full((rows,), law.x, dtype=torch.float64, requires_grad=True)
    y = law.call(x, estimator=Fini(3), seed=1)
    (gradient,) = torch.autograd.grad((y**3 - 4 * y**2).sum(), x)
    exact = gradients(law, 3, 3)[1] - 4 * gradients(law, 3, 2)[1]
    assert abs(gradient.mean().item() - exact) < 5 * gradient.std().item() / math.sqrt(rows)


@pytest.mark.parametrize("keyword", ["logits", "probs"])
def test_order_2_of_one_trial_is_reinmax(keyword: str) -> None:
    p = torch.linspace(0.02, 0.98, 99, dtype=torch.float64)
    x = (p if keyword == "probs" else p.logit()).requires_grad_()
    y = st.binomial(**{keyword: x}, total_count=1, seed=0)
    (got,) = torch.autograd.grad(y.sum(), x)
    to_logits = torch.where(y > 0, (1 - p) / 2, p / 2)
    slope = p * (1 - p) if keyword == "probs" else torch.ones_like(p)
    torch.testing.assert_close(got, to_logits.detach() / slope, rtol=1e-12, atol=0)
    at_one = ReinMax().binary_gradient(p.logit(), y > 0, torch.ones_like(p), (torch.tensor(0), 0))
    torch.testing.assert_close(to_logits, at_one, rtol=1e-12, atol=0)


@pytest.mark.parametrize("order", [1, 3])
def test_the_other_orders_conform(order: int) -> None:
    testing.check_rule(Fini(order))


X = torch.zeros(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Fini(4), "order must be 1, 2 or 3, got 4"),
        (lambda: Fini(2.0), "got 2.0"),
        (lambda: Fini().vjp(X, X, X, size=0), "size must be a number other than 0"),
        (lambda: Fini().vjp(X.long(), X, X), "mean must be float16"),
        (lambda: Fini().vjp(X, X[:1], X), r"must have one shape, got \(2,\), \(1,\) and \(2,\)"),
    ],
)
def test_errors(call: Callable[[], object], message: str) -> None:
    with pytest.raises(st.StraightThroughError, match=message):
        call()
