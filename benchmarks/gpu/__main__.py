"""`python -m benchmarks.gpu`: kernels compiled for four GPUs, and the time predicted for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from straightthrough.cli.console import Json, names, print_json, print_table, run, writable
from straightthrough.cli.progress import live
from straightthrough.core.errors import ArgumentError
from straightthrough.core.progress import Progress
from straightthrough.report.markdown import table

from .compiling import PIPES
from .roofline import CALLS, CARDS, DTYPES, Prediction, predict

SHAPES = "65536x16,65536x64,4096x1000,32x10"
MOST_CLASSES = 8192
NOTE = (
    "Predicted, not measured. A launch takes 5 us and the longest of two: its bytes at 85 % of the "
    "card's bandwidth, the instructions of a pipe at 70 % of its rate. Of plain torch bytes and "
    "launches are counted alone."
)
Row = Sequence[str]


def main(
    calls: Annotated[
        str | None, typer.Option(help="Comma-separated parts of names. Default: all.")
    ] = None,
    shapes: Annotated[
        str, typer.Option(help="Comma-separated, such as 32x10,4096x1000.", metavar="LIST")
    ] = SHAPES,
    cards: Annotated[
        str | None, typer.Option(help="Comma-separated parts of names. Default: all.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    output: Annotated[Path | None, typer.Option(help="File for the tables in Markdown.")] = None,
    json: Json = False,
) -> None:
    """Compile every kernel for GPUs, which need not be there, and predict its time on four."""
    if dtype not in DTYPES:
        raise ArgumentError(f"--dtype must be {' or '.join(DTYPES)}, got {dtype!r}")
    called, asked = _chosen("--calls", calls, [*CALLS]), _chosen("--cards", cards, [*CARDS])
    found = [*_predictions(called, [_shape(part) for part in names(shapes)], dtype, asked)]
    tables = {"Kernels": _kernels(found), "Predicted microseconds": _times(found)}
    if output:
        writable(output.parent)
        parts = [table(columns, rows) for columns, rows in tables.values()]
        output.write_text("\n\n".join([*parts, NOTE]) + "\n", encoding="utf-8")
    if json:
        print_json([dataclasses.asdict(each) for each in found])
        return
    for columns, rows in tables.values():
        print_table(columns, rows, numbers=True)
    print(NOTE)


def _chosen(option: str, text: str | None, every: Sequence[str]) -> list[str]:
    parts = names(text) if text else [""]
    found = [name for name in every if any(part in name for part in parts)]
    if not found:
        raise ArgumentError(f"{option} must be part of one of {'; '.join(every)}; got {text!r}")
    return found


def _shape(text: str) -> tuple[int, int]:
    rows, _, classes = text.partition("x")
    if not (rows.isdecimal() and classes.isdecimal() and int(rows) and int(classes)):
        raise ArgumentError(f"shapes must be such as 32x10,4096x1000, got {text!r}")
    if int(classes) > MOST_CLASSES:
        raise ArgumentError(
            f"shapes must have at most {MOST_CLASSES} classes, as the kernels of longer rows have "
            f"loops, which are not counted; got {text!r}"
        )
    return int(rows), int(classes)


def _predictions(
    calls: Sequence[str], shapes: Sequence[tuple[int, int]], dtype: str, cards: Sequence[str]
) -> Iterator[Prediction]:
    work = [(call, shape, card) for card in cards for shape in shapes for call in calls]
    with live() as notify:
        for done, (call, shape, card) in enumerate(work):
            notify(Progress("compiling", done, len(work), f"{call} for the {card}"))
            yield predict(call, shape, dtype, card)
        notify(Progress("compiling", len(work), len(work), ""))


def _kernels(found: Sequence[Prediction]) -> tuple[Row, list[Row]]:
    """Return a row a kernel, shape and card: bytes and instructions are an element's."""
    columns = ("kernel", "shape", "card", "registers", "spilled", "shared", "bytes", "all", *PIPES)
    rows: dict[tuple[str, ...], None] = {}  # what is compiled alike is one
    for each in found:
        count = each.shape[0] * each.shape[1]
        for launch in each.launches:
            share = launch.lanes / count
            row = (
                *(launch.kernel, "x".join(map(str, each.shape)), each.card),
                *map(str, (launch.registers, launch.spills, launch.shared)),
                f"{launch.bytes / count:.2f}",
                f"{sum(launch.instructions.values()) * share:.1f}",
                *(f"{launch.instructions[pipe] * share:.1f}" for pipe in PIPES),
            )
            rows[row] = None
    return columns, [*rows]


def _times(found: Sequence[Prediction]) -> tuple[Row, list[Row]]:
    """Return a row a call and shape: ours, plain torch and their ratio on every card."""
    cards = dict.fromkeys(each.card for each in found)
    rows: dict[tuple[str, str], list[str]] = {}
    for each in found:
        key = each.call, "x".join(map(str, each.shape))
        ours, plain = 1e6 * each.seconds, 1e6 * each.plain_seconds
        rows.setdefault(key, []).append(f"{ours:.0f} / {plain:.0f} = {plain / ours:.1f}x")
    columns = ("forward + backward", "shape", *(f"{card}: ours, torch" for card in cards))
    return columns, [(*key, *cells) for key, cells in rows.items()]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command()(main)

if __name__ == "__main__":
    run(app, "python -m benchmarks.gpu")
