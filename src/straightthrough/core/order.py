"""Sorting in eager code and in graphs, of those for ONNX too."""

from __future__ import annotations

import torch
from torch import Tensor


def sort(x: Tensor, *, descending: bool = False) -> tuple[Tensor, Tensor]:
    """Return the last dimension in order, and the places it came from; equal ones as they come."""
    if torch.onnx.is_in_onnx_export():  # which has no sort; of equal ones its topk has the first
        return torch.topk(x, x.shape[-1], largest=descending)
    return torch.sort(x, dim=-1, descending=descending, stable=True)
