"""Marginals, log-probability, entropy of k of n: against enumeration."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough.core.errors import FLOATING
from subsets import Enumerated

SIZES = [(n, k) for n in range(1, 11) for k in range(1, n + 1)]


def logits(n: int, scale: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 100 * n)
    return (2 * torch.rand(n, dtype=torch.float64, generator=generator) - 1) * scale


@pytest.mark.parametrize("scale", [1.0, 10.0, 80.0])
def test_every_size_up_to_ten(scale: float) -> None:
    for n, k in SIZES:
        x = logits(n, scale)
        law = Enumerated(x, k)
        log_p = st.subset_log_prob(x.expand_as(law.subsets), law.subsets)
        wanted = law.log_weights.log_softmax(0)
        entropy = -torch.special.xlogy(law.p, law.p).sum()
        close = {"rtol": 1e-10, "atol": 1e-10}
        torch.testing.assert_close(st.subset_marginals(x, k), law.mean, **close)
        torch.testing.assert_close(log_p, wanted, **close)
        torch.testing.assert_close(st.subset_entropy(x, k), entropy, **close)


@pytest.mark.parametrize("scale", [1.0, 80.0])
def test_derivatives(scale: float) -> None:
    """The covariance and the third cumulant, by every way to ask for them."""
    for n, k in SIZES:
        x, v, w = logits(n, scale), logits(n, 1.0, 1), logits(n, 1.0, 2)
        law = Enumerated(x, k)
        close = {"rtol": 1e-10, "atol": 1e-10}

        def mu(x: Tensor, k: int = k) -> Tensor:
            return st.subset_marginals(x, k)

        def moved(x: Tensor, v: Tensor = v) -> Tensor:
            pushed: Tensor = torch.func.jvp(mu, (x,), (v,))[1]
            return pushed

        pulled = torch.func.vjp(mu, x)[1](v)[0]
        torch.testing.assert_close(pulled, law.covariance @ v, **close)
        torch.testing.assert_close(moved(x), law.covariance @ v, **close)
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(mu(leaf), leaf, v, create_graph=True)
        (second,) = torch.autograd.grad(first, leaf, w)
        torch.testing.assert_close(second, law.third(v, w), **close)
        entropy = torch.func.grad(lambda x, k=k: st.subset_entropy(x, k))(x)
        torch.testing.assert_close(entropy, -law.covariance @ x, rtol=1e-10, atol=1e-8)
        z = law.subsets[0]
        of_z = torch.func.grad(lambda x, z=z, k=k: st.subset_log_prob(x, z, k=k))(x)
        torch.testing.assert_close(of_z, z - law.mean, **close)


@pytest.mark.parametrize("shared", [-1e30, 1e12, torch.finfo(torch.float32).min])
def test_what_all_logits_share_takes_no_digits(shared: float) -> None:
    x = torch.full((6,), shared, dtype=torch.float64, requires_grad=True)
    entropy = st.subset_entropy(x, 5)
    torch.testing.assert_close(entropy.item(), math.log(6), rtol=1e-12, atol=0)
    entropy.backward()
    torch.testing.assert_close(x.grad, torch.zeros_like(x), rtol=0, atol=1e-12)
    log_p = st.subset_log_prob(x, torch.tensor([1.0, 1, 1, 1, 0, 1]))
    torch.testing.assert_close(log_p.item(), -math.log(6), rtol=1e-12, atol=0)


@pytest.mark.parametrize("padding", [-1e30, -1e9, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("k", [3, 4])
def test_fewer_classes_than_k_beside_padding_take_no_digits(padding: float, k: int) -> None:
    """Both classes are in every subset, beside k - 2 of five that are equally likely."""
    x = torch.tensor([0.3, -1.2] + [padding] * 5, requires_grad=True)
    count = math.comb(5, k - 2)
    entropy = st.subset_entropy(x, k)
    torch.testing.assert_close(entropy.item(), math.log(count), rtol=1e-6, atol=0)
    with_both, without = torch.zeros(2, 7)
    with_both[:k], without[1 : k + 1] = 1, 1
    log_p = st.subset_log_prob(x, with_both)
    torch.testing.assert_close(log_p.item(), -math.log(count), rtol=1e-6, atol=0)
    mean = torch.tensor([1.0, 1] + [(k - 2) / 5] * 5)
    torch.testing.assert_close(torch.autograd.grad(log_p, x)[0], with_both - mean)
    torch.testing.assert_close(torch.autograd.grad(entropy, x)[0], torch.zeros(7))
    assert st.subset_log_prob(x, without).item() == pytest.approx(padding, rel=1e-6)


def test_the_gradient_of_a_bound_is_unbiased() -> None:
    """Of `E log q(z)`, which is linear in z but for its own logits, by every drawn z."""
    x = torch.randn(5, dtype=torch.float64)
    law = Enumerated(x, 2)
    rows = x.expand(200_000, 5).clone().requires_grad_()
    z = st.sample_subset(rows, 2, seed=0)
    st.subset_log_prob(rows, z).sum().backward()
    assert rows.grad is not None
    error = rows.grad.std(0) / len(rows) ** 0.5
    assert ((rows.grad.mean(0) - law.covariance @ x).abs() < 4 * error).all()


@pytest.mark.parametrize("impossible", [[], [-math.inf], [-1e30]])
def test_the_gradient_to_a_value_is_the_logits_up_to_a_constant(impossible: list[float]) -> None:
    x = torch.tensor([0.5, -1.0, 2.0, *impossible])
    z = torch.tensor([1.0, 0.0, 1.0, *(0.0 for _ in impossible)], requires_grad=True)
    (grad,) = torch.autograd.grad(st.subset_log_prob(x, z), z)
    torch.testing.assert_close(grad[:3] - grad[0], x[:3] - x[0])
    assert grad.isfinite().all()


def test_third_derivatives_by_every_transform() -> None:
    x = torch.randn(5, dtype=torch.float64)
    law = Enumerated(x, 2)
    modes = (torch.func.jacrev, torch.func.jacfwd)
    wanted = torch.stack(
        [
            torch.stack([law.third(v, w) for v in torch.eye(5).double()])
            for w in torch.eye(5).double()
        ]
    )
    for inner in modes:
        for outer in modes:
            found = outer(inner(lambda x: st.subset_marginals(x, 2)))(x)
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_gradients_of_every_order() -> None:
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    functions = (
        lambda x: st.subset_marginals(x, 3),
        lambda x: st.subset_entropy(x, 2),
        lambda x: st.subset_log_prob(x, torch.tensor([[1.0, 0, 1, 0, 0, 1]] * 2), k=3),
    )
    for function in functions:
        assert torch.autograd.gradcheck(function, x, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, x)


def test_transforms_and_compiled_code() -> None:
    x = torch.randn(4, 6, dtype=torch.float64)
    batched = torch.func.vmap(lambda row: st.subset_marginals(row, 2))(x)
    torch.testing.assert_close(batched, st.subset_marginals(x, 2))
    hessian = torch.func.vmap(torch.func.hessian(lambda row: st.subset_entropy(row, 2)))(x)
    assert hessian.shape == (4, 6, 6)
    torch.testing.assert_close(hessian, hessian.mT)
    compiled = torch.compile(st.subset_marginals, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, 2), st.subset_marginals(x, 2))


def test_published_marginals() -> None:
    """Odds of .3, .6, .5 and .2, two of them."""
    x = torch.tensor([0.3, 0.6, 0.5, 0.2], dtype=torch.float64).logit()
    wanted = torch.tensor([0.3568, 0.7622, 0.6595, 0.2216], dtype=torch.float64)
    torch.testing.assert_close(st.subset_marginals(x, 2), wanted, rtol=0, atol=5e-5)


def test_equal_logits_and_one_class() -> None:
    x = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    (row,) = torch.autograd.grad(st.subset_marginals(x, 3)[0], x)
    rate = 3 / 7 * 4 / 7
    wanted = torch.tensor([rate] + [-rate / 6] * 6, dtype=torch.float64)
    torch.testing.assert_close(row, wanted)
    y = torch.randn(9, dtype=torch.float64)
    torch.testing.assert_close(st.subset_marginals(y, 1), y.softmax(0))
    assert st.subset_entropy(torch.zeros(20), 10).item() == pytest.approx(
        math.log(math.comb(20, 10)), rel=1e-6
    )


@pytest.mark.parametrize("dtype", FLOATING)
def test_long_rows_in_every_dtype(dtype: torch.dtype) -> None:
    """Sums of the marginals are k, and no number underflows; logits in +-80."""
    x = (160 * torch.rand(3, 4096) - 80).to(dtype)
    mu = st.subset_marginals(x, 64)
    assert mu.dtype == dtype
    assert ((mu >= 0) & (mu <= 1)).all()
    error = (mu.double().sum(-1) - 64).abs().max().item()
    assert error <= 64 * torch.finfo(dtype).eps
    assert st.subset_entropy(x, 64).isfinite().all()


@pytest.mark.parametrize("dtype", FLOATING)
def test_marginals_are_probabilities(dtype: torch.dtype) -> None:
    x = (100 * torch.randn(200, 257)).to(dtype).requires_grad_()
    mu = st.subset_marginals(x, 128)
    assert ((mu >= 0) & (mu <= 1)).all()
    pulled = torch.func.vmap(lambda row: st.subset_marginals(row, 128))(x[:20])
    assert (pulled <= 1).all()
    (grad,) = torch.autograd.grad(mu[:, ::2].sum(), x)
    assert grad.isfinite().all()


def test_masks_and_dim() -> None:
    x = torch.randn(5, 3, dtype=torch.float64)
    mask = torch.tensor([True, False, True, True, True])[:, None]
    found = st.subset_marginals(x, 2, dim=0, mask=mask)
    kept = st.subset_marginals(x[mask[:, 0]], 2, dim=0)
    assert found[1].eq(0).all()
    torch.testing.assert_close(found[mask[:, 0]], kept)
    entropy = st.subset_entropy(x, 2, dim=0, mask=mask)
    torch.testing.assert_close(entropy, st.subset_entropy(x[mask[:, 0]], 2, dim=0))
    value = torch.tensor([1.0, 0, 1, 0, 0], dtype=torch.float64)[:, None].expand(5, 3)
    found = st.subset_log_prob(x, value, dim=0, mask=mask)
    kept = st.subset_log_prob(x[mask[:, 0]], value[mask[:, 0]], dim=0)
    torch.testing.assert_close(found, kept)
    outside = value.flip(0).roll(-1, 0)  # holds the masked class
    assert st.subset_log_prob(x, outside, dim=0, mask=mask).eq(-math.inf).all()


def test_rows_without_an_outcome() -> None:
    low = -math.inf
    x = torch.tensor([[0.0, 1, 2], [low, low, 1], [0, math.nan, 1], [0, math.inf, 1], [low, 1, 2]])
    value = torch.tensor([[0.0, 1, 1]]).expand(5, 3)
    for found in (
        st.subset_marginals(x, 2)[:, 0],
        st.subset_entropy(x, 2),
        st.subset_log_prob(x, value),
    ):
        assert found.isnan().tolist() == [False, True, True, True, False]
    assert st.subset_marginals(x, 2)[4].tolist() == [0, 1, 1]
    assert st.subset_entropy(x, 2)[4] == 0
    with st.strict(), pytest.raises(st.ArgumentError, match=r"subset_marginals: row \(1,\) has no"):
        st.subset_marginals(x, 2)
    with st.strict(), pytest.raises(st.ArgumentError, match=r"subset_entropy: row \(1,\) has no"):
        st.subset_entropy(x, 2)


def test_empty() -> None:
    assert st.subset_marginals(torch.zeros(0, 4), 2).shape == (0, 4)
    assert st.subset_entropy(torch.zeros(2, 0, 4), 2).shape == (2, 0)
    assert st.subset_log_prob(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def test_errors() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(st.ArgumentError, match=r"k must be an int in \[1, 3\].*got 4"):
        st.subset_marginals(x, 4)
    with pytest.raises(st.ArgumentError, match=r"got True"):
        st.subset_entropy(x, True)
    with pytest.raises(st.ArgumentError, match=r"same number of ones in every row.*got \[1, 2\]"):
        st.subset_log_prob(x, torch.tensor([[1.0, 0, 0], [1, 1, 0]]))
    with pytest.raises(st.ArgumentError, match="value must hold 0 and 1 alone"):
        st.subset_log_prob(x, x + 0.5)
    for k in (None, 1):
        with pytest.raises(st.ShapeError, match=r"value must have the shape \(2, 3\)"):
            st.subset_log_prob(x, x[:, :2], k=k)
        with pytest.raises(st.DtypeError, match=r"value must be float16"):
            st.subset_log_prob(x, x.long(), k=k)
        with pytest.raises(st.DtypeError, match="value must be a tensor, got list"):
            st.subset_log_prob(x, [1.0, 0.0, 0.0], k=k)
        with pytest.raises(st.ShapeError, match=r"value must have the shape \(2, 3\)"):
            st.subset_log_prob(x, x[0], k=k, dim=-2)
