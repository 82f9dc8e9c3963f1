"""`python -m benchmarks.readme` puts what is slower in the newest run into README.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from straightthrough.report.markdown import table as table_of

from . import cases, results, shapes, tables
from .results import Job, Record

README = Path(__file__).parent.parent / "README.md"
CASE = Job("categorical-reinmax", cases.BOTH, shapes.MAIN, "float32", 1)
START, END = "<!-- losses -->", "<!-- end of losses -->"


def updated(text: str, records: Sequence[Record]) -> str:
    """Return the text with a run's losses between its two marks, and its two numbers."""
    ways = results.by_job(records)[CASE]
    ours, plain = ways[cases.OURS], ways[cases.PLAIN]
    held, theirs = (f"{(way.extra_bytes or 0) / way.elements:.0f}" for way in (ours, plain))
    text = re.sub(r"\*\*\d+ times\*\*", f"**{plain.median / ours.median:.0f} times**", text)
    text = re.sub(r"\*\*\d+ bytes\*\*(.*) \d+ \|", rf"**{held} bytes**\1 {theirs} |", text)
    table = tables.losses(records)
    counted = {works: row for works, *row in tables.summary(records).rows}
    faster, slower, median, _ = counted[f"{cases.SHORT[CASE.mode]}, {tables.on_threads(1)}"]
    parts = [
        START,
        f"Forward and backward on one thread, {faster} of {int(faster) + int(slower)} works are "
        f"faster, the median {median} times. Slower in either, on any number of threads:",
        table_of(table.columns, table.rows),
        tables.machine(records[-1]),
        END,
    ]
    return re.sub(f"{START}.*{END}", lambda _: "\n\n".join(parts), text, flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(updated(README.read_text("utf-8"), results.read(results.newest())), "utf-8")
