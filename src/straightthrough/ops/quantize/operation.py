"""Quantization: every forward with its backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...core.bits import pack
from ...core.errors import StraightThroughError
from ...core.internals import forward_mode, tracing
from ...core.kernels import has_kernel
from ...core.noise import Noise, Place
from ...core.operation import Draw, Operation
from ...core.precision import compute_dtype, narrowed
from ...core.rules import Saved
from ...estimators.grid import GridEstimator
from ...grids import Grid, Placed
from ..bernoulli.reference import uniform_like
from .reference import in_units, passed_bits
from .reference_drawn import drawn, stochastic_round
from .served import Served, in_rows, kernels_of

Shift = Literal["", "zero_point", "offset"]
"""What the third input is, if there is one: the code of 0, or what is taken off before."""


@dataclass
class FakeQuantize(Operation):
    """The nearest value of a grid forward, the rule backward."""

    draws: ClassVar[bool] = False

    grid: Grid
    rule: GridEstimator
    shift: Shift = ""

    @property
    def dims(self) -> tuple[str, ...]:  # type: ignore[override]  # it is the rule's to say
        """Elements may lie on any rank, where no gradient counts those that share a scale."""
        counted = torch.is_grad_enabled() and type(self.rule).factor is not GridEstimator.factor
        return () if counted else ("...", "", "") if self.shift else ("...", "")

    @property
    def unsharded(self) -> str:
        return (
            f"the gradient of {self.rule} counts the elements that share a scale, of which a rank "
            f"knows its own: use a rule that counts none, as 'ste'"
        )

    def served(self, x: Tensor, *laid: Tensor, grad: Tensor | None = None) -> Served | None:
        """Return the kernels that serve a call, if any do."""
        kernels = kernels_of(self.grid, self.shift, self.draws)
        if kernels is None or not has_kernel(x, grad, kernels.name):
            return None
        rows = in_rows(x, *laid)
        return None if rows is None else Served(kernels, rows)

    def forward(self, x: Tensor, scale: Tensor, *others: Tensor) -> tuple[Tensor]:
        if served := self.served(x, scale, *others):
            return (served.values(x),)
        return (self._value(self.placed(x, scale, *others), x, scale, *others),)

    def _value(self, at: Placed, x: Tensor, scale: Tensor, *others: Tensor) -> Tensor:
        y = at.q * scale.to(at.q.dtype)
        if self.shift == "offset":
            y = y + others[0].to(y.dtype)
        return y.to(x.dtype)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs

    def forward_and_save(
        self, x: Tensor, scale: Tensor, *others: Tensor
    ) -> tuple[tuple[Tensor, ...], Sequence[Tensor]]:
        learned = any(each.requires_grad for each in (scale, *others))
        if self.rule.saved is Saved.INPUT or learned or forward_mode():
            return super().forward_and_save(x, scale, *others)
        if self.rule.saved is Saved.NOTHING:
            return self.forward(x, scale, *others), ()
        if self.rule.by_range and (served := self.served(x, scale, *others)):
            y, bits = served.values_and_inside(x, self.rule.inside == "value")
            return (y,), (bits,)
        if tracing():  # the compiler keeps a bool an element by itself
            return super().forward_and_save(x, scale, *others)
        at = self.placed(x, scale, *others)
        return (self._value(at, x, scale, *others),), (pack(self.rule.within(at)),)

    def backward(self, grad: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        if len(saved) < 2:
            to_x = passed_bits(grad, saved[0]) if saved else grad
            return (to_x, None, None) if self.shift else (to_x, None)
        if self.rule.masks and (served := self.served(*saved, grad=grad)):
            return self._by_kernels(grad, served, *saved)
        return self._gradients(grad, self.placed(*saved), *saved)

    def _by_kernels(
        self, grad: Tensor, served: Served, x: Tensor, scale: Tensor, *others: Tensor
    ) -> tuple[Tensor, ...]:
        at = Placed(self.grid, x, x, 0, scale.shape)  # the factors are of its shapes
        factor = self.rule.factor(at)
        known = type(factor) is float  # and not one of sizes that a graph leaves open
        by_value = self.rule.inside == "value"
        to_x, of_scale, *beyond = served.backward(x, grad, by_value, factor if known else 1.0)
        to_scale = _gathered(of_scale if known else of_scale * factor, scale)
        if not self.shift:
            return to_x, to_scale
        of_shift = beyond[0] * self.rule.shift_factor(at)
        if self.shift == "zero_point":
            of_shift = -_finite(served.rows[0]) * of_shift
        return to_x, to_scale, _gathered(of_shift, others[0])

    def _gradients(
        self, grad: Tensor, at: Placed, x: Tensor, *others: Tensor
    ) -> tuple[Tensor, ...]:
        rule, wide = self.rule.in_dtype(at.v.dtype), grad.to(at.v.dtype)
        to_x = rule.gradient(at, wide)
        to_scale = rule.factor(at) * _counted(at, rule.scale_gradient(at, wide))
        parts = [to_scale]
        if self.shift:
            parts.append(self._to_shift(rule, at, wide - to_x, others[0]))
        to_others = (
            narrowed(part.sum_to_size(other.shape), other.dtype)
            for part, other in zip(parts, others, strict=False)  # after them comes a seed
        )
        return narrowed(to_x, x.dtype), *to_others

    def jvp(self, tangents: Sequence[Tensor | None], *saved: Tensor) -> Tensor:
        if not self.rule.linear:
            raise StraightThroughError(
                f"{self.rule} has no forward-mode derivative, as it is not linear in the gradient; "
                f"use reverse mode (torch.func.vjp, grad, jacrev)"
            )
        return self._pushed(tangents, self.placed(*saved), *saved)

    def _pushed(
        self, tangents: Sequence[Tensor | None], at: Placed, x: Tensor, scale: Tensor, *_: Tensor
    ) -> Tensor:
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
            moved = moved + self._to_shift(rule, at, blocked, scale)
        return moved.to(x.dtype)

    def placed(self, x: Tensor, scale: Tensor, *shift: Tensor) -> Placed:
        """Return where on the grid the input lies; NaN where a scale is not finite or above 0."""
        wide = compute_dtype(x.dtype)
        shifted = x.to(wide) - shift[0].to(wide) if self.shift == "offset" else x.to(wide)
        v = in_units(shifted, scale)
        zero = torch.round(shift[0].to(wide)) if self.shift == "zero_point" else 0
        return Placed(self.grid, v, self.grid.nearest(v, zero), zero, scale.shape)

    def _to_shift(self, rule: GridEstimator, at: Placed, blocked: Tensor, scale: Tensor) -> Tensor:
        """Return each element's gradient to the shift, of the gradient that x does not get."""
        part = rule.shift_factor(at) * _counted(at, blocked)
        return part if self.shift == "offset" else -_finite(scale).to(part.dtype) * part


