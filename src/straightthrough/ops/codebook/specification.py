"""What codebook operators are held against: every distance, and gradients in float64."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from ...core.noise import Noise
from ...estimators import PairEstimator

Pair = tuple[Tensor, Tensor]


def nearest(z: Tensor, codebook: Tensor) -> Pair:
    """The first of the nearest codewords by all distances in float64, and its number."""
    squares = (z.double().unsqueeze(-2) - codebook.double()).square()
    number = functools.reduce(torch.add, squares.unbind(-1)).argmin(-1)
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


def finite_scalars(z: Tensor, levels: int) -> Pair:
    """The level that lies between the two places where the bounded entry is half a number."""
    half, reach, offset, shift = _bounds(levels)
    middles = torch.arange(levels - 1, dtype=torch.float64, device=z.device) - half + 0.5
    edges = torch.atanh((middles + offset) / reach) - shift
    digits = torch.bucketize(z.double().contiguous(), edges)
    return _with_number((digits - half).double() / half, digits, levels, z)


def finite_scalars_gradient(
    rule: None, z: Tensor, y: Tensor, number: Tensor, grad: Tensor, noise: Noise, levels: int
) -> tuple[Tensor]:
    """The derivative of the bound."""
    half, reach, _, shift = _bounds(levels)
    slope = 1 - torch.tanh(z.double() + shift).square()
    return (slope * reach / half * grad.double(),)


def _bounds(levels: int) -> tuple[int, float, float, float]:
    """Return half of the levels, and of the bound the reach, the offset and the shift."""
    reach, offset = 1.001 * (levels - 1) / 2, 0.5 * (levels % 2 == 0)
    return levels // 2, reach, offset, math.atanh(offset / reach)


def signs(z: Tensor) -> Pair:
    """1 or -1."""
    return _with_number(torch.where(z < 0, -1.0, 1.0), z >= 0, 2, z)


def signs_gradient(
    rule: None, z: Tensor, y: Tensor, number: Tensor, grad: Tensor, noise: Noise
) -> tuple[Tensor]:
    """The gradient as it is."""
    return (grad.double(),)


def sphere(z: Tensor) -> Pair:
    """1 or -1 over the root of their number."""
    code = (1 - 2 * (z < 0).double()) / math.sqrt(z.shape[-1])
    return _with_number(code, z >= 0, 2, z)


def sphere_gradient(
    rule: None, z: Tensor, y: Tensor, number: Tensor, grad: Tensor, noise: Noise
) -> tuple[Tensor]:
    """That of a vector over its length, 0 where there is none."""
    given = (z.isfinite().all(-1) & (z != 0).any(-1)).unsqueeze(-1)
    wide = torch.where(given, z.double(), 1)

    def normalised(x: Tensor) -> Tensor:
        x = x / x.detach().abs().amax(-1, keepdim=True)
        return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)

    return (torch.where(given, torch.func.vjp(normalised, wide)[1](grad.double())[0], 0),)


def _with_number(code: Tensor, digits: Tensor, levels: int, z: Tensor) -> Pair:
    """Return a code in the dtype of `z`, and its number digit by digit, the last one first."""
    number = torch.zeros(z.shape[:-1], dtype=torch.int64, device=z.device)
    for digit in reversed(digits.unbind(-1)):
        number = levels * number + digit
    invalid = z.isnan().any(-1)
    code = code.to(z.dtype).masked_fill(invalid.unsqueeze(-1), torch.nan)
    return code, number.masked_fill(invalid, -1)
