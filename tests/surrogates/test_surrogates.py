"""Every surrogate against textbook formulas at 50 digits, and against hand-computed numbers."""

from __future__ import annotations

import math

import pytest
import torch
from mpmath import mpf
from torch import Tensor

import straightthrough as st
from formulas import FORMULAS, Formula
from straightthrough.core.errors import FLOATING
from straightthrough.core.registry import RULES
from straightthrough.core.rules import Derivative
from straightthrough.surrogates import (
    ApproxSign,
    Atan,
    Clipped,
    Erf,
    ErrorDecay,
    Exponential,
    FastSigmoid,
    Identity,
    LeakyRectangle,
    MultiGaussian,
    Rectangle,
    Sigmoid,
    SoftSign,
    SquareWave,
    SuperSpike,
    SwishSign,
    Tanh,
    Triangle,
)

EVERY = pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: repr(formula.rule))
# Exact in binary: the ends of windows (0.125, 0.25, 0.5, 1), middles, and far tails.
POINTS = [0.0, 0.0625, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 7.0, 20.0]
POINTS = sorted({sign * x for x in POINTS for sign in (-1.0, 1.0)})
INFINITY = math.inf


def float64(value: object) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_every_registered_surrogate_has_a_formula() -> None:
    registered = {record.type for record in RULES.values() if issubclass(record.type, Derivative)}
    public = {getattr(st.surrogates, name) for name in st.surrogates.__all__}
    assert public - {Derivative} == registered
    assert {type(formula.rule) for formula in FORMULAS} == registered


@EVERY
def test_derivative_is_the_formula(formula: Formula) -> None:
    wanted = float64([float(formula.derivative(mpf(x))) for x in POINTS])
    # Relative, so that tails keep their digits. A wave's phase is rounded before its cosine.
    atol = 1e-14 if isinstance(formula.rule, SquareWave) else 0.0
    torch.testing.assert_close(
        formula.rule.derivative(float64(POINTS)), wanted, rtol=1e-12, atol=atol
    )


@EVERY
def test_primitive_is_the_formula(formula: Formula) -> None:
    wanted = float64([float(formula.primitive(mpf(x))) for x in POINTS])
    torch.testing.assert_close(
        formula.rule.primitive(float64(POINTS)), wanted, rtol=1e-12, atol=1e-14
    )


@EVERY
def test_derivative_is_the_slope_of_the_primitive(formula: Formula) -> None:
    step = 1e-5
    x = torch.linspace(-3, 3, 601, dtype=torch.float64) + 0.0004
    assert all((x - kink).abs().min() > step for kink in formula.kinks)
    rule = formula.rule
    slope = (rule.primitive(x + step) - rule.primitive(x - step)) / (2 * step)
    # The error is h^2 f''' / 6, and f''' reaches 2 slope^2 times the slope.
    torch.testing.assert_close(rule.derivative(x), slope, rtol=1e-5, atol=1e-8)


# Rule, x, derivative and primitive at x, worked out by hand to seven digits.
BY_HAND = [
    (Identity(), -3.0, 1.0, -3.0),
    (Clipped(), 0.5, 1.0, 0.5),
    (Clipped(), -1.5, 0.0, -1.0),
    (Tanh(), 0.5, 0.7864477, 0.4621172),  # tanh .5 = .4621172; 1 - .2135523
    (Tanh(2.0), 0.25, 1.5728955, 0.4621172),  # twice the former
    (Sigmoid(), 0.25, 0.7864477, 0.7310586),  # s(1) = .7310586; 4 * .7310586 * .2689414
    # s(2.5) = .92414182; 25 * .92414182 * .07585818
    (Sigmoid(25.0), 0.1, 1.7525929, 0.9241418),
    (Atan(), 1.0, 0.0919997, 0.9019067),  # 1 / (1 + pi^2); 1.2626273 / pi + .5
    (FastSigmoid(), 0.1, 0.0816327, 0.0285714),  # 1 / 3.5^2; .1 / 3.5
    (SuperSpike(), -0.5, 0.4444444, -0.3333333),  # 1 / 1.5^2; -.5 / 1.5
    (SuperSpike(3.0), 1.0, 0.75, 1.5),  # 3 / 4; 3 / 2
    (SoftSign(), 0.5, 0.25, 0.75),  # 1 / (4 * 1^2); (1 / 2 + 1) / 2
    (Triangle(), 0.25, 0.75, 0.71875),  # 1 - .25; .5 + .25 - .03125
    (Triangle(2.0), -0.25, 1.0, 0.125),  # 2 - 4 * .25; area 1/2 * .25 * 1
    (Erf(), 0.5, 0.4151075, 0.9213504),  # 2 / 1.7724539 * e^-1; (1 + .8427008) / 2
    (Rectangle(), 0.25, 1.0, 0.75),
    (Rectangle(2.0), -0.2, 2.0, 0.1),  # .5 - 2 * .2
    (Exponential(), -1.0, 0.1839397, 0.1839397),  # e^-1 / 2, both
    (LeakyRectangle(), 0.5, 0.5, 0.75),
    (LeakyRectangle(), 3.0, 0.01, 1.02),  # 1 + .01 * 2
    # .5 (1.15 * .7978846 - .3 * .1329808 * e^(-1/72)); by symmetry .5 (1.15 - .3) / 2
    (MultiGaussian(), 0.0, 0.4391116, 0.2125),
    (SquareWave(), 1.0, 0.0, 1.1002108),  # cos 45 + cos 135 = 0; .5 + 2/pi .7071068 (1 + 1/3)
    (SquareWave(), 2.0, 0.0, 0.9244132),  # cos 90 + cos 270 = 0; .5 + 2/pi (1 - 1/3)
    (ApproxSign(), 0.25, 1.5, 0.4375),  # 2 - .5; .5 - .0625
    (SwishSign(), 0.0, 5.0, 0.0),  # 5 * 2 / 2
    # 5 (2 - tanh .5) / (1 + cosh 1) = 5 * 1.5378828 / 2.5430806; 1.4621172 * 1.2689414 - 1
    (SwishSign(), 0.2, 3.0236612, 0.8553410),
    (ErrorDecay(0.1), 5.0, 0.7864477, 4.6211716),  # k t = 1: sech^2 .5; 10 tanh .5
    (ErrorDecay(4.0), 0.125, 3.1457909, 0.4621172),  # k = 1: 4 sech^2 .5; tanh .5
]


