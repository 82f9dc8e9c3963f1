"""Second derivatives of quantized numbers beside inputs that are infinite or NaN."""

import math

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough.grids import MX, Float, HalfInt, Int, Ternary

RULES = ["ste", "lsq", "pact", "tqt", "ewgs", "trust", "poly", "dge", "identity"]
GRIDS = pytest.mark.parametrize("grid", [Int(4), HalfInt(3), Ternary(), Float("e2m1")], ids=str)


def second(values: list[float], grid: st.grids.Grid, rule: str) -> tuple[Tensor, ...]:
    """Return the derivatives of a sum of gradients to the input, the scale and the gradient."""
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    s = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    grad = torch.linspace(0.5, 1, len(values), dtype=torch.float64).requires_grad_()
    y = st.fake_quantize(x, s, grid=grid, rule=rule)
    to_x, to_s = torch.autograd.grad(y, (x, s), grad, create_graph=True)
    return torch.autograd.grad(to_x.sum() + to_s, (x, s, grad))


@GRIDS
@pytest.mark.parametrize("rule", RULES)
def test_infinities_are_what_lies_far_beyond_the_range(grid, rule):
    due = second([0.3, 0.5, 1e6, -1e6], grid, rule)
    found = second([0.3, 0.5, math.inf, -math.inf], grid, rule)
    torch.testing.assert_close(found, due, rtol=1e-9, atol=1e-9)


@GRIDS
@pytest.mark.parametrize("rule", RULES)
def test_what_is_nan_spoils_nothing_else(grid, rule):
    to_x, to_s, to_grad = second([0.3, 0.5, math.nan], grid, rule)
    assert to_x[:2].isfinite().all()
    assert to_s.isfinite()
    assert to_grad[:2].isfinite().all()


@pytest.mark.parametrize("rule", ["ste", "lsq", "pact", "identity"])
def test_a_block_that_is_nan_spoils_no_other(rule):
    _, to_s, _ = second([0.3, 0.5, -0.7, 0.2, math.inf, 0.1, 0.2, 0.3], MX(block=4), rule)
    assert to_s.isfinite()
