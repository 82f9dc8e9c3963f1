"""The page of polynomial programming."""

from __future__ import annotations

from functools import partial
from typing import Any

from ...report import charts
from ...report.page import Page, Table
from ...report.runs import Groups, average, deviation, ends, grouped, lines, spread

COLUMNS = ("Runs", "Published", "Last epoch", "Off %", "Expected", "Seconds")
NOTE = (
    "Published: the mean loss of the last epoch, of one seed. Last epoch: ours, over its 200 "
    "steps. Off: by how much ours is above the published; its ± is half the published number's "
    "last digit. Expected: the exact mean of the loss, under the law that the estimator draws "
    "from, after the last step. Seconds of training, one power's share of what all take side by "
    "side. Both are means over runs."
)
MISSING = "–"
ROUNDING = 0.00005
"""Half the last digit of what was published."""


def tables(result: dict[str, Any]) -> list[Table]:
    """Return what the terminal shows too, a table a power; the last says how they were measured."""
    found = []
    for optimum in result["optima"]:
        columns = (f"Loss |z - 0.45|^{optimum['power']:g}", *COLUMNS)
        groups, epochs = _of_power(result, optimum["power"]), result["settings"]["epochs"]
        table = _rows(groups, optimum["published"], epochs)
        note = f"Least possible: {optimum['loss']:.5f}, that of draws which are certain."
        last = optimum is result["optima"][-1]
        found.append(Table(columns, table, f"{note} {NOTE}{deviation(groups)}" if last else note))
    return found


def _of_power(result: dict[str, Any], power: float) -> Groups:
    runs = [run for run in result["runs"] if run["power"] == power]
    return grouped({"runs": runs}, "rule")


def _rows(groups: Groups, published: dict[str, float], epochs: int) -> list[list[str]]:
    table = []
    for rule, runs in groups.items():
        last, known = ends(runs), published.get(runs[0]["estimator"])
        reached = last[0]["epoch"]
        loss, expected, seconds = (
            average([point[field] for point in last]) for field in ("loss", "expected", "seconds")
        )
        off = MISSING
        if known and loss and reached == epochs:
            off = f"{100 * (loss / known - 1):+.1f} ± {100 * ROUNDING / known:.1f}"
        table.append(
            [
                rule if reached == epochs else f"{rule}, epoch {reached}",
                str(len(last)),
                f"{known:.4f}" if known else MISSING,
                spread([point["loss"] for point in last], 5),
                off,
                spread([expected], 5),
                spread([seconds], 1),
            ]
        )
    return table


def layout(result: dict[str, Any]) -> Page:
    """Return the page."""
    page = Page(
        "Polynomial programming",
        "128 variables of four classes, each class a number z in [0, 1]; the mean of |z - 0.45|^p "
        "over a batch of 8 draws is minimised by Adam, with the gradient of one estimator or, for "
        "comparison, the exact gradient of the expected loss.",
        result,
    )
    for optimum, table in zip(result["optima"], tables(result), strict=True):
        page.heading(f"p = {optimum['power']:g}")
        page.table(table)
        _curves(page, _of_power(result, optimum["power"]), optimum["published"])
    return page.close(result["settings"])


def _curves(page: Page, groups: Groups, published: dict[str, float]) -> None:
    names = {rule: runs[0]["estimator"] for rule, runs in groups.items()}
    for title, kind in (("published", True), ("others", False)):
        wanted = [rule for rule, name in names.items() if (name in published) is kind]
        if not [rule for rule in wanted if names[rule] != "exact"]:
            continue
        shown = {r: groups[r] for r in groups if names[r] == "exact" or r in wanted}
        series = lines(shown, "loss", first=1)
        page.chart(
            partial(charts.lines, series, "epoch", "mean loss of an epoch", log="y"),
            f"Mean loss over epochs, one line an estimator: {title}",
        )
