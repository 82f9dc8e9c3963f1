"""What advice says: a row a candidate, the best first, as a table, a picture, JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from ..text import aligned
from .candidate import Candidate
from .criterion import as_biased, criterion
from .plot import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD = ("estimator", "bias^2/|g|^2", "95%", "cosine", "error/|g|^2", "us")
NAMED = 3
"""Of those who can't be told apart from the best."""

QUIET, LITTLE = 0.5, 0.25
"""A share of the best one's error, and a squared bias: less of both is worth a word."""

SHOWN, WIDTH = 6, 88
"""Of the short table: rules, and characters of what is below it."""

UNDEFINED = ("cosine", "relative_squared_bias", "relative_error")
"""What a gradient of 0 leaves without a value."""


@dataclass(frozen=True)
class Advice:
    """The candidates of `advise`, the best first; `print` shows the best of them.

    Attributes:
        rows: one a candidate, and that of a zero gradient.
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
        """The first candidate by `criterion`."""
        return next(row for row in self.rows if row.rule is not None)

    @property
    def ties(self) -> tuple[Candidate, ...]:
        """The other candidates whose bias can't be told apart from the best one's."""
        best = self.best
        return tuple(row for row in self.rows if row is not best and as_biased(row, best))

    @property
    def criterion(self) -> str:
        """How the rows are ranked."""
        return criterion(self.batch, self.rescale)

    @property
    def verdict(self) -> str:
        """The advice in a few sentences."""
        best = self.best
        if best.gradient_squared == 0:
            return f"The gradient is 0, and nothing relative to it; {best.label} is listed first."
        if not best.cosine > 0:
            return f"No rule points along the gradient; {best.label} is listed first."
        said = (
            f"{best.label}: relative squared bias {best.relative_squared_bias:.4f} "
            f"({limits(*best.interval)}), cosine {best.cosine:.4f}, "
            f"{best.seconds * 1e6:.0f} us a backward."
        )
        return said + self._quieter() + _as_little(self.ties)

    def _quieter(self) -> str:
        """Say who errs far less at this batch, if anyone does."""
        known = [row for row in self.rows if row.cosine > 0 and row.relative_squared_bias < LITTLE]
        quiet = min(known, key=lambda row: row.mse, default=self.best)
        if not quiet.mse < QUIET * self.best.mse:
            return ""
        return (
            f" Its error at a batch of {self.batch} is {self.best.relative_error:.3g}; if that is "
            f"too noisy, {quiet.label} has {quiet.relative_error:.3g}, at a squared bias of "
            f"{quiet.relative_squared_bias:.4f}."
        )

    def __str__(self) -> str:
        """The best rules, each at its best temperature, beside a zero gradient; the verdict."""
        best = [row for row in each_at_its_best(self.rows) if row.rule is not None]
        shown = [*best[:SHOWN], *(row for row in self.rows if row.rule is None)]
        known = {id(row) for row in shown}
        table = _table([row for row in self.rows if id(row) in known])
        found = [f"{self.outcomes} outcome{'s' * (self.outcomes != 1)}, {self.method}"]
        if len(shown) < len(self.rows):
            found.append(f"{len(self.rows) - len(shown)} more rows in table()")
        if self.skipped:
            found.append(f"{len(self.skipped)} candidates skipped")
        return "\n".join([table, "; ".join(found), *textwrap.wrap(self.verdict, WIDTH)])

    def table(self) -> str:
        """Return the rows as a text table."""
        return _table(self.rows)

    def plot(self, path: str | PathLike[str] | None = None) -> Figure:
        """Return the squared bias over temperatures and over cost, saved to `path` if given.

        A temperature of 1000 or more reads "limit".

        Raises:
            StraightThroughError: if matplotlib is not installed.
        """
        return draw(self.rows, path)

    def record(self) -> dict[str, Any]:
        """Return everything as plain JSON values, `verdict`, `criterion` and `ties` too.

        Rules are as they print, and what is undefined is None.
        """
        plain = dataclasses.asdict(self)
        for row, candidate in zip(plain["rows"], self.rows, strict=True):
            row["rule"] = candidate.label
            row["relative_squared_bias"] = candidate.relative_squared_bias
            row["relative_error"] = candidate.relative_error
            row["interval"] = [*map(_defined, candidate.interval)]
            row |= {name: _defined(row[name]) for name in UNDEFINED}
        ties = [row.label for row in self.ties]
        return {"verdict": self.verdict, "criterion": self.criterion, "ties": ties, **plain}

    def to_json(self) -> str:
        """Return `record()` as JSON."""
        return json.dumps(self.record(), indent=1)


def each_at_its_best(rows: Sequence[Candidate]) -> list[Candidate]:
    """Return the first row of each rule."""
    found: dict[str, Candidate] = {}
    for row in rows:
        found.setdefault(row.name, row)
    return list(found.values())


def limits(low: float, high: float) -> str:
    """Return an interval as it is shown."""
    return "exact" if low == high else f"{low:.4f} to {high:.4f}"


def _table(rows: Sequence[Candidate]) -> str:
    cells = [
        (
            row.label,
            f"{row.relative_squared_bias:.4f}",
            limits(*row.interval),
            f"{row.cosine:.4f}",
            f"{row.relative_error:.4g}",
            f"{row.seconds * 1e6:.0f}",
        )
        for row in rows
    ]
    return aligned(HEAD, cells)


def _as_little(ties: Sequence[Candidate]) -> str:
    """Name those that are no more biased, as far as one can tell."""
    if not ties:
        return ""
    names = ", ".join(row.label for row in ties[:NAMED])
    more = f" and {len(ties) - NAMED} more" if len(ties) > NAMED else ""
    return f" Not told apart from it by their bias: {names}{more}."


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
