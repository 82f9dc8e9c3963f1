"""What an audit says: a row an estimator, as a table, a picture, JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from ...core.errors import ArgumentError
from ..text import aligned
from .plot import draw
from .row import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        """How many outcomes the numbers come from, how they were found, and who has none."""
        found = "enumerated" if self.method == "enumerated" else "sampled; ± one standard error"
        flaws = [f"{row.name}: {row.flaw}" for row in self.rows if row.flaw]
        return "\n".join([f"{self.outcomes} outcome{'s' * (self.outcomes != 1)}, {found}", *flaws])

    def table(self) -> str:
        """Return the rows as a text table, and below it where its numbers come from."""
        head = ("estimator", "bias^2/|g|^2", "bias^2", "variance", "cosine", "mse", "seconds")
        return f"{aligned(head, [_cells(row) for row in self.rows])}\n{self.caption}"

    def plot(self, path: str | PathLike[str] | None = None) -> Figure:
        """Return bias against variance as a matplotlib figure, saved to `path` if given.

        A row that is not finite is not drawn, but named.

        Raises:
            StraightThroughError: if matplotlib is not installed.
            ArgumentError: if no row is finite.
        """
        finite = [row for row in self.rows if math.isfinite(row.mse)]
        if not finite:
            raise ArgumentError(f"an audit must have a finite row to be drawn: {self.caption}")
        scaled = "scaled to the exact gradient's norm" if self.rescale else "as they are"
        return draw(finite, f"means {scaled}\n{self.caption}", path)

    def to_json(self) -> str:
        """Return everything as JSON, each row's `relative_squared_bias` too.

        What has no value or is not finite is null.
        """
        record = dataclasses.asdict(self)
        for row, found in zip(record["rows"], self.rows, strict=True):
            del row["moments"]
            row["relative_squared_bias"] = found.relative_squared_bias
            for numbers in filter(None, (row, row["standard_errors"])):
                numbers |= {name: None for name, value in numbers.items() if _is_no_number(value)}
        return json.dumps(record, indent=1)


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _cells(row: Row) -> tuple[str, ...]:
    """Return a row of the table."""
    fields = ("bias_squared", "variance", "cosine", "mse")
    numbers = [f"{getattr(row, name):{'.4f' if name == 'cosine' else '.4g'}}" for name in fields]
    if row.standard_errors is not None:
        errors = [getattr(row.standard_errors, name) for name in fields]
        numbers = [f"{n} ± {error:.2g}" for n, error in zip(numbers, errors, strict=True)]
    return row.name, f"{row.relative_squared_bias:.4g}", *numbers, f"{row.seconds:.3f}"
