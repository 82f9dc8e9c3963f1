"""A page as Markdown, its pictures in files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .charts import LIGHT
from .page import Chart, Heading, Origin, Page, Pictures, Table, unbroken


def write(page: Page, path: Path) -> None:
    """Write the page's parts, without title and lead, to `path`, and its pictures beside it."""
    drawn: list[bytes] = []

    def picture(description: str, png: bytes) -> str:
        drawn.append(png)
        file = path.with_name(f"{path.stem}-{len(drawn)}.png")
        file.write_bytes(png)
        return f"![{description}]({file.name})"

    lines = [] if page.complete else ["**Partial report.** The study was interrupted."]
    for part in page.parts:
        match part:
            case Heading(text, note):
                lines += [f"## {text}", note]
            case Table(columns, rows, note):
                lines += [table(columns, rows), note]
            case Chart(draw, description):
                lines.append(picture(description, draw(LIGHT)))
            case Pictures(items):
                lines += [f"{picture(caption, png)}\n{caption}" for caption, png in items]
            case Origin(command, facts):
                lines += [f"```text\n{command}\n```", table(["", ""], list(facts.items()))]
    path.write_text("\n\n".join(line for line in lines if line) + "\n", encoding="utf-8")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, with the bars inside its cells escaped, and errors kept in line."""
    escaped = [[unbroken(cell.replace("|", r"\|")) for cell in row] for row in (columns, *rows)]
    escaped.insert(1, ["---"] * len(columns))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in escaped)
