"""The backward of a row that a draw looks up: a product with the table, then the estimator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...core.gpu import on_gpus
from ...core.noise import NOISELESS, Noise, in_blocks
from ...core.precision import compute_dtype, narrowed
from ...estimators.categorical import CategoricalEstimator
from ...estimators.reinmax import ReinMax
from ...estimators.straight_through import StraightThrough


def lookup_backward(
    estimator: CategoricalEstimator,
    logits: Tensor,
    table: Tensor,
    index: Tensor,
    grad: Tensor,
    noise: Noise,
) -> tuple[Tensor, Tensor]:
    """Return the gradients to the logits and to the table.

    Two estimators are fused with the product on GPUs.
    """
    fused = FUSED.get(type(estimator))
    tau = getattr(estimator, "tau", None)
    if fused is None or not isinstance(tau, float | int) or grad.dtype != logits.dtype:
        return by_blocks(estimator, logits, table, index, grad, noise)
    return fused(logits, table, index, grad, tau)


def by_blocks(
    estimator: CategoricalEstimator,
    logits: Tensor,
    table: Tensor,
    index: Tensor,
    grad: Tensor,
    noise: Noise,
) -> tuple[Tensor, Tensor]:
    """Return them by as many rows at a time as fit the cache."""
    wide = table.to(compute_dtype(table.dtype))
    rows = index.reshape(-1)
    given = grad.reshape(*rows.shape, grad.shape[-1]).to(wide.dtype)

    def block(first: int, logits: Tensor, index: Tensor, grad: Tensor) -> Tensor:
        with torch.autocast(grad.device.type, enabled=False):
            to_one_hot = grad @ wide.T
        if not to_one_hot.requires_grad:
            return estimator.backward(logits, index, to_one_hot, noise.after(first))
        # Of a second derivative, where 0 times the NaN of a row would reach the table.
        none = (index < 0).unsqueeze(-1)
        logits, index = logits.masked_fill(none, 0), index.clamp(min=0)
        pulled = estimator.backward(logits, index, to_one_hot, noise.after(first))
        return pulled.masked_fill(none, torch.nan)

    to_logits = in_blocks(block, logits.reshape(-1, logits.shape[-1]), rows, given)
    return to_logits.reshape(logits.shape), to_table(table, rows, given)


def to_table(table: Tensor, index: Tensor, grad: Tensor) -> Tensor:
    """Return what the rows of a gradient add to those of a table.

    A row without an outcome, whose index is -1, adds to one beyond the table.
    """
    sums = grad.new_zeros(len(table) + 1, table.shape[-1])
    return narrowed(sums.index_add(0, index % len(sums), grad)[:-1], table.dtype)


@on_gpus("(Tensor logits, Tensor table, Tensor index, Tensor grad, float tau) -> (Tensor, Tensor)")
def straight_through_lookup(
    logits: Tensor, table: Tensor, index: Tensor, grad: Tensor, tau: float
) -> tuple[Tensor, Tensor]:
    """By `StraightThrough`."""
    return by_blocks(StraightThrough(tau), logits, table, index, grad, NOISELESS)


@on_gpus("(Tensor logits, Tensor table, Tensor index, Tensor grad, float tau) -> (Tensor, Tensor)")
def reinmax_lookup(
    logits: Tensor, table: Tensor, index: Tensor, grad: Tensor, tau: float
) -> tuple[Tensor, Tensor]:
    """By `ReinMax`."""
    return by_blocks(ReinMax(tau), logits, table, index, grad, NOISELESS)


FUSED: dict[type[CategoricalEstimator], Callable[..., tuple[Tensor, Tensor]]] = {
    StraightThrough: straight_through_lookup,
    ReinMax: reinmax_lookup,
}
"""By the estimator; a subclass may have a formula of its own."""
