"""What operators of orders are held against: counts of pairs, and gradients in float64."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from ...core.noise import Noise
from .reference import TIED


def _before(scores: Tensor, descending: bool) -> Tensor:
    """How many entries come before each: those beyond it, and equal ones of a lower number."""
    mine, others = scores.unsqueeze(-1), scores.unsqueeze(-2)
    earlier = torch.ones(scores.shape[-1], scores.shape[-1], device=scores.device).tril(-1).bool()
    beyond = others > mine if descending else others < mine
    return (beyond | ((others == mine) & earlier)).sum(-1)


def rank(scores: Tensor, descending: bool = False) -> Tensor:
    """One more than come before it, of those above -infinity."""
    absent = scores.isneginf()
    place = 1 + _before(scores, descending)
    place = place if descending else place - absent.sum(-1, keepdim=True)
    invalid = scores.isnan().any(-1, keepdim=True) | absent.all(-1, keepdim=True)
    return place.to(scores.dtype).masked_fill(absent, 0).masked_fill(invalid, torch.nan)


def rank_gradient(
    rule: None,
    scores: Tensor,
    y: Tensor,
    grad: Tensor,
    noise: Noise,
    *,
    strength: float = 2.0,
    descending: bool = False,
) -> tuple[Tensor]:
    """That of the projection, a row at a time, whose blocks come of the least and largest mean.

    What is beyond the range of the dtype is its largest number.
    """
    most = torch.finfo(scores.dtype).max
    rows = zip(scores.reshape(-1, scores.shape[-1]), grad.reshape(-1, grad.shape[-1]), strict=True)
    found = [_of_row(s, g.double(), strength, -1 if descending else 1) for s, g in rows]
    gradient = (
        torch.stack(found).reshape(scores.shape) if found else torch.zeros_like(grad.double())
    )
    return (gradient.clamp(-most, most),)


def _of_row(scores: Tensor, grad: Tensor, strength: float, sign: int) -> Tensor:
    if scores.isnan().any():
        return torch.full_like(grad, torch.nan)
    given = (~scores.isneginf()).nonzero().squeeze(-1)
    if scores.isposinf().any() or len(given) < 2:
        return torch.zeros_like(grad)
    s, g = scores.double()[given], sign * grad[given]
    span = s.max() / 2 - s.min() / 2
    order = s.detach().argsort()
    if span < torch.finfo(torch.float64).tiny:
        eps, u = torch.tensor(strength, dtype=torch.float64), torch.zeros_like(s)
    else:
        eps = 2 * strength * span / (len(s) - 1)
        u = ((s / 2 - s.min() / 2) / span * (len(s) - 1) / strength).detach()[order]
    fit = _non_decreasing(u - torch.arange(len(s), device=s.device))
    block = torch.nn.functional.pad((fit.diff() > TIED).long(), (1, 0)).cumsum(0)
    one = (block.unsqueeze(0) == block.unsqueeze(1)).double()
    sorted_grad = g[order]
    moved = (sorted_grad - one @ sorted_grad / one.sum(1)) / eps
    return torch.zeros_like(grad).index_put((given[order],), moved)


def _non_decreasing(y: Tensor) -> Tensor:
    """At i, the largest over a <= i of the least over b >= i of the means of `y[a : b + 1]`."""
    size = len(y)
    sums = torch.nn.functional.pad(y.cumsum(0), (1, 0))
    first, last = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    means = (sums[1:].unsqueeze(0) - sums[:-1].unsqueeze(1)) / (last - first + 1).to(y.device)
    means = torch.where((last >= first).to(y.device), means, torch.inf)
    least = means.flip(1).cummin(1).values.flip(1)
    return torch.where((first <= last).to(y.device), least, -torch.inf).amax(0)


def permutation(scores: Tensor, descending: bool = True) -> Tensor:
    """A 1 where as many come before the column's entry as rows before the row."""
    place = torch.arange(scores.shape[-1], device=scores.device).unsqueeze(-1)
    hot = (_before(scores, descending).unsqueeze(-2) == place).to(scores.dtype)
    return hot.masked_fill(scores.isnan().any(-1)[..., None, None], torch.nan)


