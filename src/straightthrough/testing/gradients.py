"""Checks of the gradient: the declared rule's, in every dtype, and again differentiable."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from ..core.errors import ArgumentError, StraightThroughError
from ..core.noise import Seed
from ..core.rules import Derivative
from .case import DTYPES, SEED, Case, Tensors, check
from .compare import assert_bits, assert_close


@check()
def check_gradient(case: Case) -> None:
    """The gradients are those of the specification in float64, in all four dtypes.

    At edge cases too, up to where a derivative of the same formula overflows in narrower
    arithmetic: there, no NaN may come where the specification has none.
    """
    for dtype in DTYPES:
        special = case.special(dtype)
        for inputs in (case.input(4, dtype=dtype), map(_moderate, special)):
            assert_gradient(case, *inputs)
        ones = torch.ones_like(case.incoming(special))
        outputs, gradients = case.backward(special, ones)
        specified = case.gradients(special, outputs, ones)
        for x, got, due in zip(case.differentiable(special), gradients, specified, strict=True):
            invented = got.isnan() & ~due.isnan()
            about = f"{case}: gradient NaN at {x[invented].tolist()}, {dtype}"
            assert not bool(invented.any()), about


def assert_gradient(case: Case, *inputs: Tensor) -> None:
    """Assert the gradients at one input."""
    grad = case.incoming(inputs)
    outputs, gradients = case.backward(inputs, grad)
    about = f"{case}: gradient at {inputs[0].flatten()[:4].tolist()}..."
    for x, gradient in zip(case.differentiable(inputs), gradients, strict=True):
        for name in ("dtype", "device", "shape"):
            got, due = getattr(gradient, name), getattr(x, name)
            assert got == due, f"{about}: {name} is {got}, not {due}"
    scale = float(grad.abs().max()) if grad.numel() else 0.0
    assert_close(gradients, case.gradients(inputs, outputs, grad), about, scale)


def _moderate(x: Tensor) -> Tensor:
    return x.masked_fill(x.isfinite() & (x.abs() > 1e3), 1.0)


@check()
def check_alone(case: Case) -> None:
    """An element, or of an operator on rows a row, has alone what it has among others."""
    lead = 2 if case.record.inputs[0].named else 3
    inputs = case.map(case.input(2, dtype=torch.float64), lambda x: x.flatten(0, lead - 1))
    grad = case.incoming(inputs)
    outputs, gradients = case.backward(inputs, grad)
    batched = [one.batched for one in case.differentiable(case.record.inputs)]
    for i in (0, len(grad) // 2, len(grad) - 1):
        part, seed = slice(i, i + 1), Seed(SEED, i)
        one = case.map(inputs, itemgetter(part))
        values, alone = case.backward(one, grad[part], seed=seed)
        case.assert_same(values, [y[part] for y in outputs], f"value of number {i} alone")
        got = [gradient for gradient, yes in zip(alone, batched, strict=True) if yes]
        due = [gradient[part] for gradient, yes in zip(gradients, batched, strict=True) if yes]
        assert_close(got, due, f"{case}: gradient of number {i} alone", float(grad.abs().max()))


@check(lambda case: isinstance(case.rule, Derivative))
def check_defined(case: Case) -> None:
    """A surrogate's derivative is a number at every finite one: 0 / 0 is none, nor inf / inf."""
    assert isinstance(case.rule, Derivative)
    for dtype in (torch.float32, torch.float64):
        x = case.special(dtype)[0]
        wrong = case.rule.derivative(x).isnan() & x.isfinite()
        about = f"{case}: derivative NaN at {x[wrong][:4].tolist()}, {dtype}"
        assert not bool(wrong.any()), about


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
    """The second derivatives are those of the specification, and of finite differences.

    Where a rule draws noise that depends on the logits it is held, so that differences are
    taken along the incoming gradient alone.
    """
    leaves = case.leaves(case.input(dtype=torch.float64))
    grad = case.incoming(leaves).requires_grad_()
    weights = case.differentiable(case.input(dtype=torch.float64, seed=2))
    along = (*case.differentiable(leaves), grad)

    def gradients(inputs: Tensors, grad: Tensor) -> tuple[Tensor, ...]:
        y = case(*inputs)[0]
        return torch.autograd.grad(
            y, case.differentiable(inputs), grad, create_graph=True, materialize_grads=True
        )

    got = _derivatives(gradients(leaves, grad), along, weights)
    outputs = [y.detach() for y in case(*leaves)]
    specified = _derivatives(case.gradients(leaves, outputs, grad), along, weights)
    named = [one.name for one in case.differentiable(case.record.inputs)]
    for name, one, other in zip((*named, "grad"), got, specified, strict=True):
        assert_close(one, other, f"{case}: second derivative along {name}", 10.0)
    _check_differences(case, gradients, leaves, grad)


