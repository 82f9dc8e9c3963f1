"""Codes without a table: an integer level an entry, and their number in a mixed base."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.precision import widest

SLOPES = {"tanh": 1.0, "sigmoid": 0.8}
"""What a bound multiplies z by before tanh: 2 sigmoid(1.6 z) - 1 = tanh(0.8 z)."""


def number_of(digits: Tensor, levels: Tensor) -> Tensor:
    """Return `sum_d digit_d prod_{e < d} levels_e` of int64 digits, the first the least."""
    return (digits * _places(levels)).sum(-1)


def digits_of(number: Tensor, levels: Tensor) -> Tensor:
    """Return the int64 digits of a number."""
    return number.unsqueeze(-1) // _places(levels) % levels


def _places(levels: Tensor) -> Tensor:
    return torch.cat([levels.new_ones(1), levels[:-1].cumprod(0)])


def decoded(code: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the codes of numbers in a floating dtype, a NaN row for -1."""
    return torch.where((index < 0).unsqueeze(-1), torch.nan, code.to(dtype))


class Grid:
    """How an entry is bounded, `reach tanh(slope z + shift) - offset`, and its whole number read.

    Attributes:
        levels: how many each entry has, int64.
        symmetric: whether the levels lie evenly about 0; else, of an even number, one more below.
    """

    def __init__(self, levels: Tensor, slope: float, symmetric: bool, like: Tensor) -> None:
        self.slope, self.symmetric = slope, symmetric
        wide = levels.to(widest(levels.device))
        reach, offset = (wide - 1) / 2, torch.zeros_like(wide)
        half = reach
        if not symmetric:
            reach, offset = reach * (1 + 1e-3), 0.5 * (levels % 2 == 0)
            half = levels // 2
        rows = (reach, offset, torch.atanh(offset / reach), half, wide - 1)
        self.reach, self.offset, self.shift, self.half, self.most = (x.to(like) for x in rows)

    def digits(self, z: Tensor) -> Tensor:
        """Return the level of each entry, from 0 on, as a floating number."""
        bounded = self.reach * torch.tanh(self.slope * z + self.shift) - self.offset
        level = torch.floor(bounded + self.half + 0.5) if self.symmetric else bounded.round()
        level = level if self.symmetric else level + self.half
        return torch.minimum(level.clamp(min=0), self.most)

    def code(self, digits: Tensor) -> Tensor:
        """Return the code of levels, about -1 to 1."""
        return (digits - self.half) / self.half

    def derivative(self, z: Tensor) -> Tensor:
        """Return that of the bounded entry over the half of its range."""
        t = torch.tanh(self.slope * z + self.shift)
        return self.slope * self.reach / self.half * (1 - t.square())
