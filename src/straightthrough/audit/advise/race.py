"""A race of estimators: each is audited again until another one is surely better."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from ...core.errors import ArgumentError
from ...core.progress import Notify, Progress
from ...estimators import CategoricalEstimator
from ..compare.result import Audit
from .criterion import SAME_BIAS
from .runner import Runner

FIRST, MOST = 2, 2**16
"""Draws of the first audit, which tells what a draw costs, and of any audit at most."""

LEAST, AUDITS = 4, 16
"""Further audits of a noisy runner before it may be dropped, and those that it gets at most."""

Compare = Callable[[Sequence[CategoricalEstimator], int, int], Audit]
"""An audit of some rules, with so many samples and a seed."""


class Race:
    """Audits all runners, then those that may still be the best, until these are known well.

    Args:
        compare: makes an audit.
        seed: of the first audit; the others count on from it, the last seed followed by the first.
        samples: of an audit after the first; None to have the clock say.
        deadline: by `time.perf_counter`, when no more is begun than every runner gets.

    Attributes:
        runners: those that could be tried, with their audits.
        skipped: names of the others, and why.
        samples: as given, or as the clock has said.
    """

    def __init__(
        self,
        compare: Compare,
        seed: int,
        *,
        samples: int | None,
        deadline: float,
        notify: Notify,
    ) -> None:
        self._compare, self._seed, self._audits = compare, seed, 0
        self._deadline, self._notify = deadline, notify
        self.samples = samples
        self.runners: list[Runner] = []
        self.skipped: list[tuple[str, str]] = []

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - time.perf_counter()

    def enter(self, runners: Sequence[Runner]) -> None:
        """Audit runners once, for good where that is exact, and let them in."""
        if not runners:
            return
        started = time.perf_counter()
        audit = self._audit(runners, FIRST)
        elapsed = time.perf_counter() - started
        enumerated = audit.method == "enumerated"
        drawing = 0.0
        for runner, row in zip(runners, audit.rows, strict=True):
            runner.exact = enumerated and not runner.rule.draws_noise
            if math.isfinite(row.mse):
                self.runners.append(runner)
            else:
                self.skipped.append((repr(runner.rule), "has a gradient that is not finite"))
            if not runner.exact:
                runner.rows.clear()
                drawing += row.seconds
        if self.samples is None and not all(runner.exact for runner in runners):
            self.samples = self._affordable(audit, elapsed, drawing)

    def run(self) -> None:
        """Audit the contenders until they are known, and every runner `LEAST` times."""
        if not self.runners:
            reasons = "; ".join(f"{name} {reason}" for name, reason in self.skipped)
            raise ArgumentError(f"no estimator could be tried: {reasons}")
        while True:
            new = [each for each in self.runners if not each.exact and len(each.rows) < LEAST]
            contenders = self.runners if new else contending(self.runners)
            unsure = [each for each in contenders if len(each.rows) < AUDITS and not _known(each)]
            over = not new and (len(contenders) == 1 or not unsure or self.left < 0)
            self._tell(len(contenders), over)
            if over:
                return
            self._audit(new or unsure, self.samples or FIRST)

    def stop(self) -> None:
        """Give up those whose audits are too few to say anything."""
        known = [runner for runner in self.runners if runner.exact or len(runner.rows) >= LEAST]
        late = [runner for runner in self.runners if runner not in known]
        self.skipped += [(repr(runner.rule), "was interrupted") for runner in late]
        self.runners = known

    def _affordable(self, audit: Audit, elapsed: float, drawing: float) -> int:
        """Return the samples of further audits that half of the time left has a place for.

        A power of two, so that a clock that is a little off does not show.
        """
        if audit.method == "enumerated":
            fixed = elapsed - sum(row.seconds for row in audit.rows)
            draw = drawing / FIRST
        else:
            fixed, draw = 0.0, elapsed / audit.outcomes
        # An audit takes its part of the time, and is not mostly the loss.
        wanted = max(self.left / 2 / AUDITS - fixed, fixed) / max(draw, 1e-9)
        return 2 ** int(math.log2(min(max(wanted, FIRST), MOST)))

    def _audit(self, runners: Sequence[Runner], samples: int) -> Audit:
        seed = (self._seed + (self._audits << 32) + 2**63) % 2**64 - 2**63
        audit = self._compare([runner.rule for runner in runners], samples, seed)
        for runner, row in zip(runners, audit.rows, strict=True):
            runner.rows.append(row)
        self._audits += 1
        return audit

    def _tell(self, contenders: int, over: bool) -> None:
        done = AUDITS if over else min(self._audits, AUDITS - 1)
        text = f"{contenders} of {len(self.runners)} contend"
        self._notify(Progress("audit", done, AUDITS, text))


def _known(runner: Runner) -> bool:
    """Whether a runner's bias is known as well as is asked."""
    if runner.exact or len(runner.rows) < LEAST:
        return runner.exact
    low, high = runner.interval
    return high - low < SAME_BIAS


def contending(runners: list[Runner]) -> list[Runner]:
    """Return those that may be the best, of those that point along the gradient, if any does."""
    along = [runner for runner in runners if runner.along] or runners
    reach = min(runner.interval[1] for runner in along) + SAME_BIAS
    return [runner for runner in along if runner.interval[0] <= reach]
