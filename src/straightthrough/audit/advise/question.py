"""What is asked of `advise`: a loss, a budget, and how both are spent."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...core.progress import Notify
from ...estimators import CategoricalEstimator
from ..compare.comparison import compare
from ..compare.exact import Loss
from ..compare.result import Audit
from .admission import (
    ENUMERATED,
    SMALL,
    Admission,
    Cost,
    Entrant,
    Work,
    admit,
    admit_late,
    cost_of_loss,
    price,
)
from .race import FIRST, MOST, Compare, Race
from .runner import Runner

Named = Sequence[tuple[str, CategoricalEstimator]]


@dataclass(frozen=True)
class Question:
    """The arguments of `advise`, how many outcomes there are, and when it began."""

    loss: Loss
    logits: Tensor
    budget: float
    batch: int
    seed: int
    rescale: bool
    limit: int
    outcomes: int
    started: float

    @property
    def ends(self) -> float:
        """When the budget is spent."""
        return self.started + self.budget

    @property
    def elements(self) -> int:
        """Of the one-hots of all outcomes."""
        return self.outcomes * self.logits.numel()

    @property
    def small(self) -> bool:
        """Whether the clock has no say."""
        return self.outcomes <= self.limit and self.elements <= SMALL

    def answer(self, given: Named, notify: Notify) -> tuple[Race, Admission, bool]:
        """Race the candidates; return that, who was left out at last, and whether it is complete.

        Raises:
            KeyboardInterrupt: if it comes before anything is known.
        """
        cost, admission, failed = self._admit(given)
        race = Race(
            self._comparing(admission.work.enumerated),
            self.seed,
            samples=min(max(SMALL // self.elements, FIRST), MOST) if self.small else None,
            deadline=math.inf if self.small else self.ends,
            notify=notify,
        )
        race.skipped += failed
        try:
            race.enter([*self._runners(admission.entrants, race)])
            race.run()
            while admission.left_out and race.left > 0:
                samples = race.samples or FIRST
                admission = admit_late(admission, cost, self.logits, samples, race.left)
                if not admission.entrants:
                    break
                race.enter([*self._runners(admission.entrants, race)])
                race.run()
            self._time_again(race.runners)
        except KeyboardInterrupt:
            race.stop()
            if not race.runners:
                raise
            return race, admission, False
        return race, admission, True

    def _admit(self, given: Named) -> tuple[Cost, Admission, list[tuple[str, str]]]:
        """Return what the loss costs, who may run, and who raises."""
        if self.small:
            free = Cost(0.0, 0.0)
            everyone = tuple(Entrant(name, rule, free) for name, rule in given)
            work = Work(self.outcomes, enumerated=True, batch=self.batch)
            return free, Admission(everyone, (), work), []
        cost = cost_of_loss(self.loss, self.logits)
        entrants, failed = price(given, self.logits)
        always = self.elements <= ENUMERATED
        admission = admit(
            entrants, cost, self.outcomes, self.batch, self.budget, limit=self.limit, always=always
        )
        return cost, admission, failed

    def _comparing(self, enumerated: bool) -> Compare:
        def audit(rules: Sequence[CategoricalEstimator], samples: int, seed: int) -> Audit:
            return compare(
                self.loss,
                self.logits,
                rules,
                samples=samples,
                seed=seed,
                rescale=self.rescale,
                limit=self.outcomes if enumerated else 0,
            )

        return audit

    def _runners(self, entrants: Sequence[Entrant], race: Race) -> Iterator[Runner]:
        """Yield those that run, and tell the race of the others."""
        for entrant in entrants:
            try:
                yield Runner(entrant.name, entrant.rule, self.logits, self.batch, self.rescale)
            except Exception as error:
                reason = f"raises {type(error).__name__}: {error}"
                race.skipped.append((repr(entrant.rule), reason))

    def _time_again(self, runners: Sequence[Runner]) -> None:
        """Look again at what backward costs, while budget is left."""
        for runner in runners:
            if time.perf_counter() > self.ends:
                return
            runner.time()
