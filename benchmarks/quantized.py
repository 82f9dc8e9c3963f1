"""Quantized weights, laid and learned in several ways: ours, torch's own operators, and torchao."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import straightthrough as st
from straightthrough.core.registry import OPERATORS

from . import plain

GRID = st.grids.Int(4)
UNSIGNED = st.grids.Int(4, signed=False)
SCALE = 0.25
"""Of what does not learn; torch multiplies by its reciprocal, which a power of two has."""

Value = Callable[..., Tensor]


def inputs(shape: tuple[int, ...]) -> tuple[Tensor]:
    """Return the weights."""
    return (torch.randn(shape, generator=torch.Generator().manual_seed(0)),)


def with_scale(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return the weights and a scale that learns."""
    return (*inputs(shape), torch.tensor(0.3))


def with_zero_point(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return the weights, a scale and a zero point that learn."""
    return (*with_scale(shape), torch.tensor(7.0))


def ours(rule: st.estimators.GridEstimator | str = "ste", grid: st.grids.Grid = GRID) -> Value:
    """Return the operator of the registry, of what learns or with a scale that does not."""
    call = OPERATORS["fake_quantize"].call

    def value(x: Tensor, *laid: Tensor) -> Tensor:
        y: Tensor = call(x, *(laid or (SCALE,)), grid=grid, rule=rule)
        return y

    return value


def snippet(x: Tensor) -> Tensor:
    """What is written with `detach`."""
    return plain.fake_quantize(x, torch.tensor(SCALE), GRID)


def learned_snippet(x: Tensor, scale: Tensor) -> Tensor:
    """The same with the scale of LSQ, whose gradient is multiplied by its factor."""
    k = _factor(x)
    s = plain.substitute(scale, scale * k)
    v = (x / s).clamp(GRID.least, GRID.most)
    return plain.substitute(v.round(), v) * s


def of_torch(x: Tensor) -> Tensor:
    """Torch's own operator."""
    return torch.fake_quantize_per_tensor_affine(x, SCALE, 0, GRID.least, GRID.most)


def learned_of_torch(x: Tensor, scale: Tensor, *zero: Tensor) -> Tensor:
    """Torch's own operator that learns, whose zero point is 0 where there is none."""
    of_zero, grid = (zero[0], UNSIGNED) if zero else (torch.zeros(()), GRID)
    factor = 1.0 if zero else _factor(x)
    y: Tensor = torch._fake_quantize_learnable_per_tensor_affine(
        x, scale.reshape(1), of_zero.reshape(1), grid.least, grid.most, factor
    )
    return y


def _factor(x: Tensor) -> float:
    return float((x.numel() * GRID.most) ** -0.5)


# ---- torchao ----


def their_integers(library: Any) -> Value:
    """Return its fake quantization of integers with one scale."""
    scale, zero = torch.tensor([SCALE]), torch.zeros(1, dtype=torch.int32)

    def value(x: Tensor, *_: Tensor) -> Tensor:
        y: Tensor = library._fake_quantize_affine(
            x, tuple(x.shape), scale, zero, torch.int8, GRID.least, GRID.most
        )
        return y

    return value


class _Through(torch.autograd.Function):
    """A function of a tensor forward, the gradient unchanged backward: torchao's training."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def their_mx(library: Any) -> Value:
    """Return its MX with elements of E2M1, to the format and back."""

    def both_ways(x: Tensor) -> Tensor:
        packed = library.MXTensor.to_mx(x / SCALE, torch.float4_e2m1fn_x2, 32)
        y: Tensor = packed.dequantize(x.dtype) * SCALE
        return y

    return lambda x: _Through.apply(x, both_ways)


def their_nvfp4(library: Any) -> Value:
    """Return its NVFP4, to the format and back."""
    scale = torch.tensor(SCALE)

    def both_ways(x: Tensor) -> Tensor:
        packed = library.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale)
        y: Tensor = packed.dequantize(x.dtype)
        return y

    return lambda x: _Through.apply(x, both_ways)
