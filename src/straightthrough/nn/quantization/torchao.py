"""Quantized weights as tensors of `torchao`, with the scales that were learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import ArgumentError
from ...core.precision import compute_dtype
from ...grids import Int, Ternary
from ..quantizer import Quantizer


def as_torchao(quantizer: Quantizer, weight: Tensor) -> nn.Parameter | None:
    """Return a weight as a tensor of `torchao`; None where it has none that is the same.

    It has of matrices that are not float64: of integers of at most 8 bits, and three values, with a
    scale of all, of a row or a block.
    """
    try:
        from torchao.quantization import IntxUnpackedToInt8Tensor
    except ImportError as error:
        raise ArgumentError(
            "to='torchao' needs torchao 0.15 or newer, which is not installed: pip install torchao"
        ) from error
    grid, axis = quantizer.grid, quantizer.scaling.axis
    bits = grid.bits if isinstance(grid, Int) else 2
    fits = isinstance(grid, Int | Ternary) and bits <= 8 and quantizer.offset is None
    fits = fits and weight.dtype != torch.float64
    if weight.ndim != 2 or not fits or axis not in (None, 0, -2):
        return None
    # Its integers are signed, and its scales one a block of a row.
    moved = 0 if grid.code_range[0] < 0 else 2 ** (bits - 1)
    blocks = quantizer.scaling.blocks(weight).shape[1:-1].numel()
    scale = _each(quantizer.scale_of(weight), len(weight), blocks)
    zero = quantizer.zero_point
    points = torch.zeros_like(scale) if zero is None else _each(zero, len(weight), blocks).round()
    tensor: Any = IntxUnpackedToInt8Tensor(
        (quantizer.codes(weight) - moved).to(torch.int8),
        scale,
        (points - moved).to(torch.int8),
        getattr(torch, f"int{bits}"),
        (1, weight.shape[1] // blocks),
        weight.dtype,
        None,
    )
    return nn.Parameter(tensor, requires_grad=False)


def _each(kept: Tensor, rows: int, blocks: int) -> Tensor:
    """Return one entry a block, of one for all, a row or a block."""
    wide = kept.detach().to(compute_dtype(kept.dtype))
    return wide.reshape(-1, kept.shape[1] if kept.ndim == 3 else 1).expand(rows, blocks).clone()
