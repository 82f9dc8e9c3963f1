"""Rows in order, equal entries as they come."""

from __future__ import annotations

import torch
from torch import Tensor


def stable_sort(x: Tensor, descending: bool) -> tuple[Tensor, Tensor]:
    """Return rows in order, NaN as the largest, and what numbers the entries had."""
    if torch.onnx.is_in_onnx_export():  # which has no sort that is said to be stable: all are
        return torch.sort(x, dim=-1, descending=descending)
    return torch.sort(x, dim=-1, descending=descending, stable=True)
