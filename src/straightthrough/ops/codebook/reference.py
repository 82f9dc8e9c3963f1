"""What the kernels of codebooks must equal, in plain torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.kernels import index, kernel, like
from ...core.precision import compute_dtype, narrowed, widest
from ...estimators.pair import factored, has_direction, inner
from .grid import Grid, places_of

BLOCK = 64
"""Scores whose largest is found first: that is much faster than an argmax over all."""


def row(x: Tensor, *_: object) -> Tensor:
    """A result of one number a row of the first argument."""
    return x.new_empty(x.shape[:-1])


@kernel("(Tensor scores) -> (Tensor, Tensor, Tensor)", row, index, row)
def two_largest(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return of each row the largest score, its first place, and the next, which may be as large.

    Both are NaN, and the place is 0, where the row holds NaN. After a single one comes -infinity.
    """
    padded = F.pad(scores, (0, -scores.shape[-1] % BLOCK), value=-torch.inf)
    blocks = padded.unflatten(-1, (-1, BLOCK))
    peaks = blocks.amax(-1)
    largest, block = peaks.max(-1, keepdim=True)
    inside = blocks.take_along_dim(block.unsqueeze(-1), -2).squeeze(-2)
    place = inside.argmax(-1, keepdim=True)
    others = peaks.scatter(-1, block, -torch.inf), inside.scatter(-1, place, -torch.inf)
    following = torch.cat(others, -1).amax(-1, keepdim=True)
    unknown = largest.isnan()
    place = torch.where(unknown, 0, block * BLOCK + place)
    following = torch.where(unknown, torch.nan, following)
    return largest.squeeze(-1), place.squeeze(-1), following.squeeze(-1)


def in_order(terms: Tensor) -> Tensor:
    """Return the sums of rows, on the CPU one entry after the other, as kernels have them."""
    # Of cumulated floats elsewhere there is no deterministic algorithm.
    return terms.cumsum(-1)[..., -1] if terms.is_cpu else terms.contiguous().sum(-1)


@kernel("(Tensor z, Tensor codebook) -> Tensor", index)
def nearest_of_few(z: Tensor, codebook: Tensor) -> Tensor:
    """Return the first of the nearest codewords by all distances in float64; -1 for a row without.

    That is one that is not finite, and so are all where no codeword is finite.
    """
    wide = widest(z.device)
    distance = in_order((z.to(wide).unsqueeze(-2) - codebook.to(wide)).square())
    usable = codebook.isfinite().all(-1)
    least = torch.where(usable, distance, torch.inf).amin(-1, keepdim=True)
    place = ((distance == least) & usable).to(torch.int8).argmax(-1)
    return torch.where(z.isfinite().all(-1) & usable.any(), place, -1)


def nearest_by_scores(z: Tensor, codebook: Tensor) -> Tensor:
    """Return the same of `(..., *H, D)` and `(*H, K, D)`, as ONNX has functions for it.

    The scores `<z - o, c - o> - |c - o|^2 / 2`, o the first codeword, are of float64.
    """
    wide = widest(z.device)
    usable = codebook.isfinite().all(-1)
    table = torch.where(usable.unsqueeze(-1), codebook, 0).to(wide)
    origin = table[..., :1, :]
    away = table - origin
    score = ((z.to(wide).unsqueeze(-2) - origin) @ away.mT).squeeze(-2) - away.square().sum(-1) / 2
    place = score.masked_fill(~usable, -torch.inf).argmax(-1)
    return torch.where(z.isfinite().all(-1) & usable.any(-1), place, -1)


def rows_of(table: Tensor, numbers: Tensor) -> Tensor:
    """A result of a row of the table, in what is computed in, for each number."""
    shape = (*numbers.shape, table.shape[-1])
    return table.new_empty(shape, dtype=compute_dtype(table.dtype))


@kernel("(Tensor table, Tensor numbers) -> Tensor", rows_of)
def codewords(table: Tensor, numbers: Tensor) -> Tensor:
    """Return the rows of a table of those numbers in float32 or float64, NaN for -1."""
    value = table.index_select(0, numbers.flatten().clamp(min=0)).to(compute_dtype(table.dtype))
    value = value.reshape(*numbers.shape, table.shape[-1])
    return torch.where((numbers < 0).unsqueeze(-1), torch.nan, value)


BOUNDS = "SymInt[] levels, float slope, bool symmetric"


@kernel(f"(Tensor z, {BOUNDS}) -> (Tensor, Tensor)", like, index)
def finite_scalars(
    z: Tensor, levels: Sequence[int], slope: float, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Return the nearest level of each bounded entry as a code, and the number of a row of them.

    They are NaN and -1 for a row that holds NaN.
    """
    wide = z.to(compute_dtype(z.dtype))
    grid = Grid(torch.tensor(levels, device=z.device), slope, symmetric, wide)
    digits = grid.digits(wide)
    return coded(grid.code(digits), digits, places_of(levels, z.device), z)


@kernel(f"(Tensor z, Tensor grad, {BOUNDS}) -> Tensor")
def finite_scalars_gradient(
    z: Tensor, grad: Tensor, levels: Sequence[int], slope: float, symmetric: bool
) -> Tensor:
    """Return the gradient to `z`: that to the code times the derivative of the bound."""
    wide = z.to(compute_dtype(z.dtype))
    grid = Grid(torch.tensor(levels, device=z.device), slope, symmetric, wide)
    return narrowed(grid.derivative(wide) * grad.to(wide.dtype), z.dtype, grad)


@kernel("(Tensor z, float size) -> (Tensor, Tensor)", like, index)
def signs(z: Tensor, size: float) -> tuple[Tensor, Tensor]:
    """Return `size` where z is at least 0, else `-size`, and the number that a row of them spells.

    They are NaN and -1 for a row that holds NaN.
    """
    digits = (z >= 0).to(compute_dtype(z.dtype))
    places = 2 ** torch.arange(z.shape[-1], device=z.device)
    return coded((2 * digits - 1) * size, digits, places, z)


@kernel("(Tensor z, Tensor grad) -> Tensor")
def sphere_gradient(z: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient to `z` of one to z over its length; 0 where that is 0 or not finite."""
    wide, g = (x.to(compute_dtype(grad.dtype)) for x in (z, grad))
    given = has_direction(wide)
    u, largest, rest = factored(torch.where(given, wide, 1))
    gradient = torch.where(given, (g - u * inner(u, g)) / rest / largest, 0)
    return narrowed(gradient, grad.dtype, grad)


def coded(code: Tensor, digits: Tensor, places: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes in the dtype of `z` and their numbers; NaN and -1 for a row that holds NaN."""
    invalid = z.isnan().any(-1)
    terms = digits.nan_to_num(0).long() * places
    in_onnx = torch.onnx.is_in_onnx_export()  # whose runtime sums int64 in floats
    number = functools.reduce(torch.add, terms.unbind(-1)) if in_onnx else terms.sum(-1)
    code = torch.where(invalid.unsqueeze(-1), torch.nan, code.to(z.dtype))
    return code, torch.where(invalid, -1, number)
