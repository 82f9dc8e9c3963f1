"""What makes one candidate better than another, in words and in code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import compress

from .candidate import Candidate

SAME_BIAS = 0.01
"""Relative squared biases that differ by no more count as equal."""

SAME_ERROR = 0.05
"""So do errors, of which this is a share."""

ROUNDING = 1e-12
"""Of a relative error that is 0."""


def criterion(batch: int, rescale: bool) -> str:
    """Return how `ranked` ranks, in a few sentences."""
    scaled = (
        "; the mean is first scaled to the gradient's norm, since a learning rate takes care of "
        "lengths, so that this is 2 (1 - cosine)"
        if rescale
        else ""
    )
    draws = "1 draw" if batch == 1 else f"{batch} draws"
    return (
        f"Ranked by relative squared bias, |mean estimate - gradient|^2 / |gradient|^2, as bias "
        f"does not average out over steps{scaled}. Rules within {SAME_BIAS} of the least (of the "
        f"least upper limit) are equal in it, and go by their error, (squared bias + variance / "
        f"{batch}) / |gradient|^2, that of an average over {draws}; within {SAME_ERROR:.0%} of the "
        f"least of these, rules without noise go first, then those listed first. A zero gradient "
        f"has 1 in both; it comes after all rules whose mean points along the gradient, however "
        f"little, and before the others."
    )


def ranked(rows: Sequence[Candidate]) -> list[Candidate]:
    """Return the rows, given in the order that decides between equals, the best first."""
    found: list[Candidate] = []
    along = [row for row in rows if row.cosine > 0]
    still = [row for row in rows if row.rule is None]
    rest = [row for row in rows if row.rule is not None and not row.cosine > 0]
    for group in (along, still, rest):
        for alike in _bands(group, lambda row: row.relative_squared_bias, _as_biased):
            for equal in _bands(alike, lambda row: row.relative_error, _as_wrong):
                found += sorted(equal, key=_draws_noise)
    return found


def _draws_noise(row: Candidate) -> bool:
    return row.rule is not None and row.rule.draws_noise


def as_biased(row: Candidate, best: Candidate) -> bool:
    """Whether a candidate can't be told apart from the best by its bias."""
    return row.cosine > 0 and row.interval[0] <= best.interval[1] + SAME_BIAS


def _as_biased(rows: Sequence[Candidate]) -> float:
    return min(_or_infinity(row.interval[1]) for row in rows) + SAME_BIAS


def _as_wrong(rows: Sequence[Candidate]) -> float:
    least = min(_or_infinity(row.relative_error) for row in rows)
    return least + SAME_ERROR * abs(least) + ROUNDING


def _or_infinity(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _bands(
    rows: list[Candidate],
    number: Callable[[Candidate], float],
    reach: Callable[[list[Candidate]], float],
) -> Iterator[list[Candidate]]:
    """Yield the rows whose number lies within reach of the least, then so the others."""
    while rows:
        limit = reach(rows)
        inside = [_or_infinity(number(row)) <= limit for row in rows]
        yield list(compress(rows, inside))
        rows = [row for row, taken in zip(rows, inside, strict=True) if not taken]
