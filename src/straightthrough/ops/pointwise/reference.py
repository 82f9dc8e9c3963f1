"""What the pointwise kernels must equal, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.kernels import bits, kernel, like
from ...core.precision import cast
from ...surrogates.window import window_bits


@kernel("(Tensor x) -> Tensor")
def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1."""
    return (x >= 0).to(x.dtype).mul_(2).sub_(1)


@kernel(
    "(Tensor x, float centre, float bound, bool includes_bound) -> (Tensor, Tensor)", like, bits
)
def sign_and_window(
    x: Tensor, centre: float, bound: float, includes_bound: bool
) -> tuple[Tensor, Tensor]:
    """`sign` and the `window_bits` that backward needs, in one pass."""
    return sign(x), window_bits(x, centre, bound, includes_bound)


@kernel("(Tensor x, float threshold) -> Tensor")
def heaviside(x: Tensor, threshold: float) -> Tensor:
    """1 where x > threshold, else 0."""
    return (x > cast(threshold, x.dtype)).to(x.dtype)


@kernel("(Tensor x, float threshold) -> Tensor")
def heaviside_or_nan(x: Tensor, threshold: float) -> Tensor:
    """`heaviside`, but NaN where x is NaN."""
    return torch.where(x.isnan(), x, heaviside(x, threshold))


@kernel("(Tensor x, float threshold) -> Tensor")
def ternary(x: Tensor, threshold: float) -> Tensor:
    """sign(x) where |x| > threshold, else 0."""
    threshold = cast(threshold, x.dtype)
    return (x > threshold).to(x.dtype) - (x < -threshold).to(x.dtype)
