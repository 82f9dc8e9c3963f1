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

    The width is 1, 2, 4, 8 or 16; what is left of the last byte is 0.
    """
    flat = numbers.reshape(-1).to(torch.int32)
    if width == 16:
        return torch.stack([flat & 255, flat >> 8], -1).reshape(-1).to(torch.uint8)
    parts = F.pad(flat, (0, -flat.numel() % (8 // width))).reshape(-1, 8 // width)
    return (parts << _offsets(width, flat)).sum(-1, dtype=torch.uint8)


def unpack_numbers(packed: Tensor, width: int, shape: torch.Size) -> Tensor:
    """Return the numbers, int32, of that shape that were packed."""
    each = packed.to(torch.int32)
    if width == 16:
        each = each.reshape(-1, 2)
        return (each[:, 0] | each[:, 1] << 8).reshape(shape)
    parts = each.unsqueeze(-1) >> _offsets(width, each) & (1 << width) - 1
    return parts.reshape(-1)[: shape.numel()].reshape(shape)


def _offsets(width: int, like: Tensor) -> Tensor:
    return torch.arange(0, 8, width, dtype=like.dtype, device=like.device)


def _places(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)
