"""The random quadratic that estimators are compared on in the literature."""

from __future__ import annotations

import functools

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
    normal = functools.partial(torch.randn, generator=generator, device="cpu")
    q, b, eta = normal(size, size), normal(size), normal(size)
    a, b = (q.T @ q).double(), b.double()
    return lambda z: ((z @ a) * z).sum(-1) + z @ b, eta.double()
