"""Small floating formats, independent of what torch's casts do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.errors import ArgumentError
from .grid import Grid, Inside, Rounding, Zero


class Format(NamedTuple):
    """Of a format: bits of exponent and mantissa, the least normal exponent, the largest value."""

    exponent: int
    mantissa: int
    least: int
    largest: float


FORMATS = {
    "e4m3": Format(4, 3, -6, 448.0),
    "e5m2": Format(5, 2, -14, 57344.0),
    "e2m1": Format(2, 1, 0, 6.0),
    "e2m3": Format(2, 3, 0, 7.5),
    "e3m2": Format(3, 2, -2, 28.0),
}


@dataclass(frozen=True)
class Float(Grid):
    """The values of a floating format of 4, 6 or 8 bits, half to even, saturating.

    With M bits of mantissa, `q = round(v / step) step`, `step = 2^(e - M)` and e the exponent of
    `|v|`, at least that of the least normal number; beyond the largest finite value, infinities
    included, it is that value. `"e4m3"` reaches 448, `"e5m2"` 57344, `"e2m1"` 6, `"e2m3"` 7.5 and
    `"e3m2"` 28. In the range is what is at most the largest value in size. The code is the
    format's own bits.

    Args:
        name: `"e4m3"`, `"e5m2"`, `"e2m1"`, `"e2m3"` or `"e3m2"`.

    Raises:
        ArgumentError: for another name.

    Example:
        >>> st.grids.Float("e2m1").nearest(torch.tensor([0.3, 1.25, 5.0, -90.0])).tolist()
        [0.5, 1.0, 4.0, -6.0]

    References:
        Micikevicius et al., "FP8 formats for deep learning", 2022; "OCP microscaling formats (MX)
        specification", version 1.0, 2023, section 5.3.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in FORMATS:
            raise ArgumentError(f"name must be one of {', '.join(FORMATS)}, got {self.name!r}")

    @property
    def format(self) -> Format:
        """What the name stands for."""
        return FORMATS[self.name]

    @property
    def low(self) -> float:
        return -self.high

    @property
    def high(self) -> float:
        return self.format.largest

    @property
    def code_range(self) -> tuple[int, int]:
        return 0, 2 ** (1 + self.format.exponent + self.format.mantissa) - 1

    def rounded(self, v: Tensor, zero: Zero = 0, rounding: Rounding = torch.round) -> Tensor:
        step = self.width(v)
        return (rounding(v / step) * step).clamp(self.low, self.high)

    def inside(self, v: Tensor, zero: Zero = 0, what: Inside = "code") -> Tensor:
        return v.abs() <= self.high if what == "code" else v.abs() < self.high

    def width(self, v: Tensor) -> Tensor:
        size = v.detach().abs().clamp(2.0**self.format.least, self.high)
        return power_of_two(size) * 2.0**-self.format.mantissa

    def codes(self, v: Tensor, zero: Zero = 0) -> Tensor:
        _, mantissa, least, _ = self.format
        q, step = self.nearest(v), self.width(v)
        binade = torch.frexp(step).exponent - 1 + mantissa - least
        size = binade * 2**mantissa + (q.abs() / step).to(torch.int32)
        return size + (q.signbit() * self._half).to(torch.int32)

    def decode(self, codes: Tensor, zero: Zero = 0) -> Tensor:
        _, mantissa, least, largest = self.format
        size = codes % self._half
        field, fraction = size // 2**mantissa, size % 2**mantissa
        normal = (field > 0).to(torch.float32)
        steps = fraction.to(torch.float32) + normal * 2**mantissa
        value = steps * torch.exp2((field - 1).clamp(min=0) + float(least - mantissa))
        value = torch.where(value > largest, torch.nan, value)
        return torch.where(codes >= self._half, -value, value)

    def in_order(self, codes: Tensor) -> Tensor:
        return torch.where(codes >= self._half, self._half - codes, codes)

    def of_order(self, numbers: Tensor) -> Tensor:
        return torch.where(numbers < 0, self._half - numbers, numbers)

    @property
    def _half(self) -> int:
        """The code of -0, from which on values are negative."""
        return 2 ** (self.format.exponent + self.format.mantissa)


def power_of_two(size: Tensor) -> Tensor:
    """Return the largest power of two that is at most a finite number above 0, exactly."""
    if torch.onnx.is_in_onnx_export():  # which has no frexp
        near = torch.exp2(torch.floor(torch.log2(size)))
        near = torch.where(near > size, near / 2, near)
        return torch.where(2 * near <= size, 2 * near, near)
    # m 2^k over 2 m is 2^(k - 1), without an error.
    return size / (2 * torch.frexp(size).mantissa)
