"""The search for the nearest codeword, as one torch operator that graphs call whole.

Of few codewords all distances are taken, in float64. Of more there are scores first,
`<z - m, c - m> - |c - m|^2 / 2`, m the codebook's mean: matrix products of tiles of rows and
codewords. Where the best one leads the next by more than their rounding can be, it is the nearest.
The others of its row, which it does not lead so, are told apart by their distances in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.internals import Operator
from ...core.kernels import has_kernel, known
from ...core.library import library
from ...core.precision import compute_dtype, widest
from .reference import BLOCK, in_order, nearest_of_few, two_largest

BUDGET = {"cpu": 2**19}
"""Scores that exist at once, by device: on a CPU, what its second cache holds."""

ELSEWHERE = 2**26

TILE = {"cpu": 512}
"""Codewords that are scored at once, by device; elsewhere it is all of them."""

FEW_CODES, FEW_ENTRIES, FEW_DIFFERENCES = 64, 2**13, 2**22
"""Codewords, their entries, and those times vectors, up to which a kernel takes all distances."""

library.define("nearest(Tensor z, Tensor codebook) -> Tensor")
nearest_index: Operator = torch.ops.straightthrough.nearest.default
"""The number of the nearest codeword of each vector, -1 where there is none.

`(..., *H, D)` and `(*H, K, D)` give `(..., *H)` int64.
"""


def _nearest(z: Tensor, codebook: Tensor) -> Tensor:
    with torch.no_grad():
        if codebook.ndim == 2:
            return _search(z.reshape(-1, z.shape[-1]), codebook).reshape(z.shape[:-1])
        books = codebook.reshape(-1, *codebook.shape[-2:])
        rows = z.reshape(z.shape[:-1].numel() // len(books), len(books), z.shape[-1])
        index = [_search(rows[:, i], book) for i, book in enumerate(books)]
        return torch.stack(index, 1).reshape(z.shape[:-1])


def _vmap(info: Any, dims: Sequence[int | None], z: Tensor, codebook: Tensor) -> tuple[Tensor, int]:
    if dims[1] is None:
        return nearest_index(z.movedim(dims[0] or 0, 0), codebook), 0
    codebook = codebook.movedim(dims[1], 0)
    place = -(codebook.ndim - 1)  # the batch is the first of the heads
    z = z.movedim(dims[0], place) if dims[0] is not None else _expanded(z, place, info.batch_size)
    return nearest_index(z, codebook), z.ndim + place


def _expanded(z: Tensor, place: int, size: int) -> Tensor:
    z = z.unsqueeze(place)
    shape = [*z.shape]
    shape[place] = size
    return z.expand(shape)


library.impl("nearest", _nearest, "CompositeExplicitAutograd")
torch.library.register_fake(
    "straightthrough::nearest",
    lambda z, codebook: z.new_empty(z.shape[:-1], dtype=torch.int64),
    lib=library,
)
torch.library.register_vmap("straightthrough::nearest", _vmap, lib=library)


def _search(z: Tensor, codebook: Tensor) -> Tensor:
    """Return the nearest codeword of each row of `z`, `(N, D)`, in `codebook`, `(K, D)`."""
    entries = codebook.numel()
    few = len(codebook) <= FEW_CODES or entries <= FEW_ENTRIES
    if (few or len(z) * entries <= FEW_DIFFERENCES) and has_kernel(z) and known(codebook):
        return nearest_of_few(z, codebook)
    with torch.autocast(z.device.type, enabled=False):
        return _by_scores(z, codebook)


def _by_scores(z: Tensor, codebook: Tensor) -> Tensor:
    wide = compute_dtype(z.dtype)
    usable, valid = _finite(codebook), _finite(z)
    centre, weight, radius = _centred(codebook.to(wide), usable)
    index = torch.full(z.shape[:1], -1, device=z.device)
    width = min(TILE.get(z.device.type, len(weight)), len(weight))
    step = max(1, BUDGET.get(z.device.type, ELSEWHERE) // width)
    scores = weight.new_empty(min(step, len(z)), width)
    for first in range(0, len(z), step):
        part = slice(first, first + step)
        # The bias is one more column, as torch.addmm first copies it to every row of the scores.
        x = F.pad(z[part].to(wide) - centre, (0, 1), value=1.0)
        best, place, following = _two_best(x, weight, scores[: len(x)])
        least = best - _rounding(x[:, :-1].square().sum(-1).sqrt(), radius, z.shape[-1])
        rows = (~(following < least) & valid[part]).nonzero().squeeze(-1)
        for some in rows.split(max(1, step * width // len(weight))) if len(rows) else ():
            near = ~(x[some] @ weight[: len(usable)].T < least[some].unsqueeze(-1)) & usable
            place[some] = _nearest_of(z[part][some], codebook, near)
        index[part] = place
    return torch.where(valid & usable.any(), index, -1)


def _two_best(x: Tensor, weight: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return of each row the best score and its first place, and the next, of tiles of scores."""
    found = []
    for columns in weight.split(scores.shape[1]):
        tile = scores[:, : len(columns)]
        found.append(two_largest(torch.mm(x, columns.T, out=tile)))
    best, place, following = map(torch.stack, zip(*found, strict=True))
    peak, tile = best.max(0, keepdim=True)
    chosen = place.gather(0, tile) + scores.shape[1] * tile
    following = torch.maximum(
        best.scatter(0, tile, -torch.inf).amax(0), following.gather(0, tile).squeeze(0)
    )
    return peak.squeeze(0), chosen.squeeze(0), following


