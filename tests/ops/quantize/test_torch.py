"""Quantized numbers against torch's own fake quantization, fixed and learnable.

Torch multiplies by the reciprocal of the scale: a code may differ by one, rarely.
"""

import pytest
import torch

import straightthrough as st
from straightthrough.estimators import LSQ, STE, LSQPlus
from straightthrough.grids import Int

COUNT = 400_000


def assert_codes(got, due, scale):
    """At most one code apart, on at most 1e-5 of the entries; return where they are the same."""
    off = ((got - due) / scale).abs()
    same = off < 0.5
    assert off.max() < 1.5
    assert (~same).float().mean() <= 1e-5
    return same


def made(seed):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(COUNT, generator=generator) for _ in range(2))


@pytest.mark.parametrize("zero", [0, 3, -5])
@pytest.mark.parametrize("grid", [Int(8), Int(4), Int(4, narrow=True), Int(2)], ids=str)
def test_a_scale_a_tensor(grid, zero):
    zero = max(min(zero, grid.most), grid.least)
    x, grad = made(zero)
    scale = 2.7 / grid.most
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = st.fake_quantize(ours, scale, zero, grid=grid)
    z = torch.fake_quantize_per_tensor_affine(theirs, scale, zero, grid.least, grid.most)
    same = assert_codes(y, z, scale)
    torch.testing.assert_close(y[same], z[same], rtol=1e-6, atol=0)
    pulled = [torch.autograd.grad(value, leaf, grad)[0] for value, leaf in ((y, ours), (z, theirs))]
    assert torch.equal(pulled[0][same], pulled[1][same])


def test_a_scale_a_channel():
    x = next(made(1)).reshape(-1, 8)
    scale, zero = torch.linspace(0.05, 0.8, 8), torch.arange(-4, 4, dtype=torch.int32)
    y = st.fake_quantize(x, scale, zero, grid=Int(4))
    z = torch.fake_quantize_per_channel_affine(x, scale, zero, 1, -8, 7)
    assert_codes(y, z, scale)


@pytest.mark.parametrize("zero", [0.0, 2.0])
@pytest.mark.parametrize("factor", [False, True])
def test_a_learned_scale_and_zero_point(zero, factor):
    """A factor of LSQ is torch's `grad_factor`; its mask is that of the code."""
    x, grad = made(2)
    rule = LSQPlus("code", batch_dims=0) if factor else STE()
    k = (COUNT * 7) ** -0.5 if factor else 1.0
    ours = [x.clone(), torch.tensor(0.31), torch.tensor(zero)]
    theirs = [x.clone(), torch.tensor([0.31]), torch.tensor([zero])]
    for leaf in (*ours, *theirs):
        leaf.requires_grad_()
    y = st.fake_quantize(*ours, grid=Int(4), rule=rule)
    z = torch._fake_quantize_learnable_per_tensor_affine(*theirs, -8, 7, k)
    same = assert_codes(y, z, 0.31)
    grad = torch.where(same, grad, 0)
    mine, due = torch.autograd.grad(y, ours, grad), torch.autograd.grad(z, theirs, grad)
    assert torch.equal(mine[0], due[0])
    for one, other in zip(mine[1:], due[1:], strict=True):
        torch.testing.assert_close(one, other.squeeze(), rtol=1e-4, atol=1e-3 * k)


def test_lsq_against_autograd_of_the_snippet():
    """Clamp and round with a detached residual, and the scale's gradient multiplied by k."""
    x, grad = (one.double() for one in made(3))
    s = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    leaf, k = x.clone().requires_grad_(), (COUNT * 3) ** -0.5
    scaled = s * k + (s - s * k).detach()
    v = leaf / scaled
    inside = (v.detach() > -4) & (v.detach() < 3)
    clamped = torch.where(inside, v, v.detach().clamp(-4, 3))
    y = (clamped + (clamped.round() - clamped).detach()) * scaled
    due = torch.autograd.grad(y, (leaf, s), grad)
    ours = st.fake_quantize(leaf, s, grid=Int(3), rule=LSQ(batch_dims=0))
    found = torch.autograd.grad(ours, (leaf, s), grad)
    torch.testing.assert_close(ours, y)
    for one, other in zip(found, due, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_sums_of_half_precision_are_wide():
    """Four million terms of bfloat16, whose sum in bfloat16 would be off by far more."""
    x = torch.full((2048, 2048), 0.25, dtype=torch.bfloat16)
    s = torch.tensor(1.0, requires_grad=True)
    y = st.fake_quantize(x, s, grid=Int(4))
    to_s = torch.autograd.grad(y.float().sum() * 2**-20, s)[0]
    assert to_s.item() == -0.25 * 4
