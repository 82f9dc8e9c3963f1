"""Top-k: exactly k ones, ties, masks, NaN, and the gradient of the relaxation."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough.core.errors import FLOATING
from straightthrough.relaxations import Softmax

NAN, INFINITY = math.nan, math.inf
DTYPES = pytest.mark.parametrize("dtype", FLOATING)


def largest(scores: list[float], k: int) -> list[float]:
    """By Python's stable sort: the k largest, ties to the lowest index."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
    return [float(i in order) for i in range(len(scores))]


@DTYPES
def test_by_hand(dtype: torch.dtype) -> None:
    scores = torch.tensor([1.0, 3.0, 2.0, 2.0, -1.0], dtype=dtype)
    wanted = {
        1: [0, 1, 0, 0, 0],
        2: [0, 1, 1, 0, 0],  # the tie at 2 goes to the lower index
        3: [0, 1, 1, 1, 0],
        4: [1, 1, 1, 1, 0],
        5: [1, 1, 1, 1, 1],
    }
    for k, value in wanted.items():
        y = st.topk(scores, k)
        assert y.tolist() == value
        assert y.dtype == dtype


@DTYPES
def test_rows_with_many_ties_are_those_of_a_stable_sort(dtype: torch.dtype) -> None:
    scores = torch.randint(-2, 3, (200, 7)).to(dtype)
    for k in range(1, 8):
        y = st.topk(scores, k)
        assert y.tolist() == [largest(row, k) for row in scores.tolist()]
        assert (y.sum(-1) == k).all()


def test_signed_zeros_tie_and_infinities_count() -> None:
    assert st.topk(torch.tensor([-0.0, 0.0, -1.0]), 1).tolist() == [1, 0, 0]
    assert st.topk(torch.tensor([0.0, INFINITY, 5.0, INFINITY]), 3).tolist() == [0, 1, 1, 1]


def test_sum_of_scores_is_the_largest_of_all_subsets() -> None:
    scores = torch.randn(50, 6, dtype=torch.float64)
    for k in range(1, 7):
        chosen = (st.topk(scores, k) * scores).sum(-1)
        sums = [scores[:, list(subset)].sum(-1) for subset in combinations(range(6), k)]
        torch.testing.assert_close(chosen, torch.stack(sums).amax(0))


# The gradient.


def test_gradient_by_hand() -> None:
    """Two of log 3 and two of -log 3 have their threshold at 0, and sigmoids of 3/4 and 1/4."""
    high = math.log(3)
    scores = torch.tensor([high, -high, high, -high], dtype=torch.float64, requires_grad=True)
    y = st.topk(scores, 2)
    assert y.tolist() == [1, 0, 1, 0]
    y.backward(torch.tensor([16.0, 0.0, 0.0, 16.0], dtype=torch.float64))
    assert scores.grad is not None
    # All densities are 3/16: 3/16 (g - 8).
    assert scores.grad.tolist() == pytest.approx([1.5, -1.5, -1.5, 1.5], rel=1e-12)


def test_gradient_of_the_softmax_by_hand() -> None:
    """At tau 2, weights (16, 4, 4) become (4, 2, 2): p = (1/2, 1/4, 1/4), <p, g> = 3."""
    scores = torch.tensor([16.0, 4.0, 4.0], dtype=torch.float64).log().requires_grad_()
    y = st.topk(scores, 2, "softmax", tau=2.0)
    assert y.tolist() == [1, 1, 0]
    y.backward(torch.tensor([1.0, 2.0, 8.0], dtype=torch.float64))
    # k p (g - 3) / tau = 2 (-2/2, -1/4, 5/4) / 2
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([-1.0, -0.25, 1.25], rel=1e-12)


@DTYPES
@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_gradient_of_the_softmax_is_k_times_its_own(dtype: torch.dtype, tau: float) -> None:
    scores = torch.randn(4, 9).to(dtype).requires_grad_()
    grad = torch.randn(4, 9).to(dtype)
    got = torch.autograd.grad(st.topk(scores, 3, "softmax", tau=tau), scores, grad)[0]
    assert got.dtype == dtype
    p = (scores.detach().double() / tau).softmax(-1)
    g = grad.double()
    wanted = 3 * p * (g - (p * g).sum(-1, keepdim=True)) / tau
    torch.testing.assert_close(got.double(), wanted, rtol=torch.finfo(dtype).eps * 8, atol=2e-6)


def test_gradient_where_a_score_is_infinite() -> None:
    scores = torch.tensor([0.0, INFINITY, 5.0], requires_grad=True)
    y = st.topk(scores, 2)
    assert y.tolist() == [0, 1, 1]
    assert torch.autograd.grad(y, scores, torch.ones(3))[0].tolist() == [0, 0, 0]


