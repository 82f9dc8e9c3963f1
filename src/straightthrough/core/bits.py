"""Few bits an element: of one bit, element i, in row-major order, is bit i % 8 of byte i // 8."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pack(bools: Tensor) -> Tensor:
    """Return the bits of a bool tensor, as `ceil(n / 8)` bytes; what is left of the last is 0."""
    flat = bools.reshape(-1).to(torch.uint8)
    octets = F.pad(flat, (0, -flat.numel() % 8)).reshape(-1, 8)
    return (octets << _places(flat)).sum(-1, dtype=torch.uint8)


def unpack(bits: Tensor, shape: torch.Size) -> Tensor:
    """Return the bool tensor of that shape whose bits they are; a bool tensor as it is."""
    if bits.dtype == torch.bool:
        return bits
    each = (bits.unsqueeze(-1) >> _places(bits)) & 1
    return each.reshape(-1)[: shape.numel()].reshape(shape).bool()


def pack_numbers(numbers: Tensor, width: int) -> Tensor:
    """Return whole numbers from 0 to `2^width - 1` as bytes, the first in the lowest bits.

    The width is in [1, 16]; eight numbers take so many bytes. What is left of the last byte is 0.
    """
    flat = numbers.reshape(-1).to(torch.int32)
    eights = F.pad(flat, (0, -flat.numel() % 8)).reshape(-1, 8)
    packed = eights.new_zeros(len(eights), width + 2)
    for i, (byte, shift) in enumerate(_begins(width)):
        word = eights[:, i] << shift
        for further in range(3):
            packed[:, byte + further] |= word >> 8 * further & 255
    return packed[:, :width].reshape(-1)[: -(-flat.numel() * width // 8)].to(torch.uint8)


def unpack_numbers(packed: Tensor, width: int, shape: torch.Size) -> Tensor:
    """Return the numbers, int32, of that shape that were packed."""
    begins = _begins(width)
    first, shifts = torch.tensor(begins, device=packed.device).unbind(-1)
    groups = F.pad(packed.to(torch.int32), (0, -packed.numel() % width)).reshape(-1, width)
    words = groups[:, first]
    across = max((shift + width - 1) // 8 for _, shift in begins)
    for further in range(1, across + 1):
        words = words | F.pad(groups, (0, across))[:, first + further] << 8 * further
    numbers = words >> shifts.to(torch.int32) & (1 << width) - 1
    return numbers.reshape(-1)[: shape.numel()].reshape(shape)


def _begins(width: int) -> list[tuple[int, int]]:
    """Return of eight numbers the bytes and the bits in them at which they begin."""
    return [divmod(i * width, 8) for i in range(8)]


def _places(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)
