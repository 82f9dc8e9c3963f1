"""The exact gradient of an expected loss, by enumeration of the outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.errors import ArgumentError, DtypeError, ShapeError, check_floating

Loss = Callable[[Tensor], Tensor]

LIMIT = 2**20
"""Outcomes that are enumerated at most, unless the caller says otherwise."""

CHUNK = 2**18
"""Elements of one-hots that exist at once."""

SAME = 0.05
"""Of the largest loss: what half precision, summed in another order, may be off by."""


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

    def classes(self, of: Tensor) -> list[int]:
        """Return the outcome of the first that is true of `of`, `(N,)`, as errors name it."""
        return _classes(self.one_hot[of][0])


def check_logits(logits: Tensor) -> None:
    """Raise unless logits are those of one variable or several, each with an outcome."""
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


def count_outcomes(logits: Tensor) -> int:
    """Check the logits and return C**L, the number of their outcomes."""
    check_logits(logits)
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
    value = loss(one_hot.reshape(-1, *logits.shape).clone())  # which it may write into
    if not isinstance(value, Tensor) or value.shape != one_hot.shape[:1]:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(
            f"loss must map outcomes {('N', *logits.shape)} to ('N',), here N = {len(one_hot)}; "
            f"it returned {got}: sum over all dimensions but the first"
        )
    if value.is_complex():
        raise DtypeError(f"loss must return real numbers, got {value.dtype}")
    check_finite("loss", value, one_hot)
    return value


def check_alone(
    loss: Loss, one_hot: Tensor, value: Tensor, logits: Tensor, *, noise: bool = False
) -> None:
    """Raise where the last outcome has another loss, by far, beside the others than by itself.

    With `noise`, the loss may draw some: copies of an outcome then have different losses.
    """
    last, value = one_hot[-1:].detach(), value.to(torch.float64)  # as of True and False
    beside = value[-1].item()
    alone = losses(loss, _copies(last, 2), logits)[0].item()
    least = SAME * max(abs(alone), float(value.abs().max()))
    if abs(alone - beside) <= least:
        return
    if noise:
        copies = losses(loss, _copies(last, 64), logits).to(torch.float64)
        if float(copies.max() - copies.min()) > least:
            return
    raise ArgumentError(
        f"an outcome's loss must be a function of that outcome alone; of the same one it is "
        f"{beside:.4g} in a batch of {len(value)} and {alone:.4g} in one of its own: let it mix no "
        f"outcomes (as BatchNorm in training does)"
        f"{'' if noise else ' and draw no noise (as dropout does)'}"
    )


def _copies(one_hot: Tensor, count: int) -> Tensor:
    return one_hot.expand(count, *one_hot.shape[1:])


def check_finite(name: str, value: Tensor, one_hot: Tensor) -> None:
    """Raise where `value`, one or several numbers an outcome, is not finite."""
    bad = ~value.detach().isfinite().reshape(len(value), -1).all(-1)
    if bad.any():
        raise ArgumentError(
            f"{name} is not finite at the outcome with classes {_classes(one_hot[bad][0])}, whose "
            f"probability is above 0; rule it out with logits of -inf, or mend the loss there"
        )


def _classes(outcome: Tensor) -> list[int]:
    """Return the class of each variable of an outcome, or itself where it is of 0 and 1."""
    found: list[int] = (outcome.argmax(-1) if outcome.ndim == 2 else outcome.long()).tolist()
    return found
