"""Grids of equal steps: integers, those and a half, stretched ones, three values, two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.errors import ArgumentError, check_flag
from .grid import Grid, Inside, Rounding, Zero, check_bits


@dataclass(frozen=True)
class Int(Grid):
    """Integers of some bits, `q = clamp(round(v) + zero, n, p) - zero`, half to even.

    Signed, `n = -2^(bits-1)` (narrow: one more) and `p = 2^(bits-1) - 1`; unsigned, `n = 0`
    (narrow: 1) and `p = 2^bits - 1`. The code is `q + zero`.

    Args:
        bits: in [1, 16].
        signed: whether there are negative codes.
        narrow: whether the least code is left out, so that a signed range is symmetric.

    Raises:
        ArgumentError: for other bits, or where only one code is left.

    Example:
        >>> grid = st.grids.Int(4)
        >>> grid.least, grid.most, grid.nearest(torch.tensor([-9.0, 0.5, 1.5])).tolist()
        (-8, 7, [-8.0, 0.0, 2.0])
    """

    takes_zero_point: ClassVar[bool] = True
    bits: int
    signed: bool = True
    narrow: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", check_bits(self.bits, 1, 16))
        for name in ("signed", "narrow"):
            object.__setattr__(self, name, check_flag(name, getattr(self, name)))
        if self.least >= self.most:
            raise ArgumentError(
                f"{self} has the one code {self.most}; use more bits or narrow=False"
            )

    @property
    def least(self) -> int:
        """The least code."""
        return (-(2 ** (self.bits - 1)) if self.signed else 0) + self.narrow

    @property
    def most(self) -> int:
        """The largest code."""
        return 2 ** (self.bits - self.signed) - 1

    @property
    def low(self) -> float:
        return float(self.least)

    @property
    def high(self) -> float:
        return float(self.most)

    @property
    def reach(self) -> float:
        return self.largest_code

    @property
    def largest_code(self) -> float:
        return float(max(self.most, 1))  # the codes of one signed bit are -1 and 0

    @property
    def code_range(self) -> tuple[int, int]:
        return self.least, self.most

    def rounded(self, v: Tensor, zero: Zero = 0, rounding: Rounding = torch.round) -> Tensor:
        return (rounding(v) + zero).clamp(self.least, self.most) - zero

    def inside(self, v: Tensor, zero: Zero = 0, what: Inside = "code") -> Tensor:
        if what == "code":
            code = torch.round(v) + zero
            return (code >= self.least) & (code <= self.most)
        return (v > self.least - zero) & (v < self.most - zero)

    def codes(self, v: Tensor, zero: Zero = 0) -> Tensor:
        return (torch.round(v) + zero).clamp(self.least, self.most).to(torch.int32)

    def decode(self, codes: Tensor, zero: Zero = 0) -> Tensor:
        return codes.to(torch.float32) - zero


@dataclass(frozen=True)
class HalfInt(Grid):
    """Whole numbers and a half, as many below 0 as above, `q = round(v + 1/2) - 1/2`.

    Of b bits, from `-(2^b - 1) / 2` to `(2^b - 1) / 2`; there is no 0. The code is `q - 1/2`.

    Args:
        bits: in [1, 16].

    Raises:
        ArgumentError: for other bits.

    Example:
        >>> st.grids.HalfInt(2).nearest(torch.tensor([-9.0, -0.1, 0.3, 1.2])).tolist()
        [-1.5, -0.5, 0.5, 1.5]
    """

    bits: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", check_bits(self.bits, 1, 16))

    @property
    def low(self) -> float:
        return -self.high

    @property
    def high(self) -> float:
        return (2**self.bits - 1) / 2

    @property
    def code_range(self) -> tuple[int, int]:
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1

    def rounded(self, v: Tensor, zero: Zero = 0, rounding: Rounding = torch.round) -> Tensor:
        return (rounding(v + 0.5) - 0.5).clamp(self.low, self.high)

    def inside(self, v: Tensor, zero: Zero = 0, what: Inside = "code") -> Tensor:
        if what == "code":
            return (torch.round(v + 0.5) - 0.5).abs() <= self.high
        return v.abs() < self.high

    def codes(self, v: Tensor, zero: Zero = 0) -> Tensor:
        return (self.nearest(v) - 0.5).to(torch.int32)

    def decode(self, codes: Tensor, zero: Zero = 0) -> Tensor:
        return codes.to(torch.float32) + 0.5


@dataclass(frozen=True)
class Stretched(Grid):
    """Few values spread over the whole range, `q = (round(clamp(v, -c, c) L - h) + h) / L`.

    `c = 0.99`. With 1.58 bits `L = 1.5, h = 0`: the values are -2/3, 0 and 2/3. With 2 bits
    `L = 2, h = 1/2`: -3/4, -1/4, 1/4 and 3/4. The scale is the end of the range, 1, and not a step.
    In the range is what is at most c in size. The code is the rounded number.

    Args:
        bits: 1.58 or 2.

    Raises:
        ArgumentError: for other bits.

    Example:
        >>> st.grids.Stretched(2).nearest(torch.tensor([-5.0, 0.1, 0.6])).tolist()
        [-0.75, 0.25, 0.75]

    References:
        Liu et al., "ParetoQ: scaling laws in extremely low-bit LLM quantization", 2025: SEQ.
    """

    END: ClassVar[float] = 0.99
    bits: float

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or self.bits not in (1.58, 2):
            raise ArgumentError(f"bits must be 1.58 or 2, got {self.bits!r}")

    @property
    def steps(self) -> float:
        """Of the grid in a range of 1: L."""
        return 2.0 if self.bits == 2 else 1.5

    @property
    def shift(self) -> float:
        """The half step that keeps an even number of values symmetric: h."""
        return 0.5 if self.bits == 2 else 0.0

    @property
    def low(self) -> float:
        return -self.high

    @property
    def high(self) -> float:
        return (1 + self.shift) / self.steps

    @property
    def reach(self) -> float:
        return 1.0

    @property
    def largest_code(self) -> float:
        return 1.0

    @property
    def code_range(self) -> tuple[int, int]:
        return (-2, 1) if self.bits == 2 else (-1, 1)

    def rounded(self, v: Tensor, zero: Zero = 0, rounding: Rounding = torch.round) -> Tensor:
        code = rounding(self._stepped(v)).clamp(-1 - 2 * self.shift, 1.0)
        return (code + self.shift) / self.steps

    def inside(self, v: Tensor, zero: Zero = 0, what: Inside = "code") -> Tensor:
        return v.abs() <= self.END if what == "code" else v.abs() < self.END

    def width(self, v: Tensor) -> float:
        return 1 / self.steps

    def codes(self, v: Tensor, zero: Zero = 0) -> Tensor:
        return torch.round(self._stepped(v)).to(torch.int32)

    def decode(self, codes: Tensor, zero: Zero = 0) -> Tensor:
        return (codes.to(torch.float32) + self.shift) / self.steps

    def _stepped(self, v: Tensor) -> Tensor:
        return v.clamp(-self.END, self.END) * self.steps - self.shift


@dataclass(frozen=True)
class Ternary(Grid):
    """Three values: -1, 0 and 1, `q = clamp(round(v), -1, 1)`; what is at most 1/2 in size is 0.

    Example:
        >>> st.grids.Ternary().nearest(torch.tensor([-0.7, 0.5, 3.0])).tolist()
        [-1.0, 0.0, 1.0]
    """

    @property
    def low(self) -> float:
        return -1.0

    @property
    def high(self) -> float:
        return 1.0

    @property
    def code_range(self) -> tuple[int, int]:
        return -1, 1

    def rounded(self, v: Tensor, zero: Zero = 0, rounding: Rounding = torch.round) -> Tensor:
        return rounding(v).clamp(-1, 1) + 0.0  # no -0.0

    def inside(self, v: Tensor, zero: Zero = 0, what: Inside = "code") -> Tensor:
        return torch.round(v).abs() <= 1 if what == "code" else v.abs() < 1

    def codes(self, v: Tensor, zero: Zero = 0) -> Tensor:
        return self.nearest(v).to(torch.int32)

    def decode(self, codes: Tensor, zero: Zero = 0) -> Tensor:
        return codes.to(torch.float32)


@dataclass(frozen=True)
class Binary(Grid):
    """Two values: 1 where `v >= 0`, else -1; in the range is what is at most 1 in size.

    The codes are 1 and 0. The gradient to the scale is the sum of `g q`, as no scale moves the
    threshold.

    Example:
        >>> st.grids.Binary().nearest(torch.tensor([-0.7, -0.0, 3.0])).tolist()
        [-1.0, 1.0, 1.0]
    """

    thresholds_move: ClassVar[bool] = False

    @property
    def low(self) -> float:
        return -1.0

    @property
    def high(self) -> float:
        return 1.0

    @property
    def code_range(self) -> tuple[int, int]:
        return 0, 1

    def rounded(self, v: Tensor, zero: Zero = 0, rounding: Rounding = torch.round) -> Tensor:
        if rounding is not torch.round:  # which would make 0 negative
            return 2 * rounding((v + 1) / 2).clamp(0, 1) - 1
        return torch.where(v.isnan(), v, 2 * (v >= 0).to(v.dtype) - 1)

    def inside(self, v: Tensor, zero: Zero = 0, what: Inside = "code") -> Tensor:
        return v.abs() <= 1 if what == "code" else v.abs() < 1

    def width(self, v: Tensor) -> float:
        return 2.0

    def codes(self, v: Tensor, zero: Zero = 0) -> Tensor:
        return (v >= 0).to(torch.int32)

    def decode(self, codes: Tensor, zero: Zero = 0) -> Tensor:
        return 2 * codes.to(torch.float32) - 1
