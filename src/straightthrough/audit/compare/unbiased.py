"""Unbiased estimates of the gradient of an expected loss, where outcomes cannot be enumerated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import ArgumentError, ShapeError, check_floating
from ...core.noise import Noise, Seed
from .exact import CHUNK, Loss, check_alone, count_outcomes, losses
from .groups import GROUPS, LeaveOneOut, Sums, draw_outcomes, group_size


@dataclass(frozen=True)
class Estimate:
    """An unbiased estimate of a gradient.

    Attributes:
        gradient: the estimate, in the shape and dtype of the logits.
        standard_error: of each of its entries, from the scatter of 32 independent groups of
            draws: its square is unbiased, and (estimate - truth) / error follows a t law with 31
            degrees of freedom for draws enough.
        samples: the draws that were taken.
    """

    gradient: Tensor
    standard_error: Tensor
    samples: int


def _estimate(groups: Tensor, logits: Tensor, samples: int) -> Estimate:
    """Return the mean of independent estimates and its error."""
    groups = groups.reshape(GROUPS, *logits.shape)
    mean, error = groups.mean(0), groups.std(0) / GROUPS**0.5
    return Estimate(mean.to(logits.dtype), error.to(logits.dtype), samples)


@torch.no_grad()
def reinforce(loss: Loss, logits: Tensor, *, samples: int = 1024, seed: int = 0) -> Estimate:
    """REINFORCE leave-one-out: an unbiased estimate of the gradient of `E[loss(z)]`.

    Value: `1/K sum_k (loss(z_k) - b_k) (z_k - p)`, `b_k` the mean loss of the other K - 1 draws,
    p the probabilities; the mean of that over 32 groups of K draws each. z are the one-hots of
    independent categorical variables; the loss need not be differentiable.

    Args:
        loss: maps one-hots `(N, C)` or `(N, L, C)`, N outcomes at a time in the logits' dtype,
            to `(N,)`; each outcome's loss must be a function of that outcome alone.
        logits: `(C,)`, one variable, or `(L, C)`; floating.
        samples: draws, rounded up to a multiple of 32 that is at least 64.
        seed: of the draws, an int.

    Returns:
        An `Estimate`: `gradient`, `standard_error`, `samples`.

    Raises:
        DtypeError: if the logits are not floating, or the loss is complex.
        ShapeError: if the logits are not `(C,)` or `(L, C)`, or the loss does not return `(N,)`.
        ArgumentError: if `samples` is not at least 1, a row of logits has no outcome, or the loss
            is not finite at a draw, or is another one, by far, beside others and draws no noise.

    Edge cases: a class of probability 0 is never drawn, and its gradient is 0. A rare outcome
    that decides the gradient and was never drawn is in neither the estimate nor its error.

    Higher order: none; the result is detached.

    Cost: the loss at `samples` outcomes, in chunks of about 2^18 elements of one-hots, and once
    more at one.

    Example:
        >>> cost = torch.tensor([1.0, 2.0, 4.0])
        >>> estimate = st.audit.reinforce(lambda z: z @ cost, torch.zeros(3), samples=10_000)
        >>> exact = st.audit.exact_gradient(lambda z: z @ cost, torch.zeros(3))
        >>> bool(((estimate.gradient - exact).abs() < 4 * estimate.standard_error).all())
        True

    References:
        Kool, van Hoof, Welling, "Buy 4 REINFORCE samples, get a baseline for free!", 2019.
    """
    count_outcomes(logits)
    size = group_size(samples, 2)
    groups = LeaveOneOut(size, logits)
    for outcomes in draw_outcomes(logits, size * GROUPS, seed):
        value = losses(loss, outcomes.one_hot, logits)
        if outcomes.first == 0:
            check_alone(loss, outcomes.one_hot, value, logits, noise=True)
        groups.add(outcomes, value)
    return _estimate(groups.estimates(), logits, size * GROUPS)


@torch.no_grad()
def disarm(loss: Loss, logits: Tensor, *, samples: int = 1024, seed: int = 0) -> Estimate:
    """DisARM: an unbiased estimate of the gradient of `E[loss(b)]` for binary variables.

    Value: the mean of `(loss(b) - loss(b')) / 2 (b - b') sigmoid(|logits|)` over antithetic
    pairs `b = 1[1 - u < p]`, `b' = 1[u < p]`, with `p = sigmoid(logits)` and u one uniform a
    variable. b are vectors of 0 and 1 of independent variables; the loss need not be
    differentiable.

    Args:
        loss: maps vectors `(N, L)` of 0 and 1, N outcomes at a time in the logits' dtype, to
            `(N,)`; each outcome's loss must be a function of that outcome alone.
        logits: `(L,)`, the log-odds of a 1; floating.
        samples: pairs, rounded up to a multiple of 32.
        seed: of the draws, an int.

    Returns:
        An `Estimate`: `gradient`, `standard_error`, `samples`.

    Raises:
        DtypeError: if the logits are not floating, or the loss is complex.
        ShapeError: if the logits are not `(L,)`, or the loss does not return `(N,)`.
        ArgumentError: if `samples` is not at least 1, a logit is NaN, or the loss is not finite
            at a draw, or is another one, by far, beside others and draws no noise.

    Edge cases: an infinite logit is certain, and its gradient is 0. A rare outcome that decides
    the gradient and was never drawn is in neither the estimate nor its error.

    Higher order: none; the result is detached.

    Cost: the loss at twice `samples` outcomes, in chunks of about 2^18 elements, and once more at
    one.

    Example:
        >>> cost = torch.tensor([1.0, 2.0, 4.0])
        >>> estimate = st.audit.disarm(lambda b: (b @ cost) ** 2, torch.zeros(3), samples=10_000)
        >>> exact = torch.tensor([1.75, 3.5, 7.0])
        >>> bool(((estimate.gradient - exact).abs() < 4 * estimate.standard_error).all())
        True

    References:
        Dong, Mnih, Tucker, "DisARM: an antithetic gradient estimator for binary latent
        variables", 2020.
    """
    check_floating("logits", logits)
    if logits.ndim != 1 or logits.numel() == 0:
        raise ShapeError(
            f"logits must be (L,) with L >= 1, got shape {tuple(logits.shape)}; flatten them, "
            f"and shape the outcomes in the loss"
        )
    if logits.isnan().any():
        raise ArgumentError("logits must be numbers or infinite, got NaN")
    size, variables = group_size(samples, 1), logits.numel()
    value, step = Seed(seed).tensor(logits.device), max(1, CHUNK // (2 * variables))
    sums = Sums(size, variables, like=logits)
    for first in range(0, size * GROUPS, step):
        count = min(step, size * GROUPS - first) * variables
        u = Noise(value, first * variables).elements(count, torch.float64)
        sums.add(first, antithetic(loss, logits, u.reshape(-1, variables), check=first == 0))
    return _estimate(sums.mean(), logits, size * GROUPS)


def antithetic(loss: Loss, logits: Tensor, u: Tensor, *, check: bool = False) -> Tensor:
    """Return DisARM's estimate for each pair, `(N, L)`, out of uniforms of that shape."""
    wide = logits.to(torch.float64)
    one, other = 1 - u < wide.sigmoid(), u < wide.sigmoid()
    both = torch.cat([one, other]).to(logits.dtype)
    value = losses(loss, both, logits).to(torch.float64)
    if check:
        check_alone(loss, both, value, logits, noise=True)
    half_difference = (value[: len(u)] - value[len(u) :])[:, None] / 2
    sign = one.to(torch.float64) - other.to(torch.float64)
    return half_difference * sign * wide.abs().sigmoid()
