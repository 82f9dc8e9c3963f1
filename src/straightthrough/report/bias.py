"""The page of bias and variance on random quadratics."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from . import charts
from .charts import Line
from .page import Page, Table

PUBLISHED_COLUMNS = (
    "4 classes, seed 0",
    "Bias²",
    "Published",
    "Their way",
    "Variance",
    "Published",
    "Their way",
)
PUBLISHED_NOTE = (
    "Of a rule that draws noise, from {draws:,} vectors of Gumbels an outcome, the noise of the "
    "mean taken off the squared bias, ± one standard error; of the others exact. Their "
    "way: 1000 estimates an outcome, whose mean is taken for the rule's, so that its noise stays "
    "in the squared bias and in the norm that both are scaled by; median of {repetitions} "
    "repetitions, and in parentheses from 5 % to 95 % of them. The published temperature of the "
    "two Gumbel rules is about 0.1."
)
NOTE = (
    "Bias² / variance of the gradient to the logits, the mean estimate scaled to the exact "
    "gradient's norm first: what is left is the error of the direction. Each seed is another "
    "quadratic. Outcomes are enumerated; a squared bias with an error may fall below 0. A "
    "rule that draws at another temperature is held against the gradient under that law."
)
MISSING = "–"


def tables(result: dict[str, Any]) -> list[Table]:
    """Return what the terminal shows too."""
    note = PUBLISHED_NOTE.format(**result["settings"])
    known = [point for point in result["points"] if point["published"]]
    published = Table(PUBLISHED_COLUMNS, [_published(point) for point in known], note)
    sizes = result["settings"]["sizes"]
    return [published, *(_of_size(result, size, NOTE * (size == sizes[-1])) for size in sizes)]


def _published(point: dict[str, Any]) -> list[str]:
    bias_squared, variance = map(_number, point["published"])
    spread = point["procedure"] or {}
    return [
        point["rule"],
        _bias(point),
        bias_squared,
        _spread(spread.get("bias_squared")),
        _number(point["variance"]),
        variance,
        _spread(spread.get("variance")),
    ]


def _of_size(result: dict[str, Any], size: int, note: str) -> Table:
    rows = [row for row in result["rows"] if row["size"] == size]
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    cells = {
        (row["rule"], row["seed"]): f"{_bias(row)} / {_number(row['variance'])}" for row in rows
    }
    table = [
        [rule, *(cells.get((rule, seed), MISSING) for seed in seeds)]
        for rule in dict.fromkeys(row["rule"] for row in rows)
    ]
    return Table((f"{size} classes", *(f"Seed {seed}" for seed in seeds)), table, note)


def _bias(found: dict[str, Any]) -> str:
    """Return the squared bias, with its error where it has one, to as many digits."""
    if not found["error"]:
        return _number(found["bias_squared"])
    digits = max(0, 1 - math.floor(math.log10(found["error"])))
    rounded = round(found["bias_squared"], digits) + 0.0  # no minus before a zero
    return f"{rounded:.{digits}f} ± {found['error']:.{digits}f}"


def _number(value: float) -> str:
    return "0" if abs(value) < 1e-9 else f"{value:.4g}"


def _spread(quantiles: list[float] | None) -> str:
    if quantiles is None:
        return MISSING
    low, middle, high = (f"{value:.3g}" for value in quantiles)
    return f"{middle} ({low} to {high})"


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
