"""Measurements in, Markdown tables and pictures out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..report import charts
from ..report.charts import LIGHT
from ..report.page import Table
from .cases import BOTH, COMPILED, MAIN, OURS, PLAIN, REFERENCE, Shape
from .compare import Change
from .results import Job, Record, Results, by_job
from .targets import judge

WAYS = (OURS, REFERENCE, PLAIN, COMPILED)
"""Ways with a column each; the others, which few cases have, share the last one."""

NOTE = (
    "Times in ns an element: medians of one run in which the ways take turns. Ratio: the time of "
    "plain torch over ours, both in this run; also: the time of another way over ours. Bytes an "
    "element: the peak of what torch's allocator holds beyond inputs and incoming gradient."
)
TARGETS_NOTE = (
    "From medians of interleaved rounds; met if so on every number of threads. Memory is measured "
    "on one."
)
CHANGES_NOTE = "Our time over that of plain torch in the same run: medians of interleaved rounds."
VERDICTS = {True: "met", False: "missed", None: "not measured"}
MISSING = "–"


def tables(records: Sequence[Record]) -> dict[int, Table]:
    """Return one table for each number of threads."""
    results = by_job(records)
    return {count: _table(results, count) for count in sorted({job.threads for job in results})}


def _table(results: Results, threads: int) -> Table:
    columns = ["Case", "Shape", "Mode", *WAYS, "ratio", "bytes: ours", "plain torch"]
    if threads > 1:
        columns[-2:] = ["x 1 thread"]
    rows = []
    for job, ways in results.items():
        if job.threads != threads:
            continue
        times = [_number(ways[way].nanoseconds if way in ways else None) for way in WAYS]
        last = [_scaling(results, job)] if threads > 1 else _bytes(ways)
        also = ", ".join(
            f"{name} {_number(record.median / ways[OURS].median)}"
            for name, record in ways.items()
            if name not in WAYS and OURS in ways
        )
        rows.append([job.case, shape_text(job.shape), job.mode, *times, _ratio(ways), *last, also])
    return Table([*columns, "also"], rows, NOTE)


def _bytes(ways: dict[str, Record]) -> list[str]:
    found = []
    for way in (OURS, PLAIN):
        extra = ways[way].extra_bytes if way in ways else None
        elements = ways[way].elements if way in ways else 1
        found.append(MISSING if extra is None else f"{extra / elements:.1f}")
    return found


def _scaling(results: Results, job: Job) -> str:
    alone = results.get(job.alone, {}).get(OURS)
    here = results[job].get(OURS)
    return _number(alone.median / here.median if alone and here else None)


def _ratio(ways: dict[str, Record]) -> str:
    return _number(_speedup(ways))


def _speedup(ways: dict[str, Record]) -> float | None:
    return ways[PLAIN].median / ways[OURS].median if {OURS, PLAIN} <= set(ways) else None


def _number(value: float | None) -> str:
    """Return three digits."""
    if value is None:
        return MISSING
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def shape_text(shape: Shape) -> str:
    """Return `4096x1000`, which `--shapes` takes too."""
    return "x".join(map(str, shape))


def targets(records: Sequence[Record]) -> Table:
    """Return each target with what was measured on every number of threads."""
    counts = sorted({record.threads for record in records})
    rows = [
        [
            verdict.target.work,
            verdict.target.asked,
            *(_number(verdict.values.get(count)) for count in counts),
            VERDICTS[verdict.met],
        ]
        for verdict in judge(records)
    ]
    return Table(["Work", "Target", *map(on_threads, counts), ""], rows, TARGETS_NOTE)


def on_threads(count: int) -> str:
    """Return `1 thread` or `2 threads`."""
    return f"{count} thread{'s' * (count > 1)}"


def changes(found: Sequence[Change]) -> Table:
    """Return what changed between two runs."""
    rows = [
        [
            str(change.job),
            f"{change.old:.3g}",
            f"{change.new:.3g}",
            f"{100 * change.growth:+.0f} %",
            "regressed" if change.regressed else "",
        ]
        for change in found
    ]
    return Table(["Work", "Old", "New", "Change", ""], rows, CHANGES_NOTE)


def pictures(records: Sequence[Record]) -> dict[str, bytes]:
    """Return the pictures as PNG, by a name: `time` an element by way, `ratio` by shape."""
    results = by_job(records)
    threads = max(job.threads for job in results)
    chosen = {
        job: ways for job, ways in results.items() if (job.mode, job.threads) == (BOTH, threads)
    }
    shapes = list(dict.fromkeys(job.shape for job in chosen))
    shown = MAIN if MAIN in shapes else shapes[-1]
    at_shape = {job.case: ways for job, ways in chosen.items() if job.shape == shown}
    times = {
        way: [ways[way].nanoseconds if way in ways else None for ways in at_shape.values()]
        for way in WAYS
    }
    work = f"{BOTH}, {on_threads(threads)}"
    x = f"ns an element at {shape_text(shown)}, {work}"
    cases = list(dict.fromkeys(job.case for job in chosen))
    ratios: dict[str, list[float | None]] = {}
    for shape in shapes:
        by_case = {job.case: _speedup(ways) for job, ways in chosen.items() if job.shape == shape}
        ratios[shape_text(shape)] = [by_case.get(case) for case in cases]
    return {
        "time": charts.dots(list(at_shape), times, x, LIGHT),
        "ratio": charts.dots(cases, ratios, f"times as fast as {PLAIN}, {work}", LIGHT),
    }


def markdown(records: Sequence[Record], pictures: str) -> str:
    """Return the tables and links to the pictures, which lie at `pictures` with `{}` their name."""
    parts = [_machine(records[-1])]
    parts += [f"![{name}]({pictures.format(name)})" for name in ("time", "ratio")]
    parts += ["## Targets", _markdown(targets(records))]
    for count, table in tables(records).items():
        parts += [f"## On {on_threads(count)}", _markdown(table)]
    return "\n\n".join(parts) + "\n"


def _machine(record: Record) -> str:
    facts = record.environment
    served = f"{record.level} kernels" if record.level else "no kernels"
    return (
        f"{facts['processor']} ({facts['processors']} processors), {facts['system']}, Python "
        f"{facts['python']}, torch {facts['torch']}, straightthrough {facts['straightthrough']}, "
        f"{served}, {record.dtype}."
    )


def _markdown(table: Table) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{table.note}"


def write(records: Sequence[Record], output: Path) -> list[Path]:
    """Write a Markdown page and its pictures beside the JSON lines `output`."""
    page = output.with_suffix(".md")
    page.write_text(markdown(records, f"{output.stem}-{{}}.png"), encoding="utf-8")
    files = [page]
    for name, png in pictures(records).items():
        files.append(output.with_name(f"{output.stem}-{name}.png"))
        files[-1].write_bytes(png)
    return files