def test_gradient_in_half_precision_is_rounded_once() -> None:
    """p = (1/2, 1/2): k (g_1 - g_2) / 4, of which neither the difference nor the k-th overflows."""
    scores = torch.zeros(2, dtype=torch.float16, requires_grad=True)
    grad = torch.tensor([4097.0, -4095.0]).half() * 8  # 32784 becomes 32768
    got = torch.autograd.grad(st.topk(scores, 2, "softmax", tau=0.5), scores, grad)[0]
    assert got.tolist() == [65504, -65504]  # (32768 + 32752) 2 / 4 / tau = 65520
    third = torch.autograd.grad(st.topk(scores, 2, "softmax", tau=3.0), scores, grad / 8)[0]
    assert third[0] == torch.tensor(8190 / 6).half()  # 2 * half(8190 / 12) would be 1364.97


def test_top_1_is_argmax() -> None:
    scores = torch.randn(30, 5, requires_grad=True)
    grad = torch.randn(30, 5)
    ours, theirs = st.topk(scores, 1, "softmax", tau=0.7), st.argmax(scores, tau=0.7)
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, scores, grad)[0], torch.autograd.grad(theirs, scores, grad)[0]
    )


def test_relaxation_with_its_own_temperature() -> None:
    scores = torch.randn(5, requires_grad=True)
    grad = torch.randn(5)
    gradients = [
        torch.autograd.grad(y, scores, grad)[0]
        for y in (st.topk(scores, 2, "softmax", tau=0.3), st.topk(scores, 2, Softmax(0.3)))
    ]
    assert torch.equal(*gradients)


# dim, masks, rows without an outcome.


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2])
def test_dim(dim: int) -> None:
    scores = torch.randn(4, 5, 3, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(4, 5, 3, dtype=torch.float64)
    y = st.topk(scores, 2, dim=dim)
    moved: Tensor = scores.detach().movedim(dim, -1).contiguous().requires_grad_()
    wanted = st.topk(moved, 2)
    assert torch.equal(y.movedim(dim, -1), wanted)
    got = torch.autograd.grad(y, scores, grad)[0].movedim(dim, -1)
    torch.testing.assert_close(got, torch.autograd.grad(wanted, moved, grad.movedim(dim, -1))[0])


def test_mask() -> None:
    scores = torch.tensor([5.0, 1.0, 4.0, 0.0], requires_grad=True)
    mask = torch.tensor([False, True, True, True])
    y = st.topk(scores, 2, mask=mask)
    assert y.tolist() == [0, 1, 1, 0]
    gradient = torch.autograd.grad(y, scores, torch.tensor([9.0, 1.0, -1.0, 2.0]))[0]
    assert gradient[0] == 0
    allowed = torch.tensor([1.0, 4.0, 0.0], requires_grad=True)
    y = st.topk(allowed, 2)
    wanted = torch.autograd.grad(y, allowed, torch.tensor([1.0, -1.0, 2.0]))[0]
    assert wanted.abs().min() > 0.01
    torch.testing.assert_close(gradient[1:], wanted)


def test_rows_with_too_few_classes_or_nan_are_nan() -> None:
    low = -INFINITY
    scores = torch.tensor([[1.0, 2.0, 0.0], [NAN, 2.0, 1.0], [1.0, low, low], [low, 0.0, 1.0]])
    y = st.topk(scores, 2)
    assert y[[0, 3]].tolist() == [[1, 1, 0], [0, 1, 1]]
    assert y[1:3].isnan().all()
    assert st.topk(scores[0], 2, mask=torch.tensor([True, False, False])).isnan().all()
    with st.strict():
        st.topk(scores[0], 2)
        with pytest.raises(st.ArgumentError, match=r"topk: row \(1,\) has no valid outcome"):
            st.topk(scores, 2)


@pytest.mark.parametrize("k", [0, 4, -1, True, 1.0, None])
def test_k_outside_the_row(k: object) -> None:
    with pytest.raises(st.ArgumentError, match=r"k must be an int in \[1, 3\]"):
        st.topk(torch.zeros(2, 3), k)  # type: ignore[arg-type]  # that is the test


def test_errors() -> None:
    scores = torch.zeros(2, 3)
    with pytest.raises(st.ArgumentError, match="tau must be above 0"):
        st.topk(scores, 1, tau=0.0)
    with pytest.raises(st.ArgumentError, match="known: softmax, logistic, laplace, midpoint"):
        st.topk(scores, 1, "reinmax")  # type: ignore[arg-type]  # that is the test
    with pytest.raises(st.ShapeError, match="dim"):
        st.topk(scores, 1, dim=2)
    with pytest.raises(st.ShapeError, match=r"0-d tensor; use scores\[None\]"):
        st.topk(torch.tensor(0.0), 1)
    with pytest.raises(st.DtypeError, match=r"scores must be float16.*torch\.int64"):
        st.topk(torch.zeros(2, 3, dtype=torch.int64), 1)
