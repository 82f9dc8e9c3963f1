"""`python -m benchmarks.gpu`: kernels compiled for four GPUs, and the time predicted for them.

Where there is a GPU, what calls take on it too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

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
from straightthrough.core.progress import Progress
from straightthrough.report.markdown import table

from ..shapes import written
from . import measuring
from .compiling import PIPES
from .measuring import Measurement
from .roofline import CALLS, CARDS, DTYPES, Prediction, predict

SHAPES = ((65536, 16), (65536, 64), (4096, 1000), (32, 10))
MOST_CLASSES = 8192
NOTE = (
    "Predicted, not measured. A launch takes 5 us and the longest of two: its bytes at 85 % of the "
    "card's bandwidth, the instructions of a pipe at 70 % of its rate. Of plain torch bytes and "
    "launches are counted alone."
)
MEASURED_NOTE = (
    "Microseconds of forward and backward, medians: with cold caches or, if that takes longer, one "
    "of a row of calls. Of a copy: the share of the bandwidth of a copy that ours would have if it "
    "moved the fewest bytes. Compiled: our eager time over our compiled one. Target: of the ratio "
    "of plain torch's time to ours."
)
MISSING = "–"
Row = Sequence[str]
Table = tuple[Row, list[Row]]


def main(
    calls: Annotated[
        str | None, typer.Option(help="Comma-separated parts of names. Default: all.")
    ] = None,
    shapes: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated, such as 32x10,4096x1000. Default: four, five if measured.",
            metavar="LIST",
        ),
    ] = None,
    cards: Annotated[
        str | None, typer.Option(help="Comma-separated parts of names. Default: all.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    measured: Annotated[
        bool,
        typer.Option(
            "--measured",
            help="Measure on the GPU that there is, and predict for it alone; else do nothing.",
        ),
    ] = False,
    output: Annotated[Path | None, typer.Option(help="File for the tables in Markdown.")] = None,
    json: Json = False,
) -> None:
    """Compile every kernel for GPUs, which need not be there, and predict its time on four.

    With --measured, time the calls on the GPU that there is beside what is predicted for it.
    """
    if dtype not in DTYPES:
        raise ArgumentError(f"--dtype must be {' or '.join(DTYPES)}, got {dtype!r}")
    called, asked = _chosen("--calls", calls, [*CALLS]), _chosen("--cards", cards, [*CARDS])
    given = [_shape(part) for part in names(shapes)] if shapes else None
    sizes, times = given or SHAPES, list[Measurement]()
    if measured:
        if not torch.cuda.is_available():
            inform("no GPU is found, so nothing is measured")
            return
        # Before kernels are compiled, after which Triton takes another card for the one there is.
        times = [*_measurements(called, given or measuring.SHAPES, dtype)]
        asked = [card for card in asked if card == measuring.card_of("cuda")]
        sizes = [shape for shape in sizes if shape[1] <= MOST_CLASSES]
    _check_counted(sizes)
    found = [*_predictions(called, sizes, dtype, asked)]
    tables = {NOTE: [_kernels(found), _times(found)]} if found else {}
    if times:
        tables[MEASURED_NOTE] = [_measured(times, found)]
    if output:
        _write(tables, output)
    if json:
        results: list[Prediction | Measurement] = [*found, *times]
        print_json([dataclasses.asdict(each) for each in results])
        return
    for note, shown in tables.items():
        for columns, rows in shown:
            print_table(columns, rows, numbers=True)
        print(note)


def _write(tables: dict[str, list[Table]], output: Path) -> None:
    """Write tables in Markdown, each note after its own."""
    writable(output.parent)
    parts: list[str] = []
    for note, shown in tables.items():
        parts += [table(columns, rows) for columns, rows in shown]
        parts.append(note)
    output.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


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
    return int(rows), int(classes)


def _check_counted(shapes: Sequence[tuple[int, int]]) -> None:
    """Raise if the kernels of some shapes have loops."""
    for shape in shapes:
        if shape[1] > MOST_CLASSES:
            raise ArgumentError(
                f"shapes must have at most {MOST_CLASSES} classes, as the kernels of longer rows "
                f"have loops, which are not counted; got {written(shape)!r}"
            )


def _predictions(
    calls: Sequence[str], shapes: Sequence[tuple[int, int]], dtype: str, cards: Sequence[str]
) -> Iterator[Prediction]:
    work = [(call, shape, card) for card in cards for shape in shapes for call in calls]
    with live() as notify:
        for done, (call, shape, card) in enumerate(work):
            notify(Progress("compiling", done, len(work), f"{call} for the {card}"))
            yield predict(call, shape, dtype, card)
        notify(Progress("compiling", len(work), len(work), ""))


def _measurements(
    calls: Sequence[str], shapes: Sequence[tuple[int, int]], dtype: str
) -> Iterator[Measurement]:
    work = [(call, shape) for shape in shapes for call in calls]
    with live() as notify:
        for done, (call, shape) in enumerate(work):
            notify(Progress("measuring", done, len(work), f"{call} at {written(shape)}"))
            yield measuring.measure(call, shape, dtype, "cuda", inform)
        notify(Progress("measuring", len(work), len(work), ""))


def _kernels(found: Sequence[Prediction]) -> Table:
    """Return a row a kernel, shape and card: bytes and instructions are an element's."""
    columns = ("kernel", "shape", "card", "registers", "spilled", "shared", "bytes", "all", *PIPES)
    rows: dict[tuple[str, ...], None] = {}  # what is compiled alike is one
    for each in found:
        count = each.shape[0] * each.shape[1]
        for launch in each.launches:
            share = launch.lanes / count
            row = (
                *(launch.kernel, written(each.shape), each.card),
                *map(str, (launch.registers, launch.spills, launch.shared)),
                f"{launch.bytes / count:.2f}",
                f"{sum(launch.instructions.values()) * share:.1f}",
                *(f"{launch.instructions[pipe] * share:.1f}" for pipe in PIPES),
            )
            rows[row] = None
    return columns, [*rows]


