"""Floating formats: every value by its bits, ties, saturation; torch's and ml_dtypes' casts."""

import math

import ml_dtypes
import numpy as np
import pytest
import torch

import straightthrough as st
from straightthrough.grids import Float

NAMES = ["e4m3", "e5m2", "e2m1", "e2m3", "e3m2"]
OTHERS = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
}


def inputs(name):
    """Values of every size, every value of the format, and every middle between two."""
    bits = 8 if name in ("e4m3", "e5m2") else 4 if name == "e2m1" else 6
    every = Float(name).decode(torch.arange(2**bits)).numpy()
    finite = np.unique(every[np.isfinite(every)])
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randn(20_000, generator=generator) * 3
    drawn = torch.randn(20_000, generator=generator) * 10**sizes
    middles = (finite[1:].astype(float) + finite[:-1]) / 2
    return torch.cat([drawn, torch.from_numpy(finite), torch.from_numpy(middles).float()])


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_ml_dtypes_saturated(name):
    grid, x = Float(name), inputs(name)
    found = grid.nearest(x)
    due = x.clamp(grid.low, grid.high).numpy().astype(OTHERS[name]).astype(np.float32)
    assert np.array_equal(found.numpy(), due)
    assert np.array_equal(np.signbit(found.numpy()), np.signbit(due))


@pytest.mark.parametrize("name", NAMES)
def test_codes_are_the_bits_of_ml_dtypes(name):
    grid, x = Float(name), inputs(name)
    codes = grid.codes(x)
    cast = x.clamp(grid.low, grid.high).numpy().astype(OTHERS[name])
    assert np.array_equal(codes.numpy(), cast.view(np.uint8).astype(np.int32))
    assert torch.equal(grid.decode(codes), grid.nearest(x))


@pytest.mark.parametrize(
    ("name", "dtype"), [("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)]
)
def test_values_are_those_of_torchs_cast_in_the_range(name, dtype):
    grid, x = Float(name), inputs(name)
    x = x[x.abs() <= grid.high]
    assert torch.equal(grid.nearest(x), x.to(dtype).to(torch.float32))
    wide = x.double()
    assert torch.equal(grid.nearest(wide).float(), grid.nearest(x))


def test_ties_and_ends_by_hand():
    grid = Float("e2m1")
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 7.0, 1e30, math.inf])
    assert grid.nearest(ties).tolist() == [0, 1, 1, 2, 2, 4, 4, 6, 6, 6]
    assert grid.nearest(-ties).tolist() == [0, -1, -1, -2, -2, -4, -4, -6, -6, -6]
    assert grid.nearest(torch.tensor([math.nan])).isnan().all()
    assert grid.inside(torch.tensor([-6.1, -6.0, 5.9, math.nan])).tolist() == [0, 1, 1, 0]
    assert grid.inside(torch.tensor([-6.0, 5.9]), what="value").tolist() == [0, 1]
    assert grid.width(torch.tensor([0.0, 0.9, 1.0, 2.5, 4.0, 90.0])).tolist() == [
        *(0.5, 0.5, 0.5, 1.0, 2.0, 2.0)
    ]
    assert [Float(name).high for name in NAMES] == [448, 57344, 6, 7.5, 28]


def test_what_is_no_format():
    with pytest.raises(st.ArgumentError, match=r"name must be one of e4m3, .*, got 'e4m4'"):
        Float("e4m4")
