"""Stochastic rounding: what is whole stays, means are right, values are neighbours."""

import math

import pytest
import torch

import straightthrough as st
from straightthrough.grids import MX, NVFP4, Binary, Float, HalfInt, Int, Stretched, Ternary
from straightthrough.testing import DTYPES

GRIDS = [Int(4), Int(2, signed=False), Stretched(1.58), Stretched(2), Ternary(), Binary()]
GRIDS += [HalfInt(3), Float("e4m3"), Float("e2m1"), MX("e2m1", 4), NVFP4()]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_whole_numbers_never_move(dtype):
    whole = torch.tensor([0.0, -0.0, 1.0, -3.0, 200.0, 255.0, 1000.0, math.inf, -math.inf])
    many = whole.to(dtype).expand(5000, -1)
    assert torch.equal(st.stochastic_round(many, seed=1), many)
    assert st.stochastic_round(torch.tensor([math.nan], dtype=dtype)).isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_mean_is_the_input(dtype):
    x = torch.tensor([-2.75, -0.125, 0.25, 0.5, 100.5], dtype=dtype)
    trials = 40_000
    y = st.stochastic_round(x.expand(trials, -1), seed=2).double()
    assert set(y[:, 2].tolist()) == {0.0, 1.0}
    off = (y.mean(0) - x.double()).abs()
    assert bool((off < 5 * 0.5 / math.sqrt(trials)).all())
    variance = y.var(0)
    fraction = x.double() - x.double().floor()
    torch.testing.assert_close(variance, fraction * (1 - fraction), rtol=0, atol=0.01)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_draw_is_a_value_beside_the_input_and_its_mean_is_the_input(grid):
    generator = torch.Generator().manual_seed(3)
    row = torch.rand(16, generator=generator) * 1.2 * min(grid.high, 6) - 0.6 * min(grid.high, 6)
    row = row.clamp(max(grid.low, -6), min(grid.high, 6))
    trials = 20_000
    x = row.expand(trials, -1)
    y = st.stochastic_quantize(x, 1.0, grid=grid, seed=4)
    width = torch.as_tensor(grid.width(row)).expand(16)
    assert bool(((y - x).abs() <= width * (1 + 1e-5)).all())
    assert torch.equal(grid.nearest(y[:50]), y[:50]) or isinstance(grid, Stretched | NVFP4)
    off = ((y.double().mean(0) - row.double()) * grid.inside(row)).abs()
    assert bool((off <= 5 * width * 0.5 / math.sqrt(trials) + 1e-6).all())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_values_of_the_grid_never_move(grid):
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(5)) * 2
    y = st.fake_quantize(x, 1.0, grid=grid)
    if not isinstance(grid, Stretched | NVFP4):  # whose values are not the float32 that they name
        for seed in range(3):
            assert torch.equal(st.stochastic_quantize(y, 1.0, grid=grid, seed=seed), y)
    far = torch.full((64, 16), 1e6)
    if not isinstance(grid, MX | NVFP4):
        assert torch.equal(
            st.stochastic_quantize(far, 1.0, grid=grid, seed=0),
            st.fake_quantize(far, 1.0, grid=grid),
        )


def test_gradients_at_the_value_that_was_drawn():
    """At v = .4 the draws are 0 and 1: the scale's gradient is their error, its mean 0."""
    s = torch.tensor(0.5, requires_grad=True)
    x = torch.full((10_000,), 0.2, requires_grad=True)
    y = st.stochastic_quantize(x, s, grid=Int(4), seed=6)
    to_x, to_s = torch.autograd.grad(y.sum(), (x, s))
    assert to_x.tolist() == [1] * 10_000
    due = (y / 0.5 - 0.4).sum()
    torch.testing.assert_close(to_s, due.detach(), rtol=1e-4, atol=1e-2)
    assert abs(due) / 10_000 < 0.03
