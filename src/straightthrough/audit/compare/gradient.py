"""The exact gradient of an expected loss."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ...core.errors import ArgumentError, check_limit
from .exact import (
    LIMIT,
    Loss,
    Outcomes,
    check_alone,
    count_outcomes,
    enumerate_outcomes,
    losses,
)
from .subsets import count_subsets, subsets_of


def exact_gradient(
    loss: Loss, logits: Tensor, *, k: int | None = None, limit: int = LIMIT
) -> Tensor:
    """The exact gradient of `E[loss(z)]` to the logits of z, by enumeration.

    Value: `dE/dlogits_l = sum_z p(z) loss(z) (z_l - p_l)`, z over the one-hots of L independent
    categorical variables, `p(z) = prod_l <z_l, p_l>`, `p_l = softmax(logits_l)`. The loss need
    not be differentiable. With a k, z are the k-hots of `st.sample_subset`, p_l their marginals.

    Args:
        loss: maps one-hots (or k-hots) `(N, C)` or `(N, L, C)`, N outcomes at a time in the
            logits' dtype, to `(N,)`; each outcome's loss must be a function of that outcome alone.
        logits: `(C,)`, one variable, or `(L, C)`; floating.
        k: how many classes of each variable are chosen; None for one class, drawn as such.
        limit: how many outcomes, C**L, or (C choose k)**L, are enumerated at most.

    Returns:
        A tensor of the shape, dtype and device of `logits`. The loss is evaluated in the logits'
        dtype; probabilities and sums are float64.

    Raises:
        DtypeError: if the logits are not floating, or the loss is complex.
        ShapeError: if the logits are not `(C,)` or `(L, C)`, or the loss does not return `(N,)`.
        ArgumentError: if there are more than `limit` outcomes, a row of logits has none, k is not
            at least 1, or the loss is not finite at one, or another one, by far, beside others.

    Edge cases: outcomes of probability 0 are left out, so the loss may be undefined there.

    Higher order: none; the result is detached.

    Cost: the loss at all outcomes, in chunks of about 2^18 elements of one-hots, and once more at
    one, whose loss has to be the same.

    Example:
        >>> cost = torch.tensor([1.0, 2.0, 4.0])
        >>> st.audit.exact_gradient(lambda z: z @ cost, torch.zeros(3))
        tensor([-0.4444, -0.1111,  0.5556])
        >>> st.audit.exact_gradient(lambda z: z @ cost, torch.zeros(3), k=2)
        tensor([-0.4444, -0.1111,  0.5556])
    """
    limit = check_limit("limit", limit)
    if k is not None:
        check_enumerable(logits, k, limit)
        return gradient_over_subsets(loss, logits, k).to(logits.dtype).reshape(logits.shape)
    if count_outcomes(logits) > limit:
        classes, variables = logits.shape[-1], logits[..., 0].numel()
        raise ArgumentError(
            f"{variables} variables of {classes} classes have {classes}**{variables} outcomes, "
            f"above limit={limit}; estimate the gradient without bias by st.audit.reinforce, "
            f"or st.audit.disarm for binary variables, or pass a higher limit="
        )
    return expected_gradient(loss, logits).to(logits.dtype).reshape(logits.shape)


def check_enumerable(logits: Tensor, k: int, limit: int) -> int:
    """Return how many outcomes there are of k-hots, or raise if they are more than `limit`."""
    total = count_subsets(logits, k)
    if total > limit:
        raise ArgumentError(
            f"logits of shape {tuple(logits.shape)} have {total} outcomes of {k} classes, above "
            f"limit={limit}, and subsets are enumerated only; take fewer classes, or pass a higher "
            f"limit="
        )
    return total


@torch.no_grad()
def expected_gradient(loss: Loss, logits: Tensor, tau: float = 1.0) -> Tensor:
    """Return the exact gradient in float64, `(L, C)`, z drawn from `softmax(logits / tau)`."""
    p = (logits.reshape(-1, logits.shape[-1]).to(torch.float64) / tau).softmax(-1)
    return _gradient(loss, logits, enumerate_outcomes(logits, tau), p) / tau


@torch.no_grad()
def gradient_over_subsets(loss: Loss, logits: Tensor, k: int) -> Tensor:
    """Return the exact gradient in float64, `(L, C)`, z the k-hots of a drawn subset."""
    subsets = subsets_of(logits, k)
    return _gradient(loss, logits, subsets.outcomes(logits.dtype), subsets.mean)


def _gradient(loss: Loss, logits: Tensor, all: Iterable[Outcomes], mean: Tensor) -> Tensor:
    """Return the covariance of the loss and z, whose mean is given."""
    at_outcomes, expected = torch.zeros_like(mean), torch.zeros_like(mean[0, 0])
    shared = None  # by all losses, about: a constant changes nothing, and takes no digits
    for outcomes in all:
        value = losses(loss, outcomes.one_hot, logits).to(torch.float64)
        if shared is None:
            check_alone(loss, outcomes.one_hot, value, logits)
            shared = value[0]
        weighted = outcomes.weight * (value - shared)
        at_outcomes += torch.einsum("n,nlc->lc", weighted, outcomes.one_hot.to(torch.float64))
        expected += weighted.sum()
    return at_outcomes - expected * mean
