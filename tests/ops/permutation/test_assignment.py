"""Assignments: the best of all, Sinkhorn's gradient, and what is not allowed."""

from __future__ import annotations

import itertools
import math
import sys

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough.core.errors import FLOATING
from straightthrough.ops.permutation import specification
from straightthrough.ops.permutation.operation import Sinkhorn
from straightthrough.ops.permutation.reference import sinkhorn_gradient

NAN, INFINITY = math.nan, math.inf
DTYPES = pytest.mark.parametrize("dtype", FLOATING)


def kept(y: Tensor, scores: Tensor) -> Tensor:
    return torch.where(y == 1, scores, 0).double().sum((-1, -2))


def test_what_is_taken_of_sums_that_float64_does_not_tell_apart() -> None:
    """Any would do; that of the specification is, so that fuzzing can compare."""
    most, least = torch.finfo(torch.float64).max, torch.finfo(torch.float64).tiny
    scores = torch.tensor(
        [
            [1, 0.5, 1 + 2**-52, 0, 1 + 2**-52],
            [most, -0.5, -0.5, 0, -least],
            [-0.5, -5e-324, -least, 0.5, 0.5],
            [-1 - 2**-52, -0.0, -most, most, -1],
            [least, -most, least, least, -1],
        ],
        dtype=torch.float64,
    )
    assert torch.equal(st.assignment(scores), specification.assignment(scores, 4))


@DTYPES
def test_none_keeps_more(dtype: torch.dtype) -> None:
    scores = torch.randn(40, 5, 5).to(dtype)
    y = st.assignment(scores)
    assert (y.sum(-1) == 1).all()
    assert (y.sum(-2) == 1).all()
    assert y.dtype == dtype
    every = [
        scores.double()[:, range(5), columns].sum(-1)
        for columns in itertools.permutations(range(5))
    ]
    torch.testing.assert_close(kept(y, scores), torch.stack(every).amax(0))


@pytest.mark.parametrize("padding", [-1e30, -1e9, 1e30])
@pytest.mark.parametrize("dim", [-1, -2])
@pytest.mark.parametrize("lines", [[0], [3, 4]])
def test_padding_by_a_constant_takes_no_digits(padding: float, dim: int, lines: list[int]) -> None:
    """Whatever the constant is, each line of it takes one score away."""
    scores = torch.randn(40, 5, 5).index_fill(dim, torch.tensor(lines), 0.0)
    padded = scores.index_fill(dim, torch.tensor(lines), padding)
    best = kept(st.assignment(scores), scores)
    torch.testing.assert_close(kept(st.assignment(padded), scores), best)


def test_of_what_a_mask_rules_out_as_little_as_can_be_is_assigned() -> None:
    scores, forbidden = torch.randn(200, 5, 5), torch.rand(200, 5, 5) < 0.5
    y = st.assignment(scores.masked_fill(forbidden, -1e30))
    every = torch.stack(
        [
            scores.masked_fill(forbidden, -1000.0)[:, range(5), columns].sum(-1)
            for columns in itertools.permutations(range(5))
        ]
    )
    found = torch.where(y == 1, scores.masked_fill(forbidden, -1000.0), 0).sum((-1, -2))
    torch.testing.assert_close(found, every.amax(0), rtol=1e-6, atol=1e-4)


def test_the_greedy_choice_is_not_taken() -> None:
    scores = torch.tensor([[3.0, 2.0], [2.0, 0.0]])
    assert st.assignment(scores).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(("tau", "iterations"), [(1.0, 20), (0.3, 5), (5.0, 1)])
def test_the_gradient_is_that_of_dividing_by_sums(tau: float, iterations: int) -> None:
    scores = torch.randn(3, 4, 4).double().requires_grad_()
    grad = torch.randn(3, 4, 4).double()
    p = (scores / tau).exp()
    for _ in range(iterations):
        p = p / p.sum(-1, keepdim=True)
        p = p / p.sum(-2, keepdim=True)
    due = torch.autograd.grad(p, scores, grad)[0]
    y = st.assignment(scores, tau=tau, iterations=iterations)
    torch.testing.assert_close(torch.autograd.grad(y, scores, grad)[0], due)


