"""Relaxations that share one threshold: against bisection, finite differences and hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough.core.errors import FLOATING
from straightthrough.relaxations import Threshold

INFINITY, NAN = math.inf, math.nan
LAWS = ("logistic", "laplace", "midpoint")
EXACT = LAWS[:2]
each_law = pytest.mark.parametrize("law", LAWS)
each_exact_law = pytest.mark.parametrize("law", EXACT)


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def laplace(x: float) -> float:
    return math.exp(x) / 2 if x < 0 else 1 - math.exp(-x) / 2


VALUE: dict[str, Callable[[float], float]] = {"logistic": logistic, "laplace": laplace}


def bisected(law: str, x: list[float], k: int) -> list[float]:
    """The soft k-hot of a row, its threshold by bisection in Python's numbers."""
    low, high = min(x) - 50, max(x) + 50
    for _ in range(200):
        b = (low + high) / 2
        low, high = (b, high) if sum(VALUE[law](v - b) for v in x) > k else (low, b)
    return [VALUE[law](v - low) for v in x]


def rows(seed: int) -> Tensor:
    """Rows that are close, spread, far apart, tied and with a gap."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(5, 9, dtype=torch.float64, generator=generator)
    scale = torch.tensor([0.1, 3.0, 80.0, 1.0, 1.0]).unsqueeze(-1)
    x = x * scale
    x[3] = x[3].round()
    x[4, ::2] += 30
    return x


@each_exact_law
@pytest.mark.parametrize("k", range(1, 9))
def test_the_threshold_is_the_one_of_bisection(law: str, k: int) -> None:
    for row in rows(k):
        found = Threshold(law).soft_topk(row, k)
        wanted = float64(*bisected(law, row.tolist(), k))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@each_exact_law
@pytest.mark.parametrize(("n", "k"), [(2, 1), (300, 299), (2000, 7), (2000, 1000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_are_k(law: str, n: int, k: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(n + k)
    x = torch.randn(6, n, dtype=torch.float64, generator=generator)
    x = x * torch.tensor([0.01, 1.0, 5.0, 80.0, 1e4, 1e4]).unsqueeze(-1)
    x[5] = x[5].div(1e4).round() * 1e4
    soft = Threshold(law).soft_topk(x.to(dtype), k)
    assert ((soft >= 0) & (soft <= 1)).all()
    error = (soft.double().sum(-1) - k).abs().max().item()
    assert error <= 40 * n * torch.finfo(dtype).eps


@each_law
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_jacobian_products_are_finite_differences(law: str, tau: float) -> None:
    rule, step = Threshold(law, tau), 1e-6
    x = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    eye = torch.eye(7, dtype=torch.float64)
    for k in (1, 3, 6):
        ends = [rule.soft_topk(x + side * step * eye, k) for side in (1, -1)]
        jacobian = ((ends[0] - ends[1]) / (2 * step)).T  # of entry i with x_j
        pulled = rule.vjp(x.repeat(7, 1), eye, k=k)
        pushed = rule.jvp(x.repeat(7, 1), eye, k=k).T
        torch.testing.assert_close(pulled, jacobian, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(pushed, jacobian, rtol=1e-6, atol=1e-9)


@each_law
def test_derivatives_of_the_second_order_are_finite_differences(law: str) -> None:
    rule = Threshold(law, 0.8)
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: st.topk(x, 2, rule) * 1.0, x, grad_outputs=grad)


def test_laplace_by_hand() -> None:
    """(0, 2 log 2), k = 1: b = log 2, both densities 1/4, so J = (1/8)(1, -1; -1, 1)."""
    x = float64(0.0, 2 * math.log(2))
    rule = Threshold("laplace")
    torch.testing.assert_close(rule.soft_topk(x, 1), float64(0.25, 0.75))
    torch.testing.assert_close(rule.vjp(x, float64(8, 0)), float64(1, -1))
    # At tau 2 scores twice as far apart, and half the slope.
    half = Threshold("laplace", tau=2.0)
    torch.testing.assert_close(half.vjp(2 * x, float64(8, 0)), float64(0.5, -0.5))


def test_logistic_by_hand() -> None:
    """(log 3, -log 3), k = 1: b = 0, both densities 3/16, so J = (3/32)(1, -1; -1, 1)."""
    x = float64(math.log(3), -math.log(3))
    rule = Threshold("logistic")
    torch.testing.assert_close(rule.soft_topk(x, 1), float64(0.75, 0.25))
    torch.testing.assert_close(rule.vjp(x, float64(32, 0)), float64(3, -3))


def test_midpoint_by_hand() -> None:
    """(log 9, 0, -800, 0), k = 1: b = log 3; the tie at 0 shares a half, <f, g> = 9."""
    x, grad = float64(math.log(9), 0.0, -800.0, 0.0), float64(16, 32, 1, 0)
    rule = Threshold("midpoint")
    torch.testing.assert_close(rule.soft_topk(x, 1), float64(0.75, 0.25, 0.0, 0.25))
    wanted = float64(3 - 4.5, 6 - 2.25, 0, -2.25)
    torch.testing.assert_close(rule.vjp(x, grad, k=1), wanted)
    # Forward mode: the threshold moves by (16 + (32 + 0) / 2) / 2 = 16.
    torch.testing.assert_close(rule.jvp(x, grad, k=1), float64(0, 3, 0, -3))


@each_law
@pytest.mark.parametrize("dtype", FLOATING)
def test_where_the_choice_is_certain_the_gradient_is_0(law: str, dtype: torch.dtype) -> None:
    rule, low = Threshold(law), -INFINITY
    x = torch.tensor(
        [
            [INFINITY, 1.0, INFINITY, 0.0],  # two are infinite
            [INFINITY, INFINITY, INFINITY, 0.0],  # of three
            [low, 1.0, low, 0.0],  # two are allowed
            [low, low, low, 0.0],  # one is, and there is no outcome
        ],
        dtype=dtype,
    )
    assert rule.vjp(x, torch.randn(4, 4).to(dtype), k=2).eq(0).all()
    soft = rule.soft_topk(x.float(), 2)
    wanted = [[1, 0, 1, 0], [2 / 3, 2 / 3, 2 / 3, 0], [0, 1, 0, 1]]
    torch.testing.assert_close(soft[:3], torch.tensor(wanted, dtype=torch.float32))
    assert soft[3].isnan().all()
    assert rule.vjp(x[:, :2].nan_to_num(), torch.ones(4, 2).to(dtype), k=2).eq(0).all()


@each_law
def test_infinite_and_masked_scores_leave_the_others_as_they_are(law: str) -> None:
    x, grad = torch.randn(6, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    ends = float64(INFINITY, -INFINITY)
    found = Threshold(law).vjp(torch.cat([x, ends]), grad, k=3)
    assert found[6:].eq(0).all()
    torch.testing.assert_close(found[:6], Threshold(law).vjp(x, grad[:6], k=2))


@each_law
@pytest.mark.parametrize("gap", [50.0, 1e3, 1e30, 3e38])
def test_a_wide_gap_has_no_gradient_and_no_nan(law: str, gap: float) -> None:
    x = torch.tensor([gap, gap, 0.0, -gap])
    found = Threshold(law, 0.5).vjp(x, torch.tensor([1.0, 2.0, 3.0, 4.0]), k=2)
    assert found.abs().max() <= 8 * math.exp(-gap) + 1e-30
    assert (gap > 50) or found[:2].ne(0).all()


@each_law
def test_a_row_with_nan_has_no_gradient(law: str) -> None:
    x = torch.tensor([[0.0, NAN, 1.0], [0.0, 1.0, 3.0]])
    found = Threshold(law).vjp(x, torch.ones(2, 3), k=2)
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


@each_exact_law
def test_a_constant_in_the_gradient_costs_no_digits(law: str) -> None:
    x, grad = torch.randn(50, dtype=torch.float64), torch.randn(50)
    plain = Threshold(law).vjp(x.float(), grad, k=5)
    moved = Threshold(law).vjp(x.float(), grad + 2.0**12, k=5)
    exact = Threshold(law).vjp(x.float().double(), (grad + 2.0**12).double(), k=5)
    torch.testing.assert_close(moved.double(), exact, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(moved, plain, rtol=1e-2, atol=1e-3)


def test_an_unknown_law_is_refused() -> None:
    with pytest.raises(st.ArgumentError, match="law must be one of 'logistic', 'laplace', 'midpo"):
        Threshold("normal")


@each_law
def test_the_shorthand_is_the_law(law: str) -> None:
    scores, grad = torch.randn(3, 6, requires_grad=True), torch.randn(3, 6)
    found = [
        torch.autograd.grad(y, scores, grad)[0]
        for y in (st.topk(scores, 2, law, tau=0.5), st.topk(scores, 2, Threshold(law, 0.5)))
    ]
    assert torch.equal(*found)
    default = torch.autograd.grad(st.topk(scores, 2, tau=0.5), scores, grad)[0]
    assert torch.equal(default, found[0]) == (law == "logistic")


def test_a_law_of_ones_own() -> None:
    """A subclass with a formula of its own gets that formula's gradient."""

    class Cubes(Threshold):
        def soft_topk(self, x: Tensor, k: int) -> Tensor:
            return k * x**3

    x = torch.tensor([1.0, 2.0])
    assert Cubes().vjp(x, torch.ones(2), k=2).tolist() == [6.0, 24.0]
    assert Cubes().jvp(x, torch.ones(2), k=2).tolist() == [6.0, 24.0]
