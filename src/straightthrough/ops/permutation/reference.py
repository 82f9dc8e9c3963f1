"""What the kernels of orders must equal, in plain torch, and the formulas that have none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.kernels import kernel, like
from ...core.precision import cast, check_has_float64, narrowed

TIED = 1e-9
"""Fitted values that differ by less, in ranks, are of one block: rounding must not part them."""


def places(scores: Tensor, *_: Any) -> Tensor:
    """A result of one place an entry."""
    return scores.new_empty(scores.shape, dtype=torch.int64)


@kernel("(Tensor scores, bool descending) -> (Tensor, Tensor)", like, places)
def ranks(scores: Tensor, descending: bool) -> tuple[Tensor, Tensor]:
    """Return the rank of every entry, 0 for one at -infinity, and the order; NaN in rows of none.

    The order has the numbers of the entries, those of equal ones as they come. A row has no outcome
    when it holds NaN, which is sorted as the largest, or nothing above -infinity.
    """
    values, order = torch.sort(scores, dim=-1, descending=descending, stable=True)
    largest = values[..., :1] if descending else values[..., -1:]
    place = torch.arange(1, scores.shape[-1] + 1, device=scores.device)
    if not descending:  # those at -infinity come first
        least = torch.full_like(largest, torch.finfo(scores.dtype).min).contiguous()
        place = place - torch.searchsorted(values.contiguous(), least)
    place = torch.where(values > -torch.inf, place, 0).to(scores.dtype)
    value = torch.zeros_like(scores).scatter(-1, order, place)
    return value.masked_fill(~(largest > -torch.inf), torch.nan), order


@kernel("(Tensor scores, Tensor places, Tensor grad, float strength, bool descending) -> Tensor")
def rank_gradient(
    scores: Tensor, places: Tensor, grad: Tensor, strength: Any, descending: bool
) -> Tensor:
    """Return `(g - mean of g in its block) / eps`, in float64 inside, and 0 for what is absent.

    The blocks are those of the projection of `scores / eps` onto the permutahedron, as
    `st.rank` has it. A row with +infinity has no scale, and gets 0.
    """
    check_has_float64("the gradient of ranks", scores.device)
    absent, infinite = scores.isneginf(), scores.isposinf().any(-1, keepdim=True)
    invalid = scores.isnan().any(-1, keepdim=True)
    wide = torch.where(absent | infinite, torch.nan, scores.double())
    strength = cast(strength, torch.float64)
    low, high = (f(torch.where(absent, end, wide) / 2, -1, keepdim=True) for f, end in _ENDS)
    span, count = high - low, (~absent).sum(-1, keepdim=True, dtype=torch.float64)
    flat = ~(span >= torch.finfo(torch.float64).tiny)
    steps = (count - 1) / strength
    # Halves, as the span of two numbers may not be one.
    slope = torch.where(flat, 1 / strength, 0.5 * steps / torch.where(flat, 1, span))

    place = torch.arange(scores.shape[-1], device=scores.device)
    scaled = (wide / 2 - low) / torch.where(flat, torch.inf, span) * steps
    scaled = scaled.detach().gather(-1, places)
    y = (scaled if descending else -scaled) + place
    block = _blocks(torch.where(absent.gather(-1, places), torch.nan, y), descending)
    g = torch.where(absent, 0, grad.double())
    sums = torch.zeros_like(g).scatter_add(-1, block, g.gather(-1, places))
    sizes = torch.zeros_like(g).scatter_add(-1, block, torch.ones_like(g))
    mean = (sums / sizes.clamp(min=1)).gather(-1, block)
    gradient = slope * (g - torch.zeros_like(g).scatter(-1, places, mean))
    gradient = torch.where(infinite | absent, 0, gradient)
    return narrowed(torch.where(invalid, torch.nan, gradient), scores.dtype)


_ENDS = ((torch.amin, torch.inf), (torch.amax, -torch.inf))


def _blocks(y: Tensor, descending: bool) -> Tensor:
    """Return the number of each entry's block in the non-increasing fit of a row.

    NaN, which stands at one end of a row, makes a block of its own.
    """
    far = 1 + y.nan_to_num(0).abs().amax(-1, keepdim=True)
    fit = non_increasing(torch.where(y.isnan(), -far if descending else far, y))
    starts = fit[..., :-1] - fit[..., 1:] > TIED
    return torch.nn.functional.pad(starts, (1, 0)).cumsum(-1)


def non_increasing(y: Tensor) -> Tensor:
    """Return the non-increasing rows that are nearest to `y`: isotonic regression.

    Fits of the halves are joined, the halves of these before them: O(n log^2 n), without a branch
    on a value. The fit of a whole is that of its left half, raised to a level, and that of its
    right half, lowered to it.
    """
    size = y.shape[-1]
    missing = (1 << (size - 1).bit_length()) - size
    last = y.amin(-1, keepdim=True) - 1  # what follows lower changes nothing
    fit, half = torch.cat([y, last.expand(*y.shape[:-1], missing)], -1), 1
    while half < size:
        left, right = fit.unflatten(-1, (-1, 2, half)).unbind(-2)
        level = _level(left.contiguous(), right.contiguous())
        fit = torch.stack([left.maximum(level), right.minimum(level)], -2).flatten(-3)
        half *= 2
    return fit[..., :size]


def _level(left: Tensor, right: Tensor) -> Tensor:
    """Return the level below which the left, and above which the right, is off by as much.

    Both are non-increasing rows.
    """
    size = left.shape[-1]
    falling = [-left, -right]
    sums = [torch.nn.functional.pad(x.cumsum(-1), (1, 0)) for x in (left, right)]

    def pooled(level: Tensor, right_of_equal: bool) -> tuple[Tensor, Tensor]:
        """Return the sum and the count of the left below and the right above a level."""
        i = torch.searchsorted(falling[0], -level, right=right_of_equal)
        j = torch.searchsorted(falling[1], -level)
        total = sums[0][..., -1:] - sums[0].gather(-1, i) + sums[1].gather(-1, j)
        return total, size - i + j

    every = torch.cat([left, right], -1)
    total, count = pooled(every, True)
    under = torch.where(total >= count * every, every, -torch.inf).amax(-1, keepdim=True)
    under = under.maximum(every.amin(-1, keepdim=True))
    total, count = pooled(under, False)
    return torch.where(count > 0, total / count.clamp(min=1), under)


def soft_sort(picked: Tensor, scores: Tensor, tau: Any) -> tuple[Tensor, Tensor]:
    """Return rows of SoftSort, `softmax(-|picked - s| / tau)`, and the signs of the differences.

    Equal infinities differ by 0.
    """
    picked, scores = picked.unsqueeze(-1), scores.unsqueeze(-2)
    gap = torch.where(picked == scores, 0, picked - scores)
    return torch.softmax(-gap.abs() / tau, -1), gap.sign()


def sinkhorn(scores: Tensor, tau: Any, iterations: int) -> Tensor:
    """Return `exp(scores / tau)` with rows and columns scaled in turn, so many times, to sum 1."""
    return _logarithms(scores, tau, iterations)[-1].exp().to(scores.dtype)


def _logarithms(scores: Tensor, tau: Any, iterations: int) -> list[Tensor]:
    """Return the logarithms of the matrix after every scaling, of rows and of columns in turn.

    In float64 inside: what is subtracted from scores is as large as they are.
    """
    check_has_float64("the gradient of an assignment", scores.device)
    x = scores.double() / 2
    x = (x - _finite(x.amax(-1, keepdim=True))) / (cast(tau, torch.float64) / 2)
    x = torch.where(scores.isneginf(), -torch.inf, x.clamp(min=-1e300))
    scaled = []
    for dim in (-1, -2) * iterations:
        x = x.log_softmax(dim)
        scaled.append(x)
    return scaled


@kernel("(Tensor squares, Tensor grad, float tau, int iterations) -> Tensor")
def sinkhorn_gradient(squares: Tensor, grad: Tensor, tau: Any, iterations: int) -> Tensor:
    """Return the gradient of `sinkhorn`, in float64 inside, and 0 for what is at -infinity.

    Scalings are gone back through from the last: that to `log p = log_softmax(x)` is g, that
    to `x` is `g - p sum g`.
    """
    logarithms = _logarithms(squares, tau, iterations)
    g = grad.double() * logarithms[-1].exp()
    for log_p, dim in zip(reversed(logarithms), (-2, -1) * iterations, strict=True):
        g = g - log_p.exp() * g.sum(dim, keepdim=True)
    g = torch.where(squares.isneginf(), 0, g / (cast(tau, torch.float64) / 2) / 2)
    return narrowed(g, squares.dtype)


def _finite(x: Tensor) -> Tensor:
    return torch.where(x.isfinite(), x, 0)
