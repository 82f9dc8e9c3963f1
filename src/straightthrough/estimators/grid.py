"""What every rule of a quantized number shares."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ..core.errors import ArgumentError
from ..core.rules import Rule, Saved
from ..grids import Placed
from ..grids.grid import Inside


class GridEstimator(Rule):
    """A backward rule for a number on a grid: gradients to the input and to the grid's scale.

    The value is `y = s q`, `q` the value of the grid nearest to `v = x / s`. A subclass writes
    `gradient`, the formula of the gradient to the input, for float32 or float64, and may write
    that of the gradient to the scale. Under `@saves(Saved.WINDOW)` the first is the gradient in
    the range and 0 beyond it, under `@saves(Saved.NOTHING)` the gradient everywhere.
    """

    inside: Inside = "code"
    """By what an input lies in the range: its code (ends included) or its value (ends excluded)."""

    saved: ClassVar[Saved] = Saved.INPUT
    """What backward has to know where the scale gets no gradient."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.saved = getattr(cls.gradient, "saves", Saved.INPUT)

    @abstractmethod
    def gradient(self, at: Placed, grad: Tensor) -> Tensor:
        """Return the gradient to the input.

        Args:
            at: the input in units of the scale, and what it became.
            grad: the gradient to the value, of its dtype, float32 or float64.
        """

    def scale_gradient(self, at: Placed, grad: Tensor) -> Tensor:
        """Return what each element adds to the gradient to its scale, before `factor`.

        That is `g (q - v)` in the range and `g q` beyond it.
        """
        if not at.grid.thresholds_move:
            return grad * at.q
        return grad * (at.q - torch.where(self.within(at), at.v, 0))

    def within(self, at: Placed) -> Tensor:
        """Return which elements lie in the range."""
        return at.inside(self.inside)

    @property
    def by_range(self) -> bool:
        """Whether the gradient to the input is passed in the grid's own range, and stopped beyond.

        That is all that kernels know of a rule that saves bits.
        """
        return self.saved is Saved.WINDOW and type(self).within is GridEstimator.within

    @property
    def masks(self) -> bool:
        """Whether, beyond that, the scale learns from the error, as kernels have it."""
        return self.by_range and type(self).scale_gradient is GridEstimator.scale_gradient

    def factor(self, at: Placed) -> float:
        """Return what the gradient to the scale is multiplied by."""
        return 1.0

    def shift_factor(self, at: Placed) -> float:
        """Return what the gradient to the zero point, or to the offset, is multiplied by."""
        return 1.0


def passed(inside: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient itself, bit by bit, where `inside`, and 0 elsewhere."""
    return torch.where(inside, grad, 0)


def check_inside(value: object) -> None:
    """Raise unless `value` says by what an input lies in the range."""
    if value not in ("code", "value"):
        raise ArgumentError(f"inside must be 'code' or 'value', got {value!r}")