def _finite(x: Tensor) -> Tensor:
    """Return whether all of a row is finite."""
    return x.abs().amax(-1).isfinite()


def _centred(codebook: Tensor, usable: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean codeword, what scores are made by, and the largest `|c - m|`.

    That is `c - m` and beside it `-|c - m|^2 / 2`, whole blocks of rows. What is not usable, or was
    added, scores -infinity.
    """
    known = usable.unsqueeze(-1)
    centre = torch.where(known, codebook, 0).sum(0) / usable.sum().clamp(min=1)
    away = torch.where(known, codebook - centre, 0)
    square = away.square().sum(-1, keepdim=True)
    scoring = torch.cat([away, torch.where(known, -square / 2, -torch.inf)], -1)
    scoring = F.pad(scoring, (0, 0, 0, -len(codebook) % BLOCK), value=-torch.inf)
    scoring[len(codebook) :, :-1] = 0
    return centre, scoring, square.amax().sqrt()


def _rounding(length: Tensor, radius: Tensor, width: int) -> Tensor:
    """Return more than the scores of one row, and its distances in float64, can be off by."""
    unit, reach = torch.finfo(length.dtype), length + radius
    score = _epsilon(length) * radius * reach
    distance = torch.finfo(widest(length.device)).eps * reach.square()
    return 2 * (width + 16) * (score + distance + unit.tiny)


def _epsilon(x: Tensor) -> float:
    """Return the rounding of a matrix product, which torch may be asked to make coarser."""
    backend: Any = torch.backends.cuda if x.is_cuda else torch.backends.mkldnn
    said = {each.fp32_precision for each in (torch.backends, backend, backend.matmul)}
    coarse = x.dtype == torch.float32 and not said <= {"none", "ieee"}
    return torch.finfo(torch.bfloat16 if coarse else x.dtype).eps


def _nearest_of(z: Tensor, codebook: Tensor, candidates: Tensor) -> Tensor:
    """Return the first of the nearest candidates, `(N, K)`, by the distances in float64."""
    row, code = candidates.nonzero(as_tuple=True)
    step = max(1, BUDGET.get(z.device.type, ELSEWHERE) // z.shape[-1])
    pairs = zip(row.split(step), code.split(step), strict=True)
    distance = torch.cat([squared_distance(z[i], codebook[j]) for i, j in pairs])
    least = distance.new_full((len(z),), torch.inf).scatter_reduce(0, row, distance, "amin")
    code = torch.where(distance == least[row], code, len(codebook))
    return torch.full_like(least, len(codebook), dtype=code.dtype).scatter_reduce(
        0, row, code, "amin"
    )


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return `|x - y|^2` in float64, summed in one order whatever the strides."""
    wide = widest(x.device)
    return in_order((x.to(wide) - y.to(wide)).square())


def directions(x: Tensor) -> Tensor:
    """Return `x / |x|`, rounded once, NaN where x is 0 or not finite."""
    wide = x.to(widest(x.device))
    scaled = wide / wide.abs().amax(-1, keepdim=True)
    unit = scaled / scaled.square().sum(-1, keepdim=True).sqrt()
    return unit.to(compute_dtype(x.dtype))