def _check_differences(
    case: Case,
    gradients: Callable[[Tensors, Tensor], tuple[Tensor, ...]],
    leaves: Tensors,
    grad: Tensor,
) -> None:
    rule = case.rule or case.record.default
    held = rule is not None and rule.draws_noise

    def along(grad: Tensor, *moving: Tensor) -> tuple[Tensor, ...]:
        recorded = [x if x.requires_grad else x.clone().requires_grad_() for x in moving]
        return gradients(case.replaced(leaves, recorded) if moving else leaves, grad)

    points = (grad,) if held else (grad, *case.differentiable(leaves))
    try:
        torch.autograd.gradcheck(along, points, eps=1e-6, atol=1e-5, rtol=1e-4)
    except GradcheckError as error:
        raise AssertionError(f"{case}: second derivative against differences: {error}") from error


def _derivatives(y: Tensors, inputs: Tensors, weights: Tensors) -> tuple[Tensor, ...]:
    """Return the gradients of the sum of `<weight, y>`; zeros where an input is not in it."""
    moving = [(one, weight) for one, weight in zip(y, weights, strict=True) if one.requires_grad]
    outputs, weighted = zip(*moving, strict=True)
    return torch.autograd.grad(outputs, inputs, weighted, materialize_grads=True)


@check()
def check_repeated_backward(case: Case) -> None:
    """Two backwards through one graph give the same gradients; they add up in `.grad`."""
    leaves = case.leaves(case.input())
    grad, moving = case.incoming(leaves), case.differentiable(leaves)
    y = case(*leaves)[0]
    given = torch.autograd.grad(y, moving, grad, retain_graph=True, materialize_grads=True)
    once = [2 * one for one in given]
    y.backward(grad, retain_graph=True)
    y.backward(grad)
    twice = [torch.zeros_like(x) if x.grad is None else x.grad for x in moving]
    assert_bits(twice, once, f"{case}: gradient of two backwards")


@check()
def check_jvp(case: Case) -> None:
    """Forward mode is the transpose of reverse mode, or raises `StraightThroughError`."""
    inputs = case.input(dtype=torch.float64)
    tangents = case.differentiable(case.input(dtype=torch.float64, seed=1))
    moving = case.differentiable(inputs)

    def value(*moving: Tensor) -> Tensor:
        return case(*case.replaced(inputs, moving))[0]

    if not case.forward_mode:
        try:
            torch.func.jvp(value, moving, tangents)
        except StraightThroughError:
            return
        raise AssertionError(f"{case}: forward mode ran, and is declared to raise")
    y, moved = torch.func.jvp(value, moving, tangents)[:2]
    case.assert_same([y], case(*inputs)[:1], "value in forward mode")
    assert (moved.dtype, moved.shape) == (y.dtype, y.shape), (
        f"{case}: the tangent is {moved.dtype}, {moved.shape}, not {y.dtype}, {y.shape}"
    )
    for seed in range(2, 5):
        grad = case.incoming(inputs, seed)
        pairs = zip(case.backward(inputs, grad)[1], tangents, strict=True)
        forward, reverse = (
            (grad * moved).sum(),
            torch.stack([(g * t).sum() for g, t in pairs]).sum(),
        )
        assert_close(forward, reverse, f"{case}: <g, J t> against <J^T g, t>", 10.0)
