"""The page of the masked network."""

from __future__ import annotations

from functools import partial
from typing import Any

from ...report import charts
from ...report.charts import Bar
from ...report.page import Page, Table
from ...report.runs import Groups, deviation, grouped, lines, rows

COLUMNS = ("Network", "Runs", "Epochs", "Train error %", "Test error %", "Live %", "Seconds")
FIELDS = {"train_error": 2, "test_error": 2, "live": 1, "seconds": 1}
NOTE = (
    "Errors in percent of the images, with the gates that are open at inference. Live: weights "
    "whose gate is open then. Seconds of training alone. All at the last checkpoint."
)
COST_NOTE = (
    "Forward of one layer of 1024 x 1024 weights on a batch of 256, one of each kind a round, "
    "medians over the rounds. Share: 1 - (time without a mask) / (time with it)."
)


def tables(result: dict[str, Any]) -> list[Table]:
    """Return what the terminal shows too."""
    costs = [
        [cost["name"], f"{cost['milliseconds']:.2f}", f"{cost['share']:.0f}"]
        for cost in result["costs"]
    ]
    groups = grouped(result, "network")
    return [
        Table(COLUMNS, rows(groups, FIELDS), NOTE + deviation(groups)),
        Table(("Mask", "Forward ms", "Mask's share %"), costs, COST_NOTE),
    ]


def layout(result: dict[str, Any]) -> Page:
    """Return the page."""
    settings, groups = result["settings"], grouped(result, "network")
    page = Page(
        f"Masked network on {settings['data']}",
        f"{result['images']['description']} Every weight is multiplied by a hard concrete gate "
        "that is 0 or 1, and an open gate costs something; the dense network is the same without "
        "gates.",
        result,
    )
    networks, costs = tables(result)
    page.heading("Results")
    page.table(networks)
    if groups:
        _training(page, groups)
    page.heading("What the mask costs")
    page.table(costs)
    bars = [
        Bar(c["name"], c["milliseconds"], f"{c['milliseconds']:.1f} ms") for c in result["costs"]
    ]
    if bars:
        page.chart(partial(charts.bars, bars, "forward (ms)"), "Time of a forward under each mask")
    return page.close(settings)


def _training(page: Page, groups: Groups) -> None:
    page.heading("Training")
    error = [
        *lines(groups, "test_error", suffix="test", first=1),
        *lines(groups, "train_error", suffix="train", dashed=True, first=1),
    ]
    page.chart(
        partial(charts.lines, error, "epoch", "error (%)"),
        "Error over epochs, one line a network, for train and test",
    )
    page.chart(
        partial(charts.lines, lines(groups, "live"), "epoch", "live weights (%)"),
        "Share of live weights over epochs, one line a network",
    )
    page.heading(
        "Which pixels are looked at",
        "The share of each pixel's weights in the masked network's first layer that are live: "
        "black all, white none.",
    )
    masked = [run for run in groups.get("masked", []) if run["inputs"]]
    page.pictures(
        [(f"seed {run['seed']}", charts.grid(charts.unpack(run["inputs"]), 1)) for run in masked]
    )