def _soft(scores: Tensor, descending: bool, tau: float) -> Tensor:
    """SoftSort, of differences between which and infinity there is 0 or infinity."""
    picked = scores.sort(-1, descending=descending).values.unsqueeze(-1)
    same = picked == scores.unsqueeze(-2)
    gap = torch.where(same, 0, picked) - torch.where(same, 0, scores.unsqueeze(-2))
    return torch.softmax(-gap.abs() / tau, -1)


def permutation_gradient(
    rule: None,
    scores: Tensor,
    y: Tensor,
    grad: Tensor,
    noise: Noise,
    *,
    tau: float = 1.0,
    descending: bool = True,
) -> tuple[Tensor]:
    """That of SoftSort."""
    pulled = torch.func.vjp(lambda s: _soft(s, descending, tau), scores.double())[1]
    return (_invalid(scores, pulled(grad.double())[0], torch.nan),)


def reorder(scores: Tensor, values: Tensor, descending: bool = True) -> Tensor:
    """The values at the places of the ones, copied."""
    invalid = scores.isnan().any(-1, keepdim=True)
    column = permutation(scores.masked_fill(invalid, 0), descending).argmax(-1)
    taken = torch.take_along_dim(values, column.unsqueeze(-1), -2)
    return taken.masked_fill(invalid.unsqueeze(-1), torch.nan)


def reorder_gradient(
    rule: None,
    scores: Tensor,
    values: Tensor,
    y: Tensor,
    grad: Tensor,
    noise: Noise,
    *,
    tau: float = 1.0,
    descending: bool = True,
) -> tuple[Tensor, Tensor]:
    """Those of the product of the matrix with the values."""
    to_matrix = grad.double() @ values.double().mT
    (to_scores,) = permutation_gradient(
        None, scores, y, to_matrix, noise, tau=tau, descending=descending
    )
    hot = permutation(scores, descending).nan_to_num(0)
    return to_scores, hot.double().mT @ grad.double()


def _invalid(scores: Tensor, gradient: Tensor, value: float) -> Tensor:
    return gradient.masked_fill(scores.isnan().any(-1, keepdim=True), value)


def assignment(scores: Tensor, iterations: int) -> Tensor:
    """The assignment that scipy takes without padding; that none is better, the outcome checks."""
    from scipy.optimize import linear_sum_assignment

    size = scores.shape[-1]
    squares = scores.detach().double().cpu().reshape(-1, size, size)
    found = torch.full_like(squares, torch.nan)
    for square, hot in zip(squares, found, strict=True):
        if not square.isnan().any() and not square.isposinf().any():
            peak = torch.where(square.isfinite(), square, 0).abs().max()
            half = torch.ldexp(square, -torch.frexp(peak).exponent)
            if peak > 1e8:
                _take_padding(half)
            with contextlib.suppress(ValueError):  # none is allowed
                rows, columns = linear_sum_assignment(half.numpy(), maximize=True)
                hot.zero_()[rows, columns] = 1
    return found.reshape(scores.shape).to(scores)


def _take_padding(square: Tensor) -> None:
    """Make lines of one number 0, and a least one far below the others only so low as to lose."""
    for line in (*square, *square.T):
        numbers = line[line.isfinite()].unique()
        if len(numbers) == 1:
            line -= numbers[0]
    numbers = square[square.isfinite()].unique()
    others = numbers[1:].abs().amax() if len(numbers) > 1 else numbers.new_zeros(())
    if others > 0 and numbers[0] < -(2.0**30) * others:
        square[square == numbers[0]] = -(2 * len(square) + 1) * others


def assignment_gradient(
    rule: None,
    scores: Tensor,
    y: Tensor,
    grad: Tensor,
    noise: Noise,
    *,
    iterations: int,
    tau: float = 1.0,
) -> tuple[Tensor]:
    """That of `exp(x + f + g)`, f and g the potentials of Sinkhorn's iterations."""

    def soft(scores: Tensor) -> Tensor:
        x = scores / tau
        f, g = x.new_zeros(x.shape[:-1]).unsqueeze(-1), x.new_zeros(x.shape[:-1]).unsqueeze(-2)
        for _ in range(iterations):
            f = -(x + g).logsumexp(-1, keepdim=True)
            g = -(x + f).logsumexp(-2, keepdim=True)
        return (x + f + g).exp()

    gradient = torch.func.vjp(soft, scores.double())[1](grad.double())[0]
    return (gradient.masked_fill(y.isnan().any(-1, keepdim=True), torch.nan),)
