"""A page of sections, tables and pictures, written as one HTML file."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from .charts import DARK, LIGHT, Theme


@dataclass(frozen=True)
class Table:
    """Cells as text, the first of a row naming it, and how they were measured."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str


class Page:
    """HTML that grows from top to bottom."""

    def __init__(self, title: str, lead: str, result: dict[str, Any]) -> None:
        self._title = title
        self._header = result["header"]
        self._parts = [f"<header><h1>{escape(title)}</h1><p class=lead>{escape(lead)}</p></header>"]
        if not self._header["complete"]:
            self._parts.append(
                "<p class=partial role=status><strong>Partial report.</strong> The study was "
                "interrupted; this page shows what was measured until then.</p>"
            )

    def heading(self, text: str, note: str = "") -> None:
        """Start a section."""
        self._parts.append(f"<h2>{escape(text)}</h2>")
        if note:
            self._parts.append(f"<p>{escape(note)}</p>")

    def table(self, table: Table) -> None:
        """Add a table with its note."""
        head = "".join(f"<th scope=col>{escape(name)}</th>" for name in table.columns)
        body = "".join(
            f"<tr><th scope=row>{escape(row[0])}</th>"
            + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
            + "</tr>"
            for row in table.rows
        )
        self._parts.append(
            f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"</div><p class=note>{escape(table.note)}</p>"
        )

    def chart(self, draw: Callable[[Theme], bytes], description: str) -> None:
        """Add a chart that follows the reader's choice of light or dark."""
        self._parts.append(
            f"<picture><source media='(prefers-color-scheme: dark)' srcset='{_url(draw(DARK))}'>"
            f"<img class=chart src='{_url(draw(LIGHT))}' alt='{escape(description)}'></picture>"
        )

    def pictures(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Add pixel pictures side by side, each with its caption."""
        figures = "".join(
            f"<figure><img class=pixels src='{_url(png)}' alt='{escape(caption)}'>"
            f"<figcaption>{escape(caption)}</figcaption></figure>"
            for caption, png in items
        )
        self._parts.append(f"<div class=pictures>{figures}</div>")

    def close(self, settings: dict[str, Any]) -> str:
        """Add how the page was made, and return it whole."""
        environment = self._header["environment"]
        facts = {
            "Started": self._header["started"],
            "Time": f"{self._header['seconds']:.1f} s",
            **{
                key.capitalize(): _plain(value)
                for key, value in {**settings, **environment}.items()
                if value is not None
            },
        }
        items = "".join(
            f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items()
        )
        self._parts.append(
            f"<h2>How this was made</h2><pre><code>{escape(self._header['command'])}</code></pre>"
            f"<dl>{items}</dl>"
        )
        style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
        return (
            "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
            "<meta name=viewport content='width=device-width, initial-scale=1'>"
            "<meta name=color-scheme content='light dark'>"
            f"<title>{escape(self._title)}</title><style>{style}</style></head>\n"
            "<body><main>\n" + "\n".join(self._parts) + "\n</main></body></html>\n"
        )


def _url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