def _counted(at: Placed, part: Tensor) -> Tensor:
    """Return what elements add to a gradient, of those that have a value."""
    return torch.where(at.q.isnan(), 0, part)


def _finite(scale: Tensor) -> Tensor:
    """Return a scale with 0 where it lays no grid, so that 0 times it is 0."""
    return scale.nan_to_num(0, 0, 0)


def _gathered(part: Tensor, other: Tensor) -> Tensor:
    """Return a sum a row as the gradient to `other`."""
    gradient = narrowed(part if part.numel() == other.numel() else part.sum(), other.dtype)
    return gradient if gradient.ndim == other.ndim else gradient.reshape(other.shape)


@dataclass
class StochasticQuantize(FakeQuantize, Draw):
    """One of the two values of a grid beside the input, drawn, its noise made again in backward."""

    draws = True

    place: Place = (0, 0, 0)

    def served(self, x: Tensor, *laid: Tensor, grad: Tensor | None = None) -> Served | None:
        scale, seed = laid
        found = super().served(x, scale, grad=grad)
        return found and found._replace(noise=(Noise(seed, *self.place),))

    def backward(self, grad: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        return *super().backward(grad, *saved), None

    def placed(self, x: Tensor, scale: Tensor, *seed: Tensor) -> Placed:
        v = in_units(x.to(compute_dtype(x.dtype)), scale)
        uniform = uniform_like(x, Noise(seed[0], *self.place))
        q = self.grid.rounded(v, 0, lambda steps: drawn(steps, uniform))
        return Placed(self.grid, v, q, 0, scale.shape)


@dataclass
class StochasticRound(Draw):
    """One of the two whole numbers beside the input forward, the gradient unchanged backward."""

    dims = ("...",)

    place: Place

    def forward(self, x: Tensor, seed: Tensor) -> tuple[Tensor]:
        return (stochastic_round(x, Noise(seed, *self.place)),)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return ()

    def carrier(self, x: Tensor, seed: Tensor) -> Tensor:
        return x

    def backward(self, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None

    def jvp(self, tangents: Sequence[Tensor]) -> Tensor:
        return tangents[0]


@dataclass
class Hold(Operation):
    """The input forward, no gradient backward.

    That of `detach` is forgotten where a graph is exported and decomposed.
    """

    dims = ("...",)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x.clone(),)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return ()

    def backward(self, grad: Tensor) -> tuple[None]:
        return (None,)

    def jvp(self, tangents: Sequence[Tensor]) -> Tensor:
        return torch.zeros_like(tangents[0])  # as None torch takes for a tangent that is no number


@dataclass
class Detach(Hold):
    """`Hold` whose value requires no gradient, as a buffer that it is written to must not.

    What an operation returns beside its value gets none.
    """

    returned = 1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # one more
        return x.clone(), x.clone()
