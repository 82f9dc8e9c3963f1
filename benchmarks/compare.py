"""Regressions: two files of measurements, by their ratios to plain torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from straightthrough.core.errors import ArgumentError

from .cases import OURS, PLAIN
from .results import Job, Record, by_job

TOLERANCE = 0.15
"""By how much a ratio may grow."""


@dataclass(frozen=True)
class Change:
    """Our time over that of plain torch in the same run, before and after."""

    job: Job
    old: float
    new: float

    @property
    def growth(self) -> float:
        """0.1 where the ratio grew by a tenth."""
        return self.new / self.old - 1

    @property
    def regressed(self) -> bool:
        """Whether it grew by more than is put down to noise."""
        return self.growth > TOLERANCE


def compare(old: Iterable[Record], new: Iterable[Record]) -> list[Change]:
    """Return what both runs measured, the worst change first.

    The ratio to plain torch in the same run cancels the machine, as far as machines differ by a
    factor.

    Raises:
        ArgumentError: if nothing was measured in both.
    """
    before, after = _ratios(old), _ratios(new)
    changes = [Change(job, before[job], after[job]) for job in before if job in after]
    if not changes:
        raise ArgumentError(
            f"no job was measured in both runs against {PLAIN}: one holds {len(before)}, the "
            f"other {len(after)}; measure the same shapes on the same numbers of threads"
        )
    return sorted(changes, key=lambda change: change.growth, reverse=True)


def _ratios(records: Iterable[Record]) -> dict[Job, float]:
    return {
        job: ways[OURS].median / ways[PLAIN].median
        for job, ways in by_job(records).items()
        if OURS in ways and PLAIN in ways
    }
