"""What auditing a candidate costs, and which candidates a budget admits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...estimators import CategoricalEstimator
from ..compare.comparison import loss_and_gradient
from ..compare.exact import CHUNK, Loss
from ..compare.groups import GROUPS, draw_outcomes, group_size
from .race import FIRST, LEAST
from .runner import LONG, seconds_of

ENOUGH = 1e-3
"""Seconds that a call must grow by, and grow twofold, to tell what one more outcome costs."""

MANY = 64
"""Times the small number, so that what varies from call to call does not count."""

SHARE = 0.5
"""Of the budget, for the audits that every candidate gets; the contenders have the rest."""


@dataclass(frozen=True)
class Cost:
    """The seconds of a call, whatever it is given, and of each outcome that it is given."""

    call: float
    outcome: float

    def of(self, outcomes: int) -> float:
        """Return the seconds of a call with so many outcomes."""
        return self.call + self.outcome * outcomes


@dataclass(frozen=True)
class Entrant:
    """A candidate and its cost."""

    name: str
    rule: CategoricalEstimator
    cost: Cost


@dataclass(frozen=True)
class Admission:
    """Who may run, who not, with the reason, and whether all outcomes are enumerated."""

    entrants: tuple[Entrant, ...]
    left_out: tuple[tuple[Entrant, str], ...]
    enumerated: bool


def admit(
    entrants: Sequence[Entrant], loss: Cost, outcomes: int, batch: int, limit: int, budget: float
) -> Admission:
    """Admit the candidates whose audits take least while all of them fit.

    Outcomes are enumerated where there are at most `limit` and the budget allows it for every
    rule that is then exact, the ones without noise. Otherwise they are drawn, and the cheapest
    candidate is admitted whatever it takes.

    Args:
        entrants: the candidates.
        loss: of the loss and its gradient.
        outcomes: how many there are.
        batch: of the backward that is timed.
        limit: how many may be enumerated.
        budget: seconds.
    """
    if outcomes <= limit:
        found = _admit(entrants, loss, outcomes, batch, budget, enumerated=True)
        if found.entrants and all(entrant.rule.draws_noise for entrant, _ in found.left_out):
            return found
    return _admit(entrants, loss, GROUPS * group_size(FIRST, 2), batch, budget, enumerated=False)


def _admit(
    entrants: Sequence[Entrant],
    loss: Cost,
    outcomes: int,
    batch: int,
    budget: float,
    enumerated: bool,
) -> Admission:
    def needed(entrant: Entrant) -> float:
        """Return the seconds of all that every candidate gets."""
        cost, once = entrant.cost, enumerated and not entrant.rule.draws_noise
        draws = FIRST if enumerated and not once else 1
        return (1 if once else 1 + LEAST) * cost.of(outcomes * draws) + cost.of(batch)

    admitted: list[Entrant] = []
    left_out: list[tuple[Entrant, str]] = []
    left = SHARE * budget - 2 * loss.of(outcomes)
    for entrant in sorted(entrants, key=needed):
        left -= needed(entrant)
        if left > 0 or not (admitted or enumerated):
            admitted.append(entrant)
        else:
            reason = f"is too dear for the budget: its audits take about {needed(entrant):.2g} s"
            left_out.append((entrant, reason))
    return Admission(tuple(admitted), tuple(left_out), enumerated)


def price(
    candidates: Iterable[tuple[str, CategoricalEstimator]], logits: Tensor
) -> tuple[list[Entrant], list[tuple[str, str]]]:
    """Return the candidates with their costs, and those that raise, with the reason.

    A rule costs the same at every temperature, so it is tried at one.
    """
    entrants, failed = [], []
    known: dict[tuple[object, ...], Cost] = {}
    for name, rule in candidates:
        fields = (value for field, value in vars(rule).items() if field != "tau")
        alike = (type(rule), *fields)
        try:
            if alike not in known:
                known[alike] = _cost_of_rule(rule, logits)
            entrants.append(Entrant(name, rule, known[alike]))
        except Exception as error:
            failed.append((repr(rule), f"raises {type(error).__name__}: {error}"))
    return entrants, failed


def _cost_of_rule(rule: CategoricalEstimator, logits: Tensor) -> Cost:
    row = logits.reshape(-1, logits.shape[-1])[:1].to(torch.float64)

    def call(count: int) -> None:
        rows = row.expand(count, -1).contiguous()
        rule.vjp(rows, rows.argmax(-1), torch.ones_like(rows), seed=0)

    found = _cost(call, 1, CHUNK // row.numel(), logits.device)
    return Cost(found.call, found.outcome * (logits.numel() // row.numel()))


def cost_of_loss(loss: Loss, logits: Tensor) -> Cost:
    """Return what the loss and its gradient cost."""

    def call(count: int) -> None:
        for outcomes in draw_outcomes(logits, count, seed=0):
            loss_and_gradient(loss, outcomes, logits)

    return _cost(call, GROUPS, CHUNK // logits.numel(), logits.device)


def _cost(call: Callable[[int], object], least: int, most: int, device: torch.device) -> Cost:
    """Return what a call with so many outcomes costs, by a small number of them and a large one."""
    small = seconds_of(partial(call, least), device)
    count, large = least, small
    while 8 * count <= most and (
        large < 2 * small + ENOUGH or (count < MANY * least and large < LONG)
    ):
        count *= 8
        large = seconds_of(partial(call, count), device)
    outcome = max(large - small, 0.0) / (count - least) if count > least else small / least
    return Cost(max(small - outcome * least, 0.0), outcome)
