"""Ranks: hard ones, and the gradient of the projection onto the permutahedron."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.optimize import isotonic_regression, minimize
from scipy.stats import rankdata, spearmanr
from torch import Tensor

import straightthrough as st
from straightthrough.core import kernels
from straightthrough.core.errors import FLOATING
from straightthrough.ops.permutation import reference

NAN, INFINITY = math.nan, math.inf
DTYPES = pytest.mark.parametrize("dtype", FLOATING)
DIRECTIONS = pytest.mark.parametrize("descending", [False, True])
SIZES = [1, 2, 3, 5, 8, 31, 200]


def projection(scores: Tensor, eps: float) -> Tensor:
    """The soft rank of one row, by scipy's isotonic regression (Blondel et al., proposition 3)."""
    order = scores.argsort()
    u = scores[order] / eps
    w = torch.arange(1, len(u) + 1, dtype=u.dtype)
    fit = torch.tensor(isotonic_regression((u - w).numpy()).x.copy())
    return torch.empty_like(u).scatter(0, order, u - fit)


def pulled(scores: Tensor, grad: Tensor, **options: object) -> Tensor:
    scores = scores.clone().requires_grad_()
    return torch.autograd.grad(st.rank(scores, **options), scores, grad)[0]


@DTYPES
def test_by_hand(dtype: torch.dtype) -> None:
    scores = torch.tensor([0.3, -1.0, 2.0, 0.3], dtype=dtype)
    assert st.rank(scores).tolist() == [2, 1, 4, 3]  # of two equal ones the first comes first
    assert st.rank(scores, descending=True).tolist() == [2, 4, 1, 3]
    assert st.rank(scores).dtype == dtype


def test_the_gradient_by_hand() -> None:
    """Mean gap 1, so eps is 2 and u = (0, 1/2, 3): u - w falls to the second, and then rises."""
    scores, grad = torch.tensor([0.0, 1.0, 6.0]), torch.tensor([1.0, 4.0, 7.0])
    eps = 2 * 6 / 2
    u = scores / eps  # (0, 1/6, 1): all are nearer to each other than 1
    assert (u.diff() < 1).all()
    assert pulled(scores, grad).tolist() == pytest.approx([-3 / eps, 0, 3 / eps])
    # Of mean gap 3 and strength 1/2: eps = 3/2, u = (0, 2/3, 4), and the last stands alone.
    found = pulled(scores, grad, strength=0.5).tolist()
    assert found == pytest.approx([-1.5 / 1.5, 1.5 / 1.5, 0])


@DTYPES
@DIRECTIONS
def test_ranks_are_scipys_ordinal_ones(dtype: torch.dtype, descending: bool) -> None:
    scores = torch.randint(-3, 4, (100, 7)).to(dtype)
    due = rankdata((-scores if descending else scores).double().numpy(), "ordinal", axis=-1)
    assert torch.equal(st.rank(scores, descending=descending).double(), torch.from_numpy(due) * 1.0)


@pytest.mark.parametrize("size", SIZES)
def test_the_fit_is_scipys(size: int) -> None:
    for y in (torch.randn(4, size).double() * 5, torch.randint(-2, 3, (4, size)).double()):
        found = reference.non_increasing(y)
        for row, fit in zip(y, found, strict=True):
            due = isotonic_regression(row.numpy(), increasing=False).x
            torch.testing.assert_close(fit, torch.tensor(due.copy()), rtol=0, atol=1e-12)


