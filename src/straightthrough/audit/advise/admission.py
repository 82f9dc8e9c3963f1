"""What auditing a candidate costs, and which candidates a budget admits."""

from __future__ import annotations

import dataclasses
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

SMALL = 2**13
"""Elements of all one-hots, C**L outcomes of L C each, up to which the clock decides nothing."""

ENUMERATED = 2**17
"""Elements up to which outcomes are enumerated, and rules without noise tried, in any case."""


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
class Work:
    """What every candidate is put to: audits, and a backward that is timed.

    Attributes:
        outcomes: of an audit.
        enumerated: whether these are all, so that a rule without noise needs one audit.
        batch: of the backward.
        draws: of a rule's own noise, an outcome.
    """

    outcomes: int
    enumerated: bool
    batch: int
    draws: int = 1

    def seconds(self, entrant: Entrant) -> float:
        """Return what a candidate needs."""
        cost, once = entrant.cost, self.enumerated and not entrant.rule.draws_noise
        draws = 1 if once else self.draws
        return (1 if once else 1 + LEAST) * cost.of(self.outcomes * draws) + cost.of(self.batch)

    def refusal(self, entrant: Entrant) -> tuple[str, str]:
        """Return who is left out, and why."""
        reason = f"is too dear for the budget: its audits take about {self.seconds(entrant):.2g} s"
        return repr(entrant.rule), reason


@dataclass(frozen=True)
class Admission:
    """Who may run, who not (the cheapest first), and at what."""

    entrants: tuple[Entrant, ...]
    left_out: tuple[Entrant, ...]
    work: Work


def admit(
    entrants: Sequence[Entrant],
    loss: Cost,
    outcomes: int,
    batch: int,
    budget: float,
    *,
    limit: int,
    always: bool = False,
) -> Admission:
    """Admit the candidates whose audits take least while all of them fit.

    Outcomes are enumerated where there are at most `limit` and the budget allows it for every
    rule that is then exact, the ones without noise, or `always`, which admits these. Otherwise
    they are drawn. In the last two cases there is one that is admitted whatever it takes.

    Args:
        entrants: the candidates.
        loss: of the loss and its gradient.
        outcomes: how many there are.
        batch: of the backward that is timed.
        budget: seconds.
        limit: how many may be enumerated.
        always: whether those are, whatever it takes.
    """
    seconds = SHARE * budget
    if outcomes <= limit:
        work = Work(outcomes, enumerated=True, batch=batch, draws=FIRST)
        found = _admit(entrants, work, seconds - 2 * loss.of(outcomes), always)
        if found.entrants and all(entrant.rule.draws_noise for entrant in found.left_out):
            return found
    drawn = Work(GROUPS * group_size(FIRST, 2), enumerated=False, batch=batch)
    found = _admit(entrants, drawn, seconds - 2 * loss.of(drawn.outcomes))
    if found.entrants:
        return found
    cheapest, *others = found.left_out
    return Admission((cheapest,), tuple(others), drawn)


def _admit(entrants: Sequence[Entrant], work: Work, left: float, always: bool = False) -> Admission:
    admitted: list[Entrant] = []
    left_out: list[Entrant] = []
    for entrant in sorted(entrants, key=work.seconds):
        left -= work.seconds(entrant)
        if left > 0 or (always and not (admitted and entrant.rule.draws_noise)):
            admitted.append(entrant)
        else:
            left_out.append(entrant)
    return Admission(tuple(admitted), tuple(left_out), work)


def admit_late(
    found: Admission, loss: Cost, logits: Tensor, samples: int, left: float
) -> Admission:
    """Look again at what those cost that were left out, and admit those that `left` allows.

    Args:
        found: the last admission.
        loss: of the loss and its gradient.
        logits: of the outcomes.
        samples: of an audit, as `compare` takes them.
        left: seconds.
    """
    work = dataclasses.replace(found.work, draws=samples)
    if not work.enumerated:
        work = dataclasses.replace(work, outcomes=GROUPS * group_size(samples, 2), draws=1)
    known: dict[tuple[object, ...], Cost] = {}
    again = []
    for entrant in found.left_out:
        alike = _alike(entrant.rule)
        if alike not in known:
            known[alike] = _cost_of_rule(entrant.rule, logits)
        costs = (dataclasses.replace(entrant, cost=c) for c in (entrant.cost, known[alike]))
        again.append(min(costs, key=work.seconds))
    return _admit(again, work, left - 2 * (1 + LEAST) * loss.of(work.outcomes))


def price(
    candidates: Iterable[tuple[str, CategoricalEstimator]], logits: Tensor
) -> tuple[list[Entrant], list[tuple[str, str]]]:
    """Return the candidates with their costs, and those that raise, with the reason.

    A rule costs the same at every temperature, so it is tried at one.
    """
    entrants, failed = [], []
    known: dict[tuple[object, ...], Cost] = {}
    for name, rule in candidates:
        alike = _alike(rule)
        try:
            if alike not in known:
                known[alike] = _cost_of_rule(rule, logits)
            entrants.append(Entrant(name, rule, known[alike]))
        except Exception as error:
            failed.append((repr(rule), f"raises {type(error).__name__}: {error}"))
    return entrants, failed


def _alike(rule: CategoricalEstimator) -> tuple[object, ...]:
    """Return what tells rules apart that differ in more than their temperature."""
    return (type(rule), *(value for field, value in vars(rule).items() if field != "tau"))


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
