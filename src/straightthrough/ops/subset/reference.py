"""What the kernels of subsets must equal, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.gumbels import gumbels
from ...core.kernels import kernel
from ...core.noise import DRAW, Noise, in_blocks
from ...core.precision import compute_dtype
from ...estimators.exactly_k import work
from ...estimators.subset_tree import descend, leaves, tilted, upward


@kernel("(Tensor scores, int k) -> Tensor")
def topk_hot(scores: Tensor, k: int) -> Tensor:
    """Return the k-hot of the k largest scores a row.

    Ties go to the lowest index; `torch.topk` alone leaves them open. A row has no outcome when
    it holds NaN or fewer than k scores above -infinity; it is NaN.
    """
    largest = scores.topk(k, -1).values
    least = largest[..., -1:]
    above, tied = scores > least, scores == least
    room = k - above.sum(-1, keepdim=True, dtype=torch.int32)
    chosen = above | (tied & (tied.cumsum(-1, dtype=torch.int32) <= room))
    invalid = largest[..., :1].isnan() | least.isneginf()
    return torch.where(invalid, torch.nan, chosen.to(scores.dtype))


def perturbed(logits: Tensor, k: int, noise: Noise) -> Tensor:
    """Return the logits, relative to the k-th largest of a row, plus a Gumbel each; never in half.

    Beside it no digit of the noise is lost. A row with +infinity, which has no law, becomes NaN.
    """
    wide = logits.to(compute_dtype(logits.dtype))
    largest = wide.detach().topk(k, -1).values
    return wide - (largest[..., -1:] + 0 * largest[..., :1]) + gumbels(wide.detach(), 0, noise)


@kernel("(Tensor logits, int k, Noise noise) -> Tensor")
def draw_subset(logits: Tensor, k: int, noise: Noise) -> Tensor:
    """Draw a k-hot a row from `p(z) ~ exp(<z, logits>)`; NaN where a row has none."""
    n = logits.shape[-1]

    def block(first: int, rows: Tensor) -> Tensor:
        theta, _, valid = tilted(rows, k)
        levels = upward(leaves(theta, ()), k)
        nodes = levels[0].shape[-2]
        uniform = noise.after(first).classes(rows.shape[0], nodes, torch.float64, stream=DRAW)
        chosen = descend(levels, k, uniform)[..., :n].to(logits.dtype)
        return torch.where(valid, chosen, torch.nan)

    drawn = in_blocks(block, logits.reshape(-1, n), width=work(n, k)).reshape(logits.shape)
    return drawn.clone()  # as torch lets nobody write to a value that is a view
