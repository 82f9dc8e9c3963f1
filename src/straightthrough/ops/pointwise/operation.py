"""Pointwise operators: every forward with its backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.kernels import has_kernel, in_a_graph
from ...core.operation import Operation
from ...core.precision import in_range, narrowed
from ...core.rules import Derivative, Saved
from ...surrogates.window import centred, window_bits, window_gradient
from .reference import heaviside, sign, sign_and_window, ternary


def clamp(x: Tensor, min: Any, max: Any) -> Tensor:
    """`torch.clamp`."""
    return torch.clamp(x, *_bounds(x, min, max))


def clamp_(x: Tensor, min: Any, max: Any) -> Tensor:
    """The same over its input."""
    return torch.clamp_(x, *_bounds(x, min, max))


def _bounds(x: Tensor, min: Any, max: Any) -> tuple[Any, Any]:
    if not isinstance(min, Tensor) and not isinstance(max, Tensor):
        return in_range(min, x.dtype), in_range(max, x.dtype)
    # Torch takes two numbers or two tensors.
    low, high = (torch.as_tensor(bound, dtype=x.dtype, device=x.device) for bound in (min, max))
    return low, high


HARD: dict[str, Callable[..., Tensor]] = {
    "sign": sign,
    "heaviside": heaviside,
    "ternary": ternary,
    "clamp": clamp,
    "round": torch.round,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
}
"""Every hard function of this family by its name."""

IN_PLACE: dict[str, Callable[..., Tensor]] = {
    "round": Tensor.round_,
    "floor": Tensor.floor_,
    "ceil": Tensor.ceil_,
    "trunc": Tensor.trunc_,
    "clamp": clamp_,
}
"""Those that torch writes over their input."""

WITH_WINDOW = {"sign": sign_and_window}
"""Those that have the bits of a window in the same pass."""


@dataclass
class Pointwise(Operation):
    """`HARD[hard](x, *arguments)` forward, `surrogate.derivative(x - centre)` backward."""

    dims = ("...",)

    hard: str
    arguments: tuple[float, ...]
    surrogate: Derivative
    centre: float = 0.0

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (HARD[self.hard](x, *self.arguments),)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return () if self.surrogate.saved is Saved.NOTHING else inputs

    def forward_and_save(self, x: Tensor) -> tuple[tuple[Tensor, ...], Sequence[Tensor]]:
        if self.surrogate.saved is not Saved.WINDOW:
            return super().forward_and_save(x)
        rule: Any = self.surrogate  # a `Window`
        # Inductor keeps a bool an element by itself, and is four times as fast by it.
        graph = in_a_graph(x)
        if graph and not has_kernel(x, name="window_bits"):
            return super().forward_and_save(x)
        window = (self.centre, rule.window()[0], rule.includes_bound, graph)
        both = WITH_WINDOW.get(self.hard)
        if both and x.is_contiguous():
            y, bits = both(x, *window)
            return (y,), (bits,)
        return self.forward(x), (window_bits(x, *window),)

    def carrier(self, x: Tensor) -> Tensor | None:
        return x if self.surrogate.saved is Saved.NOTHING else None

    def fill(self, copy: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        in_place = IN_PLACE.get(self.hard)
        if in_place is None:
            return super().fill(copy, x)
        in_place(copy, *self.arguments)
        return ()

    def backward(self, grad: Tensor, *saved: Tensor) -> tuple[Tensor]:
        if not saved:
            return (grad,)
        if saved[0].dtype == torch.uint8:
            rule: Any = self.surrogate  # a `Window`
            _, inner, outer = rule.window()
            return (window_gradient(grad, saved[0], inner, outer),)
        gradient = self.surrogate.backward(centred(saved[0], self.centre), grad)
        return (narrowed(gradient, grad.dtype),)

    def jvp(self, tangents: Sequence[Tensor], *saved: Tensor) -> Tensor:
        return self.backward(tangents[0], *saved)[0]  # a diagonal Jacobian is its own transpose
