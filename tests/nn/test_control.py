"""The running control variate of a categorical draw: mean and variance by enumeration."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough.estimators import ReinMax
from subsets import Enumerated, quadratic


def trained(logits: Tensor, a: Tensor, b: Tensor) -> st.nn.Categorical:
    """A module that has seen a few hundred batches of a quadratic loss."""
    torch.manual_seed(0)
    control = st.nn.ControlVariate(len(logits), decay=0.98)
    sample = st.nn.Categorical("reinmax", control=control).double()
    for _ in range(300):
        x = logits.expand(64, -1).clone().requires_grad_()
        z = sample(x)
        ((z @ a * z).sum(-1) + z @ b).sum().backward()
    return sample


def test_its_mean_is_that_of_reinmax_and_its_variance_is_not() -> None:
    before, after = [], []
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(8, dtype=torch.float64, generator=generator)
        law, (a, b) = Enumerated(logits, 1), quadratic(8, seed)
        control = trained(logits, a, b).control
        assert control is not None
        z = law.subsets
        exact = law.gradient((z @ a * z).sum(-1) + z @ b)
        index, x = z.argmax(-1), logits.expand_as(z).contiguous()
        plain = ReinMax().vjp(x, index, 2 * z @ a + b)
        less = plain - control.product / control.square * law.off
        for found, spreads in ((plain, before), (less, after)):
            mean = law.p @ found
            torch.testing.assert_close(mean, exact, rtol=1e-6, atol=1e-8)
            spread = law.p @ (found - mean).square().sum(-1) / exact.square().sum()
            spreads.append(spread.item())
    assert sum(after) < sum(before) / 8
    assert all(one < other for one, other in zip(after, before, strict=True))


def test_the_first_gradient_is_that_of_the_estimator_and_the_second_is_by_hand() -> None:
    sample = st.nn.Categorical("reinmax", control=st.nn.ControlVariate(2, decay=0.5))
    gradients, offs = [], []
    for seed in (0, 1):
        x = torch.zeros(3, 2, requires_grad=True)
        torch.manual_seed(seed)
        z = sample(x)
        (z * torch.tensor([1.0, 3.0])).sum().backward()
        torch.manual_seed(seed)
        y = x.detach().clone().requires_grad_()
        (st.categorical(y) * torch.tensor([1.0, 3.0])).sum().backward()
        gradients.append((x.grad, y.grad))
        offs.append(z.detach() - 0.5)
    assert torch.equal(*gradients[0])
    # ReinMax of two even classes is +-(3 - 1) / 4, and (z - p)^2 is 1/4: b = 4 mean(P (z - p)).
    b = 4 * (gradients[0][1] * offs[0]).mean(0)
    torch.testing.assert_close(gradients[1][0], gradients[1][1] - b * offs[1])


def test_of_two_draws_of_one_loss_neither_is_taken_off_by_what_it_did_itself() -> None:
    """The gradient of each knows the other: what the ratio has learned from it came too late."""
    sample = st.nn.Categorical("reinmax", control=st.nn.ControlVariate(3, decay=0.5))
    cost = torch.tensor([1.0, -2.0, 0.5])

    def gradient(module: torch.nn.Module) -> Tensor:
        torch.manual_seed(0)
        x = torch.zeros(2, 3, requires_grad=True)
        ((module(x[0]) @ cost) * (module(x[1]) @ cost)).backward()
        assert x.grad is not None
        return x.grad

    first = gradient(sample)
    assert torch.equal(first, gradient(st.nn.Categorical("reinmax")))
    assert not torch.equal(first, gradient(sample))


def test_what_is_kept_and_when() -> None:
    sample = st.nn.Categorical("reinmax", control=st.nn.ControlVariate((2, 3)))
    x = torch.randn(5, 2, 3, requires_grad=True)
    sample.eval()(x)
    sample.train()(x.detach())
    with torch.no_grad():
        sample(x)
    assert sample.control.square.eq(0).all()
    sample(x).square().sum().backward()
    assert sample.control.square.gt(0).all()
    twin = st.nn.Categorical("reinmax", control=st.nn.ControlVariate((2, 3)))
    twin.load_state_dict(sample.state_dict())
    assert torch.equal(twin.control.product, sample.control.product)
    assert st.nn.Categorical().control is None
    assert not st.nn.Categorical().state_dict()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_masks_and_rows_without_an_outcome(dtype: torch.dtype) -> None:
    sample = st.nn.Categorical("gumbel", tau=0.5, control=st.nn.ControlVariate(3))
    x = torch.tensor([[0.0, 1.0, 2.0], [torch.nan, 0.0, 0.0]] * 8, dtype=dtype, requires_grad=True)
    for _ in range(2):
        x.grad = None
        (sample(x, mask=torch.tensor([True, True, False])) * torch.arange(3)).sum().backward()
    assert x.grad.dtype == dtype
    assert x.grad[::2].isfinite().all()
    assert x.grad[::2, 2].eq(0).all()
    assert sample.control.product.isfinite().all()


@pytest.mark.parametrize("overflow", [torch.inf, torch.nan])
def test_what_overflowed_in_backward_is_in_neither_average(overflow: float) -> None:
    """Else a step that loss scaling skips takes from the ratio, whose averages fall apart."""
    sample = st.nn.Categorical("reinmax", control=st.nn.ControlVariate(3, decay=0.5))
    control, x = sample.control, torch.zeros(64, 3, requires_grad=True)
    assert control is not None
    sample(x).backward(torch.randn(64, 3))
    before = control.product / control.square
    sample(x).backward(torch.full((64, 3), overflow))
    assert torch.equal(control.product / control.square, before)
    rows = torch.arange(64)[:, None] < 32  # of the others the averages are taken
    sample(x).backward(torch.where(rows, overflow, torch.randn(64, 3)))
    assert not torch.equal(control.product / control.square, before)
    assert control.product.isfinite().all()


def test_an_empty_batch_leaves_the_averages_as_they_are() -> None:
    sample = st.nn.Categorical("reinmax", control=st.nn.ControlVariate(3))
    sample(torch.zeros(8, 3, requires_grad=True))[:, 0].sum().backward()
    before = sample.control.product.clone()
    x = torch.zeros(0, 3, requires_grad=True)
    sample(x)[:, 0].sum().backward()
    assert x.grad.shape == (0, 3)
    assert torch.equal(sample.control.product, before)
    assert sample.control.square.gt(0).all()


def test_errors() -> None:
    with pytest.raises(st.ArgumentError, match=r"decay must lie in \[0, 1\), got 1"):
        st.nn.ControlVariate(3, decay=1)
    with pytest.raises(st.ArgumentError, match="shape must be an int of at least 1, got 0"):
        st.nn.ControlVariate((2, 0))
    with pytest.raises(st.ArgumentError, match=r"shape must have one dimension at least, got \(\)"):
        st.nn.ControlVariate(())
    sample = st.nn.Categorical(control=st.nn.ControlVariate(3))
    with pytest.raises(st.ShapeError, match=r"end with the shape \(3,\).*got \(2, 4\)"):
        sample(torch.zeros(2, 4))
