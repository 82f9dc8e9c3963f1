"""What every grid shares, and an input that lies on one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import ArgumentError, as_int
from ..core.portable import Portable

Inside = Literal["code", "value"]
"""Whether it is the rounded code, or the value before rounding, that must lie in the range."""

Rounding = Callable[[Tensor], Tensor]

Zero = Tensor | int
"""The code of the value 0: whole numbers."""


@dataclass(frozen=True)
class Grid(Portable, ABC):
    """The values that a quantized number may take, in units of its scale.

    A subclass is a frozen dataclass. Everything is computed in float32 or float64; what is NaN
    stays NaN.

    Attributes:
        takes_zero_point: whether the code of the value 0 may be chosen.
        thresholds_move: whether a larger scale moves the thresholds between values; the sign's
            does not.
    """

    numbers_move: ClassVar[bool] = False  # they shape the grid
    takes_zero_point: ClassVar[bool] = False
    thresholds_move: ClassVar[bool] = True

    @property
    @abstractmethod
    def low(self) -> float:
        """The least value, where the zero point is 0."""

    @property
    @abstractmethod
    def high(self) -> float:
        """The largest value, where the zero point is 0."""

    @property
    def reach(self) -> float:
        """The input that a scale puts the largest size at, in its units."""
        return self.high

    @property
    def largest_code(self) -> float:
        """What LSQ calls p: the largest code."""
        return self.high

    def check(self, x: Tensor) -> None:  # most grids take any shape
        """Raise `ShapeError` unless the grid can be laid over `x`."""

    @abstractmethod
    def rounded(self, v: Tensor, zero: Zero = 0, rounding: Rounding = torch.round) -> Tensor:
        """Return the value of the grid that `v` becomes, by a rounding to whole numbers."""

    def nearest(self, v: Tensor, zero: Zero = 0) -> Tensor:
        """Return the value of the grid nearest to `v`."""
        return self.rounded(v, zero)

    @abstractmethod
    def inside(self, v: Tensor, zero: Zero = 0, what: Inside = "code") -> Tensor:
        """Return whether `v` lies in the range, as a bool tensor; False for NaN.

        By `"code"`, whether its code does, the ends included; by `"value"`, whether `v` itself
        does, the ends left out.
        """

    def width(self, v: Tensor) -> Tensor | float:
        """Return how far the two values beside `v` are from each other."""
        return 1.0

    @property
    @abstractmethod
    def code_range(self) -> tuple[int, int]:
        """The least and the largest code."""

    @abstractmethod
    def codes(self, v: Tensor, zero: Zero = 0) -> Tensor:
        """Return the whole number, int32, that stands for the value that `v` becomes."""

    @abstractmethod
    def decode(self, codes: Tensor, zero: Zero = 0) -> Tensor:
        """Return the values that codes stand for, float32."""

    def in_order(self, codes: Tensor) -> Tensor:
        """Return whole numbers that lie as the values of codes do, equal ones of equal values."""
        return codes

    def of_order(self, numbers: Tensor) -> Tensor:
        """Return the codes that `in_order` gave numbers to."""
        return numbers


@dataclass(frozen=True, eq=False)
class Placed:
    """Where on a grid an input lies.

    Attributes:
        grid: the grid.
        v: the input in units of the scale, float32 or float64; NaN where the scale is not a finite
            number above 0.
        q: the value of the grid that it became.
        zero: the code of the value 0.
        scale_shape: the shape of the scale, which broadcasts to that of `v`.
    """

    grid: Grid
    v: Tensor
    q: Tensor
    zero: Zero
    scale_shape: torch.Size

    def inside(self, what: Inside) -> Tensor:
        """Return which elements lie in the range, by their code or by their value."""
        return self.grid.inside(self.v, self.zero, what)

    @property
    def error(self) -> Tensor:
        """How far the input lies above the nearest value, in widths of its cell."""
        error = (self.v - self.grid.nearest(self.v, self.zero)) / self.grid.width(self.v)
        if not torch.is_grad_enabled():
            return error
        # Of a second derivative, where 0 times an infinite one, beyond the range, would be NaN.
        most = torch.finfo(error.dtype).max ** 0.5
        return error.clamp(-most, most)

    def sharing(self, batch_dims: int) -> int:
        """Return how many elements share a scale, without the leading `batch_dims` dimensions.

        An input without further dimensions has no batch.
        """
        shape = self.v.shape
        skip = batch_dims if len(shape) > batch_dims else 0
        scales = (1,) * (len(shape) - len(self.scale_shape)) + tuple(self.scale_shape)
        count = 1
        for size, own in zip(shape[skip:], scales[skip:], strict=True):
            count *= 1 if own != 1 else size
        return count


def check_bits(bits: object, least: int, most: int) -> int:
    """Return the int in a range that `bits` is, or raise `ArgumentError`."""
    number = as_int(bits)
    if number is None or not least <= number <= most:
        raise ArgumentError(f"bits must be an int in [{least}, {most}], got {bits!r}")
    return number