@pytest.mark.parametrize(("rule", "x", "derivative", "primitive"), BY_HAND)
def test_values_by_hand(rule: Derivative, x: float, derivative: float, primitive: float) -> None:
    assert rule.derivative(float64(x)).item() == pytest.approx(derivative, abs=2e-7)
    assert rule.primitive(float64(x)).item() == pytest.approx(primitive, abs=2e-7)


@pytest.mark.parametrize(
    ("rule", "end", "at_the_end", "beyond"),
    [
        (Clipped(), 1.0, 1.0, 0.0),  # both ends inside
        (Clipped(0.25), 0.25, 1.0, 0.0),
        (LeakyRectangle(), 1.0, 0.5, 0.01),  # inside
        (Rectangle(), 0.5, 0.0, 0.0),  # ends excluded
        (Triangle(), 1.0, 0.0, 0.0),
        (Triangle(4.0), 0.25, 0.0, 0.0),
        (ApproxSign(), 1.0, 0.0, 0.0),
    ],
)
@pytest.mark.parametrize("dtype", FLOATING)
def test_ends_of_windows(
    rule: Derivative, end: float, at_the_end: float, beyond: float, dtype: torch.dtype
) -> None:
    ends = torch.tensor([-end, end], dtype=dtype)
    outside = torch.nextafter(ends, ends * 9)
    wanted = torch.tensor([at_the_end, beyond], dtype=dtype)
    assert torch.equal(rule.derivative(ends), wanted[0].expand(2))
    assert torch.equal(rule.derivative(outside), wanted[1].expand(2))
    assert torch.all(rule.derivative(torch.nextafter(ends, 0 * ends)) > 0)


# The derivative far out, and the limits of the primitive.
LIMITS = [
    (Identity(), 1.0, (-INFINITY, INFINITY)),
    (Clipped(2.0), 0.0, (-2.0, 2.0)),
    (Tanh(), 0.0, (-1.0, 1.0)),
    (Sigmoid(), 0.0, (0.0, 1.0)),
    (Atan(), 0.0, (0.0, 1.0)),
    (Erf(), 0.0, (0.0, 1.0)),
    (FastSigmoid(4.0), 0.0, (-0.25, 0.25)),
    (SuperSpike(3.0), 0.0, (-3.0, 3.0)),
    (SoftSign(), 0.0, (0.0, 1.0)),
    (Triangle(), 0.0, (0.0, 1.0)),
    (Rectangle(), 0.0, (0.0, 1.0)),
    (Exponential(), 0.0, (0.0, 1.0)),
    (LeakyRectangle(1.0, 0.25), 0.25, (-INFINITY, INFINITY)),
    (MultiGaussian(), 0.0, (0.0, 0.425)),  # .5 (1.15 - .3)
    (ApproxSign(), 0.0, (-1.0, 1.0)),
    (SwishSign(), 0.0, (-1.0, 1.0)),
    (ErrorDecay(0.5), 0.0, (-2.0, 2.0)),
]


