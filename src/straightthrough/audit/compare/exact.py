"""The exact gradient of an expected loss, by enumeration of the outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.errors import ArgumentError, ShapeError, check_floating, check_limit

Loss = Callable[[Tensor], Tensor]

LIMIT = 2**20
"""Outcomes that are enumerated at most, unless the caller says otherwise."""

CHUNK = 2**18
"""Elements of one-hots that exist at once."""


@dataclass(frozen=True)
class Outcomes:
    """N outcomes of L independent variables, enumerated (without those of probability 0) or drawn.

    Attributes:
        first: the number of the first outcome in the order of enumeration, or of drawing.
        index: `(N, L)` int64, the class of each variable.
        one_hot: `(N, L, C)` in the logits' dtype.
        weight: `(N,)` float64, in an expectation: the probability, or 1 over all draws.
    """

    first: int
    index: Tensor
    one_hot: Tensor
    weight: Tensor


def count_outcomes(logits: Tensor) -> int:
    """Check the logits and return C**L, the number of their outcomes."""
    check_floating("logits", logits)
    if logits.ndim not in (1, 2) or logits.numel() == 0:
        raise ShapeError(
            f"logits must be (C,) or (L, C) with L, C >= 1, got shape {tuple(logits.shape)}; "
            f"audit one example of a batch at a time"
        )
    rows = logits.reshape(-1, logits.shape[-1])
    wrong = rows[~rows.softmax(-1).isfinite().all(-1)]
    if len(wrong):
        raise ArgumentError(
            f"logits must be finite or -inf, with a finite one in each row, got a row with "
            f"{_first_wrong(wrong[0])}"
        )
    return logits.shape[-1] ** logits[..., 0].numel()


def _first_wrong(row: Tensor) -> float:
    """Return what a row without a distribution has in it, -inf if nothing else."""
    return float(row[row.argmax()])  # NaN counts as the largest


def enumerate_outcomes(logits: Tensor, tau: float = 1.0) -> Iterator[Outcomes]:
    """Yield all outcomes of `logits / tau`, `(C,)` or `(L, C)`, a chunk at a time."""
    classes = logits.shape[-1]
    log_p = (logits.detach().reshape(-1, classes).to(torch.float64) / tau).log_softmax(-1)
    place = torch.tensor([classes**i for i in reversed(range(len(log_p)))], device=logits.device)
    total, step = classes ** len(log_p), max(1, CHUNK // logits.numel())
    for first in range(0, total, step):
        number = torch.arange(first, min(first + step, total), device=logits.device)
        index = number[:, None] // place % classes
        chosen = log_p.expand(len(index), -1, -1).gather(-1, index[..., None])
        probability = chosen.sum((-2, -1)).exp()
        possible = probability > 0
        index, probability = index[possible], probability[possible]
        if len(index):
            one_hot = F.one_hot(index, classes).to(logits.dtype)
            yield Outcomes(first, index, one_hot, probability)


def losses(loss: Loss, one_hot: Tensor, logits: Tensor) -> Tensor:
    """Return `loss` of each outcome, `(N,)`, passed in the shape of the logits.

    Outcomes are one-hots, `(N, L, C)`, or vectors of 0 and 1, `(N, L)`.
    """
    if not callable(loss):
        raise ArgumentError(f"loss must be a function of one-hots, got {loss!r}")
    value = loss(one_hot.reshape(-1, *logits.shape))
    if not isinstance(value, Tensor) or value.shape != one_hot.shape[:1]:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(
            f"loss must map outcomes {('N', *logits.shape)} to ('N',), here N = {len(one_hot)}; "
            f"it returned {got}: sum over all dimensions but the first"
        )
    check_finite("loss", value, one_hot)
    return value


def check_finite(name: str, value: Tensor, one_hot: Tensor) -> None:
    """Raise where `value`, one or several numbers an outcome, is not finite."""
    bad = ~value.detach().isfinite().reshape(len(value), -1).all(-1)
    if bad.any():
        first = one_hot[bad][0]
        index = (first.argmax(-1) if first.ndim == 2 else first.long()).tolist()
        raise ArgumentError(
            f"{name} is not finite at the outcome with classes {index}, whose probability is above "
            f"0; rule it out with logits of -inf, or mend the loss there"
        )


def exact_gradient(loss: Loss, logits: Tensor, *, limit: int = LIMIT) -> Tensor:
    """The exact gradient of `E[loss(z)]` to the logits of z, by enumeration.

    Value: `dE/dlogits_l = sum_z p(z) loss(z) (z_l - p_l)`, z over the one-hots of L independent
    categorical variables, `p(z) = prod_l <z_l, p_l>`, `p_l = softmax(logits_l)`. The loss need
    not be differentiable.

    Args:
        loss: maps one-hots `(N, C)` or `(N, L, C)`, N outcomes at a time in the logits' dtype,
            to `(N,)`; each outcome's loss must be a function of that outcome alone.
        logits: `(C,)`, one variable, or `(L, C)`; floating.
        limit: how many outcomes, C**L, are enumerated at most.

    Returns:
        A tensor of the shape, dtype and device of `logits`. The loss is evaluated in the logits'
        dtype; probabilities and sums are float64.

    Raises:
        DtypeError: if the logits are not floating.
        ShapeError: if the logits are not `(C,)` or `(L, C)`, or the loss does not return `(N,)`.
        ArgumentError: if there are more than `limit` outcomes, a row of logits has none, or the
            loss is not finite at one.

    Edge cases: outcomes of probability 0 are left out, so the loss may be undefined there.

    Higher order: none; the result is detached.

    Cost: the loss at C**L outcomes, in chunks of about 2^18 elements of one-hots.

    Example:
        >>> cost = torch.tensor([1.0, 2.0, 4.0])
        >>> st.audit.exact_gradient(lambda z: z @ cost, torch.zeros(3))
        tensor([-0.4444, -0.1111,  0.5556])
    """
    check_limit("limit", limit)
    if count_outcomes(logits) > limit:
        classes, variables = logits.shape[-1], logits[..., 0].numel()
        raise ArgumentError(
            f"{variables} variables of {classes} classes have {classes}**{variables} outcomes, "
            f"above limit={limit}; estimate the gradient without bias by st.audit.reinforce, "
            f"or st.audit.disarm for binary variables, or pass a higher limit="
        )
    return expected_gradient(loss, logits).to(logits.dtype).reshape(logits.shape)


@torch.no_grad()
def expected_gradient(loss: Loss, logits: Tensor, tau: float = 1.0) -> Tensor:
    """Return the exact gradient in float64, `(L, C)`, z drawn from `softmax(logits / tau)`."""
    p = (logits.reshape(-1, logits.shape[-1]).to(torch.float64) / tau).softmax(-1)
    at_outcomes, mean = torch.zeros_like(p), torch.zeros_like(p[0, 0])
    for outcomes in enumerate_outcomes(logits, tau):
        value = losses(loss, outcomes.one_hot, logits).to(torch.float64)
        weighted = outcomes.weight * value
        at_outcomes += torch.einsum("n,nlc->lc", weighted, outcomes.one_hot.to(torch.float64))
        mean += weighted.sum()
    return (at_outcomes - mean * p) / tau
