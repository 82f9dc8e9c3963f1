"""What quantized numbers are held against: lists of values, and gradients from the papers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.precision import compute_dtype
from ...grids import MX, NVFP4, Binary, Float, Grid, HalfInt, Int, Stretched, Ternary


def values(grid: Grid) -> Tensor:
    """Every value of a grid, in rising order; float64."""
    found: Sequence[float]
    match grid:
        case Int(bits, signed, narrow):
            count = 2**bits
            found = range(-(count // 2) + narrow, count // 2) if signed else range(narrow, count)
        case HalfInt(bits):
            found = [code + 0.5 for code in range(-(2**bits // 2), 2**bits // 2)]
        case Stretched(2):
            found = [-0.75, -0.25, 0.25, 0.75]
        case Stretched():
            found = [-1 / 1.5, 0.0, 1 / 1.5]
        case Ternary():
            found = [-1, 0, 1]
        case Float(name):
            found = _of_format(name)
        case _:
            found = [-1, 1]
    return torch.tensor(found, dtype=torch.float64)


def _of_format(name: str) -> list[float]:
    """Every finite value of a format, from the fields of its bits; those of even rank are even."""
    exponents, mantissas, top = int(name[1]), int(name[3]), {"e4m3": 448, "e5m2": 57344}.get(name)
    bias = 2 ** (exponents - 1) - 1
    sizes = [
        math.ldexp(fraction / 2**mantissas + (field > 0), max(field, 1) - bias)
        for field in range(2**exponents)
        for fraction in range(2**mantissas)
    ]
    sizes = [size for size in sizes if top is None or size <= top]
    return [-size for size in sizes[:0:-1]] + sizes


def block_scales(grid: MX | NVFP4, v: Tensor) -> Tensor:
    """The scale of every element's block, by logarithms."""
    size = grid.block if isinstance(grid, MX) else 16
    largest = v.detach().double().abs().unflatten(-1, (-1, size)).amax(-1, keepdim=True)
    largest = torch.where(largest == 0, 1, largest.masked_fill(largest.isinf(), math.nan))
    if isinstance(grid, NVFP4):
        t = nearest(Float("e4m3"), (largest.to(v.dtype) / 6).clamp(2**-6, 448))
        return t.expand(*t.shape[:-1], size).flatten(-2)
    top = float(values(Float(grid.element))[-1])
    exponent = largest.log2()
    match grid.mode:
        case "rceil":
            power = (largest.to(v.dtype) / top).double().log2().ceil()
        case "ceil":
            power = exponent.ceil() - math.floor(math.log2(top))
        case "even":
            unit = 2 ** (exponent.floor() - int(grid.element[3]))
            up = ((largest / unit + 0.5).floor() * unit).log2().floor()
            power = up - math.floor(math.log2(top))
        case _:
            power = exponent.floor() - math.floor(math.log2(top))
    t = 2 ** power.clamp(min=-126)
    return t.expand(*t.shape[:-1], size).flatten(-2)


def nearest(grid: Grid, v: Tensor) -> Tensor:
    """The value at the least distance; of two, the one with the even code."""
    if isinstance(grid, MX | NVFP4):
        t = block_scales(grid, v)
        element = Float(grid.element if isinstance(grid, MX) else "e2m1")
        return nearest(element, (v / t.to(v.dtype))) * t
    levels, device = values(grid).to(v.device), v.device
    codes, u = levels, v
    match grid:
        case Binary():
            return torch.where(v.isnan(), v, torch.where(v < 0, -1.0, 1.0)).double()
        case HalfInt():
            codes, u = levels + 0.5, v + 0.5
        case Stretched(2):
            codes, u = torch.arange(-2.0, 2.0, device=device), 2 * v.clamp(-0.99, 0.99) - 0.5
        case Stretched():
            codes, u = torch.arange(-1.0, 2.0, device=device), 1.5 * v.clamp(-0.99, 0.99)
    u = u.double().clamp(codes[0] - 1, codes[-1] + 1).unsqueeze(-1)
    off = (u - codes).abs()
    least = off == off.amin(-1, keepdim=True)
    ranks = codes
    if isinstance(grid, Float):
        ranks = torch.arange(len(codes), device=device) - len(codes) // 2
    chosen = torch.where(least, 2 - ranks.remainder(2), 0).argmax(-1)
    y = torch.where(v.isnan(), math.nan, levels[chosen])
    return torch.copysign(y, v) if isinstance(grid, Float) else y  # which has a -0


