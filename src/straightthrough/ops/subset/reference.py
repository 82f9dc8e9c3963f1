"""What the kernel of subsets must equal, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.kernels import kernel


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
