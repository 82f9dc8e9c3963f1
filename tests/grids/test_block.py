"""Blocks with scales of their own: by hand, by logarithms, and what holds of all."""

import math

import pytest
import torch

import straightthrough as st
from straightthrough.grids import MX, NVFP4

# Mode, the largest size of a block of E2M1 (E = 2, P = 6, M = 1), its scale.
SCALES = [
    ("floor", 6.0, 1.0),
    ("floor", 7.9, 1.0),
    ("floor", 8.0, 2.0),
    ("floor", 0.3, 2**-4),
    ("floor", 3e38, 2.0**125),  # twice the power of two in it is infinite
    ("ceil", 4.0, 1.0),
    ("ceil", 4.1, 2.0),
    ("ceil", 2e38, 2.0**126),
    ("rceil", 6.0, 1.0),
    ("rceil", 6.1, 2.0),
    ("rceil", 0.75, 2**-3),
    ("even", 6.9, 1.0),
    ("even", 7.0, 2.0),  # rounded to one bit it is 8
    ("even", 5.1, 1.0),
    ("even", 3.3e38, 2.0**126),
]


@pytest.mark.parametrize(("mode", "largest", "due"), SCALES)
def test_scales_of_mx_by_hand(mode, largest, due):
    v = torch.tensor([[0.1, -largest, 0.2, 0.0]])
    assert MX("e2m1", 4, mode).scales(v).tolist() == [[due]]


@pytest.mark.parametrize("mode", ["floor", "ceil", "rceil", "even"])
def test_the_least_number_has_the_least_scale(mode):
    """A sixth of it is 0."""
    v = torch.full((4,), 2.0**-149)
    grid = MX("e2m1", 4, mode)
    assert grid.scales(v).tolist() == [2.0**-126]
    assert st.fake_quantize(v, 1.0, grid=grid, rule="identity").tolist() == [0.0] * 4


def test_values_of_mx_by_hand():
    """Two blocks, of scales 2 and 2^-3; 15 saturates at 6 * 2."""
    v = torch.tensor([15.0, 1.0, -5.1, 0.4, 0.7, -0.06, 0.0, 0.03])
    grid = MX("e2m1", 4)
    assert grid.scales(v).tolist() == [2.0, 0.125]
    assert grid.nearest(v).tolist() == [12, 1, -6, 0, 0.75, -0.0625, 0, 0]
    assert grid.codes(v).tolist() == [7, 1, 8 + 5, 0, 7, 8 + 1, 0, 0]
    assert grid.inside(v).tolist() == [False, *[True] * 7]


def test_values_of_nvfp4_by_hand():
    """A largest size of 9 gives the scale 1.5; one of 9.6 that of 1.6, which rounds to 1.625."""
    v = torch.tensor([9.0, 3.0, *[0.7] * 14, 9.6, *[-4.0] * 15])
    grid = NVFP4()
    assert grid.scales(v).tolist() == [1.5, 1.625]
    assert grid.nearest(v)[:3].tolist() == [9, 3, 0.75]
    assert grid.nearest(v)[16:18].tolist() == [9.75, -3.25]
    assert grid.scales(1e-6 * v).tolist() == [2**-6, 2**-6]
    assert grid.scales(1e6 * v).tolist() == [448, 448]


@pytest.mark.parametrize("grid", [MX(block=4), NVFP4()], ids=str)
def test_a_block_that_is_not_finite_is_nan_and_zeros_stay(grid):
    v = torch.zeros(3, grid.size)
    v[0, 1], v[1, 1] = math.nan, math.inf
    y = grid.nearest(v)
    assert y[:2].isnan().all()
    assert y[2].tolist() == [0] * grid.size
    x, s = v.clone().requires_grad_(), torch.tensor(1.0, requires_grad=True)
    st.fake_quantize(x, s, grid=grid).nan_to_num(0).sum().backward()
    assert s.grad == 0
    assert x.grad[2].tolist() == [1] * grid.size


def test_a_power_of_two_moves_with_the_scale():
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    for grid in (MX(), MX("e4m3"), MX("e2m3", mode="even"), MX("e3m2", mode="ceil")):
        y = grid.nearest(x)
        assert torch.equal(grid.nearest(8 * x), 8 * y)
        assert torch.equal(st.fake_quantize(x, 4.0, grid=grid), y)
        assert torch.equal(grid.nearest(y), y)


WRONG = [
    (lambda: MX("e1m1"), "element must be one of e4m3, e5m2, e2m1, e2m3, e3m2, got 'e1m1'"),
    (lambda: MX(block=0), "block must be an int of at least 1, got 0"),
    (lambda: MX(mode="up"), "mode must be one of floor, ceil, rceil, even, got 'up'"),
    (
        lambda: st.fake_quantize(torch.zeros(2, 48), 1.0, grid=MX()),
        "blocks of 32 do not divide the last dimension of x, of shape (2, 48)",
    ),
    (lambda: st.fake_quantize(torch.zeros(()), 1.0, grid=NVFP4()), "blocks of 16 do not divide"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_wrong_arguments(call, message):
    with pytest.raises(st.StraightThroughError) as caught:
        call()
    assert message in str(caught.value)


def test_scales_of_blocks_are_bytes():
    """E8M0 by the standard: 127 is 1, and 0, below the least scale, does not occur."""
    grid = MX("e2m1")
    scales = torch.tensor([2.0**e for e in range(-126, 128)])
    codes = grid.scale_codes(scales)
    assert codes.dtype == torch.uint8
    assert codes.tolist() == [*range(1, 255)]
    assert torch.equal(grid.decode_scales(codes), scales)
    due = codes.view(torch.float8_e8m0fnu).float()
    assert torch.equal(grid.decode_scales(codes), due)
    e4m3 = torch.arange(8, 127, dtype=torch.uint8)  # from 2^-6 to 448
    scales = e4m3.view(torch.float8_e4m3fn).float()
    assert torch.equal(NVFP4().scale_codes(scales), e4m3)
    assert torch.equal(NVFP4().decode_scales(e4m3), scales)


def test_the_byte_of_a_scale_that_is_nan_is_the_standards():
    codes = MX("e2m1").scale_codes(torch.tensor([math.nan, 2.0**-127]))
    assert codes.tolist() == [255, 0]
    decoded = MX("e2m1").decode_scales(codes)
    assert decoded[0].isnan()
    assert decoded[1] == 2.0**-127


@pytest.mark.parametrize("scale", [2.0**-128, 2.0**-149, 2.0**128, 3.0, -1.0, 0.0, math.inf])
def test_a_scale_that_has_no_byte_is_refused(scale):
    with pytest.raises(st.ArgumentError, match=r"power of two from 2\^-127 to 2\^127, got"):
        MX("e2m1").scale_codes(torch.tensor([1.0, scale], dtype=torch.float64))
