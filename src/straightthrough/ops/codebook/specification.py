"""What codebook operators are held against: every distance, and gradients in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.noise import Noise
from ...estimators import PairEstimator

Pair = tuple[Tensor, Tensor]


def nearest(z: Tensor, codebook: Tensor) -> Pair:
    """The first of the nearest codewords by all distances in float64, and its number."""
    difference = (z.double().unsqueeze(-2) - codebook.double()).contiguous()
    number = difference.square().sum(-1).argmin(-1)
    number = torch.where(z.isfinite().all(-1), number, -1)
    value = codebook[number.clamp(min=0)]
    return value.masked_fill((number < 0).unsqueeze(-1), torch.nan), number


def through(z: Tensor, q: Tensor) -> Tensor:
    """The second of the pair."""
    return q


def through_gradient(
    rule: PairEstimator, z: Tensor, q: Tensor, y: Tensor, grad: Tensor, noise: Noise
) -> Pair:
    """The rule's formula."""
    to_z, to_q = rule.gradient(z.double(), q.double(), grad.double())
    return to_z, torch.zeros_like(to_z) if to_q is None else to_q


def quantized_gradient(
    rule: PairEstimator,
    z: Tensor,
    codebook: Tensor,
    y: Tensor,
    number: Tensor,
    grad: Tensor,
    noise: Noise,
) -> Pair:
    """That of the rows of the codebook that were picked, added up by a product of matrices."""
    picked = (number.unsqueeze(-1) == torch.arange(len(codebook), device=z.device)).double()
    invalid = (number < 0).unsqueeze(-1)
    q = (picked @ codebook.double()).masked_fill(invalid, torch.nan)
    to_z, to_q = through_gradient(rule, z, q, y, grad, noise)
    to_q = torch.where(invalid, 0, to_q).reshape(-1, z.shape[-1])
    return to_z, picked.reshape(-1, len(codebook)).T @ to_q
