"""Runs of a study, gathered over their seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def identity(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells a run from others of its study: its words and numbers."""
    return {key: value for key, value in run.items() if isinstance(value, str | int | float)}


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
        furthest = max((run["points"] for run in runs), key=lambda points: points[-1]["epoch"])
        epochs = [point["epoch"] for point in furthest[first:]]
        reached = [{point["epoch"]: point[field] for point in run["points"]} for run in runs]
        values = [average([run[e] for run in reached if e in run]) for e in epochs]
        series.append(Line(f"{name} {suffix}".strip(), slot, epochs, values, dashed))
    return series


def deviation(groups: Groups) -> str:
    """Return what ± means, for a note, if any group has runs of several seeds."""
    several = any(len(ends(runs)) > 1 for runs in groups.values())
    return " ± is the standard deviation over seeds." if several else ""


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
