"""Gumbel noise of every class of rows, whole: what most draws make do without."""

from __future__ import annotations

from torch import Tensor

from .kernels import kernel
from .noise import Noise, gumbel, in_blocks
from .precision import compute_dtype


@kernel("(Tensor x, int sample, Noise noise) -> Tensor")
def gumbels(x: Tensor, sample: int, noise: Noise) -> Tensor:
    """Return one Gumbel a class of rows `(..., C)`, in their dtype."""
    return gumbel_noise(x, noise, sample).to(x.dtype)


def gumbel_noise(x: Tensor, noise: Noise, sample: int = 0) -> Tensor:
    """Return the same in plain torch, in float32 for half precision."""
    wide, classes = compute_dtype(x.dtype), x.shape[-1]

    def block(first: int, rows: Tensor) -> Tensor:
        return gumbel(noise.after(first).classes(rows.shape[0], classes, wide, sample))

    return in_blocks(block, x.reshape(-1, classes)).reshape(x.shape)
