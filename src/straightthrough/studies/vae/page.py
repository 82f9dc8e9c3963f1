"""The page of the categorical VAE."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ...report import charts
from ...report.page import Page, Table
from ...report.runs import Groups, average, deviation, ends, grouped, lines, rows
from . import gradient_page

NAMES = {
    "train": "Train -ELBO",
    "test": "Test -ELBO",
    "entropy": "Entropy of the code",
    "seconds": "Seconds",
}
DIGITS = {"train": 2, "test": 2, "entropy": 2, "seconds": 1}


def tables(result: dict[str, Any]) -> list[Table]:
    """Return what the terminal shows too."""
    found = [_published(result)] if result["source"] else []
    return [*found, _measured(result), *gradient_page.tables(result)]


def as_it_is(result: dict[str, Any]) -> Groups:
    """Return the runs with the estimators as they are, by rule."""
    return grouped({"runs": [r for r in result["runs"] if not r["without_bias"]]}, "rule")


def _measured(result: dict[str, Any]) -> Table:
    groups = as_it_is(result)
    outcomes = result["categories"] ** result["latents"]
    how = f"exact, a sum over all {outcomes:,} codes" if result["exact"] else "of one draw an image"
    evaluated, train = result["evaluated"], result["images"]["train"]
    which = f"{evaluated:,} training images"
    if evaluated < train:
        which = f"the first {evaluated:,} of the {train:,} training images"
    known = any(point["entropy"] is not None for runs in groups.values() for point in ends(runs))
    fields = {name: DIGITS[name] for name in DIGITS if known or name != "entropy"}
    entropy = "The entropy of the code, in nats, is the mean over test images. " if known else ""
    note = (
        f"-ELBO in nats, lower is better: the mean over {which} and over "
        f"{result['images']['test']:,} test images, {how}. {entropy}{result['tuning']} Seconds of "
        f"training alone. All at the last checkpoint.{deviation(groups)}"
    )
    names = [NAMES[field] for field in fields]
    return Table(("Estimator", "Runs", "Epochs", *names), rows(groups, fields), note)


def _published(result: dict[str, Any]) -> Table:
    groups, table = as_it_is(result), []
    for row, runs in zip(rows(groups, {"sampled": 2}), groups.values(), strict=True):
        published = runs[0]["published"]
        ours = average([point["sampled"] for point in ends(runs)])
        known = published is not None and ours is not None
        difference = f"{ours - published:+.2f}" if known else "–"
        table.append([*row, "–" if published is None else f"{published:.2f}", difference])
    columns = ("Estimator", "Runs", "Epochs", "Last epoch", "Published", "Difference")
    return Table(
        columns,
        table,
        "Last epoch: train -ELBO as papers report it, its mean over the last epoch, with one draw "
        f"an image, while the weights move. Published: {result['source']}.{deviation(groups)}",
    )


def layout(result: dict[str, Any]) -> Page:
    """Return the page."""
    settings, groups = result["settings"], as_it_is(result)
    page = Page(f"Categorical VAE on {settings['data']}", _lead(result, groups), result)
    page.heading("Results")
    for table in (*([_published(result)] if result["source"] else []), _measured(result)):
        page.table(table)
    if groups:
        _training(page, groups)
        gradient_page.sections(page, result)
        if result["originals"]:
            _images(page, groups, result["originals"])
    return page.close(settings)


def _lead(result: dict[str, Any], groups: Groups) -> str:
    text = (
        f"{result['images']['description']} The code of an image is {result['latents']} variables "
        f"of {result['categories']} classes each; the model has {result['parameters']:,} weights."
    )
    last = {rule: average([point["test"] for point in ends(runs)]) for rule, runs in groups.items()}
    known = {rule: value for rule, value in last.items() if value is not None}
    if known:
        best = min(known, key=lambda rule: known[rule])
        text += f" Lowest on the test images: {best}, with a -ELBO of {known[best]:.2f}."
    return text


def _training(page: Page, groups: Groups) -> None:
    page.heading("Training", "The untrained model, far above the others, is left out.")
    elbo = [
        *lines(groups, "test", suffix="test", first=1),
        *lines(groups, "train", suffix="train", dashed=True, first=1),
    ]
    page.chart(
        partial(charts.lines, elbo, "epoch", "-ELBO (nats)"),
        "Negative ELBO over epochs, one line an estimator, for train and test",
    )


def _images(page: Page, groups: Groups, originals: dict[str, Any]) -> None:
    page.heading(
        "Reconstructions",
        "Test images, and under each what its likeliest code decodes to; of the first seed.",
    )
    shown = charts.unpack(originals)
    reconstructions = [
        (rule, np.concatenate([shown, charts.unpack(runs[0]["reconstructions"])]))
        for rule, runs in groups.items()
    ]
    page.pictures([(rule, charts.grid(both, len(shown))) for rule, both in reconstructions])
    page.heading("Samples", "Codes drawn from the uniform prior, decoded; of the first seed.")
    page.pictures(
        [(rule, charts.grid(charts.unpack(runs[0]["samples"]), 8)) for rule, runs in groups.items()]
    )
