"""`straightthrough audit MODULE:FUNCTION`: which estimator suits a loss of the user's own."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..audit import advise
from ..audit.advise.page import tables
from ..estimators import CategoricalEstimator
from ..studies.record import Header, recording, to_json
from . import pages
from .console import Failure, print_json, print_table, writable
from .progress import live
from .target import blaming, load


@dataclass(frozen=True)
class Settings:
    """What `st.audit.advise` is asked."""

    loss: str
    budget: float
    batch: int
    seed: int
    rescale: bool
    limit: int


@dataclass(frozen=True)
class Result:
    """What the page is made of."""

    header: Header
    settings: Settings
    advice: dict[str, Any]


def run(
    settings: Settings,
    estimators: Callable[[], Sequence[CategoricalEstimator | str]] | None,
    output: Path,
    json: bool,
) -> None:
    """Race the candidates with a live display, then print and write what came of it.

    `estimators` is asked once the user's module is there, which may register rules of its own.
    """
    folder = writable(output)
    header = Header("audit")
    loss, logits = load(settings.loss)
    rules = None if estimators is None else estimators()
    advice = None
    with recording(header), blaming(settings.loss), live() as notify:
        advice = advise(
            loss,
            logits,
            budget=settings.budget,
            batch=settings.batch,
            estimators=rules,
            seed=settings.seed,
            rescale=settings.rescale,
            limit=settings.limit,
            notify=notify,
        )
    if advice is None:
        raise Failure("interrupted before anything was measured")
    header.complete = advice.complete
    result = to_json(Result(header, settings, advice.record()))
    page = pages.write(result, folder)
    _show(result, page, json)
    if not header.complete:
        raise Failure(f"interrupted: the report is partial, {page}")


def _show(result: dict[str, Any], page: Path, json: bool) -> None:
    if json:
        print_json(result)
        return
    for table in tables(result):
        print_table(table.columns, table.rows, numbers=True)
        print(f"{textwrap.fill(table.note, 100)}\n")
    print(f"{textwrap.fill(result['advice']['verdict'], 100)}\n\nReport: {page}")
