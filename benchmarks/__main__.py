"""`python -m benchmarks`: every operator against plain torch, timed in one run."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Annotated, Any

import torch
import typer

from straightthrough.cli.console import (
    Json,
    inform,
    names,
    print_json,
    print_table,
    run,
    writable,
)
from straightthrough.cli.progress import live
from straightthrough.core.errors import ArgumentError
from straightthrough.report import Table

from . import cases, compare, results, suite, tables, targets
from .cases import Case
from .results import Record
from .shapes import Shape

QUICK: tuple[Shape, ...] = ((32, 10), (256, 1000))
QUICK_BUDGET = 0.1


def main(
    operators: Annotated[
        str | None, typer.Option(help="Comma-separated names of operators or cases. Default: all.")
    ] = None,
    shapes: Annotated[
        str | None,
        typer.Option(help="Comma-separated, such as 32x10,4096x1000.", metavar="LIST"),
    ] = None,
    threads: Annotated[
        str | None, typer.Option(help="Comma-separated. Default: 1 and all.", metavar="LIST")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Under a minute: no torch.compile, no memory.")
    ] = False,
    only_targets: Annotated[
        bool, typer.Option("--targets", help="Only what the kernels are meant to reach.")
    ] = False,
    only_losses: Annotated[
        bool, typer.Option("--losses", help="Only where ours is slower than plain torch.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="File for JSON lines; .md and .png go beside it.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--input", help="Measure nothing; read this file instead.")
    ] = None,
    files: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare",
            help="Measure nothing; fail if a ratio to plain torch grew by over 15 percent.",
            metavar="OLD NEW",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Time every operator against plain torch, after a check that it is right.

    An operator whose value or gradient is wrong is not timed, and the command fails.
    """
    measuring = any((operators, shapes, threads, quick, output))
    if only_losses and only_targets:
        raise ArgumentError("--losses and --targets exclude each other")
    if files and (measuring or source or only_targets or only_losses):
        raise ArgumentError("--compare measures nothing; it goes with --json alone")
    if files:
        return _compare(*files, json)
    if source and measuring:
        raise ArgumentError(
            "--input measures nothing; it goes with --targets, --losses and --json alone"
        )
    shown = "targets" if only_targets else "losses" if only_losses else "all"
    if source:
        return _show(results.read(source), shown, json)
    every = cases.cases()
    chosen = suite.select(every, names(operators)) if operators else every
    plan = _plan(shapes, threads, quick)
    jobs = plan.target_jobs(chosen) if only_targets else plan.jobs(chosen.values())
    if not jobs:
        raise ArgumentError(f"no target is about {operators}")
    records, complete = _measure(chosen, jobs, plan, output)
    if records:
        _show(records, shown, json)
    if records and output:
        inform(f"written: {', '.join(map(str, [output, *tables.write(records, output)]))}")
    if not complete:
        raise typer.Exit(1)
    return None


def _plan(shapes: str | None, threads: str | None, quick: bool) -> suite.Plan:
    every = torch.get_num_threads()
    plan = suite.Plan(
        threads=_threads(threads) if threads else sorted({1, every}),
        shapes=_shapes(shapes) if shapes else None,
    )
    if not quick:
        return plan
    return dataclasses.replace(
        plan,
        threads=plan.threads if threads else [every],
        usual=QUICK,
        budget=QUICK_BUDGET,
        memory=False,
        compiled=False,
    )


def _shapes(text: str) -> Sequence[Shape]:
    found = []
    for part in names(text):
        sizes = part.split("x")
        if len(sizes) != 2 or not all(size.isdecimal() and int(size) > 1 for size in sizes):
            raise ArgumentError(f"shapes must be such as 32x10,4096x1000, above 1, got {part!r}")
        found.append((int(sizes[0]), int(sizes[1])))
    return found


def _threads(text: str) -> list[int]:
    parts = names(text)
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ArgumentError(f"threads must be such as 1,2,4, above 0, got {text!r}")
    return sorted({int(part) for part in parts})


def _measure(
    chosen: dict[str, Case], jobs: suite.Jobs, plan: suite.Plan, output: Path | None
) -> tuple[list[Record], bool]:
    """Check, then measure; return the records, and whether nothing failed nor was interrupted."""
    lines = _open(output) if output else None
    for peer in cases.missing_peers():
        inform(f"{peer} is not installed: left out")
    records: list[Record] = []
    try:
        with live() as notify:
            wrong = suite.check(chosen, jobs, notify)
            jobs = {job: ways for job, ways in jobs.items() if job.case not in wrong}
            for record in suite.run(chosen, jobs, plan, notify, inform):
                records.append(record)
                if lines:
                    lines.write(results.to_line(record))
                    lines.flush()
    except KeyboardInterrupt:
        inform("interrupted: what was measured until then is kept")
        return records, False
    finally:
        if lines:
            lines.close()
    for name, reason in wrong.items():
        inform(f"{name} is wrong and left out: {' '.join(reason.split())}")
    return records, not wrong


def _open(output: Path) -> IO[str]:
    writable(output.parent)
    try:
        return output.open("w", encoding="utf-8")
    except OSError as error:
        raise ArgumentError(f"cannot write {output}: {error.strerror}") from error


def _show(records: Sequence[Record], what: str, json: bool) -> None:
    losses = tables.losses(records)
    if json:
        found = {
            "targets": lambda: _verdicts(records),
            "losses": lambda: [dict(zip(losses.columns, row, strict=True)) for row in losses.rows],
            "all": lambda: list(map(dataclasses.asdict, records)),
        }
        print_json(found[what]())
        return
    shown = {
        "targets": lambda: {"Targets": tables.targets(records)},
        "losses": lambda: {"Slower than plain torch": losses},
        "all": lambda: tables.tables(records),
    }
    for title, table in shown[what]().items():
        print(f"{title}\n")
        _print(table)


def _compare(old: Path, new: Path, json: bool) -> None:
    found = compare.compare(results.read(old), results.read(new))
    regressed = [change for change in found if change.regressed]
    if json:
        print_json([_change(change) for change in found])
    else:
        _print(tables.changes(found))
        print(f"{len(regressed)} of {len(found)} regressed by over {compare.TOLERANCE:.0%}.")
    if regressed:
        raise typer.Exit(1)


def _print(table: Table) -> None:
    print_table(table.columns, table.rows, numbers=True)
    print(f"{textwrap.fill(table.note, 100)}\n")


def _verdicts(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [
        {
            "work": verdict.target.work,
            "target": verdict.target.asked,
            "measured": verdict.values,
            "met": verdict.met,
        }
        for verdict in targets.judge(records)
    ]


def _change(change: compare.Change) -> dict[str, Any]:
    return {
        **dataclasses.asdict(change),
        "growth": change.growth,
        "regressed": change.regressed,
    }


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command()(main)

if __name__ == "__main__":
    run(app, "python -m benchmarks")
