"""Runs of a study, gathered over their seeds."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from .charts import Line

Groups = dict[str, list[dict[str, Any]]]


def grouped(result: dict[str, Any], key: str) -> Groups:
    """Return the runs that reached a checkpoint, by their field `key`, in the order they ran."""
    groups: Groups = {}
    for run in result["runs"]:
        if run["points"]:
            groups.setdefault(run[key], []).append(run)
    return groups


def rows(groups: Groups, fields: dict[str, int]) -> list[list[str]]:
    """Return a row a group: its name, seeds and epochs, then `fields` with as many digits.

    Only the runs that got furthest count, so an interrupted one is not averaged with whole ones.
    """
    table = []
    for name, runs in groups.items():
        last = ends(runs)
        cells = [spread([p[field] for p in last], digits) for field, digits in fields.items()]
        table.append([name, str(len(last)), str(last[0]["epoch"]), *cells])
    return table


def ends(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the last checkpoints of the runs that got furthest."""
    last = [run["points"][-1] for run in runs]
    furthest = max(point["epoch"] for point in last)
    return [point for point in last if point["epoch"] == furthest]


def lines(
    groups: Groups, field: str, *, suffix: str = "", dashed: bool = False, first: int = 0
) -> list[Line]:
    """Return one line a group from its `first` checkpoint on.

    Its points are means over the seeds that got as far.
    """
    series = []
    for slot, (name, runs) in enumerate(groups.items()):
        longest = max((run["points"] for run in runs), key=len)[first:]
        epochs = [point["epoch"] for point in longest]
        reached = [
            [run["points"][i][field] for run in runs if len(run["points"]) > i]
            for i in range(first, first + len(epochs))
        ]
        values = [average(numbers) for numbers in reached]
        series.append(Line(f"{name} {suffix}".strip(), slot, epochs, values, dashed))
    return series


def average(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are finite; None is what JSON has for the others."""
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def spread(values: Sequence[float | None], digits: int) -> str:
    """Return the mean of several runs, and their standard deviation where there are two."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    deviation = f" ± {stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{mean(known):.{digits}f}{deviation}"