def units(x: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """The input in units of the scale, rounded as it is computed; NaN where there is no scale."""
    wide = compute_dtype(x.dtype)
    valid = (scale > 0) & scale.isfinite()
    shifted = x.to(wide) if offset is None else x.to(wide) - offset.to(wide)
    return shifted / scale.to(wide).masked_fill(~valid, math.nan)


def value(x: Tensor, scale: Tensor, offset: Tensor | None = None, *, grid: Grid) -> Tensor:
    """The nearest value of the list, times the scale."""
    v = units(x, scale, offset)
    y = nearest(grid, v).to(v.dtype) * scale.to(v.dtype)
    return (y if offset is None else y + offset.to(v.dtype)).to(x.dtype)


def gradient(rule: Any, x: Tensor, scale: Tensor, *rest: Any, grid: Grid) -> tuple[Tensor, ...]:
    """The published gradients to the input and its scale, and to an offset where there is one."""
    *offset, _, grad, _ = rest
    v = units(x.double(), scale.double(), *(one.double() for one in offset))
    return _gradients(rule, x, scale, offset, v, nearest(grid, v.detach()), grad, grid)


def gradient_of_draw(
    rule: Any, x: Tensor, scale: Tensor, y: Tensor, grad: Tensor, noise: Any, *, grid: Grid
) -> tuple[Tensor, ...]:
    """The same at the value that was drawn."""
    v = units(x.double(), scale.double())
    q = nearest(grid, units(y.double(), scale.double())).detach()
    return _gradients(rule, x, scale, [], v, torch.where(v.isnan(), v, q), grad, grid)


def mean(x: Tensor, scale: Tensor, *, grid: Grid) -> Tensor:
    """The mean of a draw, which is the input between the ends of the grid; float64."""
    levels = values(grid).to(x.device)
    return units(x.double(), scale.double()).clamp(levels[0], levels[-1]) * scale.double()


def fraction(x: Tensor) -> Tensor:
    """The probability of the whole number above; float64."""
    return x.double() - x.double().floor()


def _gradients(
    rule: Any,
    x: Tensor,
    scale: Tensor,
    offset: list[Tensor],
    v: Tensor,
    q: Tensor,
    grad: Tensor,
    grid: Grid,
) -> tuple[Tensor, ...]:
    g, name = grad.double(), type(rule).__name__
    within = _inside(rule, grid, v.detach())
    d = (v - nearest(grid, v.detach())) / _width(grid, v.detach())
    to_x = g * within
    match name:
        case "Identity":
            to_x = g
        case "Trust":
            to_x = g * (d.abs() <= rule.bound)
        case "EWGS":
            to_x = torch.where(within, g + g.abs() * rule.delta * d, 0)
        case "DGE":
            m = (1 - 2 * d.abs()).clamp(min=1e-30)
            slope = (m ** (1 / rule.k - 1) / rule.k).clamp(max=rule.cap)
            to_x = torch.where(within, g * slope, 0)
        case "Poly":
            c = math.sqrt(2) * math.pi * rule.amplitude * torch.cos(math.pi * d)
            to_x = torch.where(within, g * (1 - c) / (1 + c), 0)
    share = torch.where(within, q - v, q)
    if name == "PACT":
        share = torch.where(within, 0, q)
    elif isinstance(grid, Binary):
        share = q
    missing, k = g - to_x, 1.0
    if name in ("LSQ", "LSQPlus", "Poly"):
        k = 1 / math.sqrt(max(elements(x, scale, rule.batch_dims), 1) * largest(grid))
    gradients = [to_x, k * _sum(q, g * share, scale)]
    if offset:
        gradients.append((k if name == "LSQPlus" else 1) * _sum(q, missing, offset[0]))
    return tuple(gradients)


def _sum(q: Tensor, part: Tensor, like: Tensor) -> Tensor:
    """The sum over the elements that share, those without a value left out."""
    return torch.where(q.isnan(), 0, part).sum_to_size(like.shape)


def _width(grid: Grid, v: Tensor) -> Tensor | float:
    """The distance between the two values beside v."""
    if isinstance(grid, MX | NVFP4):
        t = block_scales(grid, v)
        return _width(Float(grid.element if isinstance(grid, MX) else "e2m1"), v / t) * t
    levels = values(grid)
    if not isinstance(grid, Float):
        return float(levels[1] - levels[0])
    above = (v.abs().unsqueeze(-1) >= levels[:-1]).sum(-1).clamp(1, len(levels) - 1)
    return levels[above] - levels[above - 1]


def _inside(rule: Any, grid: Grid, v: Tensor) -> Tensor:
    """Where the published mask of a rule is 1."""
    by_value = type(rule).__name__ == "EWGS" or getattr(rule, "inside", "code") == "value"
    if isinstance(grid, MX | NVFP4):
        v = v / block_scales(grid, v)
        grid = Float(grid.element if isinstance(grid, MX) else "e2m1")
    low, high = float(values(grid)[0]), float(values(grid)[-1])
    if isinstance(grid, Stretched):
        low, high = -0.99, 0.99
    elif not by_value and isinstance(grid, Int | Ternary):
        v = torch.round(v)
    elif not by_value and isinstance(grid, HalfInt):
        v = torch.round(v + 0.5) - 0.5
    if by_value and type(rule).__name__ != "EWGS":
        return (low < v) & (v < high)
    return (low <= v) & (v <= high)


def largest(grid: Grid) -> float:
    """The largest code, as LSQ's factor has it."""
    match grid:
        case Int() | HalfInt() | Float():
            return float(values(grid)[-1])
        case MX(element):
            return float(values(Float(element))[-1])
        case NVFP4():
            return 6.0 * 448
    return 1.0


def elements(x: Tensor, scale: Tensor, batch_dims: int) -> float:
    """How many elements share a scale, without the leading dimensions along which all do."""
    if not x.numel():
        return 0
    count = x.numel() / scale.numel()
    for d in range(batch_dims if x.ndim > batch_dims else 0):
        own = d - (x.ndim - scale.ndim)
        if own < 0 or scale.shape[own] == 1:
            count /= x.shape[d]
    return count
