"""What the kernels of quantized integers must equal, in plain torch.

There is one scale a row, in what the input is computed in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.bits import pack, unpack
from ...core.kernels import bits, kernel, like
from ...core.precision import cast, compute_dtype, widest

ROWS = "Tensor x, Tensor scales, float low, float high"


def in_units(x: Tensor, scale: Tensor) -> Tensor:
    """Return `x / scale` in the dtype of `x`, NaN where the scale is not finite or above 0."""
    s = scale.to(x.dtype)
    return x / torch.where((s > 0) & (s < torch.inf), s, torch.nan)


def _steps(x: Tensor, scales: Tensor) -> Tensor:
    """Return the rows of the input in steps."""
    wide = x.to(compute_dtype(x.dtype))
    return in_units(wide.reshape(scales.shape[0], -1), scales.unsqueeze(-1))


def _codes(v: Tensor, low: Any, high: Any) -> Tensor:
    return torch.round(v).clamp(cast(low, v.dtype), cast(high, v.dtype)) + 0.0


def _inside(v: Tensor, low: Any, high: Any, by_value: bool) -> Tensor:
    low, high = cast(low, v.dtype), cast(high, v.dtype)
    if by_value:
        return (v > low) & (v < high)
    code = torch.round(v)
    return (code >= low) & (code <= high)


@kernel(f"({ROWS}) -> Tensor")
def integers(x: Tensor, scales: Tensor, low: float, high: float) -> Tensor:
    """Return the nearest multiple of the scale, from `low` to `high` times it."""
    y = _codes(_steps(x, scales), low, high) * scales.unsqueeze(-1)
    return y.reshape(x.shape).to(x.dtype)


@kernel(f"({ROWS}, bool by_value) -> (Tensor, Tensor)", like, bits)
def integers_and_inside(
    x: Tensor, scales: Tensor, low: float, high: float, by_value: bool
) -> tuple[Tensor, Tensor]:
    """Return `integers`, and the bits that say what lies in the range."""
    inside = _inside(_steps(x, scales), low, high, by_value)
    return integers(x, scales, low, high), pack(inside)


@kernel("(Tensor grad, Tensor bits) -> Tensor")
def passed_bits(grad: Tensor, bits: Tensor) -> Tensor:
    """Return the gradient where the bit is set, and 0 elsewhere."""
    return torch.where(unpack(bits, grad.shape), grad, 0)


def of_scale(x: Tensor, grad: Tensor, scales: Tensor, *_: Any) -> Tensor:
    """A result of one number a scale, in float64 where there is one."""
    return scales.new_empty(scales.shape, dtype=widest(scales.device))


@kernel(
    "(Tensor x, Tensor grad, Tensor scales, float low, float high, bool by_value)"
    " -> (Tensor, Tensor)",
    like,
    of_scale,
)
def integers_backward(
    x: Tensor, grad: Tensor, scales: Tensor, low: float, high: float, by_value: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradient in the range, and the sums of `g (q - v)` there and `g q` beyond it."""
    v = _steps(x, scales)
    g, inside = grad.to(v.dtype).reshape(v.shape), _inside(v, low, high, by_value)
    share = _codes(v, low, high) - torch.where(inside, v, 0)
    share = torch.where(v.isnan(), 0, g * share)
    to_x = torch.where(inside, g, 0).reshape(x.shape).to(x.dtype)
    return to_x, share.sum(-1, dtype=widest(share.device))
