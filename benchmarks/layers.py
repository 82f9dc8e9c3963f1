"""A linear layer whose weights are masked: ours, and the layer without a mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from straightthrough.ops.bernoulli.api import hard_concrete

BATCH = 256
"""Rows that it is applied to."""


def masked(logits: Tensor, *layer: Tensor) -> Tensor:
    """A layer with hard gates."""
    weight, *others = layer
    return bare(logits, weight * hard_concrete(logits, hard=True), *others)


def bare(logits: Tensor, *layer: Tensor) -> Tensor:
    """The same without gates."""
    weight, bias, x = layer
    return F.linear(x, weight, bias)


def inputs(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return the logits, the weight, the bias, and what the layer is applied to."""
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return logits, torch.randn(shape), torch.randn(shape[0]), torch.randn(BATCH, shape[1])
