"""Scales that are parameters, started from data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import ArgumentError, check_flag, check_positive
from ..core.precision import compute_dtype, widest
from ..grids import Grid
from ..ops.pointwise.api import ceil, clamp
from .scale import Checks, Scale, Shift

FORMS = ("softplus", "log2", "clip")
STARTS = ("lsq", "3sigma", "mse", "max")
TRIED = 100


def _form(name: str, value: Any) -> Any:
    if value not in FORMS:
        raise ArgumentError(f"{name} must be one of {', '.join(FORMS)}, got {value!r}")
    return value


def _start(name: str, value: Any) -> Any:
    if isinstance(value, str) and value not in STARTS:
        raise ArgumentError(f"{name} must be one of {', '.join(STARTS)}, got {value!r}")
    return value if isinstance(value, str) else check_positive(name, value)


@dataclass(frozen=True)
class Learned(Scale):
    """A parameter, started from the first input.

    The parameter t is any number, and the scale s is above 0: `softplus(t)`; `2^t`, or `2^ceil(t)`
    where it is a power of two, both with the gradient `s ln 2`; or `max(t, floor)`, which passes
    its gradient. It starts at: of LSQ, `2 mean |x| / sqrt(p)`, p the largest code; of LSQ+,
    `max |mean +- 3 sigma|` over the largest size on the grid; the least squared error among 100
    multiples of the largest size; that size over P, the largest value of the grid; or a number
    over P.

    Args:
        form: `"softplus"`, `"log2"` or `"clip"`.
        start: `"lsq"`, `"3sigma"`, `"mse"`, `"max"`, or a number > 0.
        power_of_two: whether the scale is rounded up to a power of two, for `"log2"` alone.
        offset: whether what is taken off before is a parameter too; then both start so that the
            grid reaches from the least to the largest element.
        zero_point: whether the code of 0 is a parameter too, rounded where it is used, for
            integers; then both start so that the grid reaches over 0 and every element.
        axis, block, floor: as in `Scale`; there are no tokens, whose number changes.

    Edge cases: what float32 has no scale for an optimizer may still reach. Below some -104 of
    `softplus(t)`, and outside -149 to 128 of `2^t`, the scale is 0 or infinite there: every value
    is NaN (in `st.strict()` an error) and the gradient 0 or NaN, so that it stays so. `"clip"` has
    neither, and comes back from its floor.

    Example:
        >>> scale = st.scales.Learned(axis=0, start="max")
        >>> quantize = st.nn.Quantizer(st.grids.Int(4), scale, "lsq", shape=(2, 3))
        >>> _ = quantize(torch.tensor([[7.0, 0.0, 1.0], [0.0, 0.7, 0.0]]))
        >>> quantize.scale
        tensor([[1.0000],
                [0.1000]], grad_fn=<SoftplusBackward0>)
    """

    kept: ClassVar[bool] = True
    checks: ClassVar[Checks] = {
        **Scale.checks,
        "form": _form,
        "start": _start,
        **dict.fromkeys(("power_of_two", "offset", "zero_point"), check_flag),
    }
    form: Literal["softplus", "log2", "clip"] = "softplus"
    start: Literal["lsq", "3sigma", "mse", "max"] | float = "lsq"
    power_of_two: bool = False
    offset: bool = False
    zero_point: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.power_of_two and self.form != "log2":
            raise ArgumentError(f"power_of_two needs form='log2', got {self.form!r}")
        if self.offset and self.zero_point:
            raise ArgumentError("offset and zero_point exclude each other; choose one of them")

    @property
    def shifts(self) -> Shift:
        return "offset" if self.offset else "zero_point" if self.zero_point else ""

    @property
    def mark(self) -> int:
        ways = (*FORMS, "power_of_two").index("power_of_two" if self.power_of_two else self.form)
        return 2 ** (2 * ways + self.offset)

    def parameter(self, scale: Tensor) -> Tensor:
        """Return the parameter of a scale."""
        if self.form == "log2":
            return torch.log2(scale)
        return scale if self.form == "clip" else scale + torch.log(-torch.expm1(-scale))

    def scale(self, parameter: Tensor) -> Tensor:
        """Return the scale of a parameter."""
        if self.form == "softplus":
            return F.softplus(parameter)
        if self.form == "clip":
            return clamp(parameter, self.floor, torch.finfo(parameter.dtype).max)
        return torch.exp2(ceil(parameter) if self.power_of_two else parameter)

    def measure(self, x: Tensor, grid: Grid) -> Tensor:
        if self.shifts:
            return self.spread(x, grid)
        if self.start == "max":
            return self.largest(x) / grid.reach
        if not isinstance(self.start, str):
            return torch.full_like(self.largest(x), self.start / grid.reach)
        if self.start == "mse":
            return self._fitted(x, grid)
        wide = x.to(widest(x.device))  # sums and squares overflow; it is measured once
        if self.start == "3sigma":
            found = self._three_sigma(wide, grid)
        else:
            found = 2 * self.mean(wide) / grid.largest_code**0.5
        return found.to(compute_dtype(x.dtype))

    def _three_sigma(self, x: Tensor, grid: Grid) -> Tensor:
        wide, shared = self.wide(x), self.shared(x.ndim)
        missing, mean = wide.isnan(), self.mean_of(wide)
        known = (~missing).to(wide.dtype).mean(shared, keepdim=True)
        off = torch.where(missing, mean, wide).std(shared, correction=0, keepdim=True)
        sigma = off / known.sqrt()
        size = (mean.abs() + 3 * sigma).clamp(min=self.floor)
        return size.reshape(self.shape(x)) / max(-grid.low, grid.reach)

    def _fitted(self, x: Tensor, grid: Grid) -> Tensor:
        wide, shared = self.wide(x), self.shared(x.ndim)
        missing, whole = wide.isnan(), self.largest(x) / grid.reach
        best, least = whole, torch.full_like(whole, torch.inf)
        for step in range(1, TRIED + 1):
            scale = whole * step / TRIED
            off = (grid.nearest(wide / scale) * scale - wide) / whole  # no square is 0 or infinite
            square = torch.where(missing, 0, off.square())
            error = square.sum(shared, keepdim=True).reshape(whole.shape)
            best = torch.where(error < least, scale, best)
            least = torch.minimum(error, least)
        return best
