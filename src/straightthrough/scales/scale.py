"""What every scale shares: which elements it is of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import (
    ArgumentError,
    ShapeError,
    check_count,
    check_dim,
    check_flag,
    check_positive,
)
from ..core.precision import compute_dtype
from ..grids import Grid

Shift = Literal["", "zero_point", "offset"]
Checks = Mapping[str, Callable[[str, Any], Any]]


def _axis(name: str, value: object) -> int | None:
    return None if value is None else check_dim(name, value)


def _block(name: str, value: object) -> int | None:
    return None if value is None else check_count(name, value)


@dataclass(frozen=True)
class Scale(ABC):
    """How the scale of a quantizer is found, and which elements share one.

    By default all elements of a tensor share a scale. At most one of the three changes that.

    Args:
        axis: one scale an entry of this dimension, such as 0 for the channels of weights.
        block: one scale for every so many neighbours along the last dimension.
        token: one scale a row of the last dimension.
        floor: the least value of what is measured, so that a scale is never 0.

    Raises:
        ArgumentError: for other arguments, or more than one way to share.
    """

    axis: int | None = field(default=None, kw_only=True)
    block: int | None = field(default=None, kw_only=True)
    token: bool = field(default=False, kw_only=True)
    floor: float = field(default=1e-5, kw_only=True)
    kept: ClassVar[bool] = False
    """Whether the scale is kept from one input to the next, and not measured on each."""
    checks: ClassVar[Checks] = {
        "axis": _axis,
        "block": _block,
        "token": check_flag,
        "floor": check_positive,
    }
    """What checks a field, and returns what is kept: numbers are Python's, whatever was given."""

    def __post_init__(self) -> None:
        for name, check in self.checks.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        if self.token and self.kept:
            raise ArgumentError(
                f"{type(self).__name__} has no tokens, whose number changes; use AbsMax"
            )
        if (self.axis is not None) + (self.block is not None) + self.token > 1:
            raise ArgumentError(
                f"axis, block and token exclude each other, got axis={self.axis}, "
                f"block={self.block}, token={self.token}"
            )

    @property
    def mark(self) -> int:
        """A number that tells apart what tensors of the same names mean, where they are kept.

        A power of two up to 128, which a mean of it and itself is to the bit, as 3 is not.
        """
        return 1

    def check_kept(self, advice: str) -> None:
        """Raise, with an advice, where the scale is not kept."""
        if not self.kept:
            raise ArgumentError(f"{self} is measured on each input; {advice}")

    def blocks(self, x: Tensor) -> Tensor:
        """Return `x`, viewed as `(..., blocks, block)` where there are blocks.

        An input without other dimensions than that of the axis gets one, along which an element
        shares its scale with none.

        Raises:
            ShapeError: where a block does not divide the last dimension.
        """
        if x.ndim == 1 and self.axis in (0, -1):
            return x.unsqueeze(-1 - self.axis)
        if self.block is None:
            return x
        if x.ndim == 0 or x.shape[-1] % self.block:
            raise ShapeError(
                f"blocks of {self.block} do not divide the last dimension of shape "
                f"{tuple(x.shape)}; pad it, or choose another block"
            )
        return x.unflatten(-1, (-1, self.block))

    def shared(self, ndim: int) -> list[int]:
        """Return the dimensions of `blocks(x)` along which a scale is shared."""
        if self.block is not None or self.token:
            return [ndim - 1]
        if self.axis is None:
            return [*range(ndim)]
        if not -ndim <= self.axis < ndim:
            raise ShapeError(
                f"axis must lie in [{-ndim}, {ndim - 1}] for an input of {ndim} dimensions, "
                f"got {self.axis}"
            )
        return [d for d in range(ndim) if d != self.axis % ndim]

    def shape(self, x: Tensor) -> list[int]:
        """Return the shape of the scale of `blocks(x)`; 0-d where there is one for all."""
        if self.axis is None and self.block is None and not self.token:
            return []
        shared = self.shared(x.ndim)
        return [1 if d in shared else size for d, size in enumerate(x.shape)]

    @property
    def one_for_all(self) -> bool:
        """Whether a kept scale is one number, and not one a channel or a block."""
        return self.axis is None and self.block is None

    @property
    def shifts(self) -> Shift:
        """What is found beside the scale: `"zero_point"`, `"offset"`, or `""` for nothing."""
        return ""

    def measure_shift(self, x: Tensor, grid: Grid) -> Tensor:
        """Return the zero point or the offset of `blocks(x)`, not rounded.

        At that offset the least element has the least value of the grid. The zero point is that of
        the range that holds 0 and every element.
        """
        least, scale = self._range(x)[0], self.measure(x, grid)
        if self.shifts == "zero_point":
            return grid.low - least / scale
        return least - grid.low * scale

    @abstractmethod
    def measure(self, x: Tensor, grid: Grid) -> Tensor:
        """Return the scale of `blocks(x)`, in the dtype that it is computed in, detached.

        A scale that is kept is that of the elements that are not NaN; where there are none, NaN.
        """

    def largest(self, x: Tensor) -> Tensor:
        """Return the largest size of what shares a scale, at least the floor."""
        found = self._end(self.wide(x).abs(), torch.amax, -torch.inf)
        return found.clamp(min=self.floor).reshape(self.shape(x))

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean size of what shares a scale, at least the floor."""
        return self.mean_of(self.wide(x).abs()).clamp(min=self.floor).reshape(self.shape(x))

    def spread(self, x: Tensor, grid: Grid) -> Tensor:
        """Return the scale at which the grid reaches from the least to the largest element.

        Beside a zero point 0 counts as an element.
        """
        least, most = self._range(x)
        return (most - least).clamp(min=self.floor) / (grid.high - grid.low)

    def _range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = self.wide(x)
        least = self._end(wide, torch.amin, torch.inf)
        most = self._end(wide, torch.amax, -torch.inf)
        if self.shifts == "zero_point":
            least, most = least.clamp(max=0), most.clamp(min=0)
        return least.reshape(self.shape(x)), most.reshape(self.shape(x))

    def wide(self, x: Tensor) -> Tensor:
        """Return what is measured, in the dtype that it is measured in."""
        return x.detach().to(compute_dtype(x.dtype))

    def mean_of(self, wide: Tensor) -> Tensor:
        """Return the mean of what shares a scale, beside `wide`; a kept one leaves out NaN."""
        shared = self.shared(wide.ndim)
        if not self.kept:
            return wide.mean(shared, keepdim=True)
        missing = wide.isnan()
        count = (~missing).sum(shared, keepdim=True)
        return torch.where(missing, 0, wide).sum(shared, keepdim=True) / count

    def _end(self, wide: Tensor, reduce: Callable[..., Tensor], beyond: float) -> Tensor:
        """Return the least or the largest of what shares a scale; a kept one leaves out NaN."""
        shared = self.shared(wide.ndim)
        if not self.kept:
            return reduce(wide, shared, keepdim=True)
        end = reduce(torch.where(wide.isnan(), beyond, wide), shared, keepdim=True)
        return torch.where(end == beyond, torch.nan, end)
