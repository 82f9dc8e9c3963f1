"""What kernels of quantized numbers are given, and what they are held against."""

import math

import torch

from straightthrough.core import kernels
from straightthrough.ops.quantize import reference, reference_drawn


def inputs(shape, rows, dtype, high):
    """Values within and beyond the range, ties, the ends, and what is no number."""
    generator = torch.Generator().manual_seed(len(shape) + shape[-1])
    scales = (torch.rand(rows, generator=generator) + 0.5) / 4
    x = torch.randn(shape, generator=generator) * high / 8
    flat = x.view(-1)
    special = torch.tensor([0.0, -0.0, math.nan, math.inf, -math.inf, 1e30, 1e-40])
    steps = torch.tensor([0.5, 1.5, -0.5, 2.5, high, high + 0.5, high + 1, -1.0, -1.5])
    put = torch.cat([special, steps * scales[0]])[: len(flat)]
    flat[: len(put)] = put
    if rows > 5:
        scales[2:6] = torch.tensor([0.0, -1.0, math.nan, math.inf])
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    grad = torch.randn(shape, generator=generator)
    return x.to(dtype), scales.to(wide), grad.to(dtype)


def numbers(rows, dtype):
    """Blocks of zeros, with what is no number, that all but overflow, and denormal ones."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((6, 960), generator=generator)
    x *= torch.exp(4 * torch.randn(x.shape, generator=generator))
    flat = x.view(-1)
    put = [0.0, -0.0, math.nan, math.inf, -math.inf, 0.25, -0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    put += [448.0, 464.0, 465.0, 6.0, -6.5, 7.5, 28.0, 57344.0, 61440.0]
    for start, few in ((0, put[:2] + put[5:]), (240, put[2:3]), (480, put[3:]), (721, put)):
        flat[start : start + len(few)] = torch.tensor(few)
    flat[960:1100], flat[1200:1320], flat[1440] = 0, flat[1200:1320] * 1e-42, 3.3e38
    flat[1680:1920] *= 1e30
    scales = torch.rand(rows, generator=generator) + 0.5
    scales[0] = 1
    if rows > 1:
        scales[2:] = torch.tensor([0.0, -1.0, math.nan, math.inf])
    grad = torch.randn(x.shape, generator=generator).to(dtype)
    return x.to(dtype), scales.to(torch.promote_types(dtype, torch.float32)), grad


def assert_bits_same(got, due):
    assert got.dtype == due.dtype
    assert torch.equal(got.isnan(), due.isnan())
    got, due = got.nan_to_num(7), due.nan_to_num(7)
    assert torch.equal(got, due)
    assert torch.equal(got.signbit(), due.signbit())


def assert_agrees(name, x, grad, laid, *arguments, noise=()):
    """The three kernels of a family against their references, those that draw if there is noise."""
    names = (name, f"{name}_and_inside", f"{name}_backward")
    module = reference_drawn if noise else reference
    values, values_and_inside, backward = (getattr(module, each) for each in names)
    assert kernels.has_kernel(x, name=name)
    due = values.__wrapped__(x, *laid, *arguments, *noise)
    assert_bits_same(values(x, *laid, *arguments, *noise), due)
    for by_value in (False, True):
        given = (*arguments, by_value)
        found, wanted = (
            f(x, *laid, *given, *noise) for f in (values_and_inside, values_and_inside.__wrapped__)
        )
        assert_bits_same(found[0], due)
        assert torch.equal(found[1], wanted[1])
        given += (0.25,)  # the factor of the scale's gradient
        found, wanted = (
            f(x, grad, *laid, *given, *noise) for f in (backward, backward.__wrapped__)
        )
        assert_bits_same(found[0], wanted[0])
        y = values.__wrapped__(x.to(laid[0].dtype), *laid, *arguments, *noise)
        for got, exact, factor in zip(found[1:], wanted[1:], (0.25, 1.0), strict=False):
            assert_close_as_sums(got / factor, exact / factor, y, grad, laid[0])


def assert_close_as_sums(got, exact, y, grad, scales):
    """Within a share of the sum of the sizes of its terms, `|g| (2 |q| + 1)` at most."""
    assert got.dtype == scales.dtype
    assert got.shape == scales.shape
    assert torch.equal(got.isfinite(), exact.isfinite())
    q = (y.double().reshape(len(scales), -1) / scales.double().unsqueeze(-1)).nan_to_num(0, 0, 0)
    terms = grad.double().abs().reshape(q.shape) * (2 * q.abs() + 1)
    off = (got - exact).abs()[got.isfinite()]
    assert bool((off <= 1e-5 * terms.sum(-1)[got.isfinite()]).all())
