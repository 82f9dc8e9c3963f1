"""Codes without a table: an integer level an entry, and their number in a mixed base."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SLOPES = {"tanh": 1.0, "sigmoid": 0.8}
"""What a bound multiplies z by before tanh: 2 sigmoid(1.6 z) - 1 = tanh(0.8 z)."""


def number_of(digits: Tensor, levels: Sequence[int]) -> Tensor:
    """Return `sum_d digit_d prod_{e < d} levels_e` of int64 digits, the first the least."""
    return (digits * _places(levels, digits.device)).sum(-1)


def digits_of(number: Tensor, levels: Sequence[int]) -> Tensor:
    """Return the int64 digits of a number."""
    base = torch.tensor(levels, device=number.device)
    return number.unsqueeze(-1) // _places(levels, number.device) % base


def _places(levels: Sequence[int], device: torch.device) -> Tensor:
    places = [math.prod(levels[:d]) for d in range(len(levels))]
    return torch.tensor(places, device=device)


def decoded(code: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the codes of numbers in a dtype, a NaN row for -1."""
    return torch.where((index < 0).unsqueeze(-1), torch.nan, code.to(dtype))


class Grid:
    """How an entry is bounded, `reach tanh(slope z + shift) - offset`, and its whole number read.

    Attributes:
        levels: how many each entry has.
        symmetric: whether the levels lie evenly about 0; else, of an even number, one more below.
    """

    def __init__(self, levels: Sequence[int], slope: float, symmetric: bool, like: Tensor) -> None:
        def row(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=like.dtype, device=like.device)

        self.levels, self.slope, self.symmetric = levels, slope, symmetric
        if symmetric:
            reach, offset = [(n - 1) / 2 for n in levels], [0.0 for n in levels]
        else:
            reach = [(n - 1) / 2 * (1 + 1e-3) for n in levels]
            offset = [0.5 * (n % 2 == 0) for n in levels]
        pairs = zip(offset, reach, strict=True)
        self.reach, self.offset = row(reach), row(offset)
        self.shift = row([math.atanh(part / whole) for part, whole in pairs])
        self.half = row([(n - 1) / 2 if symmetric else n // 2 for n in levels])
        self.most = row([n - 1 for n in levels])

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
