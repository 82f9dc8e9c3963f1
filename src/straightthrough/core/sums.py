"""Sums of probabilities in whole numbers, and the share of them that a uniform asks for."""

from __future__ import annotations

import torch
from torch import Tensor


def summed(p: Tensor) -> Tensor:
    """Return the sums of probabilities up to each along the last dimension, in units of 2^-52.

    Whole numbers add up to the same in any order: their sum is reproducible on every device, which
    torch refuses of sums of floats off the CPU where deterministic algorithms are asked for.
    """
    return (p * 2.0**52).to(torch.int64).cumsum(-1)


def share(bits: Tensor, total: Tensor) -> Tensor:
    """Return `(2 bits + 1) / 2^53` of totals below 2^53, `(..., 1)`, rounded down, all in int64.

    It is below the total, and at most 1 too small.
    """
    numbers = torch.cat([bits, total], -1)
    high, most = (numbers >> 26).split(1, -1)
    low, rest = (numbers & (2**26 - 1)).split(1, -1)
    # What the lower parts give among themselves is below 2^53, and left out.
    across = torch.addcmul(torch.addcmul(most, low, most, value=2), high, rest, value=2)
    return torch.addcmul(across >> 27, high, most)
