"""Scales that are measured: on every input, or on those seen in training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.compiler import is_exporting

from ..core.errors import ArgumentError, check_flag, check_number, check_positive
from ..core.precision import compute_dtype, widest
from ..grids import Grid
from .scale import Checks, Scale, Shift


@dataclass(frozen=True)
class AbsMax(Scale):
    """The largest size on every input, `s = max |x| / P`, P the largest value of the grid.

    Of `Stretched` P is 1.

    It gets no gradient.

    Args:
        axis, block, token, floor: as in `Scale`; the floor is that of `max |x|`.

    Example:
        >>> quantize = st.nn.Quantizer(st.grids.Int(8), st.scales.AbsMax(token=True))
        >>> quantize(torch.tensor([[127.0, -63.6], [0.0, 0.0]]))
        tensor([[127., -64.],
                [  0.,   0.]])
    """

    def measure(self, x: Tensor, grid: Grid) -> Tensor:
        return self.largest(x) / grid.reach


@dataclass(frozen=True)
class AbsMean(Scale):
    """The mean size on every input, `s = factor mean |x|`.

    It gets no gradient. With `Ternary` it is that of BitNet b1.58, with `Binary` that of DoReFa-Net
    or, for each filter by `axis=0`, that of XNOR-Net.

    Args:
        factor: > 0.
        axis, block, token, floor: as in `Scale`; the floor is that of `mean |x|`.

    Edge cases: it is infinite, and every value NaN, where the sum of the sizes is beyond float32
    (of float64, that).

    Example:
        >>> quantize = st.nn.Quantizer(st.grids.Ternary(), st.scales.AbsMean())
        >>> quantize(torch.tensor([0.25, -1.0, 1.75]))
        tensor([ 0., -1.,  1.])
    """

    checks: ClassVar[Checks] = {**Scale.checks, "factor": check_positive}
    factor: float = 1.0

    def measure(self, x: Tensor, grid: Grid) -> Tensor:
        return self.factor * self.mean(x)


@dataclass(frozen=True)
class RMS(Scale):
    """The root mean square on every input, `s = factor sqrt(mean x^2)`.

    It gets no gradient.

    Args:
        factor: > 0.
        axis, block, token, floor: as in `Scale`; the floor is that of the root mean square.

    Edge cases: it is infinite, and every value NaN, where the sum of the squares is beyond float32
    (of float64, that), as that of 1.9e19 is.

    Example:
        >>> quantize = st.nn.Quantizer(st.grids.Int(4), st.scales.RMS(0.2))
        >>> quantize.scale_of(torch.tensor([3.0, -4.0, 5.0, 5.0 * 2**0.5]))
        tensor(1.)
    """

    checks: ClassVar[Checks] = {**Scale.checks, "factor": check_positive}
    factor: float = 1.0

    def measure(self, x: Tensor, grid: Grid) -> Tensor:
        mean = self.mean_of(self.wide(x).square())
        return self.factor * mean.sqrt().clamp(min=self.floor).reshape(self.shape(x))


@dataclass(frozen=True)
class Fixed(Scale):
    """The same scale for every input.

    Args:
        value: > 0.

    Example:
        >>> quantize = st.nn.Quantizer(st.grids.MX("e2m1"), st.scales.Fixed())
        >>> quantize(torch.full((32,), 1.1))[:2]
        tensor([1., 1.])
    """

    checks: ClassVar[Checks] = {**Scale.checks, "value": check_positive}
    value: float = 1.0

    def measure(self, x: Tensor, grid: Grid) -> Tensor:
        return x.new_full((), self.value, dtype=compute_dtype(x.dtype))


def _up_to(most: int) -> Callable[[str, object], Any]:
    """Return what checks that a number lies above 0 and not above the most."""

    def check(name: str, value: object) -> Any:
        number = check_number(name, value)
        if not 0 < number <= most:
            raise ArgumentError(f"{name} must lie in (0, {most}], got {number}")
        return number

    return check


@dataclass(frozen=True)
class Observed(Scale):
    """A running mean of a percentile of the sizes, seen in training; `eval()` keeps it.

    The percentile is that of `|x|` among what shares a scale, `s` that over the largest value of
    the grid, and `s <- s + momentum (new - s)` after the first. It gets no gradient. Under
    `torch.utils.checkpoint`, whose forward runs again, it may see one input between two backwards.

    Args:
        percentile: in (0, 100]; 100 is the maximum.
        momentum: in (0, 1].
        zero_point: whether the code of 0 is a running mean too, for integers; then the grid
            reaches over 0 and every element.
        axis, block, floor: as in `Scale`; there are no tokens, whose number changes.

    Example:
        >>> quantize = st.nn.Quantizer(st.grids.Int(4), st.scales.Observed(momentum=0.5))
        >>> _ = quantize(torch.tensor([7.0])), quantize(torch.tensor([21.0]))
        >>> quantize.scale
        tensor(2.)
    """

    kept: ClassVar[bool] = True
    checks: ClassVar[Checks] = {
        **Scale.checks,
        "percentile": _up_to(100),
        "momentum": _up_to(1),
        "zero_point": check_flag,
    }
    percentile: float = 100.0
    momentum: float = 0.1
    zero_point: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zero_point and self.percentile != 100:
            raise ArgumentError(f"zero_point needs percentile=100, got {self.percentile}")

    @property
    def shifts(self) -> Shift:
        return "zero_point" if self.zero_point else ""

    def measure(self, x: Tensor, grid: Grid) -> Tensor:
        if self.zero_point:
            return self.spread(x, grid)
        if self.percentile == 100:
            return self.largest(x) / grid.reach
        shared = self.shared(x.ndim)
        sizes = self.wide(x).abs()
        others = [d for d in range(x.ndim) if d not in shared]
        rows = sizes.permute([*others, *shared]).flatten(len(others))
        known = ~rows.isnan()
        count = known.sum(-1, keepdim=True)
        place = (count.to(widest(x.device)) * self.percentile / 100).round().clamp(min=1)
        # torch.quantile takes no more than 2^24 elements. Of the largest that there may be above.
        above = rows.shape[-1]
        if not is_exporting():  # an export would keep the number as it is
            above = min(int(above * (1 - self.percentile / 100)) + 2, above)
        largest = torch.where(known, rows, -1).topk(above, -1).values
        found = largest.gather(-1, (count - place.to(count.dtype)).clamp(min=0))
        found = torch.where(count > 0, found.clamp(min=self.floor), torch.nan)
        return found.reshape(self.shape(x)) / grid.reach
