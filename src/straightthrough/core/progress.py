"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far one run is: `done` of `total`, and a few words."""

    run: str
    done: int
    total: int
    text: str


Notify = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Take progress and show nothing."""
