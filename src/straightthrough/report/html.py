"""A page as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from html import escape
from importlib.resources import files

from .charts import DARK, LIGHT
from .page import Chart, Heading, Origin, Page, Part, Pictures, Table, unbroken

PARTIAL = (
    "<p class=partial role=status><strong>Partial report.</strong> The study was "
    "interrupted; this page shows what was measured until then.</p>"
)


def render(page: Page) -> str:
    """Return the page; its charts follow the reader's choice of light or dark."""
    title, lead = escape(page.title), escape(page.lead)
    parts = [f"<header><h1>{title}</h1><p class=lead>{lead}</p></header>"]
    if not page.complete:
        parts.append(PARTIAL)
    parts += [_part(part) for part in page.parts]
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        "<meta name=color-scheme content='light dark'>"
        f"<title>{title}</title><style>{style}</style></head>\n"
        "<body><main>\n" + "\n".join(parts) + "\n</main></body></html>\n"
    )


def _part(part: Part) -> str:
    match part:
        case Heading(text, note):
            below = f"\n<p>{escape(note)}</p>" if note else ""
            return f"<h2>{escape(text)}</h2>{below}"
        case Table():
            return _table(part)
        case Chart(draw, description):
            return (
                f"<picture><source media='(prefers-color-scheme: dark)' "
                f"srcset='{_url(draw(DARK))}'><img class=chart src='{_url(draw(LIGHT))}' "
                f"alt='{escape(description)}'></picture>"
            )
        case Pictures(items):
            figures = "".join(
                f"<figure><img class=pixels src='{_url(png)}' alt='{escape(caption)}'>"
                f"<figcaption>{escape(caption)}</figcaption></figure>"
                for caption, png in items
            )
            return f"<div class=pictures>{figures}</div>"
        case Origin(command, facts):
            entries = "".join(
                f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items()
            )
            return f"<pre><code>{escape(command)}</code></pre><dl>{entries}</dl>"


def _table(table: Table) -> str:
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in table.columns)
    body = "".join(
        f"<tr><th scope=row>{escape(row[0])}</th>"
        + "".join(f"<td>{escape(unbroken(cell))}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    note = f"<p class=note>{escape(table.note)}</p>" if table.note else ""
    return (
        f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"</div>{note}"
    )


def _url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
