"""Checks of the gradient: the declared rule's, in every dtype, and again differentiable."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from ..core.errors import ArgumentError, StraightThroughError
from ..core.rules import Derivative
from .case import DTYPES, Case, assert_bits, assert_close, check


@check()
def check_gradient(case: Case) -> None:
    """The gradient is that of the specification in float64, in all four dtypes.

    At edge cases too, up to where a derivative of the same formula overflows in narrower
    arithmetic: there, no NaN may come where the specification has none.
    """
    for dtype in DTYPES:
        for x in (case.input(4, dtype=dtype), _moderate(case.special(dtype))):
            assert_gradient(case, x)
        x = case.special(dtype)
        ones = torch.ones_like(case.of_value(x))
        y, gradient = case.pull(x, ones)
        invented = gradient.isnan() & ~case.gradient(x, y, ones).isnan()
        assert not bool(invented.any()), f"{case}: gradient NaN at {x[invented].tolist()}, {dtype}"


def assert_gradient(case: Case, x: Tensor) -> None:
    """Assert the gradient at one input."""
    grad = case.normal(*case.of_value(x).shape, dtype=x.dtype, seed=1)
    y, gradient = case.pull(x, grad)
    about = f"{case}: gradient at {x.flatten()[:4].tolist()}..."
    for name in ("dtype", "device", "shape"):
        got, due = getattr(gradient, name), getattr(x, name)
        assert got == due, f"{about}: {name} is {got}, not {due}"
    scale = float(grad.abs().max()) if grad.numel() else 0.0
    assert_close(gradient, case.gradient(x, y, grad), about, scale)


def _moderate(x: Tensor) -> Tensor:
    return x.masked_fill(x.isfinite() & (x.abs() > 1e3), 1.0)


@check(lambda case: isinstance(case.rule, Derivative))
def check_primitive(case: Case) -> None:
    """A surrogate's derivative is its primitive's slope, by central differences in float64.

    A surrogate without a primitive must say so with an `ArgumentError`.
    """
    assert isinstance(case.rule, Derivative)
    x, step = 3 * case.normal(200, dtype=torch.float64), 1e-5
    try:
        rise = case.rule.primitive(x + step) - case.rule.primitive(x - step)
    except ArgumentError:
        return
    slope, derivative = rise / (2 * step), case.rule.derivative(x)
    # A kink within a step of a point shows there alone; one point in 200 may be so unlucky.
    off = (slope - derivative).abs() > 1e-6 * (1 + derivative.abs())
    assert off.sum() <= 1, (
        f"{case}: derivative at {x[off][:4].tolist()} is {derivative[off][:4].tolist()}, "
        f"the primitive's slope is {slope[off][:4].tolist()}"
    )


@check()
def check_double_backward(case: Case) -> None:
    """The second derivative is that of the specification, and of finite differences.

    Where a rule draws noise that depends on the logits it is held, so that differences are
    taken along the incoming gradient alone.
    """
    x = case.input(dtype=torch.float64).requires_grad_()
    grad = case.of_value(case.input(dtype=torch.float64, seed=1)).requires_grad_()
    weight = case.input(dtype=torch.float64, seed=2)

    def gradient(x: Tensor, grad: Tensor) -> Tensor:
        return torch.autograd.grad(case(x), x, grad, create_graph=True)[0]

    got = _derivatives(gradient(x, grad), (x, grad), weight)
    specified = _derivatives(case.gradient(x, case(x).detach(), grad), (x, grad), weight)
    for name, one, other in zip(("x", "grad"), got, specified, strict=True):
        assert_close(one, other, f"{case}: second derivative along {name}", 10.0)
    rule = case.rule or case.record.default
    held = rule is not None and rule.draws_noise
    points = (x.detach(), grad) if held else (x, grad)

    def along(x: Tensor, grad: Tensor) -> Tensor:
        return gradient(x if x.requires_grad else x.clone().requires_grad_(), grad)

    try:
        torch.autograd.gradcheck(along, points, eps=1e-6, atol=1e-5, rtol=1e-4)
    except GradcheckError as error:
        raise AssertionError(f"{case}: second derivative against differences: {error}") from error


def _derivatives(y: Tensor, inputs: tuple[Tensor, ...], weight: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of `<weight, y>`; zeros where it does not depend on an input."""
    return torch.autograd.grad(y, inputs, weight, materialize_grads=True)


@check()
def check_repeated_backward(case: Case) -> None:
    """Two backwards through one graph give the same gradient; they add up in `.grad`."""
    x = case.input().requires_grad_()
    grad = case.of_value(case.input(seed=1))
    y = case(x)
    once = torch.autograd.grad(y, x, grad, retain_graph=True)[0].clone()
    y.backward(grad, retain_graph=True)
    y.backward(grad)
    assert x.grad is not None
    assert_bits(x.grad, 2 * once, f"{case}: gradient of two backwards")


@check()
def check_jvp(case: Case) -> None:
    """Forward mode is the transpose of reverse mode, or raises `StraightThroughError`."""
    x, tangent = case.input(dtype=torch.float64), case.input(dtype=torch.float64, seed=1)
    if not case.record.forward_mode:
        try:
            torch.func.jvp(case, (x,), (tangent,))
        except StraightThroughError:
            return
        raise AssertionError(f"{case}: forward mode ran, and is declared to raise")
    y, moved = torch.func.jvp(case, (x,), (tangent,))[:2]
    case.assert_same(y, case(x), "value in forward mode")
    assert (moved.dtype, moved.shape) == (x.dtype, x.shape), (
        f"{case}: the tangent is {moved.dtype}, {moved.shape}, not {x.dtype}, {x.shape}"
    )
    for seed in range(2, 5):
        grad = case.input(dtype=torch.float64, seed=seed)
        forward, reverse = (grad * moved).sum(), (case.pull(x, grad)[1] * tangent).sum()
        assert_close(forward, reverse, f"{case}: <g, J t> against <J^T g, t>", 10.0)
