"""`python -m benchmarks.readme` puts what is slower in the newest run into README.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from straightthrough.report.markdown import table as table_of

from . import results, tables
from .results import Record

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- losses -->", "<!-- end of losses -->"


def updated(text: str, records: Sequence[Record]) -> str:
    """Return the text with the losses of a run between its two marks."""
    table = tables.losses(records)
    block = (
        f"{START}\n\n{table_of(table.columns, table.rows)}\n\n{tables.machine(records[-1])}\n{END}"
    )
    return re.sub(f"{START}.*{END}", lambda _: block, text, flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(updated(README.read_text("utf-8"), results.read(results.newest())), "utf-8")
