"""What advice says: a row a candidate, the best first, as a table, a picture, JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from .candidate import Candidate
from .plot import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Advice:
    """The candidates of `advise`, the best first.

    They go by `mse`, and those whose mean points away from the true gradient come last.

    Attributes:
        rows: one a candidate.
        skipped: what could not be tried, and why.
        batch, budget, seed, rescale: as they were given.
        outcomes: how many there are, C**L.
        method: `"enumerated"` or `"sampled"`, how outcomes were found.
        seconds: that it took.
        complete: whether it ran to its end rather than to a Ctrl-C.
    """

    rows: tuple[Candidate, ...]
    skipped: tuple[tuple[str, str], ...]
    batch: int
    budget: float
    seed: int
    rescale: bool
    outcomes: int
    method: str
    seconds: float
    complete: bool = True

    @property
    def best(self) -> Candidate:
        """The candidate of the least mse that points along the gradient, the cheaper of equals."""
        return self.rows[0]

    @property
    def ties(self) -> tuple[Candidate, ...]:
        """The other candidates whose intervals reach down to the best one's."""
        reach = self.best.interval[1]
        return tuple(row for row in self.rows[1:] if row.cosine > 0 and row.interval[0] <= reach)

    @property
    def verdict(self) -> str:
        """The advice in a sentence or two."""
        best = self.best
        said = (
            f"{best.rule!r}: mean squared error {best.mse:.4g} {_limits(best)} of the gradient "
            f"averaged over {self.batch}, {best.seconds * 1e6:.0f} us a backward."
        )
        if not self.ties:
            return said
        names = ", ".join(repr(row.rule) for row in self.ties[:SHOWN])
        more = f" and {len(self.ties) - SHOWN} more" if len(self.ties) > SHOWN else ""
        return f"{said} Not told apart from it: {names}{more}."

    def table(self) -> str:
        """Return the rows as a text table."""
        head = ("estimator", "bias^2", "variance", "cosine", "mse", "95%", "us")
        body = [
            (
                repr(row.rule),
                f"{row.bias_squared:.4g}",
                f"{row.variance:.4g}",
                f"{row.cosine:.4f}",
                f"{row.mse:.4g}",
                _limits(row),
                f"{row.seconds * 1e6:.0f}",
            )
            for row in self.rows
        ]
        name, *numbers = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        return "\n".join(
            "  ".join([line[0].ljust(name), *map(str.rjust, line[1:], numbers)])
            for line in (head, *body)
        )

    def plot(self, path: str | PathLike[str] | None = None) -> Figure:
        """Return the mse over temperatures and over cost as a figure, saved to `path` if given.

        Raises:
            StraightThroughError: if matplotlib is not installed.
        """
        return draw(self.rows, self.batch, path)

    def record(self) -> dict[str, Any]:
        """Return everything as plain JSON values, `verdict` and `ties` too.

        Rules are as they print, and undefined cosines None.
        """
        plain = dataclasses.asdict(self)
        for row, candidate in zip(plain["rows"], self.rows, strict=True):
            row["rule"] = repr(candidate.rule)
            row["cosine"] = None if math.isnan(candidate.cosine) else candidate.cosine
        ties = [repr(row.rule) for row in self.ties]
        return {"verdict": self.verdict, "ties": ties, **plain}

    def to_json(self) -> str:
        """Return `record()` as JSON."""
        return json.dumps(self.record(), indent=1)


SHOWN = 3


def _limits(row: Candidate) -> str:
    low, high = row.interval
    return "(exact)" if low == high else f"[{low:.4g}, {high:.4g}]"
