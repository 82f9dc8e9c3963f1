"""Pointwise operators: every forward with its backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.internals import tracing
from ...core.kernels import has_kernel
from ...core.operation import Operation
from ...core.rules import Derivative, cast
from ...surrogates.window import window_bits
from .reference import heaviside, heaviside_or_nan, sign, sign_and_window, ternary


def clamp(x: Tensor, min: float, max: float) -> Tensor:
    """`torch.clamp`."""
    return torch.clamp(x, cast(min, x.dtype), cast(max, x.dtype))


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
