"""Numbers of classes: their value, MVEInteger against its definition, other rules."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from mpmath import mpf
from torch import Tensor

import straightthrough as st
from straightthrough.core.errors import FLOATING
from straightthrough.core.registry import RULES
from straightthrough.estimators import MVE, CategoricalEstimator, MVEInteger, StraightThrough

ESTIMATORS = [r.example for r in RULES.values() if issubclass(r.type, CategoricalEstimator)]


def problem(classes: int, spread: float, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return spread * torch.randn(classes, dtype=torch.float64, generator=draw)


@pytest.mark.parametrize("dtype", FLOATING)
def test_the_value_is_the_number_of_the_class_that_categorical_draws(dtype: torch.dtype) -> None:
    logits = torch.randn(500, 7).to(dtype)
    y = st.categorical_integer(logits, seed=3)
    assert y.dtype == dtype
    assert torch.equal(y.long(), st.categorical(logits, seed=3).argmax(-1))
    assert y.unique().tolist() == list(range(7))


@pytest.mark.parametrize("rule", ESTIMATORS, ids=repr)
def test_the_gradient_is_that_of_the_one_hot_times_the_numbers(rule: CategoricalEstimator) -> None:
    logits = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    one = st.categorical_integer(logits, rule, seed=1)
    other = st.categorical(logits, rule, seed=1) @ torch.arange(5.0, dtype=torch.float64)
    assert torch.equal(one, other)
    ours, theirs = (torch.autograd.grad((y**2).sum(), logits)[0] for y in (one, other))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_dim_and_mask() -> None:
    logits = torch.randn(4, 3, 6)
    mask = torch.tensor([False, True, True, False])[:, None, None]
    y = st.categorical_integer(logits, dim=0, mask=mask, seed=2)
    assert y.shape == (3, 6)
    assert set(y.flatten().tolist()) == {1.0, 2.0}


def test_a_row_without_an_outcome_is_nan() -> None:
    logits = torch.tensor([[0.0, math.nan], [-math.inf, -math.inf], [0.0, -math.inf]])
    assert st.categorical_integer(logits, seed=0).isnan().tolist() == [True, True, False]


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 257), (torch.float16, 2049)])
def test_more_classes_than_the_dtype_can_number_are_refused(dtype: torch.dtype, most: int) -> None:
    logits = torch.full((most,), -math.inf).to(dtype)
    logits[-1] = 0
    assert st.categorical_integer(logits, seed=0).item() == most - 1
    with pytest.raises(st.DtypeError, match=rf"{most} classes exactly, got {most + 1}; use logits"):
        st.categorical_integer(torch.zeros(most + 1).to(dtype))


def defined(logits: Tensor, y: int, tau: float) -> list[float]:
    """Return J S as the paper defines it, each number of the float64 logits taken as exact."""
    with mpmath.workdps(60):
        weights = [mpmath.exp(mpf(float(x))) for x in logits]
        p, t = [w / sum(weights) for w in weights], mpf(tau)
        m1 = sum(i * q for i, q in enumerate(p))
        m2 = sum(i * i * q for i, q in enumerate(p))
        variance = m2 - m1**2
        s = [
            ((1 - 2 * t * m1 * y + 2 * t * m2) * i + t * (y - m1) * i**2) / (1 + 2 * t * variance)
            for i in range(len(p))
        ]
        mean = sum(a * b for a, b in zip(p, s, strict=True))
        return [float(q * (value - mean)) for q, value in zip(p, s, strict=True)]


@pytest.mark.parametrize("tau", [1e-3, 1.0, 1e6, 1e14])
@pytest.mark.parametrize("spread", [1.0, 10.0, 40.0])
def test_it_is_the_published_rule_to_rounding(spread: float, tau: float) -> None:
    """In both precisions, also at outcomes that are next to impossible."""
    logits = problem(7, spread)
    for y in range(7):
        wanted = torch.tensor(defined(logits, y, tau), dtype=torch.float64)
        grad = torch.arange(7.0, dtype=torch.float64)
        scale = float(wanted.abs().max())
        got = MVEInteger(tau).vjp(logits, torch.tensor(y), grad)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-14 * (1 + scale))
        narrow = MVEInteger(tau).vjp(logits.float(), torch.tensor(y), grad.float())
        rounded = torch.tensor(defined(logits.float().double(), y, tau)).float()
        torch.testing.assert_close(narrow, rounded, rtol=0, atol=4e-6 * (1 + scale))


def bias(rule: CategoricalEstimator, loss: tuple[float, float]) -> float:
    """Return the largest error of the mean, of the loss `loss[0] y^2 + loss[1] y`."""
    logits, number = problem(6, 1.0, seed=4), torch.arange(6, dtype=torch.float64)
    p, values = logits.softmax(0), loss[0] * number**2 + loss[1] * number
    slope = (2 * loss[0] * number + loss[1])[:, None]
    estimates = rule.vjp(logits.expand(6, 6), torch.arange(6), slope * number)
    return float((p @ estimates - p * (values - p @ values)).abs().max())


def test_it_is_unbiased_for_linear_losses_and_at_a_large_tau_for_quadratic_ones() -> None:
    assert bias(MVEInteger(0.3), (0.0, 1.7)) < 1e-14
    assert bias(MVEInteger(1e14), (0.8, 1.7)) < 1e-10
    assert bias(MVEInteger(1.0), (0.8, 1.7)) > 1e-2  # the check has teeth


def test_at_tau_0_it_is_straight_through() -> None:
    logits, grad = problem(5, 1.0), 3 * torch.arange(5, dtype=torch.float64)
    for tau in (1e-20, 1e-320):
        ours, plain = (
            rule.vjp(logits, torch.tensor(3), grad) for rule in (MVEInteger(tau), StraightThrough())
        )
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-14)


@pytest.mark.parametrize("tau", [0.1, 2.0, 1e6])
def test_of_two_classes_it_is_mve_at_half_the_tau(tau: float) -> None:
    logits, grad = problem(2, 1.0), torch.tensor([0.0, 1.3], dtype=torch.float64)
    for index in (0, 1):
        ours, other = (
            rule.vjp(logits, torch.tensor(index), grad) for rule in (MVEInteger(tau), MVE(tau / 2))
        )
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-15)


@pytest.mark.parametrize("tau", [1e-300, 1.0, 1e6, 1e300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certain_rows_have_no_gradient(tau: float, dtype: torch.dtype) -> None:
    rows = [[80.0, -80.0, -math.inf], [-math.inf, 0.0, -math.inf], [-1e3, -1e3, 1e3]]
    logits = torch.tensor(rows, dtype=dtype)
    grad = torch.arange(3, dtype=dtype).expand(3, 3)
    got = MVEInteger(tau).vjp(logits, torch.tensor([0, 1, 2]), grad)
    torch.testing.assert_close(got, torch.zeros_like(got), rtol=0, atol=1e-30)
    alone = MVEInteger(tau).vjp(logits[:1, 0], torch.tensor(0), grad[:1, 0])
    assert alone.tolist() == [0.0]


def test_the_module_in_eval_is_the_likeliest_number_with_a_gradient() -> None:
    module = st.nn.CategoricalInteger(dim=0).eval()
    logits = torch.tensor([[0.0, 5.0, math.nan], [2.0, 1.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, True, True], [True, False, True]])
    y = module(logits, mask=mask)
    assert y[:2].tolist() == [1.0, 0.0]
    assert y[2].isnan()
    y[0].backward()
    p = 1 / (1 + math.exp(-2.0))
    slope = p * (1 - p)
    torch.testing.assert_close(logits.grad[:, 0], torch.tensor([-slope, slope]))
