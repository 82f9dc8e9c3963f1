"""What the tests of larq, spikingjelly and snntorch expect of their own versions of our rules."""

from __future__ import annotations

import math

import pytest
import torch

import straightthrough as st
from straightthrough.core.rules import Derivative
from straightthrough.surrogates import (
    Atan,
    Clipped,
    Erf,
    Exponential,
    Rectangle,
    Sigmoid,
    SoftSign,
    SwishSign,
    Triangle,
)


@pytest.mark.parametrize("clip", [0.5, 1.0, 1.3])
def test_larq_ste_sign(clip: float) -> None:
    """Its gradient is 1 where |x| <= clip_value, else 0; its forward has sign(0) = 1."""
    x = torch.randn(200, generator=torch.Generator().manual_seed(0)).mul(2).requires_grad_()
    y = st.sign(x, surrogate=Clipped(clip))
    y.sum().backward()
    assert y.tolist() == [1.0 if value >= 0 else -1.0 for value in x.tolist()]
    assert x.grad is not None
    assert x.grad.tolist() == [1.0 if abs(value) <= clip else 0.0 for value in x.tolist()]


def test_larq_approx_sign() -> None:
    """Its gradient is 2 (1 - |x|) where |x| <= 1, else 0."""
    x = torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.mul(2).requires_grad_()
    st.sign(x, surrogate="approx_sign").sum().backward()
    wanted = [2 * (1 - abs(value)) if abs(value) <= 1 else 0.0 for value in x.tolist()]
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx(wanted, abs=1e-15)


@pytest.mark.parametrize("beta", [5.0, 10.0])
def test_larq_swish_sign(beta: float) -> None:
    """Its gradient is beta (2 - beta x tanh(beta x / 2)) / (1 + cosh(beta x))."""
    x = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    st.sign(x, surrogate=SwishSign(beta)).sum().backward()
    wanted = [
        beta * (2 - beta * v * math.tanh(beta * v / 2)) / (1 + math.cosh(beta * v))
        for v in x.tolist()
    ]
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx(wanted, rel=1e-12, abs=1e-15)


def test_larq_ste_tern() -> None:
    """Its code is sign(sign(x + t) + sign(x - t)) with sign(0) = 0: +-1 where |x| = t.

    Its formula has 0 there, and so have we. Its gradient is that of the sign.
    """
    threshold, ties = 0.0625, [-0.0625, 0.0625]
    x = torch.tensor([-2.0, -0.03125, 0.0, 0.05, 0.07, 1.0, *ties], requires_grad=True)
    y = st.ternary(x, threshold)
    y.sum().backward()
    larq = torch.sign(torch.sign(x + threshold) + torch.sign(x - threshold)).tolist()
    assert y.tolist()[:-2] == larq[:-2] == [-1, 0, 0, 0, 1, 1]
    assert (y.tolist()[-2:], larq[-2:]) == ([0, 0], [-1, 1])
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "rule",
    [Sigmoid(), Atan(), Erf(), SoftSign(), Triangle(), Rectangle(), Exponential()],
    ids=repr,
)
def test_spikingjelly_contract(rule: Derivative) -> None:
    """A primitive of a spike rises from 0 to 1, is 1/2 at 0, symmetric, and has area 1."""
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    primitive, derivative = rule.primitive(x), rule.derivative(x)
    assert (primitive >= 0).all()
    assert (primitive <= 1).all()
    assert (primitive.diff() >= 0).all()
    assert (derivative >= 0).all()
    assert rule.primitive(torch.zeros((), dtype=torch.float64)).item() == 0.5
    torch.testing.assert_close(primitive + primitive.flip(0), torch.ones_like(x))
    torch.testing.assert_close(derivative, derivative.flip(0))
    area = torch.trapezoid(derivative, x)
    # The trapezoid rule is off by half a cell at a jump: 16 / 4000 / 2, at each of two.
    torch.testing.assert_close(area, primitive[-1] - primitive[0], rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("surrogate", "expected"),
    [
        ("atan", lambda x: 1 / (1 + (math.pi * x) ** 2)),  # alpha 2
        ("fast_sigmoid", lambda x: 1 / (25 * abs(x) + 1) ** 2),  # slope 25
        (Sigmoid(25.0), lambda x: 25 * math.exp(-25 * x) / (math.exp(-25 * x) + 1) ** 2),
        # spike_rate_escape, beta 1, slope 25: exp(-25 |x - 1|), on a membrane with threshold 1
        (Exponential(25.0), lambda x: 12.5 * math.exp(-25 * abs(x))),
        ("identity", lambda x: 1.0),  # straight_through_estimator
    ],
)
def test_snntorch_gradients(surrogate: Derivative | str, expected) -> None:  # type: ignore[no-untyped-def]  # lambdas
    x = torch.linspace(-1, 1, 21, dtype=torch.float64, requires_grad=True)
    y = st.heaviside(x, surrogate=surrogate)
    y.sum().backward()
    assert y.tolist() == [float(value > 0) for value in x.tolist()]
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([expected(v) for v in x.tolist()], rel=1e-12)
