"""Permutations and what they reorder: valid whatever the ties, and SoftSort's gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough.core import noise
from straightthrough.core.errors import FLOATING

NAN, INFINITY = math.nan, math.inf
DTYPES = pytest.mark.parametrize("dtype", FLOATING)
DIRECTIONS = pytest.mark.parametrize("descending", [False, True])


def soft_sort(scores: Tensor, tau: float, descending: bool) -> Tensor:
    """Prillo and Eisenschlos' three lines."""
    ordered = scores.sort(-1, descending=descending).values
    return torch.softmax(-(ordered.unsqueeze(-1) - scores.unsqueeze(-2)).abs() / tau, -1)


@DTYPES
def test_by_hand(dtype: torch.dtype) -> None:
    scores = torch.tensor([1.0, 3.0, 3.0], dtype=dtype)
    assert st.permutation(scores).tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    rising = st.permutation(scores, descending=False)
    assert rising.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert rising.dtype == dtype


@DTYPES
@DIRECTIONS
def test_it_sorts_and_is_a_permutation_whatever_the_ties(
    dtype: torch.dtype, descending: bool
) -> None:
    scores = torch.randint(-2, 3, (50, 8)).to(dtype)
    p = st.permutation(scores, descending=descending)
    assert (p.sum(-1) == 1).all()
    assert (p.sum(-2) == 1).all()
    due = torch.sort(scores, dim=-1, descending=descending, stable=True)
    assert torch.equal((p @ scores.unsqueeze(-1)).squeeze(-1), due.values)
    assert torch.equal(p.argmax(-1), due.indices)


@DIRECTIONS
@pytest.mark.parametrize("tau", [0.3, 1.0, 4.0])
def test_the_gradient_is_that_of_soft_sort(tau: float, descending: bool) -> None:
    scores, grad = torch.randn(5, 7).double().requires_grad_(), torch.randn(5, 7, 7).double()
    found, due = (
        torch.autograd.grad(p, scores, grad)[0]
        for p in (
            st.permutation(scores, tau=tau, descending=descending),
            soft_sort(scores, tau, descending),
        )
    )
    torch.testing.assert_close(found, due)


@DIRECTIONS
@pytest.mark.parametrize("at_once", [1, 40, 10**9])
def test_reorder_is_the_product_with_the_matrix(
    at_once: int, descending: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value, gradients and tangent, however many rows of the matrix there are at once."""
    scores, values = torch.randn(3, 7).double(), torch.randn(3, 7, 2).double()
    options = {"tau": 0.7, "descending": descending}

    def product(scores: Tensor, values: Tensor) -> Tensor:
        return st.permutation(scores, **options) @ values

    monkeypatch.setitem(noise.BLOCK, "cpu", at_once)
    ours = torch.func.vjp(lambda *x: st.reorder(*x, **options), scores, values)
    theirs = torch.func.vjp(product, scores, values)
    assert torch.equal(ours[0], theirs[0])
    grad = torch.randn(3, 7, 2).double()
    torch.testing.assert_close(ours[1](grad), theirs[1](grad))
    tangents = torch.randn(3, 7).double(), torch.randn(3, 7, 2).double()
    moved = [
        torch.func.jvp(f, (scores, values), tangents)[1]
        for f in (lambda *x: st.reorder(*x, **options), product)
    ]
    torch.testing.assert_close(*moved)


def test_reorder_never_has_the_matrix() -> None:
    """The largest tensor of both passes, of 2,000 entries, is far smaller than 2,000 x 2,000."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            y = function(*args, **(kwargs or {}))
            if isinstance(y, Tensor):
                largest[0] = max(largest[0], y.numel())
            return y

    scores, values = torch.randn(2000, requires_grad=True), torch.randn(2000, 3)
    with Watch():
        torch.autograd.grad(st.reorder(scores, values).square().sum(), scores)
    assert 2000 * 3 <= largest[0] <= 2**19


def test_infinities_are_sorted_and_get_no_gradient() -> None:
    scores = torch.tensor([0.5, INFINITY, 0.2, -INFINITY, INFINITY], requires_grad=True)
    p = st.permutation(scores)
    assert p.argmax(-1).tolist() == [1, 4, 0, 2, 3]
    grad = torch.autograd.grad(p, scores, torch.randn(5, 5))[0]
    assert grad.isfinite().all()
    assert grad[[1, 3, 4]].tolist() == [0, 0, 0]
    assert grad[[0, 2]].all()


def test_rows_with_nan() -> None:
    scores = torch.tensor([[1.0, NAN], [1.0, 2.0]], requires_grad=True)
    values = torch.ones(2, 2, 1, requires_grad=True)
    assert st.permutation(scores)[0].isnan().all()
    y = st.reorder(scores, values)
    assert y[0].isnan().all()
    to_scores, to_values = torch.autograd.grad(y[1].sum() + y[0].sum(), (scores, values))
    assert to_values.flatten().tolist() == [0, 0, 1, 1]
    assert to_scores[1].isfinite().all()
    for call in (st.permutation, lambda s: st.reorder(s, values)):
        with st.strict(), pytest.raises(st.ArgumentError, match=r"row \(0,\) .* a NaN; mend"):
            call(scores)


def test_wrong_arguments() -> None:
    scores = torch.zeros(2, 3)
    with pytest.raises(st.ShapeError, match=r"got \(2, 3\); use values.unsqueeze"):
        st.reorder(scores, torch.zeros(2, 3))
    with pytest.raises(st.ShapeError, match=r"got \(3, 2, 1\)"):
        st.reorder(scores, torch.zeros(3, 2, 1))
    with pytest.raises(st.DtypeError, match=r"values must have the dtype torch\.float32"):
        st.reorder(scores, torch.zeros(2, 3, 1).double())
    for call in (st.permutation, lambda s, **o: st.reorder(s, torch.zeros(2, 3, 1), **o)):
        with pytest.raises(st.ArgumentError, match="tau must be above 0"):
            call(scores, tau=0)
        with pytest.raises(st.ArgumentError, match="descending must be True or False"):
            call(scores, descending=None)
