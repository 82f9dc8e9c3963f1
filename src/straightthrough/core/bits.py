"""One bit an element, eight a byte: element i, in row-major order, is bit i % 8 of byte i // 8."""

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


def _places(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)
