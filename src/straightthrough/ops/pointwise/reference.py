"""Pointwise operators in plain torch: every forward with its backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.internals import tracing
from ...core.kernels import bits, has_kernel, kernel, like
from ...core.operation import Operation
from ...core.rules import Derivative, cast, window_bits


@kernel("(Tensor x) -> Tensor")
def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1."""
    return (x >= 0).to(x.dtype).mul_(2).sub_(1)


@kernel("(Tensor x, float centre, float bound, bool closed) -> (Tensor, Tensor)", like, bits)
def sign_and_window(x: Tensor, centre: float, bound: float, closed: bool) -> tuple[Tensor, Tensor]:
    """`sign` and the `window_bits` that backward needs, in one pass."""
    return sign(x), window_bits(x, centre, bound, closed)


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


def clamp(x: Tensor, min: float, max: float) -> Tensor:
    """`torch.clamp`."""
    if not isinstance(min, Tensor) and not isinstance(max, Tensor):
        return torch.clamp(x, min, max)
    # It takes two numbers or two tensors.
    low, high = (torch.as_tensor(bound, dtype=x.dtype, device=x.device) for bound in (min, max))
    return torch.clamp(x, low, high)


HARD: dict[str, Callable[..., Tensor]] = {
    "sign": sign,
    "heaviside": heaviside,
    "heaviside_or_nan": heaviside_or_nan,
    "ternary": ternary,
    "clamp": clamp,
    "round": torch.round,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
}
"""Every hard function of this family by its name."""


@dataclass(frozen=True)
class Pointwise(Operation):
    """`HARD[hard](x, *arguments)` forward, `surrogate.derivative(x - centre)` backward."""

    hard: str
    arguments: tuple[float, ...]
    surrogate: Derivative
    centre: float = 0.0

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (HARD[self.hard](x, *self.arguments),)

    def keep(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs if self.surrogate.needs_input else ()

    def record(self, x: Tensor) -> tuple[tuple[Tensor, ...], Sequence[Tensor]]:
        within = self.surrogate.within
        # Inductor keeps a bool an element by itself, and is four times as fast by it.
        if within is None or (not has_kernel(x) and tracing()):
            return super().record(x)
        if self.hard == "sign" and x.is_contiguous() and has_kernel(x):
            y, bits = sign_and_window(x, self.centre, *within)
            return (y,), (bits,)
        return self.forward(x), (window_bits(x, self.centre, *within),)

    def backward(self, grad: Tensor, *kept: Tensor) -> tuple[Tensor]:
        return (self.surrogate.pull(grad, kept, self.centre),)

    def jvp(self, tangents: Sequence[Tensor], *kept: Tensor) -> Tensor:
        return self.backward(tangents[0], *kept)[0]  # a diagonal Jacobian is its own transpose
