"""Quantization: every forward with its backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...core.bits import pack, unpack
from ...core.errors import StraightThroughError
from ...core.internals import forward_mode, tracing
from ...core.kernels import has_kernel
from ...core.operation import Operation
from ...core.precision import compute_dtype, narrowed
from ...estimators.grid import GridEstimator, passed
from ...estimators.ste import STE
from ...grids import Grid, Placed

Shift = Literal["", "zero_point", "offset"]
"""What the third input is, if there is one: the code of 0, or what is taken off before."""


@dataclass(frozen=True)
class FakeQuantize(Operation):
    """The nearest value of a grid forward, the rule backward."""

    grid: Grid
    rule: GridEstimator
    shift: Shift = ""

    def forward(self, x: Tensor, scale: Tensor, *shift: Tensor) -> tuple[Tensor]:
        at = self.placed(x, scale, *shift)
        y = at.q * scale.to(at.q.dtype)
        if self.shift == "offset":
            y = y + shift[0].to(y.dtype)
        return (y.to(x.dtype),)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs

    def forward_and_save(
        self, x: Tensor, scale: Tensor, *shift: Tensor
    ) -> tuple[tuple[Tensor, ...], Sequence[Tensor]]:
        learned = any(tensor.requires_grad for tensor in (scale, *shift))
        if type(self.rule) is not STE or learned or forward_mode():
            return super().forward_and_save(x, scale, *shift)
        # Inductor keeps a bool an element by itself.
        if not has_kernel(x) and tracing():
            return super().forward_and_save(x, scale, *shift)
        at = self.placed(x, scale, *shift)
        return self.forward(x, scale, *shift), (pack(at.inside(self.rule.inside)),)

    def backward(self, grad: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        if len(saved) == 1:
            to_x = passed(unpack(saved[0], grad.shape), grad)
            return (to_x, None, None) if self.shift else (to_x, None)
        x, *others = saved
        at = self.placed(*saved)
        rule, wide = self.rule.in_dtype(at.v.dtype), grad.to(at.v.dtype)
        to_x = rule.gradient(at, wide)
        to_scale = rule.factor(at) * _counted(at, rule.scale_gradient(at, wide))
        parts = [to_scale]
        if self.shift:
            parts.append(self._to_shift(rule, at, wide - to_x, others[0]))
        to_others = (
            narrowed(part.sum_to_size(other.shape), other.dtype)
            for part, other in zip(parts, others, strict=True)
        )
        return narrowed(to_x, x.dtype), *to_others

    def jvp(self, tangents: Sequence[Tensor | None], *saved: Tensor) -> Tensor:
        if not self.rule.linear:
            raise StraightThroughError(
                f"{self.rule} has no forward-mode derivative, as it is not linear in the gradient; "
                f"use reverse mode (torch.func.vjp, grad, jacrev)"
            )
        at = self.placed(*saved)
        rule, wide = self.rule.in_dtype(at.v.dtype), at.v.dtype
        moved = torch.zeros_like(at.v)
        along = [t if t is None else t.to(wide).expand(at.v.shape) for t in tangents]
        if along[0] is not None:
            moved = moved + rule.gradient(at, along[0])
        if along[1] is not None:
            to_scale = _counted(at, rule.scale_gradient(at, along[1]))
            moved = moved + rule.factor(at) * to_scale
        if self.shift and along[2] is not None:
            blocked = along[2] - rule.gradient(at, along[2])
            moved = moved + self._to_shift(rule, at, blocked, saved[1])
        return moved.to(saved[0].dtype)

    def placed(self, x: Tensor, scale: Tensor, *shift: Tensor) -> Placed:
        """Return where on the grid the input lies; NaN where a scale is not finite or above 0."""
        wide = compute_dtype(x.dtype)
        x, s = x.to(wide), scale.to(wide)
        s = torch.where((s > 0) & (s < torch.inf), s, torch.nan)
        v = (x - shift[0].to(wide) if self.shift == "offset" else x) / s
        zero = torch.round(shift[0].to(wide)) if self.shift == "zero_point" else 0
        return Placed(self.grid, v, self.grid.nearest(v, zero), zero, scale.shape)

    def _to_shift(self, rule: GridEstimator, at: Placed, blocked: Tensor, scale: Tensor) -> Tensor:
        """Return each element's gradient to the shift, of the gradient that x does not get."""
        part = rule.shift_factor(at) * _counted(at, blocked)
        return part if self.shift == "offset" else -scale.to(part.dtype) * part


def _counted(at: Placed, part: Tensor) -> Tensor:
    """Return what elements add to a gradient, of those that have a value."""
    return torch.where(at.q.isnan(), 0, part)
