"""Rules for the rounding alone: the rate and the start at which they are the plain rule."""

import copy
import math

import pytest
import torch
from torch import nn

import straightthrough as st
from straightthrough.studies.qat import rounding
from straightthrough.studies.qat.model import SMALL, inner, network

GRID = st.grids.Int(6)


def test_the_stretch_is_the_integral_in_closed_form():
    a = 0.1 * math.sqrt(2) * math.pi  # of (1 + a cos(pi d)) / (1 - a cos(pi d))
    steep = math.sqrt((1 + a) / (1 - a))
    poly = 2 * (4 / (math.pi * math.sqrt(1 - a * a)) * math.atan(steep) - 0.5)
    assert rounding.matched(st.estimators.Poly())[0] == pytest.approx(poly, rel=1e-5)
    corner = (3 * 5) ** (1 / (1 / 5 - 1))  # m below which the factor of DGE is its cap
    dge = 5 / 1.8 * (1 - corner**1.8) + corner / 3
    assert rounding.matched(st.estimators.DGE())[0] == pytest.approx(dge, rel=1e-5)
    assert rounding.matched(st.estimators.STE())[0] == pytest.approx(1)


@pytest.mark.parametrize("name", rounding.OTHERS)
def test_a_start_moves_within_its_cell_and_is_odd(name):
    _, start = rounding.matched(rounding.OTHERS[name])
    inside = torch.linspace(-0.5, 0.5, 101)
    moved = start(inside)
    assert moved[[0, 50, 100]].tolist() == pytest.approx([-0.5, 0, 0.5], abs=1e-6)
    torch.testing.assert_close(moved, -moved.flip(0))
    assert (moved.diff() > 0).all()
    assert (moved - inside).abs().max() > 0.02


def codes_on_a_slope(rule, rate, start, slope, steps=800):
    """Return the codes of weights that plain descent takes down a loss of constant slopes."""
    weight = start.clone().requires_grad_()
    seen = []
    for _ in range(steps):
        y = st.fake_quantize(weight, 1.0, grid=GRID, rule=rule)
        (gradient,) = torch.autograd.grad((slope * y).sum(), weight)
        with torch.no_grad():
            weight -= rate * gradient
        seen.append(GRID.codes(weight.detach()))
    return torch.stack(seen)


@pytest.mark.parametrize("name", rounding.OTHERS)
def test_with_its_rate_and_start_a_rule_goes_the_way_of_the_plain_one(name):
    rule = rounding.OTHERS[name]
    stretch, move = rounding.matched(rule)
    draw = torch.Generator().manual_seed(0)
    start = 8 * torch.rand(500, generator=draw, dtype=torch.float64) - 4
    slope = torch.randn(500, generator=draw, dtype=torch.float64)
    cell = start.round()
    plain = codes_on_a_slope(rounding.PLAIN, 0.005, start, slope)
    moved = codes_on_a_slope(rule, 0.005 * stretch, cell + move(start - cell), slope)
    rate_alone = codes_on_a_slope(rule, 0.005 * stretch, start, slope)
    as_it_is = codes_on_a_slope(rule, 0.005, start, slope)
    shares = [(codes == plain).double().mean() for codes in (moved, rate_alone, as_it_is)]
    assert shares[0] > 0.99
    assert shares[1] < 0.97
    assert shares[2] < 0.75


def test_variants_differ_in_what_their_names_say():
    torch.manual_seed(0)
    start = network(SMALL, (8, 8), 10)
    variants = rounding.variants(descent=True)
    assert set(rounding.variants(descent=False)) < set(variants)
    nets = {n: rounding.prepared(copy.deepcopy(start), v) for n, v in variants.items()}
    first = nets["ste"]
    for name, net in nets.items():
        for (weight, quantizer), (own, plain) in zip(inner(net), inner(first), strict=True):
            assert torch.equal(quantizer.scale, plain.scale)
            assert not any(p.requires_grad for p in quantizer.parameters())
            shift = ((weight - own) / quantizer.scale).abs().max()
            if name.endswith("and start"):
                assert 0.02 < shift < 0.5
                assert torch.equal(quantizer.codes(weight), plain.codes(own))
            elif "moved" in name:
                assert 0.5 * rounding.MOVED < shift <= 1.01 * rounding.MOVED
            else:
                assert shift < 1e-5
        assert torch.equal(net[9].weight, start[9].weight)
        assert type(net[9]) is nn.Linear
