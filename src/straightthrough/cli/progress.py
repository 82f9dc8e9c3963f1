"""The live display of long work, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from ..core.progress import Notify, Progress


@contextmanager
def live() -> Iterator[Notify]:
    """Give what turns progress into one bar a run; the first starts the display."""
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[text]}"),
        console=Console(stderr=True),
    )
    tasks: dict[str, TaskID] = {}

    def notify(progress: Progress) -> None:
        bars.start()
        if progress.run not in tasks:
            tasks[progress.run] = bars.add_task(progress.run, total=progress.total, text="")
        bars.update(tasks[progress.run], completed=progress.done, text=progress.text)

    try:
        yield notify
    finally:
        if bars.tasks:
            bars.stop()
