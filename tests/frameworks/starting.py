"""What ranks do in the tests of scales that start on several ranks at once."""

from __future__ import annotations

import torch
from torch import Tensor

import straightthrough as st
from straightthrough.scales import Learned, Observed, Scale

SCALES = (
    Learned(start="max"),
    Learned(start="lsq"),
    Learned(axis=-1),
    Learned(start="max", zero_point=True),
    Learned(start="max", offset=True),
    Observed(zero_point=True),
)


def quantizer(scale: Scale) -> st.nn.Quantizer:
    return st.nn.Quantizer(st.grids.Int(4), scale, shape=(6, 3))


def assert_scales_of(found: st.nn.Quantizer, x: Tensor) -> None:
    """Assert that a quantizer has the scale and the shift that `x` has by a formula."""
    assert bool(found.started)
    wide, shared = x.double(), [0] if found.scaling.axis == -1 else [0, 1]
    if found.scaling.shifts:
        low = wide.amin().clamp(max=0) if found.scaling.shifts == "zero_point" else wide.amin()
        scale = (wide.amax() - low) / 15
        shift = -8 - low / scale if found.scaling.shifts == "zero_point" else low + 8 * scale
        moved = found.zero_point if found.offset is None else found.offset
        torch.testing.assert_close(moved.detach().double(), shift, rtol=1e-5, atol=1e-6)
    elif isinstance(found.scaling, Learned) and found.scaling.start == "max":
        scale = wide.abs().amax() / 7
    else:
        scale = 2 * wide.abs().mean(shared) / 7**0.5
    torch.testing.assert_close(found.scale.detach().double().squeeze(), scale, rtol=1e-5, atol=1e-6)


def try_some_have_none(rank: int) -> None:
    """Of three ranks one has rows; of the others one has none, and one nothing that is finite."""
    rows = torch.arange(18.0).reshape(6, 3).sub(5)
    nothing = torch.full((6, 3), torch.nan)
    nothing[0] = torch.inf
    for scale in SCALES:
        own = quantizer(scale)
        x = (rows, rows[:0], nothing)[rank].clone().requires_grad_()
        own(x).nansum().backward()
        assert_scales_of(own, rows)
        own = quantizer(scale)
        own((rows[:0], rows[:0], nothing)[rank])
        assert not bool(own.started), "nothing starts where no rank has anything"
        own.start((rows[:0], nothing, rows)[rank])
        assert_scales_of(own, rows)


def try_channels(rank: int) -> None:
    """A channel starts at the mean of those ranks that see it."""
    x = torch.tensor([[1.0, 2.0, 4.0]]) * (rank + 1)
    x[:, rank] = torch.nan
    own = st.nn.Quantizer(st.grids.Int(4), Learned(axis=-1, start="max"), shape=(1, 3))
    own(x)
    wanted = torch.tensor([2.0, 1.0 * 2, 1.5 * 4]) / 7
    torch.testing.assert_close(own.scale.detach().squeeze(), wanted)
