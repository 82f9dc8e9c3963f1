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


def share(numerator: Tensor, total: Tensor) -> Tensor:
    """Return `numerator / 2^53` of a total below 2^53, rounded down, all in int64.

    It is below the total, and at most 1 too small.
    """
    high, low = numerator >> 27, numerator & (2**27 - 1)
    most, rest = total >> 26, total & (2**26 - 1)
    # The product of the lower parts is below 2^53.
    return high * most + ((2 * high * rest + low * most) >> 27)
