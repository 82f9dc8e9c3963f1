"""The page of an audit of the user's own loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ...report import charts
from ...report.charts import Interval, Line
from ...report.page import Page, Table

COLUMNS = ("Estimator", "Bias²", "Variance", "Cosine", "MSE", "95%", "µs")
SHOWN = 5
"""Lines of the chart over temperatures; more could not be told apart."""

HOTTEST = 10
"""Where that chart ends; the weight that is `MVE`'s temperature is a million."""

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
    scaled = (
        " Each mean estimate is first scaled to the gradient's norm: what counts is its direction."
        if advice["rescale"]
        else ""
    )
    sampled = (
        " Outcomes are drawn, so every number is an estimate, and a squared bias may fall below 0."
        if advice["method"] == "sampled"
        else ""
    )
    return (
        f"MSE: the mean squared error of a gradient averaged over {advice['batch']} draws, squared "
        f"bias + variance / {advice['batch']}; 95%: its confidence interval. Cosine: of the mean "
        f"estimate and the true gradient; those that point away come last.{scaled}{sampled} µs: "
        f"microseconds of the rule's own backward, at a batch of {advice['batch']}."
    )


def _best(rows: Rows) -> Rows:
    """Return the first row of each rule; they come in the order of their errors."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(row["name"], row)
    return list(found.values())


def _cells(rows: Rows) -> list[list[str]]:
    return [
        [
            row["rule"],
            f"{row['bias_squared']:.4g}",
            f"{row['variance']:.4g}",
            "–" if row["cosine"] is None else f"{row['cosine']:.4f}",
            f"{row['mse']:.4g}",
            _limits(*row["interval"]),
            f"{1e6 * row['seconds']:.0f}",
        ]
        for row in rows
    ]


def _limits(low: float, high: float) -> str:
    return "exact" if low == high else f"{low:.3g} to {high:.3g}"


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
    """Draw what has a place on a logarithmic axis."""
    rows = [row for row in advice["rows"] if row["mse"] > 0]
    if not rows:
        return
    error = f"mean squared error, batch {advice['batch']}"
    series = [Interval(row["rule"], row["mse"], *row["interval"]) for row in _best(rows)]
    page.chart(
        partial(charts.intervals, series, error),
        "The error of each rule at its best temperature, with its confidence interval",
    )
    curves = [curve for curve in map(partial(_curve, rows), _names(rows)) if len(curve) > 1]
    if not curves:
        return
    shown = curves[:SHOWN]
    lines = [
        Line(curve[0]["name"], slot, [row["tau"] for row in curve], [row["mse"] for row in curve])
        for slot, curve in enumerate(shown)
    ]
    best = f"the best {len(shown)} of {len(curves)} rules" if len(curves) > SHOWN else "all rules"
    page.heading("What the temperature does", f"Of {best} that were tried at several.")
    page.chart(
        partial(charts.lines, lines, "temperature", error, log="xy"),
        "The error over the temperature, one line a rule",
    )


def _names(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["name"] for row in rows))


def _curve(rows: Rows, name: str) -> Rows:
    """Return the rows of a rule by temperature."""
    own = [row for row in rows if row["name"] == name and (row["tau"] or HOTTEST) < HOTTEST]
    return sorted(own, key=lambda row: row["tau"])
