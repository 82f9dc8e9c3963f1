"""A temperature for the draw and one for the gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import straightthrough as st
from gof import assert_frequencies, assert_rate
from straightthrough.estimators import DecoupledST, ReinMax, StraightThrough

ROWS = 100_000
LOGITS = torch.tensor([0.5, -1.0, 1.5, -math.inf])


@pytest.mark.parametrize("tau", [0.25, 3.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_forward_draws_at_its_temperature(tau: float, dtype: torch.dtype) -> None:
    logits = LOGITS.to(dtype).expand(ROWS, 4)
    z = st.categorical(logits, DecoupledST(tau, 2.0), seed=1)
    assert z.dtype == dtype
    counts = z.double().sum(0).numpy()
    assert_frequencies(counts, (LOGITS.to(dtype).double() / tau).softmax(0).numpy())
    table = torch.eye(4, dtype=dtype)
    assert torch.equal(st.categorical_lookup(logits, table, DecoupledST(tau), seed=1), z)


@pytest.mark.parametrize("tau", [0.25, 3.0])
@pytest.mark.parametrize("p", [0.1, 0.7])
def test_a_binary_draw_is_at_its_temperature(tau: float, p: float) -> None:
    logit, rule = math.log(p / (1 - p)), DecoupledST(tau, 2.0)
    rate = 1 / (1 + math.exp(-logit / tau))
    x = torch.full((ROWS,), logit, dtype=torch.float64)
    of_logits = st.bernoulli(x, estimator=rule, seed=2)
    of_probs = st.bernoulli(probs=torch.full_like(x, p), estimator=rule, seed=2)
    assert_rate(int(of_logits.sum()), ROWS, rate)
    assert (of_logits != of_probs).sum() <= 1  # by rounding


def test_certain_and_impossible_probabilities_stay_so() -> None:
    probs = torch.tensor([0.0, 1.0, math.nan, -0.5]).half()
    y = st.bernoulli(probs=probs, estimator=DecoupledST(0.5), seed=0)
    assert y.dtype == torch.float16
    assert y[:2].tolist() == [0.0, 1.0]
    assert y[2:].isnan().all()


def test_large_logits_do_not_overflow() -> None:
    largest = torch.finfo(torch.float16).max
    logits = torch.tensor([largest, 0.9 * largest, -largest]).half()
    assert st.categorical(logits, DecoupledST(0.01), seed=0).tolist() == [1.0, 0.0, 0.0]


def test_at_temperature_1_it_draws_what_every_rule_draws() -> None:
    logits = torch.randn(1000, 5)
    one, other = (
        st.categorical(logits, r, seed=3) for r in (DecoupledST(tau_backward=2.0), ReinMax())
    )
    assert torch.equal(one, other)


def loss_and_logits() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(4)
    sizes = ((4, 4), (4,), (4,))
    a, b, logits = (torch.randn(size, dtype=torch.float64, generator=draw) for size in sizes)
    return a, b, logits


@pytest.mark.parametrize(("forward", "backward"), [(0.5, 0.5), (0.5, 2.0), (3.0, 1.0)])
def test_the_audit_takes_the_expectation_under_the_law_of_forward(
    forward: float, backward: float
) -> None:
    a, b, logits = loss_and_logits()
    x = logits.clone().requires_grad_()
    p = (x / forward).softmax(0)
    (exact,) = torch.autograd.grad(p @ (a.diagonal() + b), x)  # the loss at each one-hot
    q = (logits / backward).softmax(0)
    jacobian = (torch.diag(q) - torch.outer(q, q)) / backward
    estimates = (a + a.T + b) @ jacobian
    mean = p.detach() @ estimates
    variance = p.detach() @ (estimates - mean).square().sum(-1)
    rules = [DecoupledST(forward, backward), ReinMax()]
    ours, other = st.audit.compare(lambda z: ((z @ a) * z).sum(-1) + z @ b, logits, rules).rows
    assert ours.bias_squared == pytest.approx((mean - exact).square().sum().item(), rel=1e-10)
    assert ours.variance == pytest.approx(variance.item(), rel=1e-10)
    assert other.bias_squared < 1e-20  # held against the law that it draws from itself


@pytest.mark.parametrize(("forward", "backward"), [(0.5, 0.5), (0.5, 2.0), (3.0, 1.0)])
def test_sampled_outcomes_follow_the_law_of_forward_too(forward: float, backward: float) -> None:
    a, b, logits = loss_and_logits()
    rules = [ReinMax(), DecoupledST(forward, backward), StraightThrough()]

    def loss(z: Tensor) -> Tensor:
        return ((z @ a) * z).sum(-1) + z @ b

    exact = st.audit.compare(loss, logits, rules)
    sampled = st.audit.compare(loss, logits, rules, samples=200_000, limit=1)
    for rule, found, due in zip(rules, sampled.rows, exact.rows, strict=True):
        assert found.name == due.name == repr(rule)
        for number in ("bias_squared", "variance", "cosine", "mse"):
            error = getattr(found.standard_errors, number)
            assert abs(getattr(found, number) - getattr(due, number)) < 4 * error


def test_a_low_temperature_does_not_overflow_what_half_precision_holds() -> None:
    logits = torch.tensor([300.0, 0.0], dtype=torch.float16)
    rules = [DecoupledST(1e-3, 1.0)]
    sampled = st.audit.compare(lambda z: z[:, 0], logits, rules, samples=64, limit=1)
    assert math.isfinite(sampled.rows[0].mse)


def test_equal_temperatures_are_unbiased_for_linear_losses() -> None:
    _, b, logits = loss_and_logits()
    rules = [DecoupledST(0.5, 0.5), StraightThrough(0.5)]
    ours, drawn_at_1 = st.audit.compare(lambda z: z @ b, logits, rules).rows
    assert ours.bias_squared < 1e-28
    assert drawn_at_1.bias_squared > 1e-3


def test_a_module_may_schedule_both_temperatures() -> None:
    cool, warm = (st.nn.schedules.Linear(1.0, end, steps=2) for end in (0.5, 3.0))
    sample = st.nn.Categorical("decoupled", tau_forward=cool, tau_backward=warm)
    st.nn.step_schedules(sample)
    assert sample.rule == DecoupledST(0.75, 2.0)


@pytest.mark.parametrize("tau", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["tau_forward", "tau_backward"])
def test_both_temperatures_must_be_above_0(name: str, tau: float) -> None:
    with pytest.raises(st.ArgumentError, match=name):
        DecoupledST(**{name: tau})
