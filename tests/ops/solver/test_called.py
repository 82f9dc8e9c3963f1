"""How a solver is called: as it would be outside of graphs and transforms, and for as long."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

import straightthrough as st

CHOICES = torch.tensor([*itertools.product([0.0, 1.0], repeat=5)])
PAIRS = CHOICES[CHOICES.sum(-1) == 2]


def pair(theta: Tensor) -> Tensor:
    """The best two of five."""
    return PAIRS[(theta @ PAIRS.T).argmax(-1)]


def by_derivatives(theta: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = theta.clone().requires_grad_()
        leaf.square().sum().backward()
    return pair(leaf.grad)


def by_transforms(theta: Tensor) -> Tensor:
    return pair(torch.func.vmap(torch.func.grad(lambda row: row.square().sum()))(theta))


def by_conjugation(theta: Tensor) -> Tensor:
    return pair(-1.0 * (theta * 1j).conj().imag)


def pulled(function, theta: Tensor, weights: Tensor) -> Tensor:
    leaf = theta.clone().requires_grad_()
    return torch.autograd.grad(function(leaf, weights), leaf)[0]


@pytest.mark.parametrize("solver", [by_derivatives, by_transforms, by_conjugation])
def test_a_solver_may_do_what_it_can_elsewhere(solver) -> None:
    """Below autograd, and in compiled code, torch turns some of it off."""

    def loss(theta: Tensor, weights: Tensor) -> Tensor:
        return (st.solve(solver, theta, "blackbox", lam=3.0) * weights).sum()

    theta, weights = torch.randn(2, 4, 5)
    due = pulled(loss, theta, weights)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(pulled(compiled, theta, weights), due)
    gradient = torch.func.grad(loss)
    assert torch.equal(gradient(theta, weights), due)
    assert torch.equal(torch.func.vmap(gradient)(theta, weights), due)


def test_a_solver_computes_in_the_dtype_of_what_it_is_given_under_autocast() -> None:
    theta, weights = 1 + 0.01 * torch.randn(200, 5), torch.ones(200, 5)

    def loss(theta: Tensor, weights: Tensor) -> Tensor:
        return (st.solve(pair, theta, "blackbox", lam=1e-6) * weights).sum()

    due = pair(theta)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(st.solve(pair, theta, "identity"), due)
        assert not pulled(loss, theta, weights).any()


@pytest.mark.parametrize("rule", ["blackbox", "imle"])
@pytest.mark.parametrize("infinite", [torch.inf, torch.nan])
def test_a_solver_is_given_no_step_that_is_not_finite(rule: str, infinite: float) -> None:
    """As float16 has them where the loss is scaled too far; the row is NaN, and skipped later."""

    def of_numbers(theta: Tensor) -> Tensor:
        if not theta.isfinite().all():
            raise ValueError("invalid numeric entries")
        return pair(theta)

    def loss(theta: Tensor, weights: Tensor) -> Tensor:
        return (st.solve(of_numbers, theta, rule, lam=1e3) * weights).sum()

    weights = torch.tensor([[infinite, *[1.0] * 4], [1e38] * 5, [1.0] * 5])
    found = pulled(loss, torch.randn(3, 5), weights)
    assert found[0].isnan().all()
    assert found[1:].isfinite().all()


@dataclass(frozen=True)
class Most:
    """Equal to any other of its name."""

    name: str
    count: int = field(compare=False)

    def solve(self, theta: Tensor) -> Tensor:
        return st.topk(theta, self.count)

    __call__ = solve


def test_solvers_that_are_equal_are_not_one() -> None:
    theta = torch.randn(3, 5)
    several = [Most("most", count) for count in (1, 2)]
    for solvers in (several, [each.solve for each in several]):
        counts = [st.solve(solver, theta, "identity").sum(-1).tolist() for solver in solvers]
        assert counts == [[1] * 3, [2] * 3]


def test_a_graph_holds_the_solver_of_every_call() -> None:
    """As a loss of many problems has one function for each."""
    theta, grad = torch.randn(100, 5, requires_grad=True), torch.randn(5)
    solvers = (lambda t, sign=sign: pair(sign * t) for sign in (1, -1) * 50)
    rows = [st.solve(next(solvers), row, "blackbox", lam=9.0) for row in theta]
    (found,) = torch.autograd.grad(sum(row @ grad for row in rows), theta)
    due = pulled(lambda t, g: (st.solve(pair, t, "blackbox", lam=9.0) @ g).sum(), theta, grad)
    assert torch.equal(found[::2], due[::2])
