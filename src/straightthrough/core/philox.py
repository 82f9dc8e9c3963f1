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
    left, right = torch.stack([c0, c2]), torch.stack([c3, c1])
    multipliers, keys = _constants(seed, c0.ndim)
    for i in range(10):
        # Whole 64-bit products are carried along; a word is masked only where it is used. No part
        # of a tensor is written to, which a pass over a recorded graph may take for dead code.
        product = left * multipliers[i % 2 :][:2]
        left = (product >> 32) ^ keys[i % 2 :, ..., i][:2]
        left = left.bitwise_xor_(right).bitwise_and_(MASK)
        right = product.flip(0)
    c3, c1 = right
    return left[0], c1 & MASK, left[1], c3 & MASK


def philox_in_place(
    counter: tuple[Tensor, ...], seed: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the same in half as many operations, which write into each other's results.

    Words are read and written where they lie in products of 64 bits, the lower one first.
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    left, right = (torch.stack(pair).unsqueeze(-1) for pair in ([c0, c2], [c3, c1]))
    multipliers, keys = _constants_in_place(seed, left.ndim - 1)
    target, added = left.view(torch.int32)[..., 0], right.view(torch.int32)[..., 0]
    for i in range(10):
        # Of each product there are two, so that one finds them in either order.
        product = left.expand(2, *left.shape) * multipliers[i % 2 :][:2]
        words = product.view(torch.int32)
        torch.bitwise_xor(words[0, ..., 1], added, out=target)
        target.bitwise_xor_(keys[i, 1 - i % 2 :][:2])
        added = words.flatten(0, 1)[1:3, ..., 0]
    c1, c3 = (product[0] & MASK).squeeze(-1)
    c0, c2 = left.squeeze(-1)
    return c0, c1, c2, c3


def _constants_in_place(seed: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    """Return the multipliers, as below, and four keys a round, of which two are used."""
    pair = _two(MULTIPLIER_0, MULTIPLIER_1, seed)
    multipliers = torch.cat([pair, pair[:1]]).reshape(3, *(1,) * ndim)
    rounds = torch.arange(10, device=seed.device).reshape(10, 1, 1).expand(10, 2, 1)
    halves = seed.reshape(1).view(torch.int32)
    keys = torch.addcmul(halves, rounds, _two(WEYL_0, WEYL_1, seed))
    words = keys.unsqueeze(-1).view(torch.int32)[..., 0]
    return multipliers, words.reshape(10, 4, *(1,) * (ndim - 1))


def _two(first: int, second: int, like: Tensor) -> Tensor:
    """Return two numbers in one operation on the device of a tensor."""
    return torch.arange(first, 2 * second - first, second - first, device=like.device)


def _constants(seed: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    """Return the multipliers and the keys of ten rounds, of which the low 32 bits count.

    The first two of three are those of the even rounds, the last two those of the odd ones. They
    are made on the device of the seed, as copies to it would end the recording of a CUDA graph.
    """
    ones = (1,) * ndim
    pair = _two(MULTIPLIER_0, MULTIPLIER_1, seed)
    multipliers = torch.cat([pair, pair[:1]]).reshape(3, *ones)
    rounds = torch.arange(10, device=seed.device)
    even = torch.add(seed >> 32, rounds, alpha=WEYL_1)
    odd = torch.add(seed, rounds, alpha=WEYL_0)
    keys = torch.stack([even, odd, even]).reshape(3, *ones, 10)
    return multipliers, keys
