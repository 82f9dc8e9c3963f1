"""Rules of drawn subsets: bias, variance and gradients by enumeration."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import straightthrough as st
from straightthrough.core.errors import FLOATING
from straightthrough.estimators import (
    ReinMax,
    SecondOrder,
    Simple,
    StraightThrough,
    SubsetEstimator,
)
from subsets import Enumerated, quadratic


def logits(n: int, seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, dtype=torch.float64, generator=generator)


def of_quadratic(rule: SubsetEstimator, law: Enumerated, seed: int) -> tuple[float, float]:
    """Squared bias and variance of a rule, relative to the exact gradient's square."""
    a, b = quadratic(len(law.logits), seed)
    z = law.subsets
    exact = law.gradient((z @ a * z).sum(-1) + z @ b)
    found = rule.vjp(law.logits.expand_as(z).contiguous(), z, 2 * z @ a + b)
    mean = law.p @ found
    scale = exact.square().sum()
    bias = (mean - exact).square().sum() / scale
    variance = (law.p * (found - mean).square().sum(-1)).sum() / scale
    return bias.item(), variance.item()


@pytest.mark.parametrize(("n", "k"), [(2, 1), (5, 4), (6, 1), (6, 3), (8, 3), (9, 7)])
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_by_enumeration(n: int, k: int, scale: float) -> None:
    law, grad = Enumerated(logits(n, 3, scale), k), logits(n, 4)
    v = torch.linalg.pinv(law.covariance, rtol=1e-12) @ law.off.T
    for i in range(0, len(law.p), 7):
        z, x = law.subsets[i], law.logits
        simple = law.covariance @ grad
        torch.testing.assert_close(Simple().vjp(x, z, grad), simple, rtol=1e-10, atol=1e-10)
        if scale > 1:
            continue  # there the inverse by enumeration has few digits left
        second = simple + law.third(v[:, i], grad) / 2
        found = SecondOrder(steps=n).vjp(x, z, grad)
        torch.testing.assert_close(found, second, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_second_order_is_unbiased_for_quadratics(k: int) -> None:
    for seed in range(5):
        law = Enumerated(logits(8, seed), k)
        assert of_quadratic(SecondOrder(steps=8), law, seed)[0] < 1e-20
        assert of_quadratic(Simple(), law, seed)[0] > 1e-4


@pytest.mark.parametrize(("n", "k"), [(8, 3), (12, 3), (10, 5)])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_four_steps_leave_little_bias(n: int, k: int, scale: float) -> None:
    """What the docstring says: a thousandth of the gradient."""
    found = [of_quadratic(SecondOrder(), Enumerated(logits(n, s, scale), k), s) for s in range(12)]
    assert max(bias for bias, _ in found) < 1e-6
    first = Enumerated(logits(n, 0, scale), k)
    assert of_quadratic(SecondOrder(steps=0), first, 0)[0] > 1e-6


def test_its_variance_is_near_that_of_simple() -> None:
    """Medians of 20 random quadratics, 8 choose 3."""
    laws = [Enumerated(logits(8, seed), 3) for seed in range(20)]
    median = {}
    for rule in (Simple(), SecondOrder()):
        found = torch.tensor([of_quadratic(rule, law, seed) for seed, law in enumerate(laws)])
        median[type(rule)] = found.median(0).values
    assert 0.1 < median[Simple][0] < 0.7
    assert median[SecondOrder][0] < 1e-8
    assert median[SecondOrder][1] < 2.5 * median[Simple][1]


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_one_of_n_is_reinmax_and_the_straight_through_estimator(scale: float) -> None:
    x, grad = logits(7, 0, scale).expand(7, 7).contiguous(), torch.randn(7, 7, dtype=torch.float64)
    index, z = torch.arange(7), torch.eye(7, dtype=torch.float64)
    for ours, theirs in ((SecondOrder(), ReinMax()), (Simple(), StraightThrough())):
        torch.testing.assert_close(ours.vjp(x, z, grad), theirs.vjp(x, index, grad))
    # All but one: of the class left out, with logits and gradients of the other sign.
    left_out = ReinMax().vjp(-x, index, -grad)
    torch.testing.assert_close(SecondOrder().vjp(x, 1 - z, grad), -left_out)


@pytest.mark.parametrize("gap", [40.0, 60.0, 100.0, 200.0, 300.0, 700.0, 1e4, 1e30])
@pytest.mark.parametrize("k", [2, 3])
def test_a_class_that_is_always_chosen_changes_nothing(gap: float, k: int) -> None:
    rule = SecondOrder(steps=7)
    for seed in range(5):
        rest, grad = logits(6, seed), logits(7, seed + 50)
        law = Enumerated(rest, k - 1)
        z = F.pad(law.subsets, (1, 0), value=1.0)
        x = torch.cat([torch.tensor([gap], dtype=torch.float64), rest]).expand_as(z)
        found = rule.vjp(x, z, grad.expand_as(z))
        wanted = rule.vjp(x[:, 1:], law.subsets, grad[1:].expand_as(law.subsets))
        torch.testing.assert_close(found, F.pad(wanted, (1, 0)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", [Simple(), SecondOrder()], ids=repr)
@pytest.mark.parametrize("dtype", FLOATING)
def test_edges(rule: SubsetEstimator, dtype: torch.dtype) -> None:
    low = -torch.inf
    x = torch.tensor([[0.0, low, 1.0, 2.0], [low, low, 1.0, 2.0], [80.0, -80.0, 80.0, -80.0]])
    z = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [1, 0, 1, 0]])
    grad = torch.tensor([[1.0, 5.0, -2.0, 3.0]] * 3)
    found = rule.vjp(x.to(dtype), z.to(dtype), grad.to(dtype))
    assert found.dtype == dtype
    assert found.isfinite().all()
    assert found[0, 1] == 0
    assert found[0].abs().max() > 0.01
    assert found[1:].float().abs().max() < 1e-20
    every = rule.vjp(x[2:].to(dtype), torch.ones(1, 4).to(dtype), grad[2:].to(dtype))
    assert every.eq(0).all()


@pytest.mark.parametrize("rule", ["simple", "second_order"])
def test_double_backward_is_that_of_the_formula(rule: str) -> None:
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)

    def pulled(x: Tensor, grad: Tensor) -> Tensor:
        z = st.sample_subset(x, 3, rule, seed=1)
        return torch.autograd.grad(z, x, grad, create_graph=True)[0]

    assert torch.autograd.gradcheck(pulled, (x, grad))


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_its_derivative_is_that_of_few_steps_too(steps: int) -> None:
    """The variances that the steps begin from move with the logits."""
    x, rule = logits(6, 0).requires_grad_(), SecondOrder(steps=steps)
    grad, along = logits(6, 1), logits(6, 2)
    z = st.sample_subset(x.detach(), 3, seed=3)
    (found,) = torch.autograd.grad((rule.vjp(x, z, grad) * along).sum(), x)
    moved = 1e-5 * torch.eye(6, dtype=torch.float64)
    ahead, behind = (torch.stack([rule.vjp(y, z, grad) for y in x + h]) for h in (moved, -moved))
    torch.testing.assert_close(found, (ahead - behind) @ along / 2e-5, rtol=1e-6, atol=1e-8)


def test_errors() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(st.ArgumentError, match=r"same number of ones in every row.*got \[0, 1\]"):
        Simple().vjp(x, torch.tensor([[0.0, 0, 0], [1, 0, 0]]), x)
    with pytest.raises(st.ShapeError, match=r"logits and grad must have one shape"):
        Simple().vjp(x, x, x[:1])
    with pytest.raises(st.ArgumentError, match="steps must be an int of at least 0, got -1"):
        SecondOrder(steps=-1)
