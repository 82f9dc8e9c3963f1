"""What the kernels of drawn numbers must equal: of the values beside an element, one is drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.bits import pack
from ...core.kernels import bits, kernel, like
from ...core.noise import Noise
from ...core.precision import compute_dtype
from ...grids.grid import Rounding
from ..bernoulli.reference import uniform_like
from .reference import (
    FORMAT,
    ROWS,
    format_of,
    in_range,
    in_steps,
    of_rows,
    of_scale,
    placed,
    pulled,
    pulling,
    whole,
)


def drawn(x: Tensor, uniform: Tensor) -> Tensor:
    """Return the whole number below, or with the probability of the fraction the one above."""
    below = x.floor()
    # x + uniform would be rounded, and whole numbers moved.
    return torch.where(uniform < x - below, below + 1, below)


def _rounding(x: Tensor, scales: Tensor, noise: Noise) -> Rounding:
    """Return what draws the whole numbers of the rows of the input, by a uniform an element."""
    uniform = uniform_like(x, noise).reshape(scales.numel(), -1)
    return lambda steps: drawn(steps, uniform)


@kernel("(Tensor x, Noise noise) -> Tensor")
def stochastic_round(x: Tensor, noise: Noise) -> Tensor:
    """Return one of the two whole numbers beside each element."""
    return drawn(x.to(compute_dtype(x.dtype)), uniform_like(x, noise)).to(x.dtype)


@kernel(f"({ROWS}, Noise noise) -> Tensor")
def integers_drawn(x: Tensor, scales: Tensor, low: float, high: float, noise: Noise) -> Tensor:
    """Return what `integers` does, of numbers that are drawn."""
    v, rounding = in_steps(x, scales), _rounding(x, scales, noise)
    return of_rows(whole(v, 0.0, low, high, rounding), scales, x)


@kernel(f"({ROWS}, bool by_value, Noise noise) -> (Tensor, Tensor)", like, bits)
def integers_drawn_and_inside(
    x: Tensor, scales: Tensor, low: float, high: float, by_value: bool, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Return `integers_drawn`, and the bits that say what lies in the range."""
    inside = in_range(in_steps(x, scales), 0.0, low, high, by_value)
    return integers_drawn(x, scales, low, high, noise), pack(inside)


@kernel(f"({pulling(ROWS)}, Noise noise) -> (Tensor, Tensor)", like, of_scale)
def integers_drawn_backward(
    x: Tensor,
    grad: Tensor,
    scales: Tensor,
    low: float,
    high: float,
    by_value: bool,
    factor: float,
    noise: Noise,
) -> tuple[Tensor, ...]:
    """Return what `integers_backward` does, `q` the number that was drawn."""
    v, rounding = in_steps(x, scales), _rounding(x, scales, noise)
    inside, q = in_range(v, 0.0, low, high, by_value), whole(v, 0.0, low, high, rounding)
    return pulled(v, q, inside, x, grad, scales, factor)[:2]


_FLOATS = f"Tensor x, Tensor scales, {FORMAT}"


@kernel(f"({_FLOATS}, Noise noise) -> Tensor")
def floats_drawn(
    x: Tensor, scales: Tensor, element: str, block: int, mode: str, noise: Noise
) -> Tensor:
    """Return what `floats` does, of numbers that are drawn."""
    v, rounding = in_steps(x, scales), _rounding(x, scales, noise)
    return of_rows(format_of(element, block, mode).rounded(v, 0, rounding), scales, x)


@kernel(f"({_FLOATS}, bool by_value, Noise noise) -> (Tensor, Tensor)", like, bits)
def floats_drawn_and_inside(
    x: Tensor, scales: Tensor, element: str, block: int, mode: str, by_value: bool, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Return `floats_drawn`, and the bits that say what lies in the range."""
    grid, rounding = format_of(element, block, mode), _rounding(x, scales, noise)
    _, q, inside = placed(x, scales, grid, by_value, rounding)
    return of_rows(q, scales, x), pack(inside)


@kernel(f"({pulling(_FLOATS)}, Noise noise) -> (Tensor, Tensor)", like, of_scale)
def floats_drawn_backward(
    x: Tensor,
    grad: Tensor,
    scales: Tensor,
    element: str,
    block: int,
    mode: str,
    by_value: bool,
    factor: float,
    noise: Noise,
) -> tuple[Tensor, ...]:
    """Return what `floats_backward` does, `q` the number that was drawn."""
    grid, rounding = format_of(element, block, mode), _rounding(x, scales, noise)
    v, q, inside = placed(x, scales, grid, by_value, rounding)
    return pulled(v, q, inside, x, grad, scales, factor)[:2]
