"""What the page says of gradients: every estimator on every model, and training without bias."""

from __future__ import annotations

from collections import Counter
from functools import partial
from statistics import correlation
from typing import Any

from ...report import charts
from ...report.page import Page, Table
from ...report.runs import Groups, average, deviation, ends, grouped, spread

MISSING = "–"
FEWEST = 4
"""Estimators from which on a rank correlation says something."""

Errors = dict[str, float | None]
"""By estimator."""

NOTE = (
    "Each row is one model, and every estimator's gradient to the logits of the same {audited} "
    "test images is held against the exact one there, the codes enumerated: relative squared bias "
    "is the sum of the squared biases over that of the squared exact gradients. Compare within a "
    "row only. Each estimator trains a model of its own, and from one model to the next the error "
    "of all of them changes. Bias does not average out: it is in every step, whatever is drawn."
)
VARIANCE_NOTE = (
    "The variance of one draw over the squared exact gradient, on the same models. Unlike bias it "
    "averages out, over the images of a batch and over steps."
)
CORRELATION_NOTE = (
    " Rank correlation: Spearman's, over the estimators, of their bias on this model with the test "
    "-ELBO that each of them reaches in its own training."
)
WITHOUT_NOTE = (
    "Test -ELBO in nats, of the same seeds. Without bias: trained from the same weights with the "
    "exact gradient to the logits, plus (a - b) / sqrt(2), a and b the estimator's gradients of "
    "two draws: its mean is exact, and its covariance that of one draw."
)


def tables(result: dict[str, Any]) -> list[Table]:
    """Return the errors of every estimator on every model, then what its bias costs."""
    found = []
    biases, variances = measured(result, "bias"), measured(result, "variance")
    if biases:
        found += [_errors(result, biases), _variances(result, variances)]
    if any(run["without_bias"] and run["points"] for run in result["runs"]):
        found.append(_without(result))
    return found


def measured(result: dict[str, Any], kind: str) -> dict[str, Errors]:
    """Return by model, the untrained first, the errors of each estimator, averaged over seeds."""
    runs = [run for run in result["runs"] if run["points"]]
    models: dict[str, list[dict[str, Any]]] = {"Untrained": [run["points"][0] for run in runs]}
    for run in runs:
        if run["points"][-1]["epoch"]:
            models.setdefault(model_of(run), []).append(run["points"][-1])
    names = result["settings"]["estimators"]
    return {
        model: {
            name: average([p["errors"][name][kind] for p in points if p["errors"]])
            for name in names
        }
        for model, points in models.items()
        if any(point["errors"] for point in points)
    }


def model_of(run: dict[str, Any]) -> str:
    """Return the name of the model that a run trains."""
    return f"{run['rule']}, without bias" if run["without_bias"] else str(run["rule"])


def _errors(result: dict[str, Any], biases: dict[str, Errors]) -> Table:
    names, reached = result["settings"]["estimators"], _reached(result)
    columns, note = (
        ["Model trained by", *map(_words, names)],
        f"{NOTE.format(audited=result['audited'])} {order(biases)}",
    )
    table = [[model, *(_number(row[name]) for name in names)] for model, row in biases.items()]
    if len(reached) >= FEWEST:
        columns.append("Rank correlation")
        note += CORRELATION_NOTE
        for row, errors in zip(table, biases.values(), strict=True):
            row.append(_rank_correlation(errors, reached))
    return Table(columns, table, note.strip())


def _variances(result: dict[str, Any], variances: dict[str, Errors]) -> Table:
    names = result["settings"]["estimators"]
    table = [[model, *(_number(row[name]) for name in names)] for model, row in variances.items()]
    return Table(["Model trained by", *map(_words, names)], table, VARIANCE_NOTE)


def order(biases: dict[str, Errors]) -> str:
    """Say in how many models the estimators have the same order."""
    orders = Counter(
        tuple(sorted(row, key=lambda name: row[name] or 0.0))
        for row in biases.values()
        if len(row) > 1 and None not in row.values()
    )
    if not orders:
        return ""
    ((first, count),) = orders.most_common(1)
    where = f"all {count}" if count == len(biases) else f"{count} of {len(biases)}"
    return f"On {where} models the order is {', '.join(map(_words, first))}, from the least up."


def _reached(result: dict[str, Any]) -> dict[str, float]:
    """Return the test -ELBO that each estimator reached as it is."""
    runs = [run for run in result["runs"] if not run["without_bias"]]
    groups = grouped({"runs": runs}, "estimator")
    found = {name: average([p["test"] for p in ends(group)]) for name, group in groups.items()}
    return {name: value for name, value in found.items() if value is not None}


def _rank_correlation(errors: Errors, reached: dict[str, float]) -> str:
    pairs = [(errors[name], value) for name, value in reached.items() if errors.get(name)]
    if len(pairs) < FEWEST:
        return MISSING
    ranks = [
        [float(sorted(values).index(value)) for value in values]
        for values in zip(*pairs, strict=True)
    ]
    return f"{correlation(*ranks):.2f}"


def _without(result: dict[str, Any]) -> Table:
    table: list[list[str]] = []
    means: list[list[float]] = []
    groups: Groups = {}
    for rule, runs in grouped(result, "rule").items():
        without = [run for run in runs if run["without_bias"]]
        seeds = [run["seed"] for run in without]
        plain = [run for run in runs if not run["without_bias"] and run["seed"] in seeds]
        if not (without and plain):
            continue
        groups[rule] = without
        points = [ends(plain), ends(without)]
        elbos, entropies = (
            [spread([point[field] for point in way], 2) for way in points]
            for field in ("test", "entropy")
        )
        known = [mean for way in points if (mean := average([p["test"] for p in way])) is not None]
        difference = MISSING
        if len(known) == len(points):
            means.append(known)
            difference = f"{known[1] - known[0]:+.2f}"
        table.append([rule, str(len(points[1])), *elbos, difference, *entropies])
    columns = (
        "Estimator",
        "Runs",
        "As it is",
        "Without bias",
        "Difference",
        "Entropy as it is",
        "Entropy without bias",
    )
    return Table(columns, table, f"{WITHOUT_NOTE}{_ranges(means)}{deviation(groups)}")


def _ranges(means: list[list[float]]) -> str:
    """Say how far the estimators are from each other, with their bias and without."""
    if len(means) < 2:
        return ""
    apart, together = (max(way) - min(way) for way in zip(*means, strict=True))
    return (
        f" From the best to the worst of these estimators it is {apart:.2f} nats as they are, and "
        f"{together:.2f} without bias."
    )


def sections(page: Page, result: dict[str, Any]) -> None:
    """Add the tables, and the picture of the first of them."""
    biases = measured(result, "bias")
    found = tables(result)
    if biases:
        page.heading("Which estimator has the least bias?")
        page.table(found.pop(0))
        series = {
            _words(name): [row[name] for row in biases.values()]
            for name in result["settings"]["estimators"]
        }
        page.chart(
            partial(charts.dots, list(biases), series, "relative squared bias"),
            "Relative squared bias, one row a model and one marker an estimator",
        )
        page.heading("And the least variance?")
        page.table(found.pop(0))
    if found:
        page.heading("What does the bias cost?")
        page.table(found.pop(0))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3g}"
