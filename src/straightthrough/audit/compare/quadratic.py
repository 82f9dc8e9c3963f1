"""The random quadratic that estimators are compared on in the literature."""

from __future__ import annotations

import torch
from torch import Tensor

from .exact import Loss


def quadratic(size: int, seed: int) -> tuple[Loss, Tensor]:
    """Return the loss `z^T A z + b^T z` of one-hots `(N, size)` in float64, and logits for z.

    `A = Q^T Q`; Q, b and the logits are standard normal.

    References:
        Hooper, Shekhovtsov, "Generalized and optimal straight-through estimators", 2026.
    """
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(size, size, generator=generator)
    b = torch.randn(size, generator=generator)
    eta = torch.randn(size, generator=generator)
    a, b = (q.T @ q).double(), b.double()
    return lambda z: ((z @ a) * z).sum(-1) + z @ b, eta.double()
