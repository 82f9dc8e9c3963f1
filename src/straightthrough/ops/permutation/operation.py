"""Operators of orders: every forward with its backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.internals import tracing
from ...core.noise import rows_at_once
from ...core.operation import Operation
from ...core.precision import cast, compute_dtype, narrowed
from ...core.rules import Relaxation
from .matching import matched
from .reference import rank_gradient, ranks, sinkhorn, sinkhorn_gradient, soft_sort


@dataclass
class Rank(Operation):
    """Ranks forward, the projection onto the permutahedron backward."""

    dims = ("... N",)

    strength: float
    descending: bool

    def forward(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return ranks(scores, self.descending)

    def backward(self, grad: Tensor, scores: Tensor, order: Tensor) -> tuple[Tensor]:
        grad = -grad if self.descending else grad
        return (rank_gradient(scores, order, grad, self.strength, self.descending),)

    def jvp(self, tangents: Sequence[Tensor], scores: Tensor, order: Tensor) -> Tensor:
        return self.backward(tangents[0], scores, order)[0]  # J is its own transpose


def hot(column: Tensor, like: Tensor) -> Tensor:
    """Return the matrix with a 1 in the column of every row, NaN where one of them is -1."""
    square = like.new_zeros(*column.shape, column.shape[-1])
    return _where_assigned(column, square.scatter(-1, column.clamp(min=0).unsqueeze(-1), 1))


def chosen_order(scores: Tensor, descending: bool) -> Tensor:
    """Return the order of a row, -1 throughout where it holds NaN."""
    invalid = scores.isnan().any(-1, keepdim=True)
    return torch.where(invalid, -1, ranks(scores, descending)[1])


@dataclass
class SoftSort(Operation):
    """What the two that sort share: blocks of rows of the matrix that the order is relaxed to."""

    tau: float
    descending: bool

    def blocks(self, scores: Tensor, order: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield some rows of SoftSort after others, with the signs of their differences.

        Compiled code takes all at once, and is fused.
        """
        size = scores.shape[-1]
        step = size if tracing() else rows_at_once(scores.device, scores.numel())
        picked, tau = scores.gather(-1, order.clamp(min=0)), cast(self.tau, scores.dtype)
        for start in range(0, size, step):
            rows = slice(start, start + step)
            yield rows, *soft_sort(picked[..., rows], scores, tau)

    def pulled(
        self, scores: Tensor, order: Tensor, left: Tensor, right: Tensor | None = None
    ) -> Tensor:
        """Return the gradient to the scores, that to the matrix being `left @ right^T`, or left."""
        tau, order = cast(self.tau, scores.dtype), order.clamp(min=0)
        to_scores, to_picked = torch.zeros_like(scores), []
        for rows, soft, sign in self.blocks(scores, order):
            # Of an index that takes all, torch makes an alias, which `is_grads_batched` can't.
            grad = left.narrow(-2, rows.start, soft.shape[-2])
            grad = grad if right is None else grad @ right.mT
            to_gap = -sign * soft * (grad - (soft * grad).sum(-1, keepdim=True)) / tau
            to_scores = to_scores - to_gap.sum(-2)
            to_picked.append(to_gap.sum(-1))
        return to_scores.scatter_add(-1, order, torch.cat(to_picked, -1))

    def pushed(self, scores: Tensor, order: Tensor, moving: Tensor) -> Iterator[Tensor]:
        """Yield blocks of rows of the tangent of the matrix."""
        tau, order = cast(self.tau, scores.dtype), order.clamp(min=0)
        picked = moving.gather(-1, order).unsqueeze(-1)
        for rows, soft, sign in self.blocks(scores, order):
            moved = -sign * (picked[..., rows, :] - moving.unsqueeze(-2)) / tau
            yield soft * (moved - (soft * moved).sum(-1, keepdim=True))


@dataclass
class Permute(SoftSort):
    """The matrix of the order forward, SoftSort backward."""

    dims = ("... N",)

    def forward(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        order = chosen_order(scores, self.descending)
        return hot(order, scores), order

    def backward(self, grad: Tensor, scores: Tensor, order: Tensor) -> tuple[Tensor]:
        wide = compute_dtype(scores.dtype)
        return (narrowed(self.pulled(scores.to(wide), order, grad.to(wide)), scores.dtype),)

    def jvp(self, tangents: Sequence[Tensor], scores: Tensor, order: Tensor) -> Tensor:
        wide = compute_dtype(scores.dtype)
        blocks = self.pushed(scores.to(wide), order, tangents[0].to(wide))
        return narrowed(torch.cat([*blocks], -2), scores.dtype)


@dataclass
class Reorder(SoftSort):
    """The values in the order of the scores, without the matrix."""

    dims = ("... N", "... N D")

    def forward(self, scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        order = chosen_order(scores, self.descending)
        return _gathered(values, order), order

    def backward(
        self, grad: Tensor, scores: Tensor, values: Tensor, order: Tensor
    ) -> tuple[Tensor, Tensor]:
        wide = compute_dtype(scores.dtype)
        with torch.autocast(grad.device.type, enabled=False):
            to_scores = self.pulled(scores.to(wide), order, grad.to(wide), values.to(wide))
        at = order.clamp(min=0).unsqueeze(-1).expand_as(grad)
        given = torch.where((order < 0).unsqueeze(-1), 0, grad)
        to_values = torch.zeros_like(grad).scatter_add(-2, at, given)
        return narrowed(to_scores, scores.dtype), to_values

    def jvp(
        self, tangents: Sequence[Tensor | None], scores: Tensor, values: Tensor, order: Tensor
    ) -> Tensor:
        wide, (moving, moved) = compute_dtype(scores.dtype), tangents
        total = torch.zeros_like(values, dtype=wide)
        if moved is not None:
            total = total + _gathered(moved.to(wide), order)
        if moving is not None:
            blocks = self.pushed(scores.to(wide), order, moving.to(wide))
            with torch.autocast(values.device.type, enabled=False):
                total = total + torch.cat([block @ values.to(wide) for block in blocks], -2)
        return narrowed(total, values.dtype)


def _gathered(values: Tensor, order: Tensor) -> Tensor:
    at = order.unsqueeze(-1)
    taken = values.gather(-2, at.clamp(min=0).expand_as(values))
    return torch.where(at < 0, torch.nan, taken)


@dataclass(frozen=True)
class Sinkhorn(Relaxation):
    """A matrix whose rows and columns sum to 1: that of a square of scores."""

    tau: float
    iterations: int

    def soft(self, x: Tensor) -> Tensor:
        return sinkhorn(x, self.tau, self.iterations)


@dataclass
class Assign(Operation):
    """The best assignment forward, Sinkhorn's matrix backward."""

    dims = ("... N N",)

    relaxation: Sinkhorn

    def forward(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        column = matched(scores)
        return hot(column, scores), column

    def backward(self, grad: Tensor, scores: Tensor, column: Tensor) -> tuple[Tensor]:
        rule = self.relaxation
        gradient = sinkhorn_gradient(scores, grad, rule.tau, rule.iterations)
        return (_where_assigned(column, gradient),)

    def jvp(self, tangents: Sequence[Tensor], scores: Tensor, column: Tensor) -> Tensor:
        return _where_assigned(column, self.relaxation.forward(scores, tangents[0]))


def _where_assigned(column: Tensor, squares: Tensor) -> Tensor:
    return torch.where((column < 0).any(-1)[..., None, None], torch.nan, squares)
