"""What an audit says: a row an estimator, as a table, a picture, JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class StandardErrors:
    """The standard errors of a row's numbers, where outcomes were drawn."""

    bias_squared: float
    variance: float
    cosine: float
    mse: float


@dataclass(frozen=True)
class Row:
    """What an audit says about one estimator, the gradient taken as one vector.

    Attributes:
        name: the shorthand that was given, or the rule as it prints.
        bias_squared: the squared norm of the mean estimate less the exact gradient.
        variance: the trace of the estimate's covariance, over outcomes and the rule's noise.
        cosine: of the mean estimate and the exact gradient; NaN where one of them is 0.
        mse: `bias_squared + variance`, the mean squared norm of the error.
        seconds: wall time of the rule's calls and their sums; at enumerated outcomes a rule that
            draws noise is called `samples` times each, others once.
        standard_errors: of the other numbers, where outcomes were drawn; None where they were
            enumerated.
    """

    name: str
    bias_squared: float
    variance: float
    cosine: float
    mse: float
    seconds: float
    standard_errors: StandardErrors | None = None


@dataclass(frozen=True)
class Audit:
    """The rows of `compare`, in the order given, and what they were computed with.

    Attributes:
        rows: one an estimator.
        outcomes: how many the rules were tried at: all C**L, or the drawn ones.
        samples, seed, rescale: as they were given.
        method: `"enumerated"` or `"sampled"`, how the outcomes were found.
    """

    rows: tuple[Row, ...]
    outcomes: int
    samples: int
    seed: int
    rescale: bool
    method: str = "enumerated"

    @property
    def caption(self) -> str:
        """How many outcomes the numbers come from, and how they were found."""
        found = "enumerated" if self.method == "enumerated" else "sampled; ± one standard error"
        return f"{self.outcomes} outcomes, {found}"

    def table(self) -> str:
        """Return the rows as a text table, and below it where its numbers come from."""
        head = ("estimator", "bias^2", "variance", "cosine", "mse", "seconds")
        body = [_cells(row) for row in self.rows]
        name, *numbers = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        lines = [
            "  ".join([line[0].ljust(name), *map(str.rjust, line[1:], numbers)])
            for line in (head, *body)
        ]
        return "\n".join([*lines, self.caption])

    def plot(self, path: str | PathLike[str] | None = None) -> Figure:
        """Return bias against variance as a matplotlib figure, saved to `path` if given.

        Raises:
            StraightThroughError: if matplotlib is not installed.
        """
        from .plot import draw

        return draw(self, path)

    def to_json(self) -> str:
        """Return everything as JSON; an undefined cosine is null."""
        record = dataclasses.asdict(self)
        for row in record["rows"]:
            for numbers in filter(None, (row, row["standard_errors"])):
                numbers["cosine"] = None if math.isnan(numbers["cosine"]) else numbers["cosine"]
        return json.dumps(record, indent=1)


def _cells(row: Row) -> tuple[str, ...]:
    """Return a row of the table."""
    fields = ("bias_squared", "variance", "cosine", "mse")
    numbers = [f"{getattr(row, name):{'.4f' if name == 'cosine' else '.4g'}}" for name in fields]
    if row.standard_errors is not None:
        errors = [getattr(row.standard_errors, name) for name in fields]
        numbers = [f"{n} ± {error:.2g}" for n, error in zip(numbers, errors, strict=True)]
    return row.name, *numbers, f"{row.seconds:.3f}"
