"""The page of bias and variance on random quadratics."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

from ...report import charts
from ...report.charts import Line
from ...report.page import Page, Table

MOMENTS = {"bias_squared": "Squared bias", "variance": "Variance"}
PUBLISHED_COLUMNS = ("Published", "Ours", "Their way, median", "5 % to 95 %")
PUBLISHED_NOTE = (
    "Of a rule that draws noise, from {draws:,} vectors of Gumbels an outcome, the noise of the "
    "mean taken off the squared bias, ± one standard error, told by eight smaller runs; of the "
    "others exact. Their way: 1000 estimates an outcome, whose mean is taken for the rule's, so "
    "that its noise stays in the squared bias and in the norm that both are scaled by; quantiles "
    "of {repetitions} repetitions. The published temperature of the two Gumbel rules is about 0.1."
)
NOTE = (
    "Bias² / variance of the gradient to the logits, the mean estimate scaled to the exact "
    "gradient's norm first: what is left is the error of the direction. Each seed is another "
    "quadratic. Outcomes are enumerated; a squared bias with an error may fall below 0. A "
    "rule that draws at another temperature is held against the gradient under that law."
)
MISSING = "–"


def tables(result: dict[str, Any]) -> list[Table]:
    """Return what the terminal shows too: both moments beside the published, then each size."""
    return [*_beside(result), *_sizes(result)]


def _beside(result: dict[str, Any]) -> list[Table]:
    known = [point for point in result["points"] if point["published"]]
    found = []
    for place, (field, title) in enumerate(MOMENTS.items()):
        rows = [[point["rule"], *_published(point, field, place)] for point in known]
        found.append(Table((f"{title}, 4 classes, seed 0", *PUBLISHED_COLUMNS), rows, ""))
    found[-1] = replace(found[-1], note=PUBLISHED_NOTE.format(**result["settings"]))
    return found


def _published(point: dict[str, Any], field: str, place: int) -> list[str]:
    ours = _bias(point, 2) if field == "bias_squared" else _number(point[field])
    spread = [MISSING, MISSING]
    if point["procedure"]:
        low, middle, high = (f"{value:.3g}" for value in point["procedure"][field])
        spread = [middle, f"{low} to {high}"]
    return [_number(point["published"][place]), ours, *spread]


def _sizes(result: dict[str, Any]) -> list[Table]:
    sizes = result["settings"]["sizes"]
    return [_of_size(result, size, NOTE if size == sizes[-1] else "") for size in sizes]


def _of_size(result: dict[str, Any], size: int, note: str) -> Table:
    rows = [row for row in result["rows"] if row["size"] == size]
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    cells = {
        (row["rule"], row["seed"]): f"{_bias(row, 1)} / {_number(row['variance'])}" for row in rows
    }
    table = [
        [rule, *(cells.get((rule, seed), MISSING) for seed in seeds)]
        for rule in dict.fromkeys(row["rule"] for row in rows)
    ]
    return Table(
        (f"Bias² / variance, {size} classes", *(f"Seed {seed}" for seed in seeds)), table, note
    )


def _bias(found: dict[str, Any], digits: int) -> str:
    """Return the squared bias, with its error to so many digits where it has one."""
    value, error = found["bias_squared"], found["error"]
    if not error:
        return _number(value)
    places = max(0, digits - 1 - math.floor(math.log10(error)))
    return f"{round(value, places) + 0.0:.{places}f} ± {error:.{places}f}"  # no minus before 0


def _number(value: float) -> str:
    return "0" if abs(value) < 1e-9 else f"{value:.4g}"


def layout(result: dict[str, Any]) -> Page:
    """Return the page."""
    page = Page(
        "Bias and variance on random quadratics",
        "One categorical variable, the loss z^T A z + b^T z at its one-hot z: how far the mean of "
        "each estimator is from the exact gradient, and how much it varies.",
        result,
    )
    page.heading("Beside what was published")
    for table in _beside(result):
        page.table(table)
    if result["points"]:
        _curves(page, result["points"])
    for size, table in zip(result["settings"]["sizes"], _sizes(result), strict=True):
        page.heading(f"All rules, {size} classes")
        page.table(table)
    return page.close(result["settings"])


def _curves(page: Page, points: list[dict[str, Any]]) -> None:
    page.heading(
        "Over temperatures",
        "Four classes, seed 0. Each line is a family of rules over its temperatures, the large "
        "markers are what was published, and the shaded bands are from 5 % to 95 % of what the "
        "published procedure finds when it is repeated.",
    )
    families: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        families.setdefault(point["family"], []).append(point)
    page.chart(
        partial(charts.lines, _frontier(families), "variance", "squared bias", log="x"),
        "Squared bias against variance, one line a family of rules over its temperatures",
    )
    noisy = {name: found for name, found in families.items() if found[0]["procedure"]}
    for place, (field, title) in enumerate(MOMENTS.items()):
        series, log = _over_tau(noisy, field, place), "x" if field == "bias_squared" else "xy"
        page.chart(
            partial(charts.lines, series, "tau", title.lower(), log=log),
            f"{title} of the Gumbel rules over the temperature, and what was published",
        )


def _frontier(families: dict[str, list[dict[str, Any]]]) -> list[Line]:
    series = []
    for slot, (family, points) in enumerate(families.items()):
        path = ([p["variance"] for p in points], [p["bias_squared"] for p in points])
        series.append(Line(family, slot, *path))
        marks = [p["published"] for p in points if p["published"]]
        series += [Line("", slot, [variance], [bias], dashed=True) for bias, variance in marks]
    return series


def _over_tau(families: dict[str, list[dict[str, Any]]], field: str, place: int) -> list[Line]:
    series = []
    for slot, (family, points) in enumerate(families.items()):
        spreads = [point["procedure"][field] for point in points]
        band = ([low for low, _, _ in spreads], [high for _, _, high in spreads])
        taus = [point["tau"] for point in points]
        series.append(Line(family, slot, taus, [p[field] for p in points], band=band))
        series += [
            Line(f"{family}, published", slot, [p["tau"]], [p["published"][place]], dashed=True)
            for p in points
            if p["published"]
        ]
    return series