def _times(found: Sequence[Prediction]) -> Table:
    """Return a row a call and shape: ours, plain torch and their ratio on every card."""
    cards = dict.fromkeys(each.card for each in found)
    rows: dict[tuple[str, str], list[str]] = {}
    for each in found:
        key = each.call, written(each.shape)
        ours, plain = 1e6 * each.seconds, 1e6 * each.plain_seconds
        rows.setdefault(key, []).append(f"{ours:.0f} / {plain:.0f} = {plain / ours:.1f}x")
    columns = ("forward + backward", "shape", *(f"{card}: ours, torch" for card in cards))
    return columns, [(*key, *cells) for key, cells in rows.items()]


def _measured(times: Sequence[Measurement], found: Sequence[Prediction]) -> Table:
    """Return a row a call and shape: what was measured beside what is predicted, and the target."""
    predicted = {(each.call, each.shape): each for each in found}
    ways = *measuring.WAYS, "ratio", "target", "compiled", "of a copy"
    rows: list[Row] = []
    for each in times:
        prediction = predicted.get((each.call, each.shape))
        rows.append(
            (
                *(each.call, written(each.shape)),
                *(_number(each.seconds[way], 1e6, "{:.0f}") for way in measuring.WAYS),
                _number(each.ratio, 1, "{:.1f}x"),
                f"{each.target:.0f}x",
                _number(each.compiled, 1, "{:.2f}x"),
                _number(each.share, 100, "{:.0f} %"),
                _number(prediction.seconds if prediction else None, 1e6, "{:.0f}"),
                _number(prediction.plain_seconds if prediction else None, 1e6, "{:.0f}"),
            )
        )
    columns = ("forward + backward", "shape", *ways, "predicted: ours", "torch")
    return columns, rows


def _number(value: float | None, unit: float, form: str) -> str:
    return MISSING if value is None else form.format(unit * value)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command()(main)

if __name__ == "__main__":
    run(app, "python -m benchmarks.gpu")
