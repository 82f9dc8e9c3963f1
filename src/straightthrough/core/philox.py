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
    counter: tuple[Tensor, Tensor | int, Tensor | int, Tensor | int], seed: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the same in two operations a round. A word of all blocks may be a number.

    For each half of a block the state holds a word that waits, one to be multiplied, and nothing:
    six numbers of 64 bits, which are multiplied in another order than they lie in.

        state    waits 0, times 0, none, waits 1, times 1, none
        product  waits 0, none, times 1, times 0, waits 1, none

    Evenly spaced, 0's waiting word is thus matched with 1's product, and 1's with 0's. To a word
    that waits its product adds the next key, as the lower half of a number. So both halves of
    a product are mixed with what they want at once: the lower one with the key, to wait next, the
    upper one with the word that waited, to be multiplied next.
    """
    multipliers, keys = _constants_in_place(seed)
    c0, c1, c2, c3 = counter
    none = keys[-1, 0]
    other = c2 if isinstance(c2, Tensor) else _mixed(none, c2)
    words = _mixed(keys[0, 0], c1), c0, none, _mixed(keys[0, 4], c3), other, none
    state = torch.stack(torch.broadcast_tensors(*words))
    shape, ones = state.shape[1:], (1,) * (state.ndim - 1)
    multipliers, keys = multipliers.view(2, 3, *ones), keys.view(11, 2, 3, *ones)
    factors = state.view(3, 2, *shape).transpose(0, 1)
    product = torch.empty_like(state).view(2, 3, *shape)
    # As 32 bits, the lower half of a number comes first.
    halves = product.view(6, *shape, 1).view(torch.int32)
    products, waiting = halves[2:4], halves[::4]
    mixed = state.view(2, 3, *shape, 1).view(torch.int32)[:, :2, ..., 0].movedim(1, -1)
    for key in keys[1:]:
        torch.addcmul(key, factors, multipliers, out=product)
        torch.bitwise_xor(products, waiting, out=mixed)
    return state[1], state[0], state[4], state[3]


def _mixed(word: Tensor, other: Tensor | int) -> Tensor:
    """Return the exclusive or of two words."""
    return word if type(other) is int and other == 0 else word ^ other


def _constants_in_place(seed: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the six numbers are multiplied by, and what eleven rounds add to the products.

    A word that waits is moved by 32 bits, to make room for a key. The first keys are those of the
    state at the start, and the last are none. See `_constants` on where these are made.
    """
    multipliers = torch.full((6,), 2**32, device=seed.device)
    _two(MULTIPLIER_1, MULTIPLIER_0, seed, out=multipliers[2:4])
    keys = torch.zeros(11, 6, dtype=torch.int64, device=seed.device)
    rounds = torch.arange(10, device=seed.device).unsqueeze(-1)
    halves, words = seed.reshape(1).view(torch.int32), keys.view(torch.int32)[:10, ::8]
    torch.addcmul(halves, rounds, _two(WEYL_0, WEYL_1, seed), out=words)
    return multipliers, keys


def _two(first: int, second: int, like: Tensor, out: Tensor | None = None) -> Tensor:
    """Return two numbers in one operation on the device of a tensor."""
    return torch.arange(first, 2 * second - first, second - first, device=like.device, out=out)


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
