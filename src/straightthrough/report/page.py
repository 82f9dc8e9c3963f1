"""What a page says: sections, tables, charts and pictures, in order, without their dress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .charts import Theme


@dataclass(frozen=True)
class Heading:
    """The start of a section, and what is said under it."""

    text: str
    note: str


@dataclass(frozen=True)
class Table:
    """Cells as text, the first of a row naming it, and how they were measured."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str


def unbroken(cell: str) -> str:
    """Return a cell whose numbers keep their errors on the same line."""
    return cell.replace(" ± ", "\u00a0±\u00a0")


@dataclass(frozen=True)
class Chart:
    """A chart in any dress, and what it shows in words."""

    draw: Callable[[Theme], bytes]
    description: str


@dataclass(frozen=True)
class Pictures:
    """Pixel pictures side by side, each with its caption."""

    items: Sequence[tuple[str, bytes]]


@dataclass(frozen=True)
class Origin:
    """The command that a result was made by, and everything else it was made with."""

    command: str
    facts: dict[str, str]


Part = Heading | Table | Chart | Pictures | Origin


class Page:
    """Parts that grow from top to bottom."""

    def __init__(self, title: str, lead: str, result: dict[str, Any]) -> None:
        self.title, self.lead = title, lead
        self.parts: list[Part] = []
        self._header = result["header"]

    @property
    def complete(self) -> bool:
        """Whether the study ran to its end."""
        return bool(self._header["complete"])

    def heading(self, text: str, note: str = "") -> None:
        """Start a section."""
        self.parts.append(Heading(text, note))

    def table(self, table: Table) -> None:
        """Add a table with its note."""
        self.parts.append(table)

    def chart(self, draw: Callable[[Theme], bytes], description: str) -> None:
        """Add a chart."""
        self.parts.append(Chart(draw, description))

    def pictures(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Add pixel pictures side by side, each with its caption."""
        self.parts.append(Pictures(items))

    def close(self, settings: dict[str, Any]) -> Page:
        """Add how the result was made, and return the page whole."""
        known = {**settings, **self._header["environment"]}
        facts = {
            "Started": self._header["started"],
            "Time": f"{self._header['seconds']:.1f} s",
            **{_title(key): _plain(v) for key, v in known.items() if v not in (None, [])},
        }
        self.heading("How this was made")
        self.parts.append(Origin(self._header["command"], facts))
        return self


def _title(key: str) -> str:
    return key.replace("_", " ").capitalize()


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
