"""The page of the pixels that decide the class."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...report import charts
from ...report.page import Page, Table
from ...report.runs import Groups, average, deviation, ends, grouped, lines, rows
from .model import FIXED

FIELDS = {"accuracy": 1, "fidelity": 1, "together": 1, "seconds": 1}
COLUMNS = ("Method", "Runs", "Epochs", "Accuracy %", "Fidelity %", "Trained together %", "Seconds")
BACKGROUND = 0.3
"""How dark the mean image is at most, behind the pixels that are chosen."""


def tables(result: dict[str, Any]) -> list[Table]:
    """Return what the terminal shows too."""
    settings, groups = result["settings"], _ordered(result)
    whole = average([*{run["seed"]: run["whole"] for run in result["runs"]}.values()]) or 0.0
    note = (
        f"All of {result['images']['test']:,} test images. Accuracy: of a new network, fitted to "
        f"the {settings['k']} pixels that the method ends with, the same for every image. "
        f"Fidelity: how often it says what one says that is fitted to all pixels, whose accuracy "
        f"is {whole:.1f} %. Trained together: the accuracy of the network that "
        f"was there while the scores learned. Seconds of that training, with fixed pixels too. "
        f"The best first.{deviation(groups)}"
    )
    return [Table(COLUMNS, rows(groups, FIELDS), note)]


def layout(result: dict[str, Any]) -> Page:
    """Return the page."""
    settings, groups = result["settings"], _ordered(result)
    page = Page(
        f"Which {settings['k']} pixels decide the class, on {settings['data']}",
        f"{result['images']['description']} Every pixel has a score, and a network sees the "
        f"{settings['k']} pixels alone that are chosen by the scores, of each training image anew "
        "where the choice is drawn. Scores and network learn together, through one gradient; the "
        "pixels of the highest scores are the result.",
        result,
    )
    page.heading("Results")
    page.table(tables(result)[0])
    if groups:
        page.heading("Training")
        for title, fixed in (("scores that learn", False), ("fixed pixels", True)):
            if series := lines(_part(groups, fixed), "together", first=1):
                page.chart(
                    partial(charts.lines, series, "epoch", "accuracy (%)"),
                    f"Test accuracy of the network that is trained, one line a method: {title}",
                )
        page.heading(
            "The chosen pixels",
            "Black, over the mean of the training images; one picture a seed.",
        )
        page.pictures([(name, _chosen(runs, result["mean"])) for name, runs in groups.items()])
    return page.close(settings)


def _ordered(result: dict[str, Any]) -> Groups:
    """Return the runs by method, in words, the most accurate first."""
    groups = grouped(result, "method")
    best = {
        name: average([p["accuracy"] for p in ends(runs)]) or 0.0 for name, runs in groups.items()
    }
    order = sorted(groups, key=lambda name: -best[name])
    return {name.replace("_", " "): groups[name] for name in order}


def _part(groups: Groups, fixed: bool) -> Groups:
    """Return the methods whose pixels are fixed before any training, or the others."""
    return {name: runs for name, runs in groups.items() if (runs[0]["method"] in FIXED) is fixed}


def _chosen(runs: list[dict[str, Any]], background: dict[str, Any]) -> bytes:
    grey: NDArray[np.uint8] = charts.unpack(background)
    faint = (BACKGROUND * grey).astype(np.uint8)
    shown = []
    for run in runs:
        picture = faint[0].copy()
        picture.flat[run["chosen"]] = 255
        shown.append(picture)
    return charts.grid(np.stack(shown), len(shown))
