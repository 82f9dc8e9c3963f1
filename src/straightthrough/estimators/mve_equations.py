"""The equations of MVE, written out or, for many classes, by sums of exponentials.

Beside its diagonal the matrix is `-p_i p_j / (epsilon + p_i + p_j)`, of full rank, as Cauchy's is.
Yet `1 / x` is the integral of `exp(-x s)`, and a sum of some dozens of these is it to rounding: a
product of two matrices of as many columns, and what is solved are equations of as many unknowns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Solve = Callable[[Tensor, Tensor], Tensor]
"""Takes the diagonal d of A and right sides, and solves with `A + d d^T / sum(d)`."""

SMALLEST = 1e-40
"""Probabilities and epsilons below it count as it where there are many classes."""

STEP = 0.25
"""Of the integral; at 0.3 the error is 3e-13, here 2e-15."""


def written_out(p: Tensor, epsilon: Any) -> tuple[Tensor, Tensor, Solve]:
    """Return the sums of A's rows over epsilon, of its entries beside the diagonal, and a solver.

    `p` is `(rows, C)`, in float64.
    """
    inverse = 1 / (epsilon + p.unsqueeze(-1) + p.unsqueeze(-2))
    off = p.unsqueeze(-1) * p.unsqueeze(-2) * inverse
    off = off - torch.diag_embed(off.diagonal(dim1=-2, dim2=-1))

    def solve(diagonal: Tensor, right: Tensor) -> Tensor:
        shift = diagonal.unsqueeze(-1) * diagonal.unsqueeze(-2) / diagonal.sum(-1)[..., None, None]
        found: Tensor = torch.linalg.solve_ex(torch.diag_embed(diagonal) - off + shift, right)[0]
        return found

    return (inverse @ p.unsqueeze(-1)).squeeze(-1), off.sum(-1), solve


def exponentials(epsilon: Any) -> tuple[Tensor, Tensor]:
    """Return s and w of `1 / x = sum w exp(-x s)` for x in [epsilon, 2 + epsilon].

    The trapezoidal rule after `s = exp(y - exp(-y))`, whose ends vanish fast.
    """
    known = not isinstance(epsilon, Tensor)
    ratio = min(1 + 2 / max(epsilon, SMALLEST), 2 / SMALLEST) if known else 2 / SMALLEST
    y = torch.arange(-3.7, math.log(40 * ratio) + STEP, STEP, dtype=torch.float64)
    s = (y - (-y).exp()).exp()
    return s / (2 + epsilon), STEP * s * (1 + (-y).exp()) / (2 + epsilon)


def by_exponentials(p: Tensor, epsilon: Any) -> tuple[Tensor, Tensor, Solve]:
    """Return what `written_out` does, in memory linear in the classes.

    The largest probability has its row and column to itself: beside it, where it is all but 1, the
    others would vanish.
    """
    s, w = (x.to(p.device) for x in exponentials(epsilon))
    first = F.one_hot(p.argmax(-1), p.shape[-1]).to(p.dtype)
    others, peak = p * (1 - first), p.amax(-1, keepdim=True)
    terms = w.sqrt() * torch.exp(-(others + epsilon / 2).unsqueeze(-1) * s)
    terms = terms * (1 - first).unsqueeze(-1)
    to_peak = 1 / (epsilon + p + peak)
    beside_peak = others * peak * to_peak
    among_others = (terms @ (terms.mT @ others.unsqueeze(-1))).squeeze(-1)
    own = others.square() / (epsilon + 2 * others)
    of_peak = (p * to_peak).sum(-1, keepdim=True)
    sums = torch.where(first > 0, of_peak, among_others + peak * to_peak)
    off = others * among_others - own + beside_peak + first * beside_peak.sum(-1, keepdim=True)

    def solve(diagonal: Tensor, right: Tensor) -> Tensor:
        # diag(spread^2) - U U^T + d d^T / sum(d) - e r^T - r e^T, and Woodbury's identity.
        spread = (diagonal + own).sqrt().unsqueeze(-1)
        more = torch.stack([diagonal, first, beside_peak], -1)
        columns = torch.cat([others.unsqueeze(-1) * terms, more], -1) / spread
        count = len(s)
        middle = -torch.eye(count + 3, dtype=p.dtype, device=p.device)
        middle[count:, count:] = -torch.eye(3, dtype=p.dtype)[[0, 2, 1]]
        weight = diagonal.sum(-1)[:, None, None] + 1
        at_shift = F.one_hot(torch.tensor(count), count + 3).to(middle)
        middle = middle + weight * torch.diag(at_shift)
        scaled = right / spread
        inner = torch.linalg.solve_ex(middle + columns.mT @ columns, columns.mT @ scaled)[0]
        return (scaled - columns @ inner) / spread

    return sums, off, solve
