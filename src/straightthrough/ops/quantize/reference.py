"""What the kernels of quantized numbers must equal, in plain torch.

There is one scale a row, in what the input is computed in, and one shift where there are any: a
zero point, which is rounded, or an offset, which is taken off before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.bits import pack, unpack
from ...core.kernels import bits, kernel, like
from ...core.precision import cast, compute_dtype, widest
from ...grids import MX, NVFP4, Float, Grid
from ...grids.grid import Rounding

ROWS = "Tensor x, Tensor scales, float low, float high"
SHIFTED = "Tensor x, Tensor scales, Tensor shifts, bool by_offset, float low, float high"
FORMAT = "str element, int block, str mode"


def pulling(arguments: str) -> str:
    """Return the arguments of a backward, of those of its forward."""
    return f"{arguments.replace('x,', 'x, Tensor grad,')}, bool by_value, float factor"


def in_units(x: Tensor, scale: Tensor) -> Tensor:
    """Return `x / scale` in the dtype of `x`, NaN where the scale is not finite or above 0."""
    s = scale.to(x.dtype)
    s = torch.where((s > 0) & (s < torch.inf), s, torch.nan)
    v = x / s
    if not v.requires_grad:  # it does where a second derivative is due
        return v
    far = ~v.isfinite()  # its slope along the scale isn't either, and 0 times that is NaN
    return torch.where(far, v.detach(), x.masked_fill(far, 0) / s)


def in_steps(x: Tensor, scales: Tensor) -> Tensor:
    """Return the rows of the input in steps."""
    return in_units(_rows(x, scales), scales.reshape(-1, 1))


def _rows(x: Tensor, scales: Tensor) -> Tensor:
    return x.to(compute_dtype(x.dtype)).reshape(scales.numel(), -1)


def whole(
    v: Tensor, zero: Tensor | float, low: Any, high: Any, rounding: Rounding = torch.round
) -> Tensor:
    """Return codes from `low` to `high`, less that of the value 0."""
    return (rounding(v) + zero).clamp(cast(low, v.dtype), cast(high, v.dtype)) - zero


def in_range(v: Tensor, zero: Tensor | float, low: Any, high: Any, by_value: bool) -> Tensor:
    """Return what lies between `low` and `high`, by its value or by its code."""
    low, high = cast(low, v.dtype), cast(high, v.dtype)
    if by_value:
        return (v > low - zero) & (v < high - zero)
    code = torch.round(v) + zero
    return (code >= low) & (code <= high)


def of_rows(q: Tensor, scales: Tensor, x: Tensor) -> Tensor:
    """Return values of the grid in the units of the input, of its shape and dtype."""
    # A copy, as torch lets nobody write to a value that is a view.
    return (q * scales.reshape(-1, 1)).reshape(x.shape).to(x.dtype, copy=True)


def pulled(
    v: Tensor, q: Tensor, inside: Tensor, x: Tensor, grad: Tensor, scales: Tensor, factor: float
) -> tuple[Tensor, ...]:
    """Return the gradient in the range, and two sums: that of the scale, and of what is beyond."""
    g, wide = grad.to(v.dtype).reshape(v.shape), widest(v.device)
    to_x = torch.where(inside, g, 0)
    share = torch.where(q.isnan(), 0, g * (q - torch.where(inside, v, 0)))
    beyond = torch.where(q.isnan(), 0, g - to_x)
    to_scale, to_shift = share.sum(-1, dtype=wide) * factor, beyond.sum(-1, dtype=wide)
    sums = (each.to(scales.dtype).reshape(scales.shape) for each in (to_scale, to_shift))
    return to_x.reshape(x.shape).to(x.dtype), *sums


@kernel(f"({ROWS}) -> Tensor")
def integers(x: Tensor, scales: Tensor, low: float, high: float) -> Tensor:
    """Return the nearest multiple of the scale, from `low` to `high` times it."""
    return of_rows(whole(in_steps(x, scales), 0.0, low, high), scales, x)


@kernel(f"({ROWS}, bool by_value) -> (Tensor, Tensor)", like, bits)
def integers_and_inside(
    x: Tensor, scales: Tensor, low: float, high: float, by_value: bool
) -> tuple[Tensor, Tensor]:
    """Return `integers`, and the bits that say what lies in the range."""
    inside = in_range(in_steps(x, scales), 0.0, low, high, by_value)
    return integers(x, scales, low, high), pack(inside)


@kernel("(Tensor grad, Tensor bits) -> Tensor")
def passed_bits(grad: Tensor, bits: Tensor) -> Tensor:
    """Return the gradient where the bit is set, and 0 elsewhere."""
    return torch.where(unpack(bits, grad.shape), grad, 0)


def of_scale(x: Tensor, grad: Tensor, scales: Tensor, *_: Any) -> Tensor:
    """A result of one number a scale."""
    return scales.new_empty(scales.shape)


@kernel(f"({pulling(ROWS)}) -> (Tensor, Tensor)", like, of_scale)
def integers_backward(
    x: Tensor,
    grad: Tensor,
    scales: Tensor,
    low: float,
    high: float,
    by_value: bool,
    factor: float,
) -> tuple[Tensor, ...]:
    """Return the gradient in the range, and the sums of `g (q - v)` there and `g q` beyond it.

    They are summed in the widest dtype, and multiplied by `factor`.
    """
    v = in_steps(x, scales)
    inside = in_range(v, 0.0, low, high, by_value)
    return pulled(v, whole(v, 0.0, low, high), inside, x, grad, scales, factor)[:2]


def _shifted(
    x: Tensor, scales: Tensor, shifts: Tensor, by_offset: bool
) -> tuple[Tensor, Tensor | float]:
    """Return the rows of the input in steps, and the codes of the value 0."""
    by = shifts.reshape(-1, 1)
    if not by_offset:
        return in_steps(x, scales), torch.round(by)
    return in_units(_rows(x, scales) - by, scales.reshape(-1, 1)), 0.0


@kernel(f"({SHIFTED}) -> Tensor")
def shifted(
    x: Tensor, scales: Tensor, shifts: Tensor, by_offset: bool, low: float, high: float
) -> Tensor:
    """Return `integers` whose codes, the zero point added, are from `low` to `high`.

    Or those of what lies above an offset, and the offset.
    """
    v, zero = _shifted(x, scales, shifts, by_offset)
    q = whole(v, zero, low, high)
    if not by_offset:
        return of_rows(q, scales, x)
    return (q * scales.reshape(-1, 1) + shifts.reshape(-1, 1)).reshape(x.shape).to(x.dtype)


@kernel(f"({SHIFTED}, bool by_value) -> (Tensor, Tensor)", like, bits)
def shifted_and_inside(
    x: Tensor,
    scales: Tensor,
    shifts: Tensor,
    by_offset: bool,
    low: float,
    high: float,
    by_value: bool,
) -> tuple[Tensor, Tensor]:
    """Return `shifted`, and the bits that say what lies in the range."""
    inside = in_range(*_shifted(x, scales, shifts, by_offset), low, high, by_value)
    return shifted(x, scales, shifts, by_offset, low, high), pack(inside)


@kernel(f"({pulling(SHIFTED)}) -> (Tensor, Tensor, Tensor)", like, of_scale, of_scale)
def shifted_backward(
    x: Tensor,
    grad: Tensor,
    scales: Tensor,
    shifts: Tensor,
    by_offset: bool,
    low: float,
    high: float,
    by_value: bool,
    factor: float,
) -> tuple[Tensor, ...]:
    """Return what `integers_backward` does, and the sums of `g` beyond the range."""
    v, zero = _shifted(x, scales, shifts, by_offset)
    inside = in_range(v, zero, low, high, by_value)
    return pulled(v, whole(v, zero, low, high), inside, x, grad, scales, factor)


def format_of(element: str, block: int, mode: str) -> Grid:
    """Return the grid that a kernel knows by numbers and names."""
    if not mode:
        return Float(element)
    return NVFP4() if mode == "nvfp4" else MX(element, block, mode)  # type: ignore[arg-type]  # a mode of MX


def placed(
    x: Tensor, scales: Tensor, grid: Grid, by_value: bool, rounding: Rounding = torch.round
) -> tuple[Tensor, ...]:
    """Return the rows in steps, what they become, and what lies in the range."""
    v = in_steps(x, scales)
    return v, grid.rounded(v, 0, rounding), grid.inside(v, 0, "value" if by_value else "code")


@kernel(f"(Tensor x, Tensor scales, {FORMAT}) -> Tensor")
def floats(x: Tensor, scales: Tensor, element: str, block: int, mode: str) -> Tensor:
    """Return the nearest number of a floating format times the scale.

    Without a mode the grid is `Float(element)`; else that of blocks, `MX(element, block, mode)` or
    with the mode `"nvfp4"` `NVFP4()`.
    """
    return of_rows(format_of(element, block, mode).nearest(in_steps(x, scales)), scales, x)


@kernel(f"(Tensor x, Tensor scales, {FORMAT}, bool by_value) -> (Tensor, Tensor)", like, bits)
def floats_and_inside(
    x: Tensor, scales: Tensor, element: str, block: int, mode: str, by_value: bool
) -> tuple[Tensor, Tensor]:
    """Return `floats`, and the bits that say what lies in the range."""
    _, q, inside = placed(x, scales, format_of(element, block, mode), by_value)
    return of_rows(q, scales, x), pack(inside)


@kernel(f"({pulling(f'Tensor x, Tensor scales, {FORMAT}')}) -> (Tensor, Tensor)", like, of_scale)
def floats_backward(
    x: Tensor,
    grad: Tensor,
    scales: Tensor,
    element: str,
    block: int,
    mode: str,
    by_value: bool,
    factor: float,
) -> tuple[Tensor, ...]:
    """Return what `integers_backward` does, of floating formats."""
    v, q, inside = placed(x, scales, format_of(element, block, mode), by_value)
    return pulled(v, q, inside, x, grad, scales, factor)[:2]
