"""Philox4x32-10 in torch's integer arithmetic, in few operations: each is a launch on a GPU.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

MULTIPLIER_0, MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
WEYL_0, WEYL_1 = 0x9E3779B9, 0xBB67AE85
MASK = 0xFFFFFFFF


def philox(counter: tuple[Tensor, ...], seed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four 32-bit words (in int64) of each block that `counter` names.

    Args:
        counter: four int64 tensors of 32-bit words that broadcast together.
        seed: int64; its low half is the first word of the key, its high half the second.
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    # Both halves of the state are worked on at once, and change places with every round.
    left, right = torch.stack([c0, c2]), (c3, c1)
    multipliers, keys = _constants(seed, c0.ndim)
    for i in range(10):
        # Whole 64-bit products are carried along; a word is masked only where it is used.
        product = left * multipliers[i % 2 :][:2]
        left = (product >> 32) ^ keys[i % 2 :, ..., i][:2]
        left[0].bitwise_xor_(right[0])
        left[1].bitwise_xor_(right[1])
        left.bitwise_and_(MASK)
        right = (product[1], product[0])
    c3, c1 = right
    return left[0], c1 & MASK, left[1], c3 & MASK


def _constants(seed: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    """Return the multipliers and the keys of ten rounds, of which the low 32 bits count.

    The first two of three are those of the even rounds, the last two those of the odd ones. They
    are made on the device of the seed, as copies to it would end the recording of a CUDA graph.
    """
    ones = (1,) * ndim
    step = MULTIPLIER_1 - MULTIPLIER_0
    pair = torch.arange(MULTIPLIER_0, MULTIPLIER_1 + step, step, device=seed.device)
    multipliers = torch.cat([pair, pair[:1]]).reshape(3, *ones)
    rounds = torch.arange(10, device=seed.device)
    even = torch.add(seed >> 32, rounds, alpha=WEYL_1)
    odd = torch.add(seed, rounds, alpha=WEYL_0)
    keys = torch.stack([even, odd, even]).reshape(3, *ones, 10)
    return multipliers, keys
