"""The page of the categorical VAE."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ...report import charts
from ...report.page import Page, Table
from ...report.runs import Groups, average, ends, grouped, lines, rows

NAMES = {
    "train": "Train -ELBO",
    "test": "Test -ELBO",
    "cosine": "Cosine",
    "mean_cosine": "Of the mean",
    "seconds": "Seconds",
}
DIGITS = {"train": 2, "test": 2, "cosine": 3, "mean_cosine": 4, "seconds": 1}
DRAWN = ("train", "test", "seconds")
"""What is measured where outcomes can't be enumerated."""

ELBO = (
    "-ELBO in nats an image, lower is better, of the test images and of the first 10,000 training "
    "images; "
)
COSINES = (
    "Cosine: of the gradient that one draw an image gives to the exact one, both to the logits of "
    "eight test images, averaged over 64 draws; 1 is perfect. Of the mean: the same for the "
    "expectation of the estimate, which only bias turns away. "
)
REST = (
    "Seconds of training alone. All at the last checkpoint; ± is the standard deviation over seeds."
)


def tables(result: dict[str, Any]) -> list[Table]:
    """Return what the terminal shows too."""
    groups = grouped(result, "rule")
    measured = _measured(result, groups)
    return [_published(result, groups), measured] if result["source"] else [measured]


def _measured(result: dict[str, Any], groups: Groups) -> Table:
    if result["exact"]:
        outcomes = result["categories"] ** result["latents"]
        note = (
            f"{ELBO}the expectation over the code is exact, a sum over all {outcomes} outcomes. "
            f"{COSINES}{REST}"
        )
        fields = DIGITS
    else:
        note = f"{ELBO}with one draw an image. {REST}"
        fields = {name: DIGITS[name] for name in DRAWN}
    columns = ("Estimator", "Seeds", "Epochs", *(NAMES[name] for name in fields))
    return Table(columns, rows(groups, fields), note)


def _published(result: dict[str, Any], groups: Groups) -> Table:
    table = []
    for row, runs in zip(rows(groups, {"sampled": 2}), groups.values(), strict=True):
        published = runs[0]["published"]
        ours = average([point["sampled"] for point in ends(runs)])
        known = published is not None and ours is not None
        difference = f"{ours - published:+.2f}" if known else "–"
        table.append([*row, "–" if published is None else f"{published:.2f}", difference])
    columns = ("Estimator", "Seeds", "Epochs", "Last epoch", "Published", "Difference")
    return Table(
        columns,
        table,
        "Last epoch: train -ELBO as papers report it, its mean over the last epoch, with one draw "
        f"an image, while the weights move. Published: {result['source']}.",
    )


def layout(result: dict[str, Any]) -> Page:
    """Return the page."""
    settings, groups = result["settings"], grouped(result, "rule")
    page = Page(f"Categorical VAE on {settings['data']}", _lead(result, groups), result)
    page.heading("Results")
    for table in tables(result):
        page.table(table)
    if groups:
        _training(page, groups)
        if result["exact"]:
            _gradient(page, groups)
        if result["originals"]:
            _images(page, groups, result["originals"])
    return page.close(settings)


def _lead(result: dict[str, Any], groups: Groups) -> str:
    text = (
        f"{result['latents']} latents of {result['categories']} categories each, "
        f"{result['parameters']:,} parameters."
    )
    last = {rule: runs[0]["points"][-1]["test"] for rule, runs in groups.items()}
    known = {rule: value for rule, value in last.items() if value is not None}
    if known:
        best = min(known, key=lambda rule: known[rule])
        text += f" Best on the test images of the first seed: {best}, {known[best]:.2f} nats."
    return text


def _training(page: Page, groups: Groups) -> None:
    page.heading("Training")
    # The untrained model, checkpoint 0, is far above the others.
    elbo = [
        *lines(groups, "test", suffix="test", first=1),
        *lines(groups, "train", suffix="train", dashed=True, first=1),
    ]
    page.chart(
        partial(charts.lines, elbo, "epoch", "-ELBO (nats an image)"),
        "Negative ELBO over epochs, one line an estimator, for train and test",
    )


def _gradient(page: Page, groups: Groups) -> None:
    page.heading(
        "How good is the gradient?",
        "Cosine to the exact gradient, each on the model that the estimator has trained by then: "
        "of one draw, which noise and bias turn away, and of the mean, which only bias does.",
    )
    cosine = [
        *lines(groups, "cosine", suffix="one draw"),
        *lines(groups, "mean_cosine", suffix="mean", dashed=True),
    ]
    page.chart(
        partial(charts.lines, cosine, "epoch", "cosine to the exact gradient"),
        "Cosine to the exact gradient over epochs, one line an estimator, for one draw and mean",
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
