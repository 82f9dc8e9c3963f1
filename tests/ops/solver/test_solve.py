"""Solvers: what they may be, and gradients against the published forms and closed ones."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import straightthrough as st
from straightthrough.core.gumbels import gumbels
from straightthrough.core.noise import Noise
from straightthrough.estimators import IMLE, Blackbox, Perturbed, SolverIdentity
from straightthrough.ops.solver.blackbox import key_of

NAN = math.nan
VALUES = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0])
SUBSETS = torch.tensor([*itertools.product([0.0, 1.0], repeat=5)], dtype=torch.float64)
KNAPSACKS = SUBSETS[(SUBSETS @ torch.tensor([2.0, 3, 1, 2, 3]).double()) <= 5]


def knapsack(theta: Tensor) -> Tensor:
    """Of five things of the weights 2, 3, 1, 2, 3 the best that weigh at most 5."""
    return KNAPSACKS[(theta.double() @ KNAPSACKS.T).argmax(-1)].to(theta.dtype)


def matching(theta: Tensor) -> np.ndarray:
    """In numpy, of integers."""
    squares = theta.numpy()
    found = np.zeros(squares.shape, dtype=np.int64)
    for square, hot in zip(squares, found, strict=True):
        hot[linear_sum_assignment(square, maximize=True)] = 1
    return found


def largest(theta: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(theta.argmax(-1), theta.shape[-1])


def pulled(theta: Tensor, grad: Tensor, solver=knapsack, rule="imle", **options) -> Tensor:
    leaf = theta.clone().requires_grad_()
    return torch.autograd.grad(st.solve(solver, leaf, rule, **options), leaf, grad)[0]


THETA, GRAD = torch.randn(6, 5).double(), torch.randn(6, 5).double()


def test_the_value_is_the_solvers() -> None:
    for rule in ("identity", "blackbox"):
        assert torch.equal(st.solve(knapsack, THETA, rule), knapsack(THETA))
    noise = gumbels(THETA, 0, Noise(torch.tensor(3)))
    for rule in (IMLE(sigma=0.5), Perturbed(sigma=0.5)):
        y = st.solve(knapsack, THETA, rule, seed=3)
        assert torch.equal(y, knapsack(THETA + 0.5 * noise))


# ---- the published forms: of costs, which are minimised ----


def cheapest(costs: Tensor) -> Tensor:
    return knapsack(-costs)


def test_identity_is_the_negative_identity_of_costs_projected() -> None:
    assert torch.equal(pulled(THETA, GRAD, rule=SolverIdentity("none")), GRAD)
    centred = GRAD - GRAD.mean(-1, keepdim=True)
    torch.testing.assert_close(pulled(THETA, GRAD, rule="identity"), centred)
    leaf = THETA.clone().requires_grad_()
    unit = (leaf - leaf.mean(-1, keepdim=True)) / leaf.std(-1, correction=0, keepdim=True)
    due = torch.autograd.grad(unit, leaf, GRAD)[0]
    torch.testing.assert_close(pulled(THETA, GRAD, rule="identity", projection="std"), due)
    flat = pulled(torch.ones(1, 5).double(), GRAD[:1], rule="identity", projection="std")
    torch.testing.assert_close(flat, centred[:1])


@pytest.mark.parametrize("projection", ["mean", "std"])
def test_identity_leaves_out_what_is_ruled_out(projection: str) -> None:
    theta = torch.cat([THETA, torch.full_like(THETA[:, :1], -torch.inf)], -1)
    grad = torch.cat([GRAD, torch.ones_like(GRAD[:, :1])], -1)
    found, due = (
        pulled(*given, largest, "identity", projection=projection)
        for given in ((theta, grad), (THETA, GRAD))
    )
    torch.testing.assert_close(found[:, :-1], due)
    assert not found[:, -1].any()


def test_identity_of_the_scale_has_a_second_derivative_where_all_are_equal() -> None:
    theta = torch.ones(1, 5, dtype=torch.float64, requires_grad=True)
    y = st.solve(knapsack, theta, "identity", projection="std")
    (slope,) = torch.autograd.grad(y, theta, GRAD[:1], create_graph=True)
    assert not torch.autograd.grad(slope[0, 0], theta)[0].any()


@pytest.mark.parametrize("lam", [0.3, 1.0, 10.0])
def test_blackbox_is_the_published_form_of_costs(lam: float) -> None:
    """`-(1 / lam) (y(w) - y(w + lam g))` to costs w, and so with another sign to theta = -w."""
    w = -THETA
    to_costs = -(cheapest(w) - cheapest(w + lam * GRAD)) / lam
    torch.testing.assert_close(pulled(THETA, GRAD, rule="blackbox", lam=lam), -to_costs)


@pytest.mark.parametrize("samples", [1, 3])
def test_imle_is_the_published_form_of_costs(samples: int) -> None:
    """`mean(y(w + noise) - y(w + lam g + noise)) / lam`, the same noise in both."""
    lam, sigma, w = 2.0, 0.7, -THETA
    noise = [sigma * gumbels(THETA, m, Noise(torch.tensor(9))) for m in range(samples)]
    pairs = [cheapest(w - e) - cheapest(w - e + lam * GRAD) for e in noise]
    due = torch.stack(pairs).mean(0) / lam
    found = pulled(THETA, GRAD, rule=IMLE(lam, samples, sigma), seed=9)
    torch.testing.assert_close(found, due)


def test_adaptive_imle_steps_by_a_share_of_the_length_a_row() -> None:
    share = THETA.norm(dim=-1, keepdim=True) / GRAD.norm(dim=-1, keepdim=True)
    found = pulled(THETA, GRAD, rule=IMLE(0.4, relative=True), seed=2)
    for row in range(6):
        seed = st.Seed(2, offset=row)
        rule = IMLE(0.4 * float(share[row]))
        alone = pulled(THETA[row], GRAD[row], rule=rule, seed=seed)
        torch.testing.assert_close(found[row], alone)
    nothing = pulled(THETA, torch.zeros_like(GRAD), rule=IMLE(0.4, relative=True))
    assert not nothing.any()


def test_adaptive_imle_has_the_length_of_what_is_not_ruled_out() -> None:
    theta = torch.cat([THETA, torch.full_like(THETA[:, :1], -torch.inf)], -1)
    grad = torch.cat([GRAD, torch.ones_like(GRAD[:, :1])], -1)
    rule = IMLE(0.4, samples=50, relative=True)
    found = pulled(theta, grad, largest, rule, seed=2)
    torch.testing.assert_close(found[:, :-1], pulled(THETA, GRAD, largest, rule, seed=2))
    assert found[:, :-1].any()
    assert not found[:, -1].any()


@pytest.mark.parametrize("baseline", [False, True])
def test_perturbed_is_the_published_form(baseline: bool) -> None:
    """`mean <y, g> noise / sigma` of normal noise, y the solutions of the perturbed problems."""
    rule = Perturbed(0.5, 4, "normal", baseline)
    uniforms = [Noise(torch.tensor(5)).classes(6, 5, torch.float64, m) for m in range(1, 5)]
    noise = torch.stack([torch.special.ndtri(u) for u in uniforms])
    solutions = knapsack(THETA + 0.5 * noise) - (knapsack(THETA) if baseline else 0)
    due = torch.einsum("mnd,mn->nd", noise, (solutions * GRAD).sum(-1)) / (4 * 0.5)
    torch.testing.assert_close(pulled(THETA, GRAD, rule=rule, seed=5), due)


@pytest.mark.parametrize("law", ["gumbel", "normal"])
def test_perturbed_has_no_gradient_to_what_is_ruled_out(law: str) -> None:
    """Noise that is added to -infinity is none, and so changes nothing."""
    theta = torch.cat([THETA, torch.full_like(THETA[:, :1], -torch.inf)], -1)
    found = pulled(theta, torch.ones_like(theta), largest, "perturbed", law=law, baseline=False)
    assert not found[:, -1].any()
    assert found[:, :-1].all()


# ---- the objective that is smoothed ----


@pytest.mark.parametrize(
    ("theta", "grad", "lam"),
    [([1.7e38], [1.5], 50.0), ([1e19, 0.0], [1.5, 0.0], 1e30), ([1e-45], [0.5], 0.08)],
)
def test_adaptive_imle_is_finite_at_the_ends_of_the_range(theta, grad, lam) -> None:
    """A step beyond the largest number, or below the least, is that number."""

    def of_numbers(theta: Tensor) -> Tensor:
        return largest(theta).where(theta.isfinite().all(-1, keepdim=True), math.nan)

    rule = IMLE(lam, relative=True)
    found = pulled(torch.tensor([theta]), torch.tensor([grad]), of_numbers, rule)
    assert found.isfinite().all()


@pytest.mark.parametrize("law", ["gumbel", "normal"])
def test_perturbed_is_the_gradient_of_the_smoothed_objective(law: str) -> None:
    """Two numbers, the larger of which is taken, with probabilities in closed form."""
    sigma, rows = 0.8, 40_000
    theta, grad = torch.tensor([0.3, -0.4]).double(), torch.tensor([2.0, -1.0]).double()

    def objective(theta: Tensor) -> Tensor:
        gap = (theta[0] - theta[1]) / sigma
        share = torch.sigmoid(gap) if law == "gumbel" else torch.special.ndtr(gap / math.sqrt(2))
        return grad[0] * share + grad[1] * (1 - share)

    step = torch.eye(2).double() * 1e-6
    due = torch.stack([objective(theta + e) - objective(theta - e) for e in step]) / 2e-6
    for baseline in (True, False):
        rule = Perturbed(sigma, 1, law, baseline)
        found = pulled(theta.expand(rows, 2), grad.expand(rows, 2), largest, rule, seed=1)
        error = found.std(0) / math.sqrt(rows)
        assert ((found.mean(0) - due).abs() < 5 * error).all()


@pytest.mark.parametrize(("sigma", "helps"), [(0.2, True), (0.8, False)])
def test_the_baseline_helps_where_the_solution_seldom_changes(sigma: float, helps: bool) -> None:
    theta, grad = torch.tensor([[0.3, -0.4]]).double(), torch.tensor([[2.0, -1.0]]).double()
    many = [x.expand(20_000, 2) for x in (theta, grad)]
    found = [pulled(*many, largest, Perturbed(sigma, 1, baseline=b), seed=1) for b in (True, False)]
    assert (found[0].var(0).sum() < found[1].var(0).sum()) == helps


def test_the_gradient_of_a_knapsack_is_that_of_the_smoothed_objective() -> None:
    """By differences of its mean, under the same noise on both sides."""
    rows, sigma, step = 200_000, 1.0, 0.2
    theta, grad = THETA[0], GRAD[0]
    noise = torch.randn(rows, 5, generator=torch.Generator().manual_seed(0)).double()

    def objective(theta: Tensor) -> Tensor:
        return knapsack(theta + sigma * noise) @ grad

    sides = [objective(theta + e) - objective(theta - e) for e in step * torch.eye(5).double()]
    differences = torch.stack(sides) / (2 * step)
    rule = Perturbed(sigma, 1, "normal")
    found = pulled(theta.expand(rows, 5), grad.expand(rows, 5), rule=rule, seed=4)
    error = ((found.var(0) + differences.var(1)) / rows).sqrt()
    # A difference of that width is off by a part of the third derivative.
    assert ((found.mean(0) - differences.mean(1)).abs() < 5 * error + 0.02).all()


# ---- what solvers may be, and what they may do ----


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_numpy_integers_bools_and_lists(dtype: torch.dtype) -> None:
    theta = THETA.to(dtype)
    due = st.solve(knapsack, theta, "identity")
    assert due.dtype == dtype
    for solver in (
        lambda t: knapsack(t).numpy(),
        lambda t: knapsack(t).long(),
        lambda t: knapsack(t).bool().numpy(),
        lambda t: knapsack(t).tolist(),
        Methods().solve,
        Methods(),
    ):
        assert torch.equal(st.solve(solver, theta, "identity"), due)
        grad = GRAD.to(dtype)
        found = pulled(theta, grad, solver, "blackbox")
        assert torch.equal(found, pulled(theta, grad, rule="blackbox"))
        assert found.dtype == dtype


class Methods:
    def solve(self, theta: Tensor) -> Tensor:
        return knapsack(theta)

    __call__ = solve


def test_a_problem_may_have_several_dimensions_and_any_batch() -> None:
    theta, grad = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 3, 4, 4).double()
    y = st.solve(matching, theta, "identity", event_dim=2)
    assert torch.equal(y, st.assignment(theta))
    found = pulled(theta, grad, matching, "identity", event_dim=2)
    torch.testing.assert_close(found, grad - grad.mean((-1, -2), keepdim=True))
    one = pulled(theta[1, 2], grad[1, 2], matching, "blackbox", event_dim=2)
    assert torch.equal(pulled(theta, grad, matching, "blackbox", event_dim=2)[1, 2], one)
    assert st.solve(matching, theta[:0], event_dim=2).shape == (0, 3, 4, 4)


def test_the_solver_is_given_what_it_may_write_to() -> None:
    def writes(theta: Tensor) -> Tensor:
        return theta.zero_()

    theta = THETA.clone().requires_grad_()
    assert not st.solve(writes, theta, "identity").any()
    assert torch.equal(theta, THETA)


def test_rows_without_a_solution() -> None:
    def positive(theta: Tensor) -> Tensor:
        return largest(theta).double().masked_fill((theta < 0).all(-1, keepdim=True), NAN)

    theta = torch.tensor([[-1.0, -2.0], [1.0, 2.0], [NAN, 1.0], [math.inf, 1.0]])
    y = st.solve(positive, theta, "identity")
    assert y[[0, 2, 3]].isnan().all()
    assert y[1].tolist() == [0, 1]
    found = pulled(theta, torch.ones(4, 2), positive, "blackbox")
    assert found[[0, 2, 3]].isnan().all()
    assert found[1].isfinite().all()
    with st.strict(), pytest.raises(st.ArgumentError, match=r"solve: row \(0,\).*returned NaN"):
        st.solve(positive, theta, "identity")


def test_a_solver_that_raises_is_named_with_the_row() -> None:
    def picky(theta: Tensor) -> Tensor:
        if (theta > 1).any():
            raise ValueError("no path")
        return largest(theta)

    theta = torch.tensor([[0.0, 0.5], [0.0, 2.0], [3.0, 0.0]])
    says = r"solver picky raised ValueError at row 1 of 3: no path; .* may return NaN"
    with pytest.raises(st.StraightThroughError, match=says):
        st.solve(picky, theta, "identity")
    leaf = theta.clamp(max=1).requires_grad_()
    y = st.solve(picky, leaf, "blackbox", lam=10.0)
    with pytest.raises(st.StraightThroughError, match="picky raised ValueError"):
        y.backward(-torch.ones(3, 2))


@pytest.mark.parametrize(
    ("solver", "kind", "says"),
    [
        (lambda t: t.argmax(-1), st.ShapeError, r"\(6, 5\) of its theta, got \(6,\); .*one_hot"),
        (lambda t: None, st.StraightThroughError, "an array of the solutions, got NoneType"),
        (lambda t: t + 1j, st.StraightThroughError, "of numbers, got .* of torch.complex128"),
        (lambda t: t.to_sparse(), st.StraightThroughError, "dense .* got torch.sparse_coo of"),
        (3, st.ArgumentError, "solver must be a function of theta .* got int"),
    ],
)
def test_what_is_no_solver(solver, kind, says) -> None:
    with pytest.raises(kind, match=says):
        st.solve(solver, THETA)


def test_wrong_arguments() -> None:
    for event_dim in (0, 1.0, True):
        with pytest.raises(st.ArgumentError, match="event_dim must be an int of at least 1"):
            st.solve(knapsack, THETA, event_dim=event_dim)
    with pytest.raises(st.ShapeError, match=r"must have an entry at least, got shape \(3, 0\)"):
        st.solve(torch.sign, torch.zeros(3, 0), "imle")
    with pytest.raises(st.ShapeError, match=r"the 3 dimensions of a problem .* \(6, 5\)"):
        st.solve(knapsack, THETA, event_dim=3)
    for wrong in ({"lam": 0}, {"sigma": -1.0}, {"samples": 0}):
        with pytest.raises(st.ArgumentError, match=next(iter(wrong))):
            st.solve(knapsack, THETA, "imle", **wrong)
    with pytest.raises(st.ArgumentError, match="law must be one of gumbel, normal"):
        Perturbed(law="laplace")
    with pytest.raises(st.ArgumentError, match="projection must be one of mean, std, none"):
        SolverIdentity("sphere")
    with pytest.raises(st.ArgumentError, match="known: identity, blackbox, imle, perturbed"):
        st.solve(knapsack, THETA, "reinmax")


def test_compiled_and_mapped_a_numpy_solver_is_called_whole() -> None:
    def operator(theta: Tensor) -> Tensor:
        return st.solve(matching, theta, Blackbox(2.0), event_dim=2)

    theta, grad = torch.randn(3, 4, 4), torch.randn(3, 4, 4)
    due = pulled(theta, grad, matching, Blackbox(2.0), event_dim=2)
    compiled = torch.compile(operator, fullgraph=True, backend="aot_eager")
    leaf = theta.clone().requires_grad_()
    assert torch.equal(torch.autograd.grad(compiled(leaf), leaf, grad)[0], due)
    gradient = torch.func.grad(lambda theta, grad: (operator(theta) * grad).sum())
    assert torch.equal(torch.func.vmap(gradient)(theta, grad), due)


ELSEWHERE = """
import sys, torch
import straightthrough as st
solvers = [lambda theta: 0 * theta for _ in range(int(sys.argv[2]))]
for solver in solvers:
    st.solve(solver, torch.ones(2))
try:
    torch.export.load(sys.argv[1]).module()(torch.ones(3, 4))
except st.StraightThroughError as error:
    print(error)
"""


def test_an_exported_graph_calls_no_solver_of_another_process(tmp_path: Path) -> None:
    """There a solver has its number too, whichever that is."""

    class Solved(torch.nn.Module):
        def forward(self, theta: Tensor) -> Tensor:
            return st.solve(largest, theta)

    theta, file = torch.randn(3, 4), tmp_path / "solved.pt2"
    program = torch.export.export(Solved(), (theta,))
    assert torch.equal(program.module()(theta), largest(theta).float())
    torch.export.save(program, file)
    command = [sys.executable, "-c", ELSEWHERE, str(file), str(int(key_of(largest)) + 1)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "a graph that was exported in another process has none" in said
