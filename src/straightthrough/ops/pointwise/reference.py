"""Pointwise operators in plain torch: every forward with its backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.kernels import kernel, serves
from ...core.rules import Derivative, window_bits
from ...core.straight_through import Operation


@kernel("(Tensor x) -> Tensor")
def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1."""
    return (x >= 0).to(x.dtype).mul_(2).sub_(1)


@kernel("(Tensor x, float centre, float bound, bool closed) -> (Tensor, Tensor)")
def sign_and_window(x: Tensor, centre: float, bound: float, closed: bool) -> tuple[Tensor, Tensor]:
    """`sign` and the `window_bits` that backward needs, in one pass."""
    return sign(x), window_bits(x, centre, bound, closed)


@kernel("(Tensor x, float threshold) -> Tensor")
def heaviside(x: Tensor, threshold: float) -> Tensor:
    """1 where x > threshold, else 0."""
    return (x > threshold).to(x.dtype)


@kernel("(Tensor x, float threshold) -> Tensor")
def heaviside_or_nan(x: Tensor, threshold: float) -> Tensor:
    """`heaviside`, but NaN where x is NaN."""
    return torch.where(x.isnan(), x, heaviside(x, threshold))


@kernel("(Tensor x, float threshold) -> Tensor")
def ternary(x: Tensor, threshold: float) -> Tensor:
    """sign(x) where |x| > threshold, else 0."""
    return (x > threshold).to(x.dtype) - (x < -threshold).to(x.dtype)


@dataclass(frozen=True)
class Pointwise(Operation):
    """`hard(x, *arguments)` forward, `surrogate.derivative(x - centre)` backward."""

    hard: Callable[..., Tensor]
    arguments: tuple[float, ...]
    surrogate: Derivative
    centre: float = 0.0

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.hard(x, *self.arguments),)

    def keep(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return self.surrogate.keep(inputs[0], self.centre)

    def record(self, x: Tensor) -> tuple[tuple[Tensor, ...], Sequence[Tensor]]:
        within = self.surrogate.within
        if self.hard is sign and within is not None and x.is_contiguous() and serves(x):
            y, bits = sign_and_window(x, self.centre, *within)
            return (y,), (bits,)
        return super().record(x)

    def backward(self, grad: Tensor, *kept: Tensor) -> tuple[Tensor]:
        return (self.surrogate.pull(grad, kept, self.centre),)

    def jvp(self, tangents: Sequence[Tensor], *kept: Tensor) -> Tensor:
        return self.backward(tangents[0], *kept)[0]  # a diagonal Jacobian is its own transpose
