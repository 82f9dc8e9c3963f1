"""Correctness first: a case that disagrees with its specification is not timed."""

from __future__ import annotations

import torch
from torch import Tensor

from straightthrough.core import kernels
from straightthrough.testing import assert_close, check_gradient, check_hard_value
from straightthrough.testing.case import SEED

from .cases import Case, Inputs
from .shapes import Shape

ELEMENTS = 2**20
"""How many elements of a shape are checked, in whole rows."""

FLIPS = 1e-5
"""The share of draws that may differ from the reference's, by rounding at a boundary."""


def disagreement(case: Case, shapes: tuple[Shape, ...]) -> str | None:
    """Return what is wrong with a case, or None.

    A registered operator must pass the conformance suite's checks of value and gradient; and at
    every shape that is timed, what serves must agree with the reference under the same seed.
    """
    if case.composed:
        return None
    try:
        if case.conformance is not None:
            check_hard_value(case.conformance)
            check_gradient(case.conformance)
        for shape in shapes:
            _check_against_reference(case, shape)
    except AssertionError as error:
        return str(error)
    return None


def _check_against_reference(case: Case, shape: Shape) -> None:
    rows = max(1, ELEMENTS // shape[-1])
    inputs = case.inputs((min(shape[0], rows), *shape[1:]))
    y, gradients, grad = _pull(case, inputs)
    with kernels.disabled():
        expected, expected_gradients, _ = _pull(case, inputs)
    about = f"{case.name} at {list(shape)}"
    same = torch.isclose(y, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
    same = same.all(-1) if case.rows else same
    allowed = 1 + int(FLIPS * same.numel()) if case.samples else 0
    flips = same.numel() - int(same.sum())
    assert flips <= allowed, f"{about}: {flips} values are not the reference's, {allowed} may be"
    scale = float(grad.abs().max())
    for got, due in zip(gradients, expected_gradients, strict=True):
        if got.shape[: same.ndim] == same.shape:
            assert_close(got[same], due[same], f"{about}: gradient", scale)
        elif not flips:
            # A gradient that sums over rows, as a table's, where all rows agree: on the way the sum
            # of random terms is as large as the root of their number.
            terms = grad.numel() / max(got.numel(), 1)
            assert_close(got, due, f"{about}: gradient", scale * max(terms, 1) ** 0.5)


def _pull(case: Case, inputs: Inputs) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Return the value, the gradients to all inputs, and the gradient that came in."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    seed = {"seed": SEED} if case.samples else {}
    y = case.function(*leaves, **seed)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return y.detach(), torch.autograd.grad(y, leaves, grad, materialize_grads=True), grad