@pytest.mark.parametrize(("tau", "iterations"), [(1.0, 20), (0.3, 5), (5.0, 1), (1e-3, 3)])
def test_the_formula_of_the_gradient_is_what_autograd_makes_of_the_value(
    tau: float, iterations: int
) -> None:
    scores, grad = torch.randn(2, 3, 5, 5).double().unbind()
    scores[1, 0, 1:3] = scores[1, 1:4, 4] = -INFINITY
    due = Sinkhorn(tau, iterations).vjp(scores, grad)
    torch.testing.assert_close(sinkhorn_gradient(scores, grad, tau, iterations), due)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_scores_neither_overflow_nor_lose_the_gradient(dtype: torch.dtype) -> None:
    small = torch.randn(4, 4).to(dtype)
    large = (small + 1000).requires_grad_()
    grad = torch.randn(4, 4).to(dtype)
    found = torch.autograd.grad(st.assignment(large), large, grad)[0]
    exact = (large.detach().double() - 1000).requires_grad_()
    due = torch.autograd.grad(st.assignment(exact), exact, grad.double())[0]
    torch.testing.assert_close(found.double(), due, rtol=1e-5, atol=1e-6)
    huge = torch.eye(3).to(dtype) * torch.finfo(dtype).max
    assert torch.equal(st.assignment(huge), torch.eye(3).to(dtype))


@DTYPES
@pytest.mark.parametrize("recorded", [False, True])
def test_columns_of_equal_scores_are_divided_evenly_however_far_they_are(
    dtype: torch.dtype, recorded: bool
) -> None:
    """Rows are (1, 0), then columns (1/2, 1/2): back through these, 4 and 0 become 1 and -1."""
    far = torch.finfo(dtype).max
    scores = torch.tensor([[far, -far]] * 2, dtype=dtype, requires_grad=True)
    grad = torch.tensor([[0.0, 4.0], [0.0, 0.0]], dtype=dtype)
    y = st.assignment(scores, iterations=1)
    found = torch.autograd.grad(y, scores, grad, create_graph=recorded)[0]  # recorded: no kernel
    assert found.tolist() == [[-1, 1], [1, -1]]


def test_what_is_not_allowed_is_not_assigned() -> None:
    scores = torch.zeros(4, 3, 3)
    scores[0, 0, 1:] = -INFINITY
    scores[0, 1, 0] = 9.0  # would take the one column that is left to the first row
    scores[1, :2, :2] = -INFINITY  # two rows, one column
    scores[2, 0, 0], scores[3, 1, 1] = NAN, INFINITY
    y = st.assignment(scores.requires_grad_())
    assert y[0, 0].tolist() == [1, 0, 0]
    assert y[1:].isnan().all()
    grad = torch.autograd.grad(y[0], scores, torch.randn(3, 3))[0][0]
    assert grad.isfinite().all()
    assert grad[0].tolist() == [0, 0, 0]
    with st.strict(), pytest.raises(st.ArgumentError, match=r"row \(1,\) has no valid outcome"):
        st.assignment(scores)


def test_no_batch_and_an_empty_one() -> None:
    assert st.assignment(torch.zeros(0, 3, 3)).shape == (0, 3, 3)
    assert st.assignment(torch.zeros(1, 1)).tolist() == [[1.0]]


def test_wrong_arguments() -> None:
    for shape in [(3,), (2, 3), (4, 0, 0)]:
        with pytest.raises(st.ShapeError, match="scores must be squares"):
            st.assignment(torch.zeros(shape))
    with pytest.raises(st.ArgumentError, match="iterations must be an int of at least 1, got 0"):
        st.assignment(torch.zeros(2, 2), iterations=0)
    with pytest.raises(st.ArgumentError, match="tau must be above 0"):
        st.assignment(torch.zeros(2, 2), tau=-1.0)


def test_without_scipy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(
        st.StraightThroughError, match=r"pip install 'straightthrough\[assignment\]"
    ):
        st.assignment(torch.zeros(2, 2))