@pytest.mark.parametrize(("rule", "slope", "limits"), LIMITS, ids=repr)
@pytest.mark.parametrize("dtype", FLOATING)
def test_infinities_and_largest_values(
    rule: Derivative, slope: float, limits: tuple[float, float], dtype: torch.dtype
) -> None:
    unit, largest = torch.finfo(dtype).eps, torch.finfo(dtype).max
    x = torch.tensor([-INFINITY, -largest, largest, INFINITY], dtype=dtype)
    assert torch.equal(rule.derivative(x), torch.full_like(x, slope))
    wanted = torch.tensor(limits, dtype=dtype)
    torch.testing.assert_close(rule.primitive(x[[0, 3]]), wanted, rtol=unit, atol=unit)
    if wanted.isfinite().all():
        # The largest half is 65504: what decays as 1 / x is still that far from its limit.
        torch.testing.assert_close(rule.primitive(x[[1, 2]]), wanted, rtol=unit, atol=unit)


@pytest.mark.parametrize("dtype", FLOATING)
def test_a_wave_that_is_too_far_out_is_0(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    x = torch.tensor([-INFINITY, -largest, largest, INFINITY], dtype=dtype)
    assert SquareWave(period=0.01).derivative(x).tolist() == [0] * 4


@EVERY
@pytest.mark.parametrize("dtype", FLOATING)
def test_nan_stays_nan(formula: Formula, dtype: torch.dtype) -> None:
    """But for the identity, which ignores x."""
    slope = formula.rule.derivative(torch.tensor(math.nan, dtype=dtype)).item()
    assert slope == 1 if isinstance(formula.rule, Identity) else math.isnan(slope)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes_far_out_are_numbers(formula: Formula, dtype: torch.dtype) -> None:
    """The second derivative is 0, and the slope of the primitive is the derivative."""
    largest = torch.finfo(dtype).max
    far = [INFINITY, largest, largest / 2, largest / 3, largest**0.75, 2 * largest**0.5]
    x = torch.tensor([*far, *(-v for v in far)], dtype=dtype, requires_grad=True)
    derivative = formula.rule.derivative(x)
    if derivative.requires_grad:
        second = torch.autograd.grad(derivative.sum(), x)[0]
        wave = isinstance(formula.rule, SquareWave)  # has no limit, but at infinity itself
        assert torch.isfinite(second).all()
        assert (second[x.isinf()] if wave else second).count_nonzero() == 0
    primitive = formula.rule.primitive(x)
    slope = torch.autograd.grad(primitive.sum(), x)[0]
    if not isinstance(formula.rule, SquareWave):
        torch.testing.assert_close(slope, derivative, rtol=0, atol=1e-15)


@EVERY
def test_slope_of_the_primitive_at_0(formula: Formula) -> None:
    """Where |x| has no derivative, the primitive has one."""
    x = torch.tensor([0.0, -0.0], dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(formula.rule.primitive(x).sum(), x)[0]
    torch.testing.assert_close(slope, formula.rule.derivative(x), rtol=1e-12, atol=0)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_gradients_are_computed_in_float32(formula: Formula, dtype: torch.dtype) -> None:
    """The only rounding that half precision sees is that of the result."""
    x = torch.linspace(-3, 3, 97).to(dtype)
    exact = 0.75 * formula.rule.derivative(x.double())
    rounding = 0.0 if dtype == torch.float32 else 0.5 * torch.finfo(dtype).eps
    # A wave in float32 is that uncertain where it crosses 0.
    atol = 1e-5 if isinstance(formula.rule, SquareWave) else 1e-6
    gradient = formula.rule.vjp(x, torch.full_like(x, 0.75))
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient.double(), exact, rtol=rounding + 5e-6, atol=atol)


@pytest.mark.parametrize(
    ("cls", "argument"),
    [
        (Clipped, "width"),
        (Tanh, "slope"),
        (Sigmoid, "slope"),
        (Atan, "alpha"),
        (Erf, "alpha"),
        (FastSigmoid, "slope"),
        (SuperSpike, "alpha"),
        (SoftSign, "alpha"),
        (Triangle, "alpha"),
        (Rectangle, "alpha"),
        (Exponential, "alpha"),
        (LeakyRectangle, "width"),
        (MultiGaussian, "sigma"),
        (SquareWave, "period"),
        (SwishSign, "beta"),
        (ErrorDecay, "t"),
    ],
)
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_arguments_must_be_positive(cls: type[Derivative], argument: str, value: float) -> None:
    with pytest.raises(st.ArgumentError, match=argument):
        cls(**{argument: value})


def test_other_arguments() -> None:
    with pytest.raises(st.ArgumentError, match="terms"):
        SquareWave(terms=0)
    with pytest.raises(st.ArgumentError, match="leak"):
        LeakyRectangle(leak=-0.1)
