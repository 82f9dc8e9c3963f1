"""A race of estimators: each is audited again until another one is surely better."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from ...core.errors import ArgumentError
from ...core.progress import Notify, Progress
from ...estimators import CategoricalEstimator
from ..compare.result import Audit
from .runner import Runner

FIRST, MOST = 2, 2**16
"""Draws of the first audit, which tells what a draw costs, and of any audit at most."""

LEAST, PLANNED = 4, 16
"""Further audits of a noisy runner before it may be dropped, and those that time is planned for."""

Compare = Callable[[Sequence[CategoricalEstimator], int, int], Audit]
"""An audit of some rules, with so many samples and a seed."""


class Race:
    """Audits all runners, then those that may still be the best, until the time is over.

    Attributes:
        runners: those that could be tried, with their audits.
        skipped: names of the others, and why.
    """

    def __init__(
        self,
        compare: Compare,
        seed: int,
        runners: Sequence[Runner],
        skipped: Sequence[tuple[str, str]],
    ) -> None:
        self._compare, self._seed, self._audits = compare, seed, 0
        self.runners, self.skipped = list(runners), list(skipped)

    def run(self, budget: float, started: float, notify: Notify) -> None:
        """Race until `budget` seconds have passed since `started`, and for `LEAST` audits."""
        self._require_runners()
        samples = self._look(budget - (time.perf_counter() - started))
        self._require_runners()
        contenders = self.runners
        while True:
            elapsed = time.perf_counter() - started
            unsure = [runner for runner in contenders if not runner.exact]
            raced = self._audits > LEAST
            over = not unsure or (raced and (elapsed > budget or len(contenders) == 1))
            shown = math.ceil(budget) if over else elapsed
            notify(self._progress(shown, budget, len(contenders)))
            if over:
                return
            self._audit(unsure, samples)
            if self._audits > LEAST:
                contenders = _still_in(contenders)

    def stop(self) -> None:
        """Give up those whose audits are too few to say anything."""
        known = [runner for runner in self.runners if runner.exact or len(runner.rows) >= LEAST]
        late = [runner for runner in self.runners if runner not in known]
        self.skipped += [(repr(runner.rule), "was interrupted") for runner in late]
        self.runners = known

    def _look(self, left: float) -> int:
        """Audit all once, for good where that is exact; return the samples for the others.

        Args:
            left: seconds for this audit and those that follow.
        """
        started = time.perf_counter()
        audit = self._audit(self.runners, FIRST)
        elapsed = time.perf_counter() - started
        enumerated = audit.method == "enumerated"
        drawing = 0.0
        for runner, row in zip(tuple(self.runners), audit.rows, strict=True):
            runner.exact = enumerated and not runner.rule.draws_noise
            if not math.isfinite(row.mse):
                self.runners.remove(runner)
                self.skipped.append((repr(runner.rule), "has a gradient that is not finite"))
            elif not runner.exact:
                runner.rows.clear()
                drawing += row.seconds
        if enumerated:
            fixed, draw = elapsed - sum(row.seconds for row in audit.rows), drawing / FIRST
        else:
            fixed, draw = 0.0, elapsed / audit.outcomes
        # An audit takes its part of the time, and is not mostly the loss.
        wanted = max((left - elapsed) / PLANNED - fixed, fixed) / max(draw, 1e-9)
        return int(min(max(wanted, FIRST), MOST))

    def _require_runners(self) -> None:
        if not self.runners:
            reasons = "; ".join(f"{name} {reason}" for name, reason in self.skipped)
            raise ArgumentError(f"no estimator could be tried: {reasons}")

    def _audit(self, runners: Sequence[Runner], samples: int) -> Audit:
        seed = self._seed + (self._audits << 32)
        audit = self._compare([runner.rule for runner in runners], samples, seed)
        for runner, row in zip(runners, audit.rows, strict=True):
            runner.rows.append(row)
        self._audits += 1
        return audit

    def _progress(self, elapsed: float, budget: float, contenders: int) -> Progress:
        total = math.ceil(budget)
        text = f"{contenders} of {len(self.runners)} contend"
        return Progress("audit", min(int(elapsed), total), total, text)


def _still_in(runners: list[Runner]) -> list[Runner]:
    """Return those that may be the best, of those that point along the gradient, if any does."""
    along = [runner for runner in runners if runner.along] or runners
    reach = min(runner.interval[1] for runner in along)
    return [runner for runner in along if runner.interval[0] <= reach]
