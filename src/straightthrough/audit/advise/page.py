"""The page of an audit of the user's own loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ...report import charts
from ...report.charts import Interval, Line
from ...report.page import Page, Table
from .plot import FLOOR, HOTTEST
from .result import limits

COLUMNS = ("Estimator", "Bias²/|g|²", "95%", "Cosine", "Error/|g|²", "µs")
SHOWN = 5
"""Lines of the chart over temperatures; more could not be told apart."""

Rows = Sequence[dict[str, Any]]


def tables(result: dict[str, Any]) -> list[Table]:
    """Return what the terminal shows too: each rule at its best temperature, and who is missing."""
    best = Table(COLUMNS, _cells(_best(result["advice"]["rows"])), _note(result["advice"]))
    skipped = _skipped(result["advice"]["skipped"])
    if not skipped:
        return [best]
    note = "A higher budget admits what was too dear."
    return [best, Table(("Left out", "Because it"), skipped, note)]


def layout(result: dict[str, Any]) -> Page:
    """Return the page."""
    advice = result["advice"]
    page = Page(f"Which estimator for {result['settings']['loss']}", advice["verdict"], result)
    best, *left_out = tables(result)
    page.heading("Each rule at its best temperature")
    page.table(best)
    _charts(page, advice)
    if len(advice["rows"]) > len(best.rows):
        page.heading("All candidates")
        page.table(Table(COLUMNS, _cells(advice["rows"]), "Columns as above."))
    for table in left_out:
        page.heading("Left out")
        page.table(table)
    found = {"outcomes": f"{advice['outcomes']:,}, {advice['method']}"}
    return page.close({**result["settings"], **found})


def _note(advice: dict[str, Any]) -> str:
    sampled = (
        " Outcomes are drawn, so every number is an estimate, and a squared bias may fall below 0."
        if advice["method"] == "sampled"
        else ""
    )
    return (
        f"{advice['criterion']} 95%: the confidence interval of the squared bias. Cosine: of the "
        f"mean estimate and the gradient.{sampled} µs: microseconds of the rule's own backward, at "
        f"a batch of {advice['batch']}, the least of several calls."
    )


def _best(rows: Rows) -> Rows:
    """Return the first row of each rule, the best one."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(row["name"], row)
    return list(found.values())


def _cells(rows: Rows) -> list[list[str]]:
    return [
        [
            row["rule"],
            _number(row["relative_squared_bias"], ".4f"),
            "–" if None in row["interval"] else limits(*row["interval"]),
            _number(row["cosine"], ".4f"),
            _number(row["relative_error"], ".4g"),
            f"{1e6 * row['seconds']:.0f}",
        ]
        for row in rows
    ]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _skipped(skipped: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return names and reasons; one row for a rule that is missing at several temperatures."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, reason in skipped:
        groups.setdefault((name.partition("(")[0], reason), []).append(name)
    return [
        [names[0] if len(names) == 1 else f"{name} at {len(names)} temperatures", reason]
        for (name, reason), names in groups.items()
    ]


def _charts(page: Page, advice: dict[str, Any]) -> None:
    """Draw the biases on a logarithmic axis, which ends at `FLOOR`."""
    rows = [row for row in advice["rows"] if row["relative_squared_bias"] is not None]
    if not rows:
        return
    bias = "squared bias / squared gradient"
    series = [Interval(row["rule"], *map(_place, _with_limits(row))) for row in _best(rows)]
    page.chart(
        partial(charts.intervals, series, bias),
        "The squared bias of each rule at its best temperature, with its confidence interval",
    )
    curves = [curve for curve in map(partial(_curve, rows), _names(rows)) if len(curve) > 1]
    if not curves:
        return
    shown = curves[:SHOWN]
    lines = [
        Line(
            curve[0]["name"],
            slot,
            [row["tau"] for row in curve],
            [_place(row["relative_squared_bias"]) for row in curve],
        )
        for slot, curve in enumerate(shown)
    ]
    best = f"the best {len(shown)} of {len(curves)} rules" if len(curves) > SHOWN else "all rules"
    note = f"Of {best} that were tried at several. Below {FLOOR:g} it is drawn there."
    page.heading("What the temperature does", note)
    page.chart(
        partial(charts.lines, lines, "temperature", bias, log="xy"),
        "The squared bias over the temperature, one line a rule",
    )


def _with_limits(row: dict[str, Any]) -> tuple[float, float, float]:
    return row["relative_squared_bias"], *row["interval"]


def _place(squared_bias: float) -> float:
    return max(squared_bias, FLOOR)


def _names(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["name"] for row in rows))


def _curve(rows: Rows, name: str) -> Rows:
    """Return the rows of a rule by temperature, but those of the limit of an infinite one."""
    own = [row for row in rows if row["name"] == name and (row["tau"] or HOTTEST) < HOTTEST]
    return sorted(own, key=lambda row: row["tau"])
