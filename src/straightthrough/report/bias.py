"""The page of bias and variance on random quadratics."""

from __future__ import annotations

from functools import partial
from typing import Any

from . import charts
from .charts import Line
from .page import Page, Table

PUBLISHED_COLUMNS = (
    "4 classes, seed 0",
    "Bias² published",
    "Ours",
    "Their procedure",
    "Variance published",
    "Ours",
    "Their procedure",
)
PUBLISHED_NOTE = (
    "Ours: of a rule that draws noise, from {draws:,} vectors of Gumbels an outcome, the noise of "
    "the mean taken off the squared bias; of the others exact. Their procedure: 1000 estimates an "
    "outcome, whose mean is taken for the rule's, so that its noise stays in the squared bias and "
    "in the norm that both are scaled by; median of {repetitions} repetitions, and in parentheses "
    "from 5 % to 95 % of them. The published temperature of the two Gumbel rules is about 0.1."
)
NOTE = (
    "Bias² / variance of the gradient to the logits, the mean estimate scaled to the exact "
    "gradient's norm first: what is left is the error of the direction. Each seed is another "
    "quadratic. Outcomes are enumerated."
)
MISSING = "–"


def tables(result: dict[str, Any]) -> list[Table]:
    """Return what the terminal shows too."""
    note = PUBLISHED_NOTE.format(**result["settings"])
    known = [point for point in result["points"] if point["published"]]
    published = Table(PUBLISHED_COLUMNS, [_published(point) for point in known], note)
    return [published, *(_of_size(result, size) for size in result["settings"]["sizes"])]


def _published(point: dict[str, Any]) -> list[str]:
    spread = point["procedure"] or {}
    cells = []
    for i, name in enumerate(("bias_squared", "variance")):
        cells += [_number(point["published"][i]), _number(point[name])]
        low, middle, high = map(_number, spread.get(name, (None, None, None)))
        cells.append(f"{middle} ({low} – {high})" if spread else MISSING)
    return [point["rule"], *cells]


def _of_size(result: dict[str, Any], size: int) -> Table:
    rows = [row for row in result["rows"] if row["size"] == size]
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    cells = {
        (row["rule"], row["seed"]): f"{_number(row['bias_squared'])} / {_number(row['variance'])}"
        for row in rows
    }
    table = [
        [rule, *(cells.get((rule, seed), MISSING) for seed in seeds)]
        for rule in dict.fromkeys(row["rule"] for row in rows)
    ]
    return Table((f"{size} classes", *(f"Seed {seed}" for seed in seeds)), table, NOTE)


def _number(value: float | None) -> str:
    if value is None:
        return MISSING
    return "0" if abs(value) < 1e-9 else f"{value:#.4g}".rstrip(".")


def layout(result: dict[str, Any]) -> Page:
    """Return the page."""
    page = Page(
        "Bias and variance on random quadratics",
        "One categorical variable, the loss z^T A z + b^T z at its one-hot z: how far the mean of "
        "each estimator is from the exact gradient, and how much it varies.",
        result,
    )
    published, *sizes = tables(result)
    page.heading("Beside what was published")
    page.table(published)
    if result["points"]:
        _curves(page, result["points"])
    page.heading("All rules")
    for table in sizes:
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
    for i, (field, label, log) in enumerate(
        (("bias_squared", "squared bias", "x"), ("variance", "variance", "xy"))
    ):
        page.chart(
            partial(charts.lines, _over_tau(noisy, field, i), "tau", label, log=log),
            f"The {label} of the Gumbel rules over the temperature, and what was published",
        )


def _frontier(families: dict[str, list[dict[str, Any]]]) -> list[Line]:
    series = []
    for slot, (family, points) in enumerate(families.items()):
        path = ([p["variance"] for p in points], [p["bias_squared"] for p in points])
        series.append(Line(family, slot, *path))
        marks = [p["published"] for p in points if p["published"]]
        series += [Line("", slot, [variance], [bias]) for bias, variance in marks]
    return series


def _over_tau(families: dict[str, list[dict[str, Any]]], field: str, place: int) -> list[Line]:
    series = []
    for slot, (family, points) in enumerate(families.items()):
        spreads = [point["procedure"][field] for point in points]
        band = ([low for low, _, _ in spreads], [high for _, _, high in spreads])
        taus = [point["tau"] for point in points]
        series.append(Line(family, slot, taus, [p[field] for p in points], band=band))
        series += [
            Line(f"{family}, published", slot, [p["tau"]], [p["published"][place]])
            for p in points
            if p["published"]
        ]
    return series
