"""Audits whose outcomes are subsets: against enumeration, and the one class that they contain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import straightthrough as st
from subsets import Enumerated, quadratic


def loss_of(n: int, seed: int):
    a, b = quadratic(n, seed)
    return lambda z: (z @ a * z).sum(-1) + z @ b


def logits(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("k", [1, 3, 6])
def test_the_exact_gradient_is_that_of_enumeration(k: int) -> None:
    x, loss = logits(6), loss_of(6, 0)
    law = Enumerated(x, k)
    found = st.audit.exact_gradient(loss, x, k=k)
    torch.testing.assert_close(found, law.gradient(loss(law.subsets)), rtol=1e-12, atol=1e-12)
    if k == 1:
        torch.testing.assert_close(found, st.audit.exact_gradient(loss, x))


def test_several_variables_with_a_class_left_out() -> None:
    """By finite differences of the expected loss, over all pairs of sets."""
    x = logits(2, 4)
    x[1, 2] = -torch.inf
    cost = torch.randn(2, 4, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def loss(z: Tensor) -> Tensor:
        return torch.einsum("nlc,lcmd,nmd->n", z, cost, z)

    def expected(x: Tensor) -> Tensor:
        laws = [Enumerated(row, 2) for row in x]
        pairs = [(i, j) for i in range(6) for j in range(6)]
        z = torch.stack([torch.stack([laws[0].subsets[i], laws[1].subsets[j]]) for i, j in pairs])
        p = torch.stack([laws[0].p[i] * laws[1].p[j] for i, j in pairs])
        return p @ loss(z)

    found, step = st.audit.exact_gradient(loss, x, k=2), 1e-6
    for place in [(0, 1), (1, 0), (1, 3)]:
        move = torch.zeros_like(x)
        move[place] = step
        slope = (expected(x + move) - expected(x - move)) / (2 * step)
        torch.testing.assert_close(found[place], slope, rtol=1e-6, atol=1e-8)
    assert found[1, 2] == 0


def test_moments_are_those_of_enumeration() -> None:
    x, loss = logits(6), loss_of(6, 2)
    law = Enumerated(x, 3)
    z = law.subsets.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(z).sum(), z)
    exact, rows = law.gradient(loss(law.subsets)), x.expand_as(z).contiguous()
    audit = st.audit.compare(loss, x, ["simple", "second_order", "laplace", "softmax"], k=3)
    assert audit.outcomes == 20
    estimates = {
        "simple": st.estimators.Simple().vjp(rows, z.detach(), grad),
        "second_order": st.estimators.SecondOrder().vjp(rows, z.detach(), grad),
        "laplace": st.relaxations.Threshold("laplace").vjp(rows, grad, k=3),
        "softmax": st.relaxations.Softmax().vjp(rows, grad, k=3),
    }
    for row in audit.rows:
        mean = law.p @ estimates[row.name]
        spread = law.p @ (estimates[row.name] - mean).square().sum(-1)
        bias = (mean - exact).square().sum()
        assert row.bias_squared == pytest.approx(bias.item(), rel=1e-6, abs=1e-10)
        assert row.variance == pytest.approx(spread.item(), rel=1e-8)
    assert audit.rows[1].bias_squared < 1e-8 < audit.rows[0].bias_squared
    assert "20 outcomes, enumerated" in audit.table()
    certain = st.audit.compare(lambda z: z.sum(-1), torch.zeros(3), ["simple"], k=3)
    assert certain.caption == "1 outcome, enumerated"


def test_one_of_a_subset_of_one_is_a_class() -> None:
    x, loss = logits(5), loss_of(5, 1)
    ours = st.audit.compare(loss, x, ["simple", "second_order"], k=1).rows
    theirs = st.audit.compare(loss, x, ["straight_through", "reinmax"]).rows
    for one, other in zip(ours, theirs, strict=True):
        assert one.bias_squared == pytest.approx(other.bias_squared, abs=1e-10)
        assert one.variance == pytest.approx(other.variance)


def test_errors() -> None:
    x, loss = logits(20), loss_of(20, 0)
    with pytest.raises(st.ArgumentError, match="have 184756 outcomes of 10 classes"):
        st.audit.compare(loss, x, ["simple"], k=10, limit=9)
    with pytest.raises(st.ArgumentError, match=r"have 190 outcomes of 2 classes, above limit=9"):
        st.audit.exact_gradient(loss, x, k=2, limit=9)
    with pytest.raises(st.ArgumentError, match="k must be an int of at least 1, got 0"):
        st.audit.compare(loss, x, ["simple"], k=0)
    with pytest.raises(st.ArgumentError, match=r"k must be at most 20.*got 21"):
        st.audit.exact_gradient(loss, x, k=21)
    with pytest.raises(st.ArgumentError, match="estimators='reinmax' is unknown here"):
        st.audit.compare(loss, x, ["reinmax"], k=2)
    with pytest.raises(st.ArgumentError, match="estimators='simple' is unknown here"):
        st.audit.compare(loss, x[:4], ["simple"])


@pytest.mark.parametrize("large", [1e30, 1e9])
def test_a_class_that_is_certain_leaves_the_others_their_law(large: float) -> None:
    x = logits(4)
    x[0] = large
    cost = torch.tensor([3.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    found = st.audit.exact_gradient(lambda z: z @ cost, x, k=2)
    others = st.audit.exact_gradient(lambda z: z @ cost[1:], x[1:])
    torch.testing.assert_close(found, torch.cat([torch.zeros_like(x[:1]), others]))
