"""Measurements in, Markdown tables and pictures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from straightthrough.report import charts
from straightthrough.report.charts import LIGHT
from straightthrough.report.markdown import table as table_of
from straightthrough.report.page import Table

from .cases import BOTH, COMPILED, FORWARD, OURS, PLAIN, REFERENCE, SHORT
from .compare import Change
from .results import Job, Record, Results, by_job
from .shapes import MAIN, Shape, written
from .targets import judge

WAYS = (OURS, REFERENCE, PLAIN, COMPILED)
"""Ways with a column each; the others, which few cases have, are in a table of their own."""

NOTE = (
    "Medians of one run in which the ways take turns, in ns an element. Ratio: the time of plain "
    "torch over ours. Scaling: our time on one thread over ours here. Bytes an element: the peak "
    "of what torch's allocator holds beyond the inputs and the incoming gradient, ours / plain "
    "torch."
)
OTHERS_NOTE = "Ratio: their time over ours, in the same run."
TARGETS_NOTE = (
    "From medians of interleaved rounds; met if so on every number of threads. Memory is measured "
    "on one."
)
SUMMARY_NOTE = "Of works that plain torch does too. Ratio: the time of plain torch over ours."
LOSSES_NOTE = (
    "The time of plain torch over ours, in one run in which both take turns, where it is below 1 "
    "on any number of threads. A rule that averages over draws is held against a single draw."
)
CHANGES_NOTE = "Our time over that of plain torch in the same run: medians of interleaved rounds."
VERDICTS = {True: "met", False: "missed", None: "not measured"}
MISSING = "–"


def tables(records: Sequence[Record]) -> dict[str, Table]:
    """Return, by title, a table for each number of threads, and those of the other ways."""
    results = by_job(records)
    found = {}
    for count in sorted({job.threads for job in results}):
        here = {job: ways for job, ways in results.items() if job.threads == count}
        found[f"On {on_threads(count)}"] = _table(here, results)
        others = _others(here)
        if others.rows:
            found[f"Against others, on {on_threads(count)}"] = others
    return found


def _table(here: Results, everywhere: Results) -> Table:
    columns = ["Case", "Shape", "Mode", *WAYS, "Ratio", "Scaling", "Bytes"]
    rows = []
    for job, ways in here.items():
        times = [_number(ways[way].nanoseconds if way in ways else None) for way in WAYS]
        alone = everywhere.get(job.on(1), {})
        scaling = _ratio(alone.get(OURS), ways.get(OURS)) if job.threads > 1 else None
        ratio = _ratio(ways.get(PLAIN), ways.get(OURS))
        rows.append([*_names(job), *times, _number(ratio), _number(scaling), _bytes(ways)])
    return _without_empty_columns(Table(columns, rows, NOTE))


def _others(here: Results) -> Table:
    rows = [
        [*_names(job), way, _number(record.nanoseconds), _number(_ratio(record, ways.get(OURS)))]
        for job, ways in here.items()
        for way, record in ways.items()
        if way not in WAYS
    ]
    return Table(["Case", "Shape", "Mode", "Other", "Its time", "Ratio"], rows, OTHERS_NOTE)


def _names(job: Job) -> list[str]:
    return [job.case, written(job.shape), SHORT[job.mode]]


def _without_empty_columns(table: Table) -> Table:
    kept = [i for i in range(len(table.columns)) if any(row[i] != MISSING for row in table.rows)]
    rows = [[row[i] for i in kept] for row in table.rows]
    return Table([table.columns[i] for i in kept], rows, table.note)


def _bytes(ways: dict[str, Record]) -> str:
    found = [
        record.extra_bytes / record.elements
        for record in (ways.get(OURS), ways.get(PLAIN))
        if record is not None and record.extra_bytes is not None
    ]
    return " / ".join(f"{value:.1f}" for value in found) or MISSING


def _ratio(other: Record | None, ours: Record | None) -> float | None:
    return other.median / ours.median if other and ours else None


def _number(value: float | None) -> str:
    """Return three digits."""
    if value is None:
        return MISSING
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


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


def summary(records: Sequence[Record]) -> Table:
    """Return how many works are faster than in plain torch, and how many slower."""
    results = by_job(records)
    rows = []
    for count, mode in sorted({(job.threads, job.mode) for job in results}):
        ratios = {
            f"{job.case} {written(job.shape)}": ratio
            for job, ways in results.items()
            if (job.threads, job.mode) == (count, mode)
            and (ratio := _ratio(ways.get(PLAIN), ways.get(OURS)))
        }
        if not ratios:
            continue
        best = max(ratios, key=lambda work: ratios[work])
        faster = sum(ratio >= 1 for ratio in ratios.values())
        found = [faster, len(ratios) - faster, _number(median(ratios.values()))]
        most = f"{_number(ratios[best])} ({best})"
        rows.append([f"{SHORT[mode]}, {on_threads(count)}", *map(str, found), most])
    return Table(["Works", "faster", "slower", "Median ratio", "Largest"], rows, SUMMARY_NOTE)


def losses(records: Sequence[Record]) -> Table:
    """Return the works in which ours is slower than plain torch, the slowest first."""
    results = by_job(records)
    columns = sorted({(job.threads, job.mode) for job in results})
    found: dict[tuple[str, Shape], dict[tuple[int, str], float]] = {}
    for job, ways in results.items():
        ratio = _ratio(ways.get(PLAIN), ways.get(OURS))
        if ratio is not None:
            found.setdefault((job.case, job.shape), {})[job.threads, job.mode] = ratio
    slower = [work for work, ratios in found.items() if min(ratios.values()) < 1]
    rows = [
        [case, written(shape), *(_number(found[case, shape].get(column)) for column in columns)]
        for case, shape in sorted(slower, key=lambda work: min(found[work].values()))
    ]
    titles = [f"{SHORT[mode]}, {on_threads(count)}" for count, mode in columns]
    return Table(["Case", "Shape", *titles], rows, LOSSES_NOTE)


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
    """Return the pictures as PNG by name.

    `time` an element by way and `scaling` with the threads at the main shape, `ratio` by shape. All
    show forward and backward together if anything does; time and ratio on the most threads.
    """
    mode = BOTH if any(record.mode == BOTH for record in records) else FORWARD
    results = by_job(record for record in records if record.mode == mode)
    counts = sorted({job.threads for job in results})
    most = {job: ways for job, ways in results.items() if job.threads == counts[-1]}
    shapes = list(dict.fromkeys(job.shape for job in most))
    main = MAIN if MAIN in shapes else shapes[-1]
    at_main = {job: ways for job, ways in results.items() if job.shape == main}
    work = f"{mode}, {on_threads(counts[-1])}"
    found = {
        "time": _time(most, main, f"ns an element at {written(main)}, {work}"),
        "ratio": _ratios(most, shapes, f"times as fast as {PLAIN}, {work}"),
    }
    if counts[0] == 1 < counts[-1]:
        label = f"times as fast as on one thread at {written(main)}, {mode}"
        found["scaling"] = _scaling(at_main, counts[1:], label)
    return found


def _time(results: Results, shape: Shape, label: str) -> bytes:
    here = {job.case: ways for job, ways in results.items() if job.shape == shape}
    series = {
        way: [ways[way].nanoseconds if way in ways else None for ways in here.values()]
        for way in WAYS
        if any(way in ways for ways in here.values())
    }
    return charts.dots(list(here), series, label, LIGHT)


def _ratios(results: Results, shapes: Sequence[Shape], label: str) -> bytes:
    ratios = {
        (job.case, job.shape): _ratio(ways.get(PLAIN), ways.get(OURS))
        for job, ways in results.items()
    }
    cases = list(dict.fromkeys(case for case, _ in ratios))
    series = {written(shape): [ratios.get((case, shape)) for case in cases] for shape in shapes}
    return charts.dots(cases, series, label, LIGHT)


def _scaling(results: Results, counts: Sequence[int], label: str) -> bytes:
    """Draw ours on every number of threads, and plain torch on the most beside it."""
    alone = [job for job in results if job.threads == 1]
    series = {
        f"{way} on {count}": [
            _ratio(results[job].get(way), results.get(job.on(count), {}).get(way)) for job in alone
        ]
        for way, count in [*((OURS, count) for count in counts), (PLAIN, counts[-1])]
    }
    return charts.dots([job.case for job in alone], series, label, LIGHT)


def markdown(records: Sequence[Record], pictures: Mapping[str, str]) -> str:
    """Return the tables after links to the pictures: by name, where each lies."""
    parts = [machine(records[-1]), _markdown(summary(records))]
    parts += ["## Slower than plain torch", _markdown(losses(records)), "## Pictures"]
    parts += [f"![{name}]({place})" for name, place in pictures.items()]
    for title, table in {"Targets": targets(records), **tables(records)}.items():
        parts += [f"## {title}", _markdown(table)]
    return "\n\n".join(parts) + "\n"


def machine(record: Record) -> str:
    """Return where and with what a record was measured."""
    facts = record.environment
    served = f"{record.level} kernels" if record.level else "no kernels"
    return (
        f"{facts['processor']} ({facts['processors']} processors), {facts['system']}, Python "
        f"{facts['python']}, torch {facts['torch']}, straightthrough {facts['straightthrough']}, "
        f"{served}, {record.dtype}."
    )


def _markdown(table: Table) -> str:
    return f"{table_of(table.columns, table.rows)}\n\n{table.note}"


def write(records: Sequence[Record], output: Path) -> list[Path]:
    """Write a Markdown page and its pictures beside the JSON lines `output`."""
    drawn = pictures(records)
    files = {name: output.with_name(f"{output.stem}-{name}.png") for name in drawn}
    for name, png in drawn.items():
        files[name].write_bytes(png)
    page = output.with_suffix(".md")
    places = {name: file.name for name, file in files.items()}
    page.write_text(markdown(records, places), encoding="utf-8")
    return [page, *files.values()]