def test_the_soft_rank_is_the_nearest_point_of_the_hull_of_all_orders() -> None:
    """By minimizing over weights of the 24 orders: what this file takes for the projection is."""
    orders = torch.tensor([*itertools.permutations(range(1, 5))], dtype=torch.float64)
    u = torch.tensor([0.2, 1.1, 0.4, 2.5], dtype=torch.float64)

    def distance(weights):
        return float((torch.tensor(weights) @ orders - u).square().sum())

    sums = {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    start, bounds = [1 / 24] * 24, [(0, 1)] * 24
    found = minimize(distance, start, bounds=bounds, constraints=sums, tol=1e-14)
    nearest = torch.tensor(found.x) @ orders
    torch.testing.assert_close(nearest, projection(u, 1.0), rtol=0, atol=1e-4)


@DIRECTIONS
@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("strength", [0.5, 2.0, 7.0])
def test_the_gradient_is_the_slope_of_the_projection(
    size: int, strength: float, descending: bool
) -> None:
    """By differences, eps held; with kernels and without."""
    scores, grad = torch.randn(size).double(), torch.randn(size).double()
    eps = float(strength * (scores.max() - scores.min()) / (size - 1))
    step, sign = 1e-6, -1 if descending else 1
    due = [
        (projection(scores + step * e, eps) - projection(scores - step * e, eps)) @ grad
        for e in torch.eye(size, dtype=torch.float64)
    ]
    due = sign * torch.stack(due) / (2 * step)
    options = {"strength": strength, "descending": descending}
    for found in (pulled(scores, grad, **options), by_reference(scores, grad, **options)):
        torch.testing.assert_close(found, due, rtol=1e-5, atol=1e-5)


def by_reference(scores: Tensor, grad: Tensor, **options: object) -> Tensor:
    with kernels.disabled():
        return pulled(scores, grad, **options)


def test_an_absolute_strength_is_torchsorts() -> None:
    """Its published formula, `u - v` with `u = s / regularization_strength`."""
    scores, grad = torch.randn(50).double(), torch.randn(50).double()
    eps = 0.3
    scale = float((scores.max() - scores.min()) / 49)
    leaf = scores.clone().requires_grad_()
    order = scores.argsort()
    u = leaf[order] / eps
    fit = isotonic_regression((u.detach() - torch.arange(1, 51)).numpy())
    starts = torch.tensor(fit.blocks.copy()).long()
    block = torch.bucketize(torch.arange(50), starts[1:], right=True)
    mean = torch.zeros(len(starts) - 1).double().index_add(0, block, u) / starts.diff()
    soft = torch.empty(50).double().scatter(0, order, u - mean[block])
    due = torch.autograd.grad(soft, leaf, grad)[0]
    torch.testing.assert_close(pulled(scores, grad, strength=eps / scale), due)


def test_scores_of_any_scale_have_a_gradient() -> None:
    scores, grad = torch.randn(20).double(), torch.randn(20).double()
    due = pulled(scores, grad)
    assert due.any()
    for scale in (1e-300, 1e-9, 1e9, 1e290):
        moved = pulled(scale * scores, grad) * scale
        torch.testing.assert_close(moved, due)
        assert torch.equal(st.rank(scale * scores), st.rank(scores))


@pytest.mark.parametrize("size", [2, 3, 17, 1000])
def test_above_1_some_neighbours_always_share_a_block(size: int) -> None:
    for scores in (torch.arange(float(size)), torch.randn(size), torch.rand(size) ** 9):
        assert pulled(scores, torch.randn(size), strength=1.01).any()


@DIRECTIONS
def test_equal_scores_share_a_block_whatever_rounding_does(descending: bool) -> None:
    """Evenly spaced at strength 1, where all gaps are exactly as wide as a block's."""
    for step in (1.0, 0.1, 1 / 3):
        scores, grad = step * torch.arange(9.0).double(), torch.randn(9).double()
        due = (grad - grad.mean()) / step * (-1 if descending else 1)
        for pull in (pulled, by_reference):
            torch.testing.assert_close(pull(scores, grad, strength=1, descending=descending), due)
    found = pulled(torch.zeros(3), torch.tensor([1.0, 2.0, 6.0]), strength=4.0)
    assert found.tolist() == [-0.5, -0.25, 0.75]  # eps is the strength where there is no range


def test_masked_scores_are_as_if_they_were_not_there() -> None:
    scores, grad = torch.randn(6, 9), torch.randn(6, 9)
    mask = torch.rand(6, 9) < 0.7
    mask[:, 0] = True
    for descending in (False, True):
        y = st.rank(scores, mask=mask, descending=descending)
        found = pulled(scores, grad, mask=mask, descending=descending)
        for row in range(6):
            kept = mask[row]
            due = st.rank(scores[row, kept], descending=descending)
            assert torch.equal(y[row, kept], due)
            short = pulled(scores[row, kept], grad[row, kept], descending=descending)
            torch.testing.assert_close(found[row, kept], short)
        assert not y[~mask].any()
        assert not found[~mask].any()


def test_edges() -> None:
    scores = torch.tensor([[1.0, NAN, 2.0], [1.0, INFINITY, 2.0], [-INFINITY, 3.0, 2.0]])
    assert st.rank(scores)[0].isnan().all()
    assert st.rank(scores)[1:].tolist() == [[1, 3, 2], [0, 2, 1]]
    grad = pulled(scores, torch.ones(3, 3).cumsum(-1))
    assert grad[0].isnan().all()
    assert grad[1].tolist() == [0, 0, 0]
    assert grad[2].tolist() == [0, -0.25, 0.25]  # eps 2, the mean of (2, 3) taken away
    assert st.rank(torch.full((3,), -INFINITY)).isnan().all()
    assert st.rank(torch.zeros(0, 3)).shape == (0, 3)
    with st.strict(), pytest.raises(st.ArgumentError, match=r"rank: row \(0,\)"):
        st.rank(scores)


def test_wrong_arguments() -> None:
    with pytest.raises(st.ArgumentError, match="strength must be above 0, got 0"):
        st.rank(torch.zeros(3), strength=0)
    with pytest.raises(st.ArgumentError, match="descending must be True or False, got 1"):
        st.rank(torch.zeros(3), descending=1)
    assert st.rank(torch.zeros(65504).half())[-1] == 65504
    with pytest.raises(st.DtypeError, match="at most 65504, got 65505 scores"):
        st.rank(torch.zeros(65505).half())


def test_spearmans_rho_climbs_by_its_gradient() -> None:
    """A linear model whose ranks are those of the target after training, by scipy's rho."""
    torch.manual_seed(0)
    x, weight = torch.randn(64, 5), torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])
    target = (x @ weight).exp()
    model = torch.nn.Linear(5, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    due = st.rank(target)
    for _ in range(100):
        ranks = st.rank(model(x).squeeze(-1))
        loss = (ranks - due).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert spearmanr(model(x).detach().squeeze(-1), target).statistic > 0.99
