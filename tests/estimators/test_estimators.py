"""Every estimator against gradients worked out by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough.core.noise import Noise
from straightthrough.core.registry import RULES
from straightthrough.core.rules import Rule
from straightthrough.estimators import (
    DARN,
    MVE,
    CategoricalEstimator,
    DecoupledST,
    GappedST,
    GumbelRao,
    GumbelST,
    MVEInteger,
    ReinMax,
    ReinMaxCV,
    ReinMaxRao,
    StraightThrough,
)
from straightthrough.relaxations import Softmax, Threshold


@dataclass(frozen=True)
class Row:
    """A gradient that a rule must give.

    Attributes:
        rule: the estimator.
        weights: exp(logits), so that probabilities are fractions.
        index: the outcome.
        grad: the gradient to the one-hot.
        expected: the gradient to the logits.
        seed: for a rule that draws noise.
    """

    rule: CategoricalEstimator
    weights: tuple[float, ...]
    index: int
    grad: tuple[float, ...]
    expected: tuple[Fraction | float, ...]
    seed: int | None = None

    def __str__(self) -> str:
        return f"{self.rule}-{self.weights}-{self.index}"


def of(numerator: int, denominator: int) -> Fraction:
    return Fraction(numerator, denominator)


# J(p) g = p (g - <p, g>); the arithmetic stands above each row. A new estimator adds a row here.
GOLDEN = [
    # p = (1/2, 1/4, 1/4), <p, g> = 2 + 2 = 4: p (g - 4).
    Row(StraightThrough(), (2, 1, 1), 1, (4, 0, 8), (0, -1, 1)),
    # The outcome does not enter.
    Row(StraightThrough(), (2, 1, 1), 0, (4, 0, 8), (0, -1, 1)),
    # At tau = 2 the weights are their roots (2, 1, 1), and the whole is halved.
    Row(StraightThrough(tau=2.0), (4, 1, 1), 1, (4, 0, 8), (0, of(-1, 2), of(1, 2))),
    # Only the gradient's temperature enters it.
    Row(DecoupledST(0.5, 2.0), (4, 1, 1), 1, (4, 0, 8), (0, of(-1, 2), of(1, 2))),
    # DARN (D - p)(g_x - <p, g>) = (-1/2, 3/4, -1/4) (0 - 4) = (2, -3, 1); its mean with the
    # straight-through (0, -1, 1).
    Row(ReinMax(), (2, 1, 1), 1, (4, 0, 8), (1, -2, 1)),
    Row(DARN(), (2, 1, 1), 1, (4, 0, 8), (2, -3, 1)),
    # D - p = (-1/2, -1/4, 3/4), g_x - <p, g> = 4.
    Row(DARN(), (2, 1, 1), 2, (4, 0, 8), (-2, -1, 3)),
    # g_x = <p, g>, so DARN is 0: half of (0, -1, 1).
    Row(ReinMax(), (2, 1, 1), 0, (4, 0, 8), (0, of(-1, 2), of(1, 2))),
    # Two classes, p = 3/4: g (1 - p) / 2 = 8/4/2 where the outcome is 1, g p / 2 where it is 0.
    Row(ReinMax(), (1, 3), 1, (0, 8), (-1, 1)),
    Row(ReinMax(), (1, 3), 0, (0, 8), (-3, 3)),
    # p = (8, 1, 1)/10; 8^(1/1.5) = 4, so p_tau = (4, 1, 1)/6; m = (p_tau + D)/2 = (4, 7, 1)/12.
    # <m, g> = 4 + 2 = 6: J(m) g = (2, -7/2, 3/2). <p, g> = 9.6 + 2.4 = 12: J(p) g = (0, -1.2, 1.2).
    # 2 J(m) g - J(p) g / 2 = (4, -7 + .6, 3 - .6).
    Row(ReinMax(tau=1.5), (8, 1, 1), 1, (12, 0, 24), (4, of(-64, 10), of(24, 10))),
    # m = (10, 1, 1)/12, <m, g> = 10 + 2 = 12: J(m) g = (0, -1, 1); (0, -2 + .6, 2 - .6).
    Row(ReinMax(tau=1.5), (8, 1, 1), 0, (12, 0, 24), (0, of(-14, 10), of(14, 10))),
    # The weights of t: the largest, 4, at the outcome, at most half of it elsewhere: (2, 1, 4).
    # q = (2, 1, 4)/7, <q, g> = 10: q (-3, -10, 4).
    Row(GappedST(gap=math.log(2)), (4, 1, 2), 2, (7, 0, 14), (of(-6, 7), of(-10, 7), of(16, 7))),
    # The outcome leads by more already, (4, 1, 2)/7: <q, g> = 8, q (-1, -8, 6).
    Row(GappedST(gap=math.log(2)), (4, 1, 2), 0, (7, 0, 14), (of(-4, 7), of(-8, 7), of(12, 7))),
    # p_x = 1/2, so the gap is 2 log 2: t = (2, 1/2, 1/2), q = (4, 1, 1)/6, <q, g> = 12.
    Row(GappedST(gap="expected"), (2, 1, 1), 0, (12, 0, 24), (0, -2, 2)),
    # At tau = 2 their roots: q = (1/2, 1/4, 1/4), <q, g> = 12, and the whole is halved.
    Row(GappedST(2.0, "expected"), (2, 1, 1), 0, (12, 0, 24), (0, of(-3, 2), of(3, 2))),
    # Two classes, p = 3/4, e = 1/tau = 1/4: p q g (e + 2 q) / (e + 4 p q) = 3/16 (3/4) g where the
    # outcome is 1, 3/16 (7/4) g where it is 0.
    Row(MVE(tau=4.0), (1, 3), 1, (0, 64), (-9, 9)),
    Row(MVE(tau=4.0), (1, 3), 0, (0, 64), (-21, 21)),
    # Three equal classes, tau = 3: A is 5/9 on the diagonal, -1/9 beside it. The gradient less its
    # entry at the outcome, over 1/3 + p_i + p_x: w = (4, 0, 0); u = w (1/3 + p), at x -<w, p>:
    # A y = (8/3, -4/3, 0), y = (14, -4, 2)/3, times (1/3 + p)/(1/3 + 2 p) = 2/3; J of that.
    Row(MVE(tau=3.0), (1, 1, 1), 1, (4, 0, 0), (of(20, 27), of(-16, 27), of(-4, 27))),
    # The number of three equal classes: m = 1, v = 2/3, y = 2. i - m = (-1, 0, 1); its square less
    # v, (1, -2, 1)/3, over 1/tau + 2 v = 2: (1, -2, 1)/6. Their sum times p.
    Row(MVEInteger(tau=1.5), (1, 1, 1), 2, (0, 1, 2), (of(-5, 18), of(-1, 9), of(7, 18))),
    # Philox4x32-10 of counter (0, 0, 0, 1), key (7, 0): d6a62573 71eade72 3ac9655a 2affc9a4.
    # Their upper 52 bits, then a 1: u = .8384727, .2296356. E = -log(1 - u) = 1.8230811, .2608916.
    # p = (3/4, 1/4), outcome 1: y_0 / y_1 = (E_1 / (E_0 / p_0 + E_1))^(1/tau) = .0969256^2.
    # y = (.0093071, .9906929); g = (1, -1): J(y) g = 2 y_0 y_1 (1, -1), over tau.
    Row(GumbelST(tau=0.5), (3, 1), 1, (1, -1), (0.03688210642, -0.03688210642), seed=7),
    # Its second sample, of counter (0, 0, 0, 257): 72e333ac 9fb6a970 1e0021cc 43d186d4;
    # E = .5956201, .1246447; y_0 / y_1 = .1356596^2, y_0 = .0180710: .0709776. The mean of the two.
    Row(GumbelRao(0.5, samples=2), (3, 1), 1, (1, -1), (0.05392986943, -0.05392986943), seed=7),
    # The midpoint of p and D: (3/8, 5/8). With the same E y_0 / y_1 = .0509311^2 and .0727655^2,
    # J(y) g / tau = .0103223 and .0209568, twice their mean .0312790; J(p) g / 2 = 3/16.
    Row(ReinMaxRao(0.5, samples=2), (3, 1), 1, (1, -1), (-0.1562209578, 0.1562209578), seed=7),
    # ReinMax is p_0 (g_0 - g_x) / 2 = 3/4; and 3/2 (.0209568 - .0103223).
    Row(ReinMaxCV(0.5, 1.5, 1), (3, 1), 1, (1, -1), (0.7659516990, -0.7659516990), seed=7),
]


def float64(values: tuple[Fraction | float, ...]) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def test_every_registered_estimator_has_a_row() -> None:
    registered = {
        record.type for record in RULES.values() if issubclass(record.type, CategoricalEstimator)
    }
    assert {type(row.rule) for row in GOLDEN} == registered


def test_every_registered_rule_of_draws_and_selections_is_public() -> None:
    rules = [name for name in st.estimators.__all__ if not name.endswith("Estimator")]
    public = {getattr(st.estimators, name) for name in rules}
    modules = "straightthrough.estimators."
    assert public == {r.type for r in RULES.values() if r.type.__module__.startswith(modules)}


@pytest.mark.parametrize("row", GOLDEN, ids=str)
def test_gradient_is_the_one_worked_out_by_hand(row: Row) -> None:
    logits, index = float64(row.weights).log(), torch.tensor(row.index)
    got = row.rule.vjp(logits, index, float64(row.grad), seed=row.seed)
    torch.testing.assert_close(got, float64(row.expected), rtol=1e-9, atol=1e-12)


# Rule, odds, gradient to the logit where the outcome is 1 and where it is 0.
BINARY = [
    (StraightThrough(), 3, of(3, 16), of(3, 16)),  # p (1 - p)
    (StraightThrough(tau=2.0), 9, of(3, 32), of(3, 32)),  # p_tau = 3/4; 3/16, halved
    (DecoupledST(1.3, 2.0), 9, of(3, 32), of(3, 32)),
    (ReinMax(), 3, of(1, 8), of(3, 8)),  # (1 - p) / 2 and p / 2
    (MVE(tau=4.0), 3, of(9, 64), of(21, 64)),  # as in the rows of two classes above
    # e = 1/tau = 1/2: p q (e + q) / (e + 2 p q) where it is 1, p q (e + p) / (e + 2 p q) where 0.
    (MVEInteger(tau=2.0), 3, of(9, 56), of(15, 56)),
    (DARN(), 3, of(1, 16), of(9, 16)),  # (1 - p)^2 and p^2
    # The outcome leads by log 4 where it is 1; where it is 0 by the gap, log 3: s = 4/5 or 3/4.
    (GappedST(gap=math.log(3)), 4, of(4, 25), of(3, 16)),
    # p_x = 3/4: gap (4/3) log 4, over tau log 4. p_x = 1/4: 4 log(4/3), over tau log(64/27).
    (GappedST(4 / 3, "expected"), 3, of(3 * 4, 4 * 25), of(3 * 64 * 27, 4 * 91 * 91)),
    # p = 8/9, p_tau = 4/5; m = 9/10 or 2/5; 2 m (1 - m) - p (1 - p) / 2.
    (ReinMax(tau=1.5), 8, of(18, 100) - of(4, 81), of(48, 100) - of(4, 81)),
]


@pytest.mark.parametrize(("rule", "odds", "at_one", "at_zero"), BINARY, ids=str)
def test_binary_gradient_is_the_one_worked_out_by_hand(
    rule: CategoricalEstimator, odds: int, at_one: Fraction, at_zero: Fraction
) -> None:
    logits = torch.full((64,), math.log(odds), dtype=torch.float64, requires_grad=True)
    y = st.bernoulli(logits, estimator=rule, seed=0)
    assert 0 < y.sum() < 64
    y.sum().backward()
    expected = torch.where(y.detach() == 1, *float64((at_one, at_zero)))
    torch.testing.assert_close(logits.grad, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("index", [0, 1])
def test_gumbel_at_even_odds_has_the_mean_of_a_uniform(index: int) -> None:
    """At tau = 1 and p = 1/2, y is uniform: E y (1 - y) = 1/6, with variance 1/30 - 1/36."""
    rows = 40_000
    logits = torch.zeros(rows, 2, dtype=torch.float64)
    grad = torch.tensor([0.0, 1.0], dtype=torch.float64).expand(rows, 2)
    got = GumbelST().vjp(logits, torch.full((rows,), index), grad, seed=1)[:, 1]
    deviation = math.sqrt((1 / 30 - 1 / 36) / rows)
    assert abs(got.mean().item() - 1 / 6) < 5 * deviation  # fails once in 1.7 million seeds


def test_softmax_is_the_relaxation_of_the_straight_through_estimator() -> None:
    # p_tau = (1/2, 1/4, 1/4), as in the third row above.
    rule = Softmax(tau=2.0)
    logits = float64((4, 1, 1)).log()
    torch.testing.assert_close(rule.soft(logits), float64((0.5, 0.25, 0.25)))
    torch.testing.assert_close(rule.vjp(logits, float64((4, 0, 8))), float64((0, -0.5, 0.5)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_low_temperature_does_not_overflow(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    soft = Softmax(tau=0.1).soft(torch.tensor([largest, -largest, 0.0], dtype=dtype))
    assert soft.tolist() == [1.0, 0.0, 0.0]


TEMPERED = [
    MVEInteger,
    MVE,
    StraightThrough,
    GappedST,
    GumbelST,
    GumbelRao,
    ReinMax,
    ReinMaxRao,
    ReinMaxCV,
    Softmax,
    Threshold,
]


@pytest.mark.parametrize("rule", TEMPERED)
@pytest.mark.parametrize("tau", [0.0, -1.0, math.inf, math.nan])
def test_temperature_must_be_above_0(rule: type[Rule], tau: float) -> None:
    with pytest.raises(st.ArgumentError, match="tau"):
        rule(tau=tau)


@pytest.mark.parametrize("rule", [GumbelRao, ReinMaxRao, ReinMaxCV])
@pytest.mark.parametrize("samples", [0, -3, 2.0, True, "many"])
def test_samples_must_be_an_int_of_at_least_1(rule: type[Rule], samples: object) -> None:
    with pytest.raises(
        st.ArgumentError, match=f"samples must be an int of at least 1, got {samples!r}"
    ):
        rule(samples=samples)


@pytest.mark.parametrize("gap", [-0.5, math.inf, math.nan, None, True, "probability"])
def test_gap_must_be_a_number_of_at_least_0_or_expected(gap: object) -> None:
    with pytest.raises(st.ArgumentError, match=f"gap must be .* got {gap!r}"):
        GappedST(gap=gap)


@pytest.mark.parametrize("eta", [math.inf, math.nan, None, "much"])
def test_eta_must_be_a_number(eta: object) -> None:
    with pytest.raises(st.ArgumentError, match=f"eta must be a finite number, got {eta!r}"):
        ReinMaxCV(eta=eta)


ESTIMATORS = [r.example for r in RULES.values() if issubclass(r.type, CategoricalEstimator)]
LOGITS, INDEX, GRAD = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (st.DtypeError, "logits must be", (LOGITS.long(), INDEX, GRAD)),
        (st.DtypeError, "grad must be", (LOGITS, INDEX, GRAD.long())),
        (st.ShapeError, "got logits", (LOGITS, INDEX[:1], GRAD)),
        (st.ShapeError, "got logits", (LOGITS, INDEX, GRAD[:, :2])),
        (st.ShapeError, "got logits", (LOGITS[0, 0], INDEX[0], GRAD[0, 0])),
        (st.ArgumentError, r"index must lie in \[0, 2\]", (LOGITS, INDEX + 3, GRAD)),
        (st.ArgumentError, r"index must lie in \[0, 2\]", (LOGITS, INDEX - 1, GRAD)),
    ],
)
@pytest.mark.parametrize("rule", ESTIMATORS, ids=repr)
def test_vjp_says_what_is_wrong(
    error: type[Exception],
    message: str,
    arguments: tuple[Tensor, Tensor, Tensor],
    rule: CategoricalEstimator,
) -> None:
    with pytest.raises(error, match=message):
        rule.vjp(*arguments)


@dataclass(frozen=True)
class Steeper(ReinMax):
    """A user's variant of a rule that has kernels."""

    def gradient(self, logits: Tensor, index: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        assert logits.dtype == torch.float32
        return 10 * super().gradient(logits, index, grad, noise)


@dataclass(frozen=True)
class Sevenfold(st.surrogates.Tanh):
    """A user's variant of a surrogate that has a kernel."""

    def derivative(self, x: Tensor) -> Tensor:
        return torch.full_like(x, 7.0)


def test_a_variant_is_not_served_by_its_parents_kernel() -> None:
    logits, grad = torch.randn(5, 4).bfloat16(), torch.randn(5, 4).bfloat16()
    index = torch.zeros(5, dtype=torch.int64)
    with torch.no_grad():
        got, parents = Steeper().vjp(logits, index, grad), ReinMax().vjp(logits, index, grad)
        torch.testing.assert_close(got, 10 * parents, rtol=2**-6, atol=1e-3)
        assert torch.equal(Sevenfold().vjp(logits, grad), 7 * grad)
