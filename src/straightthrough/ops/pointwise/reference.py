"""Pointwise operators in plain torch: every forward with its backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...core.rules import Derivative, compute_dtype
from ...core.straight_through import Operation


def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1."""
    return (x >= 0).to(x.dtype).mul_(2).sub_(1)


def heaviside(x: Tensor, threshold: float) -> Tensor:
    """1 where x > threshold, else 0."""
    return (x > threshold).to(x.dtype)


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
        return inputs if self.surrogate.saves_input else ()

    def backward(self, grad: Tensor, *kept: Tensor) -> tuple[Tensor]:
        return (self.surrogate.vjp(self._centred(kept, grad), grad).to(grad.dtype),)

    def jvp(self, tangents: Sequence[Tensor], *kept: Tensor) -> Tensor:
        tangent = tangents[0]
        return self.surrogate.jvp(self._centred(kept, tangent), tangent).to(tangent.dtype)

    def _centred(self, kept: tuple[Tensor, ...], like: Tensor) -> Tensor:
        """Return where the surrogate is evaluated; any tensor does where it is constant."""
        if not kept:
            return like
        x = kept[0]
        return x if self.centre == 0 else x.to(compute_dtype(x.dtype)) - self.centre
