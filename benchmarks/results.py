"""Measurements as JSON lines, and as ratios."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from straightthrough.core.errors import ArgumentError

from .cases import SHORT
from .shapes import Shape, written

QUANTILES = (10, 50, 90)
RUNS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Record:
    """One measurement: one way of a case in one mode at one shape, on so many threads.

    Attributes:
        seconds: quantiles of the time of a call, by percent.
        rounds: samples that they are taken from.
        extra_bytes, saved_bytes, resident_bytes: `memory.Memory`; None where not measured.
        level: the kernels that served ours; None where the reference did.
        environment: machine and versions.
    """

    case: str
    way: str
    mode: str
    shape: Shape
    dtype: str
    threads: int
    seconds: dict[str, float]
    rounds: int
    extra_bytes: int | None
    saved_bytes: int | None
    resident_bytes: int | None
    level: str | None
    environment: dict[str, Any]

    @property
    def median(self) -> float:
        """Seconds."""
        return self.seconds["50"]

    @property
    def elements(self) -> int:
        """How many elements the shape has."""
        return math.prod(self.shape)

    @property
    def nanoseconds(self) -> float:
        """Median time an element."""
        return 1e9 * self.median / self.elements

    @property
    def job(self) -> Job:
        """What was done, whichever way."""
        return Job(self.case, self.mode, self.shape, self.dtype, self.threads)


@dataclass(frozen=True)
class Job:
    """What was done: the key under which several ways are compared."""

    case: str
    mode: str
    shape: Shape
    dtype: str
    threads: int

    def on(self, threads: int) -> Job:
        """Return the same on so many threads."""
        return dataclasses.replace(self, threads=threads)

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.case} {written(self.shape)} {SHORT[self.mode]} {self.dtype}, {threads}"


Results = dict[Job, dict[str, Record]]


def by_job(records: Iterable[Record]) -> Results:
    """Return the records by job and way; of two of the same, the later one."""
    found: Results = {}
    for record in records:
        found.setdefault(record.job, {})[record.way] = record
    return found


def to_line(record: Record) -> str:
    """Return the record as one line of JSON."""
    return json.dumps(dataclasses.asdict(record), allow_nan=False) + "\n"


def newest() -> Path:
    """Return the newest of the runs that are kept, which are named by their dates."""
    return sorted(RUNS.glob("*.jsonl"))[-1]


def read(path: Path) -> list[Record]:
    """Read JSON lines.

    Raises:
        ArgumentError: if the file cannot be read, is empty, or a line is not a measurement.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{path} cannot be read: {error}") from error
    records = list(_parse(path, text))
    if not records:
        raise ArgumentError(f"{path} holds no measurement; `python -m benchmarks --output` does")
    return records


def _parse(path: Path, text: str) -> Iterator[Record]:
    for number, line in enumerate(text.splitlines(), 1):
        try:
            fields = json.loads(line)
            yield Record(**{**fields, "shape": tuple(fields["shape"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ArgumentError(f"{path}, line {number}, is not a measurement: {error}") from error
