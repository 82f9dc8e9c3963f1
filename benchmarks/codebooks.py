"""A codebook that learns by moving averages, a step of it: ours, others', and the least of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

import straightthrough as st

CODES = 8192
DECAY = 0.99


def normal(shape: tuple[int, ...]) -> tuple[Tensor]:
    """Return the vectors that are quantized."""
    return (torch.randn(shape, generator=torch.Generator().manual_seed(0)),)


@lru_cache(maxsize=1)
def _ours(width: int) -> st.nn.VectorQuantizer:
    torch.manual_seed(0)
    return st.nn.VectorQuantizer(CODES, width, decay=DECAY, k_means=False)


def quantize(z: Tensor) -> Tensor:
    """The codewords plus the loss, in training."""
    q, _, loss = _ours(z.shape[-1])(z)
    return q + loss


def product(z: Tensor) -> Tensor:
    """The one product of matrices that a search can't do without, a part of the rows at a time."""
    codebook = _ours(z.shape[-1]).book.codebook.T
    scores = z.new_empty(256, CODES)
    for rows in z.detach().split(256):
        torch.mm(rows, codebook, out=scores[: len(rows)])
    return scores


def their_quantizer(library: Any) -> Callable[[Tensor], Tensor]:
    """Return the same of `vector_quantize_pytorch`, with the straight-through rule."""

    @lru_cache(maxsize=1)
    def model(width: int) -> nn.Module:
        torch.manual_seed(0)
        found: nn.Module = library.VectorQuantize(
            width, CODES, decay=DECAY, rotation_trick=False, commitment_weight=0.25
        )
        return found

    def quantize(z: Tensor) -> Tensor:
        q, _, loss = model(z.shape[-1])(z.unsqueeze(0))
        return (q + loss).squeeze(0)

    return quantize


def their_scalars(library: Any, levels: int) -> Callable[[Tensor], Tensor]:
    """Return its finite scalars; of more than 2^20 codes without numbers, which need a table."""

    @lru_cache(maxsize=1)
    def model(width: int) -> nn.Module:
        found: nn.Module = library.FSQ([levels] * width, return_indices=levels**width <= 2**20)
        return found

    return lambda z: model(z.shape[-1])(z.unsqueeze(0))[0].squeeze(0)
